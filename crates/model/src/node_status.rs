//! What a node reports of itself: a person creates the resource with a spec, the node named in it fills in the status.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{AnyResource, Fault, Kind, KindName, Resource, metadata::null_is_empty, validate};

/// A node status resource.
pub type CalicoNodeStatus = Resource<CalicoNodeStatusSpec>;

/// What to report, and how often.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CalicoNodeStatusSpec {
    /// The node that reports.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// `Agent`, `BGP`, `Routes`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub classes: Vec<String>,
    /// Seconds between two reports; 0 is never again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_period_seconds: Option<u32>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A status before the first report, with the members that upstream always writes.
fn no_report_yet() -> Value {
    json!({
        "lastUpdated": null,
        "agent": {"birdV4": {}, "birdV6": {}},
        "bgp": {
            "numberEstablishedV4": 0,
            "numberNotEstablishedV4": 0,
            "numberEstablishedV6": 0,
            "numberNotEstablishedV6": 0,
        },
        "routes": {},
    })
}

impl Kind for CalicoNodeStatusSpec {
    const NAME: KindName = KindName::CalicoNodeStatus;

    fn set_defaults(resource: &mut Resource<Self>) {
        resource.status.get_or_insert_with(no_report_yet);
    }

    fn faults(resource: &Resource<Self>) -> Vec<Fault> {
        validate::node_status(resource)
    }

    fn into_any(resource: Resource<Self>) -> AnyResource {
        AnyResource::CalicoNodeStatus(resource)
    }
}
