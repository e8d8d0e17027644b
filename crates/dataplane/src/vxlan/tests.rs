#![allow(clippy::unwrap_used)]
//! Which routes follow from what is known, without a kernel.

use calico_model::MacAddress;
use calico_policy::instruction::Endpoint;

use super::*;
use crate::{Options, tracker::Step};

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn tunnel() -> Tunnel {
    Tunnel {
        address: address("10.65.1.0"),
        mac: MacAddress([0x66, 0, 0, 0, 0, 1]),
        local: address("192.0.2.1"),
        port: 4789,
        vni: 4096,
        mtu: None,
    }
}

fn vtep(number: u8) -> Instruction {
    let vtep = Vtep {
        address: IpAddr::from([10, 65, number, 0]),
        mac: MacAddress([0x66, 0, 0, 0, 0, number]),
        host: IpAddr::from([192, 0, 2, number]),
    };
    Instruction::VtepUpdate { vtep }
}

fn route(destination: &str, route: ClusterRoute) -> Instruction {
    Instruction::RouteUpdate { destination: net(destination), route }
}

/// An overlay with a device of index 9 and the host's address on interface 2.
fn overlay(instructions: impl IntoIterator<Item = Instruction>) -> Overlay {
    let mut overlay = Overlay::new(1024);
    overlay.absorb(&Instruction::Tunnels(Tunnels { v4: Some(tunnel()), v6: None }));
    instructions.into_iter().for_each(|instruction| overlay.absorb(&instruction));
    overlay.devices = [Some(9), None];
    overlay.homes = [(address("192.0.2.1"), 2)].into();
    overlay
}

/// What routing is to do now, and does.
fn steps(overlay: &mut Overlay, routing: &mut Routing) -> Vec<String> {
    overlay.place(routing);
    routing.stale = false;
    let mut done = Vec::new();
    for (neighbour, mac) in routing.neighbour_steps() {
        done.push(format!("{} {neighbour}", if mac.is_some() { "set" } else { "unset" }));
        routing.neighbour_done(&neighbour);
    }
    // As the driver does it: what is not wanted goes first.
    let mut todo = routing.route_steps();
    todo.sort_by_key(|(_, step)| *step != Step::Delete);
    for (route, step) in todo {
        let kind = if route.kind == TYPE_BLACKHOLE { "blackhole " } else { "" };
        let word = if step == Step::Delete { "delete" } else { "add" };
        done.push(format!("{word} {kind}{route}"));
        routing.route_done(&route);
    }
    done
}

#[test]
fn each_kind_of_route() {
    let mut routing = Routing::new(&Options::default());
    let mut overlay = overlay([
        vtep(2),
        route("10.65.1.0/26", ClusterRoute::Unassigned),
        route("10.65.2.0/26", ClusterRoute::Tunnel { via: address("10.65.2.0") }),
        route("10.65.1.7/32", ClusterRoute::Tunnel { via: address("10.65.2.0") }),
        route("10.65.3.0/26", ClusterRoute::Direct { via: address("192.0.2.3"), local: address("192.0.2.1") }),
        // Not known (yet): no route.
        route("10.65.4.0/26", ClusterRoute::Tunnel { via: address("10.65.4.0") }),
        route("10.65.5.0/26", ClusterRoute::Direct { via: address("192.0.3.3"), local: address("192.0.3.1") }),
    ]);
    assert_eq!(
        steps(&mut overlay, &mut routing),
        [
            "set 10.65.2.0 interface 9",
            "add blackhole 10.65.1.0/26 metric 1024 interface 0",
            "add 10.65.1.7/32 metric 1024 interface 9 via 10.65.2.0",
            "add 10.65.2.0/26 metric 1024 interface 9 via 10.65.2.0",
            "add 10.65.3.0/26 metric 1024 interface 2 via 192.0.2.3",
        ]
    );
    assert_eq!(steps(&mut overlay, &mut routing), [""; 0]);
    overlay.absorb(&vtep(4));
    assert_eq!(
        steps(&mut overlay, &mut routing),
        ["set 10.65.4.0 interface 9", "add 10.65.4.0/26 metric 1024 interface 9 via 10.65.4.0",]
    );
    overlay.absorb(&Instruction::VtepRemove { address: address("10.65.2.0") });
    overlay.absorb(&Instruction::RouteRemove { destination: net("10.65.1.0/26") });
    assert_eq!(
        steps(&mut overlay, &mut routing),
        [
            "unset 10.65.2.0 interface 9",
            "delete blackhole 10.65.1.0/26 metric 1024 interface 0",
            "delete 10.65.1.7/32 metric 1024 interface 9 via 10.65.2.0",
            "delete 10.65.2.0/26 metric 1024 interface 9 via 10.65.2.0",
        ]
    );
}

