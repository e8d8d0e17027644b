//! Nodes: hosts with their BGP identity.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{AnyResource, AsNumber, Fault, Kind, KindName, Resource, metadata::null_is_empty, validate};

/// A node resource.
pub type Node = Resource<NodeSpec>;

/// What is known of a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSpec {
    /// BGP identity; absent for a host without BGP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp: Option<NodeBgp>,
    /// Address of the VXLAN device.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "ipv4VXLANTunnelAddr")]
    pub ipv4_vxlan_tunnel_addr: Option<String>,
    /// MAC address of the VXLAN device.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "vxlanTunnelMACAddr")]
    pub vxlan_tunnel_mac_addr: Option<String>,
    /// Address of the IPv6 VXLAN device.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "ipv6VXLANTunnelAddr")]
    pub ipv6_vxlan_tunnel_addr: Option<String>,
    /// MAC address of the IPv6 VXLAN device.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "vxlanTunnelMACAddrV6")]
    pub vxlan_tunnel_mac_addr_v6: Option<String>,
    /// The host's addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub addresses: Vec<NodeAddress>,
    /// `orchRefs`, `wireguard`, `interfaces` and members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A host's BGP identity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeBgp {
    /// Overrides the cluster's AS number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_number: Option<AsNumber>,
    /// The address with the prefix length of its subnet, `172.17.0.2/16`.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "ipv4Address")]
    pub ipv4_address: Option<String>,
    /// The same for IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "ipv6Address")]
    pub ipv6_address: Option<String>,
    /// Address of `tunl0`.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "ipv4IPIPTunnelAddr")]
    pub ipv4_ipip_tunnel_addr: Option<String>,
    /// Makes the host a route reflector of this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "routeReflectorClusterID")]
    pub route_reflector_cluster_id: Option<String>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One address of a host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NodeAddress {
    /// An address, or a prefix.
    pub address: String,
    /// `CalicoNodeIP`, `InternalIP`, `ExternalIP`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub address_type: Option<String>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Kind for NodeSpec {
    const NAME: KindName = KindName::Node;
    const STATUS_ALWAYS: bool = true;

    fn faults(resource: &Resource<Self>) -> Vec<Fault> {
        validate::node(resource)
    }

    fn into_any(resource: Resource<Self>) -> AnyResource {
        AnyResource::Node(resource)
    }
}
