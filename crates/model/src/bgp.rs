//! BGP settings and neighbours.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    AnyResource, AsNumber, Fault, Kind, KindName, Resource, format_go_duration, metadata::null_is_empty,
    parse_go_duration, validate,
};

/// A BGP configuration resource: `default`, or `node.<name>`.
pub type BGPConfiguration = Resource<BGPConfigurationSpec>;
/// A BGP peer resource.
pub type BGPPeer = Resource<BGPPeerSpec>;

/// BGP settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BGPConfigurationSpec {
    /// BIRD's verbosity.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub log_severity_screen: String,
    /// Every node peers with every node; absent means true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_to_node_mesh_enabled: Option<bool>,
    /// The cluster's AS number; absent means 64512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_number: Option<AsNumber>,
    /// Service ranges to announce.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_empty",
        rename = "serviceLoadBalancerIPs"
    )]
    pub service_load_balancer_ips: Vec<ServiceCidr>,
    /// Service ranges to announce.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_empty",
        rename = "serviceExternalIPs"
    )]
    pub service_external_ips: Vec<ServiceCidr>,
    /// Service ranges to announce.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_empty",
        rename = "serviceClusterIPs"
    )]
    pub service_cluster_ips: Vec<ServiceCidr>,
    /// `Enabled` or `Disabled`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service_load_balancer_aggregation: String,
    /// Named communities.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub communities: Vec<Community>,
    /// Communities by prefix.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub prefix_advertisements: Vec<PrefixAdvertisement>,
    /// TCP port; absent means 179.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_port: Option<u16>,
    /// Where the password of mesh sessions is kept; never the password itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_mesh_password: Option<Value>,
    /// Graceful restart time of mesh sessions, a duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_mesh_max_restart_time: Option<String>,
    /// `None` or `NodeIP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind_mode: Option<String>,
    /// Interfaces that BIRD does not look at.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub ignored_interfaces: Vec<String>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A service range.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceCidr {
    /// The range.
    pub cidr: String,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A named community.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Community {
    /// Its name.
    pub name: String,
    /// `aa:nn` or `aa:nn:mm`.
    pub value: String,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Communities of a prefix.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PrefixAdvertisement {
    /// The prefix.
    pub cidr: String,
    /// Names or values.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub communities: Vec<String>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A BGP neighbour of one node, of some, or of all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BGPPeerSpec {
    /// The one node that peers; with neither this nor `nodeSelector` all do.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// The nodes that peer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node_selector: String,
    /// The neighbour's address, `v4:port` or `[v6]:port` allowed.
    #[serde(default, skip_serializing_if = "String::is_empty", rename = "peerIP")]
    pub peer_ip: String,
    /// The neighbour's AS number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_number: Option<AsNumber>,
    /// Nodes that are the neighbours.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub peer_selector: String,
    /// Announce with the next hop that was learned.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_original_next_hop: bool,
    /// `password`, `filters`, `sourceAddress`, … and members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Kind for BGPConfigurationSpec {
    const NAME: KindName = KindName::BGPConfiguration;

    fn set_defaults(resource: &mut Resource<Self>) {
        let spec = &mut resource.spec;
        if spec.log_severity_screen.is_empty() {
            spec.log_severity_screen = "Info".into();
        }
        if spec.service_load_balancer_aggregation.is_empty() {
            spec.service_load_balancer_aggregation = "Enabled".into();
        }
        if let Some(time) = &mut spec.node_mesh_max_restart_time
            && let Some(duration) = parse_go_duration(time)
        {
            *time = format_go_duration(duration);
        }
    }

    fn faults(resource: &Resource<Self>) -> Vec<Fault> {
        validate::bgp_configuration(resource)
    }

    fn into_any(resource: Resource<Self>) -> AnyResource {
        AnyResource::BGPConfiguration(resource)
    }
}

impl Kind for BGPPeerSpec {
    const NAME: KindName = KindName::BGPPeer;

    fn set_defaults(resource: &mut Resource<Self>) {
        let spec = &mut resource.spec;
        // Zero is Go's "not given", and is not stored.
        if spec.as_number == Some(AsNumber(0)) {
            spec.as_number = None;
        }
        for name in ["maxRestartTime", "keepaliveTime"] {
            let duration = spec.extra.get(name).and_then(Value::as_str).and_then(parse_go_duration);
            if let Some(duration) = duration {
                spec.extra.insert(name.to_owned(), format_go_duration(duration).into());
            }
        }
    }

    fn faults(resource: &Resource<Self>) -> Vec<Fault> {
        validate::bgp_peer(resource)
    }

    fn into_any(resource: Resource<Self>) -> AnyResource {
        AnyResource::BGPPeer(resource)
    }
}
