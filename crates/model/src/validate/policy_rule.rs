//! The rules that upstream's CRDs have for rules of policies, beyond its Go validation.

use calico_selector::parse;

use super::Faults;
use crate::{EntityRule, Protocol, Rule};

/// Characters of a selector.
pub(super) const LONGEST_SELECTOR: usize = 1024;

pub(super) fn check(faults: &mut Faults, path: &str, rule: &Rule) {
    let action = rule.parsed_action().is_some();
    faults.check(action, &format!("{path}.action"), &rule.action, "it is Allow, Deny, Log or Pass");
    if let Some(version) = rule.ip_version {
        faults.check(matches!(version, 4 | 6), &format!("{path}.ipVersion"), version, "it is 4 or 6");
    }
    icmp(faults, path, rule);
    http(faults, &format!("{path}.http"), rule);
    for (name, end) in [("source", &rule.source), ("destination", &rule.destination)] {
        entity(faults, &format!("{path}.{name}"), end);
    }
    let destination = &rule.destination;
    if let Some(service) = &destination.services {
        let reason = "a service brings its ports along";
        let alone = destination.ports.is_empty() && destination.not_ports.is_empty();
        faults.check(alone, &format!("{path}.destination.services"), &service.name, reason);
    }
}

fn icmp(faults: &mut Faults, path: &str, rule: &Rule) {
    for (name, icmp) in [("icmp", rule.icmp), ("notICMP", rule.not_icmp)] {
        let Some(icmp) = icmp else { continue };
        let complete = icmp.icmp_type.is_some() || icmp.code.is_none();
        faults.check(complete, &format!("{path}.{name}.code"), icmp.code.unwrap_or(0), "a code needs a type");
    }
    let number = rule.protocol.as_ref().and_then(Protocol::number);
    if rule.icmp.is_some() || rule.not_icmp.is_some() {
        let protocol = rule.protocol.as_ref().map(ToString::to_string).unwrap_or_default();
        let reason = "conditions on ICMP need the protocol ICMP or ICMPv6";
        faults.check(matches!(number, Some(1 | 58)), &format!("{path}.protocol"), protocol, reason);
    }
    let family = match number {
        Some(1) => 4,
        Some(58) => 6,
        _ => return,
    };
    if let Some(version) = rule.ip_version {
        let reason = "ICMP is of IPv4, ICMPv6 of IPv6";
        faults.check(version == family, &format!("{path}.ipVersion"), version, reason);
    }
}

fn http(faults: &mut Faults, path: &str, rule: &Rule) {
    const MOST: usize = 20;
    let Some(http) = &rule.http else { return };
    faults.check(rule.action == "Allow", path, &rule.action, "HTTP conditions are for action Allow only");
    if let Some(protocol) = &rule.protocol {
        faults.check(protocol.number() == Some(6), path, protocol, "HTTP goes over TCP");
    }
    let (methods, paths) = (http.methods.len(), http.paths.len());
    faults.check(methods <= MOST, &format!("{path}.methods"), methods, "there are more than 20");
    faults.check(paths <= MOST, &format!("{path}.paths"), paths, "there are more than 20");
}

fn entity(faults: &mut Faults, path: &str, end: &EntityRule) {
    for (name, count, most) in [
        ("nets", end.nets.len(), 256),
        ("notNets", end.not_nets.len(), 256),
        ("ports", end.ports.len(), 50),
        ("notPorts", end.not_ports.len(), 50),
    ] {
        faults.check(count <= most, &format!("{path}.{name}"), count, &format!("there are more than {most}"));
    }
    let accounts = end.service_accounts.as_ref().map_or("", |accounts| &accounts.selector);
    for (name, selector, global) in [
        ("selector", end.selector.as_str(), false),
        ("notSelector", &end.not_selector, false),
        ("namespaceSelector", &end.namespace_selector, true),
        ("serviceAccounts.selector", accounts, false),
    ] {
        let path = format!("{path}.{name}");
        length(faults, &path, selector);
        let mentioned = !global && parse(selector).is_ok_and(|selector| selector.mentions_global());
        faults.check(!mentioned, &path, selector, "global() is for a rule's namespaceSelector only");
    }
    if let Some(service) = &end.services {
        let path = format!("{path}.services");
        faults.check(!service.name.is_empty(), &format!("{path}.name"), "", "it is missing");
        let others = [&end.selector, &end.not_selector, &end.namespace_selector].into_iter().all(String::is_empty)
            && end.nets.is_empty()
            && end.not_nets.is_empty()
            && end.service_accounts.is_none();
        let reason = "a service excludes selectors, networks and service accounts at its end of the rule";
        faults.check(others, &path, &service.name, reason);
    }
}

pub(super) fn length(faults: &mut Faults, path: &str, selector: &str) {
    let length = selector.chars().count();
    faults.check(length <= LONGEST_SELECTOR, path, length, "it is longer than 1024 characters");
}
