//! This host: its interfaces, its addresses, the endpoints that stand for them.

use std::net::IpAddr;

use calico_model::{Direction, HostEndpoint, WorkloadEndpoint};
use ipnet::IpNet;

use super::{
    Held, List, State,
    decide::Judged,
    path::{View, seen_source},
    why::{Step, Subject},
};
use crate::{
    INTERFACE_PREFIX,
    endpoint::identity,
    instruction::{EndpointId, HostEndpointId, Pool, Settings},
    packet::Packet,
};

/// The `interfaceName` that stands for all interfaces that no other host endpoint has.
const ANY_INTERFACE: &str = "*";

/// True if an interface leads to a workload.
pub(crate) fn is_workload(interface: &str) -> bool {
    interface.starts_with(INTERFACE_PREFIX)
}

impl State {
    /// Host endpoints, of any host, that can be followed.
    pub(super) fn usable_hosts(&self) -> impl Iterator<Item = &HostEndpoint> {
        self.hosts.values().filter(|held| held.fault.is_none()).map(|held| &held.value)
    }

    /// The source address that the receiver of a packet sees.
    pub fn seen_source(&self, packet: &Packet) -> IpAddr {
        seen_source(self, packet)
    }

    /// An endpoint's addresses; none if anything about it is wrong.
    pub(super) fn addresses(&self, endpoint: &WorkloadEndpoint) -> Vec<IpAddr> {
        identity(&endpoint.spec).map(|identity| identity.addresses).unwrap_or_default()
    }

    /// An endpoint's floating addresses, as (own, floating), if they are followed.
    fn nats(&self, endpoint: &WorkloadEndpoint) -> Vec<(IpAddr, IpAddr)> {
        if !self.has_floating_ips() {
            return Vec::new();
        }
        let addresses = self.addresses(endpoint);
        let nats = endpoint.spec.ip_nats.iter();
        nats.filter_map(|nat| Some((nat.internal_ip.parse().ok()?, nat.external_ip.parse().ok()?)))
            .filter(|(internal, external): &(IpAddr, IpAddr)| {
                addresses.contains(internal) && internal.is_ipv4() == external.is_ipv4()
            })
            .collect()
    }

    fn stands_for(&self, held: &Held<HostEndpoint>, interface: &str) -> bool {
        let spec = &held.value.spec;
        if !spec.interface_name.is_empty() {
            return spec.interface_name == interface;
        }
        let addresses = self.interfaces.get(interface).map(Vec::as_slice).unwrap_or_default();
        let mut expected = spec.expected_ips.iter().filter_map(|text| text.parse::<IpAddr>().ok());
        expected.any(|expected| addresses.contains(&expected))
    }

    /// The endpoint as policy sees it; `None` if there is none of this name.
    fn judged(&self, subject: &Subject) -> Option<Judged<'_>> {
        let (labels, profiles, closed) = match subject {
            Subject::Workload(id) => {
                let endpoint = self.endpoints.get(id)?;
                (self.labels(endpoint), &endpoint.spec.profiles, None)
            }
            Subject::Host(id, _) => {
                let held = self.hosts.get(id)?;
                (self.host_labels(&held.value), &held.value.spec.profiles, held.fault.as_ref())
            }
        };
        Some(Judged { subject: subject.clone(), labels, profiles, closed })
    }
}

impl View for State {
    fn settings(&self) -> Settings {
        self.settings()
    }

    fn interface_addresses(&self, interface: &str) -> Vec<IpAddr> {
        self.interfaces.get(interface).cloned().unwrap_or_default()
    }

    fn is_local(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.interfaces.values().flatten().any(|own| *own == address)
    }

    fn is_host(&self, address: IpAddr) -> bool {
        self.is_cluster_host(address)
    }

    fn pools(&self) -> Vec<Pool> {
        let pools = self.pools.values();
        pools.map(|pool| Pool { cidr: pool.spec.cidr.trunc(), masquerade: pool.spec.nat_outgoing }).collect()
    }

    fn workload(&self, interface: &str) -> Option<EndpointId> {
        self.behind(interface).map(|(id, _)| id.clone())
    }

    fn may_use(&self, endpoint: &EndpointId, source: IpAddr) -> bool {
        let Some(endpoint) = self.endpoints.get(endpoint) else { return false };
        let prefixes = endpoint.spec.allow_spoofed_source_prefixes.iter().filter_map(|text| text.parse::<IpNet>().ok());
        let lent = || self.allows_spoofing() && prefixes.into_iter().any(|net| net.contains(&source));
        self.addresses(endpoint).contains(&source) || lent()
    }

    /// Of several endpoints that claim one address the lowest of their own addresses gets it.
    fn floating(&self, external: IpAddr) -> Option<(IpAddr, String)> {
        let interfaces = self.endpoints.values().map(|endpoint| &endpoint.spec.interface_name);
        let local = interfaces.filter_map(|name| self.behind(name)).map(|(_, endpoint)| endpoint);
        let claims = local.flat_map(|endpoint| {
            let nats = self.nats(endpoint).into_iter().filter(|(_, address)| *address == external);
            nats.map(|(internal, _)| (internal, endpoint.spec.interface_name.clone()))
        });
        claims.min()
    }

    /// One that names the interface or one of its addresses, the first by name, or else one for any interface. The
    /// latter has no untracked policy, and of workloads' interfaces it sees what is forwarded and what comes in.
    fn host_endpoint(&self, interface: &str, list: List) -> Option<HostEndpointId> {
        let own = || self.hosts.iter().filter(|(_, held)| held.value.spec.node == self.node);
        let specific = own().find(|(_, held)| !is_workload(interface) && self.stands_for(held, interface));
        let any = || {
            let sees = match list {
                List::Untracked | List::Workload => false,
                List::Normal => !is_workload(interface),
                List::Forward | List::PreDnat => true,
            };
            own().find(|(_, held)| sees && held.value.spec.interface_name == ANY_INTERFACE)
        };
        specific.or_else(any).map(|(id, _)| id.clone())
    }

    fn has_policies(&self, subject: &Subject, list: List, direction: Direction) -> bool {
        self.judged(subject).is_some_and(|judged| !self.tiers(&judged.labels, list, direction).is_empty())
    }

    fn decide(&self, subject: &Subject, list: List, direction: Direction, packet: &Packet) -> Option<Step> {
        self.list_decides(&self.judged(subject)?, list, direction, packet)
    }
}
