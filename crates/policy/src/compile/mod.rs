//! From the v3 rules of profiles and policies to those of an [`Instruction`](crate::instruction::Instruction).
//!
//! A rule is taken over only if every word of it is understood. One that is not closes the whole policy or profile:
//! leaving out an `Allow` would be safe, but leaving out a `Deny`, or a condition, opens what its author meant to
//! close. Conditions that are clear and can never hold (`ICMP` with IPv6 networks, a negated `0.0.0.0/0`) are no
//! fault: their rule keeps its place and never matches.

mod code;
mod packed;
mod policy;
mod selectors;

use std::{collections::BTreeSet, fmt, net::IpAddr};

use calico_model::{Action, EntityRule, Fault, Icmp, Port, ProfileSpec, Protocol, Rule as V3Rule};
use ipnet::IpNet;
use serde_json::{Map, Value};

pub(crate) use self::{
    code::{Code, CodeEnd, CodeRule, NEITHER_FAMILY},
    packed::PackedCode,
    policy::{Lists, Policy, unreadable},
    selectors::{Combined, Selectors},
};
use crate::instruction::{IcmpMatch, RuleAction};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Translates a profile, or says everything that is wrong with it.
pub(crate) fn profile(spec: &ProfileSpec, selectors: &mut Selectors) -> Result<Code, Vec<Fault>> {
    let mut compiler = Compiler::new(None, selectors);
    let code = compiler.code(&spec.ingress, &spec.egress);
    compiler.finish(code)
}

/// Translates a policy's rules, or says everything that is wrong with it.
pub(crate) fn policy(
    key: &calico_model::ResourceKey,
    spec: &calico_model::PolicySpec,
    selectors: &mut Selectors,
) -> Policy {
    policy::read(key, spec, selectors)
}

/// A member of a resource, written out only if there is something to say of it.
#[derive(Clone, Copy)]
struct Place<'a> {
    within: Option<&'a Place<'a>>,
    name: &'a str,
    index: Option<usize>,
}

impl<'a> Place<'a> {
    fn top(name: &'a str) -> Self {
        Self { within: None, name, index: None }
    }

    fn member(&'a self, name: &'a str) -> Self {
        Self { within: Some(self), name, index: None }
    }

    fn at(self, index: usize) -> Self {
        Self { index: Some(index), ..self }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(within) = self.within {
            write!(f, "{within}.")?;
        }
        f.write_str(self.name)?;
        self.index.map_or(Ok(()), |index| write!(f, "[{index}]"))
    }
}

/// Collects faults instead of stopping at the first. What it returns counts only if there are none.
struct Compiler<'a> {
    /// That of the policy, if it is a namespaced one.
    namespace: Option<&'a str>,
    selectors: &'a mut Selectors,
    faults: Vec<Fault>,
}

impl<'a> Compiler<'a> {
    fn new(namespace: Option<&'a str>, selectors: &'a mut Selectors) -> Self {
        Self { namespace, selectors, faults: Vec::new() }
    }

    fn finish(self, code: Code) -> Result<Code, Vec<Fault>> {
        if self.faults.is_empty() { Ok(code) } else { Err(self.faults) }
    }

    fn code(&mut self, ingress: &[V3Rule], egress: &[V3Rule]) -> Code {
        let spec = Place::top("spec");
        Code { ingress: self.rules(spec.member("ingress"), ingress), egress: self.rules(spec.member("egress"), egress) }
    }

    fn rules(&mut self, place: Place<'_>, rules: &[V3Rule]) -> Box<[CodeRule]> {
        rules.iter().enumerate().map(|(at, rule)| self.rule(place.at(at), rule)).collect()
    }

