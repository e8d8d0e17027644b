//! Rules: what a packet must be like, and what then happens to it.

use ipnet::IpNet;

use super::SetId;

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RuleAction {
    /// Accept.
    Allow,
    /// Drop.
    Deny,
    /// Leave the tier; in a profile: go on with what follows the profiles.
    Pass,
    /// Write a log line and go on.
    Log,
}

/// One rule. All conditions must hold; a list holds if any of its members does; an empty list is no condition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// What it does.
    pub action: RuleAction,
    /// 4 or 6 only; 0 stands for neither: the rule keeps its place and never matches.
    pub ip_version: Option<u8>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Any protocol but this.
    pub not_protocol: Option<u8>,
    /// ICMP type and code (ICMPv6 in IPv6).
    pub icmp: Option<IcmpMatch>,
    /// Not this ICMP type and code.
    pub not_icmp: Option<IcmpMatch>,
    /// Conditions on the source.
    pub source: EntityMatch,
    /// Conditions on the destination.
    pub destination: EntityMatch,
}

impl Rule {
    /// A rule without conditions.
    pub fn of(action: RuleAction) -> Self {
        Self {
            action,
            ip_version: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: EntityMatch::default(),
            destination: EntityMatch::default(),
        }
    }
}

/// ICMP type, and code within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IcmpMatch {
    /// The type.
    pub icmp_type: u8,
    /// The code, any if `None`.
    pub code: Option<u8>,
}

/// Conditions on one end of a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct EntityMatch {
    /// In any of these networks. Networks of the other family than the packet's never match.
    pub nets: Vec<IpNet>,
    /// In none of these.
    pub not_nets: Vec<IpNet>,
    /// In each of these sets.
    pub sets: Vec<SetId>,
    /// In none of these sets.
    pub not_sets: Vec<SetId>,
    /// Port in any of these ranges, both ends included; or address, protocol and port in any of
    /// [`port_sets`](Self::port_sets). No condition if both are empty.
    pub ports: Vec<(u16, u16)>,
    /// Port in none of these.
    pub not_ports: Vec<(u16, u16)>,
    /// Sets of named ports and of services' back ends: see [`ports`](Self::ports).
    pub port_sets: Vec<SetId>,
    /// Address, protocol and port in none of these sets.
    pub not_port_sets: Vec<SetId>,
}
