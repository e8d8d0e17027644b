#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;
use crate::{Action, ResourceKey, Revision};

fn prepared(spec: Value) -> GlobalNetworkPolicy {
    let mut policy = GlobalNetworkPolicy::new("web", serde_json::from_value(spec).unwrap());
    policy.prepare().unwrap();
    policy
}

/// A policy as it stands in the datastore under this name.
fn stored(name: &str, annotations: Value, spec: Value) -> GlobalNetworkPolicy {
    let json = json!({"metadata": {"name": name, "annotations": annotations}, "spec": spec});
    GlobalNetworkPolicy::from_json(json.to_string().as_bytes(), Some(Revision(1))).unwrap()
}

#[test]
fn members_are_written_in_upstreams_order() {
    let mut policy = GlobalNetworkPolicy::new(
        "web",
        PolicySpec {
            order: Some(10.into()),
            ingress: vec![Rule::of(Action::Allow)],
            egress: vec![Rule::of(Action::Deny)],
            selector: "a == 'b' && has(c)".into(),
            do_not_track: true,
            apply_on_forward: true,
            service_account_selector: "all()".into(),
            namespace_selector: "all()".into(),
            performance_hints: vec!["AssumeNeededOnEveryNode".into()],
            ..PolicySpec::default()
        }
        .into(),
    );
    policy.prepare().unwrap();
    let expected = concat!(
        r#"{"kind":"GlobalNetworkPolicy","apiVersion":"projectcalico.org/v3","metadata":{"name":"web","#,
        r#""labels":{"projectcalico.org/tier":"default"},"#,
        r#""annotations":{"projectcalico.org/metadata":"{\"name\":\"web\"}"}},"spec":{"tier":"default","order":10,"#,
        r#""ingress":[{"action":"Allow"}],"egress":[{"action":"Deny"}],"#,
        r#""selector":"a == 'b' \u0026\u0026 has(c)","types":["Ingress","Egress"],"doNotTrack":true,"#,
        r#""applyOnForward":true,"serviceAccountSelector":"all()","namespaceSelector":"all()","#,
        r#""performanceHints":["AssumeNeededOnEveryNode"]}}"#
    );
    assert_eq!(String::from_utf8(policy.to_json()).unwrap(), expected);
    assert!(policy.metadata.annotations.is_empty(), "nobody sees the annotation");
    let read = GlobalNetworkPolicy::from_json(expected.as_bytes(), None).unwrap();
    assert_eq!(read, policy);
}

#[test]
fn types_are_computed_where_they_are_absent() {
    let rule = json!([{"action": "Allow"}]);
    for (spec, expected) in [
        (json!({}), vec!["Ingress"]),
        (json!({"ingress": rule}), vec!["Ingress"]),
        (json!({"egress": rule}), vec!["Egress"]),
        (json!({"ingress": rule, "egress": rule}), vec!["Ingress", "Egress"]),
        (json!({"types": ["Ingress"], "egress": rule}), vec!["Ingress"]),
        (json!({"types": ["Egress", "Ingress"]}), vec!["Egress", "Ingress"]),
    ] {
        let unwritten: PolicySpec = serde_json::from_value(spec.clone()).unwrap();
        let written = prepared(spec.clone());
        assert_eq!(written.spec.types, expected, "{spec}");
        for direction in [Direction::Ingress, Direction::Egress] {
            let applies = expected.contains(&direction.as_str());
            assert_eq!(unwritten.applies(direction), applies, "{spec} {direction:?}");
            assert_eq!(written.spec.applies(direction), applies, "{spec} {direction:?}");
        }
    }
}

#[test]
fn the_tier_stands_in_a_label() {
    assert_eq!(prepared(json!({})).metadata.labels[LABEL_TIER], "default");
    let mut policy = prepared(json!({"tier": "t"}));
    assert_eq!(policy.metadata.labels[LABEL_TIER], "t");
    policy.spec.tier = "u".into();
    policy.prepare().unwrap();
    assert_eq!(policy.metadata.labels[LABEL_TIER], "u");
    assert_eq!(stored("p", json!({}), json!({})).metadata.labels[LABEL_TIER], "default");
}

#[test]
fn the_name_of_a_stored_policy() {
    let hidden = |text: &str| json!({"projectcalico.org/metadata": text, "mine": "x"});
    for (name, annotations, tier, expected) in [
        ("p", hidden(r#"{"name":"p"}"#), "default", "p"),
        ("default.p", hidden(r#"{"name":"p"}"#), "default", "p"),
        ("default.p", hidden(r#"{"name":"default.p"}"#), "default", "default.p"),
        ("default.p", json!({}), "default", "p"),
        ("default.p", json!({}), "", "p"),
        ("default.default.p", json!({}), "default", "default.p"),
        ("default.", json!({}), "default", "default."),
        ("default.p", json!({}), "security", "default.p"),
        ("security.p", json!({}), "security", "security.p"),
        // An annotation that says nothing changes nothing.
        ("default.p", hidden("mine"), "default", "default.p"),
        ("p", hidden("{}"), "default", "p"),
        ("p", hidden(r#"{"name":""}"#), "default", "p"),
    ] {
        let policy = stored(name, annotations.clone(), json!({"tier": tier}));
        assert_eq!(policy.name(), expected, "{name} {annotations} {tier}");
        assert!(!policy.metadata.annotations.contains_key(ANNOTATION_METADATA));
    }
}

#[test]
fn a_policy_of_an_older_release_may_stand_under_its_old_key() {
    let json = br#"{"metadata":{"name":"default.old"},"spec":{"selector":"all()","types":["Ingress"]}}"#;
    for (name, good) in [("default.old", true), ("old", true), ("other", false)] {
        let key = ResourceKey::new(KindName::GlobalNetworkPolicy, None, name);
        assert_eq!(AnyResource::decode_valid(&key, json, Revision(1)).is_ok(), good, "{name}");
    }
}

#[test]
fn staged_policies_are_set_unless_they_say_otherwise() {
    let prepared = |spec: Value| {
        let mut policy = StagedNetworkPolicy::namespaced("n", "p", serde_json::from_value(spec).unwrap());
        policy.prepare().unwrap();
        policy.spec
    };
    let set = prepared(json!({"egress": [{"action": "Allow"}]}));
    assert_eq!((set.staged_action.as_str(), set.types.len(), set.tier()), ("Set", 1, "default"));
    let delete = prepared(json!({"stagedAction": "Delete"}));
    assert!(delete.types.is_empty(), "it says nothing of traffic");
    assert_eq!(delete.tier(), "default");
}

#[test]
fn orders_are_numbers() {
    let order = |spec: Value| serde_json::from_value::<PolicySpec>(spec).unwrap().order();
    assert_eq!(order(json!({})), None);
    assert_eq!(order(json!({"order": 10.5})), Some(10.5));
    assert_eq!(order(json!({"order": -3})), Some(-3.0));
    assert_eq!(order(json!({"order": u64::MAX})), Some(u64::MAX as f64));
}
