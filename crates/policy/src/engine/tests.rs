#![allow(clippy::unwrap_used)]
//! What the engine keeps when there is nothing to keep.

use calico_model::{AnyResource, Change, Revision};
use serde_json::{Value, json};

use super::*;

fn change(value: &Value) -> Change {
    let metadata = &value["metadata"];
    let kind = *KindName::ALL.iter().find(|kind| kind.as_str() == value["kind"]).unwrap();
    let key = ResourceKey::new(kind, metadata["namespace"].as_str(), metadata["name"].as_str().unwrap());
    match AnyResource::decode_valid(&key, value.to_string().as_bytes(), Revision(1)) {
        Ok(resource) => Change::Set { key, resource: Box::new(resource) },
        Err(error) => error.into(),
    }
}

/// An endpoint of this host whose label no other has.
fn endpoint(number: usize) -> Change {
    change(&json!({
        "kind": "WorkloadEndpoint",
        "metadata": {"name": format!("n1-docker-w{number}-eth0"), "namespace": "default", "labels": {"id": number.to_string()}},
        "spec": {
            "node": "n1", "orchestrator": "docker", "workload": format!("w{number}"), "endpoint": "eth0",
            "interfaceName": format!("cali{number}"), "ipNetworks": [format!("10.0.{}.{}/32", number / 250, number % 250 + 1)],
            "profiles": ["p", "missing"], "allowSpoofedSourcePrefixes": if number == 0 { json!(["10.9.0.0/16"]) } else { json!([]) },
            "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
        },
    }))
}

fn policy(name: &str, selector: &str, rule: &Value) -> Change {
    change(&json!({
        "kind": "GlobalNetworkPolicy", "metadata": {"name": name},
        "spec": {"selector": selector, "tier": name, "ingress": [rule], "types": ["Ingress"]},
    }))
}

fn cluster() -> Vec<Change> {
    let named =
        json!({"action": "Allow", "protocol": "TCP", "destination": {"ports": ["http"], "selector": "has(id)"}});
    let mut changes: Vec<Change> = (0..20).map(endpoint).collect();
    changes.extend([
        policy("a", "has(id)", &json!({"action": "Allow", "source": {"selector": "has(set)"}})),
        policy("b", "all()", &named),
        policy("c", "id == '3'", &json!({"action": "Perhaps"})),
        change(&json!({"kind": "Tier", "metadata": {"name": "a"}, "spec": {"order": 5, "defaultAction": "Pass"}})),
        change(&json!({"kind": "Profile", "metadata": {"name": "p"}, "spec": {"labelsToApply": {"x": "y"}}})),
        change(&json!({
            "kind": "GlobalNetworkSet", "metadata": {"name": "s", "labels": {"set": ""}}, "spec": {"nets": ["192.0.2.0/24"]},
        })),
        change(&json!({"kind": "NetworkSet", "metadata": {"name": "t", "namespace": "default"}, "spec": {"nets": ["x"]}})),
        change(&json!({"kind": "HostEndpoint", "metadata": {"name": "h"}, "spec": {"node": "n1", "interfaceName": "eth0"}})),
        change(&json!({"kind": "IPPool", "metadata": {"name": "p"}, "spec": {"cidr": "10.0.0.0/16"}})),
    ]);
    changes
}

/// Everything that has an entry per resource.
fn sizes(engine: &Engine) -> Vec<(&'static str, usize)> {
    let mut sizes = engine.policies.sizes().to_vec();
    sizes.extend(engine.profiles.sizes());
    sizes.extend(engine.workloads.sizes());
    sizes.extend(engine.overlay.sizes());
    sizes.extend([
        ("codes", engine.codes.len()),
        ("host endpoints", engine.hosts.len()),
        ("spoofers", engine.spoofers.len()),
        ("unusable", engine.unusable.len()),
    ]);
    sizes
}

