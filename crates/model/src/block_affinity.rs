//! Block affinities in the form of a resource. IPAM in etcd has a form of its own and never makes these; the kind
//! exists so that stored ones can be seen.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Map, Value};

use crate::{AnyResource, Fault, Kind, KindName, Resource, validate};

/// A block affinity resource.
pub type BlockAffinity = Resource<BlockAffinitySpec>;

/// Which host owns a block.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BlockAffinitySpec {
    /// Empty, `confirmed`, `pending` or `pendingDeletion`.
    #[serde(default)]
    pub state: String,
    /// The host.
    #[serde(default)]
    pub node: String,
    /// `host` or `virtual`.
    #[serde(default, rename = "type", skip_serializing_if = "String::is_empty")]
    pub affinity_type: String,
    /// The block.
    #[serde(default)]
    pub cidr: String,
    /// On its way out.
    #[serde(default)]
    pub deleted: Flag,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A truth value that upstream stores as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flag(pub bool);

impl Serialize for Flag {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.0 { "true" } else { "false" })
    }
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Null => Ok(Self(false)),
            Value::Bool(flag) => Ok(Self(flag)),
            Value::String(text) if text == "true" => Ok(Self(true)),
            Value::String(text) if text == "false" || text.is_empty() => Ok(Self(false)),
            other => Err(de::Error::custom(format!("{other} is neither true nor false"))),
        }
    }
}

impl Kind for BlockAffinitySpec {
    const NAME: KindName = KindName::BlockAffinity;

    fn faults(resource: &Resource<Self>) -> Vec<Fault> {
        validate::block_affinity(resource)
    }

    fn into_any(resource: Resource<Self>) -> AnyResource {
        AnyResource::BlockAffinity(resource)
    }
}
