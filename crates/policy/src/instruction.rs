//! What the engine tells the dataplane, in words that fit any dataplane.
//!
//! Order within a flush: settings, hosts and pools; sets; policies and profiles; endpoints; then removals the other
//! way round, so that nothing is ever referred to before it exists or removed while it is referred to. Tunnels, tunnel
//! end points and routes follow; they depend on nothing before them.
//!
//! Instructions are the complete interface: a dataplane that applies them in order holds everything this host
//! needs and nothing else. They are level-triggered: an update carries the whole new value.

use std::{fmt, net::IpAddr, sync::Arc};

use calico_model::{KindName, MacAddress, ResourceKey};
use ipnet::IpNet;

use crate::packet::protocol_word;

mod overlay;
mod rule;
mod settings;

pub use overlay::{ClusterRoute, Tunnel, Tunnels, Vtep};
pub use rule::{EntityMatch, IcmpMatch, Rule, RuleAction};
pub use settings::{
    DenyAction, FailsafePort, HostAction, IptablesBackend, NatOutgoing, Renderer, ServiceLoop, Settings,
};

/// A set of addresses, or of addresses with a port, that rules refer to; upstream's identifier (`s:` and a hash of the
/// canonical selector, `n:` for a named port).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(pub String);

/// A profile's name as stored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileId(pub String);

/// Which of the two kinds a policy is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyKind {
    /// `GlobalNetworkPolicy`
    Global,
    /// `NetworkPolicy`
    Namespaced,
}

/// A policy: kind, namespace (empty for a global one) and name of its resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId {
    /// The kind.
    pub kind: PolicyKind,
    /// The resource's namespace; empty for a global policy.
    pub namespace: String,
    /// The resource's name.
    pub name: String,
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            PolicyKind::Global => write!(f, "{}", self.name),
            PolicyKind::Namespaced => write!(f, "{}/{}", self.namespace, self.name),
        }
    }
}

/// A host endpoint of this host: the name of its resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostEndpointId(pub String);

/// A local workload endpoint: namespace and name of its resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId {
    /// The resource's namespace.
    pub namespace: String,
    /// The resource's name.
    pub name: String,
}

impl PolicyId {
    /// The policy that is stored there; `None` for keys of other kinds.
    pub fn of(key: &ResourceKey) -> Option<Self> {
        let kind = match key.kind {
            KindName::GlobalNetworkPolicy => PolicyKind::Global,
            KindName::NetworkPolicy => PolicyKind::Namespaced,
            _ => return None,
        };
        Some(Self { kind, namespace: key.namespace.clone().unwrap_or_default(), name: key.name.clone() })
    }

    /// Where the policy is stored.
    pub fn key(&self) -> ResourceKey {
        match self.kind {
            PolicyKind::Global => ResourceKey::new(KindName::GlobalNetworkPolicy, None, &self.name),
            PolicyKind::Namespaced => ResourceKey::new(KindName::NetworkPolicy, Some(&self.namespace), &self.name),
        }
    }
}

impl EndpointId {
    /// The workload endpoint that is stored there.
    pub fn of(key: &ResourceKey) -> Self {
        Self { namespace: key.namespace.clone().unwrap_or_default(), name: key.name.clone() }
    }

