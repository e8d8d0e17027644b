#![allow(clippy::unwrap_used)]

use std::fs;

use calico_model::{AsNumber, BGPConfigurationSpec, BGPFilterSpec, BGPPeerSpec, Kind, NodeSpec, Resource, ResourceKey};
use calico_store::{Injected, Kv};
use serde_json::{Value, json};

use super::{run, run_node};
use crate::{
    args::{Command, NodeCommand, parse},
    failure::{Exit, Failure},
    output::{Format, Output},
    testing::{Bench, NODE, refusal, text},
};

/// `calicoctl bgp WORDS` or `calicoctl node bgp WORDS`.
async fn calicoctl(bench: &Bench, words: &str) -> Result<Output, Failure> {
    let line = format!("calicoctl {words}");
    match parse(line.split_whitespace().map(Into::into)).unwrap_or_else(|error| panic!("{line}: {error}")).command {
        Some(Command::Bgp { command }) => run(&bench.ctx, &command).await,
        Some(Command::Node(node)) => match node.command {
            Some(NodeCommand::Bgp { command }) => run_node(&bench.ctx, &command).await,
            _ => panic!("{line}"),
        },
        _ => panic!("{line}"),
    }
}

async fn peer(bench: &Bench, name: &str) -> BGPPeerSpec {
    bench.ctx.store.get::<BGPPeerSpec>(name).await.unwrap().spec
}

/// A bench where passwords are kept in a folder of its own.
fn bench() -> (Bench, tempfile::TempDir) {
    let (bench, dir) = (Bench::new(), tempfile::tempdir().unwrap());
    *bench.runtime.secrets.lock().unwrap() = dir.path().to_owned();
    (bench, dir)
}

#[tokio::test]
async fn the_classic_round() {
    for (bgp, name, node, heading, none, removed, unknown) in [
        (
            "bgp",
            "10-0-0-1",
            "",
            "Global IPv4 BGP Peer",
            "No global IPv4 BGP Peers defined.\n\nNo global IPv6 BGP Peers defined.\n\n",
            "BGP peer removed from global configuration\n",
            "error: 10.0.0.1 is not a globally configured peer.\n",
        ),
        (
            "node bgp",
            "host-1.10-0-0-1",
            NODE,
            "Node specific IPv4 BGP Peer",
            "No IPv4 BGP Peers defined for this node.\n\nNo IPv6 BGP Peers defined for this node.\n\n",
            "BGP peer removed from node configuration\n",
            "error: 10.0.0.1 is not a configured peer for this node.\n",
        ),
    ] {
        let bench = Bench::new();
        let say = async |words: &str| calicoctl(&bench, &format!("{bgp} peer {words}")).await;
        assert_eq!(text(say("show").await), none);
        assert_eq!(text(say("add 10.0.0.1 as 64555").await), "");
        assert_eq!(text(say("add 10.0.0.9 as 4294.566").await), "");
        // The same address again replaces the number.
        assert_eq!(text(say("add 10.0.0.1 as 64556").await), "");
        let spec = peer(&bench, name).await;
        assert_eq!((spec.node.as_str(), spec.peer_ip.as_str()), (node, "10.0.0.1"));
        assert_eq!(spec.as_number, Some(AsNumber(64556)));
        let shown = text(say("show --ipv4").await);
        assert!(shown.contains(&format!("| {heading} | AS Num    |\n")), "{shown}");
        let rows: Vec<&str> = shown.lines().skip(3).take(2).collect();
        assert!(rows[0].starts_with("| 10.0.0.1 ") && rows[0].ends_with("| 64556     |"), "{shown}");
        assert!(rows[1].starts_with("| 10.0.0.9 ") && rows[1].ends_with("| 281412150 |"), "{shown}");
        assert!(text(say("show --ipv6").await).starts_with("No "));
        assert_eq!(text(say("remove 10.0.0.1").await), removed);
        assert_eq!(refusal(say("remove 10.0.0.1").await), unknown);
        assert_eq!(say("remove 10.0.0.1").await.unwrap_err().exit(), Exit::Failed);
    }
}

