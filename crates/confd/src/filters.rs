//! BGPFilters: what a peer's list of them makes of the routes, as functions in BIRD's language.
//!
//! A filter has four lists of rules, one for each family and direction. The rules of a list are tried in order, the
//! first that matches decides; a peer's filters are tried in the order in which it names them. A route that no rule
//! decides is treated as without filters: accepted from a peer, and announced if it is a pool's. What no peer may
//! ever give ([`BirdConfig`](crate::BirdConfig)'s guard) is refused before any rule is asked.
//!
//! A list with a rule that cannot be followed is closed: peers with that filter exchange nothing in that direction
//! and family. Leaving out the one rule instead could exchange what it was written to stop.
//!
//! A route's priority (smaller is better, 1024 is normal) travels as BGP's local preference, 2147483647 less the
//! priority, which is also what the BIRD of other implementations of these resources sends. BIRD does not write it
//! into the kernel as a metric: routes of a former metric would stay there for ever.

use std::collections::BTreeMap;

use calico_model::{BGPFilterOperation, BGPFilterRule, BGPFilterSpec, PrefixLength};
use ipnet::IpNet;
use sha2::{Digest, Sha256};

use crate::{
    community::Community,
    config::{Direction, FilterFunction, Screen, description},
    state::Problem,
};

/// What a route's priority and its local preference add up to.
const PREFERENCE_AND_PRIORITY: u32 = 2_147_483_647;
/// The priority of a route of which nothing was said.
const NORMAL_PRIORITY: u32 = 1024;
/// The local preference that stands for the normal priority.
pub(crate) const NORMAL_PREFERENCE: u32 = PREFERENCE_AND_PRIORITY - NORMAL_PRIORITY;

/// One list of a filter: the filter's name, the family, the direction.
type List = (String, u8, Direction);

/// All filters of the datastore, in BIRD's language or with the reason why not.
#[derive(Debug, Default)]
pub(crate) struct Library {
    /// `Ok(None)` for a list without rules.
    lists: BTreeMap<List, Result<Option<FilterFunction>, String>>,
    /// True if some filter speaks of priorities: every node must then tell them.
    pub(crate) priorities: bool,
}

impl Library {
    pub(crate) fn new(filters: &BTreeMap<String, BGPFilterSpec>) -> Self {
        let mut library = Self::default();
        for (name, spec) in filters {
            // A member that is not known could belong to any list.
            let unknown = spec.extra.keys().next().map(|member| format!("{member:?} is not known here"));
            for (v, direction, rules) in [
                (4, Direction::Import, &spec.import_v4),
                (4, Direction::Export, &spec.export_v4),
                (6, Direction::Import, &spec.import_v6),
                (6, Direction::Export, &spec.export_v6),
            ] {
                library.priorities |= rules.iter().any(speaks_of_priority);
                let list = match &unknown {
                    Some(reason) => Err(reason.clone()),
                    None => function(name, v, direction, rules),
                };
                library.lists.insert((name.clone(), v, direction), list);
            }
        }
        library
    }

    /// What the named filters, in this order, do to routes of a family in a direction.
    pub(crate) fn screen(&self, names: &[String], v: u8, direction: Direction, problems: &mut Vec<Problem>) -> Screen {
        let mut screen = Screen::default();
        for name in names {
            match self.lists.get(&(name.clone(), v, direction)) {
                Some(Ok(function)) => screen.calls.extend(function.iter().map(|function| function.symbol.clone())),
                Some(Err(reason)) => {
                    screen.closed = true;
                    let what = format!("{reason}; peers with this filter {} no IPv{v} routes", direction.verb());
                    problems.push(Problem::new(format_args!("BGPFilter {name}"), what));
                }
                None => {
                    screen.closed = true;
                    let what = "is missing, or not valid; peers with this filter exchange no routes";
                    problems.push(Problem::new(format_args!("BGPFilter {name}"), what));
                }
            }
        }
        if screen.closed {
            screen.calls.clear();
        }
        screen
    }

