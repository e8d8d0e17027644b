//! Attaching and detaching, seen by packets and by `ip`.

use super::support::{Host, Namespace, attachment, block_on, docker_container};
use crate::{DEFAULT_GATEWAY6, HOST_MAC, attach, detach};

#[test]
fn a_workload_reaches_the_host_at_once_by_ipv4() {
    let host = Host::new();
    let workload = Namespace::new();
    let wanted = attachment("cali1", "eth1", &["192.168.1.7"]);
    let attached = block_on(attach(&workload.at(), &wanted)).unwrap();
    host.route(&wanted);
    assert!(workload.pings("10.5.0.1"), "{}", workload.state());

    let link = host.namespace.run("ip -o link show cali1");
    assert!(link.starts_with(&format!("{}: cali1@", attached.host_interface_index)), "{link}");
    assert!(link.contains("ee:ee:ee:ee:ee:ee") && link.contains("mtu 1400"), "{link}");
    let inside = workload.run("ip -o link show eth1");
    assert!(inside.contains(&attached.mac.to_string()) && inside.contains("mtu 1400"), "{inside}");
    assert_ne!(attached.mac, HOST_MAC);
    assert!(workload.run("ip -o -4 addr show eth1").contains("192.168.1.7/32"));
    assert_eq!(workload.run("ip -4 route show default").trim_end(), "default via 10.5.0.1 dev eth1 onlink");
    assert_eq!(
        workload.run("ip neigh show dev eth1 nud permanent").trim_end(),
        "10.5.0.1 lladdr ee:ee:ee:ee:ee:ee PERMANENT"
    );
    // It was not proxy ARP that helped.
    assert_eq!(host.namespace.run("sysctl -n net.ipv4.conf.cali1.proxy_arp").trim_end(), "0");
}

#[test]
fn a_workload_reaches_the_host_at_once_by_ipv6_alone() {
    let host = Host::new();
    // Docker switches IPv6 off in its containers.
    let workload = docker_container(&host, 1);
    let wanted = attachment("cali1", "eth1", &["fd80::7"]);
    block_on(attach(&workload.at(), &wanted)).unwrap();
    host.route(&wanted);
    assert!(workload.pings("fd05::1"), "{}", workload.state());
    assert!(workload.pings(&format!("{DEFAULT_GATEWAY6}%eth1")), "the kernel's link-local address is the one computed");
    let default = workload.run("ip -6 route show default");
    assert!(default.starts_with(&format!("default via {DEFAULT_GATEWAY6} dev eth1 metric 1024 onlink")), "{default}");
    // Nothing was asked for in IPv4, so Docker's route is where it was.
    assert_eq!(workload.run("ip -4 route show default | grep -c metric || true").trim_end(), "0");
}

#[test]
fn both_families_at_once_with_the_hosts_addresses_as_gateways() {
    let host = Host::new();
    let workload = Namespace::new();
    let mut wanted = attachment("cali1", "eth1", &["192.168.1.7", "fd80::7"]);
    wanted.gateway6 = Some("fd05::1".parse().unwrap());
    wanted.mtu = Some(1380);
    block_on(attach(&workload.at(), &wanted)).unwrap();
    host.route(&wanted);
    assert!(workload.pings("10.5.0.1") && workload.pings("fd05::1"), "{}", workload.state());
    assert!(workload.run("ip -o link show eth1").contains("mtu 1380"));
    assert!(host.namespace.run("ip -o link show cali1").contains("mtu 1380"));

    // The gateways' addresses may leave the host: the neighbour entries stand.
    host.namespace.run(
        "ip addr del 10.5.0.1/24 dev eth0; ip addr add 10.5.0.9/24 dev eth0; ip addr del fd05::1/64 dev eth0;
         ip addr add fd05::9/64 dev eth0 nodad",
    );
    assert!(workload.pings("10.5.0.9") && workload.pings("fd05::9"), "{}", workload.state());
}

#[test]
fn what_a_workload_sends_fits_into_the_tunnels_between_hosts() {
    let host = Host::new();
    host.namespace.run("ip link add vxlan.calico type vxlan id 4096 dstport 4789 dev eth0");
    let given = |number: u8, addresses: &[&str]| {
        let workload = Namespace::new();
        let name = format!("cali{number}");
        block_on(attach(&workload.at(), &attachment(&name, "eth1", addresses))).unwrap();
        workload.run("ip -o link show eth1 | sed 's/.*mtu //; s/ .*//'").trim_end().to_owned()
    };
    assert_eq!(given(1, &["192.168.1.1"]), "1350");
    host.namespace.run("ip link add vxlan-v6.calico mtu 1330 type vxlan id 4097 dstport 4790 dev eth0");
    assert_eq!(given(2, &["192.168.1.2", "fd80::2"]), "1330");
    // A tunnel that IPv6 does not fit into does not keep a workload from it.
    host.namespace.run("ip link set vxlan.calico mtu 1200");
    assert_eq!(given(3, &["192.168.1.3", "fd80::3"]), "1280");
    assert_eq!(given(4, &["192.168.1.4"]), "1200");
}

#[test]
fn two_workloads_reach_each_other_through_the_host() {
    let host = Host::new();
    let workloads = [Namespace::new(), Namespace::new()];
    let wanted = [
        attachment("cali1", "eth1", &["192.168.1.1", "fd80::1"]),
        attachment("cali2", "eth1", &["192.168.1.2", "fd80::2"]),
    ];
    for (workload, wanted) in workloads.iter().zip(&wanted) {
        block_on(attach(&workload.at(), wanted)).unwrap();
        host.route(wanted);
    }
    assert!(workloads[0].pings("192.168.1.2") && workloads[1].pings("fd80::1"), "{}", workloads[0].state());
}

