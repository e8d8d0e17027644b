//! A host that is no node any more.

use calico_dataplane::{Options, purge};

use crate::support::*;

#[test]
fn everything_of_ours_goes_and_nothing_else() {
    on_a_host(|host| async move {
        let workload = host.workload(1);
        run("iptables -P FORWARD DROP && iptables -N DOCKER-USER && iptables -A FORWARD -j DOCKER-USER");
        run("nft add table ip stranger && nft add chain ip stranger calico");
        run("ip route add 10.9.0.0/24 dev lo proto static && ip route add 10.9.1.0/24 dev lo proto bird metric 32");
        let before = run("iptables -S; nft list table ip stranger; ip route; ip -6 route");
        let mut dataplane = dataplane().await;
        absorb(&mut dataplane, [profile("web", vec![allow()], vec![allow()]), workload.endpoint(&["web"])]);
        dataplane.apply().await.unwrap();
        run(
            "ip route add blackhole 10.65.9.0/26 proto bird metric 2048 && ip -6 route add blackhole fd65:9::/122 proto bird metric 2048",
        );
        drop(dataplane);
        assert!(run("nft list tables").contains("calico"));

        purge(&Options::default(), 2048).await.unwrap();
        assert_eq!(run("iptables -S; nft list table ip stranger; ip route; ip -6 route"), before);
        let tables = run("nft list tables");
        assert!(!tables.contains("ip calico") && !tables.contains("ip6 calico"), "{tables}");
        purge(&Options::default(), 2048).await.unwrap();
    });
}
