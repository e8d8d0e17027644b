//! The system tests that the classic tool had, scenario by scenario, as far as their commands exist. The comments
//! number them as that suite did.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use calico_e2e::{A_WHILE, Cluster, SOON, Workload, assert_matrix, start_node, world::datastore};
use calico_lab::{Host, Lab, LabOptions};

/// A container on Docker's own bridge, as most of these tests had.
fn on_bridge<'a>(host: &'a Host, name: &'static str) -> Workload<'a> {
    host.ok(&format!("docker run --name={name} -tid busybox"));
    Workload { host, name, addresses: Vec::new() }
}

/// How far an address is from another one of its block.
fn distance(from: IpAddr, to: IpAddr) -> i128 {
    let number = |address| match address {
        IpAddr::V4(address) => i128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address).cast_signed(),
    };
    number(to) - number(from)
}

#[test]
fn status_and_addresses_in_order_and_not_used_again() {
    let lab = Lab::up(&LabOptions::hosts(1).with_node_image()).unwrap();
    let host = lab.host(1);
    // 13: nothing runs.
    let status = host.fails("calicoctl status");
    assert_eq!((status.code(), status.text().as_str()), (Some(1), "calico-node container not running\n"));
    // 12: it runs.
    start_node(host, &format!("--ip={}", host.ipv4()));
    host.ok("calicoctl status");

    // 14 to 17: any address of a family, then one of a pool. Freed addresses are not given at once again.
    for (any, pool) in [("ipv4", "192.168.0.0/16"), ("ipv6", "fd80:24e2:f998:72d6::/64")] {
        let mut first = None;
        for (round, wish) in [any, any, pool].into_iter().enumerate() {
            // The second time it says that it exists, with code 0.
            host.ok("calicoctl profile add TEST");
            let (mut one, mut other) = (on_bridge(host, "workload0"), on_bridge(host, "workload1"));
            for workload in [&mut one, &mut other] {
                workload.add(wish);
                workload.calicoctl("profile set TEST");
            }
            let first = *first.get_or_insert(one.ip());
            let expected = 2 * round as i128;
            assert_eq!((distance(first, one.ip()), distance(first, other.ip())), (expected, expected + 1), "{wish}");
            assert_matrix(&[&one, &other], &[("workload0", "workload1"), ("workload1", "workload0")]);
            host.ok("calicoctl container remove workload0; calicoctl container remove workload1");
            host.ok("docker rm -f workload0 workload1");
        }
    }
    let left = datastore(&lab.etcd());
    assert!(!left.keys().any(|key| key.contains("/handle/") || key.contains("workloadendpoints")), "{:?}", left.keys());
}

/// 20, 23 and 24: one host, containers on the bridge, addresses of one's choice, then everything taken down.
#[test]
fn a_single_host() {
    let cluster = Cluster::up(1, "--ip6={ip6}");
    let host = cluster.lab.host(1);
    host.ok("calicoctl profile add TEST_GROUP");
    let (mut one, mut other) = (on_bridge(host, "workload1"), on_bridge(host, "workload2"));
    for (workload, v4, v6) in [(&mut one, "192.168.1.1", "::1"), (&mut other, "192.168.1.2", "::2")] {
        workload.add(v4);
        workload.ip_add(&format!("fd80:24e2:f998:72d6{v6}"));
    }
    assert_matrix(&[&one, &other], &[]);
    one.calicoctl("profile set TEST_GROUP");
    other.calicoctl("profile append TEST_GROUP");
    assert_matrix(&[&one, &other], &[("workload1", "workload2"), ("workload2", "workload1")]);
    // 20: from a container to its host.
    assert!(one.reaches(host.ipv4().into(), SOON), "IPv4 to the host");
    assert!(one.reaches(host.ipv6().into(), SOON), "IPv6 to the host");

    // A profile in use is not removed, and the code is 0 all the same.
    assert!(host.ok("calicoctl profile remove TEST_GROUP").contains("in use"));
    for command in [
        "calicoctl container remove workload1",
        "calicoctl container remove workload2",
        "calicoctl profile remove TEST_GROUP",
        "calicoctl node stop",
        "calicoctl node remove",
    ] {
        host.ok(command);
    }
    let left = datastore(&cluster.lab.etcd());
    let of_host = left.iter().filter(|(key, value)| key.contains("host1") || value.contains("host1"));
    assert_eq!(of_host.count(), 0, "{left:?}");
}