    fn rule(&mut self, place: Place<'_>, rule: &V3Rule) -> CodeRule {
        let action = match rule.parsed_action() {
            Some(Action::Allow) => RuleAction::Allow,
            Some(Action::Deny) => RuleAction::Deny,
            Some(Action::Pass) => RuleAction::Pass,
            Some(Action::Log) => RuleAction::Log,
            None => {
                self.fault(place.member("action"), &rule.action, "it is Allow, Deny, Log or Pass");
                RuleAction::Deny
            }
        };
        // Annotations say nothing of packets; every other member might be a condition.
        self.unknown(place, &rule.extra);
        if rule.http.is_some() {
            self.fault(place.member("http"), "", "this condition is not followed");
        }
        let protocol = self.protocol(place.member("protocol"), rule.protocol.as_ref());
        let not_protocol = self.protocol(place.member("notProtocol"), rule.not_protocol.as_ref());
        let mut compiled = CodeRule {
            action,
            ip_version: None,
            protocol,
            not_protocol,
            icmp: self.icmp(place.member("icmp"), rule.icmp.as_ref(), protocol, false),
            not_icmp: self.icmp(place.member("notICMP"), rule.not_icmp.as_ref(), protocol, true),
            source: self.entity(place.member("source"), &rule.source, protocol),
            destination: self.entity(place.member("destination"), &rule.destination, protocol),
        };
        self.settle_family(place, rule.ip_version, &mut compiled);
        compiled
    }

    /// A rule whose conditions hold in one family only says so, and loses networks of the other. A list of networks
    /// of one family binds the rule to it even when it is negated: that is how upstream renders it. An emptied list
    /// must not turn into none, so a rule that is left without a family becomes one that never matches.
    fn settle_family(&mut self, place: Place<'_>, ip_version: Option<u8>, rule: &mut CodeRule) {
        let mut families = match ip_version {
            None => BTreeSet::from([4, 6]),
            Some(version @ (4 | 6)) => BTreeSet::from([version]),
            Some(other) => return self.fault(place.member("ipVersion"), other, "it is 4 or 6"),
        };
        match rule.protocol {
            Some(ICMP) => families.retain(|&family| family == 4),
            Some(ICMPV6) => families.retain(|&family| family == 6),
            _ => {}
        }
        for end in rule.ends() {
            for list in [&end.nets, &end.not_nets].into_iter().filter(|list| !list.is_empty()) {
                families.retain(|&family| list.iter().any(|net| family_of(net) == family));
            }
            let excluded = |family| end.not_nets.iter().any(|net| net.prefix_len() == 0 && family_of(net) == family);
            families.retain(|&family| !excluded(family));
        }
        for end in [&mut rule.source, &mut rule.destination].into_iter().flatten() {
            for list in [&mut end.nets, &mut end.not_nets] {
                if list.iter().any(|net| !families.contains(&family_of(net))) {
                    *list = list.iter().filter(|net| families.contains(&family_of(net))).copied().collect();
                }
            }
        }
        rule.ip_version = match families.len() {
            0 => Some(NEITHER_FAMILY),
            1 => families.first().copied(),
            _ => None,
        };
    }

    fn protocol(&mut self, place: Place<'_>, protocol: Option<&Protocol>) -> Option<u8> {
        let protocol = protocol?;
        match protocol.number() {
            Some(number @ 1..) => Some(number),
            _ => {
                self.fault(place, protocol, "not a protocol (TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite, 1-255)");
                None
            }
        }
    }

    fn icmp(
        &mut self,
        place: Place<'_>,
        icmp: Option<&Icmp>,
        protocol: Option<u8>,
        negated: bool,
    ) -> Option<IcmpMatch> {
        let icmp = icmp?;
        let reason = match (protocol, icmp.icmp_type, icmp.code.map(u8::try_from)) {
            (Some(protocol), ..) if protocol != ICMP && protocol != ICMPV6 => "only ICMP and ICMPv6 have types",
            // What "not this type" or "any type" says of packets that are no ICMP at all is anybody's guess.
            (None, _, _) if negated => "it needs the protocol ICMP or ICMPv6",
            (None, None, _) => "it needs the protocol ICMP or ICMPv6",
            (_, _, Some(Err(_))) => "a code is at most 255",
            (_, None, None) if !negated => return None,
            (_, None, _) => "it needs a type",
            (_, Some(255..), _) => "a type is at most 254",
            (_, Some(icmp_type), code) => {
                return Some(IcmpMatch { icmp_type: icmp_type as u8, code: code.and_then(Result::ok) });
            }
        };
        let shown = |value: Option<u16>| value.map_or_else(|| "any".to_owned(), |value| value.to_string());
        self.fault(place, format!("{}/{}", shown(icmp.icmp_type), shown(icmp.code)), reason);
        None
    }

