//! Two hosts in different subnets, each with its own dataplane, and a router between them that knows nothing of pools.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use calico_dataplane::Dataplane;
use calico_model::MacAddress;
use calico_policy::instruction::{ClusterRoute, Instruction, Settings, Tunnel, Tunnels, Vtep};

use crate::support::*;

/// One of the two hosts, by family: IPv4 first.
#[derive(Clone, Copy)]
struct Side {
    host: [&'static str; 2],
    gateway: [&'static str; 2],
    tunnel: [&'static str; 2],
    block: [&'static str; 2],
    mac: [u8; 2],
}

const A: Side = Side {
    host: ["198.51.100.1", "2001:db8:1::1"],
    gateway: ["198.51.100.254", "2001:db8:1::fe"],
    tunnel: ["10.65.0.10", "fd65::a"],
    block: ["10.65.0.0/27", "fd65::/122"],
    mac: [0xa4, 0xa6],
};
const B: Side = Side {
    host: ["203.0.113.1", "2001:db8:2::1"],
    gateway: ["203.0.113.254", "2001:db8:2::fe"],
    tunnel: ["10.65.0.50", "fd65::50"],
    block: ["10.65.0.32/27", "fd65::40/122"],
    mac: [0xb4, 0xb6],
};

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

impl Side {
    fn own(&self, at: usize) -> Tunnel {
        Tunnel {
            address: address(self.tunnel[at]),
            mac: MacAddress([0x66, 0, 0, 0, 0, self.mac[at]]),
            local: address(self.host[at]),
            port: 4789,
            vni: 4096,
            mtu: None,
        }
    }

    fn tunnels(&self) -> Instruction {
        Instruction::Tunnels(Tunnels { v4: Some(self.own(0)), v6: Some(self.own(1)) })
    }

    fn vtep(&self, at: usize) -> Instruction {
        let Tunnel { address, mac, local: host, .. } = self.own(at);
        Instruction::VtepUpdate { vtep: Vtep { address, mac, host } }
    }

    fn route(&self, at: usize) -> Instruction {
        let route = ClusterRoute::Tunnel { via: address(self.tunnel[at]) };
        Instruction::RouteUpdate { destination: self.block[at].parse().unwrap(), route }
    }

    /// The addresses on eth0, and the way to everything else.
    fn network(&self) -> String {
        format!(
            "ip address add {}/24 dev eth0 && ip address add {}/64 dev eth0 nodad && ip link set eth0 up && \
             ip route add default via {} && ip -6 route add default via {}",
            self.host[0], self.host[1], self.gateway[0], self.gateway[1]
        )
    }
}

/// What a host of the two needs, beside its workloads.
fn instructions(own: &Side, other: &Side) -> Vec<Instruction> {
    let mut all = vec![
        Instruction::Settings(Settings { vxlan_port: Some(4789), ..Settings::default() }),
        hosts(&[A, B]),
        profile("open", vec![allow()], vec![allow()]),
        own.tunnels(),
    ];
    for at in 0..2 {
        let destination = own.block[at].parse().unwrap();
        all.extend([other.vtep(at), other.route(at)]);
        all.push(Instruction::RouteUpdate { destination, route: ClusterRoute::Unassigned });
    }
    all
}

fn hosts(sides: &[Side]) -> Instruction {
    let mut addresses: Vec<IpAddr> = sides.iter().flat_map(|side| side.host).map(address).collect();
    addresses.sort_unstable();
    Instruction::Hosts { addresses }
}

/// The router, the other host with its workload, this host's workload.
struct Overlay {
    _router: Namespace,
    other: Namespace,
    here: Workload,
    there: Workload,
}

impl Overlay {
    fn build(host: &Host) -> Self {
        let (router, other) = (Namespace::new(), Namespace::new());
        run(&format!("ip link add eth0 type veth peer name left netns {}", router.id));
        run(&format!("ip link add eth9 netns {} type veth peer name right netns {}", other.id, router.id));
        router.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 && \
             ip address add 198.51.100.254/24 dev left && ip address add 2001:db8:1::fe/64 dev left nodad && \
             ip address add 203.0.113.254/24 dev right && ip address add 2001:db8:2::fe/64 dev right nodad && \
             ip link set left up && ip link set right up");
        run(&A.network());
        other.sh(&format!("ip link set eth9 name eth0 && {}", B.network()));
        other.sh("ip address add 192.0.2.1/32 dev lo");
        let here = host.workload(1);
        let there = other.run(|| Host.workload(40));
        let endpoint = there.endpoint(&["open"]);
        other.run(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                // The kernel keeps what it was told when the dataplane is gone.
                let mut dataplane = dataplane().await;
                absorb(&mut dataplane, instructions(&B, &A).into_iter().chain([endpoint]));
                assert_eq!(dataplane.apply().await.unwrap().problems, []);
            });
        });
        Self { _router: router, other, here, there }
    }

    /// Whether the workloads hear each other, in both directions and families, within the usual time.
    #[track_caller]
    fn talks(&self) {
        eventually("the workloads hear each other", || {
            talks(&self.here, &self.there, 80) == [true; 2] && talks(&self.there, &self.here, 81) == [true; 2]
        });
    }
}

/// A dataplane of host A that knows all.
async fn dataplane_of(here: &Workload) -> Dataplane {
    let mut dataplane = dataplane().await;
    absorb(&mut dataplane, instructions(&A, &B).into_iter().chain([here.endpoint(&["open"])]));
    let report = dataplane.apply().await.unwrap();
    assert_eq!(report.problems, []);
    dataplane
}

/// All that there is of the overlay here, without numbers of interfaces.
fn overlay() -> String {
    run("for d in vxlan.calico vxlan-v6.calico; do \
           ip -o -d link show $d | sed 's/^[0-9]*: //; s/ group .*vxlan / vxlan /; s/ addrgenmode.*//'; \
           ip -o address show $d scope global | sed 's/^[0-9]*: //; s/valid_lft.*//'; \
           bridge fdb show dev $d | sort; \
           ip neigh show dev $d nud permanent | sort; ip -6 neigh show dev $d nud permanent | sort; \
         done; ip route show proto 80; ip -6 route show proto 80")
}

#[test]
fn workloads_of_two_subnets_talk_through_vxlan() {
    on_a_host(|host| async move {
        let net = Overlay::build(&host);
        let mut dataplane = dataplane_of(&net.here).await;
        let devices = run("ip -d link show type vxlan");
        for part in [
            "vxlan.calico",
            "vxlan-v6.calico",
            "mtu 1450",
            "mtu 1430",
            "nolearning",
            "id 4096",
            "dstport 4789",
            "dev eth0",
        ] {
            assert!(devices.contains(part), "{part} in {devices}");
        }
        let routes = run("ip route show proto 80; ip -6 route show proto 80");
        for route in [
            "blackhole 10.65.0.0/27 metric 1024",
            "10.65.0.32/27 via 10.65.0.50 dev vxlan.calico metric 1024 onlink",
            "fd65::40/122 via fd65::50 dev vxlan-v6.calico metric 1024 onlink",
        ] {
            assert!(routes.contains(route), "{route} in {routes}");
        }
        net.talks();
        // Nothing is left to do, also for one that starts now.
        let before = overlay();
        assert!(dataplane.apply().await.unwrap().is_unchanged());
        let report = dataplane_again(&net.here).await;
        assert_eq!((report.tunnel_changes, report.routes_added, report.routes_removed), (0, 0, 0), "{report:?}");
        assert_eq!(overlay(), before);
    });
}

/// What the first apply of a further dataplane has to do.
async fn dataplane_again(here: &Workload) -> calico_dataplane::Report {
    let mut dataplane = dataplane().await;
    absorb(&mut dataplane, instructions(&A, &B).into_iter().chain([here.endpoint(&["open"])]));
    dataplane.apply().await.unwrap()
}

#[test]
fn packets_that_do_not_fit_are_told_so_and_come_through_smaller() {
    on_a_host(|host| async move {
        let net = Overlay::build(&host);
        let _dataplane = dataplane_of(&net.here).await;
        net.talks();
        for (source, destination, mtu) in [(net.here.v4, net.there.v4, 1450), (net.here.v6, net.there.v6, 1430)] {
            let to = SocketAddr::new(destination, 90);
            let receiver = net.there.namespace.run(move || UdpSocket::bind(to).unwrap());
            receiver.set_read_timeout(Some(SILENCE)).unwrap();
            let sender = net.here.namespace.run(move || UdpSocket::bind((source, 0)).unwrap());
            let mut buffer = [0; 2000];
            // The first one is too big for the tunnel; after the answer the kernel cuts.
            eventually("1400 bytes and more arrive", || {
                let _ = sender.send_to(&[7; 1440], to);
                matches!(receive(&receiver, &mut buffer), Ok((1440, _)))
            });
            let known = net.here.namespace.sh(&format!("ip route get {destination}"));
            assert!(known.contains(&format!("mtu {mtu}")), "{known}");
        }
    });
}

#[test]
fn vxlan_is_taken_from_hosts_only() {
    on_a_host(|host| async move {
        let net = Overlay::build(&host);
        let mut dataplane = dataplane_of(&net.here).await;
        net.talks();
        absorb(&mut dataplane, [hosts(&[A])]);
        dataplane.apply().await.unwrap();
        assert_eq!(talks(&net.there, &net.here, 81), [false; 2], "the sender is no host any more");
        absorb(&mut dataplane, [hosts(&[A, B])]);
        dataplane.apply().await.unwrap();
        net.talks();
    });
}

#[test]
fn policy_holds_for_what_comes_out_of_a_tunnel() {
    on_a_host(|host| async move {
        let net = Overlay::build(&host);
        let mut dataplane = dataplane_of(&net.here).await;
        net.talks();
        absorb(&mut dataplane, [net.here.endpoint(&[])]);
        dataplane.apply().await.unwrap();
        assert_eq!(talks(&net.there, &net.here, 82), [false; 2]);
        assert_eq!(talks(&net.here, &net.there, 83), [false; 2]);
    });
}

#[test]
fn whatever_somebody_does_to_a_tunnel_is_mended() {
    on_a_host(|host| async move {
        let net = Overlay::build(&host);
        let mut dataplane = dataplane_of(&net.here).await;
        let wanted = overlay();
        for vandalism in [
            "bridge fdb del 66:00:00:00:00:b4 dev vxlan.calico",
            "bridge fdb replace 66:00:00:00:00:b4 dev vxlan.calico dst 198.51.100.9",
            "bridge fdb replace 66:00:00:00:00:b6 dev vxlan-v6.calico dst 2001:db8:1::9",
            "bridge fdb add 66:00:00:00:00:99 dev vxlan.calico dst 203.0.113.1",
            "bridge fdb append 00:00:00:00:00:00 dev vxlan.calico dst 203.0.113.7",
            "bridge fdb del 66:00:00:00:00:b4 dev vxlan.calico && \
             bridge fdb add 66:00:00:00:00:b4 dev vxlan.calico dst 203.0.113.1 port 9999",
            "ip neigh del 10.65.0.50 dev vxlan.calico",
            "ip neigh replace 10.65.0.50 lladdr 66:00:00:00:00:99 dev vxlan.calico nud permanent",
            "ip neigh add fd65::99 lladdr 66:00:00:00:00:99 dev vxlan-v6.calico nud permanent",
            "ip address del 10.65.0.10/32 dev vxlan.calico",
            "ip address add 10.65.0.11/32 dev vxlan.calico",
            "ip link set vxlan.calico mtu 1300",
            "ip link set vxlan-v6.calico down",
            "ip link set vxlan.calico address 66:00:00:00:00:99",
            "ip link del vxlan.calico",
            "ip link del vxlan.calico && ip link add vxlan.calico type vxlan id 7 dstport 4790 dev eth0",
            "ip link set vxlan.calico down && ip link set vxlan.calico up",
            "ip route del 10.65.0.32/27 proto 80",
            "ip route del blackhole 10.65.0.0/27",
            "ip -6 route del fd65::40/122",
            "ip route replace unreachable 10.65.0.32/27 metric 1024 proto 80",
        ] {
            run(vandalism);
            let start = std::time::Instant::now();
            while overlay() != wanted {
                assert!(start.elapsed() < PATIENCE, "after {vandalism}:\n{}\nwanted:\n{wanted}", overlay());
                let _ = tokio::time::timeout(PATIENCE, dataplane.next_event()).await.expect(vandalism);
                assert_eq!(dataplane.apply().await.unwrap().problems, [], "{vandalism}");
            }
        }
        net.talks();
    });
}

#[test]
fn a_host_whose_record_is_impossible_holds_up_no_other() {
    on_a_host(|host| async move {
        let net = Overlay::build(&host);
        let mut dataplane = dataplane().await;
        // The kernel takes no forwarding entry for a group of hosts.
        let impossible = (1..=16).map(|number| {
            let mac = MacAddress([0x01, 0, 0, 0, 0, number]);
            let vtep = Vtep { address: [10, 65, 9, number].into(), mac, host: [203, 0, 113, 100 + number].into() };
            Instruction::VtepUpdate { vtep }
        });
        let all = instructions(&A, &B).into_iter().chain([net.here.endpoint(&["open"])]).chain(impossible);
        absorb(&mut dataplane, all);
        let report = dataplane.apply().await.unwrap();
        assert_eq!(report.problems.len(), 16, "{:?}", report.problems);
        assert!(report.retry && report.problems[0].to_string().contains("forward to 203.0.113.1"), "{report:?}");
        net.talks();
    });
}

#[test]
fn the_device_follows_its_parameters() {
    on_a_host(|host| async move {
        let net = Overlay::build(&host);
        let mut dataplane = dataplane_of(&net.here).await;
        let shown = || run("ip -d link show vxlan.calico; ip -o -4 address show dev vxlan.calico");
        for (tunnel, part) in [
            (Tunnel { vni: 77, ..A.own(0) }, "id 77 "),
            (Tunnel { port: 4790, ..A.own(0) }, "dstport 4790"),
            (Tunnel { mac: MacAddress([0x66, 1, 2, 3, 4, 5]), ..A.own(0) }, "66:01:02:03:04:05"),
            (Tunnel { mtu: Some(1400), ..A.own(0) }, "mtu 1400"),
            (Tunnel { mtu: Some(9000), ..A.own(0) }, "mtu 1450"),
            (Tunnel { address: address("10.65.0.11"), ..A.own(0) }, "10.65.0.11/32"),
        ] {
            absorb(&mut dataplane, [Instruction::Tunnels(Tunnels { v4: Some(tunnel), v6: Some(A.own(1)) })]);
            assert_eq!(dataplane.apply().await.unwrap().problems, []);
            assert!(shown().contains(part), "{part} in {}", shown());
        }
        run("ip link set eth0 mtu 1400");
        let start = std::time::Instant::now();
        while !shown().contains("mtu 1350") {
            assert!(start.elapsed() < PATIENCE, "{}", shown());
            let _ = tokio::time::timeout(PATIENCE, dataplane.next_event()).await.expect("the carrier's MTU");
            dataplane.apply().await.unwrap();
        }
        absorb(&mut dataplane, [A.tunnels()]);
        dataplane.apply().await.unwrap();
        net.talks();
    });
}

#[test]
fn what_is_not_needed_goes_and_what_is_not_ours_stays() {
    on_a_host(|host| async move {
        let net = Overlay::build(&host);
        run("ip link add vxlan9 type vxlan id 9 dstport 4799 dev eth0 && ip link set vxlan9 up");
        run("bridge fdb add 66:00:00:00:00:77 dev vxlan9 dst 203.0.113.7 && ip address add 10.99.0.1/24 dev vxlan9");
        run("ip neigh add 10.99.0.2 lladdr 66:00:00:00:00:77 dev vxlan9 nud permanent");
        let foreign = || {
            run(
                "bridge fdb show dev vxlan9; ip neigh show dev vxlan9; ip address show vxlan9; ip route show dev vxlan9",
            )
        };
        let before = foreign();
        let mut dataplane = dataplane_of(&net.here).await;
        let mut removals = vec![Instruction::Tunnels(Tunnels::default())];
        for at in 0..2 {
            removals.push(Instruction::VtepRemove { address: address(B.tunnel[at]) });
            removals
                .extend([A, B].map(|side| Instruction::RouteRemove { destination: side.block[at].parse().unwrap() }));
        }
        absorb(&mut dataplane, removals);
        assert_eq!(dataplane.apply().await.unwrap().problems, []);
        assert!(!run("ip link").contains("calico"));
        assert_eq!(run("ip route show proto 80; ip -6 route show proto 80").lines().count(), 2, "the workload's own");
        assert_eq!(foreign(), before);
        // A name that somebody else has taken.
        run("ip link add vxlan.calico type veth peer name peer1");
        absorb(&mut dataplane, instructions(&A, &B));
        let report = dataplane.apply().await.unwrap();
        assert!(report.retry && report.problems.len() == 1, "{report:?}");
        assert!(report.problems[0].to_string().contains("of another kind"), "{report:?}");
        assert!(run("ip -d link show vxlan.calico").contains("veth"));
        run("ip link del vxlan.calico");
        let _ = tokio::time::timeout(PATIENCE, dataplane.next_event()).await.expect("the name is free");
        dataplane.distrust();
        assert_eq!(dataplane.apply().await.unwrap().problems, []);
        net.talks();
        calico_dataplane::purge(&By::current().options(), 2048).await.unwrap();
        assert!(!run("ip link").contains("calico"));
        assert_eq!(foreign(), before);
    });
}

#[test]
fn hosts_of_one_subnet_are_reached_directly() {
    on_a_host(|host| async move {
        let net = Overlay::build(&host);
        let mut dataplane = dataplane_of(&net.here).await;
        // The router is the other host of this subnet.
        let via = address(A.gateway[0]);
        let destination = B.block[0].parse().unwrap();
        let route = ClusterRoute::Direct { via, local: address(A.host[0]) };
        absorb(&mut dataplane, [Instruction::RouteUpdate { destination, route }]);
        assert_eq!(dataplane.apply().await.unwrap().problems, []);
        let routes = run("ip route show proto 80");
        assert!(routes.contains("10.65.0.32/27 via 198.51.100.254 dev eth0 metric 1024 onlink"), "{routes}");
        let lost = ClusterRoute::Direct { via, local: address("198.51.100.77") };
        absorb(&mut dataplane, [Instruction::RouteUpdate { destination, route: lost }]);
        let report = dataplane.apply().await.unwrap();
        assert!(report.problems.iter().any(|problem| problem.subject == "198.51.100.77"), "{report:?}");
        assert!(!run("ip route show proto 80").contains("10.65.0.32/27"));
        let _ = &net.other;
    });
}

#[test]
fn iptables_takes_vxlan_from_hosts_only() {
    by(By::IptablesNft, vxlan_is_taken_from_hosts_only);
}