    /// Where the endpoint is stored.
    pub fn key(&self) -> ResourceKey {
        ResourceKey::new(KindName::WorkloadEndpoint, Some(&self.namespace), &self.name)
    }
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
        /// All members, both families. Overlaps are possible. A set never changes between the two sorts.
        members: Members,
    },
    /// Change a set that exists.
    SetDelta {
        /// Which.
        id: SetId,
        /// Members to add; none is there yet. Of the set's sort.
        added: Members,
        /// Members to remove; all are there. Of the set's sort.
        removed: Members,
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
        rules: Arc<RuleSet>,
    },
    /// Remove a profile; no endpoint refers to it any more.
    ProfileRemove {
        /// Which.
        id: ProfileId,
    },
    /// Create or replace a policy's rules.
    PolicyUpdate {
        /// Which.
        id: PolicyId,
        /// Its rules.
        rules: Arc<RuleSet>,
    },
    /// Remove a policy; no endpoint refers to it any more.
    PolicyRemove {
        /// Which.
        id: PolicyId,
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
    /// Create or replace a host endpoint of this host.
    HostEndpointUpdate {
        /// Which.
        id: HostEndpointId,
        /// All there is to know of it.
        endpoint: HostEndpoint,
    },
    /// Remove a host endpoint.
    HostEndpointRemove {
        /// Which.
        id: HostEndpointId,
    },
    /// Replace the list of all hosts' addresses: those that tunnels and `NATOutgoingExclusions` speak of.
    Hosts {
        /// Sorted, without repeats.
        addresses: Vec<IpAddr>,
    },
    /// Replace the list of pools.
    Pools {
        /// All pools, disabled ones too.
        pools: Vec<Pool>,
    },
    /// Replace the host-wide settings.
    Settings(Settings),
    /// Replace this host's end of the overlay; without one in any family as long as there was none of these.
    Tunnels(Tunnels),
    /// Create or replace another host's end of the overlay.
    VtepUpdate {
        /// All there is to know of it.
        vtep: Vtep,
    },
    /// Remove it.
    VtepRemove {
        /// Which; see [`Vtep::address`].
        address: IpAddr,
    },
    /// Create or replace the route to addresses of a VXLAN pool. A workload of this host that has exactly the
    /// destination goes before it.
    RouteUpdate {
        /// Where to.
        destination: IpNet,
        /// The way.
        route: ClusterRoute,
    },
    /// Remove the route.
    RouteRemove {
        /// Where to.
        destination: IpNet,
    },
}

/// Members of a set: sorted, without repeats.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Members {
    /// Networks; single addresses as /32 and /128.
    Nets(Vec<IpNet>),
    /// Addresses with a protocol and port.
    Ports(Vec<PortMember>),
}

impl Members {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Nets(nets) => nets.len(),
            Self::Ports(ports) => ports.len(),
        }
    }

    /// True if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl FromIterator<IpNet> for Members {
    /// In any order, with repeats.
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        let mut nets: Vec<IpNet> = nets.into_iter().collect();
        nets.sort_unstable();
        nets.dedup();
        Self::Nets(nets)
    }
}

impl FromIterator<PortMember> for Members {
    /// In any order, with repeats.
    fn from_iter<I: IntoIterator<Item = PortMember>>(ports: I) -> Self {
        let mut ports: Vec<PortMember> = ports.into_iter().collect();
        ports.sort_unstable();
        ports.dedup();
        Self::Ports(ports)
    }
}

/// One port of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortMember {
    /// The endpoint's address.
    pub address: IpAddr,
    /// IP protocol number: TCP, UDP or SCTP.
    pub protocol: u8,
    /// The port.
    pub port: u16,
}

/// The rules of a policy or profile. A rule's index is its place in the resource's list, so the two lists have one
/// length each; what cannot be followed has made the whole set one that denies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RuleSet {
    /// For packets to the endpoint.
    pub ingress: Vec<Rule>,
    /// For packets from the endpoint.
    pub egress: Vec<Rule>,
}

/// The policies of one tier that apply to an endpoint, in order of evaluation. A tier without a policy for a direction
/// takes no part in it.
///
/// In each direction: the first policy with a matching rule decides; allow and deny end the evaluation, pass leaves the
/// tier. If no rule matched, the tier denies, unless [`pass_at_end`](Self::pass_at_end) says that it passes (untracked
/// and pre-DNAT lists never deny at the end of a tier).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TierPolicies {
    /// The tier's name.
    pub tier: String,
    /// `defaultAction` is Pass.
    pub pass_at_end: bool,
    /// For packets to the endpoint. Staged policies are not among them.
    pub ingress: Vec<PolicyId>,
    /// For packets from the endpoint.
    pub egress: Vec<PolicyId>,
}

/// One address of a workload under which another one, from outside, reaches it (floating IP).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nat {
    /// The endpoint's own.
    pub internal: IpAddr,
    /// The one that others use.
    pub external: IpAddr,
}

/// A port of the host that leads to a port of a workload (published port): new connections to a local address of the
/// host, with this protocol and port, have their destination translated before any policy but untracked and pre-DNAT
/// policy judges them. The order is that in which claims of one endpoint go before each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublishedPort {
    /// IP protocol number: TCP, UDP or SCTP.
    pub protocol: u8,
    /// The host's port.
    pub host_port: u16,
    /// The host's address; the unspecified one of a family means all that the host has of it. A port of one address
    /// goes before the same port of all.
    pub host: IpAddr,
    /// The endpoint's address, of the same family.
    pub address: IpAddr,
    /// The endpoint's port.
    pub port: u16,
}

