//! The agent's loop against files, without a BIRD that runs: templates, passwords, outages, restarts.

#![allow(clippy::unwrap_used)]

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use crate::common::net::{Agent, put_block, put_node, put_peer, put_pool, until};
use calico_confd::Template;
use calico_store::MemoryKv;
use serde_json::json;

fn cluster() -> MemoryKv {
    let kv = MemoryKv::new();
    put_pool(&kv, "p4", json!({"cidr": "10.244.0.0/16"}));
    put_node(&kv, 2);
    kv
}

fn built_in() -> String {
    Template::built_in().source
}

async fn until_reported(agent: &Agent, what: &str) {
    until(&format!("the agent reports {what:?}"), Duration::from_secs(60), || async {
        agent.reports.reason().contains(what) || agent.reports.problems().iter().any(|problem| problem.contains(what))
    })
    .await;
}

#[tokio::test]
async fn waits_for_the_datastore_and_for_its_node() {
    let kv = MemoryKv::new();
    kv.set_down(true);
    let mut agent = Agent::new("host2");
    agent.start(&kv);
    until_reported(&agent, "the datastore is lost").await;
    kv.set_down(false);
    until_reported(&agent, "waiting for node host2").await;
    assert_eq!(agent.text(), "");
    put_node(&kv, 2);
    agent.until_text("a configuration", |text| text.contains("router id 10.192.0.2;")).await;
    until_reported(&agent, "is it running?").await;
    assert!(!agent.reports.is_ready(), "there is no BIRD");
    let mode = fs::metadata(&agent.options.config_path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600, "it may hold passwords");
}

#[tokio::test]
async fn a_lost_datastore_changes_nothing_and_heals() {
    let kv = cluster();
    let mut agent = Agent::new("host2");
    agent.start(&kv);
    agent.until_text("a configuration", |text| !text.is_empty()).await;
    let before = agent.text();
    kv.set_down(true);
    until_reported(&agent, "the datastore is lost").await;
    put_node(&kv, 3);
    assert_eq!(agent.text(), before);
    kv.set_down(false);
    agent.until_text("the node that came meanwhile", |text| text.contains("Mesh_10_192_0_3")).await;
}

#[tokio::test]
async fn a_removed_node_keeps_its_last_configuration() {
    let kv = cluster();
    let mut agent = Agent::new("host2");
    agent.start(&kv);
    agent.until_text("a configuration", |text| !text.is_empty()).await;
    let before = agent.text();
    kv.remove("/calico/resources/v3/projectcalico.org/nodes/host2");
    until_reported(&agent, "waiting for node host2").await;
    assert_eq!(agent.text(), before);
}

#[tokio::test]
async fn unreadable_records_are_skipped_and_reported() {
    let kv = cluster();
    let mut agent = Agent::new("host2");
    agent.start(&kv);
    kv.put("/calico/resources/v3/projectcalico.org/nodes/host3", "{ not json");
    kv.put("/calico/ipam/v2/host/host2/ipv4/block/10.244.9.0-26", "[]");
    put_block(&kv, 2, "10.244.2.0/26");
    agent.until_text("the good block", |text| text.contains("route 10.244.2.0/26 blackhole;")).await;
    until_reported(&agent, "nodes/host3").await;
    until_reported(&agent, "10.244.9.0-26").await;
    assert!(!agent.text().contains("10.244.9.0"));
}

#[tokio::test]
async fn an_operators_template_takes_over_and_a_broken_one_does_not() {
    let kv = cluster();
    let mut agent = Agent::new("host2");
    let path = agent.options.template_override.clone();
    fs::write(&path, built_in().replace("scan time 10;", "scan time 11;")).unwrap();
    agent.start(&kv);
    agent.until_text("the operator's template", |text| text.contains("scan time 11;")).await;

    // Broken for the template engine: the last good template goes on.
    fs::write(&path, format!("{}\n\n{{{{ nonsense }}}}\n", built_in())).unwrap();
    put_node(&kv, 3);
    agent.until_text("a change by the last good one", |text| text.contains("Mesh_10_192_0_3")).await;
    assert!(agent.text().contains("scan time 11;"));
    let line = built_in().lines().count() + 3;
    until_reported(&agent, &format!("{}: line {line}: ", path.display())).await;

    // Broken for BIRD.
    fs::write(&path, format!("nonsense;\n{}", built_in())).unwrap();
    put_node(&kv, 4);
    agent.until_text("another change by the last good one", |text| text.contains("Mesh_10_192_0_4")).await;
    assert!(agent.text().contains("scan time 11;"));
    until_reported(&agent, "bird.cfg.refused:1:").await;

    // A new agent does not know the last good template. It leaves the file alone.
    let before = agent.text();
    agent.start(&kv);
    put_node(&kv, 5);
    until_reported(&agent, "the last good configuration stays").await;
    assert_eq!(agent.text(), before);
    assert!(!agent.reports.is_ready());

    fs::remove_file(&path).unwrap();
    agent
        .until_text("the built-in template", |text| text.contains("scan time 10;") && text.contains("10_192_0_5"))
        .await;
    until("no problem is left", Duration::from_secs(60), || async { agent.reports.problems().is_empty() }).await;
}

