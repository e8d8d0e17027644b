//! Felix settings.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{AnyResource, Fault, Kind, KindName, Port, Resource, validate};

/// A Felix configuration resource: `default`, `node.<name>`, or any name with a node selector.
pub type FelixConfiguration = Resource<FelixConfigurationSpec>;

/// Felix settings; those that nothing here reads are kept as found. Absent is upstream's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FelixConfigurationSpec {
    /// The nodes that a configuration of any name is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<String>,
    /// What happens to packets from workloads to their host after egress policy: `Drop`, `Accept`, `Return`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_endpoint_to_host_action: Option<String>,
    /// How the iptables dataplane lets a packet pass that policy allows: `Accept`, `Return`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iptables_filter_allow_action: Option<String>,
    /// The same before routing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iptables_mangle_allow_action: Option<String>,
    /// How the iptables dataplane denies: `Drop`, `Reject`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iptables_filter_deny_action: Option<String>,
    /// As `iptables_filter_allow_action`, for nftables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nftables_filter_allow_action: Option<String>,
    /// As `iptables_mangle_allow_action`, for nftables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nftables_mangle_allow_action: Option<String>,
    /// As `iptables_filter_deny_action`, for nftables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nftables_filter_deny_action: Option<String>,
    /// Ports of the host that no policy closes. Absent is the default list, empty is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failsafe_inbound_host_ports: Option<Vec<ProtoPort>>,
    /// Ports elsewhere that no policy cuts the host off from. Absent is the default list, empty is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failsafe_outbound_host_ports: Option<Vec<ProtoPort>>,
    /// What lines of action `Log` start with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_prefix: Option<String>,
    /// How many such lines per time, as `10/minute`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_action_rate_limit: Option<String>,
    /// How many at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_action_rate_limit_burst: Option<i64>,
    /// `Any` lets endpoints use the source prefixes that they list; `Disabled` is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_source_spoofing: Option<String>,
    /// Workloads may send VXLAN.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "allowVXLANPacketsFromWorkloads")]
    pub allow_vxlan_packets_from_workloads: Option<bool>,
    /// Workloads may send IP in IP.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "allowIPIPPacketsFromWorkloads")]
    pub allow_ipip_packets_from_workloads: Option<bool>,
    /// Packets that conntrack calls invalid are not dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disable_conntrack_invalid_check: Option<bool>,
    /// `Drop`, `Reject`, `Disabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_loop_prevention: Option<String>,
    /// `Insert`, `Append`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_insert_mode: Option<String>,
    /// Source ports of masqueraded connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat_port_range: Option<Port>,
    /// Source address of masqueraded connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat_outgoing_address: Option<String>,
    /// `IPPoolsOnly`, `IPPoolsAndHostIPs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat_outgoing_exclusions: Option<String>,
    /// Masquerade only what leaves by this interface; `+` stands for any end.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "iptablesNATOutgoingInterfaceFilter")]
    pub iptables_nat_outgoing_interface_filter: Option<String>,
    /// `Enabled`, `Disabled`.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "floatingIPs")]
    pub floating_ips: Option<String>,
    /// `Enabled`, `Disabled`, `Auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nftables_mode: Option<String>,
    /// `Legacy`, `NFT`, `Auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iptables_backend: Option<String>,
    /// Bits of packet marks that are ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iptables_mark_mask: Option<u32>,
    /// The same, for nftables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nftables_mark_mask: Option<u32>,
    /// What names of workload interfaces start with; several with commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface_prefix: Option<String>,
    /// Absent: as the pools need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vxlan_enabled: Option<bool>,
    /// UDP port of VXLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vxlan_port: Option<i64>,
    /// Network identifier of VXLAN.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "vxlanVNI")]
    pub vxlan_vni: Option<i64>,
    /// MTU of the IPv4 VXLAN device; absent or 0: what fits.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "vxlanMTU")]
    pub vxlan_mtu: Option<i64>,
    /// The same of the IPv6 device.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "vxlanMTUV6")]
    pub vxlan_mtu_v6: Option<i64>,
    /// Members that a set of the iptables dataplane can have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ipset_size: Option<i64>,
    /// Metrics are served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_metrics_enabled: Option<bool>,
    /// On this address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_metrics_host: Option<String>,
    /// On this port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus_metrics_port: Option<i64>,
    /// Verbosity on standard error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_severity_screen: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A port that stays open whatever policy says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProtoPort {
    /// As written; upstream keeps the case. [`number`](Self::number) gives the meaning.
    #[serde(default)]
    pub protocol: String,
    /// The port.
    #[serde(default)]
    pub port: u16,
    /// The addresses of the other end; empty is any.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub net: String,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl ProtoPort {
    /// The protocol's number; `None` if it has no ports that can be matched.
    pub fn number(&self) -> Option<u8> {
        match self.protocol.to_ascii_lowercase().as_str() {
            "tcp" | "6" => Some(6),
            "udp" | "17" => Some(17),
            "sctp" | "132" => Some(132),
            _ => None,
        }
    }
}

/// What upstream's client writes on behalf of settings that only its own dataplanes have. A deprecated switch decides
/// two of them where it is set.
fn upstream_defaults(extra: &Map<String, Value>) -> [(&'static str, &'static str); 2] {
    let (balancing, host_networked) = match extra.get("bpfConnectTimeLoadBalancingEnabled").and_then(Value::as_bool) {
        Some(true) => ("Enabled", "Disabled"),
        Some(false) => ("Disabled", "Disabled"),
        None => ("TCP", "Enabled"),
    };
    [("bpfConnectTimeLoadBalancing", balancing), ("bpfHostNetworkedNATWithoutCTLB", host_networked)]
}

impl Kind for FelixConfigurationSpec {
    const NAME: KindName = KindName::FelixConfiguration;

    fn set_defaults(resource: &mut Resource<Self>) {
        let spec = &mut resource.spec;
        spec.floating_ips.get_or_insert_with(|| "Disabled".into());
        spec.nftables_mode.get_or_insert_with(|| "Auto".into());
        let extra = &mut spec.extra;
        extra.entry("bpfLogLevel").or_insert_with(|| "".into());
        for (name, value) in upstream_defaults(extra) {
            extra.entry(name).or_insert_with(|| value.into());
        }
        extra.entry("nftablesFlowTableOffload").or_insert_with(|| "Disabled".into());
    }

    fn faults(resource: &Resource<Self>) -> Vec<Fault> {
        validate::felix_configuration(resource)
    }

    fn into_any(resource: Resource<Self>) -> AnyResource {
        AnyResource::FelixConfiguration(resource)
    }
}