    fn entity(&mut self, place: Place<'_>, entity: &EntityRule, protocol: Option<u8>) -> Option<Box<CodeEnd>> {
        self.unknown(place, &entity.extra);
        if entity.services.is_some() {
            self.fault(place.member("services"), "", "this condition is not followed");
        }
        let mut end = CodeEnd {
            nets: self.nets(place.member("nets"), &entity.nets),
            not_nets: self.nets(place.member("notNets"), &entity.not_nets),
            ..CodeEnd::default()
        };
        (end.ports, end.names) = self.ports(place.member("ports"), &entity.ports, protocol);
        (end.not_ports, end.not_names) = self.ports(place.member("notPorts"), &entity.not_ports, protocol);
        self.select(place, entity, &mut end);
        (end != CodeEnd::default()).then(|| Box::new(end))
    }

    fn select(&mut self, place: Place<'_>, entity: &EntityRule, end: &mut CodeEnd) {
        if let Some(accounts) = &entity.service_accounts {
            self.unknown(place.member("serviceAccounts"), &accounts.extra);
        }
        match self.selectors.of_entity(self.namespace, entity) {
            Ok(Combined { positive, negative }) => {
                end.positive = positive;
                end.negative = negative;
            }
            Err(reason) => self.fault(place, selectors_of(entity), reason),
        }
    }

    fn nets(&mut self, place: Place<'_>, nets: &[String]) -> Box<[IpNet]> {
        let mut parsed = Vec::with_capacity(nets.len());
        for (at, text) in nets.iter().enumerate() {
            match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
                Ok(net) if net == net.trunc() => parsed.push(net),
                Ok(_) => self.fault(place.at(at), text, "it has bits set behind the prefix"),
                Err(_) => self.fault(place.at(at), text, "not an address or a network"),
            }
        }
        parsed.into()
    }

    /// Ranges of numbers, and names.
    #[allow(clippy::type_complexity)]
    fn ports(
        &mut self,
        place: Place<'_>,
        ports: &[Port],
        protocol: Option<u8>,
    ) -> (Box<[(u16, u16)]>, Box<[Box<str>]>) {
        let has_ports = protocol.is_some_and(|number| Protocol::Number(number).has_ports());
        // A named port has its endpoint's protocol.
        let protocols_of_names = protocol.is_none() && ports.iter().all(|port| matches!(port, Port::Name(_)));
        if !(ports.is_empty() || has_ports || protocols_of_names) {
            self.fault(place, list(ports), "ports need the protocol TCP, UDP or SCTP");
        }
        let (mut ranges, mut names) = (Vec::new(), Vec::new());
        for (at, port) in ports.iter().enumerate() {
            match port {
                Port::Number(port @ 1..) => ranges.push((*port, *port)),
                Port::Range(low @ 1.., high) if low <= high => ranges.push((*low, *high)),
                Port::Name(name) => names.push(name.as_str().into()),
                _ => self.fault(place.at(at), port, "not a port or a range of ports (1-65535)"),
            }
        }
        (ranges.into(), names.into())
    }

    fn unknown(&mut self, place: Place<'_>, members: &Map<String, Value>) {
        for (name, value) in members {
            if !value.is_null() {
                self.fault(place.member(name), value, "this condition is not followed");
            }
        }
    }

    fn fault(&mut self, place: Place<'_>, value: impl fmt::Display, reason: impl Into<String>) {
        self.faults.push(Fault::new(place.to_string(), value, reason));
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