    /// The functions of a family that these symbols name, each once.
    pub(crate) fn functions<'a>(&self, v: u8, symbols: impl Iterator<Item = &'a String>) -> Vec<FilterFunction> {
        let wanted: std::collections::BTreeSet<&String> = symbols.collect();
        let of_family = self.lists.iter().filter(|((_, family, _), _)| *family == v);
        let functions = of_family.filter_map(|(_, list)| list.as_ref().ok()?.as_ref());
        functions.filter(|function| wanted.contains(&function.symbol)).cloned().collect()
    }
}

fn speaks_of_priority(rule: &BGPFilterRule) -> bool {
    rule.priority.is_some() || rule.operations.iter().any(|operation| operation.set_priority.is_some())
}

fn function(
    name: &str,
    v: u8,
    direction: Direction,
    rules: &[BGPFilterRule],
) -> Result<Option<FilterFunction>, String> {
    if rules.is_empty() {
        return Ok(None);
    }
    let list = match direction {
        Direction::Import => "import",
        Direction::Export => "export",
    };
    let mut statements = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        statements.push(statement(rule, v).map_err(|reason| format!("{list}V{v}[{index}]: {reason}"))?);
    }
    Ok(Some(FilterFunction { symbol: symbol(name, list, v), filter: description(name), statements }))
}

/// BIRD's name of a list: at most 64 characters that a quoted symbol may have, and never two alike. A name that is
/// too long, or of other characters, is cut and told apart by a hash; no filter's own name has a colon.
fn symbol(name: &str, list: &str, v: u8) -> String {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.len() <= 48 && name.bytes().all(safe) {
        return format!("filter_{name}_{list}{v}");
    }
    let start: String = name.chars().filter(|c| u8::try_from(*c).is_ok_and(safe)).take(30).collect();
    let hash = Sha256::digest(name.as_bytes());
    let hash: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("filter_{start}:{hash}_{list}{v}")
}

/// A rule as one statement. Every text of the user's is read into a value first; nothing is copied.
fn statement(rule: &BGPFilterRule, v: u8) -> Result<String, String> {
    if let Some(member) = rule.extra.keys().next() {
        return Err(format!("{member:?} is not known here"));
    }
    let conditions = conditions(rule, v)?;
    let verdict = match rule.action.as_str() {
        "Accept" => "accept",
        "Reject" => "reject",
        other => return Err(format!("action {other:?} is neither Accept nor Reject")),
    };
    let mut body = String::new();
    for operation in &rule.operations {
        body += &change(operation)?;
        body.push(' ');
    }
    if verdict == "reject" && !body.is_empty() {
        return Err("a route that is rejected cannot be changed".into());
    }
    Ok(if conditions.is_empty() {
        format!("{body}{verdict};")
    } else {
        format!("if {} then {{ {body}{verdict}; }}", conditions.join(" && "))
    })
}

/// What must hold, all of it, each in parentheses of its own.
fn conditions(rule: &BGPFilterRule, v: u8) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    match rule.peer_type.as_str() {
        "" => {}
        "iBGP" => all.push("same_as".to_owned()),
        "eBGP" => all.push("!same_as".to_owned()),
        other => return Err(format!("peerType {other:?} is neither eBGP nor iBGP")),
    }
    all.extend(network(rule, v)?);
    match rule.source.as_str() {
        "" => {}
        "RemotePeers" => all.push("(source = RTS_BGP)".to_owned()),
        other => return Err(format!("source {other:?} is not RemotePeers")),
    }
    if !rule.interface.is_empty() {
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-*@".contains(&byte);
        if rule.interface.len() > 15 || !rule.interface.bytes().all(safe) {
            return Err(format!("interface {:?} is not a pattern of an interface name", rule.interface));
        }
        all.push(format!("(ifname ~ \"{}\")", rule.interface));
    }
    if let Some(communities) = &rule.communities {
        let [value] = communities.values.as_slice() else {
            return Err("communities.values is not exactly one".into());
        };
        if let Some(member) = communities.extra.keys().next() {
            return Err(format!("communities.{member:?} is not known here"));
        }
        let community = Community::parse(value).ok_or_else(|| format!("{value:?} is not a community"))?;
        all.push(format!("({community} ~ {})", community.attribute()));
    }
    if !rule.as_path_prefix.is_empty() {
        let numbers: Vec<String> = rule.as_path_prefix.iter().map(|number| number.0.to_string()).collect();
        all.push(format!("(bgp_path ~ [= {} * =])", numbers.join(" ")));
    }
    if let Some(priority) = rule.priority {
        all.push(format!("(bgp_local_pref = {})", preference(priority)?));
    }
    Ok(all)
}

