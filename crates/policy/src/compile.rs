//! From a profile's v3 rules to those of an [`Instruction`](crate::instruction::Instruction).
//!
//! A rule is taken over only if every word of it is understood. One that is not closes the whole profile: leaving
//! out an `Allow` would be safe, but leaving out a `Deny`, or a condition, opens what its author meant to close.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use calico_model::{Action, EntityRule, Fault, Icmp, Port, ProfileSpec, Protocol, Rule as V3Rule, ServiceAccountMatch};
use calico_selector::{parse, scope::EntitySelectors};
use ipnet::IpNet;
use serde_json::{Map, Value};

use crate::instruction::{EntityMatch, IcmpMatch, Rule, RuleAction, RuleSet, SetId};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// A profile as the dataplane gets it.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) rules: RuleSet,
    /// The selectors of the sets that the rules refer to, each set once.
    pub(crate) selectors: Vec<String>,
}

/// Rules that let nothing pass, for a profile that cannot be followed. Explicit, so that a profile behind it in an
/// endpoint's list cannot open what this one might have closed.
pub(crate) fn closed() -> RuleSet {
    let deny = vec![Rule::of(RuleAction::Deny)];
    RuleSet { ingress: deny.clone(), egress: deny }
}

/// Rules that let everything pass, for the profile that every cluster has.
pub(crate) fn open() -> RuleSet {
    let allow = vec![Rule::of(RuleAction::Allow)];
    RuleSet { ingress: allow.clone(), egress: allow }
}

/// Translates a profile, or says everything that is wrong with it.
pub(crate) fn compile(spec: &ProfileSpec) -> Result<Compiled, Vec<Fault>> {
    let mut compiler = Compiler { faults: Vec::new(), selectors: BTreeMap::new() };
    let rules = RuleSet {
        ingress: compiler.rules("spec.ingress", &spec.ingress),
        egress: compiler.rules("spec.egress", &spec.egress),
    };
    if compiler.faults.is_empty() {
        Ok(Compiled { rules, selectors: compiler.selectors.into_values().collect() })
    } else {
        Err(compiler.faults)
    }
}

/// Collects faults instead of stopping at the first. What it returns counts only if there are none.
struct Compiler {
    faults: Vec<Fault>,
    selectors: BTreeMap<SetId, String>,
}

impl Compiler {
    fn rules(&mut self, path: &str, rules: &[V3Rule]) -> Vec<Rule> {
        rules.iter().enumerate().map(|(at, rule)| self.rule(&format!("{path}[{at}]"), rule)).collect()
    }

    fn rule(&mut self, path: &str, rule: &V3Rule) -> Rule {
        let action = match rule.parsed_action() {
            Some(Action::Allow) => RuleAction::Allow,
            Some(Action::Deny) => RuleAction::Deny,
            Some(Action::Pass) => RuleAction::Pass,
            Some(Action::Log) => RuleAction::Log,
            None => {
                self.fault(format!("{path}.action"), &rule.action, "it is Allow, Deny, Log or Pass");
                RuleAction::Deny
            }
        };
        // Annotations say nothing of packets; every other member might be a condition.
        self.unknown(path, &rule.extra);
        if rule.http.is_some() {
            self.fault(format!("{path}.http"), "", "this condition is not followed");
        }
        let protocol = self.protocol(&format!("{path}.protocol"), rule.protocol.as_ref());
        let not_protocol = self.protocol(&format!("{path}.notProtocol"), rule.not_protocol.as_ref());
        let mut compiled = Rule {
            protocol,
            not_protocol,
            icmp: self.icmp(&format!("{path}.icmp"), rule.icmp.as_ref(), protocol, false),
            not_icmp: self.icmp(&format!("{path}.notICMP"), rule.not_icmp.as_ref(), protocol, true),
            source: self.entity(&format!("{path}.source"), &rule.source, protocol),
            destination: self.entity(&format!("{path}.destination"), &rule.destination, protocol),
            ..Rule::of(action)
        };
        self.settle_family(path, rule.ip_version, &mut compiled);
        compiled
    }

