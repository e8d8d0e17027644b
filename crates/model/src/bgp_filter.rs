//! BGP filters: which routes go out to BGP neighbours and come in from them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{AnyResource, AsNumber, Fault, Kind, KindName, Resource, metadata::null_is_empty, validate};

/// A BGP filter resource.
pub type BGPFilter = Resource<BGPFilterSpec>;

/// Four lists of rules; in each the first that matches decides.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BGPFilterSpec {
    /// IPv4 routes that go out.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub export_v4: Vec<BGPFilterRule>,
    /// IPv4 routes that come in.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub import_v4: Vec<BGPFilterRule>,
    /// IPv6 routes that go out.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub export_v6: Vec<BGPFilterRule>,
    /// IPv6 routes that come in.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub import_v6: Vec<BGPFilterRule>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One rule: all of its conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BGPFilterRule {
    /// The network that `match_operator` compares with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cidr: String,
    /// Lengths of the route's prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_length: Option<PrefixLength>,
    /// `RemotePeers`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// The interface the route leads to; `*` stands for any end.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub interface: String,
    /// `Equal`, `NotEqual`, `In`, `NotIn`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub match_operator: String,
    /// `eBGP` or `iBGP`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub peer_type: String,
    /// Communities that the route has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub communities: Option<CommunityMatch>,
    /// What the route's AS path begins with.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub as_path_prefix: Vec<AsNumber>,
    /// The route's priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    /// `Accept` or `Reject`.
    #[serde(default)]
    pub action: String,
    /// What is done to a route that is accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub operations: Vec<BGPFilterOperation>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Both ends included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PrefixLength {
    /// The shortest; absent is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<i32>,
    /// The longest; absent is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<i32>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Communities to match.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CommunityMatch {
    /// `aa:nn` or `aa:nn:mm`; exactly one.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub values: Vec<String>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One change of a route; exactly one member is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BGPFilterOperation {
    /// Adds a community.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add_community: Option<AddCommunity>,
    /// Puts AS numbers before the path.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "prependASPath")]
    pub prepend_as_path: Option<PrependAsPath>,
    /// Sets the priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_priority: Option<SetPriority>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Operand of [`BGPFilterOperation::add_community`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AddCommunity {
    /// `aa:nn` or `aa:nn:mm`.
    #[serde(default)]
    pub value: String,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Operand of [`BGPFilterOperation::prepend_as_path`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PrependAsPath {
    /// The numbers, the first one foremost.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub prefix: Vec<AsNumber>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Operand of [`BGPFilterOperation::set_priority`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SetPriority {
    /// The priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<i64>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Kind for BGPFilterSpec {
    const NAME: KindName = KindName::BGPFilter;

    fn faults(resource: &Resource<Self>) -> Vec<Fault> {
        validate::bgp_filter(resource)
    }

    fn into_any(resource: Resource<Self>) -> AnyResource {
        AnyResource::BGPFilter(resource)
    }
}