/// `cidr`, `matchOperator` and `prefixLength`. A prefix length narrows the set of prefixes that the operator asks
/// for; so `NotIn` then also matches prefixes inside the network that are of another length.
fn network(rule: &BGPFilterRule, v: u8) -> Result<Option<String>, String> {
    if rule.cidr.is_empty() {
        if !rule.match_operator.is_empty() || rule.prefix_length.is_some() {
            return Err("matchOperator and prefixLength need a cidr".into());
        }
        return Ok(None);
    }
    let net: IpNet = rule.cidr.parse().map_err(|_| format!("cidr {:?} is not a network", rule.cidr))?;
    if net.trunc() != net || matches!(net, IpNet::V4(_)) != (v == 4) {
        return Err(format!("cidr {net} is not an IPv{v} network without host bits"));
    }
    let (low, high) = lengths(&net, rule.prefix_length.as_ref())?;
    let exact = (low..=high).contains(&net.prefix_len());
    let condition = match rule.match_operator.as_str() {
        "In" => format!("(net ~ [ {net}{{{low},{high}}} ])"),
        "NotIn" => format!("(net !~ [ {net}{{{low},{high}}} ])"),
        "Equal" if exact => format!("(net = {net})"),
        "NotEqual" if exact => format!("(net != {net})"),
        "Equal" | "NotEqual" => return Err(format!("prefixLength leaves out the length of {net} itself")),
        other => return Err(format!("matchOperator {other:?} is none of Equal, NotEqual, In, NotIn")),
    };
    Ok(Some(condition))
}

/// The shortest and the longest prefix meant, never shorter than the network's own.
fn lengths(net: &IpNet, stated: Option<&PrefixLength>) -> Result<(u8, u8), String> {
    let whole = (net.prefix_len(), net.max_prefix_len());
    let Some(stated) = stated else { return Ok(whole) };
    if let Some(member) = stated.extra.keys().next() {
        return Err(format!("prefixLength.{member:?} is not known here"));
    }
    let bits = |number: Option<i32>, default: u8| match number.map(u8::try_from) {
        None => Ok(default),
        Some(Ok(bits)) if bits <= net.max_prefix_len() => Ok(bits),
        Some(_) => Err(format!("prefixLength is outside of 0 to {}", net.max_prefix_len())),
    };
    let (low, high) = (bits(stated.min, whole.0)?.max(whole.0), bits(stated.max, whole.1)?);
    if low > high {
        return Err(format!("prefixLength leaves nothing of {net}"));
    }
    Ok((low, high))
}

