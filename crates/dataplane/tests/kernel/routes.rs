//! Routes, neighbours, settings of interfaces, connection tracking.

use std::net::{IpAddr, SocketAddr};

use calico_dataplane::{EndpointState, Event};
use calico_policy::instruction::{EndpointId, Instruction};

use crate::support::*;

fn id(name: &str) -> EndpointId {
    EndpointId { namespace: "test".to_owned(), name: name.to_owned() }
}

fn open() -> Instruction {
    profile("open", vec![allow()], vec![allow()])
}

/// Our routes of both families.
fn our_routes() -> Vec<String> {
    let listing = run("ip route show proto 80; ip -6 route show proto 80");
    listing.lines().map(|line| line.trim().to_owned()).collect()
}

#[test]
fn each_address_has_a_route_and_a_neighbour() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        let workload = host.workload(1);
        absorb(&mut dataplane, [open(), workload.endpoint(&["open"])]);
        assert_eq!(dataplane.endpoint_state(&id("cali1")), EndpointState::Waiting, "only absorbed");
        let report = dataplane.apply().await.unwrap();
        assert_eq!((report.routes_added, &report.problems[..]), (4, &[][..]));
        assert_eq!(dataplane.endpoint_state(&id("cali1")), EndpointState::Up);
        let routes = our_routes();
        assert_eq!(routes, ["10.65.0.1 dev cali1 scope link metric 1024", "fd65::1 dev cali1 metric 1024 pref medium"]);
        let neighbours = run("ip neigh show nud permanent");
        for address in ["10.65.0.1", "fd65::1"] {
            assert!(
                neighbours.contains(&format!("{address} dev cali1 lladdr 02:00:00:00:00:01 PERMANENT")),
                "{neighbours}"
            );
        }
        absorb(&mut dataplane, [Instruction::EndpointRemove { id: id("cali1") }]);
        dataplane.apply().await.unwrap();
        assert_eq!(our_routes(), [""; 0]);
        assert_eq!(run("ip neigh show nud permanent"), "");
        assert_eq!(dataplane.endpoint_state(&id("cali1")), EndpointState::Unknown);
    });
}

#[test]
fn the_interface_has_its_settings() {
    on_a_host(|host| async move {
        run("sysctl -qw net.ipv4.conf.default.rp_filter=2");
        let mut dataplane = dataplane().await;
        let workload = host.workload(1);
        let _stranger = host.workload(9);
        for setting in ["ipv4/conf/cali1/rp_filter", "ipv6/conf/cali1/accept_ra", "ipv6/conf/cali9/accept_ra"] {
            run(&format!("echo 1 > /proc/sys/net/{setting}"));
        }
        absorb(&mut dataplane, [workload.endpoint(&[])]);
        assert!(dataplane.apply().await.unwrap().sysctls_written > 0);
        for (setting, value) in [
            ("ipv4/conf/cali1/route_localnet", "1"),
            ("ipv4/neigh/cali1/proxy_delay", "0"),
            ("ipv4/conf/cali1/proxy_arp", "1"),
            ("ipv4/conf/cali1/forwarding", "1"),
            ("ipv4/conf/cali1/rp_filter", "2"),
            ("ipv6/conf/cali1/proxy_ndp", "1"),
            ("ipv6/conf/cali1/forwarding", "1"),
            ("ipv6/conf/cali1/accept_ra", "0"),
            ("ipv6/conf/cali9/accept_ra", "0"),
            ("ipv4/conf/cali9/proxy_arp", "0"),
        ] {
            assert_eq!(run(&format!("cat /proc/sys/net/{setting}")).trim(), value, "{setting}");
        }
        absorb(&mut dataplane, [workload.endpoint(&[])]);
        assert_eq!(dataplane.apply().await.unwrap().sysctls_written, 0, "right values are not written again");
    });
}

