//! The settings that decide on packets, from the Felix configurations that hold for this host.

use std::net::IpAddr;

use calico_model::{EncapMode, FelixConfiguration, FelixConfigurationSpec, ProtoPort};
use calico_selector::parse;
use ipnet::IpNet;

use super::{State, path::VXLAN_PORT};
use crate::instruction::{DenyAction, FailsafePort, HostAction, NatOutgoing, ServiceLoop, Settings};

/// The configuration that holds for all hosts.
const DEFAULT: &str = "default";

impl State {
    /// The settings in force, as far as they decide on packets; the others are the defaults.
    pub fn settings(&self) -> Settings {
        let defaults = Settings::default();
        let failsafe = |ports: Option<Vec<ProtoPort>>, default| ports.map_or(default, |ports| failsafe_ports(&ports));
        Settings {
            endpoint_to_host: match self.word(|spec| spec.default_endpoint_to_host_action.as_ref()).as_deref() {
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
            accept_invalid: self.setting(|spec| spec.disable_conntrack_invalid_check).unwrap_or(false),
            vxlan_from_workloads: self.setting(|spec| spec.allow_vxlan_packets_from_workloads).unwrap_or(false),
            ipip_from_workloads: self.setting(|spec| spec.allow_ipip_packets_from_workloads).unwrap_or(false),
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
        self.word(|spec| spec.workload_source_spoofing.as_ref()).as_deref() == Some("any")
    }

    /// True if floating addresses lead to their endpoints.
    pub(super) fn has_floating_ips(&self) -> bool {
        self.word(|spec| spec.floating_ips.as_ref()).as_deref() == Some("enabled")
    }

    /// Addresses of services.
    fn service_cidrs(&self) -> Vec<IpNet> {
        let spec = self.bgp.get(DEFAULT).map(|configuration| &configuration.spec);
        let lists = spec
            .into_iter()
            .flat_map(|spec| [&spec.service_cluster_ips, &spec.service_external_ips, &spec.service_load_balancer_ips]);
        lists.flatten().filter_map(|service| service.cidr.parse().ok()).collect()
    }

    /// True for an address of any host of the cluster.
    pub(super) fn is_cluster_host(&self, address: IpAddr) -> bool {
        self.nodes.values().any(|node| {
            let bgp = node.spec.bgp.iter().flat_map(|bgp| [&bgp.ipv4_address, &bgp.ipv6_address]).flatten();
            let texts = bgp.chain(node.spec.addresses.iter().map(|address| &address.address));
            texts.filter_map(|text| text.split('/').next()?.parse::<IpAddr>().ok()).any(|own| own == address)
        })
    }

    /// A setting of the first configuration that has it.
    pub(super) fn setting<T>(&self, get: impl Fn(&FelixConfigurationSpec) -> Option<T>) -> Option<T> {
        self.configurations().into_iter().find_map(|configuration| get(&configuration.spec))
    }

    /// A word, in lower case; an empty one is as none.
    fn word(&self, get: impl Fn(&FelixConfigurationSpec) -> Option<&String>) -> Option<String> {
        self.setting(|spec| get(spec).filter(|word| !word.is_empty()).map(|word| word.to_ascii_lowercase()))
    }

    /// The host's own, the oldest that selects the host, the cluster's.
    fn configurations(&self) -> Vec<&FelixConfiguration> {
        let own = format!("node.{}", self.node);
        let named = |name: &str| self.felix.get(name);
        let labels = self.nodes.get(&self.node).map(|node| node.metadata.labels.clone());
        let mut selecting: Vec<_> = self
            .felix
            .iter()
            .filter(|(name, configuration)| {
                let selector = configuration.spec.node_selector.as_deref().unwrap_or_default();
                let fixed = *name == DEFAULT || name.starts_with("node.");
                !fixed
                    && !selector.is_empty()
                    && labels
                        .as_ref()
                        .is_some_and(|labels| parse(selector).is_ok_and(|selector| selector.matches(labels)))
            })
            .collect();
        selecting.sort_by_key(|(name, configuration)| (configuration.metadata.creation_timestamp.clone(), *name));
        let selected = selecting.first().map(|(_, configuration)| *configuration);
        [named(&own), selected, named(DEFAULT)].into_iter().flatten().collect()
    }

    fn deny_action(&self) -> DenyAction {
        let iptables = self.word(|spec| spec.nftables_mode.as_ref()).as_deref() == Some("disabled");
        let word = self.word(|spec| {
            if iptables { spec.iptables_filter_deny_action.as_ref() } else { spec.nftables_filter_deny_action.as_ref() }
        });
        if word.as_deref() == Some("reject") { DenyAction::Reject } else { DenyAction::Drop }
    }

    fn vxlan_port(&self) -> u16 {
        self.setting(|spec| spec.vxlan_port).and_then(|port| u16::try_from(port).ok()).unwrap_or(VXLAN_PORT)
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
            text => Some(text.parse::<IpNet>().ok()?),
        };
        Some(FailsafePort { protocol: port.number()?, port: port.port, net })
    };
    ports.iter().filter_map(read).collect()
}
