//! VXLAN: three hosts in two subnets, and a router between them that knows nothing of the pools.
//!
//! One lab, one story: without VXLAN the subnets do not meet; with it they do, always or across subnets only; packets
//! that are too large are dealt with; policy holds; and without it nothing stays.
#![allow(clippy::unwrap_used)]

use std::thread;

use calico_e2e::{Cluster, Workload, assert_closes_to, assert_matrix, eventually, start_node, trio::NODE};
use calico_lab::{Host, Lab, LabOptions, Pinger};

const POOLS: [&str; 2] = ["default-ipv4-ippool", "default-ipv6-ippool"];

/// The first two hosts share a subnet.
fn up() -> Cluster {
    let options = LabOptions { segments: vec![0, 0, 1], ..LabOptions::default() }.with_node_image();
    let cluster = Cluster { lab: Lab::up(&options).unwrap() };
    thread::scope(|scope| {
        for host in cluster.lab.hosts() {
            scope.spawn(|| start_node(host, NODE));
        }
    });
    cluster
}

fn set_mode(host: &Host, mode: &str) {
    for pool in POOLS {
        host.ok(&format!("calicoctl patch ippool {pool} -p '{{\"spec\":{{\"vxlanMode\":\"{mode}\"}}}}'"));
    }
}

fn add<'a>(cluster: &'a Cluster, host: usize, name: &'static str, profile: &str) -> Workload<'a> {
    let mut workload = cluster.add(host, name);
    workload.ip_add("ipv6");
    workload.calicoctl(&format!("profile set {profile}"));
    workload
}

/// The routes to other hosts' workloads that felix made.
fn routes(host: &Host) -> String {
    host.ok("ip route show proto 80; ip -6 route show proto 80")
}

/// Whether each host says of itself that nothing is wrong.
fn all_well(cluster: &Cluster) -> bool {
    cluster.lab.hosts().iter().all(|host| {
        let said = host.run("docker exec calico-node calico-node health");
        said.success() && !said.text().contains("problem")
    })
}

/// Whether pings of this size are answered. The first one may be too large and only teach the sender so.
fn answers(from: &Workload<'_>, to: &Workload<'_>, size: usize) {
    for address in &to.addresses {
        eventually(&format!("{} bytes from {} to {address}", size, from.name), || {
            from.host.run(&format!("docker exec {} ping -c 1 -W 1 -s {size} {address}", from.name)).success()
        });
    }
}

/// A felix that is killed leaves the tunnel at work, and the next one finds nothing to do.
fn restart_is_invisible(from: &Workload<'_>, to: &Workload<'_>) {
    let felix = || from.host.run("pgrep -x calico-felix").stdout;
    let entries =
        || from.host.ok("ip -o link show type vxlan; bridge fdb show dev vxlan.calico | sort; ip route show proto 80");
    let (old, before) = (felix(), entries());
    let streams: Vec<Pinger> =
        to.addresses.iter().map(|to| Pinger::start(from.host, from.name, *to).unwrap()).collect();
    from.host.ok("pkill -9 -x calico-felix");
    eventually("another felix", || !felix().is_empty() && felix() != old);
    eventually("it to be well", || from.host.run("docker exec calico-node calico-node health").success());
    let after = streams[0].sent() + 100;
    eventually("a second of pings after it", || streams[0].sent() >= after);
    for stream in streams {
        let report = stream.stop();
        assert!(report.lost.is_empty(), "{report}");
    }
    assert_eq!(entries(), before);
}

#[test]
fn hosts_of_two_subnets_share_pools_through_vxlan() {
    let cluster = up();
    let (host1, host2, host3) = (cluster.lab.host(1), cluster.lab.host(2), cluster.lab.host(3));
    host1.ok("calicoctl profile add P");
    host1.ok("calicoctl profile add Q");
    let [a, b, c] = [(1, "wa"), (2, "wb"), (3, "wc")].map(|(host, name)| add(&cluster, host, name, "P"));
    let other = add(&cluster, 3, "other", "Q");
    let all = [&a, &b, &c, &other];
    let near = [("wa", "wb"), ("wb", "wa")];
    let everywhere = [("wa", "wb"), ("wb", "wa"), ("wa", "wc"), ("wc", "wa"), ("wb", "wc"), ("wc", "wb")];
    // The router does not know the way.
    assert_matrix(&all, &near);

    set_mode(host2, "Always");
    assert_matrix(&all, &everywhere);
    eventually("every host to be well", || all_well(&cluster));
    let shown = routes(host1);
    assert_eq!(shown.matches("dev vxlan.calico").count(), 2, "a block of each of the two other hosts: {shown}");
    assert_eq!(shown.matches("dev vxlan-v6.calico").count(), 2, "{shown}");
    assert!(!host1.ok("ip route show proto bird").contains("via"), "BIRD writes none of them");

    // Larger than the tunnel, from containers that are older than it.
    answers(&a, &c, 1440);
    // Younger ones know.
    let late = add(&cluster, 1, "late", "P");
    let link = host1.ok("docker exec late ip link show eth1");
    assert!(link.contains("mtu 1430"), "{link}");
    answers(&late, &c, 3000);

    restart_is_invisible(&a, &c);

    set_mode(host2, "CrossSubnet");
    let direct = format!("via {} dev eth0", host2.ipv4());
    eventually("the direct route", || routes(host1).contains(&direct));
    let direct = format!("via {} dev eth0", host2.ipv6());
    eventually("the direct route of IPv6", || routes(host1).contains(&direct));
    assert_eq!(routes(host1).matches("dev vxlan.calico").count(), 1, "{}", routes(host1));
    assert_matrix(&all, &everywhere);

    // Policy holds for what comes out of a tunnel.
    c.calicoctl("profile set Q");
    assert_closes_to(&all, &[("wa", "wb"), ("wb", "wa"), ("wc", "other"), ("other", "wc")]);
    c.calicoctl("profile set P");
    assert_matrix(&all, &everywhere);

    set_mode(host2, "Never");
    for host in [host1, host2, host3] {
        eventually("the devices to be gone", || !host.ok("ip link").contains("vxlan"));
        eventually("the routes to be gone", || !routes(host).contains("onlink"));
        eventually("the tunnel address to be given back", || {
            !host.ok(&format!("calicoctl get node {} -o yaml", host.name())).contains("TunnelAddr")
        });
    }
    eventually("the handles to be gone", || {
        let keys = cluster.lab.etcd().keys("/calico/ipam/v2/handle/").unwrap();
        !keys.iter().any(|key| key.contains("tunnel-addr"))
    });
    assert_closes_to(&all, &near);
}
