//! Rules of policies and profiles, as far as upstream's Go validation goes: the CRDs' further rules
//! ([`super::policy_rule`]) do not concern profiles in etcd.
//!
//! Beyond upstream, a condition that upstream itself would lose or fall over is refused: a blank selector that must be
//! joined with another, a key that gets too long with its prefix, a service account's name with a quote.

use calico_selector::{
    parse,
    scope::{EntitySelectors, NAMESPACE_PREFIX, SERVICE_ACCOUNT_PREFIX},
};
use ipnet::IpNet;

use super::{Fault, Faults, address, policy_rule, selector};
use crate::{Direction, EntityRule, HttpMatch, Icmp, Port, Protocol, Rule, ServiceAccountMatch};

/// What holds a rule.
#[derive(Clone, Copy)]
pub(crate) enum Holder<'a> {
    Profile,
    /// With the namespace of a policy that has one.
    Policy(Option<&'a str>),
}

impl<'a> Holder<'a> {
    fn namespace(self) -> Option<&'a str> {
        match self {
            Self::Profile => None,
            Self::Policy(namespace) => namespace,
        }
    }
}

/// A list of rules. The path is that of the list.
pub(crate) fn rules(path: &str, holder: Holder<'_>, direction: Direction, rules: &[Rule]) -> Vec<Fault> {
    let mut faults = Faults::default();
    for (index, rule) in rules.iter().enumerate() {
        let path = format!("{path}[{index}]");
        check(&mut faults, &path, holder, direction, rule);
        if let Holder::Policy(_) = holder {
            policy_rule::check(&mut faults, &path, rule);
        }
    }
    faults.0
}