#[test]
fn nothing_is_left_behind() {
    let mut engine = Engine::new("n1");
    for flush_between in [true, false] {
        cluster().into_iter().for_each(|change| engine.absorb(change));
        assert!(!engine.flush().is_empty());
        assert!(sizes(&engine).iter().filter(|(_, size)| *size > 0).count() > 8, "{:?}", sizes(&engine));
        for change in cluster() {
            engine.absorb(Change::Remove { key: change.key().clone() });
            if flush_between {
                engine.flush();
            }
        }
        engine.flush();
        let left: Vec<_> = sizes(&engine).into_iter().filter(|(_, size)| *size > 0).collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(engine.problems().is_empty());
    }
}

/// Endpoints that come and go with labels of their own, while no policy changes, leave no lists behind.
#[test]
fn lists_of_endpoints_that_are_gone_are_forgotten() {
    let mut engine = Engine::new("n1");
    for number in 0..500 {
        engine.absorb(policy(&format!("p{number}"), &format!("id == '{number}'"), &json!({"action": "Allow"})));
    }
    for number in 0..500 {
        engine.absorb(endpoint(number));
        engine.flush();
        engine.absorb(Change::Remove { key: endpoint(number).key().clone() });
        engine.flush();
    }
    assert!(engine.policies.remembered() < 40, "{}", engine.policies.remembered());
}

#[test]
fn the_tally_counts_what_was_sent() {
    let mut engine = Engine::new("n1");
    assert_eq!(engine.tally(), Tally::default());
    cluster().into_iter().for_each(|change| engine.absorb(change));
    let instructions = engine.flush();
    let count =
        |wanted: fn(&Instruction) -> bool| instructions.iter().filter(|instruction| wanted(instruction)).count();
    let tally = Tally {
        endpoints: count(|instruction| matches!(instruction, Instruction::EndpointUpdate { .. })),
        host_endpoints: count(|instruction| matches!(instruction, Instruction::HostEndpointUpdate { .. })),
        policies: count(|instruction| matches!(instruction, Instruction::PolicyUpdate { .. })),
        profiles: count(|instruction| matches!(instruction, Instruction::ProfileUpdate { .. })),
        sets: count(|instruction| matches!(instruction, Instruction::SetReplace { .. })),
    };
    assert_eq!(engine.tally(), tally);
    // One of the twenty asks for foreign sources, which is not allowed.
    assert_eq!((tally.endpoints, tally.host_endpoints, tally.policies, tally.profiles), (19, 1, 3, 2));
    cluster().iter().for_each(|change| engine.absorb(Change::Remove { key: change.key().clone() }));
    engine.flush();
    assert_eq!(engine.tally(), Tally::default());
}

#[test]
fn problems_change_only_with_their_version_and_other_hosts_endpoints_change_neither() {
    let mut engine = Engine::new("n1");
    let (mut version, mut problems, mut changed) = (engine.problems_version(), engine.problems(), 0);
    let removals = cluster().into_iter().map(|change| Change::Remove { key: change.key().clone() });
    for change in cluster().into_iter().chain(removals) {
        for flush in [false, true] {
            if flush {
                engine.flush();
            } else {
                engine.absorb(change.clone());
            }
            if engine.problems() != problems {
                assert_ne!(engine.problems_version(), version, "{change:?}");
                changed += 1;
            }
            (version, problems) = (engine.problems_version(), engine.problems());
        }
    }
    assert!(changed > 5, "{changed}");

    cluster().into_iter().for_each(|change| engine.absorb(change));
    engine.flush();
    let version = engine.problems_version();
    let Change::Set { key, resource } = endpoint(77) else { panic!("it is usable") };
    let AnyResource::WorkloadEndpoint(mut remote) = *resource else { panic!("it is an endpoint") };
    remote.spec.node = "n2".to_owned();
    engine.absorb(Change::Set { key, resource: Box::new(AnyResource::WorkloadEndpoint(remote)) });
    assert!(!engine.flush().is_empty(), "its address joins a set");
    assert_eq!(engine.problems_version(), version);
}
