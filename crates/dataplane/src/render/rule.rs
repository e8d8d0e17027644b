//! One policy's or profile's rules in one direction and family.

use std::collections::BTreeMap;

use calico_policy::instruction::{
    DenyAction, EntityMatch, IcmpMatch, PolicyKind, Rule as PolicyRule, RuleAction, SetId, Settings,
};
use ipnet::IpNet;

use super::Deny;
use crate::{
    Options,
    family::{Family, Range},
    listing,
    members::Members,
    name::{self, Direction, ListId},
    ruleset::{Action, Chain, End, Key, Match, Rule, SetSpec},
};

/// How rules name the sets of selectors.
pub(crate) trait SetNames {
    /// The name of the selector's set in this family's table; `None` if the set does not exist.
    fn set_name(&self, id: &SetId, family: Family) -> Option<String>;
    /// The name of a set of named ports; `None` if the set does not exist.
    fn port_set(&self, id: &SetId) -> Option<String>;
}

/// Sets named by their content that rules turned out to need.
pub(crate) type Literals = BTreeMap<String, (SetSpec, Vec<Range>)>;

/// Protocols of which policy knows ports: TCP, UDP, SCTP.
const PORT_PROTOCOLS: [u8; 3] = [6, 17, 132];

/// The chain of one policy's or profile's rules in one direction.
pub(crate) struct ListChain<'a> {
    /// Whose rules.
    pub list: &'a ListId,
    /// The tier of a policy.
    pub tier: &'a str,
    /// The rules; `None` if it does not exist. Endpoints may name a profile before it is made, and must not be opened by
    /// whatever else they name, so what does not exist denies.
    pub rules: Option<&'a [PolicyRule]>,
    /// Which of its rules.
    pub direction: Direction,
    /// It must not answer.
    pub quiet: bool,
}

impl ListChain<'_> {
    /// Renders it. `names` knows the sets of selectors; sets that rules need by content are added to `literals`.
    pub(crate) fn render(
        &self,
        family: Family,
        settings: &Settings,
        options: &Options,
        names: &dyn SetNames,
        literals: &mut Literals,
    ) -> Chain {
        let deny = Deny(if self.quiet { DenyAction::Drop } else { settings.deny }).action(family);
        let who = self.who();
        let mut chain = Chain {
            name: name::list_chain(self.list, self.direction, self.quiet),
            base: None,
            comment: Some(listing::chain_comment(&who, self.direction.word())),
            rules: Vec::new(),
        };
        let Some(rules) = self.rules else {
            let missing = Rule::new(Vec::new(), vec![deny]);
            chain.rules.push(missing.counted(format!("{who} does not exist")));
            return chain;
        };
        for (index, rule) in rules.iter().enumerate() {
            let alternatives = Renderer { family, names, literals: &mut *literals }.alternatives(rule);
            let (word, actions) = match rule.action {
                RuleAction::Allow => ("allow", vec![Action::SetMark(options.mark_accept), Action::Return]),
                RuleAction::Deny => ("deny", vec![deny.clone()]),
                RuleAction::Pass => ("pass", self.pass(options)),
                RuleAction::Log => ("log", vec![Action::Log(self.log_prefix(settings))]),
            };
            let comment = listing::rule_comment(&who, self.direction.word(), index, word);
            chain.rules.extend(alternatives.into_iter().map(|mut matches| {
                if rule.action == RuleAction::Log {
                    matches.extend(log_rate(settings));
                }
                Rule::new(matches, actions.clone()).counted(&comment)
            }));
        }
        chain
    }

    /// Out of the tier; out of a profile simply to what follows it.
    fn pass(&self, options: &Options) -> Vec<Action> {
        match self.list {
            ListId::Policy(_) => vec![Action::SetMark(options.mark_pass), Action::Return],
            ListId::Profile(_) => vec![Action::Return],
        }
    }

    fn who(&self) -> String {
        match self.list {
            ListId::Policy(id) => format!("policy {}/{id}", self.tier),
            ListId::Profile(id) => format!("profile {}", id.0),
        }
    }

    /// The setting with its specifiers filled in: tier, kind, name, namespace and name.
    fn log_prefix(&self, settings: &Settings) -> String {
        /// What the kernel takes, without the two characters that are added.
        const MOST: usize = 125;
        let (tier, kind, name, full) = match self.list {
            ListId::Policy(id) => {
                let kind = if id.kind == PolicyKind::Global { "gnp" } else { "np" };
                (self.tier, kind, id.name.as_str(), id.to_string())
            }
            ListId::Profile(id) => ("", "pro", id.0.as_str(), id.0.clone()),
        };
        let mut text = String::new();
        let mut rest = settings.log_prefix.as_str();
        while let Some((before, after)) = rest.split_once('%') {
            text.push_str(before);
            let word = match after.chars().next() {
                Some('t') => tier,
                Some('k') => kind,
                Some('n') => name,
                Some('p') => full.as_str(),
                _ => {
                    text.push('%');
                    rest = after;
                    continue;
                }
            };
            text.push_str(word);
            rest = &after[1..];
        }
        text.push_str(rest);
        let plain = |c: char| if c.is_ascii_graphic() && c != '"' && c != '\\' || c == ' ' { c } else { '?' };
        let text: String = text.chars().map(plain).take(MOST).collect();
        format!("{text}: ")
    }
}

