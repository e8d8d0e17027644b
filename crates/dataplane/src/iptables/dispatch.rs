//! From an interface's name to its chain, without a map.
//!
//! iptables has no maps, so the elements become rules `-i name -g chain`, and a long list a tree of chains by the
//! next characters of the name: a packet meets a handful of rules instead of all, and a change rewrites a handful of
//! rules instead of all.

use std::collections::BTreeMap;

use super::name;
use crate::{ifname::IfName, op::Target, ruleset::Interface};

/// So many interfaces are listed in one chain; more are told apart by their next character first.
const MOST: usize = 16;

/// One rule of the tree: its conditions, what follows, and a comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Branch {
    /// `-i name` or `-o name`.
    pub condition: String,
    /// The chain in which it goes on, by iptables' name.
    pub chain: String,
    /// For people.
    pub comment: Option<String>,
}

/// The chains of a map: its root first, by iptables' names.
pub(super) fn tree<'a>(
    map: &str,
    interface: Interface,
    targets: impl Iterator<Item = (&'a IfName, &'a Target)>,
) -> BTreeMap<String, Vec<Branch>> {
    let mut chains = BTreeMap::new();
    let mut entries: Vec<(&str, &Target)> = targets.map(|(key, target)| (key.as_str(), target)).collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    node(map, root(map), interface, &entries, 0, &mut chains);
    chains
}

/// The name of a map's root chain.
pub(super) fn root(map: &str) -> String {
    name::chain(&format!("map-{map}"))
}

/// A condition on an interface's name; `None` if iptables cannot express it.
///
/// A name that ends in `+` would be taken for a prefix. One more `+` makes it the prefix that it is, which only fails
/// to tell it from longer names that start with it, and there is no room for that after 15 characters.
pub(super) fn condition(interface: Interface, name: &str) -> Option<String> {
    match name.ends_with('+') {
        false => Some(format!("{} {}", option(interface), quoted(name))),
        true if name.len() < 15 => Some(prefix_condition(interface, name)),
        true => None,
    }
}

/// The condition that an interface's name starts with a prefix.
pub(super) fn prefix_condition(interface: Interface, prefix: &str) -> String {
    format!("{} {}", option(interface), quoted(&format!("{prefix}+")))
}

fn option(interface: Interface) -> &'static str {
    match interface {
        Interface::Incoming => "-i",
        Interface::Outgoing => "-o",
    }
}

/// A word of a restore file.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/,+@".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\"")),
    }
}

fn node(
    map: &str,
    chain: String,
    interface: Interface,
    entries: &[(&str, &Target)],
    depth: usize,
    chains: &mut BTreeMap<String, Vec<Branch>>,
) {
    let mut branches = Vec::new();
    if entries.len() <= MOST {
        branches.extend(entries.iter().filter_map(|(key, target)| leaf(interface, key, target)));
    } else {
        // The name that ends here comes first: it would meet the prefixes of the others too.
        let (here, longer): (Vec<_>, Vec<_>) = entries.iter().copied().partition(|(key, _)| key.len() == depth);
        branches.extend(here.iter().filter_map(|(key, target)| leaf(interface, key, target)));
        for group in longer.chunk_by(|a, b| a.0.as_bytes()[depth] == b.0.as_bytes()[depth]) {
            let prefix = common_prefix(group);
            let child = name::chain(&format!("map-{map}-{prefix}"));
            let condition = prefix_condition(interface, prefix);
            match group {
                [(key, target)] => branches.extend(leaf(interface, key, target)),
                _ => {
                    branches.push(Branch { condition, chain: child.clone(), comment: None });
                    node(map, child, interface, group, prefix.len(), chains);
                }
            }
        }
    }
    chains.insert(chain, branches);
}

fn leaf(interface: Interface, key: &str, target: &Target) -> Option<Branch> {
    let Some(condition) = condition(interface, key) else {
        tracing::warn!(interface = key, "iptables cannot tell an interface of this name from others; it is left out");
        return None;
    };
    Some(Branch { condition, chain: name::chain(&target.chain), comment: Some(target.comment.to_string()) })
}

