//! `why`, `plan`, `rules` on a small cluster.

#![allow(clippy::unwrap_used)]

use calico_dataplane::{
    Comparison,
    listing::{ListedChain, ListedPath, ListedPort, ListedRule, Listing},
};
use calico_model::{Profile, ProfileName, Resource, WorkloadEndpointSpec};
use calico_policy::instruction::PublishedPort;

use crate::{
    args::{Files, Plan, Rules, Way, Why, Write},
    commands::{endpoint::ANNOTATION_WORKLOAD, resource, rules, why},
    failure::Exit,
    testing::{Bench, NODE, refusal, text},
};

const LOCK: &str = r#"
{"kind": "GlobalNetworkPolicy", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "lock"},
 "spec": {"selector": "role == 'db'", "order": 10, "types": ["Ingress"], "ingress": [
   {"action": "Allow", "protocol": "TCP", "source": {"selector": "role == 'web'"}, "destination": {"ports": [5432]}},
   {"action": "Deny", "protocol": "TCP", "destination": {"ports": [22]}}]}}
"#;

async fn workload(bench: &Bench, node: &str, name: &str, number: u8, profile: &str) {
    let spec = WorkloadEndpointSpec {
        orchestrator: "docker".into(),
        workload: format!("{number}cafe").repeat(12),
        node: node.into(),
        endpoint: format!("{number}d0e").repeat(8),
        ip_networks: vec![format!("192.168.0.{number}/32"), format!("fd80::{number}/128")],
        interface_name: format!("cali{number}"),
        profiles: vec![profile.into()],
        ..WorkloadEndpointSpec::default()
    };
    let mut resource = Resource::namespaced("default", "", spec);
    resource.metadata.labels.insert("role".into(), name.trim_end_matches(char::is_numeric).into());
    resource.metadata.annotations.insert(ANNOTATION_WORKLOAD.into(), name.into());
    bench.put(resource).await;
}

/// Two clients here, a database on the other host, all in one profile.
async fn bench() -> Bench {
    let bench = Bench::new();
    bench.node(NODE, "10.0.0.1/24", Some("fd00::1/64")).await;
    bench.node("host-2", "10.0.0.2/24", Some("fd00::2/64")).await;
    let name = ProfileName::typed("PROF_ALL").unwrap();
    let stored = name.as_stored().to_owned();
    bench.put(Profile::classic_default(&name)).await;
    workload(&bench, NODE, "web1", 1, &stored).await;
    workload(&bench, NODE, "web2", 2, &stored).await;
    workload(&bench, "host-2", "db1", 3, &stored).await;
    bench
}

fn stdin() -> Files {
    Files { files: vec!["-".into()], ..Files::default() }
}

async fn lock(bench: &Bench) {
    *bench.console.1.lock().unwrap() = LOCK.into();
    text(resource::apply(&bench.ctx, &Write { files: stdin(), ..Write::default() }).await);
}

fn asked(words: &str) -> Why {
    let mut words = words.split(' ').map(str::to_owned);
    let mut next = || words.next();
    Why { from: next().unwrap(), to: next().unwrap(), protocol: next(), port: next(), ..Why::default() }
}

#[tokio::test]
async fn why_answers_with_verdict_way_and_remedy() {
    let bench = bench().await;
    lock(&bench).await;
    let mut pages = String::new();
    for words in ["web1 db1 tcp 5432", "web1 db1 tcp 22", "web1 db1", "web1 192.0.2.1 udp 53", "host web2 icmp"] {
        let output = why::why(&bench.ctx, &asked(words)).await.unwrap();
        pages.push_str(&format!("$ calicoctl why {words}\n{}-> {:?}\n\n", output.text, output.exit));
    }
    insta::assert_snapshot!("why", pages);
    let output = why::why(&bench.ctx, &asked("web1 db1 tcp 22")).await.unwrap();
    assert_eq!(output.exit, Exit::Denied);
    assert_eq!(output.data["verdict"], "denied");
    assert_eq!(output.data["answers"][0]["hosts"][1]["steps"][0]["rule"]["number"], 2);
    assert_eq!(output.data["answers"].as_array().unwrap().len(), 2, "one for each family");
}

