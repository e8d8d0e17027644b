//! BGP filters.

use ipnet::IpNet;

use super::{Fault, Faults, bgp::is_community};
use crate::{BGPFilter, BGPFilterOperation, BGPFilterRule};

const COMMUNITY_RULE: &str = "it must be aa:nn with 16-bit numbers, or aa:nn:mm with 32-bit numbers";
const PRIORITIES: std::ops::RangeInclusive<i64> = 1..=2_147_483_646;
const PRIORITY_RULE: &str = "it must be 1 to 2147483646";

pub(crate) fn bgp_filter(resource: &BGPFilter) -> Vec<Fault> {
    let mut faults = Faults::default();
    let spec = &resource.spec;
    for (name, rules, six) in [
        ("exportV4", &spec.export_v4, false),
        ("importV4", &spec.import_v4, false),
        ("exportV6", &spec.export_v6, true),
        ("importV6", &spec.import_v6, true),
    ] {
        for (index, rule) in rules.iter().enumerate() {
            check(&mut faults, &format!("spec.{name}[{index}]"), rule, six);
        }
    }
    faults.0
}

fn check(faults: &mut Faults, path: &str, rule: &BGPFilterRule, six: bool) {
    let at = |name: &str| format!("{path}.{name}");
    let action = matches!(rule.action.as_str(), "Accept" | "Reject");
    faults.check(action, &at("action"), &rule.action, "it is Accept or Reject");
    prefix(faults, path, rule, six);
    faults.check_text(&at("source"), &rule.source, |source| source == "RemotePeers", "it is RemotePeers");
    let peer = |peer: &str| matches!(peer, "eBGP" | "iBGP");
    faults.check_text(&at("peerType"), &rule.peer_type, peer, "it is eBGP or iBGP");
    let interface = |name: &str| {
        name.len() <= 15 && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'*'))
    };
    let name_rule = "it must be 1 to 15 letters, digits, '_', '.' and '-', and '*' for any";
    faults.check_text(&at("interface"), &rule.interface, interface, name_rule);
    if let Some(communities) = &rule.communities {
        let path = at("communities.values");
        faults.check(communities.values.len() == 1, &path, communities.values.len(), "it must be exactly one");
        faults.check_each(&path, &communities.values, is_community, COMMUNITY_RULE);
    }
    if let Some(priority) = rule.priority {
        faults.check(PRIORITIES.contains(&priority), &at("priority"), priority, PRIORITY_RULE);
    }
    let (count, path) = (rule.operations.len(), at("operations"));
    faults.check(count <= 10, &path, count, "there are more than 10");
    faults.check(count == 0 || rule.action != "Reject", &path, count, "a route that is rejected is not changed");
    for (index, operation) in rule.operations.iter().enumerate() {
        change(faults, &format!("{path}[{index}]"), operation);
    }
}

fn prefix(faults: &mut Faults, path: &str, rule: &BGPFilterRule, six: bool) {
    let at = |name: &str| format!("{path}.{name}");
    let operator = |word: &str| matches!(word, "Equal" | "NotEqual" | "In" | "NotIn");
    let operator_path = at("matchOperator");
    faults.check_text(&operator_path, &rule.match_operator, operator, "it is Equal, NotEqual, In or NotIn");
    match (rule.cidr.is_empty(), rule.match_operator.is_empty()) {
        (true, false) => faults.add(at("cidr"), "", "it is missing: matchOperator compares with it"),
        (false, true) => faults.add(operator_path, "", "it is missing: how to compare with cidr"),
        _ => {}
    }
    let family = if six { "it must be an IPv6 network without host bits" } else { CIDR_V4_RULE };
    let good =
        |text: &str| text.parse::<IpNet>().is_ok_and(|net| net.trunc() == net && matches!(net, IpNet::V6(_)) == six);
    faults.check_text(&at("cidr"), &rule.cidr, good, family);
    let Some(length) = &rule.prefix_length else { return };
    faults.check(!rule.cidr.is_empty(), &at("prefixLength"), "", "it needs a cidr");
    let most = if six { 128 } else { 32 };
    for (name, value) in [("min", length.min), ("max", length.max)] {
        let Some(value) = value else { continue };
        let good = (0..=most).contains(&value);
        faults.check(good, &at(&format!("prefixLength.{name}")), value, &format!("it must be 0 to {most}"));
    }
}

const CIDR_V4_RULE: &str = "it must be an IPv4 network without host bits";

fn change(faults: &mut Faults, path: &str, operation: &BGPFilterOperation) {
    let BGPFilterOperation { add_community, prepend_as_path, set_priority, .. } = operation;
    let given = [add_community.is_some(), prepend_as_path.is_some(), set_priority.is_some()];
    let one = given.into_iter().filter(|given| *given).count() == 1;
    faults.check(one, path, "", "it is exactly one of addCommunity, prependASPath and setPriority");
    if let Some(community) = add_community {
        let good = is_community(&community.value);
        faults.check(good, &format!("{path}.addCommunity.value"), &community.value, COMMUNITY_RULE);
    }
    if let Some(path_prefix) = prepend_as_path {
        let count = path_prefix.prefix.len();
        faults.check((1..=10).contains(&count), &format!("{path}.prependASPath.prefix"), count, "it must be 1 to 10");
    }
    if let Some(priority) = set_priority {
        let good = priority.value.is_some_and(|value| PRIORITIES.contains(&value));
        let shown = priority.value.map(|value| value.to_string()).unwrap_or_default();
        faults.check(good, &format!("{path}.setPriority.value"), shown, PRIORITY_RULE);
    }
}