/// 19: addresses added and removed, on an interface of one's choice, and containers that are started anew.
#[test]
fn addresses_on_a_chosen_interface_and_restarted_containers() {
    let cluster = Cluster::up(1, "");
    let host = cluster.lab.host(1);
    host.ok("calicoctl profile add TEST_GROUP");
    let (mut one, mut other) = (on_bridge(host, "workload1"), on_bridge(host, "workload2"));
    let both = [("workload1", "workload2"), ("workload2", "workload1")];
    for round in 0..2 {
        one.add("192.168.1.1");
        other.add("192.168.1.2 --interface=hello");
        for workload in [&one, &other] {
            workload.calicoctl("profile set TEST_GROUP");
        }
        assert_matrix(&[&one, &other], &both);
        one.ip_add("192.168.2.1");
        one.ip_add("192.168.3.1");
        other.ip_add("192.168.2.2 --interface=hello");
        assert_matrix(&[&one, &other], &both);
        if round == 0 {
            host.ok("docker stop -t 0 workload1 workload2 && docker start workload1 workload2");
            host.ok("calicoctl container remove workload1 && calicoctl container remove workload2");
            one.addresses.clear();
            other.addresses.clear();
        }
    }
    one.calicoctl("ip remove 192.168.2.1");
    other.calicoctl("ip remove 192.168.2.2 --interface=hello");
    let (gone1, gone2) = ("192.168.2.1".parse().unwrap(), "192.168.2.2".parse().unwrap());
    one.addresses.retain(|address| *address != gone1);
    other.addresses.retain(|address| *address != gone2);
    assert_matrix(&[&one, &other], &both);
    assert!(!one.reaches(gone2, A_WHILE) && !other.reaches(gone1, A_WHILE));
    host.fails("calicoctl container workload1 ip remove 192.168.2.1");
}

/// 22: two hosts; on one the service was started by plain `docker run`, with the classic variables and mounts only.
#[test]
fn two_hosts_of_which_one_was_started_by_docker_run() {
    let lab = Lab::up(&LabOptions::hosts(2).with_node_image()).unwrap();
    let (host1, host2) = (lab.host(1), lab.host(2));
    start_node(host1, &format!("--ip={}", host1.ipv4()));
    let authority = lab.etcd().endpoints().replace("http://", "");
    host2.ok(&format!(
        "docker run -d --net=host --privileged --name=calico-node -e IP={} -e ETCD_AUTHORITY={authority} \
         -e ETCD_SCHEME=http -v /var/log/calico:/var/log/calico -v /var/run/calico:/var/run/calico calico/node",
        host2.ipv4()
    ));
    let cluster = Cluster { lab };
    cluster.wait_for_mesh();
    let (host1, host2) = (cluster.lab.host(1), cluster.lab.host(2));
    host1.ok("calicoctl profile add TEST_GROUP");
    let (mut one, mut other) = (on_bridge(host1, "workload1"), cluster.run(2, "workload2"));
    one.add("192.168.1.1");
    other.add("192.168.1.2");
    one.calicoctl("profile set TEST_GROUP");
    other.calicoctl("profile append TEST_GROUP");
    assert_matrix(&[&one, &other], &[("workload1", "workload2"), ("workload2", "workload1")]);

    host1.ok("calicoctl profile remove TEST_GROUP");
    host1.ok("calicoctl container remove workload1");
    host2.ok("calicoctl container remove workload2");
    for host in [host1, host2] {
        host.ok("calicoctl node stop");
        host.ok("calicoctl node remove");
    }
    let left = datastore(&cluster.lab.etcd());
    let of_hosts = left.iter().filter(|(key, value)| key.contains("/host") || value.contains("\"host"));
    assert_eq!(of_hosts.count(), 0, "{left:?}");
}