    /// A rule whose conditions hold in one family only says so, and loses networks of the other. A list of networks
    /// of one family binds the rule to it even when it is negated: that is how upstream renders it.
    fn settle_family(&mut self, path: &str, ip_version: Option<u8>, rule: &mut Rule) {
        let mut families = match ip_version {
            None => BTreeSet::from([4, 6]),
            Some(version @ (4 | 6)) => BTreeSet::from([version]),
            Some(other) => return self.fault(format!("{path}.ipVersion"), other, "it is 4 or 6"),
        };
        match rule.protocol {
            Some(ICMP) => families.retain(|&family| family == 4),
            Some(ICMPV6) => families.retain(|&family| family == 6),
            _ => {}
        }
        let lists = [&mut rule.source, &mut rule.destination].map(|end| [&mut end.nets, &mut end.not_nets]);
        let mut lists: Vec<&mut Vec<IpNet>> = lists.into_iter().flatten().filter(|list| !list.is_empty()).collect();
        for list in &lists {
            families.retain(|&family| list.iter().any(|net| family_of(net) == family));
        }
        for list in &mut lists {
            list.retain(|net| families.contains(&family_of(net)));
        }
        match families.len() {
            0 => self.fault(path.to_owned(), "", "its conditions exclude both IPv4 and IPv6"),
            1 => rule.ip_version = families.first().copied(),
            _ => {}
        }
    }

    fn protocol(&mut self, path: &str, protocol: Option<&Protocol>) -> Option<u8> {
        let protocol = protocol?;
        match protocol.number() {
            Some(number @ 1..) => Some(number),
            _ => {
                self.fault(path.to_owned(), protocol, "not a protocol (TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite, 1-255)");
                None
            }
        }
    }

    fn icmp(&mut self, path: &str, icmp: Option<&Icmp>, protocol: Option<u8>, negated: bool) -> Option<IcmpMatch> {
        let icmp = icmp?;
        let shown = |value: Option<u16>| value.map_or_else(|| "any".to_owned(), |value| value.to_string());
        let shown = format!("{}/{}", shown(icmp.icmp_type), shown(icmp.code));
        let of_icmp = matches!(protocol, Some(ICMP | ICMPV6));
        if protocol.is_some() && !of_icmp {
            self.fault(path.to_owned(), shown, "only ICMP and ICMPv6 have types");
            return None;
        }
        // What "not this type" or "any type" says of packets that are no ICMP at all is anybody's guess.
        if !of_icmp && (negated || icmp.icmp_type.is_none()) {
            self.fault(path.to_owned(), shown, "it needs the protocol ICMP or ICMPv6");
            return None;
        }
        let code = match icmp.code.map(u8::try_from) {
            Some(Err(_)) => {
                self.fault(path.to_owned(), shown, "a code is at most 255");
                return None;
            }
            Some(Ok(code)) => Some(code),
            None => None,
        };
        match (icmp.icmp_type, code) {
            (Some(icmp_type @ 0..=254), code) => Some(IcmpMatch { icmp_type: icmp_type as u8, code }),
            (Some(_), _) => {
                self.fault(path.to_owned(), shown, "a type is at most 254");
                None
            }
            (None, None) if !negated => None,
            (None, _) => {
                self.fault(path.to_owned(), shown, "it needs a type");
                None
            }
        }
    }

    fn entity(&mut self, path: &str, entity: &EntityRule, protocol: Option<u8>) -> EntityMatch {
        let mut compiled = EntityMatch {
            nets: self.nets(&format!("{path}.nets"), &entity.nets),
            not_nets: self.nets(&format!("{path}.notNets"), &entity.not_nets),
            ports: self.ports(&format!("{path}.ports"), &entity.ports, protocol),
            not_ports: self.ports(&format!("{path}.notPorts"), &entity.not_ports, protocol),
            ..EntityMatch::default()
        };
        if let Some(net) = compiled.not_nets.iter().find(|net| net.prefix_len() == 0) {
            self.fault(format!("{path}.notNets"), net, "it excludes every address");
        }
        self.selectors(path, entity, &mut compiled);
        compiled
    }

