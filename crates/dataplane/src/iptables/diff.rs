//! From what the kernel holds to what it is to hold: the texts for `iptables-restore` and `ipset restore`.
//!
//! One text changes all tables of a family; iptables carries it out table by table, each at once or not at all, in the
//! order in which packets meet them. Within a table the chains come first, then the jumps. Another text takes away the
//! chains that nothing leads to any more: with iptables-nft a packet that is under way while two transactions are
//! committed may read what the second one left of a chain ([`crate::passing`]). Only what differs is in it: a chain
//! whose rules are as wanted is not named.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{
    layout::{KernelChain, Line, Table},
    save::{Others, Saved, SavedSet, SavedTable},
};

/// The chains that a family is to have, by table and name: the hash of each rule.
pub(super) type Wanted = BTreeMap<(Table, String), Vec<String>>;

/// The changes of one family's rules.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RuleChanges {
    /// What `iptables-restore --noflush` reads; empty if there is nothing to do.
    pub text: String,
    /// What it reads when nobody is in the chains that are not wanted any more; empty if there are none.
    pub ends: String,
    /// A jump of ours is there, but not where it should be.
    pub displaced: bool,
}

/// The rule of one of iptables' own chains that leads to ours.
pub(super) fn jump(kernel: KernelChain) -> Line {
    Line::new("", &format!("-j {}", kernel.ours()), None)
}

/// What must be written. `lines` gives the rules of a chain; with `tolerant` a jump may be anywhere; with `at_once` what
/// is not wanted any more goes in the same text.
pub(super) fn rules(
    wanted: &Wanted,
    hooks: &BTreeSet<KernelChain>,
    there: &Saved,
    tolerant: bool,
    at_once: bool,
    lines: &mut dyn FnMut(Table, &str) -> Vec<Line>,
) -> RuleChanges {
    let mut changes = RuleChanges::default();
    let nothing = SavedTable::default();
    for table in Table::ALL {
        let there = there.get(&table).unwrap_or(&nothing);
        let mut heads = String::new();
        let mut bodies = String::new();
        for ((_, chain), hashes) in wanted.iter().filter(|((of, _), _)| *of == table) {
            if there.chains.get(chain) == Some(hashes) {
                continue;
            }
            heads.push_str(&format!(":{chain} - [0:0]\n"));
            for line in lines(table, chain) {
                bodies.push_str(&format!("-A {chain} {}\n", line.text));
            }
        }
        let (jumps, displaced) = jumps(table, hooks, there, tolerant);
        changes.displaced |= displaced;
        let mut emptied = String::new();
        let mut ends = String::new();
        for chain in there.chains.keys().filter(|chain| !wanted.contains_key(&(table, (*chain).clone()))) {
            // Named at the head they are emptied first, so that none leads to another when they go.
            emptied.push_str(&format!(":{chain} - [0:0]\n"));
            ends.push_str(&format!("-X {chain}\n"));
        }
        if at_once {
            heads.push_str(&std::mem::take(&mut emptied));
        }
        let last = if at_once { std::mem::take(&mut ends) } else { String::new() };
        let name = table.name();
        if !(heads.is_empty() && jumps.is_empty()) {
            changes.text.push_str(&format!("*{name}\n{heads}{bodies}{jumps}{last}COMMIT\n"));
        }
        if !ends.is_empty() {
            changes.ends.push_str(&format!("*{name}\n{emptied}{ends}COMMIT\n"));
        }
    }
    changes
}

/// Whether rules of a wanted chain are not there as they are wanted.
pub(super) fn differ(wanted: &Wanted, there: &Saved) -> bool {
    wanted.iter().any(|((table, chain), hashes)| {
        there.get(table).and_then(|saved| saved.chains.get(chain)).is_none_or(|there| there != hashes)
    })
}

/// One jump from each chain of iptables' own that needs one, and no other rule of ours in chains that are not ours.
fn jumps(table: Table, hooks: &BTreeSet<KernelChain>, there: &SavedTable, tolerant: bool) -> (String, bool) {
    let mut text = String::new();
    let mut displaced = false;
    let mut names: BTreeSet<&str> = there.others.keys().map(String::as_str).collect();
    let wanted: BTreeMap<&str, KernelChain> =
        hooks.iter().filter(|kernel| kernel.table == table).map(|kernel| (kernel.name, *kernel)).collect();
    names.extend(wanted.keys());
    let none = Others::default();
    for name in names {
        let ours = &there.others.get(name).unwrap_or(&none).ours;
        let kernel = wanted.get(name);
        if let (Some(kernel), [(place, hash, _)]) = (kernel, ours.as_slice())
            && *hash == jump(*kernel).hash
        {
            if *place == 0 || kernel.jump_is_last() {
                continue;
            }
            displaced = true;
            if tolerant {
                continue;
            }
        }
        for (_, _, rule) in ours {
            text.push_str(&format!("-D {rule}\n"));
        }
        if let Some(kernel) = kernel {
            let command = if kernel.jump_is_last() { "-A" } else { "-I" };
            text.push_str(&format!("{command} {name} {}\n", jump(*kernel).text));
        }
    }
    (text, displaced)
}

