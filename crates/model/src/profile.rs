//! Profiles: rules and labels that endpoints inherit by name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    ANNOTATION_TYPED_NAME, Action, AnyResource, Direction, EntityRule, Fault, Kind, KindName, ProfileName, Resource,
    Rule, metadata::null_is_empty, validate,
};

/// A profile resource.
pub type Profile = Resource<ProfileSpec>;

/// What a profile holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProfileSpec {
    /// Rules for traffic to the endpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub ingress: Vec<Rule>,
    /// Rules for traffic from the endpoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub egress: Vec<Rule>,
    /// Labels that endpoints with this profile inherit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub labels_to_apply: BTreeMap<String, String>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Resource<ProfileSpec> {
    /// The classic default profile: members (and only they) may come in, everything may go out. The tag of the
    /// classic model is the label `<name>: ""`, and a rule `from tag T` is the selector `T == ''`, as upstream's
    /// converter writes it.
    pub fn classic_default(name: &ProfileName) -> Self {
        let tag = name.as_typed().to_owned();
        let mut inbound = Rule::of(Action::Allow);
        inbound.source = EntityRule { selector: format!("{tag} == ''"), ..EntityRule::default() };
        let mut profile = Self::new(
            name.as_stored(),
            ProfileSpec {
                ingress: vec![inbound],
                egress: vec![Rule::of(Action::Allow)],
                labels_to_apply: BTreeMap::from([(tag, String::new())]),
                extra: Map::new(),
            },
        );
        if name.needs_annotation() {
            profile.metadata.annotations.insert(ANNOTATION_TYPED_NAME.to_owned(), name.as_typed().to_owned());
        }
        profile
    }

    /// The name in both forms.
    pub fn profile_name(&self) -> ProfileName {
        ProfileName::stored(self.name(), self.metadata.annotations.get(ANNOTATION_TYPED_NAME).map(String::as_str))
    }
}

impl Kind for ProfileSpec {
    const NAME: KindName = KindName::Profile;

    fn faults(resource: &Resource<Self>) -> Vec<Fault> {
        let spec = &resource.spec;
        let holder = validate::Holder::Profile;
        let mut faults = validate::rules("spec.ingress", holder, Direction::Ingress, &spec.ingress);
        faults.extend(validate::rules("spec.egress", holder, Direction::Egress, &spec.egress));
        faults.extend(validate::labels("spec.labelsToApply", &spec.labels_to_apply));
        faults
    }

    fn into_any(resource: Resource<Self>) -> AnyResource {
        AnyResource::Profile(resource)
    }
}
