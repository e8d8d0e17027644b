//! Felix settings.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{AnyResource, Fault, Kind, KindName, Resource, validate};

/// A Felix configuration resource: `default`, `node.<name>`, or any name with a node selector.
pub type FelixConfiguration = Resource<FelixConfigurationSpec>;

/// Felix settings; those that nothing here reads yet are kept as found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FelixConfigurationSpec {
    /// What happens to packets from workloads to their host after egress policy: `Drop`, `Accept`, `Return`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_endpoint_to_host_action: Option<String>,
    /// Verbosity on standard error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_severity_screen: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What upstream's client writes on behalf of settings that only its own dataplanes have. A deprecated switch decides
/// two of them where it is set.
fn upstream_defaults(extra: &Map<String, Value>) -> [(&'static str, &'static str); 3] {
    let (balancing, host_networked) = match extra.get("bpfConnectTimeLoadBalancingEnabled").and_then(Value::as_bool) {
        Some(true) => ("Enabled", "Disabled"),
        Some(false) => ("Disabled", "Disabled"),
        None => ("TCP", "Enabled"),
    };
    [
        ("floatingIPs", "Disabled"),
        ("bpfConnectTimeLoadBalancing", balancing),
        ("bpfHostNetworkedNATWithoutCTLB", host_networked),
    ]
}

impl Kind for FelixConfigurationSpec {
    const NAME: KindName = KindName::FelixConfiguration;

    fn set_defaults(resource: &mut Resource<Self>) {
        let extra = &mut resource.spec.extra;
        extra.entry("bpfLogLevel").or_insert_with(|| "".into());
        for (name, value) in upstream_defaults(extra) {
            extra.entry(name).or_insert_with(|| value.into());
        }
        extra.entry("nftablesMode").or_insert_with(|| "Auto".into());
        extra.entry("nftablesFlowTableOffload").or_insert_with(|| "Disabled".into());
    }

    fn faults(resource: &Resource<Self>) -> Vec<Fault> {
        validate::felix_configuration(resource)
    }

    fn into_any(resource: Resource<Self>) -> AnyResource {
        AnyResource::FelixConfiguration(resource)
    }
}