#[test]
fn routes_come_and_go_with_the_interface() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        absorb(&mut dataplane, [open(), endpoint("cali1", "cali1", &["10.65.0.1".parse().unwrap()], &["open"])]);
        dataplane.apply().await.unwrap();
        assert_eq!(dataplane.endpoint_state(&id("cali1")), EndpointState::Waiting);
        for _ in 0..2 {
            let workload = host.workload(1);
            settle(&mut dataplane, || our_routes().len() == 1).await;
            assert_eq!(dataplane.endpoint_state(&id("cali1")), EndpointState::Up);
            // The other end goes down: no carrier, no route.
            workload.namespace.sh("ip link set eth0 down");
            settle(&mut dataplane, || our_routes().is_empty()).await;
            workload.namespace.sh("ip link set eth0 up");
            settle(&mut dataplane, || our_routes().len() == 1).await;
            // Down and up again before we look: the kernel has flushed the route.
            run("ip link set cali1 down && ip link set cali1 up");
            settle(&mut dataplane, || our_routes().len() == 1).await;
            run("ip link delete cali1");
            settle(&mut dataplane, || true).await;
            assert_eq!(dataplane.endpoint_state(&id("cali1")), EndpointState::Waiting);
        }
    });
}

/// Mends what the notifications ask for until a condition holds and nothing is reported any more.
async fn settle(dataplane: &mut calico_dataplane::Dataplane, condition: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    loop {
        let report = dataplane.apply().await.unwrap();
        assert!(report.problems.is_empty(), "{report:?}");
        if condition() {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "routes: {:?}", our_routes());
        let _ = tokio::time::timeout(PATIENCE, dataplane.next_event()).await.expect("a notification");
    }
}

#[test]
fn a_route_that_somebody_removes_or_replaces_is_back_at_once() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        let workload = host.workload(1);
        absorb(&mut dataplane, [open(), workload.endpoint(&["open"])]);
        dataplane.apply().await.unwrap();
        let before = our_routes();
        let mut repairs = Repairs::default();
        for vandalism in [
            "ip route del 10.65.0.1",
            "ip -6 route del fd65::1",
            "ip route flush proto 80",
            "ip route add 10.65.0.99/32 dev lo proto 80 metric 7",
            "ip -6 route add blackhole fd65:0:0:1::/64 proto 80",
            "ip route add unreachable 10.65.1.0/26 proto 80",
        ] {
            run(vandalism);
            repairs.mend(&mut dataplane, Event::RoutesChanged).await;
            assert_eq!(our_routes(), before, "{vandalism}");
        }
    });
}

#[test]
fn routes_of_others_stay_byte_for_byte() {
    on_a_host(|host| async move {
        let _outsider = host.outsider();
        let workload = host.workload(1);
        for route in [
            "route add 10.65.0.0/16 via 198.51.100.2",
            "route add blackhole 10.65.0.0/26 proto bird",
            "route add 10.65.0.1/32 dev cali1 metric 5",
            "route add 10.65.0.2/32 dev cali1 proto static",
            "route add 203.0.113.0/24 dev eth0 proto 81 table 100",
            "route add 203.0.114.0/24 dev eth0 proto 80 table 100",
            "-6 route add fd65::/64 via 2001:db8:1::2",
            "-6 route add fd65::1/128 dev cali1 metric 5",
        ] {
            run(&format!("ip {route}"));
        }
        let foreign = || {
            let all = run("ip route show table all; ip -6 route show table all");
            let ours = |line: &str| line.contains("proto 80") && !line.contains("table 100");
            // In the table local the kernel adds anycast addresses when an interface forwards.
            let local = |line: &str| line.contains("table local");
            all.lines().filter(|line| !ours(line) && !local(line)).map(str::to_owned).collect::<Vec<_>>()
        };
        let before = foreign();
        let mut dataplane = dataplane().await;
        absorb(&mut dataplane, [open(), workload.endpoint(&["open"])]);
        assert!(dataplane.apply().await.unwrap().problems.is_empty());
        assert_eq!(our_routes().len(), 2);
        assert_eq!(foreign(), before);
        absorb(&mut dataplane, [Instruction::EndpointRemove { id: id("cali1") }]);
        dataplane.apply().await.unwrap();
        assert_eq!(our_routes().len(), 0);
        assert_eq!(foreign(), before);
    });
}

