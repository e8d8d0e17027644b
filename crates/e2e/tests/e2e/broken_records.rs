//! Records that nobody can read, and pools that have nothing left: what they are about is refused or closed, said
//! once and by name, and everything else works on, also through a restart.
#![allow(clippy::unwrap_used)]

use calico_e2e::{
    Cluster, assert_closes_to, assert_matrix, eventually,
    refused::{Case, FAILED, check, check_all},
    world::datastore,
};
use calico_lab::{Host, Pinger};

const ROOT: &str = "/calico/resources/v3/projectcalico.org";

/// Key below [`ROOT`], value, who of felix and confd names it, and the words that say what is wrong.
const BROKEN: [(&str, &str, &[&str], &str); 8] = [
    ("profiles/broken", "{not json", &["felix"], "it is not JSON"),
    ("nodes/broken", "[]", &["felix", "confd"], "it is [], not an object"),
    ("workloadendpoints/default/broken", r#"{"metadata":{"name":7}}"#, &["felix"], "metadata.name = 7"),
    (
        "ippools/broken",
        r#"{"metadata":{"name":"broken"},"spec":{"cidr":"nonsense"}}"#,
        &["felix", "confd"],
        "spec.cidr = \"nonsense\"",
    ),
    (
        "bgppeers/broken",
        r#"{"metadata":{"name":"broken"},"spec":{"peerIP":"nonsense"}}"#,
        &["felix", "confd"],
        "spec.peerIP = \"nonsense\"",
    ),
    ("bgpconfigurations/node.host1", "7", &["felix", "confd"], "it is 7, not an object"),
    ("felixconfigurations/node.host1", "", &["felix"], "it is not JSON"),
    ("tiers/other", r#"{"metadata":{"name":"another"},"spec":{}}"#, &["felix"], "named \"another\""),
];

/// Junk where only addresses are counted, and keys of kinds that nobody knows.
const JUNK: [&str; 5] = [
    "/calico/ipam/v2/assignment/ipv4/block/192.168.9.0-26",
    "/calico/ipam/v2/host/host1/ipv4/block/192.168.9.64-26",
    "/calico/ipam/v2/handle/junk",
    "/calico/resources/v3/projectcalico.org/strangers/x",
    "/calico/frob",
];

#[test]
fn skipped_said_once_and_everything_else_works() {
    let cluster = Cluster::up(2, "");
    let (host1, etcd) = (cluster.lab.host(1), cluster.lab.etcd());
    host1.ok("calicoctl profile add P");
    let (a, b) = (cluster.add(1, "wa"), cluster.add(2, "wb"));
    a.calicoctl("profile set P");
    b.calicoctl("profile set P");
    assert_matrix(&[&a, &b], &[("wa", "wb"), ("wb", "wa")]);
    let pings = Pinger::start(host1, "wa", b.ip()).unwrap();

    let before = etcd.get(&format!("{ROOT}/felixconfigurations/node.host1")).unwrap().unwrap();
    for (key, value, _, _) in BROKEN {
        etcd.put(&format!("{ROOT}/{key}"), value).unwrap();
    }
    for key in JUNK {
        etcd.put(key, "junk").unwrap();
    }
    eventually("the health to name every record and its fault", || all_are_named(host1));
    // New containers, on both hosts, with all that in the datastore.
    let (c, d) = (cluster.add(1, "wc"), cluster.add(2, "wd"));
    c.calicoctl("profile set P");
    let all = [("wa", "wb"), ("wb", "wa"), ("wa", "wc"), ("wc", "wa"), ("wb", "wc"), ("wc", "wb")];
    assert_matrix(&[&a, &b, &c, &d], &all);
    d.calicoctl("profile set P");
    assert!(a.reaches(d.ip(), calico_e2e::SOON));
    for (key, _, agents, _) in BROKEN {
        for agent in agents {
            let logs = host1.ok("docker logs calico-node 2>&1");
            let said = logs.lines().filter(|line| line.starts_with(&format!("{agent}: ")) && line.contains(key));
            assert_eq!(said.count(), 1, "{agent} says {key} once:\n{logs}");
        }
    }
    shown_all_the_same(host1);

    // An agent that starts with such a datastore is no worse off.
    host1.ok("docker restart calico-node");
    eventually("the health to name every record again", || all_are_named(host1));
    assert!(host1.run("docker exec calico-node calico-node health").success(), "ready in spite of it");
    assert_matrix(&[&a, &b, &c], &all);
    let report = pings.stop();
    assert!(report.lost.is_empty(), "lost {} of {}: {:?}", report.lost.len(), report.sent, report.lost);

    // What is repaired or deleted is no longer named.
    for (key, _, _, _) in BROKEN {
        let key = format!("{ROOT}/{key}");
        if key.contains("felixconfigurations") {
            etcd.put(&key, &before).unwrap();
        } else {
            etcd.ctl(&format!("del '{key}'")).unwrap();
        }
    }
    eventually("nothing to be named any more", || {
        let health = health(host1);
        BROKEN.iter().all(|(key, ..)| !health.contains(key))
    });
}

fn health(host: &Host) -> String {
    host.run("docker exec calico-node calico-node health").text()
}

fn all_are_named(host: &Host) -> bool {
    let health = health(host);
    let mut agent = "";
    let mut named = Vec::new();
    for line in health.lines() {
        match line.trim().strip_prefix("problem: ") {
            Some(problem) => named.push((agent, problem)),
            None => agent = line.split(' ').next().unwrap_or_default(),
        }
    }
    let is_named = |agent: &str, key: &str, fault: &str| {
        named.iter().any(|(of, problem)| *of == agent && problem.contains(key) && problem.contains(fault))
    };
    BROKEN.iter().all(|(key, _, agents, fault)| agents.iter().all(|agent| is_named(agent, key, fault)))
}

/// The tables show what can be read, with a warning for what cannot.
fn shown_all_the_same(host: &Host) {
    for (command, row, skipped) in [
        ("calicoctl profile show", "P", "profiles/broken"),
        ("calicoctl endpoint show --detailed", "host2", "workloadendpoints/default/broken"),
        ("calicoctl node show", "host2", "nodes/broken"),
    ] {
        let said = host.run(command);
        assert!(said.success() && said.stdout.contains(row), "{command}:\n{}", said.text());
        let warnings = said.stderr.lines().filter(|line| line.contains(skipped));
        assert_eq!(warnings.count(), 1, "{command}:\n{}", said.stderr);
    }
    let said = host.run("calicoctl status");
    assert!(said.success() && said.stdout.contains("Established") && said.stdout.contains("profiles/broken"));
}

/// A record in use that breaks closes what it governs, and nothing else, until it is repaired.
#[test]
fn a_record_that_breaks_closes_what_it_governs() {
    let cluster = Cluster::up(1, "");
    let (host, etcd) = (cluster.lab.host(1), cluster.lab.etcd());
    host.ok("calicoctl profile add p");
    host.ok("calicoctl profile add q");
    let workloads = ["w1", "w2", "w3", "w4"].map(|name| cluster.add(1, name));
    let [w1, w2, w3, w4] = &workloads;
    for (workload, profile) in [(w1, "p"), (w2, "p"), (w3, "q"), (w4, "q")] {
        workload.calicoctl(&format!("profile set {profile}"));
    }
    let (of_p, of_q) = ([("w1", "w2"), ("w2", "w1")], [("w3", "w4"), ("w4", "w3")]);
    let both: Vec<_> = of_p.into_iter().chain(of_q).collect();
    let all = [w1, w2, w3, w4];
    assert_matrix(&all, &both);

    // A profile.
    let key = format!("{ROOT}/profiles/q");
    let good = etcd.get(&key).unwrap().unwrap();
    etcd.put(&key, &good.replace("\"spec\":{", "\"spec\":7,\"was\":{")).unwrap();
    eventually("the health to name it", || health(host).contains("profiles/q does not hold a valid Profile: spec = 7"));
    assert_closes_to(&all, &of_p);
    etcd.put(&key, &good).unwrap();
    assert_matrix(&all, &both);

    // An endpoint.
    let keys = etcd.keys(&format!("{ROOT}/workloadendpoints/")).unwrap();
    let of_w4 = |key: &&String| etcd.get(key).unwrap().is_some_and(|value| value.contains("\"w4\""));
    let key = keys.iter().find(of_w4).unwrap();
    let good = etcd.get(key).unwrap().unwrap();
    etcd.put(key, &good[..good.len() - 1]).unwrap();
    assert_closes_to(&all, &of_p);
    etcd.put(key, &good).unwrap();
    assert_matrix(&all, &both);

    // The readiness of the datastore: nothing is torn down, and nothing new is done until it is back.
    let key = format!("{ROOT}/clusterinformations/default");
    let good = etcd.get(&key).unwrap().unwrap();
    etcd.put(&key, "junk").unwrap();
    eventually("the health to name it", || health(host).contains("clusterinformations/default"));
    assert_matrix(&all, &both);
    etcd.put(&key, &good).unwrap();
    w1.calicoctl("profile append q");
    let mut more = both.clone();
    more.extend([("w1", "w3"), ("w3", "w1"), ("w1", "w4"), ("w4", "w1")]);
    assert_matrix(&all, &more);
}

#[test]
fn exhausted_pools() {
    let cluster = Cluster::up(1, "");
    let (host, etcd) = (cluster.lab.host(1), cluster.lab.etcd());
    let pool = format!("{ROOT}/ippools/default-ipv4-ippool");
    // A pool of one block of four addresses instead of the default one.
    let small = etcd.get(&pool).unwrap().unwrap().replace("192.168.0.0/16", "192.168.0.0/30");
    etcd.put(&pool, &small.replace("\"blockSize\":26", "\"blockSize\":30")).unwrap();
    let held = ["w1", "w2", "w3", "w4"].map(|name| cluster.add(1, name));
    cluster.run(1, "w5");
    let exhausted = ["Failed to allocate any IPs (requested 1 IPv4s and 0 IPv6s)", "exhausted", "hint: "];
    check_all(
        &cluster.lab,
        host,
        &[
            Case("calicoctl container add w5", FAILED, &exhausted),
            Case("calicoctl container add w5 ipv4", FAILED, &exhausted),
            Case("calicoctl container add w5 192.168.0.0/30", FAILED, &["192.168.0.0/30", "exhausted"]),
            Case("calicoctl container w1 ip add ipv4", FAILED, &exhausted),
            Case("calicoctl container add w5 192.168.0.4", FAILED, &["192.168.0.4 is not in any configured pools"]),
        ],
    );
    // The IPv6 address that could be had is given back; only the block stays the host's.
    check(host, &Case("calicoctl container add w5 ipv6 ipv4", FAILED, &exhausted));
    let id = host.ok("docker inspect -f '{{.Id}}' w5");
    assert!(datastore(&etcd).iter().all(|(key, value)| !key.contains(id.trim()) && !value.contains(id.trim())));
    host.ok("calicoctl container remove w3");
    let said = host.ok("calicoctl container add w5");
    assert!(said.contains(&held[2].ip().to_string()), "the freed address is the one that is left: {said}");

    // No pool at all, and a disabled one.
    let disabled = small.replace("\"blockSize\":26", "\"blockSize\":30,\"disabled\":true");
    etcd.put(&pool, &disabled).unwrap();
    host.ok("docker run --net=none --name=w6 -tid ubuntu");
    check_all(
        &cluster.lab,
        host,
        &[
            Case("calicoctl container add w6", FAILED, &["no enabled IPv4 pool", "hint: "]),
            Case("calicoctl container add w6 192.168.0.1", FAILED, &["192.168.0.1", "is disabled"]),
            Case("calicoctl container add w6 192.168.0.0/30", FAILED, &["192.168.0.0/30", "is disabled"]),
        ],
    );
    // Addresses of a pool that is gone can be given back.
    etcd.ctl(&format!("del '{pool}'")).unwrap();
    host.ok("calicoctl container remove w1");
    host.ok(&format!("calicoctl container w2 ip remove {}", held[1].ip()));
}