fn check(faults: &mut Faults, path: &str, holder: Holder<'_>, direction: Direction, rule: &Rule) {
    protocol(faults, &format!("{path}.protocol"), rule.protocol.as_ref());
    protocol(faults, &format!("{path}.notProtocol"), rule.not_protocol.as_ref());
    icmp(faults, &format!("{path}.icmp"), rule.icmp);
    icmp(faults, &format!("{path}.notICMP"), rule.not_icmp);
    for (name, end) in [("source", &rule.source), ("destination", &rule.destination)] {
        entity(faults, &format!("{path}.{name}"), holder, rule.protocol.as_ref(), end);
    }
    families(faults, path, rule);
    services(faults, path, holder, direction, rule);
    if let Some(http_match) = &rule.http {
        http(faults, &format!("{path}.http"), direction, http_match);
    }
    let annotations = rule.metadata.iter().flat_map(|metadata| &metadata.annotations);
    super::annotations(faults, &format!("{path}.metadata.annotations"), annotations);
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

fn entity(faults: &mut Faults, path: &str, holder: Holder<'_>, protocol: Option<&Protocol>, end: &EntityRule) {
    let clean = |text: &str| address::clean_network(text).is_some();
    faults.check_each(&format!("{path}.nets"), &end.nets, clean, address::CIDR_RULE);
    faults.check_each(&format!("{path}.notNets"), &end.not_nets, clean, address::CIDR_RULE);
    let not_all = |text: &str| text.parse::<IpNet>().map_or(true, |net| net.prefix_len() > 0);
    faults.check_each(&format!("{path}.notNets"), &end.not_nets, not_all, "it excludes every address");
    selectors(faults, path, holder, end);
    for (name, ports) in [("ports", &end.ports), ("notPorts", &end.not_ports)] {
        check_ports(faults, &format!("{path}.{name}"), protocol, ports);
    }
}

/// Each selector by itself, then whether they can be joined.
fn selectors(faults: &mut Faults, path: &str, holder: Holder<'_>, end: &EntityRule) {
    let before = faults.0.len();
    let nobody = ServiceAccountMatch::default();
    let accounts = end.service_accounts.as_ref().unwrap_or(&nobody);
    selector::check(faults, &format!("{path}.selector"), &end.selector, "");
    selector::check(faults, &format!("{path}.notSelector"), &end.not_selector, "");
    selector::check(faults, &format!("{path}.namespaceSelector"), &end.namespace_selector, NAMESPACE_PREFIX);
    let at = format!("{path}.serviceAccounts");
    selector::check(faults, &format!("{at}.selector"), &accounts.selector, SERVICE_ACCOUNT_PREFIX);
    let no_quote = |name: &str| !name.contains(['\'', '"']);
    faults.check_each(&format!("{at}.names"), &accounts.names, no_quote, "a service account's name has no quotes");
    if faults.0.len() > before {
        return;
    }

    let joined = EntitySelectors {
        namespace: holder.namespace(),
        selector: &end.selector,
        not_selector: &end.not_selector,
        namespace_selector: &end.namespace_selector,
        service_account_names: &accounts.names,
        service_account_selector: &accounts.selector,
    };
    let parses = joined.combine().ok().is_some_and(|joined| {
        [joined.positive, joined.negative].into_iter().flatten().all(|selector| parse(&selector).is_ok())
    });
    if !parses {
        let name = if selector::is_blank(&end.not_selector) { "notSelector" } else { "selector" };
        faults.add(format!("{path}.{name}"), &end.selector, selector::JOIN_RULE);
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

/// All networks of a rule are of one family, that of `ipVersion` if it is given. Where two families meet, both places
/// are named.
fn families(faults: &mut Faults, path: &str, rule: &Rule) {
    let mut nets = Vec::new();
    for (name, end) in [("source", &rule.source), ("destination", &rule.destination)] {
        for (list, texts) in [("nets", &end.nets), ("notNets", &end.not_nets)] {
            for (index, text) in texts.iter().enumerate() {
                if let Ok(net) = text.parse::<IpNet>() {
                    let version = if matches!(net, IpNet::V6(_)) { 6 } else { 4 };
                    nets.push((version, format!("{path}.{name}.{list}[{index}]"), text));
                }
            }
        }
    }
    if let Some(wanted) = rule.ip_version {
        for (_, _, text) in nets.iter().filter(|(version, ..)| *version != wanted) {
            faults.add(format!("{path}.ipVersion"), wanted, format!("it contradicts {text}"));
        }
        return;
    }
    let Some((family, first, text)) = nets.first() else { return };
    let others: Vec<_> = nets.iter().filter(|(version, ..)| version != family).collect();
    if let Some((_, other, _)) = others.first() {
        faults.add(first, *text, format!("IPv4 and IPv6 do not go into one rule; see {other}"));
    }
    for (_, at, text) in others {
        faults.add(at, *text, format!("IPv4 and IPv6 do not go into one rule; see {first}"));
    }
}

/// A service names the far end of a connection.
fn services(faults: &mut Faults, path: &str, holder: Holder<'_>, direction: Direction, rule: &Rule) {
    let ends = match direction {
        Direction::Ingress => [("source", &rule.source, true), ("destination", &rule.destination, false)],
        Direction::Egress => [("source", &rule.source, false), ("destination", &rule.destination, true)],
    };
    for (name, end, far) in ends {
        let Some(service) = &end.services else { continue };
        let at = format!("{path}.{name}.services");
        faults.check(far, &at, &service.name, "a service can only be the other end of the connection");
        if let Holder::Policy(None) = holder {
            let reason = "a global policy must say in which namespace the service is";
            faults.check(!service.namespace.is_empty(), &format!("{at}.namespace"), "", reason);
        }
    }
}

fn http(faults: &mut Faults, path: &str, direction: Direction, http: &HttpMatch) {
    faults.check(direction == Direction::Ingress, path, "", "HTTP conditions are for ingress rules");
    for (index, method) in http.methods.iter().enumerate() {
        let first = !http.methods[..index].contains(method);
        faults.check(first, &format!("{path}.methods[{index}]"), method, "it is given twice");
    }
    for (index, either) in http.paths.iter().enumerate() {
        let path = format!("{path}.paths[{index}]");
        let one = either.exact.is_empty() || either.prefix.is_empty();
        faults.check(one, &path, &either.exact, "exact and prefix exclude each other");
        let good = |text: &str| text.starts_with('/') && !text.contains(['?', '#', ' ']);
        let rule = "a path starts with '/' and has no '?', '#' or blank";
        faults.check_text(&format!("{path}.exact"), &either.exact, good, rule);
        faults.check_text(&format!("{path}.prefix"), &either.prefix, good, rule);
    }
}
