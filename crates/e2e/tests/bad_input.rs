//! Bad input: a clear message, a non-zero exit, and nothing changed: not the datastore, not the kernel, not a
//! container.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use calico_e2e::{Cluster, eventually};
use calico_lab::Host;

/// What must stay as it is.
#[derive(Debug, PartialEq)]
struct World {
    datastore: BTreeMap<String, String>,
    links: String,
    routes: String,
    rules: String,
    inside: String,
}

fn world(cluster: &Cluster, host: &Host) -> World {
    World {
        datastore: cluster.datastore(),
        links: host.ok("ip -o link | cut -d' ' -f2 | sort"),
        routes: host.ok("ip route; ip -6 route show proto 80"),
        rules: host.ok("nft -s list table ip calico; nft -s list table ip6 calico"),
        inside: host.ok(
            "for c in plain added; do docker exec $c ip addr; docker exec $c ip route; done | sed 's/valid_lft.*//'",
        ),
    }
}

#[test]
fn refused_with_a_clear_message_and_nothing_changed() {
    let cluster = Cluster::up(1, "");
    let host = cluster.lab.host(1);
    let _plain = cluster.run(1, "plain");
    let added = cluster.add(1, "added");
    let taken = added.ip();
    host.ok("calicoctl profile add P");
    added.calicoctl("profile set P");
    host.ok("docker run --net=none --name=stopped ubuntu true");
    host.ok("docker run --net=host --name=hosted -tid ubuntu");
    eventually("the endpoint's rules", || host.ok("nft list map ip calico wl-to").contains("cali"));
    let before = world(&cluster, host);
    let taken = taken.to_string();
    // Command, a word of the message, exit code if it is documented.
    let cases: Vec<(String, &str, Option<i32>)> = [
        ("calicoctl container add nobody", "was not found", Some(1)),
        ("calicoctl container add stopped", "not currently running", Some(1)),
        ("calicoctl container add hosted", "host", Some(1)),
        ("calicoctl container add added", "already been configured", Some(1)),
        ("calicoctl container add plain 1.2.3", "Invalid IP", Some(1)),
        ("calicoctl container add plain 300.1.1.1", "Invalid IP", Some(1)),
        ("calicoctl container add plain 10.99.0.1", "not in any configured pool", Some(1)),
        ("calicoctl container add plain 10.99.0.0/16", "No pool found", Some(1)),
        (&format!("calicoctl container add plain {taken}"), "already assigned", Some(1)),
        ("calicoctl container add plain --interface=lo", "lo", Some(1)),
        ("calicoctl container add plain --interface=a-name-that-is-too-long", "15", Some(1)),
        ("calicoctl container add plain --interface=a/b", "a/b", Some(1)),
        ("calicoctl container plain profile set P", "unknown to Calico", Some(1)),
        ("calicoctl container added profile append NOBODY", "NOBODY", Some(1)),
        ("calicoctl container added profile set P P", "more than once", Some(1)),
        ("calicoctl container added profile set 'P!'", "P!", Some(1)),
        ("calicoctl profile add 'bad name'", "bad name", Some(1)),
        ("calicoctl container added ip add 10.99.0.1", "not in any configured pool", Some(1)),
        (&format!("calicoctl container added ip add {taken}"), "already assigned", Some(1)),
        ("calicoctl container added ip remove 192.168.200.200", "not assigned", Some(1)),
        ("calicoctl container plain ip add ipv4", "unknown to Calico", Some(1)),
        ("calicoctl endpoint nobody profile set P", "could not be found", Some(1)),
        ("calicoctl node --ip=1.2.3", "Invalid IPv4 address", None),
        ("calicoctl node --ip6=10.0.0.1", "Invalid IPv6 address", None),
        ("calicoctl node --as=4294967296", "Invalid AS Number", None),
        ("calicoctl node --runtime=rkt", "untime", None),
        ("calicoctl frobnicate", "frobnicate", None),
        ("ETCD_ENDPOINTS=ftp://127.0.0.1:2379 calicoctl profile show", "ETCD_ENDPOINTS", None),
        ("ETCD_ENDPOINTS=http://127.0.0.1:1 calicoctl profile show", "unreachable", Some(1)),
        ("ETCD_ENDPOINTS=https://127.0.0.1:2379 ETCD_CA_CERT_FILE=/nowhere calicoctl profile show", "/nowhere", None),
        ("DOCKER_HOST=unix:///run/no-docker.sock calicoctl container add plain", "ocker", Some(1)),
        ("setpriv --reuid=65534 --clear-groups calicoctl container add plain", "root", Some(2)),
    ]
    .into_iter()
    .map(|(command, word, code)| (command.to_owned(), word, code))
    .collect();
    for (command, word, code) in cases {
        let said = host.fails(&command);
        assert!(said.text().contains(word), "`{command}` does not say {word:?}:\n{}", said.text());
        assert!(!said.text().contains("panicked"), "`{command}`:\n{}", said.text());
        if let Some(code) = code {
            assert_eq!(said.code(), Some(code), "`{command}`:\n{}", said.text());
        }
        assert_eq!(world(&cluster, host), before, "`{command}` changed something");
    }
}

