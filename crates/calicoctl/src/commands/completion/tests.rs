#![allow(clippy::unwrap_used)]
use std::ffi::OsString;

use calico_model::{IPPoolSpec, NodeSpec, ProfileSpec, Resource};
use calico_workload::docker::Container;

use super::*;
use crate::testing::Bench;

/// A cluster with one of everything that has a name.
async fn bench() -> Bench {
    let bench = Bench::new();
    let container = Container {
        id: "4f".repeat(32),
        name: "web-1".into(),
        pid: 7,
        running: true,
        network_mode: "none".into(),
        labels: Default::default(),
        image: "ubuntu".into(),
        started_at: None,
    };
    bench.host.containers.lock().unwrap().as_mut().unwrap().insert("web-1".into(), container);
    bench.endpoint("host-1", "w", &"ab".repeat(16), &[]).await;
    for node in ["host-1", "host-2"] {
        bench.put(Resource::new(node, NodeSpec::default())).await;
    }
    bench.put(Resource::new("prof-a", ProfileSpec::default())).await;
    let spec = IPPoolSpec { cidr: "192.168.0.0/16".parse().unwrap(), ..IPPoolSpec::default() };
    bench.put(Resource::new("default-ipv4-ippool", spec)).await;
    bench
}

/// What fish is told behind the words, the last of which is not finished.
async fn told(bench: &Bench, line: &str) -> Vec<String> {
    let words = line.split(' ').map(OsString::from).collect();
    let args = Complete { shell: CompletionShell::Fish, words };
    let text = candidates(Ok(&bench.ctx), &args).await.text;
    text.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn words_come_in_the_order_in_which_people_type_them() {
    let bench = bench().await;
    for (line, expected) in [
        ("prof", &["profile"][..]),
        ("container web-1 ", &["endpoint", "ip", "label", "profile"]),
        ("container web-1 i", &["ip"]),
        ("container web-1 ip ", &["add", "remove"]),
        ("container ip ", &["add", "remove"]),
        ("container web-1 --interface=eth1 ip a", &["add"]),
        ("container --interface eth1 web-1 ip a", &["add"]),
        ("container web-1 profile set ", &["prof-a"]),
        ("container web-1 profile set prof-a pro", &["prof-a"]),
        ("container profile set web-1 ", &["prof-a"]),
        ("endpoint abababababababababababababababab profile ", &["append", "remove", "set", "show"]),
        ("profile remove ", &["prof-a"]),
        ("node remove --hostname=h", &["--hostname=host-1", "--hostname=host-2"]),
        ("node remove --hostname ", &["host-1", "host-2"]),
        ("node remove --hostname host-2 --rem", &["--remove-endpoints"]),
        ("get nodes host-", &["host-1", "host-2"]),
        ("get ippool ", &["default-ipv4-ippool"]),
        ("status -o j", &["json"]),
        ("status --output=y", &["--output=yaml"]),
        ("completion ", &["bash", "fish", "zsh"]),
        ("node --detach ", &["false", "true"]),
        ("profile prof-a rule add ", &["inbound", "outbound"]),
        ("profile prof-a rule add inbound al", &["allow"]),
        ("bgp peer add 10.0.0.9 ", &["as"]),
        ("bgp node-mesh o", &["off", "on"]),
        ("pool remove ", &["192.168.0.0/16"]),
        ("apply -f ", &[FILES]),
        ("man ", &[FOLDERS]),
        ("nothing ", &[]),
        ("container add web-1 192", &[]),
    ] {
        assert_eq!(told(&bench, line).await, expected, "{line:?}");
    }
    let kinds = told(&bench, "get ").await;
    assert!(kinds.contains(&"globalnetworkpolicies".to_owned()) && kinds.contains(&"nodes".to_owned()), "{kinds:?}");
    let families = told(&bench, "").await;
    assert!(families.contains(&"container".to_owned()), "{families:?}");
    assert!(!families.iter().any(|word| word.starts_with("__")), "hidden words stay hidden: {families:?}");
}

#[tokio::test]
async fn names_and_verbs_are_offered_together() {
    let bench = bench().await;
    let found = told(&bench, "container ").await;
    assert!(found.contains(&"add".to_owned()) && found.contains(&"web-1".to_owned()), "{found:?}");
    let found = told(&bench, "endpoint ").await;
    assert!(found.contains(&"show".to_owned()) && found.contains(&"ab".repeat(16)), "{found:?}");
}

#[tokio::test]
async fn each_shell_gets_its_own_form() {
    let bench = bench().await;
    let ask = async |shell, words: &[&str]| {
        let words = words.iter().map(OsString::from).collect();
        candidates(Ok(&bench.ctx), &Complete { shell, words }).await.text
    };
    assert_eq!(ask(CompletionShell::Bash, &["calicoctl node remove --hostname=host-2"]).await, "host-2\n");
    assert_eq!(ask(CompletionShell::Bash, &["/usr/bin/calicoctl container web-1 ip r"]).await, "remove\n");
    let zsh = ask(CompletionShell::Zsh, &["container", "web-1", "ip", "r"]).await;
    assert!(zsh.starts_with("remove:"), "{zsh}");
    let fish = ask(CompletionShell::Fish, &["container", "web-1", "ip", "r"]).await;
    assert!(fish.starts_with("remove\t"), "{fish}");
}

#[tokio::test]
async fn without_datastore_and_docker_words_are_offered_all_the_same() {
    let refused = Failure::new("no");
    let args = Complete { shell: CompletionShell::Fish, words: vec!["container".into(), "x".into(), "i".into()] };
    assert!(candidates(Err(&refused), &args).await.text.starts_with("ip\t"));
    let bench = bench().await;
    *bench.host.containers.lock().unwrap() = None;
    assert!(told(&bench, "container ").await.contains(&"add".to_owned()));
}

#[test]
fn a_name_that_would_cheat_the_shell_is_not_offered() {
    let words = ["good", "bad\nline", "bad\u{1b}[2J"].map(Candidate::name).to_vec();
    let asked = Asked { candidates: words, ..Asked::default() };
    assert_eq!(answer(CompletionShell::Bash, &asked), ["good"]);
}