#[tokio::test]
async fn an_operators_template_that_knows_no_filters_is_reported() {
    let kv = cluster();
    let mut agent = Agent::new("host2");
    fs::write(&agent.options.template_override, "router id {{ router_id }};\nprotocol device { }\n").unwrap();
    put_peer(&kv, "tor", json!({"peerIP": "10.192.0.9", "asNumber": 65000}));
    agent.start(&kv);
    until_reported(&agent, "is it running?").await;
    assert_eq!(agent.reports.problems(), [""; 0], "there are no filters to apply");
    put_peer(&kv, "tor", json!({"peerIP": "10.192.0.9", "asNumber": 65000, "filters": ["missing"]}));
    until_reported(&agent, "does not apply BGPFilters").await;
    fs::write(&agent.options.template_override, built_in()).unwrap();
    agent.until_text("the closed session", |text| text.contains("import none;")).await;
    until("only the missing filter is left to report", Duration::from_secs(60), || async {
        agent.reports.problems().iter().all(|problem| problem.starts_with("BGPFilter missing: "))
    })
    .await;
}

#[tokio::test]
async fn a_broken_template_on_a_new_node_gives_way_to_the_built_in_one() {
    let kv = cluster();
    let mut agent = Agent::new("host2");
    fs::write(&agent.options.template_override, "{% for %}").unwrap();
    agent.start(&kv);
    agent.until_text("the built-in template", |text| text.contains("scan time 10;")).await;
    until_reported(&agent, "line 1: ").await;
}

#[tokio::test]
async fn a_password_that_appears_later_gives_the_peer_its_session() {
    let kv = cluster();
    let secret = json!({"secretKeyRef": {"name": "tor", "key": "rack1"}});
    put_peer(&kv, "tor", json!({"peerIP": "10.192.0.9", "asNumber": 65000, "password": secret}));
    let mut agent = Agent::new("host2");
    agent.start(&kv);
    until_reported(&agent, "BGPPeer tor: ").await;
    assert!(!agent.text().contains("10_192_0_9"));
    agent.put_secret("tor/rack1", "s3cret\n");
    agent
        .until_text("the session", |text| text.contains("Global_10_192_0_9") && text.contains("password \"s3cret\";"))
        .await;
    assert!(!agent.reports.reason().contains("s3cret"));
}

#[tokio::test]
async fn a_file_that_somebody_changed_is_put_right() {
    let kv = cluster();
    let mut agent = Agent::new("host2");
    agent.start(&kv);
    agent.until_text("a configuration", |text| !text.is_empty()).await;
    let wanted = agent.text();
    fs::write(&agent.options.config_path, "router id 1.2.3.4;\n").unwrap();
    agent.until_text("the agent's own text", |text| text == wanted).await;
    fs::set_permissions(&agent.options.config_path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::remove_file(&agent.options.config_path).unwrap();
    agent.until_text("the agent's own text again", |text| text == wanted).await;
}

#[tokio::test]
async fn without_bird_installed_nothing_is_written_and_the_reason_is_said() {
    let kv = cluster();
    let mut agent = Agent::new("host2");
    agent.options.bird_binary = "/nonexistent/bird".into();
    agent.start(&kv);
    until_reported(&agent, "is BIRD 2 installed").await;
    assert_eq!(agent.text(), "");
}

#[tokio::test]
async fn an_unchanged_configuration_is_not_written_again() {
    let kv = cluster();
    let mut agent = Agent::new("host2");
    agent.start(&kv);
    agent.until_text("a configuration", |text| !text.is_empty()).await;
    until_reported(&agent, "is it running?").await;
    let written = fs::metadata(&agent.options.config_path).unwrap().modified().unwrap();
    agent.start(&kv);
    until_reported(&agent, "is it running?").await;
    // A pool without IPv4 addresses of this node's changes nothing that IPv4 depends on, but one line of IPv6.
    put_pool(&kv, "p6", json!({"cidr": "fd00:244::/48"}));
    agent.until_text("the pool", |text| text.contains("fd00:244::/48+")).await;
    let after = fs::metadata(&agent.options.config_path).unwrap().modified().unwrap();
    assert!(after > written);
}
