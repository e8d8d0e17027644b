//! One profile's rules in one direction and family.

use std::collections::BTreeMap;

use calico_policy::instruction::{EntityMatch, IcmpMatch, ProfileId, Rule as PolicyRule, RuleAction, SetId};
use ipnet::IpNet;

use crate::{
    Options,
    family::{Family, Range},
    members::Members,
    name::{self, Direction},
    ruleset::{Action, Chain, End, Key, Match, Rule, SetSpec},
};

/// How rules name the sets of selectors.
pub(crate) trait SetNames {
    /// The name of the selector's set in this family's table; `None` if the set does not exist.
    fn set_name(&self, id: &SetId, family: Family) -> Option<String>;
}

/// Sets named by their content that rules turned out to need.
pub(crate) type Literals = BTreeMap<String, (SetSpec, Vec<Range>)>;

/// Protocols of which policy knows ports: TCP, UDP, SCTP.
const PORT_PROTOCOLS: [u8; 3] = [6, 17, 132];

/// The chain of a profile's rules. A profile that does not exist (`None`) denies: endpoints may name a profile before
/// it is made, and must not be opened by whatever else they name.
pub(crate) fn profile_chain(
    profile: &ProfileId,
    rules: Option<&[PolicyRule]>,
    direction: Direction,
    family: Family,
    options: &Options,
    names: &dyn SetNames,
    literals: &mut Literals,
) -> Chain {
    let mut chain = Chain {
        name: name::profile_chain(profile, direction),
        base: None,
        comment: Some(name::comment(&format!("profile {} {}", profile.0, direction.word()))),
        rules: Vec::new(),
    };
    let Some(rules) = rules else {
        let missing = Rule::new(Vec::new(), vec![Action::Drop]);
        chain.rules.push(missing.counted(format!("profile {} does not exist", profile.0)));
        return chain;
    };
    for (index, rule) in rules.iter().enumerate() {
        let alternatives = Renderer { family, names, literals: &mut *literals }.alternatives(rule);
        let (word, actions) = match rule.action {
            RuleAction::Allow => ("allow", vec![Action::SetMark(options.mark_accept), Action::Return]),
            RuleAction::Deny => ("deny", vec![Action::Drop]),
            RuleAction::Pass => ("pass", vec![Action::Return]),
            RuleAction::Log => ("log", vec![Action::Log("calico-packet: ".to_owned())]),
        };
        let comment = format!("profile {} {} rule {index} {word}", profile.0, direction.word());
        let rules = alternatives.into_iter().map(|matches| Rule::new(matches, actions.clone()).counted(&comment));
        chain.rules.extend(rules);
    }
    chain
}

struct Renderer<'a> {
    family: Family,
    names: &'a dyn SetNames,
    literals: &'a mut Literals,
}

/// What the transport header is, as far as conditions on its content need to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Header {
    /// This family's ICMP: there is a type, there are no ports.
    Icmp,
    /// A protocol with ports.
    Ports,
    /// Neither.
    Other,
}

/// `None` all through this module: the conditions can never hold in this family, so there is no rule. Leaving out the
/// condition instead would turn "never" into "always".
type Conditions = Option<Vec<Match>>;

