//! The ends of a flow: endpoints, hosts, addresses that nobody here knows.

use std::{collections::BTreeMap, net::IpAddr};

use calico_model::{AnyResource, HostEndpoint, KindName, Node, ResourceKey, WorkloadEndpoint};
use calico_policy::instruction::EndpointId;

use super::Place;
use crate::Cluster;

/// Annotation on an endpoint: the workload as it was named when it was added.
pub const ANNOTATION_WORKLOAD: &str = "org.projectcalico/workload-name";

/// Fewer characters than this are no beginning of an id.
const SHORTEST_ID: usize = 4;

/// An end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// A workload endpoint.
    Endpoint(EndpointId),
    /// A host itself.
    Host(String),
    /// Somebody outside.
    Outside,
}

/// An end with the address that it uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// Who.
    pub end: End,
    /// The address.
    pub address: IpAddr,
}

impl Party {
    pub(super) fn place(&self, cluster: &Cluster) -> Place {
        let endpoint = match &self.end {
            End::Endpoint(id) => Some(id.to_string()),
            _ => None,
        };
        Place { name: self.name(cluster), endpoint, address: self.address, node: cluster.node_of(&self.end) }
    }

    pub(super) fn name(&self, cluster: &Cluster) -> String {
        match &self.end {
            End::Endpoint(id) => cluster.workload_name(id),
            End::Host(node) => format!("host {node}"),
            End::Outside => self.address.to_string(),
        }
    }
}

impl Cluster {
    /// A workload endpoint.
    pub fn endpoint(&self, id: &EndpointId) -> Option<&WorkloadEndpoint> {
        match self.get(&id.key())? {
            AnyResource::WorkloadEndpoint(endpoint) => Some(endpoint),
            _ => None,
        }
    }

    /// All workload endpoints.
    pub fn endpoints(&self) -> impl Iterator<Item = (EndpointId, &WorkloadEndpoint)> {
        self.of_kind(KindName::WorkloadEndpoint).filter_map(|(key, resource)| match resource {
            AnyResource::WorkloadEndpoint(endpoint) => Some((EndpointId::of(key), endpoint)),
            _ => None,
        })
    }

    /// A host's record.
    pub fn node(&self, name: &str) -> Option<&Node> {
        match self.get(&ResourceKey::new(KindName::Node, None, name))? {
            AnyResource::Node(node) => Some(node),
            _ => None,
        }
    }

    /// What people call a workload: the container's name, else namespace and name of the endpoint.
    pub fn workload_name(&self, id: &EndpointId) -> String {
        let named = self.endpoint(id).and_then(|endpoint| endpoint.metadata.annotations.get(ANNOTATION_WORKLOAD));
        named.cloned().unwrap_or_else(|| id.to_string())
    }

    /// The host of an end, if it is one of the cluster's.
    pub fn node_of(&self, end: &End) -> Option<String> {
        match end {
            End::Endpoint(id) => self.endpoint(id).map(|endpoint| endpoint.spec.node.clone()),
            End::Host(node) => Some(node.clone()),
            End::Outside => None,
        }
    }

    /// The addresses of an endpoint or host.
    pub fn addresses(&self, end: &End) -> Vec<IpAddr> {
        let texts: Vec<&String> = match end {
            End::Endpoint(id) => self.endpoint(id).map(|endpoint| endpoint.spec.ip_networks.iter().collect()),
            End::Host(node) => self.node(node).map(|node| {
                let bgp = node.spec.bgp.iter().flat_map(|bgp| [&bgp.ipv4_address, &bgp.ipv6_address]);
                bgp.flatten().chain(node.spec.addresses.iter().map(|address| &address.address)).collect()
            }),
            End::Outside => None,
        }
        .unwrap_or_default();
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in texts.into_iter().filter_map(|text| text.split('/').next()?.parse().ok()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    /// Who has an address: an endpoint, also by a floating address, or a host.
    pub fn party(&self, address: IpAddr) -> Party {
        let floating = |endpoint: &WorkloadEndpoint| {
            endpoint.spec.ip_nats.iter().any(|nat| nat.external_ip.parse() == Ok(address))
        };
        let endpoint = self
            .endpoints()
            .find(|(id, endpoint)| self.addresses(&End::Endpoint(id.clone())).contains(&address) || floating(endpoint));
        let host = || {
            let mut hosts = self.nodes().into_iter().map(End::Host);
            hosts.find(|host| self.addresses(host).contains(&address))
        };
        let end = endpoint.map(|(id, _)| End::Endpoint(id)).or_else(host).unwrap_or(End::Outside);
        Party { end, address }
    }

    /// The endpoints and hosts that a word may mean: the name of a container, the beginning of its id, an endpoint's
    /// id or its beginning, namespace and name of its resource, its interface; the name of a host. Exact names win
    /// over beginnings.
    pub fn named(&self, word: &str) -> Vec<End> {
        let (mut exact, mut beginnings) = (Vec::new(), Vec::new());
        for (id, endpoint) in self.endpoints() {
            let spec = &endpoint.spec;
            let container = endpoint.metadata.annotations.get(ANNOTATION_WORKLOAD).map(String::as_str);
            let names = [spec.workload.as_str(), &spec.endpoint, &spec.pod, &id.name, &spec.interface_name];
            if names.contains(&word) || container == Some(word) || id.to_string() == word {
                exact.push(End::Endpoint(id));
            } else if word.len() >= SHORTEST_ID && (spec.workload.starts_with(word) || spec.endpoint.starts_with(word))
            {
                beginnings.push(End::Endpoint(id));
            }
        }
        if self.nodes().contains(word) {
            exact.push(End::Host(word.to_owned()));
        }
        if exact.is_empty() { beginnings } else { exact }
    }

    /// The interface by which a host is assumed to reach the others: the one that a host endpoint of the host names.
    pub(super) fn uplink(&self, node: &str) -> String {
        let named = self.host_endpoints(node).find_map(|endpoint| {
            let name = &endpoint.spec.interface_name;
            (!name.is_empty() && name != "*" && !name.starts_with(calico_policy::INTERFACE_PREFIX))
                .then(|| name.clone())
        });
        named.unwrap_or_else(|| crate::plan::pairs::UPLINK.to_owned())
    }

    /// The interfaces of a host that policy may ask for.
    pub(super) fn interfaces(&self, node: &str) -> BTreeMap<String, Vec<IpAddr>> {
        BTreeMap::from([(self.uplink(node), self.addresses(&End::Host(node.to_owned())))])
    }

    pub(super) fn host_endpoints<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a HostEndpoint> {
        self.of_kind(KindName::HostEndpoint).filter_map(move |(_, resource)| match resource {
            AnyResource::HostEndpoint(endpoint) if endpoint.spec.node == node => Some(endpoint),
            _ => None,
        })
    }
}
