//! Many commands at once.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, thread};

use calico_e2e::Cluster;

/// Forty `container add` at once on two hosts: every one gets an address, and no address is given twice.
#[test]
fn forty_adds_at_once() {
    let cluster = Cluster::up(2, "");
    let names: Vec<String> = (0..20).map(|number| format!("w{number}")).collect();
    let all = names.join(" ");
    for host in cluster.lab.hosts() {
        host.ok(&format!("for name in {all}; do docker run --net=none --name=$name -tid busybox >/dev/null; done"));
    }
    let answers: Vec<String> = thread::scope(|scope| {
        let adds: Vec<_> = cluster
            .lab
            .hosts()
            .iter()
            .flat_map(|host| names.iter().map(move |name| (host, name)))
            .map(|(host, name)| scope.spawn(move || host.ok(&format!("calicoctl container add {name}"))))
            .collect();
        adds.into_iter().map(|add| add.join().unwrap()).collect()
    });
    let addresses: BTreeSet<String> =
        answers.iter().map(|said| said.split_whitespace().nth(1).unwrap().to_owned()).collect();
    assert_eq!(addresses.len(), 40, "{answers:?}");

    // What the interfaces carry is what was said.
    for host in cluster.lab.hosts() {
        for name in &names {
            let shown = host.ok(&format!("docker exec {name} ip -4 addr show eth1"));
            assert!(addresses.iter().any(|address| shown.contains(&format!("{address}/32"))), "{shown}");
        }
    }
    // The same container twice at once: one wins, the other is refused, nothing is left of it.
    let host = cluster.lab.host(1);
    host.ok("docker run --net=none --name=twice -tid busybox");
    let before = cluster.datastore().len();
    let outcomes: Vec<bool> = thread::scope(|scope| {
        let adds: Vec<_> =
            (0..4).map(|_| scope.spawn(|| host.run("calicoctl container add twice").success())).collect();
        adds.into_iter().map(|add| add.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|won| **won).count(), 1, "{outcomes:?}");
    assert_eq!(cluster.datastore().len(), before + 2, "an endpoint and a handle");
}
