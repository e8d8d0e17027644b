//! Kubernetes' object metadata, as far as anything reads it here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Metadata of a resource. `resourceVersion` and `selfLink` are never stored and are dropped on reading a resource.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Unique per kind (and namespace); the last segment of the key.
    #[serde(default)]
    pub name: String,
    /// Set for namespaced kinds only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Random, given once at creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// RFC 3339, UTC, whole seconds; given once at creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    /// What selectors match.
    #[serde(default, skip_serializing_if = "nothing", deserialize_with = "null_is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Notes for tools and people.
    #[serde(default, skip_serializing_if = "nothing", deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// `generation`, `finalizers` and the like: kept as found.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Metadata {
    /// Gives a new resource its uid and creation time, if it has none yet.
    pub fn stamp(&mut self, now: time::OffsetDateTime) {
        self.uid.get_or_insert_with(|| uuid::Uuid::new_v4().to_string());
        self.creation_timestamp.get_or_insert_with(|| crate::timestamp(now));
    }
}

fn nothing(map: &BTreeMap<String, String>) -> bool {
    map.is_empty()
}

/// Reads `null` as the empty value: Go writes nil maps and slices so.
pub(crate) fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
