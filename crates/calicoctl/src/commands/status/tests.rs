#![allow(clippy::unwrap_used)]
use std::time::{Duration, SystemTime};

use calico_confd::bird::{BgpState, Channel, Family, Md5Failures, Session, SessionKind};
use calico_model::{BGPPeerSpec, Resource};
use serde_json::json;

use super::*;
use crate::{
    health::Component,
    output::Format,
    testing::{Bench, NODE, refusal},
};

fn session(name: &str, kind: SessionKind, address: &str, info: &str) -> Session {
    let established = info == "Established";
    let channel =
        Channel { family: Some(Family::V4), state: "UP".into(), imported: 2, exported: 1, ..Channel::default() };
    Session {
        name: name.into(),
        kind,
        peer_address: Some(address.parse().unwrap()),
        peer_as: Some(64512),
        local_as: Some(64512),
        state: if established { "up" } else { "start" }.into(),
        since: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
        bgp_state: Some(if established { BgpState::Established } else { BgpState::Idle }),
        info: info.into(),
        last_error: info.split_once("  ").map(|(_, error)| error.trim().to_owned()),
        imported: 2,
        exported: 1,
        channels: vec![channel],
        established,
        ..Session::default()
    }
}

fn healthy() -> Health {
    let component = |name: &str, problems: &[&str]| Component {
        name: name.into(),
        live: true,
        ready: problems.is_empty(),
        reason: "in force".into(),
        problems: problems.iter().map(|problem| (*problem).to_owned()).collect(),
        ..Component::default()
    };
    let components = vec![component("bird", &[]), component("felix", &["pool x is not valid JSON"])];
    Health { node: NODE.into(), live: true, ready: false, components }
}

async fn bench() -> Bench {
    let bench = Bench::new();
    bench.node(NODE, "10.5.0.1/24", Some("fd00::1/64")).await;
    bench.runtime.run_container(CONTAINER);
    *bench.runtime.outside.lock().unwrap() = Some(healthy());
    *bench.runtime.sessions.lock().unwrap() = vec![
        session("Node_1", SessionKind::Node, "172.17.8.111", "Idle          BGP Error: Bad peer AS"),
        session("Mesh_1", SessionKind::Mesh, "172.17.8.101", "Established"),
        session("Mesh_2", SessionKind::Mesh, "fd00::2", "Established"),
    ];
    bench
}

#[tokio::test]
async fn everything_at_a_glance() {
    let bench = bench().await;
    let output = status(&bench.ctx).await.unwrap();
    insta::assert_snapshot!("status", output.text);
    insta::assert_snapshot!("status_json", output.render(Format::Json));
    assert_eq!(output.exit, Exit::Done);
}

#[tokio::test]
async fn nothing_runs_and_only_then_the_code_is_1() {
    let bench = Bench::new();
    let output = status(&bench.ctx).await.unwrap();
    assert_eq!(output.text, "calico-node container not running\n", "scripts compare it");
    assert_eq!(output.exit, Exit::Failed);
    bench.runtime.without_docker();
    let output = status(&bench.ctx).await.unwrap();
    assert!(output.text.starts_with("calico-node container not running\n"), "{}", output.text);
    assert_eq!(output.exit, Exit::Failed);
    *bench.runtime.outside.lock().unwrap() = Some(healthy());
    let output = status(&bench.ctx).await.unwrap();
    assert!(output.text.starts_with("calico-node service is running, outside Docker.\n"), "{}", output.text);
    assert_eq!(output.exit, Exit::Done);
}

#[tokio::test]
async fn what_cannot_be_asked_is_said_and_the_rest_is_shown() {
    let bench = bench().await;
    bench.kv.set_down(true);
    bench.runtime.fail("sessions");
    let output = status(&bench.ctx).await.unwrap();
    for part in ["Error connecting to etcd.", "IP: unknown    AS Number: unknown", "Couldn't connect to bird.", "felix"]
    {
        assert!(output.text.contains(part), "{part}: {}", output.text);
    }
    assert_eq!(output.exit, Exit::Done);
}

#[tokio::test]
async fn a_host_that_was_never_started_has_no_addresses() {
    let bench = bench().await;
    bench.kv.remove("/calico/resources/v3/projectcalico.org/nodes/host-1");
    let output = status(&bench.ctx).await.unwrap();
    assert!(output.text.contains("No IPv4 address configured.") && output.text.contains("No IPv6 address configured."));
}

#[tokio::test]
async fn without_root_the_peers_are_missing_and_the_code_says_so() {
    let bench = Bench::not_root();
    bench.node(NODE, "10.5.0.1/24", None).await;
    bench.runtime.run_container(CONTAINER);
    let output = status(&bench.ctx).await.unwrap();
    assert!(output.text.contains("run this as root"), "{}", output.text);
    assert_eq!(output.exit, Exit::Usage);
}

