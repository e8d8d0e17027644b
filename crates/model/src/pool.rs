//! Pools of addresses and reservations within them.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{AnyResource, Fault, Kind, KindName, Resource, metadata::null_is_empty, validate};

/// A pool resource.
pub type IPPool = Resource<IPPoolSpec>;
/// A reservation resource.
pub type IPReservation = Resource<IPReservationSpec>;

/// Whether and when traffic of a pool is encapsulated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EncapMode {
    /// Never.
    #[default]
    Never,
    /// Between all hosts.
    Always,
    /// Between hosts of different subnets.
    CrossSubnet,
}

/// A range of addresses for workloads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IPPoolSpec {
    /// The range, without host bits; written in canonical form.
    pub cidr: IpNet,
    /// VXLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vxlan_mode: Option<EncapMode>,
    /// IP in IP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipip_mode: Option<EncapMode>,
    /// Masquerade traffic that leaves all pools.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nat_outgoing: bool,
    /// No new assignments.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
    /// Do not announce by BGP.
    #[serde(default, skip_serializing_if = "std::ops::Not::not", rename = "disableBGPExport")]
    pub disable_bgp_export: bool,
    /// Prefix length of the pool's blocks, 20-32 or 116-128.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u8>,
    /// Nodes that may use the pool.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node_selector: String,
    /// Namespaces that may use the pool.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace_selector: String,
    /// `Workload`, `Tunnel`, `LoadBalancer`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub allowed_uses: Vec<String>,
    /// `Automatic`, or `Manual`: only on explicit request.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub assignment_mode: String,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl IPPoolSpec {
    /// The block prefix length in force: as stored, else 26 (IPv4) or 122 (IPv6).
    pub fn block_prefix_len(&self) -> u8 {
        self.block_size.unwrap_or(if matches!(self.cidr, IpNet::V4(_)) { 26 } else { 122 })
    }
}

/// Addresses that auto-assignment skips.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IPReservationSpec {
    /// The ranges.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_empty",
        rename = "reservedCIDRs"
    )]
    pub reserved_cidrs: Vec<String>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Kind for IPPoolSpec {
    const NAME: KindName = KindName::IPPool;

    fn set_defaults(resource: &mut Resource<Self>) {
        let spec = &mut resource.spec;
        spec.block_size = Some(spec.block_prefix_len());
        spec.ipip_mode.get_or_insert_default();
        spec.vxlan_mode.get_or_insert_default();
        if spec.node_selector.is_empty() {
            spec.node_selector = "all()".into();
        }
        if spec.allowed_uses.is_empty() {
            spec.allowed_uses = vec!["Workload".into(), "Tunnel".into()];
        }
        if spec.assignment_mode.is_empty() {
            spec.assignment_mode = "Automatic".into();
        }
    }

    fn faults(resource: &Resource<Self>) -> Vec<Fault> {
        validate::pool(resource)
    }

    fn into_any(resource: Resource<Self>) -> AnyResource {
        AnyResource::IPPool(resource)
    }
}

impl Kind for IPReservationSpec {
    const NAME: KindName = KindName::IPReservation;

    fn faults(resource: &Resource<Self>) -> Vec<Fault> {
        validate::reservation(resource)
    }

    fn into_any(resource: Resource<Self>) -> AnyResource {
        AnyResource::IPReservation(resource)
    }
}
