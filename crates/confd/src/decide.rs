//! From the facts to the configuration.
//!
//! Pure and total: every state gives a configuration with the problems that it steps around, or says what it waits
//! for. One bad record never costs more than itself: whatever BIRD would refuse a whole file for is checked here,
//! and what would be more open without the part that is missing is left out altogether.

use std::net::Ipv4Addr;

use calico_model::{AsNumber, BGPConfigurationSpec, EncapMode, IPPoolSpec};
use ipnet::IpNet;
use sha2::{Digest, Sha256};

use crate::{
    community,
    config::{BirdConfig, FamilyConfig, Gateway, Tag, Verbosity, description, interface_pattern},
    filters::{self, Library},
    peers::{self, Sessions},
    secrets::Secrets,
    state::{HostAddress, NodeFacts, Problem, State},
};

/// The AS number of clusters that have not said theirs.
const DEFAULT_AS: AsNumber = AsNumber(64512);
/// BGP's own port.
pub(crate) const BGP_PORT: u16 = 179;

/// Why there is no configuration yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Waiting {
    /// Before the first complete snapshot.
    #[error("waiting for the first complete snapshot of the datastore")]
    Snapshot,
    /// The node's start-up has not written it yet, or somebody removed it.
    #[error("waiting for node {0} to appear in the datastore")]
    Node(String),
    /// No session could have a source.
    #[error("waiting for node {0} to get a BGP address (spec.bgp.ipv4Address or ipv6Address)")]
    Address(String),
}

/// A configuration and what it steps around.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What BIRD shall do.
    pub config: BirdConfig,
    /// Sorted, each once.
    pub problems: Vec<Problem>,
}

/// What the whole configuration depends on.
pub(crate) struct Context<'a> {
    pub(crate) state: &'a State,
    pub(crate) me: &'a NodeFacts,
    pub(crate) local_as: AsNumber,
    /// What nodes without an AS number of their own have.
    pub(crate) cluster_as: AsNumber,
    /// The configuration of the cluster; empty without one.
    pub(crate) cluster: &'a BGPConfigurationSpec,
    /// The BGPFilters.
    pub(crate) filters: &'a Library,
}

impl Context<'_> {
    /// The settings of one node.
    pub(crate) fn settings(&self, node: &str) -> Option<&BGPConfigurationSpec> {
        self.state.settings.get(&format!("node.{node}"))
    }

    /// True if this node is to listen on its own addresses only.
    pub(crate) fn strict_bind(&self) -> bool {
        let own = self.settings(&self.state.node).and_then(|own| own.bind_mode.as_ref());
        own.or(self.cluster.bind_mode.as_ref()).is_some_and(|mode| mode == "NodeIP")
    }

    /// Where a node listens, if not on port 179.
    pub(crate) fn listen_port(&self, node: &str) -> Option<u16> {
        let own = self.settings(node).and_then(|settings| settings.listen_port);
        own.or(self.cluster.listen_port).filter(|port| !matches!(*port, 0 | BGP_PORT))
    }
}

impl State {
    /// The configuration that the facts ask for.
    ///
    /// # Errors
    /// What is missing before there can be one.
    pub fn decide(&self, secrets: &dyn Secrets) -> Result<Decision, Waiting> {
        if !self.in_sync {
            return Err(Waiting::Snapshot);
        }
        let me = self.nodes.get(&self.node).ok_or_else(|| Waiting::Node(self.node.clone()))?;
        if me.v4.is_none() && me.v6.is_none() {
            return Err(Waiting::Address(self.node.clone()));
        }
        let none = BGPConfigurationSpec::default();
        let cluster = self.settings.get("default").unwrap_or(&none);
        let cluster_as = cluster.as_number.filter(|number| number.0 != 0).unwrap_or(DEFAULT_AS);
        let local_as = me.as_number.unwrap_or(cluster_as);
        let filters = Library::new(&self.filters);
        let context = Context { state: self, me, local_as, cluster_as, cluster, filters: &filters };

        let mut problems: Vec<Problem> = self.unreadable().collect();
        for (name, node) in &self.nodes {
            problems.extend(node.problems.iter().map(|reason| Problem::new(format_args!("node {name}"), reason)));
        }
        let sessions = peers::sessions(&context, secrets, &mut problems);
        let config = context.config(sessions, &mut problems);
        problems.sort();
        problems.dedup();
        Ok(Decision { config, problems })
    }
}

