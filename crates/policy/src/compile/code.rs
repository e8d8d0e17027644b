//! Rules that were understood, in little memory: of all policies of a cluster few are in use on a host.
//!
//! Selectors are still texts here. [`Code::link`] turns them into sets, which exist only for what is in use.

use ipnet::IpNet;

use crate::{
    index::PortFilter,
    instruction::{EntityMatch, IcmpMatch, Rule, RuleAction, RuleSet, SetId},
};

/// `ip_version` of a rule whose conditions hold in neither family: it keeps its place and never matches.
pub(crate) const NEITHER_FAMILY: u8 = 0;

/// The rules of a policy or profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Code {
    pub(crate) ingress: Box<[CodeRule]>,
    pub(crate) egress: Box<[CodeRule]>,
}

/// As [`Rule`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CodeRule {
    pub(crate) action: RuleAction,
    pub(crate) ip_version: Option<u8>,
    pub(crate) protocol: Option<u8>,
    pub(crate) not_protocol: Option<u8>,
    pub(crate) icmp: Option<IcmpMatch>,
    pub(crate) not_icmp: Option<IcmpMatch>,
    /// `None` without conditions.
    pub(crate) source: Option<Box<CodeEnd>>,
    pub(crate) destination: Option<Box<CodeEnd>>,
}

/// As [`EntityMatch`], before selectors and names of ports have become sets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct CodeEnd {
    pub(crate) nets: Box<[IpNet]>,
    pub(crate) not_nets: Box<[IpNet]>,
    /// A selector that parses.
    pub(crate) positive: Option<Box<str>>,
    /// Another one.
    pub(crate) negative: Option<Box<str>>,
    pub(crate) ports: Box<[(u16, u16)]>,
    pub(crate) not_ports: Box<[(u16, u16)]>,
    pub(crate) names: Box<[Box<str>]>,
    pub(crate) not_names: Box<[Box<str>]>,
}

impl Code {
    /// Rules that let nothing pass, for what cannot be followed. Explicit, so that what is asked later cannot open what
    /// this might have closed.
    pub(crate) fn closed() -> Self {
        Self::both(RuleAction::Deny)
    }

    /// Rules that let everything pass, for the profile that every cluster has.
    pub(crate) fn open() -> Self {
        Self::both(RuleAction::Allow)
    }

    fn both(action: RuleAction) -> Self {
        let rule = CodeRule {
            action,
            ip_version: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: None,
            destination: None,
        };
        Self { ingress: Box::new([rule.clone()]), egress: Box::new([rule]) }
    }

    /// The rules with their selectors turned into sets by `set`, which is asked for each use of one.
    pub(crate) fn link(&self, mut set: impl FnMut(&str, Option<PortFilter<'_>>) -> SetId) -> RuleSet {
        let mut all = |rules: &[CodeRule]| rules.iter().map(|rule| rule.link(&mut set)).collect();
        RuleSet { ingress: all(&self.ingress), egress: all(&self.egress) }
    }

    /// All rules.
    pub(crate) fn rules(&self) -> impl Iterator<Item = &CodeRule> {
        self.ingress.iter().chain(&self.egress)
    }
}

impl CodeRule {
    /// Both ends that have conditions.
    pub(crate) fn ends(&self) -> impl Iterator<Item = &CodeEnd> {
        self.source.iter().chain(&self.destination).map(AsRef::as_ref)
    }

    fn link(&self, set: &mut impl FnMut(&str, Option<PortFilter<'_>>) -> SetId) -> Rule {
        let mut end =
            |end: &Option<Box<CodeEnd>>| end.as_ref().map_or_else(EntityMatch::default, |end| end.link(self, set));
        Rule {
            action: self.action,
            ip_version: self.ip_version,
            protocol: self.protocol,
            not_protocol: self.not_protocol,
            icmp: self.icmp,
            not_icmp: self.not_icmp,
            source: end(&self.source),
            destination: end(&self.destination),
        }
    }
}

impl CodeEnd {
    /// The selector that narrows sets of named ports, negated ones too.
    fn narrowing(&self) -> &str {
        self.positive.as_deref().unwrap_or("all()")
    }

    /// Where all ports are named, the sets of ports imply the selector: its own set is not needed.
    fn needs_positive_set(&self) -> bool {
        self.names.is_empty() || !self.ports.is_empty()
    }

    fn link(&self, rule: &CodeRule, set: &mut impl FnMut(&str, Option<PortFilter<'_>>) -> SetId) -> EntityMatch {
        // Of the protocols without a word of their own only TCP has named ports; a rule that names another one besides
        // ports is refused before.
        let protocol = rule.protocol.map(|number| if matches!(number, 17 | 132) { number } else { 6 });
        let mut named = |names: &[Box<str>]| {
            names.iter().map(|name| set(self.narrowing(), Some(PortFilter { name, protocol }))).collect()
        };
        let (port_sets, not_port_sets) = (named(&self.names), named(&self.not_names));
        let positive = self.positive.as_deref().filter(|_| self.needs_positive_set());
        EntityMatch {
            nets: self.nets.to_vec(),
            not_nets: self.not_nets.to_vec(),
            sets: positive.into_iter().map(|text| set(text, None)).collect(),
            not_sets: self.negative.as_deref().into_iter().map(|text| set(text, None)).collect(),
            ports: self.ports.to_vec(),
            not_ports: self.not_ports.to_vec(),
            port_sets,
            not_port_sets,
        }
    }
}