/// What the kernel holds once the changes were made.
pub(super) fn settled(wanted: &Wanted, hooks: &BTreeSet<KernelChain>, there: Saved, tolerant: bool) -> Saved {
    let mut after = there;
    for (table, saved) in &mut after {
        saved.chains.clear();
        for (name, others) in &mut saved.others {
            let keeps = |kernel: &KernelChain| kernel.table == *table && kernel.name == name;
            if !hooks.iter().any(keeps) {
                others.rules -= others.ours.len();
                others.ours.clear();
            }
        }
    }
    for ((table, chain), hashes) in wanted {
        after.entry(*table).or_default().chains.insert(chain.clone(), hashes.clone());
    }
    for kernel in hooks {
        let line = jump(*kernel);
        let others = after.entry(kernel.table).or_default().others.entry(kernel.name.to_owned()).or_default();
        let kept = matches!(others.ours.as_slice(), [(place, hash, _)]
            if *hash == line.hash && (*place == 0 || tolerant || kernel.jump_is_last()));
        if !kept {
            others.rules = others.rules - others.ours.len() + 1;
            let place = if kernel.jump_is_last() { others.rules - 1 } else { 0 };
            others.ours = vec![(place, line.hash, format!("{} {}", kernel.name, line.text))];
        }
    }
    after
}

/// Whether rules or jumps that were there are gone or others: packets may have passed unjudged.
pub(super) fn was_changed(before: &Saved, now: &Saved) -> bool {
    let nothing = SavedTable::default();
    before.iter().any(|(table, before)| {
        let now = now.get(table).unwrap_or(&nothing);
        let lost_jump = |(name, others): (&String, &Others)| {
            let there = now.others.get(name).map(|others| others.ours.as_slice()).unwrap_or_default();
            others.ours.iter().any(|(_, hash, _)| !there.iter().any(|(_, there, _)| there == hash))
        };
        before.chains.iter().any(|(name, rules)| now.chains.get(name) != Some(rules))
            || before.others.iter().any(lost_jump)
    })
}

/// The changes of sets: what must be there before rules name it, and what may go when they no longer do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SetChanges {
    /// New sets; members that come, or those that go where these come first.
    pub first: String,
    /// Members that go, or come.
    pub last: String,
    /// Sets that go.
    pub unused: Vec<String>,
}

/// What is wanted of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SetWant {
    /// That it is this.
    Whole(SavedSet),
    /// That some members come and others go; one in both stays.
    Part {
        /// Those that come.
        added: HashSet<String>,
        /// Those that go.
        removed: HashSet<String>,
        /// Those that go come first.
        shrinks_first: bool,
    },
    /// That it is not there.
    Gone,
}