/// One operation as statements.
fn change(operation: &BGPFilterOperation) -> Result<String, String> {
    let BGPFilterOperation { add_community, prepend_as_path, set_priority, extra } = operation;
    if let Some(member) = extra.keys().next() {
        return Err(format!("operation {member:?} is not known here"));
    }
    match (add_community, prepend_as_path, set_priority) {
        (Some(add), None, None) => {
            let community =
                Community::parse(&add.value).ok_or_else(|| format!("{:?} is not a community", add.value))?;
            Ok(community.add())
        }
        (None, Some(prepend), None) if (1..=10).contains(&prepend.prefix.len()) => {
            // Each goes to the front, so the foremost comes last.
            let statements: Vec<String> =
                prepend.prefix.iter().rev().map(|number| format!("bgp_path.prepend({});", number.0)).collect();
            Ok(statements.join(" "))
        }
        (None, Some(_), None) => Err("prependASPath has not 1 to 10 numbers".into()),
        (None, None, Some(set)) => {
            let value = set.value.ok_or("setPriority has no value")?;
            Ok(format!("bgp_local_pref = {};", preference(value)?))
        }
        _ => Err("an operation is not exactly one of addCommunity, prependASPath, setPriority".into()),
    }
}

/// The local preference that stands for a priority.
fn preference(priority: i64) -> Result<u32, String> {
    let most = i64::from(PREFERENCE_AND_PRIORITY);
    if !(1..most).contains(&priority) {
        return Err(format!("priority {priority} is outside of 1 to {}", most - 1));
    }
    Ok(u32::try_from(most - priority).expect("it is between 1 and the sum"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    fn rule(value: Value) -> Result<String, String> {
        statement(&serde_json::from_value(value).unwrap(), 4)
    }

    #[test]
    fn rules_as_statements() {
        for (given, wanted) in [
            (json!({"action": "Accept"}), "accept;"),
            (
                json!({"action": "Reject", "cidr": "10.0.0.0/8", "matchOperator": "In"}),
                "if (net ~ [ 10.0.0.0/8{8,32} ]) then { reject; }",
            ),
            (
                json!({"action": "Reject", "cidr": "10.0.0.0/8", "matchOperator": "NotIn", "prefixLength": {"max": 16}}),
                "if (net !~ [ 10.0.0.0/8{8,16} ]) then { reject; }",
            ),
            (
                json!({"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In", "prefixLength": {"min": 4}}),
                "if (net ~ [ 10.0.0.0/8{8,32} ]) then { accept; }",
            ),
            (
                json!({"action": "Accept", "cidr": "0.0.0.0/0", "matchOperator": "Equal"}),
                "if (net = 0.0.0.0/0) then { accept; }",
            ),
            (
                json!({"action": "Accept", "cidr": "10.1.0.0/16", "matchOperator": "NotEqual"}),
                "if (net != 10.1.0.0/16) then { accept; }",
            ),
            (
                json!({"action": "Reject", "peerType": "eBGP", "source": "RemotePeers", "interface": "eth*"}),
                "if !same_as && (source = RTS_BGP) && (ifname ~ \"eth*\") then { reject; }",
            ),
            (
                json!({"action": "Accept", "peerType": "iBGP", "communities": {"values": ["65000:42"]}, "asPathPrefix": [65000, "1.1"]}),
                "if same_as && ((65000, 42) ~ bgp_community) && (bgp_path ~ [= 65000 65537 * =]) then { accept; }",
            ),
            (
                json!({"action": "Accept", "communities": {"values": ["1:2:3"]}, "priority": 1024}),
                "if ((1, 2, 3) ~ bgp_large_community) && (bgp_local_pref = 2147482623) then { accept; }",
            ),
            (
                json!({"action": "Accept", "operations": [{"addCommunity": {"value": "1:2"}}, {"addCommunity": {"value": "1:2:3"}},
                    {"prependASPath": {"prefix": [65001, 65002]}}, {"setPriority": {"value": 512}}]}),
                "bgp_community.add((1, 2)); bgp_large_community.add((1, 2, 3)); bgp_path.prepend(65002); \
                 bgp_path.prepend(65001); bgp_local_pref = 2147483135; accept;",
            ),
        ] {
            assert_eq!(rule(given.clone()).as_deref(), Ok(wanted), "{given}");
        }
    }

    #[test]
    fn rules_that_cannot_be_followed() {
        for bad in [
            json!({}),
            json!({"action": "accept"}),
            json!({"action": "Accept", "cidr": "10.0.0.1/8", "matchOperator": "In"}),
            json!({"action": "Accept", "cidr": "fd00::/8", "matchOperator": "In"}),
            json!({"action": "Accept", "cidr": "10.0.0.0/8"}),
            json!({"action": "Accept", "matchOperator": "In"}),
            json!({"action": "Accept", "prefixLength": {"min": 8}}),
            json!({"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In", "prefixLength": {"min": 33}}),
            json!({"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In", "prefixLength": {"max": 7}}),
            json!({"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In", "prefixLength": {"least": 9}}),
            json!({"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "Equal", "prefixLength": {"min": 9}}),
            json!({"action": "Accept", "source": "Everyone"}),
            json!({"action": "Accept", "peerType": "ebgp"}),
            json!({"action": "Accept", "interface": "a\" then accept; #"}),
            json!({"action": "Accept", "interface": "0123456789abcdef"}),
            json!({"action": "Accept", "communities": {"values": []}}),
            json!({"action": "Accept", "communities": {"values": ["1:2", "1:3"]}}),
            json!({"action": "Accept", "communities": {"values": ["70000:1"]}}),
            json!({"action": "Accept", "priority": 0}),
            json!({"action": "Accept", "priority": 2_147_483_647_i64}),
            json!({"action": "Accept", "colour": "blue"}),
            json!({"action": "Accept", "operations": [{}]}),
            json!({"action": "Accept", "operations": [{"prependASPath": {"prefix": []}}]}),
            json!({"action": "Accept", "operations": [{"setPriority": {}}]}),
            json!({"action": "Accept", "operations": [{"removeCommunity": {}}]}),
            json!({"action": "Reject", "operations": [{"addCommunity": {"value": "1:2"}}]}),
        ] {
            let found = rule(bad.clone());
            assert!(found.is_err(), "{bad}: {found:?}");
        }
    }

    #[test]
    fn symbols_fit_and_differ() {
        assert_eq!(symbol("tor.policy-1", "import", 4), "filter_tor.policy-1_import4");
        let long = |last: &str| symbol(&format!("{}{last}", "x".repeat(200)), "export", 6);
        assert!(long("a").len() <= 64 && long("a") != long("b"), "{}", long("a"));
        assert!(symbol(&"x".repeat(48), "import", 4).len() <= 64);
        let evil = symbol("x'(); }\nbug", "import", 4);
        assert!(evil.bytes().all(|b| b.is_ascii_alphanumeric() || b"_:.-".contains(&b)), "{evil}");
    }

    #[test]
    fn screens_are_closed_by_what_cannot_be_followed() {
        let spec = |value| serde_json::from_value::<BGPFilterSpec>(value).unwrap();
        let library = Library::new(&BTreeMap::from([
            ("good".to_owned(), spec(json!({"importV4": [{"action": "Reject"}]}))),
            ("half".to_owned(), spec(json!({"importV4": [{"action": "Accept"}], "exportV4": [{"action": "?"}]}))),
            ("odd".to_owned(), spec(json!({"importV5": []}))),
        ]));
        let screen = |names: &[&str], direction| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            let mut problems = Vec::new();
            let screen = library.screen(&names, 4, direction, &mut problems);
            (screen.calls, screen.closed, problems.len())
        };
        let calls = vec!["filter_half_import4".to_owned(), "filter_good_import4".to_owned()];
        assert_eq!(screen(&["half", "good"], Direction::Import), (calls, false, 0));
        assert_eq!(screen(&["good"], Direction::Export), (vec![], false, 0));
        assert_eq!(screen(&["half", "good"], Direction::Export), (vec![], true, 1));
        assert_eq!(screen(&["good", "missing"], Direction::Import), (vec![], true, 1));
        assert_eq!(screen(&["odd"], Direction::Import), (vec![], true, 1));
    }
}