impl Renderer<'_> {
    /// The ways in which a rule's conditions can hold, each exclusive of the others; none if they never can.
    fn alternatives(&mut self, rule: &PolicyRule) -> Vec<Vec<Match>> {
        let mine = if self.family == Family::V4 { 4 } else { 6 };
        if rule.ip_version.is_some_and(|version| version != mine) {
            return Vec::new();
        }
        let headers = self.headers(rule);
        headers.into_iter().filter_map(|(header, protocol)| self.conditions(rule, header, protocol)).collect()
    }

    /// The transport headers to tell apart, with the condition that tells.
    ///
    /// "Not this port" and "not this ICMP type" hold for packets that have neither, while bytes at their place mean
    /// something else there. So without a protocol in the rule there is one alternative for each kind of header.
    fn headers(&mut self, rule: &PolicyRule) -> Vec<(Header, Vec<Match>)> {
        let icmp = self.family.icmp();
        let is = |number| Match::Protocol { number, negated: false };
        if let Some(number) = rule.protocol {
            let header = match number {
                number if number == icmp => Header::Icmp,
                number if PORT_PROTOCOLS.contains(&number) => Header::Ports,
                _ => Header::Other,
            };
            return vec![(header, vec![is(number)])];
        }
        let ends = [&rule.source, &rule.destination];
        if rule.icmp.is_some() {
            return vec![(Header::Icmp, vec![is(icmp)])];
        }
        if ends.iter().any(|end| !end.ports.is_empty()) {
            return vec![(Header::Ports, vec![self.has_ports(false)])];
        }
        let types = rule.not_icmp.is_some();
        let ports = ends.iter().any(|end| !end.not_ports.is_empty());
        let mut headers = Vec::new();
        let mut other = Vec::new();
        if types {
            headers.push((Header::Icmp, vec![is(icmp)]));
            other.push(Match::Protocol { number: icmp, negated: true });
        }
        if ports {
            headers.push((Header::Ports, vec![self.has_ports(false)]));
            other.push(self.has_ports(true));
        }
        headers.push((Header::Other, other));
        headers
    }

    fn has_ports(&mut self, negated: bool) -> Match {
        let ranges = PORT_PROTOCOLS.iter().map(|number| (u128::from(*number), u128::from(*number))).collect();
        Match::ProtocolSet { set: self.literal('t', SetSpec::set(Key::Protocol, false), ranges), negated }
    }

    /// All conditions for one kind of header, cheap ones first.
    fn conditions(&mut self, rule: &PolicyRule, header: Header, protocol: Vec<Match>) -> Conditions {
        let PolicyRule { action: _, ip_version: _, protocol: _, not_protocol, icmp, not_icmp, source, destination } =
            rule;
        let mut matches = protocol;
        matches.extend(not_protocol.map(|number| Match::Protocol { number, negated: true }));
        if icmp.is_some() && header != Header::Icmp {
            return None;
        }
        if header == Header::Icmp {
            matches.extend(icmp.map(|icmp| icmp_match(icmp, false)));
            matches.extend(not_icmp.map(|icmp| icmp_match(icmp, true)));
        }
        let ends = [(End::Source, source), (End::Destination, destination)];
        for (end, entity) in ends {
            if header == Header::Ports {
                matches.extend(self.ports(end, entity)?);
            } else if !entity.ports.is_empty() {
                return None;
            }
        }
        for (end, entity) in ends {
            matches.extend(self.addresses(end, entity)?);
        }
        Some(matches)
    }

    fn ports(&mut self, end: End, entity: &EntityMatch) -> Conditions {
        let mut matches = Vec::new();
        for (ports, negated) in [(&entity.ports, false), (&entity.not_ports, true)] {
            if ports.is_empty() {
                continue;
            }
            let ranges = merge(ports.iter().map(|(a, b)| (u128::from(*a), u128::from(*b))));
            match ranges.as_slice() {
                // All ranges were upside down: no port is in an empty list, every port is outside it.
                [] if negated => {}
                [] => return None,
                [(0, 0xffff)] if negated => return None,
                [(0, 0xffff)] => {}
                [(first, last)] => {
                    matches.push(Match::Port { end, range: (*first as u16, *last as u16), negated });
                }
                _ => {
                    let set = self.literal('p', set_for(Key::Port, &ranges), ranges);
                    matches.push(Match::PortSet { end, set, negated });
                }
            }
        }
        Some(matches)
    }

    fn addresses(&mut self, end: End, entity: &EntityMatch) -> Conditions {
        let mut matches = Vec::new();
        for (nets, negated) in [(&entity.nets, false), (&entity.not_nets, true)] {
            let mine: Vec<&IpNet> = nets.iter().filter(|net| Family::of(net) == self.family).collect();
            if mine.is_empty() && !nets.is_empty() && !negated {
                return None;
            }
            if mine.iter().any(|net| net.prefix_len() == 0) {
                if negated {
                    return None;
                }
                continue;
            }
            match mine.as_slice() {
                [] => {}
                [net] => matches.push(Match::Net { end, net: net.trunc(), negated }),
                _ => {
                    let ranges = merge(Members::collect(mine.iter().copied()).elements(self.family));
                    let set = self.literal('n', set_for(Key::Address(self.family), &ranges), ranges);
                    matches.push(Match::AddressSet { family: self.family, end, set, negated });
                }
            }
        }
        for (sets, negated) in [(&entity.sets, false), (&entity.not_sets, true)] {
            for id in sets {
                match self.names.set_name(id, self.family) {
                    Some(set) => matches.push(Match::AddressSet { family: self.family, end, set, negated }),
                    // No such set, no members: nothing is in it, everything is outside it.
                    None if negated => {}
                    None => return None,
                }
            }
        }
        Some(matches)
    }

    fn literal(&mut self, class: char, spec: SetSpec, ranges: Vec<Range>) -> String {
        let name = name::literal_set(class, &ranges);
        self.literals.entry(name.clone()).or_insert((spec, ranges));
        name
    }
}

fn icmp_match(icmp: IcmpMatch, negated: bool) -> Match {
    Match::Icmp { icmp_type: icmp.icmp_type, code: icmp.code, negated }
}

/// A hash set if all keys are single, else an interval set.
fn set_for(key: Key, ranges: &[Range]) -> SetSpec {
    SetSpec::set(key, ranges.iter().any(|(first, last)| first != last))
}

/// Ascending, without overlaps, neighbours joined. Upside-down ranges hold nothing and are dropped.
fn merge(ranges: impl IntoIterator<Item = Range>) -> Vec<Range> {
    let mut sorted: Vec<Range> = ranges.into_iter().filter(|(first, last)| first <= last).collect();
    sorted.sort_unstable();
    let mut merged: Vec<Range> = Vec::with_capacity(sorted.len());
    for (first, last) in sorted {
        match merged.last_mut() {
            Some(previous) if first <= previous.1.saturating_add(1) => previous.1 = previous.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_joined() {
        assert_eq!(merge([(5, 6), (1, 2), (3, 3), (9, 8), (6, 7)]), vec![(1, 3), (5, 7)]);
        assert_eq!(merge([(0, u128::MAX), (7, 7)]), vec![(0, u128::MAX)]);
        assert_eq!(merge([]), vec![]);
    }
}
