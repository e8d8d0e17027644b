//! The settings that decide on packets, from the Felix configurations that hold for this host.

use std::{collections::BTreeSet, net::IpAddr};

use calico_model::{EncapMode, FelixConfiguration, FelixConfigurationSpec, ProtoPort};
use calico_selector::parse;
use ipnet::IpNet;

use super::{State, path::VXLAN_PORT};
use crate::{
    endpoint::network,
    instruction::{DenyAction, FailsafePort, HostAction, NatOutgoing, ServiceLoop, Settings},
};

/// The configuration that holds for all hosts.
const DEFAULT: &str = "default";

impl State {
    /// The settings in force, as far as they decide on packets; the others are the defaults.
    pub fn settings(&self) -> Settings {
        let defaults = Settings::default();
        let closed = self.has_unreadable();
        let failsafe = |ports: Option<Vec<ProtoPort>>, default| ports.map_or(default, |ports| failsafe_ports(&ports));
        Settings {
            endpoint_to_host: match self.word(|spec| spec.default_endpoint_to_host_action.as_ref()).as_deref() {
                _ if closed => HostAction::Drop,
                None | Some("return") => HostAction::Return,
                Some("accept") => HostAction::Accept,
                Some(_) => HostAction::Drop,
            },
            deny: self.deny_action(),
            failsafe_inbound: failsafe(
                self.setting(|spec| spec.failsafe_inbound_host_ports.clone()),
                defaults.failsafe_inbound,
            ),
            failsafe_outbound: failsafe(
                self.setting(|spec| spec.failsafe_outbound_host_ports.clone()),
                defaults.failsafe_outbound,
            ),
            accept_invalid: !closed && self.flag(|spec| spec.disable_conntrack_invalid_check),
            vxlan_from_workloads: !closed && self.flag(|spec| spec.allow_vxlan_packets_from_workloads),
            ipip_from_workloads: !closed && self.flag(|spec| spec.allow_ipip_packets_from_workloads),
            vxlan_port: self.uses_vxlan().then(|| self.vxlan_port()),
            nat_outgoing: self.nat_outgoing(),
            service_cidrs: self.service_cidrs(),
            service_loop: match self.word(|spec| spec.service_loop_prevention.as_ref()).as_deref() {
                Some("reject") => ServiceLoop::Reject,
                Some("disabled") => ServiceLoop::Disabled,
                _ => ServiceLoop::Drop,
            },
            ..Settings::default()
        }
    }

    /// True if endpoints may ask for source addresses that are not theirs.
    pub(super) fn allows_spoofing(&self) -> bool {
        let word = self.word(|spec| spec.workload_source_spoofing.as_ref());
        matches!(word.as_deref(), Some("any" | "enabled")) && !self.has_unreadable()
    }

    /// True if floating addresses lead to their endpoints.
    pub(super) fn has_floating_ips(&self) -> bool {
        matches!(self.word(|spec| spec.floating_ips.as_ref()).as_deref(), Some("any" | "enabled"))
    }

    /// Addresses of services.
    fn service_cidrs(&self) -> Vec<IpNet> {
        let spec = self.bgp.get(DEFAULT).map(|configuration| &configuration.spec);
        let lists = spec
            .into_iter()
            .flat_map(|spec| [&spec.service_cluster_ips, &spec.service_external_ips, &spec.service_load_balancer_ips]);
        let nets: BTreeSet<IpNet> = lists.flatten().filter_map(|service| network(&service.cidr)).collect();
        nets.into_iter().collect()
    }

    /// True for an address by which hosts of the cluster reach each other: one per family, that of the BGP speaker or
    /// else the first that is said to be internal.
    pub(super) fn is_cluster_host(&self, address: IpAddr) -> bool {
        let parse = |text: &String| text.split('/').next()?.parse::<IpAddr>().ok();
        self.nodes.values().any(|node| {
            let bgp = node.spec.bgp.as_ref();
            let speaker = bgp.and_then(|bgp| {
                let own = if address.is_ipv4() { bgp.ipv4_address.as_ref() } else { bgp.ipv6_address.as_ref() };
                own.and_then(parse)
            });
            let internal = node.spec.addresses.iter().filter(|address| {
                matches!(address.address_type.as_deref(), Some("CalicoNodeIP" | "InternalIP") | None)
            });
            let candidates = speaker.into_iter().chain(internal.filter_map(|address| parse(&address.address)));
            candidates.into_iter().find(|own| own.is_ipv4() == address.is_ipv4()) == Some(address)
        })
    }

