//! Felix settings.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{AnyResource, Fault, Kind, KindName, Resource};

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

impl Kind for FelixConfigurationSpec {
    const NAME: KindName = KindName::FelixConfiguration;

    fn set_defaults(resource: &mut Resource<Self>) {
        let extra = &mut resource.spec.extra;
        extra.entry("bpfLogLevel").or_insert_with(|| "".into());
        extra.entry("nftablesMode").or_insert_with(|| "Auto".into());
        extra.entry("nftablesFlowTableOffload").or_insert_with(|| "Disabled".into());
    }

    fn faults(resource: &Resource<Self>) -> Vec<Fault> {
        let _ = resource;
        Vec::new()
    }

    fn into_any(resource: Resource<Self>) -> AnyResource {
        AnyResource::FelixConfiguration(resource)
    }
}
