#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use calico_model::{AnyResource, ResourceKey};
use serde_json::{Value, json};

use super::*;

fn set(json: Value) -> Change {
    let kind = json["kind"].as_str().unwrap().to_owned();
    let kind = *calico_model::KindName::ALL.iter().find(|name| name.as_str() == kind).unwrap();
    let name = json["metadata"]["name"].as_str().unwrap();
    let key = ResourceKey::new(kind, json["metadata"]["namespace"].as_str(), name);
    let resource = AnyResource::decode(&key, json.to_string().as_bytes(), calico_model::Revision(1)).unwrap();
    Change::Set { key, resource: Box::new(resource) }
}

fn endpoint(node: &str, number: u8, role: &str) -> Change {
    let name = format!("{node}-docker-w{number}-eth0");
    set(json!({"kind": "WorkloadEndpoint", "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": name, "namespace": "docker", "labels": {"role": role}},
        "spec": {"node": node, "orchestrator": "docker", "workload": format!("w{number}"), "endpoint": "eth0",
            "interfaceName": format!("cali{number}"), "profiles": ["open"],
            "ipNetworks": [format!("10.65.0.{number}/32"), format!("fd65::{number}/128")]}}))
}

fn policy(name: &str, spec: Value) -> Change {
    set(
        json!({"kind": "GlobalNetworkPolicy", "apiVersion": "projectcalico.org/v3", "metadata": {"name": name}, "spec": spec}),
    )
}

/// Two clients and a database on two hosts, all open.
fn cluster() -> Cluster {
    let open = json!([{"action": "Allow"}]);
    let profile = set(json!({"kind": "Profile", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "open"},
        "spec": {"ingress": open, "egress": open}}));
    [profile, endpoint("h1", 1, "web"), endpoint("h2", 2, "web"), endpoint("h2", 3, "db")].into_iter().collect()
}

fn lock() -> Change {
    policy(
        "lock",
        json!({"selector": "role == 'db'", "types": ["Ingress"], "ingress": [
            {"action": "Allow", "protocol": "TCP", "source": {"selector": "role == 'web'"}, "destination": {"ports": [5432]}}]}),
    )
}

#[test]
fn a_policy_shows_what_it_closes_and_where() {
    let plan = plan(&cluster(), &[lock()]);
    assert_eq!(plan.hosts.iter().map(|host| host.node.as_str()).collect::<Vec<_>>(), ["h2"]);
    let said: Vec<String> = plan.hosts[0].changes.iter().map(|change| change.object.clone()).collect();
    assert_eq!(said, ["policy lock (global)", "1 endpoint docker/h2-docker-w3-eth0"]);
    assert_eq!(plan.hosts[0].changes[0].lines.len(), 1, "{:?}", plan.hosts[0].changes[0]);
    assert!(plan.hosts[0].changes[0].lines[0].text.starts_with("ingress[0]: Allow TCP from role == 'web'"));
    assert!(plan.hosts[0].changes[1].lines[0].text.contains("tier default, policy lock"));
    for verdict in &plan.verdicts {
        assert_eq!(verdict.to, ["docker/h2-docker-w3-eth0"]);
        assert_eq!(verdict.families, [4, 6], "{verdict:?}");
        assert_eq!((verdict.before, verdict.after), (Verdict::Allow, Verdict::Drop));
    }
    let traffics: BTreeSet<&str> = plan.verdicts.iter().map(|change| change.traffic.as_str()).collect();
    let expected = ["ping", "tcp 1-5431", "tcp 5433-65535", "udp, all ports"];
    assert_eq!(traffics.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn taking_it_back_opens_the_same_again() {
    let mut locked = cluster();
    locked.absorb(lock());
    let key = ResourceKey::new(calico_model::KindName::GlobalNetworkPolicy, None, "lock");
    let there = plan(&cluster(), &[lock()]).verdicts;
    let back = plan(&locked, &[Change::Remove { key }]).verdicts;
    assert_eq!(there.len(), back.len());
    assert!(back.iter().all(|change| change.after == Verdict::Allow));
}

#[test]
fn nothing_changes_nothing() {
    let mut locked = cluster();
    locked.absorb(lock());
    assert_eq!(plan(&locked, &[lock()]), Plan::default());
    let nobody = policy("nobody", json!({"selector": "role == 'none'", "types": ["Ingress"]}));
    assert_eq!(plan(&locked, &[nobody]), Plan::default());
}

#[test]
fn alike_endpoints_are_one_line_and_none_is_left_out() {
    let mut cluster = cluster();
    (10..60).for_each(|number| cluster.absorb(endpoint("h1", number, "web")));
    let plan = plan(&cluster, &[lock()]);
    let clients: BTreeSet<&String> = plan.verdicts.iter().flat_map(|change| &change.from).collect();
    assert_eq!(clients.len(), 52, "all web endpoints of both hosts");
    assert!(plan.verdicts.len() < 20, "{}", plan.verdicts.len());
}

#[test]
fn a_label_moves_members_and_verdicts() {
    let mut locked = cluster();
    locked.absorb(lock());
    let plan = plan(&locked, &[endpoint("h1", 1, "batch")]);
    assert_eq!(plan.verdicts.len(), 1, "{:?}", plan.verdicts);
    assert_eq!((plan.verdicts[0].traffic.as_str(), plan.verdicts[0].after), ("tcp 5432", Verdict::Drop));
    let members = &plan.hosts.iter().find(|host| host.node == "h2").unwrap().changes[0];
    assert_eq!(members.object, "addresses of role == 'web'");
    assert!(members.lines.iter().any(|line| !line.added && line.text == "10.65.0.1/32"), "{members:?}");
}

#[test]
fn a_policy_that_cannot_be_followed_is_a_problem_of_the_plan() {
    let bad = policy(
        "bad",
        json!({"selector": "role == 'db'", "types": ["Ingress"], "ingress": [
        {"action": "Allow", "source": {"selector": "role =="}}]}),
    );
    let plan = plan(&cluster(), &[bad]);
    assert!(plan.hosts.iter().any(|host| host.problems.iter().any(|problem| problem.contains("bad"))), "{plan:?}");
}