#[test]
fn to_the_other_end_itself_there_is_no_hop() {
    let mut routing = Routing::new(&Options::default());
    let mut overlay = overlay([vtep(2), route("10.65.2.0/32", ClusterRoute::Tunnel { via: address("10.65.2.0") })]);
    assert_eq!(steps(&mut overlay, &mut routing)[1], "add 10.65.2.0/32 metric 1024 interface 9");
}

#[test]
fn another_device_means_other_routes() {
    let mut routing = Routing::new(&Options::default());
    let mut overlay = overlay([vtep(2), route("10.65.2.0/26", ClusterRoute::Tunnel { via: address("10.65.2.0") })]);
    steps(&mut overlay, &mut routing);
    overlay.devices = [Some(10), None];
    overlay.all = true;
    assert_eq!(
        steps(&mut overlay, &mut routing),
        [
            "unset 10.65.2.0 interface 9",
            "set 10.65.2.0 interface 10",
            "delete 10.65.2.0/26 metric 1024 interface 9 via 10.65.2.0",
            "add 10.65.2.0/26 metric 1024 interface 10 via 10.65.2.0",
        ]
    );
}

#[test]
fn a_workload_of_this_host_goes_before_the_route_to_its_former_host() {
    let mut routing = Routing::new(&Options::default());
    let cali1 = IfName::new("cali1").unwrap();
    let link = LinkEvent { index: 5, name: Some(cali1), running: true, gone: false };
    routing.link_event(&link);
    let mut overlay = overlay([vtep(2), route("10.65.1.7/32", ClusterRoute::Tunnel { via: address("10.65.2.0") })]);
    steps(&mut overlay, &mut routing);
    let endpoint =
        Endpoint { interface: "cali1".to_owned(), addresses: vec![address("10.65.1.7")], ..Endpoint::default() };
    routing.attach(cali1, Some(&endpoint), &[]);
    assert_eq!(
        steps(&mut overlay, &mut routing),
        ["delete 10.65.1.7/32 metric 1024 interface 9 via 10.65.2.0", "add 10.65.1.7/32 metric 1024 interface 5",]
    );
    routing.attach(cali1, None, &[]);
    assert_eq!(
        steps(&mut overlay, &mut routing).last().unwrap(),
        "add 10.65.1.7/32 metric 1024 interface 9 via 10.65.2.0"
    );
}

#[test]
fn only_what_is_not_as_wanted_is_a_disturbance() {
    let mut overlay = overlay([vtep(2)]);
    let host = Some(address("192.0.2.2"));
    let mac = Some([0x66, 0, 0, 0, 0, 2]);
    let forwarding = SeenEntry { interface: 9, forwarding: true, address: host, mac, plain: true, gone: false };
    let other = Some(address("192.0.2.9"));
    let stranger = Some([2, 0, 0, 0, 0, 9]);
    for (entry, matters) in [
        (forwarding.clone(), false),
        (SeenEntry { gone: true, ..forwarding.clone() }, true),
        (SeenEntry { address: other, ..forwarding.clone() }, true),
        (SeenEntry { plain: false, ..forwarding.clone() }, true),
        (SeenEntry { mac: stranger, ..forwarding.clone() }, true),
        (SeenEntry { mac: stranger, gone: true, ..forwarding.clone() }, false),
        (SeenEntry { interface: 3, gone: true, ..forwarding.clone() }, false),
    ] {
        assert_eq!(overlay.entry_event(&entry), matters, "{entry:?}");
    }
    let neighbour = SeenEntry { forwarding: false, address: Some(address("10.65.2.0")), ..forwarding };
    for (entry, matters) in [
        (neighbour.clone(), false),
        (SeenEntry { gone: true, ..neighbour.clone() }, true),
        (SeenEntry { mac: stranger, ..neighbour.clone() }, true),
        (SeenEntry { plain: false, ..neighbour.clone() }, true),
        (SeenEntry { address: other, ..neighbour.clone() }, true),
        (SeenEntry { address: other, plain: false, mac: None, ..neighbour.clone() }, false),
    ] {
        assert_eq!(overlay.entry_event(&entry), matters, "{entry:?}");
    }
}
