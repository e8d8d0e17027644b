//! What packets meet beside policy: pools, addresses of hosts, ranges of services.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use calico_model::{BGPConfigurationSpec, EncapMode, IPPoolSpec, NodeSpec};
use ipnet::IpNet;

use crate::{endpoint::network, instruction::Pool};

/// The BGP configuration that holds for all hosts.
const DEFAULT: &str = "default";

struct StoredPool {
    pool: Pool,
    vxlan: bool,
}

#[derive(Default)]
pub(super) struct Cluster {
    /// By name.
    pools: BTreeMap<String, StoredPool>,
    /// Each host's addresses, by its name.
    hosts: BTreeMap<String, Vec<IpAddr>>,
    services: Vec<IpNet>,
}

impl Cluster {
    pub(super) fn set_pool(&mut self, name: &str, spec: Option<&IPPoolSpec>) {
        self.pools.remove(name);
        self.pools.extend(spec.map(|spec| {
            let pool = Pool { cidr: spec.cidr.trunc(), masquerade: spec.nat_outgoing };
            let vxlan = spec.vxlan_mode.is_some_and(|mode| mode != EncapMode::Never);
            (name.to_owned(), StoredPool { pool, vxlan })
        }));
    }

    /// The addresses that hosts reach each other by; those of their BGP speakers where they have one, else those that
    /// are said to be internal.
    pub(super) fn set_node(&mut self, name: &str, spec: Option<&NodeSpec>) {
        self.hosts.remove(name);
        self.hosts.extend(spec.map(|spec| (name.to_owned(), addresses(spec))));
    }

    pub(super) fn set_bgp(&mut self, name: &str, spec: Option<&BGPConfigurationSpec>) {
        if name != DEFAULT {
            return;
        }
        let lists = spec
            .into_iter()
            .flat_map(|spec| [&spec.service_cluster_ips, &spec.service_external_ips, &spec.service_load_balancer_ips]);
        let nets: BTreeSet<IpNet> = lists.flatten().filter_map(|service| network(&service.cidr)).collect();
        self.services = nets.into_iter().collect();
    }

    /// By range; of several pools with one range the first by name counts.
    pub(super) fn distinct_pools(&self) -> Vec<Pool> {
        let mut by_cidr = BTreeMap::new();
        for StoredPool { pool, .. } in self.pools.values() {
            by_cidr.entry(pool.cidr).or_insert_with(|| pool.clone());
        }
        by_cidr.into_values().collect()
    }

    /// All hosts' addresses, sorted.
    pub(super) fn host_addresses(&self) -> Vec<IpAddr> {
        self.hosts.values().flatten().copied().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Ranges of service addresses, sorted.
    pub(super) fn services(&self) -> &[IpNet] {
        &self.services
    }

    /// True if a pool needs VXLAN between hosts.
    pub(super) fn uses_vxlan(&self) -> bool {
        self.pools.values().any(|stored| stored.vxlan)
    }
}

fn addresses(spec: &NodeSpec) -> Vec<IpAddr> {
    [true, false].into_iter().filter_map(|v4| host_address(spec, v4)).map(|net| net.addr()).collect()
}

/// The address that other hosts reach a host by in a family, with the length of its subnet's prefix if that is known:
/// that of its BGP speaker, else one that is said to be internal.
pub(super) fn host_address(spec: &NodeSpec, v4: bool) -> Option<IpNet> {
    let bgp = spec.bgp.as_ref();
    let speaker = bgp.and_then(|bgp| if v4 { bgp.ipv4_address.as_deref() } else { bgp.ipv6_address.as_deref() });
    let internal = spec
        .addresses
        .iter()
        .filter(|address| matches!(address.address_type.as_deref(), Some("CalicoNodeIP" | "InternalIP") | None));
    let candidates = speaker.into_iter().chain(internal.map(|address| address.address.as_str()));
    candidates.filter_map(address).find(|net| net.addr().is_ipv4() == v4)
}

/// An address, with or without the length of its subnet's prefix.
fn address(text: &str) -> Option<IpNet> {
    text.parse().or_else(|_| text.split('/').next().unwrap_or_default().parse::<IpAddr>().map(IpNet::from)).ok()
}