/// What must be written for these sets, by their names in ipset.
pub(super) fn sets(wanted: &BTreeMap<String, SetWant>, there: &HashMap<String, SavedSet>) -> SetChanges {
    let mut changes = SetChanges::default();
    let nothing = HashSet::new();
    for (name, want) in wanted {
        let there = there.get(name);
        let (added, removed, shrinks_first) = match want {
            SetWant::Gone => {
                changes.unused.extend(there.map(|_| name.clone()));
                continue;
            }
            SetWant::Whole(want) => (&want.members, there.map_or(&nothing, |set| &set.members), false),
            SetWant::Part { added, removed, shrinks_first } => (added, removed, *shrinks_first),
        };
        if let (SetWant::Whole(want), None) = (want, there) {
            changes.first.push_str(&super::sets::create(name, &want.kind));
        }
        let sorted = |members: &HashSet<String>, without: &HashSet<String>| {
            let mut members: Vec<String> = members.difference(without).cloned().collect();
            members.sort_unstable();
            members
        };
        let (grow, shrink) = match shrinks_first {
            false => (&mut changes.first, &mut changes.last),
            true => (&mut changes.last, &mut changes.first),
        };
        for member in sorted(added, removed) {
            grow.push_str(&format!("add {name} {member}\n"));
        }
        for member in sorted(removed, added) {
            shrink.push_str(&format!("del {name} {member}\n"));
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iptables::save::parse_rules;

    const FORWARD: KernelChain = KernelChain { table: Table::Filter, name: "FORWARD" };
    const POSTROUTING: KernelChain = KernelChain { table: Table::Nat, name: "POSTROUTING" };

    fn wanted(chains: &[(&str, &[&str])]) -> Wanted {
        let hashes = |rules: &[&str]| rules.iter().map(|rule| Line::new("", rule, None).hash).collect();
        chains.iter().map(|(name, rules)| ((Table::Filter, (*name).to_owned()), hashes(rules))).collect()
    }

    fn write(wanted: &Wanted, hooks: &[KernelChain], there: &Saved, tolerant: bool) -> RuleChanges {
        let hooks = hooks.iter().copied().collect();
        rules(wanted, &hooks, there, tolerant, false, &mut |_, chain| {
            vec![Line::new("", &format!("-j {chain}x"), None)]
        })
    }

    #[test]
    fn only_what_differs_is_written_and_afterwards_nothing() {
        let there = parse_rules(&format!(
            "*filter\n:cali-same - [0:0]\n:cali-old - [0:0]\n:cali-other - [0:0]\n-A FORWARD -i docker0 -j ACCEPT\n\
             -A FORWARD {}\n-A cali-same {}\n-A cali-other -j DROP\nCOMMIT\n",
            jump(FORWARD).text,
            Line::new("", "-j DROP", None).text,
        ));
        let wanted = wanted(&[("cali-same", &["-j DROP"]), ("cali-other", &["-j ACCEPT"]), ("cali-new", &[])]);
        let changes = write(&wanted, &[FORWARD, POSTROUTING], &there, false);
        let text: Vec<String> =
            changes.text.lines().map(|line| line.split(" -m comment").next().unwrap_or_default().to_owned()).collect();
        assert_eq!(
            text,
            [
                "*nat",
                "-A POSTROUTING",
                "COMMIT",
                "*filter",
                ":cali-new - [0:0]",
                ":cali-other - [0:0]",
                "-A cali-new",
                "-A cali-other",
                "-D FORWARD",
                "-I FORWARD",
                "COMMIT",
            ]
        );
        assert!(changes.displaced);
        assert_eq!(changes.ends, "*filter\n:cali-old - [0:0]\n-X cali-old\nCOMMIT\n");
        let hooks = BTreeSet::from([FORWARD, POSTROUTING]);
        let after = settled(&wanted, &hooks, there.clone(), false);
        assert_eq!(write(&wanted, &[FORWARD, POSTROUTING], &after, false), RuleChanges::default());
        assert!(was_changed(&there, &after) && !was_changed(&after, &after));
        let tolerant = write(&wanted, &[FORWARD], &there, true);
        assert!(!tolerant.text.contains("FORWARD") && tolerant.displaced);
    }

    #[test]
    fn where_a_table_changes_as_a_whole_one_text_takes_chains_away_too() {
        let there = parse_rules("*filter\n:cali-old - [0:0]\n-A cali-old -j DROP\nCOMMIT\n");
        let wanted = wanted(&[("cali-new", &["-j DROP"])]);
        let at_once = |there: &Saved| rules(&wanted, &BTreeSet::new(), there, false, true, &mut |_, _| Vec::new());
        let changes = at_once(&there);
        assert_eq!(changes.text, "*filter\n:cali-new - [0:0]\n:cali-old - [0:0]\n-X cali-old\nCOMMIT\n");
        assert_eq!(changes.ends, "");
        assert_eq!(at_once(&settled(&wanted, &BTreeSet::new(), there, false)), RuleChanges::default());
    }

    #[test]
    fn every_rule_of_ours_that_is_out_of_place_goes() {
        let there = parse_rules(
            "*filter\n-A FORWARD -j cali-FORWARD\n-A FORWARD -m comment --comment \"cali:0123456789abcdef\" -j ACCEPT\n\
             -A DOCKER-USER -g cali-x\n-A INPUT -j LOG\nCOMMIT\n",
        );
        let text = write(&Wanted::new(), &[], &there, false).text;
        assert_eq!(text.matches("-D ").count(), 3, "{text}");
        assert!(!text.contains("-D INPUT"));
        let after = settled(&Wanted::new(), &BTreeSet::new(), there, false);
        assert_eq!(write(&Wanted::new(), &[], &after, false).text, "");
    }

    #[test]
    fn sets_grow_before_and_shrink_after() {
        let texts = |members: &[&str]| -> HashSet<String> { members.iter().map(|text| (*text).to_owned()).collect() };
        let set = |kind: &str, members: &[&str]| SavedSet { kind: kind.to_owned(), members: texts(members) };
        let there = HashMap::from([
            ("cali40a".to_owned(), set("hash:ip family inet", &["10.0.0.1", "10.0.0.2"])),
            ("cali40b".to_owned(), set("hash:ip family inet", &[])),
        ]);
        let wanted = BTreeMap::from([
            ("cali40a".to_owned(), SetWant::Whole(set("hash:ip family inet", &["10.0.0.2", "10.0.0.3"]))),
            ("cali40b".to_owned(), SetWant::Gone),
            ("cali40c".to_owned(), SetWant::Whole(set("hash:net family inet", &["10.0.0.0/8"]))),
            ("cali40d".to_owned(), SetWant::Gone),
            (
                "cali40e".to_owned(),
                SetWant::Part { added: texts(&["1", "2"]), removed: texts(&["2", "3"]), shrinks_first: false },
            ),
        ]);
        let changes = sets(&wanted, &there);
        assert_eq!(
            changes.first,
            "add cali40a 10.0.0.3\ncreate cali40c hash:net family inet maxelem 1048576\nadd cali40c 10.0.0.0/8\nadd cali40e 1\n"
        );
        assert_eq!(changes.last, "del cali40a 10.0.0.1\ndel cali40e 3\n");
        assert_eq!(changes.unused, ["cali40b"]);
    }
}
