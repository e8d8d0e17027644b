//! What the engine tells the dataplane, in words that fit any dataplane.
//!
//! Instructions are the complete interface: a dataplane that applies them in order holds everything this host
//! needs and nothing else. They are level-triggered: an update carries the whole new value.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use calico_model::MacAddress;
use ipnet::IpNet;

/// A set of addresses that rules refer to; upstream's identifier (`s:` and a hash of the canonical selector).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(pub String);

/// A profile's name as stored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileId(pub String);

/// A local workload endpoint: namespace and name of its resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId {
    /// The resource's namespace.
    pub namespace: String,
    /// The resource's name.
    pub name: String,
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One change of what the kernel must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// Create a set, or replace its members.
    SetReplace {
        /// Which.
        id: SetId,
        /// All members, both families. Overlaps are possible.
        members: BTreeSet<IpNet>,
    },
    /// Change a set that exists.
    SetDelta {
        /// Which.
        id: SetId,
        /// Members to add; none is there yet.
        added: Vec<IpNet>,
        /// Members to remove; all are there.
        removed: Vec<IpNet>,
    },
    /// Remove a set; nothing refers to it any more.
    SetRemove {
        /// Which.
        id: SetId,
    },
    /// Create or replace a profile's rules.
    ProfileUpdate {
        /// Which.
        id: ProfileId,
        /// Its rules.
        rules: RuleSet,
    },
    /// Remove a profile; no endpoint refers to it any more.
    ProfileRemove {
        /// Which.
        id: ProfileId,
    },
    /// Create or replace a local endpoint.
    EndpointUpdate {
        /// Which.
        id: EndpointId,
        /// All there is to know of it.
        endpoint: Endpoint,
    },
    /// Remove a local endpoint.
    EndpointRemove {
        /// Which.
        id: EndpointId,
    },
    /// Replace the list of pools.
    Pools {
        /// All pools, disabled ones too.
        pools: Vec<Pool>,
    },
    /// Replace the host-wide settings.
    Settings(Settings),
}

/// The rules of a policy or profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RuleSet {
    /// For packets to the endpoint.
    pub ingress: Vec<Rule>,
    /// For packets from the endpoint.
    pub egress: Vec<Rule>,
}

/// A local workload endpoint. No profile and no policy: nothing passes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The host's end of the veth pair.
    pub interface: String,
    /// The workload's MAC address, for a permanent neighbour entry.
    pub mac: Option<MacAddress>,
    /// Addresses; each gets a route.
    pub addresses: Vec<IpAddr>,
    /// Profiles in order of evaluation. Each has had its [`Instruction::ProfileUpdate`]; one that does not exist in
    /// the datastore, or that cannot be followed, arrives with rules that deny everything.
    pub profiles: Vec<ProfileId>,
}

/// A pool, as far as packets are concerned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pool {
    /// The range.
    pub cidr: IpNet,
    /// Masquerade what goes from here to outside all pools.
    pub masquerade: bool,
}

/// What happens to packets from a workload to its own host that egress policy allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HostAction {
    /// Drop them.
    Drop,
    /// Accept them.
    Accept,
    /// Leave them to the host's own INPUT rules.
    #[default]
    Return,
}

/// Host-wide settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Workload to host.
    pub endpoint_to_host: HostAction,
}

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
    /// 4 or 6 only.
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
    /// Port in any of these ranges, both ends included.
    pub ports: Vec<(u16, u16)>,
    /// Port in none of these.
    pub not_ports: Vec<(u16, u16)>,
}