#[tokio::test]
async fn why_refuses_what_it_does_not_know() {
    let bench = bench().await;
    for (words, part) in [
        ("nobody db1", "nobody is no container, endpoint, host or address that is known."),
        ("web1 db1 frob", "frob is no protocol."),
        ("web1 db1 tcp 99999", "99999 is no port."),
        ("192.168.0.1 fd80::3", "have no address of the same family."),
    ] {
        let words = refusal(why::why(&bench.ctx, &asked(words)).await);
        assert!(words.contains(part), "{words}");
    }
}

fn counted(comment: &str, packets: u64) -> ListedRule {
    ListedRule {
        text: "meta l4proto tcp".into(),
        comment: Some(comment.into()),
        counter: Some((packets, packets * 60)),
        leads_to: None,
    }
}

/// What the kernel holds for the first client.
fn listing() -> Listing {
    let chain = |name: &str, comment: &str, depth, rules| ListedChain {
        name: name.into(),
        comment: Some(comment.into()),
        depth,
        rules,
    };
    let stored = ProfileName::typed("PROF_ALL").unwrap().as_stored().to_owned();
    let jump = ListedRule { text: "jump".into(), comment: None, counter: None, leads_to: Some("p-1".into()) };
    let path = |place: &str, way: &str| ListedPath {
        ip_version: 4,
        place: place.into(),
        owner: Some("default/w1".into()),
        chains: vec![
            chain(
                "e-1",
                &format!("{way} of endpoints with tiers none, profiles {stored}"),
                0,
                vec![jump.clone(), counted("no profile allows it", 1)],
            ),
            chain(
                "p-1",
                &format!("profile {stored} {way}"),
                1,
                vec![
                    counted(&format!("profile {stored} {way}[0] allow"), 3),
                    counted(&format!("profile {stored} {way}[0] allow"), 4),
                ],
            ),
        ],
    };
    let paths = vec![path("to workload", "ingress"), path("from workload", "egress")];
    Listing { paths, published: Vec::new() }
}

#[tokio::test]
async fn live_compares_and_counts() {
    let bench = bench().await;
    bench.host.programmed.lock().unwrap().insert("cali1".into(), listing());
    let args = Why { live: true, ..asked("web1 db1 tcp 80") };
    let words = text(why::why(&bench.ctx, &args).await);
    assert!(words.contains("live: the kernel of host-1 holds what the datastore asks for"), "{words}");
    assert!(words.contains("egress rule 1 (IPv4): packets 7, bytes 420"), "{words}");
    assert!(words.contains("calico-node does not run here"), "{words}");

    *bench.host.comparison.lock().unwrap() = Comparison { differences: vec!["missing: x".into()], impossible: None };
    let words = text(why::why(&bench.ctx, &args).await);
    assert!(words.contains("DIFFERS from what the datastore asks for:\n  missing: x\n"), "{words}");

    let elsewhere = Why { live: true, ..asked("192.0.2.1 db1 tcp 80") };
    assert!(refusal(why::why(&bench.ctx, &elsewhere).await).contains("does not pass this host"));
    let nobody = Bench::not_root();
    assert!(why::why(&nobody.ctx, &args).await.is_err());
}

#[tokio::test]
async fn rules_are_read_in_the_words_of_the_datastore() {
    let bench = bench().await;
    bench.host.programmed.lock().unwrap().insert("cali1".into(), listing());
    let args = |target: &str, direction| Rules { target: target.into(), direction, ..Rules::default() };
    insta::assert_snapshot!("rules", text(rules::rules(&bench.ctx, &args("web1", None)).await));
    let inward = text(rules::rules(&bench.ctx, &args("web1", Some(Way::In))).await);
    assert!(inward.contains("to workload") && !inward.contains("from workload"), "{inward}");
    let words = refusal(rules::rules(&bench.ctx, &args("web2", None)).await);
    assert!(words.contains("Nothing is programmed for cali2"), "{words}");
    let words = refusal(rules::rules(&bench.ctx, &args("db1", None)).await);
    assert!(words.contains("db1 is not on this host"), "{words}");
    let words = refusal(rules::rules(&bench.ctx, &args("nobody", None)).await);
    assert!(words.contains("nobody is no container, endpoint or interface of this host"), "{words}");
}