    /// A setting of the first configuration that has it.
    pub(super) fn setting<T>(&self, get: impl Fn(&FelixConfigurationSpec) -> Option<T>) -> Option<T> {
        self.configurations().into_iter().flatten().find_map(|configuration| get(&configuration.spec))
    }

    fn flag(&self, get: impl Fn(&FelixConfigurationSpec) -> Option<bool>) -> bool {
        self.setting(get).unwrap_or(false)
    }

    /// A word, in lower case; an empty one is as none.
    fn word(&self, get: impl Fn(&FelixConfigurationSpec) -> Option<&String>) -> Option<String> {
        self.setting(|spec| get(spec).filter(|word| !word.is_empty()).map(|word| word.to_ascii_lowercase()))
    }

    /// A configuration that may be meant for this host cannot be read: what a setting could open is closed.
    fn has_unreadable(&self) -> bool {
        self.unreadable_felix().is_some()
    }

    /// The first such configuration, by name.
    pub(super) fn unreadable_felix(&self) -> Option<&str> {
        let own = format!("node.{}", self.node);
        let concerns = |name: &str| name == own || !name.starts_with("node.");
        let mut unreadable = self.felix.iter().filter(|(name, held)| held.is_none() && concerns(name));
        unreadable.next().map(|(name, _)| name.as_str())
    }

    /// The host's own, the oldest that selects the host, the cluster's; `None` for one that cannot be read, which might
    /// select any host.
    fn configurations(&self) -> Vec<Option<&FelixConfiguration>> {
        let own = format!("node.{}", self.node);
        let named = |name: &str| self.felix.get(name).map(Option::as_ref);
        let nobody = Default::default();
        let labels = self.nodes.get(&self.node).map_or(&nobody, |node| &node.metadata.labels);
        let others = || self.felix.iter().filter(|(name, _)| *name != DEFAULT && !name.starts_with("node."));
        let selects = |configuration: &FelixConfiguration| {
            let selector = configuration.spec.node_selector.as_deref().unwrap_or_default();
            !selector.is_empty() && parse(selector).is_ok_and(|selector| selector.matches(labels))
        };
        let selecting = others().filter_map(|(name, held)| Some((name, held.as_ref().filter(|held| selects(held))?)));
        let oldest =
            selecting.min_by_key(|(name, held)| (held.metadata.creation_timestamp.clone().unwrap_or_default(), *name));
        let unreadable = others().any(|(_, held)| held.is_none()).then_some(None);
        let selected = oldest.map(|(_, held)| Some(held));
        [named(&own), unreadable, selected, named(DEFAULT)].into_iter().flatten().collect()
    }

    fn deny_action(&self) -> DenyAction {
        let word = self.word(|spec| spec.nftables_filter_deny_action.as_ref());
        let word = word.or_else(|| self.word(|spec| spec.iptables_filter_deny_action.as_ref()));
        if word.as_deref() == Some("reject") { DenyAction::Reject } else { DenyAction::Drop }
    }

    fn vxlan_port(&self) -> u16 {
        self.setting(|spec| spec.vxlan_port)
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port > 0)
            .unwrap_or(VXLAN_PORT)
    }

    fn uses_vxlan(&self) -> bool {
        let by_pools = || self.pools_use_vxlan();
        self.setting(|spec| spec.vxlan_enabled).unwrap_or_else(by_pools)
    }

    fn nat_outgoing(&self) -> NatOutgoing {
        let exclusions = self.word(|spec| spec.nat_outgoing_exclusions.as_ref());
        let filter = self.setting(|spec| spec.iptables_nat_outgoing_interface_filter.clone());
        NatOutgoing {
            address: self.setting(|spec| spec.nat_outgoing_address.clone()).and_then(|text| text.parse().ok()),
            ports: None,
            interface: filter.filter(|filter| !filter.is_empty()),
            exclude_hosts: exclusions.as_deref() == Some("ippoolsandhostips"),
        }
    }

    fn pools_use_vxlan(&self) -> bool {
        self.pools.values().any(|pool| pool.spec.vxlan_mode.is_some_and(|mode| mode != EncapMode::Never))
    }
}

/// Those that can be read; one that cannot opens nothing.
fn failsafe_ports(ports: &[ProtoPort]) -> Vec<FailsafePort> {
    let read = |port: &ProtoPort| {
        let net = match port.net.as_str() {
            "" => None,
            text => Some(network(text)?),
        };
        (port.port > 0).then_some(FailsafePort { protocol: port.number()?, port: port.port, net })
    };
    ports.iter().filter_map(read).collect()
}