impl PublishedPort {
    /// What can lead to one place only.
    #[must_use]
    pub fn claim(&self) -> PublishedAt {
        PublishedAt { protocol: self.protocol, port: self.host_port, host: self.host }
    }
}

/// A port of the host that can be published once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublishedAt {
    /// IP protocol number.
    pub protocol: u8,
    /// The port.
    pub port: u16,
    /// The address, unspecified for all of its family.
    pub host: IpAddr,
}

impl fmt::Display for PublishedAt {
    /// As people write it: `192.0.2.1:8080/tcp`, and without the address `8080/tcp`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            host if host.is_unspecified() => {}
            IpAddr::V4(host) => write!(f, "{host}:")?,
            IpAddr::V6(host) => write!(f, "[{host}]:")?,
        }
        write!(f, "{}/{}", self.port, protocol_word(self.protocol))
    }
}

/// Limits and marks of an endpoint's traffic; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Qos {
    /// Packets per second to the endpoint, established ones too; above it they are dropped.
    pub ingress_packet_rate: Option<u32>,
    /// Packets that may come at once.
    pub ingress_packet_burst: Option<u32>,
    /// Packets per second from the endpoint.
    pub egress_packet_rate: Option<u32>,
    /// Packets that may come at once.
    pub egress_packet_burst: Option<u32>,
    /// TCP connections to the endpoint at a time; further ones are reset.
    pub ingress_max_connections: Option<u32>,
    /// TCP connections from the endpoint at a time.
    pub egress_max_connections: Option<u32>,
    /// DSCP of packets to outside all pools and hosts, 0 to 63.
    pub dscp: Option<u8>,
}

/// A local workload endpoint. No profile and no policy: nothing passes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The host's end of the veth pair.
    pub interface: String,
    /// The workload's MAC address, for a permanent neighbour entry.
    pub mac: Option<MacAddress>,
    /// Addresses; each gets a route.
    pub addresses: Vec<IpAddr>,
    /// Networks that it may use as source although no route leads there. Empty unless the settings allow it.
    pub spoofable: Vec<IpNet>,
    /// Floating IPs; empty unless the settings allow them. An external address may have several claimants: the
    /// lowest internal address gets it.
    pub nats: Vec<Nat>,
    /// Ports of the host that lead here, sorted; none that the settings reserve for the host. Several endpoints may claim
    /// one: the lowest identifier gets it.
    pub published: Vec<PublishedPort>,
    /// Limits.
    pub qos: Qos,
    /// Policies, in the order of the tiers. Each has had its [`Instruction::PolicyUpdate`]. Shared by the endpoints
    /// that have equal ones: thousands of policies may select each of hundreds of endpoints.
    pub tiers: Arc<[TierPolicies]>,
    /// Profiles, asked in each direction in which no tier decided, in order of evaluation. Each has had its [`Instruction::ProfileUpdate`]; one that does not exist in
    /// the datastore, or that cannot be followed, arrives with rules that deny everything.
    pub profiles: Vec<ProfileId>,
}

/// The interfaces that a host endpoint stands for. Workload interfaces never, except that `AnyInterface` also sees
/// their forwarded and pre-DNAT traffic. Of several host endpoints for one interface the lowest identifier wins; one
/// that names an interface or its address goes before `AnyInterface`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostInterfaces {
    /// The interface of this name.
    Named(String),
    /// The interface that has one of these addresses, followed as they come and go.
    WithAddress(Vec<IpAddr>),
    /// All that no other host endpoint has, `lo` among them (`interfaceName: "*"`).
    AnyInterface,
}

/// A host endpoint. Which list sees which packets: `dataplane.md` 1.9. Failsafe ports pass all of them but `forward`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostEndpoint {
    /// Where.
    pub interfaces: HostInterfaces,
    /// For traffic of the host itself; then the profiles; then deny.
    pub normal: Vec<TierPolicies>,
    /// For forwarded traffic. Without a policy for a direction in any tier, that direction's traffic is not judged.
    pub forward: Vec<TierPolicies>,
    /// Before connection tracking; an allow means neither tracking nor any further host endpoint policy.
    pub untracked: Vec<TierPolicies>,
    /// Incoming, before destination NAT; ingress only.
    pub pre_dnat: Vec<TierPolicies>,
    /// Profiles of the normal list.
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