#[test]
fn a_foreign_route_in_our_place_is_reported_and_left() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        let (a, b) = (host.workload(1), host.workload(2));
        run("ip route add 10.65.0.1/32 dev cali2 metric 1024 proto static");
        absorb(&mut dataplane, [open(), a.endpoint(&["open"]), b.endpoint(&["open"])]);
        let report = dataplane.apply().await.unwrap();
        assert!(report.retry);
        let problem = report.problems.iter().find(|p| p.subject == "10.65.0.1/32").expect("reported");
        assert!(problem.reason.contains("remove it"));
        assert!(run("ip route show proto static").contains("10.65.0.1 dev cali2"));
        assert_eq!(our_routes().len(), 3, "the others are not held up");
        run("ip route del 10.65.0.1/32 dev cali2");
        let report = dataplane.apply().await.unwrap();
        assert!(report.problems.is_empty() && !report.retry);
        assert_eq!(our_routes().len(), 4);
    });
}

#[test]
fn an_address_that_moves_takes_its_route_and_leaves_no_connections() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        let (a, b, c) = (host.workload(1), host.workload(2), host.workload(3));
        absorb(&mut dataplane, [open(), a.endpoint(&["open"]), b.endpoint(&["open"]), c.endpoint(&["open"])]);
        dataplane.apply().await.unwrap();
        assert_eq!(talks(&c, &a, 80), [true; 2]);
        assert_eq!(talks(&a, &c, 81), [true; 2]);
        assert_eq!(talks(&b, &c, 82), [true; 2]);
        let tracked = |address: IpAddr| {
            let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
            let listing = run(&format!("conntrack -L -f {family} 2>/dev/null"));
            listing.lines().filter(|line| line.contains(&format!("={address} "))).count()
        };
        assert_eq!([tracked(a.v4), tracked(a.v6)], [2, 2]);
        // The address goes from the first workload to the second.
        let [v4, v6] = [a.v4, a.v6];
        b.namespace.sh(&format!("ip address add {v4}/32 dev eth0 && ip address add {v6}/128 dev eth0 nodad"));
        let addresses = [b.addresses(), a.addresses()].concat();
        absorb(
            &mut dataplane,
            [Instruction::EndpointRemove { id: id("cali1") }, endpoint("cali2", "cali2", &addresses, &["open"])],
        );
        let report = dataplane.apply().await.unwrap();
        assert_eq!(report.conntrack_cleaned, 2);
        assert_eq!([tracked(v4), tracked(v6)], [0, 0], "both directions, both families");
        assert_eq!([tracked(b.v4), tracked(b.v6)], [1, 1], "others' connections stay");
        assert!(run("ip route get 10.65.0.1").contains("dev cali2"));
        let source: IpAddr = c.v4;
        assert!(udp_arrives(Some(&c.namespace), source, Some(&b.namespace), SocketAddr::new(v4, 80)));
    });
}

#[test]
fn a_contested_address_leads_to_the_newest_interface_and_back() {
    on_a_host(|host| async move {
        let mut dataplane = dataplane().await;
        let (old, new) = (host.workload(1), host.workload(2));
        let address = [old.v4];
        absorb(
            &mut dataplane,
            [
                open(),
                endpoint("zz", &old.interface, &address, &["open"]),
                endpoint("aa", &new.interface, &address, &["open"]),
            ],
        );
        let report = dataplane.apply().await.unwrap();
        assert!(report.problems.iter().any(|p| p.to_string().contains("cali2 has it")), "{report:?}");
        assert!(run("ip route get 10.65.0.1").contains("dev cali2"));
        run("ip link delete cali2");
        event(&mut dataplane, Event::LinksChanged).await;
        dataplane.apply().await.unwrap();
        assert!(run("ip route get 10.65.0.1").contains("dev cali1"));
    });
}