#[tokio::test]
async fn wrong_words_are_told_all_at_once_and_change_nothing() {
    let (bench, _dir) = bench();
    calicoctl(&bench, "bgp peer add 10.0.0.1 as 64555").await.unwrap();
    let before = bench.everything().await;
    let said = refusal(calicoctl(&bench, "bgp peer add 10.0.0.300 as abcde --port=0").await);
    for part in [
        "error: Invalid IP address specified.\nerror: Invalid AS Number specified.\nerror: Invalid port specified.\n",
        "\"10.0.0.300\"",
        "\"abcde\"",
        "\"0\" is not a port",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    for (words, part) in [
        ("bgp peer add 127.0.0.1 as 1", "cannot be the address of a neighbour"),
        ("bgp peer add 10.0.0.1 as 0", "nobody's AS number"),
        ("bgp peer add 10.0.0.1 as 99999999999999999999999", "Invalid AS Number specified."),
        ("bgp peer add 10.0.0.1 as 1 --filter=nope", "There is no BGPFilter \"nope\""),
        ("bgp peer add 10.0.0.1 as 1 --password-secret=geheim", "NAME/KEY"),
        ("bgp peer add 10.0.0.1 as 1 --password-file=/nonexistent/x", "cannot be read"),
        ("bgp peer remove 10.0.0", "Invalid IP address specified."),
        ("bgp default-node-as abcde", "Invalid AS Number specified."),
        ("bgp default-node-as 99999999999999999999999", "Invalid AS Number specified."),
        ("bgp default-node-as 0", "Invalid AS Number specified."),
    ] {
        let said = refusal(calicoctl(&bench, words).await);
        assert!(said.contains(part) && !said.contains("geheim"), "{words}: {said}");
    }
    assert_eq!(bench.everything().await, before);
}

#[tokio::test]
async fn mesh_and_default_as() {
    let bench = Bench::new();
    let say = async |words: &str| text(calicoctl(&bench, &format!("bgp {words}")).await);
    assert_eq!(say("node-mesh").await, "on\n");
    assert_eq!(say("default-node-as").await, "64512\n");
    assert_eq!(say("default-node-as 4294.566").await, "");
    assert_eq!(say("default-node-as").await, "281412150\n");
    assert_eq!(say("node-mesh off").await, "");
    assert!(bench.said().iter().any(|line| line.contains("there are no BGP peers")), "{:?}", bench.said());
    assert_eq!(say("node-mesh").await, "off\n");
    assert_eq!(say("node-mesh on").await, "");
    let spec = bench.ctx.store.get::<BGPConfigurationSpec>("default").await.unwrap().spec;
    assert_eq!((spec.node_to_node_mesh_enabled, spec.as_number), (Some(true), Some(AsNumber(281_412_150))));
    let output = calicoctl(&bench, "bgp node-mesh -o json").await.unwrap();
    assert_eq!(output.data, json!({ "nodeToNodeMesh": true }));
    // A password of the mesh is for the mesh.
    let key = ResourceKey::new(BGPConfigurationSpec::NAME, None, "default");
    bench
        .ctx
        .store
        .modify::<BGPConfigurationSpec, calico_store::Error>(&key, |stored| {
            stored.spec.node_mesh_password = Some(json!({"secretKeyRef": {"name": "mesh", "key": "password"}}));
            Ok(())
        })
        .await
        .unwrap();
    let said = refusal(calicoctl(&bench, "bgp node-mesh off").await);
    assert!(said.contains("calicoctl config bgp nodeMeshPassword --remove"), "{said}");
    assert_eq!(say("node-mesh").await, "on\n");
}

#[tokio::test]
async fn what_is_not_given_stays_and_options_are_kept_in_v3s_members() {
    let (bench, dir) = bench();
    bench.put(Resource::new("only-pools", BGPFilterSpec::default())).await;
    let file = dir.path().join("typed");
    fs::write(&file, "s3cret\n").unwrap();
    let add = format!(
        "bgp peer add fd00::9 as 64555 --port=1790 --keep-next-hop --filter=only-pools --password-file={}",
        file.display()
    );
    let output = calicoctl(&bench, &add).await.unwrap();
    let name = "fd00-0000-0000-0000-0000-0000-0000-0009-port-1790";
    let kept = dir.path().join(name).join("password");
    assert_eq!(fs::read_to_string(&kept).unwrap(), "s3cret");
    calicoctl(&bench, "bgp peer add fd00::9 as 64556 --port=1790").await.unwrap();
    let spec = peer(&bench, name).await;
    assert_eq!((spec.peer_ip.as_str(), spec.as_number), ("[fd00::9]:1790", Some(AsNumber(64556))));
    assert!(spec.keep_original_next_hop);
    assert_eq!(spec.extra["filters"], json!(["only-pools"]));
    assert_eq!(spec.extra["password"], json!({"secretKeyRef": {"name": name, "key": "password"}}));

    let shown = calicoctl(&bench, "bgp peer show").await.unwrap();
    let row =
        format!("| [fd00::9]:1790       | 64556  | password in {name}/password,keep-next-hop,filters only-pools |");
    assert!(shown.text.contains(&row), "{}", shown.text);
    // Nowhere does the password show.
    let everything = format!("{:?}", bench.everything().await);
    let said = bench.said().join("\n");
    for place in [&output.text, &shown.text, &shown.render(Format::Json), &everything, &said] {
        assert!(!place.contains("s3cret"), "{place}");
    }
    assert!(said.contains("every other host") && said.contains("can read"), "{said}");

    assert_eq!(
        text(calicoctl(&bench, "bgp peer remove fd00::9").await),
        "BGP peer removed from global configuration\n"
    );
    assert!(!kept.exists() && !dir.path().join(name).exists(), "its password goes with it");
}

#[tokio::test]
async fn a_password_is_taken_back_if_the_peer_cannot_be_stored() {
    let (bench, dir) = bench();
    let file = dir.path().join("typed");
    fs::write(&file, "s3cret").unwrap();
    bench.kv.inject(|_, _| Injected::FailBefore);
    let add = format!("node bgp peer add 10.0.0.9 as 1 --password-file={}", file.display());
    let said = refusal(calicoctl(&bench, &add).await);
    assert!(!said.contains("s3cret"), "{said}");
    assert!(!dir.path().join("host-1.10-0-0-9").exists());
    // Of a lost answer nobody knows; a look at what is stored tells.
    bench.kv.inject(|_, _| Injected::FailAfter);
    calicoctl(&bench, &add).await.unwrap();
    bench.kv.stop_injecting();
    assert_eq!(fs::read_to_string(dir.path().join("host-1.10-0-0-9/password")).unwrap(), "s3cret");
    calicoctl(&bench, "node bgp peer remove 10.0.0.9").await.unwrap();
    // Bad passwords are refused before anything is done.
    let long = "x".repeat(81);
    for bad in ["", "a\"b", "a\nb", long.as_str()] {
        fs::write(&file, bad).unwrap();
        assert!(refusal(calicoctl(&bench, &add).await).contains("The password "));
    }
    let not_root = Bench::not_root();
    assert_eq!(calicoctl(&not_root, &add).await.unwrap_err().exit(), Exit::Usage);
    assert!(bench.everything().await.is_empty() && not_root.everything().await.is_empty());
}

#[tokio::test]
async fn passwords_kept_already_are_only_referred_to() {
    let (bench, dir) = bench();
    calicoctl(&bench, "bgp peer add 10.0.0.9 as 1 --password-secret=tor/rack1").await.unwrap();
    let reference = json!({"secretKeyRef": {"name": "tor", "key": "rack1"}});
    assert_eq!(peer(&bench, "10-0-0-9").await.extra["password"], reference);
    let there = dir.path().join("tor/rack2");
    calicoctl(&bench, &format!("bgp peer add 10.0.0.9 as 1 --password-file={}", there.display())).await.unwrap();
    assert_eq!(peer(&bench, "10-0-0-9").await.extra["password"]["secretKeyRef"]["key"], "rack2");
}

/// Peers that `apply` made.
async fn applied(bench: &Bench, name: &str, spec: Value) {
    bench.put(Resource::new(name, serde_json::from_value::<BGPPeerSpec>(spec).unwrap())).await;
}

#[tokio::test]
async fn peers_made_by_apply_are_shown_changed_and_removed() {
    let bench = Bench::new();
    let mut node = Resource::new(NODE, NodeSpec::default());
    node.metadata.labels.insert("rack".into(), "r1".into());
    bench.put(node).await;
    applied(&bench, "tor", json!({"peerIP": "10.0.0.1:1790", "asNumber": 65001, "ttlSecurity": 1})).await;
    applied(&bench, "mine", json!({"node": NODE, "peerIP": "10.0.0.2", "asNumber": 65002})).await;
    applied(&bench, "rack", json!({"nodeSelector": "rack == 'r1'", "peerIP": "10.0.0.3", "asNumber": 65003})).await;
    applied(&bench, "other", json!({"nodeSelector": "rack == 'r2'", "peerIP": "10.0.0.4"})).await;
    applied(&bench, "reflectors", json!({"nodeSelector": "all()", "peerSelector": "has(rr)"})).await;
    let show = async |words: &str| calicoctl(&bench, words).await.unwrap();
    insta::assert_snapshot!("peers", show("bgp peer show").await.text);
    insta::assert_snapshot!("node_peers", show("node bgp peer show").await.text);
    insta::assert_snapshot!("peers_json", show("bgp peer show -o json").await.render(Format::Json));
    assert!(!show("bgp peer show --ipv6").await.text.contains("10.0.0.3"));

    // By address, whatever they are called; only those of this scope.
    calicoctl(&bench, "bgp peer add 10.0.0.1 as 65009 --port=1790").await.unwrap();
    assert_eq!(peer(&bench, "tor").await.as_number, Some(AsNumber(65009)));
    let said = refusal(calicoctl(&bench, "bgp peer remove 10.0.0.2").await);
    assert!(said.contains("it is a peer of host host-1 and 10.0.0.2"), "{said}");
    calicoctl(&bench, "bgp peer remove 10.0.0.1").await.unwrap();
    calicoctl(&bench, "node bgp peer remove 10.0.0.2").await.unwrap();
    let said = refusal(calicoctl(&bench, "node bgp peer remove 10.0.0.3").await);
    assert!(said.contains("calicoctl delete bgppeer rack"), "{said}");
}

#[tokio::test]
async fn what_would_be_a_guess_is_refused() {
    let bench = Bench::new();
    applied(&bench, "a", json!({"peerIP": "10.0.0.1", "asNumber": 1})).await;
    applied(&bench, "b", json!({"peerIP": "10.0.0.1:179", "asNumber": 2})).await;
    applied(&bench, "10-0-0-7", json!({"peerIP": "10.0.0.8", "asNumber": 2})).await;
    let said = refusal(calicoctl(&bench, "bgp peer add 10.0.0.1 as 3").await);
    assert!(said.contains("Several BGPPeers name 10.0.0.1: a, b."), "{said}");
    let said = refusal(calicoctl(&bench, "bgp peer add 10.0.0.7 as 3").await);
    assert!(said.contains("The name 10-0-0-7 is taken") && said.contains("10.0.0.8"), "{said}");
    calicoctl(&bench, "bgp peer add 10.0.0.1 as 3 --port=1790").await.unwrap();
    let said = refusal(calicoctl(&bench, "bgp peer remove 10.0.0.1").await);
    assert!(said.contains("on the ports 179, 1790") && said.contains("--port=179"), "{said}");
    calicoctl(&bench, "bgp peer remove 10.0.0.1 --port=179").await.unwrap();
    assert_eq!(bench.ctx.store.list::<BGPPeerSpec>().await.unwrap().0.len(), 2);
}

#[tokio::test]
async fn a_lost_race_is_tried_again() {
    let bench = Bench::new();
    calicoctl(&bench, "bgp peer add 10.0.0.1 as 1").await.unwrap();
    let key = "/calico/resources/v3/projectcalico.org/bgppeers/10-0-0-1";
    let mut stored: Value = serde_json::from_slice(&bench.kv.get(key).await.unwrap().unwrap().value).unwrap();
    stored["spec"]["ttlSecurity"] = 2.into();
    let mut first = true;
    bench.kv.inject(move |kv, _| {
        if std::mem::take(&mut first) {
            kv.put(key, stored.to_string());
        }
        Injected::Proceed
    });
    calicoctl(&bench, "bgp peer add 10.0.0.1 as 2").await.unwrap();
    let spec = peer(&bench, "10-0-0-1").await;
    assert_eq!((spec.as_number, &spec.extra["ttlSecurity"]), (Some(AsNumber(2)), &json!(2)), "both changes are there");
}