    fn selectors(&mut self, path: &str, entity: &EntityRule, compiled: &mut EntityMatch) {
        self.unknown(path, &entity.extra);
        if entity.services.is_some() {
            self.fault(format!("{path}.services"), "", "this condition is not followed");
        }
        let nobody = ServiceAccountMatch::default();
        let accounts = entity.service_accounts.as_ref().unwrap_or(&nobody);
        self.unknown(&format!("{path}.serviceAccounts"), &accounts.extra);
        let combined = EntitySelectors {
            namespace: None,
            selector: &entity.selector,
            not_selector: &entity.not_selector,
            namespace_selector: &entity.namespace_selector,
            service_account_names: &accounts.names,
            service_account_selector: &accounts.selector,
        }
        .combine();
        match combined {
            Ok(combined) => {
                compiled.sets.extend(combined.positive.and_then(|text| self.set(path, &text)));
                compiled.not_sets.extend(combined.negative.and_then(|text| self.set(path, &text)));
            }
            Err(error) => self.fault(path.to_owned(), selectors_of(entity), error.to_string()),
        }
    }

    fn set(&mut self, path: &str, selector: &str) -> Option<SetId> {
        match parse(selector) {
            Ok(parsed) => {
                let id = SetId(parsed.unique_id());
                self.selectors.insert(id.clone(), selector.to_owned());
                Some(id)
            }
            Err(error) => {
                self.fault(format!("{path}.selector"), selector, error.to_string());
                None
            }
        }
    }

    fn nets(&mut self, path: &str, nets: &[String]) -> Vec<IpNet> {
        let mut parsed = Vec::with_capacity(nets.len());
        for (at, text) in nets.iter().enumerate() {
            match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
                Ok(net) if net == net.trunc() => parsed.push(net),
                Ok(_) => self.fault(format!("{path}[{at}]"), text, "it has bits set behind the prefix"),
                Err(_) => self.fault(format!("{path}[{at}]"), text, "not an address or a network"),
            }
        }
        parsed
    }

    fn ports(&mut self, path: &str, ports: &[Port], protocol: Option<u8>) -> Vec<(u16, u16)> {
        let has_ports = protocol.is_some_and(|number| Protocol::Number(number).has_ports());
        if !ports.is_empty() && !has_ports {
            self.fault(path.to_owned(), list(ports), "ports need the protocol TCP, UDP or SCTP");
        }
        let mut ranges = Vec::with_capacity(ports.len());
        for (at, port) in ports.iter().enumerate() {
            match port {
                Port::Number(port @ 1..) => ranges.push((*port, *port)),
                Port::Range(low @ 1.., high) if low <= high => ranges.push((*low, *high)),
                Port::Name(_) => self.fault(format!("{path}[{at}]"), port, "named ports are not followed"),
                _ => self.fault(format!("{path}[{at}]"), port, "not a port or a range of ports (1-65535)"),
            }
        }
        ranges
    }

    fn unknown(&mut self, path: &str, members: &Map<String, Value>) {
        for (name, value) in members {
            if !value.is_null() {
                self.fault(format!("{path}.{name}"), value, "this condition is not followed");
            }
        }
    }

    fn fault(&mut self, path: String, value: impl std::fmt::Display, reason: impl Into<String>) {
        self.faults.push(Fault::new(path, value, reason));
    }
}

fn family_of(net: &IpNet) -> u8 {
    match net {
        IpNet::V4(_) => 4,
        IpNet::V6(_) => 6,
    }
}

fn list(ports: &[Port]) -> String {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn selectors_of(entity: &EntityRule) -> String {
    let parts = [&entity.selector, &entity.not_selector, &entity.namespace_selector];
    parts.into_iter().filter(|part| !part.is_empty()).map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