fn common_prefix<'a>(group: &[(&'a str, &Target)]) -> &'a str {
    let Some(((first, _), (last, _))) = group.first().zip(group.last()) else { return "" };
    let same = first.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count();
    // Names of interfaces are ASCII.
    &first[..same]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]

    use proptest::prelude::*;

    use super::*;

    fn targets(names: &[String]) -> BTreeMap<IfName, Target> {
        let target =
            |name: &String| Target { chain: format!("c-{name}").into(), goto: false, comment: name.as_str().into() };
        names.iter().map(|name| (IfName::new(name).unwrap(), target(name))).collect()
    }

    /// Where a packet on an interface ends up, by the rules' own meaning, and how many rules it meets.
    fn walk(chains: &BTreeMap<String, Vec<Branch>>, chain: &str, interface: &str) -> (Option<String>, usize) {
        let mut met = 0;
        for Branch { condition, chain, .. } in &chains[chain] {
            met += 1;
            let pattern = condition.strip_prefix("-i ").unwrap();
            let matches = match pattern.strip_suffix('+') {
                Some(prefix) => interface.starts_with(prefix),
                None => interface == pattern,
            };
            if matches {
                return match chains.contains_key(chain) {
                    true => {
                        let (found, below) = walk(chains, chain, interface);
                        (found, met + below)
                    }
                    false => (Some(chain.clone()), met),
                };
            }
        }
        (None, met)
    }

    #[test]
    fn a_short_list_is_one_chain() {
        let names: Vec<String> = (0..MOST).map(|n| format!("cali{n}")).collect();
        let chains = tree("wl-from", Interface::Incoming, targets(&names).iter());
        assert_eq!(chains.len(), 1);
        assert_eq!(chains["cali-map-wl-from"][0].condition, "-i cali0");
        assert_eq!(tree("x", Interface::Outgoing, targets(&[]).iter())["cali-map-x"], vec![]);
    }

    #[test]
    fn a_thousand_interfaces_are_found_after_few_rules_and_one_more_changes_one_chain() {
        let names: Vec<String> = (0..1000u32).map(|n| format!("cali{:08x}", n.wrapping_mul(0x9e37_79b9))).collect();
        let before = targets(&names);
        let chains = tree("wl-from", Interface::Incoming, before.iter());
        for name in &names {
            let (found, met) = walk(&chains, "cali-map-wl-from", name);
            assert_eq!(found, Some(crate::iptables::name::chain(&format!("c-{name}"))));
            assert!(met <= 50, "{name}: {met}");
        }
        assert!(chains.values().all(|branches| branches.len() <= 17));
        let mut after = before.clone();
        after.extend(targets(&["cali00000007".to_owned()]));
        let changed = tree("wl-from", Interface::Incoming, after.iter());
        let differing = changed.iter().filter(|(name, branches)| chains.get(*name) != Some(branches)).count();
        assert!(differing <= 2, "{differing}");
    }

    #[test]
    fn a_plus_at_the_end_is_no_wildcard() {
        assert_eq!(condition(Interface::Incoming, "eth0").unwrap(), "-i eth0");
        assert_eq!(condition(Interface::Outgoing, "eth0+").unwrap(), "-o eth0++");
        assert_eq!(condition(Interface::Incoming, "0123456789abcd+"), None);
        assert_eq!(quoted("a\"b\\"), "\"a\\\"b\\\\\"");
    }

    proptest! {
        #[test]
        fn every_interface_finds_its_own_chain_and_others_none(
            names in prop::collection::btree_set("[ab]{1,8}", 0..60),
            others in prop::collection::vec("[abc]{1,9}", 0..20),
        ) {
            let names: Vec<String> = names.into_iter().collect();
            let chains = tree("m", Interface::Incoming, targets(&names).iter());
            for name in names.iter().chain(&others) {
                let expected = names.contains(name).then(|| crate::iptables::name::chain(&format!("c-{name}")));
                prop_assert_eq!(walk(&chains, "cali-map-m", name).0, expected);
            }
        }
    }
}
