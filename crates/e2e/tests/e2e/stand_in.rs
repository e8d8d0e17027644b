//! The parts of the service by themselves: another program may stand in for one of them, as upstream's Felix does for
//! ours where both share a cluster.
#![allow(clippy::unwrap_used)]

use calico_e2e::{Cluster, assert_matrix, eventually, start_node};
use calico_lab::{Lab, LabOptions};

/// On the second host only confd and BIRD are ours. What programs the workload's route does it as upstream's Felix
/// does by default: with the protocol `boot`, through the interface that `container add` made.
#[test]
fn another_felix_on_one_host() {
    let cluster = Cluster { lab: Lab::up(&LabOptions::hosts(2).with_node_image()).unwrap() };
    let (host1, host2) = (cluster.lab.host(1), cluster.lab.host(2));
    start_node(host1, "");
    host2.ok("calicoctl node --runtime=none");
    let _confd = host2.spawn("exec calico-node confd");
    eventually("confd to write BIRD's configuration", || host2.run("test -s /var/run/calico/bird.cfg").success());
    let _bird = host2.spawn("exec bird -f -c /var/run/calico/bird.cfg -s /var/run/calico/bird.ctl");

    let (a, b) = (cluster.add(1, "wa"), cluster.add(2, "wb"));
    host1.ok("calicoctl profile add P");
    a.calicoctl("profile set P");
    b.calicoctl("profile set P");
    let interface = host2.ok("ip -o link show type veth | grep -o 'cali[0-9a-f]*' | sort -u");
    host2.ok(&format!("ip route add {} dev {} scope link proto boot", b.ip(), interface.trim()));
    host2.ok("iptables -P FORWARD ACCEPT");
    assert!(!host2.run("nft list table ip calico").success(), "felix must not run there");
    assert_matrix(&[&a, &b], &[("wa", "wb"), ("wb", "wa")]);
    let route = host1.ok(&format!("ip route get {}", b.ip()));
    assert!(route.contains(&format!("via {}", host2.ipv4())), "{route}");
}
