//! Workload and host endpoints, and the composed name of a workload endpoint.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{AnyResource, Fault, Kind, KindName, Protocol, Resource, metadata::null_is_empty, validate};

/// A workload endpoint resource.
pub type WorkloadEndpoint = Resource<WorkloadEndpointSpec>;
/// A host endpoint resource.
pub type HostEndpoint = Resource<HostEndpointSpec>;

/// An interface of a workload and what is known of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadEndpointSpec {
    /// `docker`, `namespace`, `libnetwork`, `cni`, `k8s`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub orchestrator: String,
    /// The orchestrator's name for the workload; for Docker the full container id.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub workload: String,
    /// The host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// CNI sandbox id.
    #[serde(default, skip_serializing_if = "String::is_empty", rename = "containerID")]
    pub container_id: String,
    /// Kubernetes pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// The endpoint's id within the workload.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// Kubernetes service account.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service_account_name: String,
    /// Addresses, each a /32 or /128 (a bare address is tolerated).
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub ip_networks: Vec<String>,
    /// Floating addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty", rename = "ipNATs")]
    pub ip_nats: Vec<IPNat>,
    /// Informational.
    #[serde(default, skip_serializing_if = "String::is_empty", rename = "ipv4Gateway")]
    pub ipv4_gateway: String,
    /// Informational.
    #[serde(default, skip_serializing_if = "String::is_empty", rename = "ipv6Gateway")]
    pub ipv6_gateway: String,
    /// Profile names as stored, in order of evaluation.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub profiles: Vec<String>,
    /// The host's end of the veth pair.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub interface_name: String,
    /// The workload's MAC address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Named ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub ports: Vec<EndpointPort>,
    /// Prefixes that the workload may use as source beside its own addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub allow_spoofed_source_prefixes: Vec<String>,
    /// Limits of traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos_controls: Option<QosControls>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Limits of an endpoint's traffic; absent and zero are none. Bandwidths, peak rates are in bits per second, bursts in
/// bits, packet rates in packets per second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct QosControls {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_bandwidth: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_bandwidth: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_burst: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_burst: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_packet_rate: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_packet_rate: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_packet_burst: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_packet_burst: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress_max_connections: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_max_connections: Option<i64>,
    /// The DSCP that packets leave with: a number or a name such as `AF41`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dscp: Option<Value>,
    /// `ingressPeakrate`, `ingressMinburst`, … and members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A floating address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IPNat {
    /// The endpoint's own address.
    #[serde(rename = "internalIP")]
    pub internal_ip: String,
    /// The address that is translated to it.
    #[serde(rename = "externalIP")]
    pub external_ip: String,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A named port of an endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointPort {
    /// The name that rules use.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The number.
    pub port: u16,
    /// Port on the host that leads here, 0 for none. Workload endpoints only, always written there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// Address of that port. Workload endpoints only, always written there.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "hostIP")]
    pub host_ip: Option<String>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// An interface of a host that policy applies to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostEndpointSpec {
    /// The host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// The interface, or `*`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub interface_name: String,
    /// Addresses expected on the interface.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_empty",
        rename = "expectedIPs"
    )]
    pub expected_ips: Vec<String>,
    /// Profile names as stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub profiles: Vec<String>,
    /// Named ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub ports: Vec<EndpointPort>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The parts of a workload endpoint's name, which `-` joins; inside a part every `-` is doubled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkloadName<'a> {
    /// The host.
    pub node: &'a str,
    /// The orchestrator.
    pub orchestrator: &'a str,
    /// Pod, container id or workload, as the orchestrator has it.
    pub workload: &'a str,
    /// The endpoint.
    pub endpoint: &'a str,
}

impl<'a> WorkloadName<'a> {
    /// The parts that upstream uses for this spec.
    pub fn of(spec: &'a WorkloadEndpointSpec) -> Self {
        let workload = match spec.orchestrator.as_str() {
            "k8s" => &spec.pod,
            "cni" => &spec.container_id,
            "libnetwork" => "libnetwork",
            _ => &spec.workload,
        };
        Self { node: &spec.node, orchestrator: &spec.orchestrator, workload, endpoint: &spec.endpoint }
    }

    /// The name, or which part is missing or starts or ends with a dash.
    ///
    /// # Errors
    /// A sentence on the part at fault.
    pub fn build(&self) -> Result<String, String> {
        let parts = [
            ("node", self.node),
            ("orchestrator", self.orchestrator),
            ("workload", self.workload),
            ("endpoint", self.endpoint),
        ];
        for (what, part) in parts {
            if part.is_empty() {
                return Err(format!("{what} is needed for the endpoint's name"));
            }
            if part.starts_with('-') || part.ends_with('-') {
                return Err(format!("{what} {part:?} must not start or end with a dash"));
            }
        }
        Ok(parts.map(|(_, part)| part.replace('-', "--")).join("-"))
    }

    /// The prefix of the names of all endpoints of a node.
    pub fn node_prefix(node: &str) -> String {
        format!("{}-", node.replace('-', "--"))
    }
}

impl Kind for WorkloadEndpointSpec {
    const NAME: KindName = KindName::WorkloadEndpoint;

    fn set_defaults(resource: &mut Resource<Self>) {
        if resource.metadata.name.is_empty()
            && let Ok(name) = WorkloadName::of(&resource.spec).build()
        {
            resource.metadata.name = name;
        }
        let namespace = resource.metadata.namespace.clone().unwrap_or_default();
        let labels = &mut resource.metadata.labels;
        labels.insert("projectcalico.org/namespace".into(), namespace);
        labels.insert("projectcalico.org/orchestrator".into(), resource.spec.orchestrator.clone());
        for port in &mut resource.spec.ports {
            port.host_port.get_or_insert(0);
            port.host_ip.get_or_insert_default();
        }
    }

    fn faults(resource: &Resource<Self>) -> Vec<Fault> {
        validate::workload_endpoint(resource)
    }

    fn into_any(resource: Resource<Self>) -> AnyResource {
        AnyResource::WorkloadEndpoint(resource)
    }
}

impl Kind for HostEndpointSpec {
    const NAME: KindName = KindName::HostEndpoint;

    fn faults(resource: &Resource<Self>) -> Vec<Fault> {
        validate::host_endpoint(resource)
    }

    fn into_any(resource: Resource<Self>) -> AnyResource {
        AnyResource::HostEndpoint(resource)
    }
}