impl Context<'_> {
    fn config(&self, sessions: Sessions, problems: &mut Vec<Problem>) -> BirdConfig {
        let name = &self.state.node;
        let own = self.settings(name);
        let tags = community::tags(own, self.cluster, problems);
        unfollowed(self.cluster, own, problems);
        let families = [
            self.family(4, self.me.v4, sessions.v4, &tags, problems),
            self.family(6, self.me.v6, sessions.v6, &tags, problems),
        ];
        BirdConfig {
            node: description(name),
            router_id: router_id(name, self.me.v4),
            local_as: self.local_as.0,
            listen_port: self.listen_port(name),
            strict_bind: self.strict_bind(),
            verbosity: self.verbosity(own, problems),
            ignored_interfaces: self.ignored_interfaces(own, problems),
            normal_preference: self.filters.priorities.then_some(filters::NORMAL_PREFERENCE),
            families,
        }
    }

    fn verbosity(&self, own: Option<&BGPConfigurationSpec>, problems: &mut Vec<Problem>) -> Verbosity {
        let word = |settings: &BGPConfigurationSpec| {
            (!settings.log_severity_screen.is_empty()).then(|| settings.log_severity_screen.clone())
        };
        let Some(severity) = own.and_then(word).or_else(|| word(self.cluster)) else {
            return Verbosity::default();
        };
        Verbosity::from_severity(&severity).unwrap_or_else(|| {
            problems.push(Problem::new("logSeverityScreen", format_args!("{severity:?} is no severity; Info is used")));
            Verbosity::default()
        })
    }

    fn ignored_interfaces(&self, own: Option<&BGPConfigurationSpec>, problems: &mut Vec<Problem>) -> Vec<String> {
        let stated = own.map(|own| &own.ignored_interfaces).filter(|patterns| !patterns.is_empty());
        let mut patterns = Vec::new();
        for text in stated.unwrap_or(&self.cluster.ignored_interfaces) {
            match interface_pattern(text) {
                Some(pattern) => patterns.push(pattern),
                None => problems.push(Problem::new(
                    "ignoredInterfaces",
                    format_args!("{text:?} is not a pattern of an interface name; it is ignored"),
                )),
            }
        }
        sorted(patterns)
    }

    fn family(
        &self,
        v: u8,
        host: Option<HostAddress>,
        peers: Vec<crate::config::Peer>,
        tags: &[Tag],
        problems: &mut Vec<Problem>,
    ) -> FamilyConfig {
        let of_family = |net: &IpNet| matches!(net, IpNet::V4(_)) == (v == 4);
        let pools = |keep: fn(&IPPoolSpec) -> bool| {
            let kept = self.state.pools.values().filter(|pool| keep(pool)).map(|pool| pool.cidr.trunc());
            sorted(kept.filter(of_family).collect())
        };
        let onlink: Vec<IpNet> = host.into_iter().map(|host| host.subnet).collect();
        FamilyConfig {
            v,
            address: host.map(|host| host.address),
            onlink_pools: self.onlink_pools(&onlink, problems),
            onlink,
            blocks: sorted(self.state.blocks.values().copied().filter(of_family).collect()),
            pools: pools(|pool| !pool.disable_bgp_export),
            no_export: pools(|pool| pool.disable_bgp_export),
            encapsulated: pools(is_encapsulated),
            services: sorted(self.services(problems).into_iter().filter(of_family).collect()),
            tags: tags.iter().filter(|tag| of_family(&tag.prefix)).cloned().collect(),
            gateways: gateways(&peers),
            functions: self
                .filters
                .functions(v, peers.iter().flat_map(|p| p.import.calls.iter().chain(&p.export.calls))),
            peers,
        }
    }

    /// Pools inside the node's own subnets, whose blocks peers must be able to give. A pool that covers such a
    /// subnet is none: it would let peers take over the subnet.
    fn onlink_pools(&self, onlink: &[IpNet], problems: &mut Vec<Problem>) -> Vec<IpNet> {
        let mut inside = Vec::new();
        for (name, pool) in &self.state.pools {
            let cidr = pool.cidr.trunc();
            for subnet in onlink {
                if subnet.contains(&cidr) && *subnet != cidr {
                    inside.push(cidr);
                } else if cidr.contains(subnet) {
                    problems.push(Problem::new(
                        format_args!("pool {name}"),
                        format_args!(
                            "{cidr} covers {subnet}, the subnet of this node: blocks inside the subnet cannot be \
                             reached from here; choose a pool apart from the hosts' addresses"
                        ),
                    ));
                }
            }
        }
        sorted(inside)
    }

    fn services(&self, problems: &mut Vec<Problem>) -> Vec<IpNet> {
        let stated = [
            &self.cluster.service_cluster_ips,
            &self.cluster.service_external_ips,
            &self.cluster.service_load_balancer_ips,
        ];
        let mut found = Vec::new();
        for text in stated.into_iter().flatten().map(|range| &range.cidr) {
            match text.parse::<IpNet>() {
                Ok(net) => found.push(net.trunc()),
                Err(_) => problems.push(Problem::new(
                    "BGPConfiguration default",
                    format_args!("{text:?} is not a service range; it is ignored"),
                )),
            }
        }
        found
    }
}