#[tokio::test]
async fn rules_tell_published_ports_and_how_many_connections_they_led() {
    let bench = bench().await;
    let port = |host: &str, host_port, address: &str, counter| {
        let [host, address] = [host, address].map(|text| text.parse().unwrap());
        ListedPort { port: PublishedPort { protocol: 6, host_port, host, address, port: 80 }, counter }
    };
    let published = vec![
        port("0.0.0.0", 8080, "10.65.0.1", Some((7, 420))),
        port("192.0.2.1", 81, "10.65.0.1", None),
        port("::", 8080, "fd65::1", Some((0, 0))),
    ];
    bench.host.programmed.lock().unwrap().insert("cali1".into(), Listing { published, ..listing() });
    let args = |direction| Rules { target: "web1".into(), direction, ..Rules::default() };
    let output = rules::rules(&bench.ctx, &args(None)).await.unwrap();
    let (told, data) = (output.text, output.data);
    let (_, ports) =
        told.split_once("published ports of this host that lead to cali1\n").expect("a section of its own");
    let lines: Vec<Vec<&str>> = ports.lines().map(|line| line.split_whitespace().collect()).collect();
    let words = |line: &str| -> Vec<String> { line.split(' ').map(str::to_owned).collect() };
    assert_eq!(lines[1], words("tcp 8080 of every address, IPv4 -> 10.65.0.1:80 7"), "{told}");
    assert_eq!(lines[2], words("tcp 81 of 192.0.2.1, IPv4 -> 10.65.0.1:80 -"), "{told}");
    assert_eq!(lines[3], words("tcp 8080 of every address, IPv6 -> [fd65::1]:80 0"), "{told}");
    assert_eq!(
        data["published"][0],
        serde_json::json!({"ipVersion": 4, "protocol": "tcp", "hostPort": 8080, "hostIp": null,
            "address": "10.65.0.1", "port": 80, "connections": 7, "bytes": 420})
    );
    assert_eq!(data["published"][1]["hostIp"], "192.0.2.1");
    let outward = text(rules::rules(&bench.ctx, &args(Some(Way::Out))).await);
    assert!(!outward.contains("published"), "they are about packets to it: {outward}");
}

#[tokio::test]
async fn plan_shows_rules_and_verdicts_and_writes_nothing() {
    let bench = bench().await;
    let before = bench.everything().await;
    *bench.console.1.lock().unwrap() = LOCK.into();
    let args = Plan { files: stdin(), ..Plan::default() };
    let output = resource::plan(&bench.ctx, &args).await.unwrap();
    assert_eq!(output.exit, Exit::Changes);
    insta::assert_snapshot!("plan", output.text);
    assert_eq!(output.data["resources"][0]["change"], "would be created");
    assert_eq!(bench.everything().await, before);

    lock(&bench).await;
    *bench.console.1.lock().unwrap() = LOCK.into();
    let output = resource::plan(&bench.ctx, &args).await.unwrap();
    assert_eq!(output.exit, Exit::Done);
    assert!(output.text.contains("would stay as it is: GlobalNetworkPolicy lock"), "{}", output.text);
    assert!(output.text.contains("No traffic between existing endpoints changes its verdict."), "{}", output.text);

    *bench.console.1.lock().unwrap() = LOCK.replace("'web'", "'web").replace("Deny", "Deni");
    let words = refusal(resource::plan(&bench.ctx, &args).await);
    assert!(words.contains("Deni") && words.contains("role == 'web"), "all faults at once: {words}");
}