fn log_rate(settings: &Settings) -> Option<Match> {
    /// What `limit` lets come at once if nobody says otherwise.
    const BURST: u32 = 5;
    let (packets, unit) = settings.log_rate?;
    // The kernel takes neither a rate nor a burst of none.
    let burst = settings.log_burst.unwrap_or(BURST).max(1);
    Some(Match::Rate { over: false, packets: u64::from(packets.max(1)), unit: u64::from(unit.max(1)), burst })
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
    /// The ways in which a rule's conditions can hold, none if they never can. A packet that meets two of them meets the
    /// rule twice, which only matters to rules that go on; those have ways that exclude each other.
    fn alternatives(&mut self, rule: &PolicyRule) -> Vec<Vec<Match>> {
        let mine = if self.family == Family::V4 { 4 } else { 6 };
        if rule.ip_version.is_some_and(|version| version != mine) {
            return Vec::new();
        }
        let headers = self.headers(rule);
        headers.into_iter().flat_map(|(header, protocol)| self.conditions(rule, header, protocol)).collect()
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
        if ends.iter().any(|end| wants_port(end)) {
            return vec![(Header::Ports, vec![self.has_ports(false)])];
        }
        let types = rule.not_icmp.is_some();
        let ports = ends.iter().any(|end| !end.not_ports.is_empty() || !end.not_port_sets.is_empty());
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
        Match::ProtocolSet { set: literal(self.literals, 't', SetSpec::set(Key::Protocol, false), ranges), negated }
    }

    /// All conditions for one kind of header, cheap ones first.
    fn conditions(&mut self, rule: &PolicyRule, header: Header, protocol: Vec<Match>) -> Vec<Vec<Match>> {
        let PolicyRule { action, ip_version: _, protocol: _, not_protocol, icmp, not_icmp, source, destination } = rule;
        let mut common = protocol;
        common.extend(not_protocol.map(|number| Match::Protocol { number, negated: true }));
        if icmp.is_some() && header != Header::Icmp {
            return Vec::new();
        }
        if header == Header::Icmp {
            common.extend(icmp.map(|icmp| icmp_match(icmp, false)));
            common.extend(not_icmp.map(|icmp| icmp_match(icmp, true)));
        }
        let ends = [(End::Source, source), (End::Destination, destination)];
        let mut ways = vec![common];
        for (end, entity) in ends {
            if header == Header::Ports {
                let ports = self.ports(end, entity, *action == RuleAction::Log);
                ways = ways.iter().flat_map(|way| ports.iter().map(|port| [way.as_slice(), port].concat())).collect();
            } else if wants_port(entity) {
                return Vec::new();
            }
        }
        let mut addresses = Vec::new();
        for (end, entity) in ends {
            let Some(conditions) = self.addresses(end, entity) else { return Vec::new() };
            addresses.extend(conditions);
        }
        for way in &mut ways {
            way.extend_from_slice(&addresses);
        }
        ways
    }

    /// The ways in which one end's port can be right: it is one of the numbers, or one of a named port's.
    fn ports(&mut self, end: End, entity: &EntityMatch, exclusive: bool) -> Vec<Vec<Match>> {
        let mut none_of = Vec::new();
        if !entity.not_ports.is_empty() {
            match literal_ports(end, &entity.not_ports, true, self.literals) {
                Some(condition) => none_of.extend(condition),
                None => return Vec::new(),
            }
        }
        none_of.extend(entity.not_port_sets.iter().filter_map(|id| self.port_set(end, id, true)));
        if !wants_port(entity) {
            return vec![none_of];
        }
        let mut ways = Vec::new();
        // What a packet must not be for a later way, as it took an earlier one.
        let mut taken: Vec<Match> = Vec::new();
        if !entity.ports.is_empty()
            && let Some(condition) = literal_ports(end, &entity.ports, false, self.literals)
        {
            if condition.is_empty() {
                return vec![none_of];
            }
            ways.push([condition, none_of.clone()].concat());
            taken.extend(literal_ports(end, &entity.ports, true, self.literals).unwrap_or_default());
        }
        for id in &entity.port_sets {
            let Some(condition) = self.port_set(end, id, false) else { continue };
            let mut way = if exclusive { taken.clone() } else { Vec::new() };
            way.push(condition);
            way.extend_from_slice(&none_of);
            ways.push(way);
            taken.extend(self.port_set(end, id, true));
        }
        ways
    }

    /// `None`: no such set, so nothing is in it.
    fn port_set(&self, end: End, id: &SetId, negated: bool) -> Option<Match> {
        let set = self.names.port_set(id)?;
        Some(Match::PortMemberSet { family: self.family, end, set, negated })
    }

    fn addresses(&mut self, end: End, entity: &EntityMatch) -> Conditions {
        let mut matches = Vec::new();
        if !entity.nets.is_empty() {
            matches.extend(literal_addresses(self.family, end, &entity.nets, self.literals)?);
        }
        let mine: Vec<&IpNet> = entity.not_nets.iter().filter(|net| Family::of(net) == self.family).collect();
        match mine.as_slice() {
            [] => {}
            nets if nets.iter().any(|net| net.prefix_len() == 0) => return None,
            [net] => matches.push(Match::Net { end, net: net.trunc(), negated: true }),
            nets => matches.push(address_literal(self.family, end, nets, true, self.literals)),
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
}

/// Some port of this end must be a certain one.
fn wants_port(entity: &EntityMatch) -> bool {
    !entity.ports.is_empty() || !entity.port_sets.is_empty()
}

/// The address is in one of the networks of the family. `None` if there is none of it: that never holds. No condition
/// if everything is in them.
pub(super) fn literal_addresses(family: Family, end: End, nets: &[IpNet], literals: &mut Literals) -> Conditions {
    let mine: Vec<&IpNet> = nets.iter().filter(|net| Family::of(net) == family).collect();
    match mine.as_slice() {
        [] => None,
        nets if nets.iter().any(|net| net.prefix_len() == 0) => Some(Vec::new()),
        [net] => Some(vec![Match::Net { end, net: net.trunc(), negated: false }]),
        nets => Some(vec![address_literal(family, end, nets, false, literals)]),
    }
}

fn address_literal(family: Family, end: End, nets: &[&IpNet], negated: bool, literals: &mut Literals) -> Match {
    let ranges = merge(Members::collect(nets.iter().copied()).elements(family));
    let set = literal(literals, 'n', set_for(Key::Address(family), &ranges), ranges);
    Match::AddressSet { family, end, set, negated }
}

/// The port is in one of the ranges or, negated, in none. `None` if that never holds, no condition if it always does.
pub(super) fn literal_ports(end: End, ports: &[(u16, u16)], negated: bool, literals: &mut Literals) -> Conditions {
    let ranges = merge(ports.iter().map(|(a, b)| (u128::from(*a), u128::from(*b))));
    match ranges.as_slice() {
        // All ranges were upside down: no port is in an empty list, every port is outside it.
        [] if negated => Some(Vec::new()),
        [] => None,
        [(0, 0xffff)] if negated => None,
        [(0, 0xffff)] => Some(Vec::new()),
        [(first, last)] => Some(vec![Match::Port { end, range: (*first as u16, *last as u16), negated }]),
        _ => {
            let set = literal(literals, 'p', set_for(Key::Port, &ranges), ranges);
            Some(vec![Match::PortSet { end, set, negated }])
        }
    }
}

fn literal(literals: &mut Literals, class: char, spec: SetSpec, ranges: Vec<Range>) -> String {
    let name = name::literal_set(class, &ranges);
    literals.entry(name.clone()).or_insert((spec, ranges));
    name
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