/// Fixed routes to neighbours, one each: two sessions with one neighbour share the first by port.
fn gateways(peers: &[crate::config::Peer]) -> Vec<Gateway> {
    let stated = peers.iter().filter_map(|peer| {
        let gateway = peer.reachable_by?;
        Some(Gateway { peer: peer.address.into(), gateway })
    });
    let mut gateways: Vec<Gateway> = stated.collect();
    gateways.sort();
    gateways.dedup_by_key(|gateway| gateway.peer);
    gateways
}

/// Says what of the settings is not followed.
fn unfollowed(cluster: &BGPConfigurationSpec, own: Option<&BGPConfigurationSpec>, problems: &mut Vec<Problem>) {
    let mut say = |subject: &str, reason: &str| problems.push(Problem::new(subject, reason));
    let services = [&cluster.service_cluster_ips, &cluster.service_external_ips, &cluster.service_load_balancer_ips];
    if services.into_iter().any(|ranges| !ranges.is_empty()) {
        say(
            "BGPConfiguration default",
            "service ranges are for Kubernetes: without it there is no service to announce; \
             what peers announce of them is passed on and stays out of the kernel",
        );
    }
    for (name, settings) in [("default", Some(cluster)), ("of this node", own)] {
        let Some(settings) = settings else { continue };
        let subject = format!("BGPConfiguration {name}");
        for (member, usual, reason) in UNFOLLOWED {
            let stated = settings.extra.get(*member).filter(|value| !value.is_null());
            if stated.is_some_and(|value| value.to_string().trim_matches('"') != *usual) {
                say(&subject, &format!("{member} is not followed: {reason}"));
            }
        }
    }
}

/// Members of a BGPConfiguration that are not followed, the value that makes no difference, and why not.
const UNFOLLOWED: &[(&str, &str, &str)] = &[
    (
        "programClusterRoutes",
        "EnabledNoEncapOnly",
        "BIRD writes the routes of pools without encapsulation into the kernel, felix those of the others",
    ),
    ("ipv4NormalRoutePriority", "1024", "BIRD's routes have one fixed metric, 2048"),
    ("ipv6NormalRoutePriority", "1024", "BIRD's routes have one fixed metric, 2048"),
    ("localWorkloadPeeringIPV4", "", "there is no BGP with workloads"),
    ("localWorkloadPeeringIPV6", "", "there is no BGP with workloads"),
];

fn is_encapsulated(pool: &IPPoolSpec) -> bool {
    [pool.vxlan_mode, pool.ipip_mode].into_iter().flatten().any(|mode| mode != EncapMode::Never)
}

/// The IPv4 address, else 32 bits of a hash of the name: unique enough, the same after every restart, never 0.
fn router_id(node: &str, v4: Option<HostAddress>) -> Ipv4Addr {
    if let Some(std::net::IpAddr::V4(address)) = v4.map(|host| host.address) {
        return address;
    }
    let hash = Sha256::digest(node.as_bytes());
    let number = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
    Ipv4Addr::from(number.max(1))
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort();
    list.dedup();
    list
}
