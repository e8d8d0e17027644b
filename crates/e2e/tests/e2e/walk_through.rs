//! The walk-through, word for word, and what follows from it.
#![allow(clippy::unwrap_used)]

use calico_e2e::{Cluster, assert_closes_to, assert_matrix, eventually};

/// Every step of the walk-through, with who can talk to whom before and after, then everything taken back.
#[test]
fn the_walk_through_word_for_word() {
    let cluster = Cluster::up(2, "");
    let (host1, host2) = (cluster.lab.host(1), cluster.lab.host(2));
    for host in cluster.lab.hosts() {
        let forward = host.ok("iptables -S FORWARD");
        assert!(forward.contains("-P FORWARD DROP"), "hosts are as Docker leaves them: {forward}");
    }
    let (mut a, mut b) = (cluster.run(1, "workload_A"), cluster.run(2, "workload_B"));
    a.add("");
    b.add("");
    let mut outsider = cluster.run(1, "outsider");
    outsider.add("");
    assert_matrix(&[&a, &b, &outsider], &[]);

    host1.ok("calicoctl profile add PROF_A_B");
    assert_matrix(&[&a, &b, &outsider], &[]);
    host1.ok("calicoctl container workload_A profile set PROF_A_B");
    assert_matrix(&[&a, &b, &outsider], &[]);
    host2.ok("calicoctl container workload_B profile set PROF_A_B");
    assert_matrix(&[&a, &b, &outsider], &[("workload_A", "workload_B"), ("workload_B", "workload_A")]);

    names_are_shown_as_typed(&cluster);
    routes_are_where_they_belong(&cluster, a.ip(), b.ip());

    host2.ok("calicoctl container workload_B profile remove PROF_A_B");
    // A may still send, as its profile lets everything out; but nothing comes into B.
    assert_closes_to(&[&a, &b, &outsider], &[]);

    removal_leaves_nothing(&cluster, a.ip());
}

fn names_are_shown_as_typed(cluster: &Cluster) {
    let host = cluster.lab.host(1);
    for command in ["calicoctl profile show", "calicoctl endpoint show --detailed", "calicoctl profile show --detailed"]
    {
        let shown = host.ok(command);
        assert!(shown.contains("PROF_A_B"), "{command} shows:\n{shown}");
        assert!(!shown.contains("prof-a-b"), "{command} shows the stored name:\n{shown}");
    }
    let keys = cluster.lab.etcd().keys("/calico/resources/v3/projectcalico.org/profiles/").unwrap();
    assert!(keys.iter().all(|key| !key.contains("PROF_A_B")), "{keys:?}");
}

fn routes_are_where_they_belong(cluster: &Cluster, a: std::net::IpAddr, b: std::net::IpAddr) {
    let (host1, host2) = (cluster.lab.host(1), cluster.lab.host(2));
    let local = host1.ok(&format!("ip route get {a}"));
    assert!(local.contains("dev cali"), "{local}");
    let remote = host2.ok(&format!("ip route get {a}"));
    assert!(remote.contains(&format!("via {}", host1.ipv4())), "{remote}");
    let back = host1.ok(&format!("ip route get {b}"));
    assert!(back.contains(&format!("via {}", host2.ipv4())), "{back}");
}

fn removal_leaves_nothing(cluster: &Cluster, address: std::net::IpAddr) {
    let host1 = cluster.lab.host(1);
    let interface = host1.ok("ip -o link show type veth | grep -o 'cali[0-9a-f]*' | sort -u").lines().count();
    assert_eq!(interface, 2);
    host1.ok("calicoctl container remove workload_A");
    host1.ok("calicoctl container remove outsider");
    eventually("the interfaces to go", || host1.ok("ip -o link").lines().all(|line| !line.contains(": cali")));
    eventually("the route to go", || !host1.ok("ip route show proto 80").contains(&address.to_string()));
    eventually("the rules to go", || !host1.ok("nft list map ip calico wl-to").contains("elements"));
    let left = cluster.datastore();
    let of_host1 = |key: &&String| {
        (key.contains("workloadendpoints") && key.contains("host1")) || key.contains("/ipam/v2/handle/")
    };
    let keys: Vec<&String> = left.keys().filter(of_host1).collect();
    assert_eq!(keys.len(), 1, "only workload_B's handle is left: {keys:?}");
    // The address can be had again at once.
    host1.ok(&format!("calicoctl container add workload_A {address}"));
    // A container that dies behind our back: its interface goes, and with it route and rules; the record stays.
    host1.ok("docker rm -f workload_A");
    eventually("the route of the dead container to go", || {
        !host1.ok("ip route show proto 80").contains(&address.to_string())
    });
    assert!(host1.ok("calicoctl endpoint show --detailed").contains(&address.to_string()));
    host1.ok("calicoctl container remove workload_A");
    assert!(!host1.ok("calicoctl endpoint show --detailed").contains(&address.to_string()));
}

/// Both families, several profiles on one container, addresses that come and go.
#[test]
fn both_families_profiles_and_addresses() {
    let cluster = Cluster::up(2, "--ip6={ip6}");
    let host1 = cluster.lab.host(1);
    // Newer Dockers do this by themselves.
    cluster.lab.hosts().iter().for_each(|host| drop(host.ok("ip6tables -P FORWARD DROP")));
    let (mut a, mut b, mut c) = (cluster.run(1, "wa"), cluster.run(2, "wb"), cluster.run(2, "wc"));
    for workload in [&mut a, &mut b, &mut c] {
        workload.add("ipv4");
        workload.ip_add("ipv6");
    }
    assert_matrix(&[&a, &b, &c], &[]);

    host1.ok("calicoctl profile add ONE");
    host1.ok("calicoctl profile add TWO");
    a.calicoctl("profile set ONE TWO");
    b.calicoctl("profile append ONE");
    c.calicoctl("profile append TWO");
    let middle = [("wa", "wb"), ("wb", "wa"), ("wa", "wc"), ("wc", "wa")];
    assert_matrix(&[&a, &b, &c], &middle);

    a.calicoctl("profile remove TWO");
    assert_closes_to(&[&a, &b, &c], &[("wa", "wb"), ("wb", "wa")]);
    a.calicoctl("profile append TWO");
    assert_matrix(&[&a, &b, &c], &middle);

    let extra = b.ip_add("192.168.77.7");
    assert!(a.reaches(extra, calico_e2e::SOON));
    b.calicoctl(&format!("ip remove {extra}"));
    assert!(!a.reaches(extra, calico_e2e::A_WHILE));
    b.addresses.retain(|address| *address != extra);
    assert_matrix(&[&a, &b, &c], &middle);

    // All profiles off: closed again.
    a.calicoctl("profile set");
    assert_closes_to(&[&a, &b, &c], &[]);

    // An IPv6-only container.
    let mut six = cluster.run(1, "six");
    six.add("ipv6");
    six.calicoctl("profile set ONE");
    assert_matrix(&[&six, &b], &[("six", "wb"), ("wb", "six")]);
}
