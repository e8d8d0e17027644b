//! Tiers: groups of policies.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{AnyResource, Fault, Kind, KindName, Resource, validate};

/// The order of a tier that names none.
const DEFAULT_ORDER: i64 = 1_000_000;

/// A tier resource.
pub type Tier = Resource<TierSpec>;

/// Where a tier stands and how it ends.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TierSpec {
    /// Lower first; absent counts as 1,000,000, which a write fills in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<serde_json::Number>,
    /// `Deny` or `Pass`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub default_action: String,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl TierSpec {
    /// Where the tier stands: lower first.
    pub fn order(&self) -> f64 {
        self.order.as_ref().and_then(serde_json::Number::as_f64).unwrap_or(DEFAULT_ORDER as f64)
    }

    /// True if what no policy of the tier decides goes on to the next tier; false if it is denied.
    pub fn passes(&self) -> bool {
        self.default_action == "Pass"
    }

    /// The three tiers that every cluster has, by name.
    pub fn built_in() -> [Tier; 3] {
        [("default", DEFAULT_ORDER, "Deny"), ("kube-admin", 1_000, "Pass"), ("kube-baseline", 10_000_000, "Pass")].map(
            |(name, order, action)| {
                Tier::new(
                    name,
                    Self { order: Some(order.into()), default_action: action.to_owned(), extra: Map::new() },
                )
            },
        )
    }
}

impl Kind for TierSpec {
    const NAME: KindName = KindName::Tier;
    const STATUS_ALWAYS: bool = true;

    fn set_defaults(resource: &mut Resource<Self>) {
        resource.spec.order.get_or_insert_with(|| DEFAULT_ORDER.into());
        if resource.spec.default_action.is_empty() {
            resource.spec.default_action = "Deny".into();
        }
    }

    fn faults(resource: &Resource<Self>) -> Vec<Fault> {
        validate::tier(resource)
    }

    fn into_any(resource: Resource<Self>) -> AnyResource {
        AnyResource::Tier(resource)
    }
}
