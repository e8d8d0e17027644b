//! Kubernetes policies on trial. They are reported on only, and nothing here reports yet; they can be stored and seen.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{AnyResource, Fault, Kind, KindName, Resource, metadata::null_is_empty, validate};

/// A staged Kubernetes policy resource.
pub type StagedKubernetesNetworkPolicy = Resource<StagedKubernetesNetworkPolicySpec>;

/// A Kubernetes network policy and what it is staged for. Its parts are Kubernetes' and kept as found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StagedKubernetesNetworkPolicySpec {
    /// `Set`, `Delete`, `Learn`, `Ignore`; a write fills in `Set`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub staged_action: String,
    /// The pods, as a Kubernetes label selector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<Value>,
    /// Rules for traffic to the pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub ingress: Vec<Value>,
    /// Rules for traffic from the pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub egress: Vec<Value>,
    /// `Ingress`, `Egress`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub policy_types: Vec<String>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Kind for StagedKubernetesNetworkPolicySpec {
    const NAME: KindName = KindName::StagedKubernetesNetworkPolicy;

    fn set_defaults(resource: &mut Resource<Self>) {
        if resource.spec.staged_action.is_empty() {
            resource.spec.staged_action = "Set".into();
        }
    }

    fn faults(resource: &Resource<Self>) -> Vec<Fault> {
        validate::staged_kubernetes(resource)
    }

    fn into_any(resource: Resource<Self>) -> AnyResource {
        AnyResource::StagedKubernetesNetworkPolicy(resource)
    }
}