#[test]
fn exhausted_pools_and_broken_records() {
    let cluster = Cluster::up(1, "");
    let host = cluster.lab.host(1);
    let etcd = cluster.lab.etcd();
    let pool = "/calico/resources/v3/projectcalico.org/ippools/default-ipv4-ippool";
    // A pool of one block of four addresses instead of the default one.
    let small = etcd.get(pool).unwrap().unwrap().replace("192.168.0.0/16", "192.168.0.0/30");
    etcd.put(pool, &small.replace("\"blockSize\":26", "\"blockSize\":30")).unwrap();
    for name in ["w1", "w2", "w3", "w4"] {
        cluster.add(1, name);
    }
    let _last = cluster.run(1, "w5");
    let before = cluster.datastore();
    let said = host.fails("calicoctl container add w5");
    assert!(said.text().contains("exhausted"), "{}", said.text());
    assert_eq!(cluster.datastore(), before);

    // Records that nobody can read: named once, skipped, everything else goes on.
    host.ok("calicoctl profile add P");
    let root = "/calico/resources/v3/projectcalico.org";
    etcd.put(&format!("{root}/profiles/broken"), "{not json").unwrap();
    etcd.put(&format!("{root}/nodes/broken"), "[]").unwrap();
    etcd.put(&format!("{root}/workloadendpoints/default/broken"), "{\"metadata\":{\"name\":7}}").unwrap();
    etcd.put(
        &format!("{root}/ippools/broken"),
        "{\"metadata\":{\"name\":\"broken\"},\"spec\":{\"cidr\":\"nonsense\"}}",
    )
    .unwrap();
    host.ok("calicoctl container w1 profile set P");
    host.ok("calicoctl container w2 profile set P");
    let address = |name: &str| {
        let shown = host.ok(&format!("docker exec {name} ip -4 -o addr show eth1"));
        shown.split_whitespace().find_map(|word| word.strip_suffix("/32")).unwrap().to_owned()
    };
    let to = address("w2");
    eventually("w1 to reach w2", || host.run(&format!("docker exec w1 ping -c 1 -W 1 {to}")).success());
    eventually("the health to name the records", || {
        let health = host.run("docker exec calico-node calico-node health").text();
        ["profiles/broken", "nodes/broken", "ippools/broken"].iter().all(|key| health.contains(key))
    });
    let log = host.ok("docker logs calico-node 2>&1 | grep -c 'felix.*profiles/broken'");
    assert_eq!(log.trim(), "1", "said once");
}

#[test]
fn a_host_that_cannot_be_a_node() {
    let lab = calico_lab::Lab::up(&calico_lab::LabOptions::hosts(2).with_node_image()).unwrap();
    let (host1, host2) = (lab.host(1), lab.host(2));
    // Not initialised yet.
    host1.ok("docker run --net=none --name=w -tid ubuntu");
    let said = host1.fails("calicoctl container add w");
    assert!(said.text().contains("calicoctl node"), "{}", said.text());
    // An address that another host uses.
    calico_e2e::start_node(host1, "");
    let said = host2.fails(&format!("calicoctl node --ip={}", host1.ipv4()));
    assert!(said.text().contains("already in use") && said.text().contains("host1"), "{}", said.text());
    assert!(!host2.run("docker ps --format '{{.Names}}'").stdout.contains("calico-node"), "nothing keeps restarting");
    // The port of BGP is taken.
    let taken = host2.spawn("busybox nc -lk -p 179 -e cat");
    eventually("the port to be taken", || host2.run("ss -ltn").stdout.contains(":179"));
    let said = host2.fails("calicoctl node");
    assert!(said.text().contains("179"), "{}", said.text());
    drop(taken);
    // BIRD is missing.
    let said = host2.fails("PATH=/usr/local/bin:/bin calico-node run --log-dir=none");
    assert!(said.text().contains("BIRD") || said.text().contains("179"), "{}", said.text());
    // etcd is away.
    lab.etcd().kill().unwrap();
    let said = host2.fails("calicoctl node");
    assert!(said.text().contains("unreachable"), "{}", said.text());
    // No Docker.
    lab.etcd().start().unwrap();
    host2.stop_docker().unwrap();
    let said = host2.fails("calicoctl node");
    assert!(said.text().to_lowercase().contains("docker"), "{}", said.text());
}
