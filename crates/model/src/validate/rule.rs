//! Rules, as far as upstream's Go validation goes; the CRDs' further rules do not concern profiles in etcd.

use ipnet::IpNet;

use super::{Fault, Faults, address};
use crate::{Direction, EntityRule, Icmp, Port, Protocol, Rule};

/// A list of rules. The path is that of the list.
pub(crate) fn rules(path: &str, direction: Direction, rules: &[Rule]) -> Vec<Fault> {
    let mut faults = Faults::default();
    for (index, rule) in rules.iter().enumerate() {
        check(&mut faults, &format!("{path}[{index}]"), direction, rule);
    }
    faults.0
}

fn check(faults: &mut Faults, path: &str, direction: Direction, rule: &Rule) {
    protocol(faults, &format!("{path}.protocol"), rule.protocol.as_ref());
    protocol(faults, &format!("{path}.notProtocol"), rule.not_protocol.as_ref());
    icmp(faults, &format!("{path}.icmp"), rule.icmp);
    icmp(faults, &format!("{path}.notICMP"), rule.not_icmp);
    let ends = [("source", &rule.source), ("destination", &rule.destination)];
    for (name, end) in ends {
        entity(faults, &format!("{path}.{name}"), rule.protocol.as_ref(), end);
    }
    families(faults, path, rule);
    services(faults, path, direction, rule);
    if direction == Direction::Egress && rule.http.is_some() {
        faults.add(format!("{path}.http"), "", "HTTP conditions are for ingress rules");
    }
}

fn protocol(faults: &mut Faults, path: &str, protocol: Option<&Protocol>) {
    let Some(protocol) = protocol else { return };
    let rule = "it is TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite (in this spelling) or a number from 1 to 255";
    faults.check(protocol.number().is_some_and(|number| number > 0), path, protocol, rule);
}

fn icmp(faults: &mut Faults, path: &str, icmp: Option<Icmp>) {
    let Some(Icmp { icmp_type, code }) = icmp else { return };
    if let Some(icmp_type) = icmp_type {
        faults.check(icmp_type <= 254, &format!("{path}.type"), icmp_type, "it must be 0 to 254");
    }
    if let Some(code) = code {
        faults.check(code <= 255, &format!("{path}.code"), code, "it must be 0 to 255");
    }
}

fn entity(faults: &mut Faults, path: &str, protocol: Option<&Protocol>, end: &EntityRule) {
    let clean = |text: &str| address::clean_network(text).is_some();
    faults.check_each(&format!("{path}.nets"), &end.nets, clean, address::CIDR_RULE);
    faults.check_each(&format!("{path}.notNets"), &end.not_nets, clean, address::CIDR_RULE);
    let not_all = |text: &str| text.parse::<IpNet>().map_or(true, |net| net.prefix_len() > 0);
    faults.check_each(&format!("{path}.notNets"), &end.not_nets, not_all, "it excludes every address");
    faults.selector(&format!("{path}.selector"), &end.selector);
    faults.selector(&format!("{path}.notSelector"), &end.not_selector);
    faults.selector(&format!("{path}.namespaceSelector"), &end.namespace_selector);
    if let Some(accounts) = &end.service_accounts {
        faults.selector(&format!("{path}.serviceAccounts.selector"), &accounts.selector);
    }
    for (name, ports) in [("ports", &end.ports), ("notPorts", &end.not_ports)] {
        check_ports(faults, &format!("{path}.{name}"), protocol, ports);
    }
}

fn check_ports(faults: &mut Faults, path: &str, protocol: Option<&Protocol>, ports: &[Port]) {
    for (index, port) in ports.iter().enumerate() {
        let zero = matches!(port, Port::Number(0) | Port::Range(0, _));
        faults.check(!zero, &format!("{path}[{index}]"), port, "ports start at 1");
    }
    match protocol {
        // A named port brings its protocol along.
        None => {
            let numbered = ports.iter().find(|port| !matches!(port, Port::Name(_)));
            if let Some(port) = numbered {
                faults.add(path, port, "a port by number needs the rule's protocol: TCP, UDP or SCTP");
            }
        }
        Some(protocol) => {
            let good = ports.is_empty() || protocol.has_ports();
            faults.check(good, path, protocol, "this protocol has no ports; TCP, UDP and SCTP have");
        }
    }
}

/// All networks of a rule are of one family, that of `ipVersion` if it is given.
fn families(faults: &mut Faults, path: &str, rule: &Rule) {
    let mut first: Option<bool> = None;
    for (name, end) in [("source", &rule.source), ("destination", &rule.destination)] {
        for (list, nets) in [("nets", &end.nets), ("notNets", &end.not_nets)] {
            for (index, text) in nets.iter().enumerate() {
                let Ok(net) = text.parse::<IpNet>() else { continue };
                let six = matches!(net, IpNet::V6(_));
                let at = format!("{path}.{name}.{list}[{index}]");
                if let Some(version) = rule.ip_version
                    && version != if six { 6 } else { 4 }
                {
                    faults.add(format!("{path}.ipVersion"), version, format!("it contradicts {text}"));
                } else if *first.get_or_insert(six) != six {
                    faults.add(at, text, "IPv4 and IPv6 networks do not go into one rule");
                }
            }
        }
    }
}

/// A service names the far end of a connection.
fn services(faults: &mut Faults, path: &str, direction: Direction, rule: &Rule) {
    let (name, near) = match direction {
        Direction::Ingress => ("destination", &rule.destination),
        Direction::Egress => ("source", &rule.source),
    };
    if near.services.is_some() {
        faults.add(format!("{path}.{name}.services"), "", "a service can only be the other end of the connection");
    }
}
