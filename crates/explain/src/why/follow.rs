//! The packet's way: which hosts judge it, and what it looks like there.

use std::net::{IpAddr, SocketAddr};

use calico_model::{AnyResource, EncapMode, IPPool, KindName, ResourceKey, WorkloadEndpoint};
use calico_policy::{
    instruction::{EndpointId, PolicyId},
    oracle::{self, Flow, State},
    packet::{Hop, Packet, Transport, Verdict},
};

use super::{End, Question, Route, Translated};
use crate::{
    Cluster,
    plan::probes::{self, Bounds},
};

pub(super) use probes::CLIENT_PORT;

/// The packet on one host.
pub(super) struct Leg {
    pub node: String,
    pub state: State,
    pub packet: Packet,
}

impl Leg {
    pub(super) fn judge(&self) -> Flow {
        oracle::flow(&self.state, &self.packet)
    }
}

/// The sender's host, then the receiver's if it is another. None if neither is of the cluster.
pub(super) fn legs(cluster: &Cluster, question: &Question) -> Vec<Leg> {
    let mut nodes: Vec<String> =
        [&question.from, &question.to].iter().filter_map(|party| cluster.node_of(&party.end)).collect();
    nodes.dedup();
    let mut legs: Vec<Leg> = Vec::new();
    for node in nodes {
        let mut state = cluster.seen_from(&node);
        state.interfaces = cluster.interfaces(&node);
        let hop = |end: &End| hop(cluster, end, &node);
        // What the host before has made of it.
        let source = legs.last().map_or(question.from.address, |leg| leg.state.seen_source(&leg.packet));
        let (from, to) = (hop(&question.from.end), hop(&question.to.end));
        let packet = Packet::new(from, to, source, question.to.address, question.transport);
        legs.push(Leg { node, state, packet });
    }
    legs
}

/// Where an end is, seen from a host.
fn hop(cluster: &Cluster, end: &End, node: &str) -> Hop {
    match end {
        End::Endpoint(id) => match cluster.endpoint(id) {
            Some(endpoint) if endpoint.spec.node == node => Hop::Interface(endpoint.spec.interface_name.clone()),
            _ => Hop::Interface(cluster.uplink(node)),
        },
        End::Host(name) if name == node => Hop::Host,
        _ => Hop::Interface(cluster.uplink(node)),
    }
}

/// The verdict on the same way for another packet.
pub(super) fn verdict_of(legs: &[Leg], transport: Transport) -> Verdict {
    let judged = legs.iter().map(|leg| {
        let packet = Packet { transport, ..leg.packet.clone() };
        oracle::flow(&leg.state, &packet).verdict()
    });
    judged.into_iter().find(|verdict| !verdict.is_allow()).unwrap_or(Verdict::Allow)
}

/// What the rules that may decide tell apart: those of the two endpoints, and of the hosts' own endpoints; and the ports
/// that lead somewhere else.
pub(super) fn bounds(cluster: &Cluster, nodes: &[&str], question: &Question) -> Bounds {
    let mut bounds = Bounds::default();
    for node in nodes {
        let (programmed, _) = cluster.programmed(node);
        let own = [&question.from.end, &question.to.end].into_iter().filter_map(|end| match end {
            End::Endpoint(id) => programmed.endpoints.get(id),
            _ => None,
        });
        let hosts = || programmed.host_endpoints.values();
        let lists = hosts().flat_map(|host| [&host.normal, &host.forward, &host.untracked, &host.pre_dnat]);
        let tiers = own.clone().flat_map(|endpoint| endpoint.tiers.iter()).chain(lists.flat_map(|tiers| tiers.iter()));
        let policies: Vec<&PolicyId> = tiers.flat_map(|tier| tier.ingress.iter().chain(&tier.egress)).collect();
        let profiles =
            own.flat_map(|endpoint| endpoint.profiles.iter()).chain(hosts().flat_map(|host| host.profiles.iter()));
        let rules = policies.into_iter().filter_map(|id| programmed.policies.get(id));
        let rules = rules.chain(profiles.filter_map(|id| programmed.profiles.get(id)));
        for rule in rules.flat_map(|set| set.ingress.iter().chain(&set.egress)) {
            bounds.take(&programmed, rule);
        }
        if question.to.end == End::Host((*node).to_owned()) {
            let published = programmed.endpoints.values().flat_map(|endpoint| &endpoint.published);
            published.for_each(|port| bounds.port(port.host_port));
        }
        let failsafe = [&programmed.settings.failsafe_inbound, &programmed.settings.failsafe_outbound];
        if hosts().next().is_some() {
            failsafe.into_iter().flatten().for_each(|port| bounds.port(port.port));
        }
    }
    bounds
}

