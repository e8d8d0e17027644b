//! This host: its interfaces, its addresses, the endpoints that stand for them.

use std::{borrow::Cow, net::IpAddr};

use calico_model::{Direction, HostEndpoint, WorkloadEndpoint};

use super::{
    Held, List, State,
    decide::Judged,
    path::{Led, View, seen_source, translated},
    why::{Owner, Reason, Step, Subject},
};
use crate::{
    INTERFACE_PREFIX,
    endpoint::{host_interfaces, identity_with, published},
    instruction::{EndpointId, HostEndpointId, HostInterfaces, Pool, PublishedAt, Settings},
    packet::Packet,
};

/// True if an interface leads to a workload.
pub(crate) fn is_workload(interface: &str) -> bool {
    interface.starts_with(INTERFACE_PREFIX)
}

impl State {
    /// Host endpoints, of any host, that can be followed.
    pub(super) fn usable_hosts(&self) -> impl Iterator<Item = &HostEndpoint> {
        let usable =
            |held: &&Held<HostEndpoint>| held.fault.is_none() && host_interfaces(&held.value.spec).fault().is_none();
        self.hosts.values().filter(usable).map(|held| &held.value)
    }

    /// A packet with a floating address, or a published port of the host, as destination translated to the endpoint's
    /// own. Untracked policy may still have it go untranslated, which this does not look into.
    pub fn translated(&self, packet: &Packet) -> Packet {
        translated(self, packet)
    }

    /// The source address that the receiver of a packet sees.
    pub fn seen_source(&self, packet: &Packet) -> IpAddr {
        seen_source(self, packet)
    }

    /// An endpoint's addresses; none if anything about it is wrong.
    pub(super) fn addresses(&self, endpoint: &WorkloadEndpoint) -> Vec<IpAddr> {
        let asks = !endpoint.spec.allow_spoofed_source_prefixes.is_empty();
        let identity = identity_with(&endpoint.spec, asks && self.allows_spoofing());
        identity.map(|identity| identity.addresses).unwrap_or_default()
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

    /// True if a host endpoint of this host names an interface, or one of its addresses.
    fn stands_for(&self, held: &Held<HostEndpoint>, interface: &str) -> bool {
        let addresses = self.interfaces.get(interface).map(Vec::as_slice).unwrap_or_default();
        match host_interfaces(&held.value.spec).interfaces {
            Some(HostInterfaces::Named(name)) => name == interface,
            Some(HostInterfaces::WithAddress(expected)) => expected.iter().any(|address| addresses.contains(address)),
            Some(HostInterfaces::AnyInterface) | None => false,
        }
    }

    /// The endpoint as policy sees it; `None` if there is none of this name.
    fn judged(&self, subject: &Subject) -> Option<Judged<'_>> {
        let (labels, profiles, fault) = match subject {
            Subject::Workload(id) => {
                let endpoint = self.endpoints.get(id)?;
                (self.labels(endpoint), &endpoint.spec.profiles, None)
            }
            Subject::Host(id, _) => {
                let held = self.hosts.get(id)?;
                let fault = held.fault.clone().or_else(|| host_interfaces(&held.value.spec).fault());
                (self.host_labels(&held.value), &held.value.spec.profiles, fault)
            }
        };
        let closed = match fault {
            Some(fault) => Some(Reason::ClosedHost { fault }),
            None => profiles.iter().find_map(|name| self.unreadable_profile(name)),
        };
        Some(Judged { subject: subject.clone(), labels, profiles, closed })
    }

    /// Endpoints that inherit from a profile of which not even the labels can be read might have any label: no policy
    /// opens anything for them.
    fn unreadable_profile(&self, name: &String) -> Option<Reason> {
        let held = self.profiles.get(name)?;
        let unreadable = held.partial && held.value.spec.labels_to_apply.is_empty();
        let fault = held.fault.clone().filter(|_| unreadable)?;
        Some(Reason::Closed { owner: Owner::Profile(name.clone()), fault })
    }
}

impl View for State {
    fn settings(&self) -> Cow<'_, Settings> {
        Cow::Owned(self.settings())
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

    fn pools(&self) -> Cow<'_, [Pool]> {
        let mut pools: Vec<Pool> = Vec::new();
        for pool in self.pools.values() {
            let cidr = pool.spec.cidr.trunc();
            // Of several with one range the first by name counts.
            if pools.iter().all(|other| other.cidr != cidr) {
                pools.push(Pool { cidr, masquerade: pool.spec.nat_outgoing });
            }
        }
        Cow::Owned(pools)
    }

    fn workload(&self, interface: &str) -> Option<EndpointId> {
        self.behind(interface).map(|(id, _)| id.clone())
    }

    fn may_use(&self, endpoint: &EndpointId, source: IpAddr) -> bool {
        let Some(endpoint) = self.endpoints.get(endpoint) else { return false };
        let identity = identity_with(&endpoint.spec, self.allows_spoofing());
        identity.is_ok_and(|identity| {
            identity.addresses.contains(&source) || identity.spoofable.iter().any(|net| net.contains(&source))
        })
    }

    /// Of several endpoints that claim one address the lowest of their own addresses gets it.
    fn floating(&self, external: IpAddr) -> Option<(IpAddr, String)> {
        if !self.has_floating_ips() {
            return None;
        }
        let interfaces = self.endpoints.values().map(|endpoint| &endpoint.spec.interface_name);
        let local = interfaces.filter_map(|name| self.behind(name)).map(|(_, endpoint)| endpoint);
        let claims = local.flat_map(|endpoint| {
            let nats = self.nats(endpoint).into_iter().filter(|(_, address)| *address == external);
            nats.map(|(internal, _)| (internal, endpoint.spec.interface_name.clone()))
        });
        claims.min()
    }

    /// Of several endpoints that claim a port the first by its identifier gets it, unless the host itself keeps it.
    fn published(&self, at: &PublishedAt) -> Option<Led> {
        if self.settings().reserves(at.protocol, at.port).is_some() {
            return None;
        }
        self.endpoints.iter().find_map(|(id, endpoint)| {
            let interface = &endpoint.spec.interface_name;
            if self.behind(interface).is_none_or(|(holder, _)| holder != id) {
                return None;
            }
            let ports = published(&endpoint.spec.ports, &self.addresses(endpoint));
            let port = ports.into_iter().find(|port| port.claim() == *at)?;
            Some(Led { address: port.address, port: port.port, interface: interface.clone() })
        })
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
            own().find(|(_, held)| {
                sees && host_interfaces(&held.value.spec).interfaces == Some(HostInterfaces::AnyInterface)
            })
        };
        specific.or_else(any).map(|(id, _)| id.clone())
    }

    fn has_policies(&self, subject: &Subject, list: List, direction: Direction) -> bool {
        let judged = self.judged(subject).filter(|judged| judged.closed.is_none() || list != List::Untracked);
        judged.is_some_and(|judged| !self.tiers(&judged.labels, list, direction).is_empty())
    }

    fn decide(&self, subject: &Subject, list: List, direction: Direction, packet: &Packet) -> Option<Step> {
        self.list_decides(&self.judged(subject)?, list, direction, packet)
    }
}