#[test]
fn dockers_default_route_steps_aside_and_comes_back() {
    let host = Host::new();
    let workload = docker_container(&host, 1);
    // A second one, with a metric right where the first will go.
    workload.run("ip route add default via 172.17.1.3 dev eth0 metric 1");
    let before = workload.state();
    let wanted = attachment("cali1", "eth1", &["192.168.1.7"]);
    block_on(attach(&workload.at(), &wanted)).unwrap();
    host.route(&wanted);
    let defaults = workload.run("ip -4 route show default");
    assert_eq!(
        defaults.lines().map(str::trim_end).collect::<Vec<_>>(),
        [
            "default via 10.5.0.1 dev eth1 onlink",
            "default via 172.17.1.1 dev eth0 src 172.17.1.2 metric 1 mtu 1300",
            "default via 172.17.1.3 dev eth0 metric 2"
        ]
    );
    assert!(workload.pings("10.5.0.1"));
    assert!(host.namespace.run("ip link show cali1").contains("stepped aside"));

    assert!(block_on(detach("cali1")).unwrap());
    assert_eq!(workload.state(), before);
    assert!(!block_on(detach("cali1")).unwrap(), "it is gone already");
}

#[test]
fn a_default_route_with_a_metric_stays_where_it_is() {
    let host = Host::new();
    let workload = docker_container(&host, 1);
    workload.run("ip route del default && ip route add default via 172.17.1.1 dev eth0 metric 100");
    let before = workload.state();
    block_on(attach(&workload.at(), &attachment("cali1", "eth1", &["192.168.1.7"]))).unwrap();
    assert!(workload.run("ip route show default").contains("metric 100"));
    block_on(detach("cali1")).unwrap();
    assert_eq!(workload.state(), before);
}

#[test]
fn a_second_interface_takes_over_and_gives_back_in_any_order() {
    for order in [["cali1", "cali2"], ["cali2", "cali1"]] {
        let host = Host::new();
        let workload = docker_container(&host, 1);
        let before = workload.state();
        let wanted = [
            attachment("cali1", "eth1", &["192.168.1.1", "fd80::1"]),
            attachment("cali2", "eth2", &["192.168.1.2", "fd80::2"]),
        ];
        for wanted in &wanted {
            block_on(attach(&workload.at(), wanted)).unwrap();
            host.route(wanted);
        }
        let best = |family: &str| workload.run(&format!("ip {family} route show default | head -1"));
        assert!(best("-4").contains("dev eth2") && best("-6").contains("dev eth2"), "{}", workload.state());
        assert!(workload.pings("10.5.0.1") && workload.pings("fd05::1"));

        block_on(detach(order[0])).unwrap();
        let left = if order[0] == "cali1" { "dev eth2" } else { "dev eth1" };
        assert!(best("-4").contains(left) && best("-6").contains(left), "{}", workload.state());
        assert!(!best("-4").contains("metric"), "{}", workload.state());
        assert!(workload.pings("10.5.0.1") && workload.pings("fd05::1"));

        block_on(detach(order[1])).unwrap();
        assert_eq!(workload.state(), before);
    }
}

#[test]
fn an_interface_without_addresses_has_no_routes() {
    let host = Host::new();
    let workload = docker_container(&host, 1);
    block_on(attach(&workload.at(), &attachment("cali1", "eth1", &[]))).unwrap();
    assert!(workload.run("ip -o link show eth1").contains("UP"));
    assert_eq!(workload.run("ip route show dev eth1"), "");
    assert!(host.namespace.run("ip -o link show cali1").contains("UP"));
}

#[test]
fn detaching_works_after_the_workload_has_died() {
    let host = Host::new();
    let workload = docker_container(&host, 1);
    block_on(attach(&workload.at(), &attachment("cali1", "eth1", &["192.168.1.7"]))).unwrap();
    drop(workload);
    // The kernel removes the pair by itself, sooner or later; both answers are right, an error is not.
    block_on(detach("cali1")).unwrap();
    assert!(host.namespace.try_run("ip link show cali1").is_err());
}

#[test]
fn the_operations_may_run_on_any_thread_of_a_runtime() {
    fn is_send<T: Send>(_: T) {}
    let (at, wanted) = (crate::NetnsRef::Pid(1), attachment("cali1", "eth1", &[]));
    let address = "192.168.1.7".parse().unwrap();
    is_send(attach(&at, &wanted));
    is_send(detach("cali1"));
    is_send(crate::check(&at, &wanted));
    is_send(crate::add_address(&at, "eth1", address, None));
    is_send(crate::remove_address(&at, "eth1", address));
}

#[test]
fn a_host_that_keeps_new_interfaces_off_ipv6_still_serves_those_that_ask_for_it() {
    let host = Host::new();
    // And one that makes link-local addresses in another way than from the MAC address.
    host.namespace.run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1 net.ipv6.conf.default.addr_gen_mode=3");
    let workload = docker_container(&host, 1);
    let wanted = attachment("cali1", "eth1", &["fd80::7"]);
    block_on(attach(&workload.at(), &wanted)).unwrap();
    host.route(&wanted);
    assert!(workload.pings("fd05::1"), "{}", host.namespace.state());
    assert!(workload.pings(&format!("{DEFAULT_GATEWAY6}%eth1")), "{}", host.namespace.state());

    // Without an IPv6 address the interface is left as the host wants it.
    let other = docker_container(&host, 2);
    block_on(attach(&other.at(), &attachment("cali2", "eth1", &["192.168.1.7"]))).unwrap();
    assert_eq!(host.namespace.run("sysctl -n net.ipv6.conf.cali2.disable_ipv6").trim_end(), "1");
}
