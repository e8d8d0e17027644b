//! Policies: ordered rules for the endpoints that a selector names, enforced and staged, of one namespace and global.
//!
//! The four kinds share one form, [`PolicySpec`]; each is a type of its own around it, so that they cannot be
//! confused. Upstream stores a policy's name twice, in the metadata and in an annotation that nobody sees: it is put
//! on by [`Resource::to_json`] and taken off by [`Resource::from_json`].

use std::{
    borrow::Cow,
    ops::{Deref, DerefMut},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

use crate::{AnyResource, Fault, Kind, KindName, Metadata, Resource, Rule, metadata::null_is_empty, validate};

/// The annotation with a policy's name as its author gave it; in the datastore only.
pub const ANNOTATION_METADATA: &str = "projectcalico.org/metadata";
/// The label with a policy's tier; every write sets it.
pub const LABEL_TIER: &str = "projectcalico.org/tier";
/// The tier of policies that name none.
const DEFAULT_TIER: &str = "default";

/// A policy resource of one namespace.
pub type NetworkPolicy = Resource<NetworkPolicySpec>;
/// A policy resource of all namespaces and of hosts.
pub type GlobalNetworkPolicy = Resource<GlobalNetworkPolicySpec>;
/// A policy resource of one namespace, on trial.
pub type StagedNetworkPolicy = Resource<StagedNetworkPolicySpec>;
/// A policy resource of all namespaces, on trial.
pub type StagedGlobalNetworkPolicy = Resource<StagedGlobalNetworkPolicySpec>;

/// Which way packets go, seen from the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// To the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

impl Direction {
    /// As written in a policy's `types`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "Ingress",
            Self::Egress => "Egress",
        }
    }
}

/// Which endpoints, in which order, with which rules. Not every kind has every member: the schema of each says so.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicySpec {
    /// What a staged policy stands for: `Set`, `Delete`, `Learn`, `Ignore`. Staged kinds only.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub staged_action: String,
    /// The tier it belongs to; empty is `default`, which a write fills in.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tier: String,
    /// Lower first; absent is last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Number>,
    /// Rules for traffic to the endpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub ingress: Vec<Rule>,
    /// Rules for traffic from the endpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub egress: Vec<Rule>,
    /// The endpoints by their labels; empty is all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// `Ingress`, `Egress`; a write computes it where it is absent. [`applies`](Self::applies) gives the meaning.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub types: Vec<String>,
    /// Before connection tracking. Global only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not", deserialize_with = "null_is_empty")]
    pub do_not_track: bool,
    /// Before destinations are translated. Global only.
    #[serde(
        default,
        skip_serializing_if = "std::ops::Not::not",
        deserialize_with = "null_is_empty",
        rename = "preDNAT"
    )]
    pub pre_dnat: bool,
    /// Also to what a host forwards through its host endpoints. Global only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not", deserialize_with = "null_is_empty")]
    pub apply_on_forward: bool,
    /// The endpoints by the labels of their service accounts.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub service_account_selector: String,
    /// The endpoints by the labels of their namespaces. Global only.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace_selector: String,
    /// `AssumeNeededOnEveryNode`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub performance_hints: Vec<String>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl PolicySpec {
    /// The order as a number, `None` for last.
    pub fn order(&self) -> Option<f64> {
        self.order.as_ref().and_then(Number::as_f64)
    }

    /// The tier's name.
    pub fn tier(&self) -> &str {
        if self.tier.is_empty() { DEFAULT_TIER } else { &self.tier }
    }

    /// True if the policy decides on traffic of this direction. Without `types`: on ingress unless there are egress
    /// rules only, on egress if there are egress rules.
    pub fn applies(&self, direction: Direction) -> bool {
        if self.types.is_empty() {
            return match direction {
                Direction::Ingress => self.egress.is_empty() || !self.ingress.is_empty(),
                Direction::Egress => !self.egress.is_empty(),
            };
        }
        self.types.iter().any(|word| word == direction.as_str())
    }

    /// The rules for a direction, whether it applies or not.
    pub fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    fn set_defaults(&mut self, metadata: &mut Metadata, staged: bool) {
        if self.tier.is_empty() {
            self.tier = DEFAULT_TIER.into();
        }
        metadata.labels.insert(LABEL_TIER.into(), self.tier.clone());
        if staged && self.staged_action.is_empty() {
            self.staged_action = "Set".into();
        }
        if self.types.is_empty() && !(staged && self.staged_action == "Delete") {
            let applies = [Direction::Ingress, Direction::Egress].into_iter().filter(|way| self.applies(*way));
            self.types = applies.map(|way| way.as_str().to_owned()).collect();
        }
    }
}

