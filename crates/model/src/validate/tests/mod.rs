#![allow(clippy::unwrap_used)]

mod others;
mod policies;

use std::collections::BTreeMap;

use super::*;
use crate::{Kind, Profile, ProfileSpec, Resource, WorkloadEndpointSpec};

/// The paths of the faults of a resource that is about to be written.
fn paths<S: Kind>(json: &str) -> Vec<String> {
    let mut resource = Resource::<S>::from_json(json.as_bytes(), None).unwrap();
    match resource.prepare() {
        Ok(()) => Vec::new(),
        Err(invalid) => invalid.faults.into_iter().map(|fault| fault.path).collect(),
    }
}

fn profile_rule(rule: &str) -> Vec<String> {
    paths::<ProfileSpec>(&format!(r#"{{"metadata":{{"name":"p"}},"spec":{{"ingress":[{rule}]}}}}"#))
}

#[test]
fn names_and_labels_follow_kubernetes() {
    for good in ["a", "a-b", "a.b-c", "0", "a.b.c", "a--b"] {
        assert!(is_subdomain(good), "{good}");
    }
    for bad in ["", "-a", "a-", "a.", ".a", "A", "a_b", "a/b", "ä"] {
        assert!(!is_subdomain(bad), "{bad}");
    }
    for good in ["a", "A_b.c-9", "example.org/name", &"x".repeat(63)] {
        assert!(is_qualified(good), "{good}");
    }
    for bad in ["", "a b", "-a", "a_", "Example.org/a", "a/", "/a", "a/b/c", &"x".repeat(64)] {
        assert!(!is_qualified(bad), "{bad}");
    }
    let bad_values = BTreeMap::from([("a".to_owned(), "b c".to_owned()), ("b".to_owned(), String::new())]);
    assert_eq!(labels("l", &bad_values).len(), 1);
}

#[test]
fn all_faults_come_at_once_each_with_its_path() {
    let json = r#"{"metadata":{"name":"Bad_Name","labels":{"x y":""},"annotations":{"in valid":"z"}},
        "spec":{"ingress":[{"action":"Allow","protocol":"tcp"},{"action":"Deny","source":{"selector":"a =="}}],
                "labelsToApply":{"q q":""}}}"#;
    let mut found = paths::<ProfileSpec>(json);
    found.sort();
    assert_eq!(
        found,
        [
            "metadata.annotations",
            "metadata.labels",
            "metadata.name",
            "spec.ingress[0].protocol",
            "spec.ingress[1].source.selector",
            "spec.labelsToApply",
        ]
    );
}

#[test]
fn rules_by_table() {
    let at = "spec.ingress[0]";
    for (rule, path) in [
        (r#"{"action":"any word"}"#, ""),
        (r#"{"action":"Allow","protocol":0}"#, ".protocol"),
        (r#"{"action":"Allow","notProtocol":"GRE"}"#, ".notProtocol"),
        (r#"{"action":"Allow","protocol":"ICMP","icmp":{"type":255}}"#, ".icmp.type"),
        (r#"{"action":"Allow","protocol":"ICMP","icmp":{"type":8,"code":256}}"#, ".icmp.code"),
        (r#"{"action":"Allow","source":{"nets":["10.0.0.1"]}}"#, ".source.nets[0]"),
        (r#"{"action":"Allow","source":{"nets":["10.0.0.0/8","10.0.0.1/8"]}}"#, ".source.nets[1]"),
        (r#"{"action":"Allow","destination":{"notNets":["::/0"]}}"#, ".destination.notNets[0]"),
        (r#"{"action":"Allow","ipVersion":6,"source":{"nets":["10.0.0.0/8"]}}"#, ".ipVersion"),
        (r#"{"action":"Allow","destination":{"ports":[80]}}"#, ".destination.ports"),
        (r#"{"action":"Allow","destination":{"ports":["http"]}}"#, ""),
        (r#"{"action":"Allow","protocol":"ICMP","destination":{"ports":["http"]}}"#, ".destination.ports"),
        (r#"{"action":"Allow","protocol":"TCP","source":{"notPorts":[0]}}"#, ".source.notPorts[0]"),
        (r#"{"action":"Allow","protocol":"TCP","notProtocol":"UDP","destination":{"ports":[80,"81:90"]}}"#, ""),
        (r#"{"action":"Allow","destination":{"services":{"name":"x"}}}"#, ".destination.services"),
        (r#"{"action":"Allow","source":{"namespaceSelector":"a ="}}"#, ".source.namespaceSelector"),
    ] {
        let expected: Vec<String> = if path.is_empty() { vec![] } else { vec![format!("{at}{path}")] };
        assert_eq!(profile_rule(rule), expected, "{rule}");
    }
}

#[test]
fn where_two_families_meet_both_places_are_named() {
    let rule = r#"{"action":"Allow","source":{"nets":["10.0.0.0/8"]},"destination":{"nets":["fd00::/8"]}}"#;
    let both = ["spec.ingress[0].source.nets[0]", "spec.ingress[0].destination.nets[0]"];
    assert_eq!(profile_rule(rule), both);
}

#[test]
fn a_workload_endpoint_is_named_by_its_parts() {
    let endpoint = |name: &str, spec: &str| {
        let meta = format!(r#"{{"name":"{name}","namespace":"default"}}"#);
        paths::<WorkloadEndpointSpec>(&format!(r#"{{"metadata":{meta},"spec":{{{spec},"interfaceName":"cali0"}}}}"#))
    };
    let docker = r#""node":"h-1","orchestrator":"docker","workload":"c0","endpoint":"eth0""#;
    assert!(endpoint("h--1-docker-c0-eth0", docker).is_empty());
    assert!(endpoint("", docker).is_empty(), "an empty name is filled in");
    assert_eq!(endpoint("h-1-docker-c0-eth0", docker), ["metadata.name"]);
    let k8s = r#""node":"h","orchestrator":"k8s","pod":"web","endpoint":"eth0""#;
    assert!(endpoint("h-k8s-web-eth0", k8s).is_empty());
    let none = r#""node":"h","orchestrator":"cni","endpoint":"eth0""#;
    assert_eq!(endpoint("", none), ["spec.containerID"]);
}

#[test]
fn a_namespace_is_for_namespaced_kinds() {
    let mut profile = Profile::namespaced("ns", "p", ProfileSpec::default());
    assert!(profile.prepare().unwrap_err().to_string().contains("metadata.namespace"));
    let endpoint = r#"{"metadata":{"name":"h-docker-c-eth0"},"spec":{"node":"h","orchestrator":"docker","workload":"c",
        "endpoint":"eth0","interfaceName":"cali0"}}"#;
    assert_eq!(paths::<WorkloadEndpointSpec>(endpoint), ["metadata.namespace"]);
}

#[test]
fn the_classic_default_profile_is_valid() {
    for name in ["web", "PROF_A_B", "x.y-z"] {
        let name = crate::ProfileName::typed(name).unwrap();
        Profile::classic_default(&name).prepare().unwrap();
    }
}
