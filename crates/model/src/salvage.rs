//! What can be read of a stored value that cannot be read as a whole: enough to know what it governs and to close
//! that.
//!
//! Member by member, so the time grows with the size of the value only. What stands where text is wanted becomes text:
//! a selector that is a number is then one that does not parse, not one that selects everything.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Kind, Resource, ResourceKey, Revision, schema};

/// The resource without the members that cannot be read, under the name that its key gives it. `None` if the value is
/// not JSON, is of another kind, or lacks what its kind cannot do without.
pub(crate) fn salvage<S: Kind>(key: &ResourceKey, bytes: &[u8], revision: Revision) -> Option<Resource<S>> {
    let mut value: Value = serde_json::from_slice(bytes).ok()?;
    schema::tidy(S::NAME, &mut value);
    if value.get("kind").is_some_and(|kind| *kind != S::NAME.as_str()) {
        return None;
    }
    let mut resource = of_value::<S>(&value)?;
    resource.metadata.name.clone_from(&key.name);
    resource.metadata.namespace.clone_from(&key.namespace);
    resource.revision = Some(revision);
    S::read_metadata(&mut resource);
    Some(resource)
}

/// The same of a value whose members have their proper names, under the name that it gives itself.
pub(crate) fn of_value<S: Kind>(value: &Value) -> Option<Resource<S>> {
    let spec = readable(value.get("spec"))?;
    let metadata = readable(value.get("metadata")).unwrap_or_default();
    Some(Resource { metadata, spec, status: value.get("status").cloned(), revision: None, extra: Map::new() })
}

fn readable<T: DeserializeOwned>(value: Option<&Value>) -> Option<T> {
    let members = value.and_then(Value::as_object).into_iter().flatten();
    let good = members.filter_map(|(name, value)| Some((name.clone(), fitting::<T>(name, value)?)));
    read(&Value::Object(good.collect()))
}

/// From a borrowed value, as [`crate::Resource::from_json`] does it: each way to read every kind costs 100 KB of program.
fn read<T: DeserializeOwned>(value: &Value) -> Option<T> {
    T::deserialize(value).ok()
}

/// As much of a member's value as can stand there, one level deep.
fn fitting<T: DeserializeOwned>(name: &str, value: &Value) -> Option<Value> {
    let fits = |value: &Value| {
        let one = Map::from_iter([(name.to_owned(), value.clone())]);
        read::<T>(&Value::Object(one)).is_some()
    };
    if fits(value) {
        return Some(value.clone());
    }
    let candidates = |value: &Value| [value.clone(), Value::String(value.to_string())];
    match value {
        Value::Array(items) => {
            let good = |item: &Value| candidates(item).into_iter().find(|item| fits(&Value::Array(vec![item.clone()])));
            Some(Value::Array(items.iter().filter_map(good).collect())).filter(fits)
        }
        Value::Object(map) => {
            let one = |key: &String, value: &Value| Value::Object(Map::from_iter([(key.clone(), value.clone())]));
            let good = |(key, value)| {
                let value = candidates(value).into_iter().find(|value| fits(&one(key, value)))?;
                Some((key.clone(), value))
            };
            Some(Value::Object(map.iter().filter_map(good).collect())).filter(fits)
        }
        _ => None,
    }
    .or_else(|| Some(Value::String(value.to_string())).filter(fits))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;
    use crate::{AnyResource, Change, KindName, NetworkPolicy};

    fn policy(value: &Value) -> NetworkPolicy {
        let key = ResourceKey::new(KindName::NetworkPolicy, Some("prod"), "p");
        let error = AnyResource::decode_valid(&key, value.to_string().as_bytes(), Revision(3)).unwrap_err();
        let change = Change::from(error);
        let Change::Unusable { key: at, reason, resource } = change else { panic!("{change:?}") };
        assert_eq!(at, key);
        assert!(!reason.is_empty());
        match resource.map(|resource| *resource) {
            Some(AnyResource::NetworkPolicy(policy)) => policy,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_can_be_read_of_a_policy_is_kept() {
        let read = policy(&json!({
            "metadata": {"name": 7, "namespace": "other", "labels": {"a": "b", "c": 1}},
            "spec": {
                "tier": "t", "order": "high", "selector": "a == 'b'", "types": ["Egress"],
                "ingress": [{"action": "Allow"}, {"action": "Deny", "protocol": {}}, 5],
                "egress": "none", "doNotTrack": "yes",
            },
        }));
        assert_eq!((read.name(), read.metadata.namespace.as_deref()), ("p", Some("prod")), "as the key has it");
        assert_eq!(read.metadata.labels["a"], "b");
        assert_eq!(read.metadata.labels["c"], "1");
        assert_eq!((read.spec.tier.as_str(), read.spec.selector.as_str()), ("t", "a == 'b'"));
        assert_eq!((read.spec.order(), read.spec.ingress.len(), read.spec.egress.len()), (None, 1, 0));
        assert_eq!(read.spec.types, ["Egress"]);
        assert!(!read.spec.do_not_track);
        assert_eq!(read.revision, Some(Revision(3)));
    }

    #[test]
    fn a_selector_that_is_no_text_does_not_become_one_of_everything() {
        for value in [json!(7), json!(true), json!({}), json!(["all()"]), json!({"a": "b"})] {
            let read =
                policy(&json!({"metadata": {"name": "p"}, "spec": {"selector": value, "types": [1, "Ingress"]}}));
            assert!(calico_selector::parse(&read.spec.selector).is_err(), "{}", read.spec.selector);
            assert_eq!(read.spec.types, ["1", "Ingress"]);
        }
    }

    #[test]
    fn values_that_only_fail_validation_come_whole() {
        let read = policy(&json!({
            "metadata": {"name": "p", "namespace": "prod"},
            "spec": {"selector": "a =", "ingress": [{"action": "allow"}], "types": ["Ingress"]},
        }));
        assert_eq!((read.spec.selector.as_str(), read.spec.ingress[0].action.as_str()), ("a =", "allow"));
    }

    #[test]
    fn a_value_under_another_name_comes_too() {
        let read = policy(&json!({"metadata": {"name": "q", "namespace": "prod"}, "spec": {"selector": "has(a)"}}));
        assert_eq!(read.spec.selector, "has(a)");
    }

    #[test]
    fn what_is_nothing_at_all_comes_without_a_resource() {
        let key = ResourceKey::new(KindName::IPPool, None, "p");
        for text in ["{not json", r#"{"kind":"Node","metadata":{"name":"p"},"spec":{"cidr":"10.0.0.0/8"}}"#, "[]", "{}"]
        {
            let error = AnyResource::decode_valid(&key, text.as_bytes(), Revision(1)).unwrap_err();
            assert!(matches!(Change::from(error), Change::Unusable { resource: None, .. }), "{text}");
        }
    }
}