/// The metadata with the hidden annotation.
fn with_annotation(metadata: &Metadata) -> Cow<'_, Metadata> {
    let mut stored = metadata.clone();
    let name = Map::from_iter([("name".to_owned(), Value::from(metadata.name.as_str()))]);
    stored.annotations.insert(ANNOTATION_METADATA.into(), Value::Object(name).to_string());
    Cow::Owned(stored)
}

/// Takes the name from the hidden annotation. Older releases stored policies of the default tier with its name before
/// their own, and had no annotation.
fn without_annotation(metadata: &mut Metadata, tier: &str) {
    #[derive(Deserialize)]
    struct Hidden {
        name: String,
    }
    match metadata.annotations.remove(ANNOTATION_METADATA).map(|text| serde_json::from_str::<Hidden>(&text)) {
        Some(Ok(hidden)) if !hidden.name.is_empty() => metadata.name = hidden.name,
        Some(_) => {}
        None if tier == DEFAULT_TIER => {
            if let Some(name) = metadata.name.strip_prefix("default.").filter(|name| !name.is_empty()) {
                metadata.name = name.to_owned();
            }
        }
        None => {}
    }
    metadata.labels.entry(LABEL_TIER.to_owned()).or_insert_with(|| DEFAULT_TIER.to_owned());
}

macro_rules! policy {
    ($($(#[$doc:meta])* $spec:ident $kind:ident $staged:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $spec(pub PolicySpec);

        impl Deref for $spec {
            type Target = PolicySpec;

            fn deref(&self) -> &PolicySpec {
                &self.0
            }
        }

        impl DerefMut for $spec {
            fn deref_mut(&mut self) -> &mut PolicySpec {
                &mut self.0
            }
        }

        impl From<PolicySpec> for $spec {
            fn from(spec: PolicySpec) -> Self {
                Self(spec)
            }
        }

        impl Kind for $spec {
            const NAME: KindName = KindName::$kind;
            const HAS_OLD_NAMES: bool = true;

            fn set_defaults(resource: &mut Resource<Self>) {
                resource.spec.0.set_defaults(&mut resource.metadata, $staged);
            }

            fn stored_metadata(metadata: &Metadata) -> Cow<'_, Metadata> {
                with_annotation(metadata)
            }

            fn read_metadata(resource: &mut Resource<Self>) {
                without_annotation(&mut resource.metadata, resource.spec.tier());
            }

            fn faults(resource: &Resource<Self>) -> Vec<Fault> {
                validate::policy(Self::NAME, &resource.metadata, &resource.spec)
            }

            fn into_any(resource: Resource<Self>) -> AnyResource {
                AnyResource::$kind(resource)
            }
        }
    )+};
}

policy! {
    /// The spec of a [`NetworkPolicy`].
    NetworkPolicySpec NetworkPolicy false;
    /// The spec of a [`GlobalNetworkPolicy`].
    GlobalNetworkPolicySpec GlobalNetworkPolicy false;
    /// The spec of a [`StagedNetworkPolicy`].
    StagedNetworkPolicySpec StagedNetworkPolicy true;
    /// The spec of a [`StagedGlobalNetworkPolicy`].
    StagedGlobalNetworkPolicySpec StagedGlobalNetworkPolicy true;
}

#[cfg(test)]
mod tests;