#[tokio::test]
async fn who_may_not_ask_docker_is_not_told_that_nothing_runs() {
    let bench = Bench::not_root();
    bench.runtime.fail("permission");
    let words = refusal(status(&bench.ctx).await);
    assert!(words.contains("permission denied") && !words.contains("not running"), "{words}");
    *bench.runtime.outside.lock().unwrap() = Some(healthy());
    let output = status(&bench.ctx).await.unwrap();
    assert!(output.text.contains("felix"), "the service itself can be asked: {}", output.text);
}

#[test]
fn durations_in_their_largest_unit() {
    for (seconds, words) in
        [(1, "1 second"), (59, "59 seconds"), (60, "1 minute"), (7300, "2 hours"), (172_800, "2 days")]
    {
        assert_eq!(duration(time::Duration::seconds(seconds)), words);
    }
    let now = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
    assert_eq!(up_since(Some("2023-11-14T22:12:20.123456789Z"), now), "Up 59 seconds");
    assert_eq!(up_since(Some("nonsense"), now), "Up");
}

#[tokio::test]
async fn a_session_without_an_answer_is_judged_by_what_else_is_known() {
    let bench = bench().await;
    let spec = json!({"peerIP": "172.17.8.120", "asNumber": 65001,
        "password": {"secretKeyRef": {"name": "tor", "key": "rack1"}}});
    bench.put(Resource::new("tor", serde_json::from_value::<BGPPeerSpec>(spec).unwrap())).await;
    let mut silent = session("Global_1", SessionKind::Global, "172.17.8.120", "Connect");
    silent.description = Some("BGPPeer tor".into());
    let own = session("Global_2", SessionKind::Global, "10.5.0.1", "Idle          BGP Error: Bad BGP identifier");
    *bench.runtime.sessions.lock().unwrap() = vec![silent, own];
    *bench.runtime.md5.lock().unwrap() = Md5Failures { wrong: 3, ..Md5Failures::default() };
    let output = status(&bench.ctx).await.unwrap();
    assert!(output.text.contains("Problem (172.17.8.120, BGPPeer tor): "), "{}", output.text);
    assert!(output.text.contains("dropped packets 3 with another password"), "{}", output.text);
    assert!(output.text.contains("Note (10.5.0.1): it is this host's own address"), "{}", output.text);
    let peers = &output.data["ipv4"]["peers"];
    assert_eq!((&peers[0]["ownAddress"], &peers[0]["problem"]), (&json!(true), &json!(null)));
    assert!(peers[1]["problem"].as_str().unwrap().contains("TCP MD5"), "{peers}");
    assert_eq!(peers[1]["channels"][0]["in"], 2);
}

#[tokio::test]
async fn the_password_of_another_peer_is_not_spoken_of() {
    let bench = bench().await;
    let spec = json!({"peerIP": "172.17.8.120", "asNumber": 65001,
        "password": {"secretKeyRef": {"name": "tor", "key": "rack1"}}});
    bench.put(Resource::new("tor", serde_json::from_value::<BGPPeerSpec>(spec).unwrap())).await;
    let silent = |name: &str, address: &str| session(name, SessionKind::Global, address, "Connect");
    *bench.runtime.sessions.lock().unwrap() =
        vec![silent("Global_1", "172.17.8.12"), silent("Global_2", "172.17.8.120")];
    let output = status(&bench.ctx).await.unwrap();
    let peers = &output.data["ipv4"]["peers"];
    let speaks = |n: usize| peers[n]["problem"].as_str().unwrap().contains("passwords differ");
    assert_eq!((speaks(0), speaks(1)), (false, true), "{peers}");
}

#[tokio::test]
async fn counts_are_told_by_family_where_there_are_several() {
    let bench = bench().await;
    let mut both = session("other", SessionKind::Other, "172.17.8.130", "Established");
    both.channels.push(Channel { family: Some(Family::V6), imported: 5, exported: 6, ..Channel::default() });
    *bench.runtime.sessions.lock().unwrap() = vec![both];
    let output = status(&bench.ctx).await.unwrap();
    assert!(output.text.contains("| 2 IPv4, 5 IPv6 | 1 IPv4, 6 IPv6 |"), "{}", output.text);
}

#[tokio::test]
async fn the_classic_option_must_make_sense() {
    let bench = bench().await;
    let with = |runtime: &str| Status { runtime: runtime.to_owned(), output: crate::args::OutputArgs::default() };
    for runtime in ["docker", "none"] {
        assert!(run(&bench.ctx, &with(runtime)).await.is_ok());
    }
    for runtime in ["rkt", "podman"] {
        let said = refusal(run(&bench.ctx, &with(runtime)).await);
        assert!(said.starts_with(&format!("error: Invalid runtime specified: '{runtime}'\n")), "{said}");
    }
}
