//! The cluster's identity and readiness.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{AnyResource, Fault, Kind, KindName, Resource};

/// The cluster information resource; there is one, `default`.
pub type ClusterInformation = Resource<ClusterInformationSpec>;

/// What the cluster is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterInformationSpec {
    /// 32 hex digits of a random UUID.
    #[serde(default, skip_serializing_if = "String::is_empty", rename = "clusterGUID")]
    pub cluster_guid: String,
    /// Comma-separated list of who uses the datastore.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster_type: String,
    /// Upstream's calicoctl refuses to work with a version that is not its own; left empty here.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub calico_version: String,
    /// Felix programs nothing until this is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore_ready: Option<bool>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Kind for ClusterInformationSpec {
    const NAME: KindName = KindName::ClusterInformation;

    fn faults(_: &Resource<Self>) -> Vec<Fault> {
        // Its one rule is that of its name, with the other names' rules.
        Vec::new()
    }

    fn into_any(resource: Resource<Self>) -> AnyResource {
        AnyResource::ClusterInformation(resource)
    }
}