/// The way in words.
pub(super) fn route(cluster: &Cluster, question: &Question, legs: &[Leg]) -> Route {
    let mut route = Route::default();
    let (from, to) = (cluster.node_of(&question.from.end), cluster.node_of(&question.to.end));
    let interface = |end: &End| match end {
        End::Endpoint(id) => cluster.endpoint(id).map(|endpoint| endpoint.spec.interface_name.clone()),
        _ => None,
    };
    let last = interface(&question.to.end).map_or(String::new(), |name| format!(", there by {name}"));
    route.text = match (&from, &to) {
        (Some(from), Some(to)) if from == to => format!("stays on {from}{last}"),
        (Some(from), Some(to)) => {
            let address = cluster.addresses(&End::Host(to.clone()));
            let address = address.into_iter().find(|own| own.is_ipv4() == question.to.address.is_ipv4());
            route.next_hop = address.map(|address| address.to_string());
            match &route.next_hop {
                Some(hop) => {
                    let pool = pool(cluster, question);
                    if pool.is_some_and(|pool| is_encapsulated(pool.spec.ipip_mode, false)) {
                        let warning = "the pool asks for IP-in-IP, which is not supported: no route leads there";
                        route.warnings.push(warning.to_owned());
                    }
                    let near = address.is_some_and(|address| share_subnet(cluster, from, address));
                    let through = pool.is_some_and(|pool| is_encapsulated(pool.spec.vxlan_mode, near));
                    format!("{from} to {to} ({hop}){}{last}", if through { " through VXLAN" } else { "" })
                }
                None => {
                    let family = question.ip_version();
                    route.warnings.push(format!("{to} has no IPv{family} address in its record: no route leads there"));
                    format!("{from} to {to}{last}")
                }
            }
        }
        (Some(from), None) => format!("leaves {from} by the host's own routes"),
        (None, Some(to)) => format!("comes to {to} from outside{last}"),
        (None, None) => "neither end is of this cluster: nothing here judges it".to_owned(),
    };
    route.translated = legs.iter().find_map(|leg| published(cluster, leg));
    if let Some(Translated { node, port, name, interface, to, .. }) = &route.translated {
        route
            .text
            .push_str(&format!("; port {port} of {node} is published and leads to {name} ({to}, by {interface})"));
    }
    if let Some(leg) = legs.first() {
        let seen = leg.state.seen_source(&leg.packet);
        route.masqueraded = (seen != leg.packet.source).then_some(seen);
    }
    for leg in legs {
        let crosses = [&leg.packet.from, &leg.packet.to].contains(&&Hop::Interface(cluster.uplink(&leg.node)));
        if crosses && cluster.host_endpoints(&leg.node).next().is_some() {
            let uplink = cluster.uplink(&leg.node);
            route.warnings.push(format!("assumed: {uplink} is the interface of {} to others", leg.node));
        }
    }
    route
}

/// Which workload a port of the host leads to, if the packet is for such a port.
fn published(cluster: &Cluster, leg: &Leg) -> Option<Translated> {
    let after = leg.state.translated(&leg.packet);
    let (Hop::Host, Hop::Interface(interface)) = (&leg.packet.to, &after.to) else { return None };
    let is_there = |endpoint: &&(EndpointId, &WorkloadEndpoint)| {
        endpoint.1.spec.node == leg.node && endpoint.1.spec.interface_name == *interface
    };
    let (id, _) = cluster.endpoints().find(|endpoint| is_there(&endpoint))?;
    Some(Translated {
        node: leg.node.clone(),
        port: leg.packet.ports()?.1,
        name: cluster.workload_name(&id),
        endpoint: id.to_string(),
        interface: interface.clone(),
        to: after.ports().map(|(_, port)| SocketAddr::new(after.destination, port))?,
    })
}

/// The pool that the receiver's address is of.
fn pool<'a>(cluster: &'a Cluster, question: &Question) -> Option<&'a IPPool> {
    let mut pools = cluster.of_kind(KindName::IPPool).filter_map(|(_, resource)| match resource {
        AnyResource::IPPool(pool) => Some(pool),
        _ => None,
    });
    pools.find(|pool| pool.spec.cidr.contains(&question.to.address))
}

/// Whether packets are encapsulated on their way to a host, which is `near` if it is in a subnet of the sender's.
fn is_encapsulated(mode: Option<EncapMode>, near: bool) -> bool {
    match mode.unwrap_or_default() {
        EncapMode::Never => false,
        EncapMode::Always => true,
        EncapMode::CrossSubnet => !near,
    }
}

/// Whether an address is in the subnet of a host's own.
fn share_subnet(cluster: &Cluster, host: &str, address: IpAddr) -> bool {
    let Some(AnyResource::Node(node)) = cluster.get(&ResourceKey::new(KindName::Node, None, host)) else {
        return false;
    };
    let own = node.spec.bgp.iter().flat_map(|bgp| [&bgp.ipv4_address, &bgp.ipv6_address]).flatten();
    own.filter_map(|own| own.parse::<ipnet::IpNet>().ok()).any(|own| own.contains(&address))
}
