//! Addresses added to and removed from an attached interface.

use super::support::{Host, Namespace, attachment, block_on, docker_container};
use crate::{AttachError, add_address, attach, detach, remove_address};

#[test]
fn further_addresses_of_a_family_only_add_themselves() {
    let host = Host::new();
    let workload = docker_container(&host, 1);
    let wanted = attachment("cali1", "eth1", &["192.168.1.7"]);
    block_on(attach(&workload.at(), &wanted)).unwrap();
    host.route(&wanted);
    let routes = workload.run("ip -4 route");
    let address = "192.168.1.8".parse().unwrap();
    block_on(add_address(&workload.at(), "eth1", address, None)).unwrap();
    host.route_to(address, "cali1");
    assert_eq!(workload.run("ip -4 route"), routes);
    assert!(workload.pings("-I 192.168.1.8 10.5.0.1"), "{}", workload.state());

    // The first goes, the second stays and keeps the route.
    block_on(remove_address(&workload.at(), "eth1", "192.168.1.7".parse().unwrap())).unwrap();
    assert!(workload.pings("10.5.0.1"), "{}", workload.state());
}

#[test]
fn the_first_of_a_family_brings_its_route_and_the_last_takes_it_away() {
    let host = Host::new();
    let workload = docker_container(&host, 1);
    block_on(attach(&workload.at(), &attachment("cali1", "eth1", &[]))).unwrap();
    let empty = workload.state();
    for round in 0..2 {
        for (address, gateway, ping) in [("192.168.1.7", Some("10.5.0.1"), "10.5.0.1"), ("fd80::7", None, "fd05::1")] {
            let address = address.parse().unwrap();
            let gateway = gateway.map(|gateway| gateway.parse().unwrap());
            block_on(add_address(&workload.at(), "eth1", address, gateway)).unwrap();
            if round == 0 {
                host.route_to(address, "cali1");
            }
            assert!(workload.pings(ping), "{}", workload.state());
        }
        for address in ["192.168.1.7", "fd80::7"] {
            block_on(remove_address(&workload.at(), "eth1", address.parse().unwrap())).unwrap();
        }
        assert_eq!(workload.state(), empty, "round {round}");
    }
    block_on(detach("cali1")).unwrap();
    assert_eq!(workload.run("ip route show default").matches("metric").count(), 0);
}

#[test]
fn a_second_family_joins_an_attached_interface() {
    let host = Host::new();
    let workload = docker_container(&host, 1);
    let wanted = attachment("cali1", "eth1", &["192.168.1.7"]);
    block_on(attach(&workload.at(), &wanted)).unwrap();
    host.route(&wanted);
    let address = "fd80::7".parse().unwrap();
    block_on(add_address(&workload.at(), "eth1", address, None)).unwrap();
    host.route_to(address, "cali1");
    assert!(workload.pings("10.5.0.1") && workload.pings("fd05::1"), "{}", workload.state());
}

#[test]
fn what_is_refused_changes_nothing() {
    let host = Host::new();
    let workload = docker_container(&host, 1);
    let at = workload.at();
    block_on(attach(&at, &attachment("cali1", "eth1", &["192.168.1.7"]))).unwrap();
    // A pair between two workloads: the host is not its other end, though it has an interface of the same index.
    let elsewhere = Namespace::new();
    host.namespace.run(&format!(
        "nsenter --net=/proc/{}/ns/net ip link add eth5 type veth peer name eth5 netns {}",
        workload.pid(),
        elsewhere.pid()
    ));
    let before = (host.namespace.state(), workload.state());
    let add = |interface: &str, address: &str| {
        block_on(add_address(&at, interface, address.parse().unwrap(), None)).expect_err(address)
    };
    assert!(matches!(add("eth9", "192.168.1.8"), AttachError::NoInterface { .. }));
    assert!(matches!(add("eth1", "192.168.1.7"), AttachError::Address { .. }));
    assert!(matches!(add("eth1", "127.0.0.2"), AttachError::Address { .. }));
    assert!(matches!(add("eth5", "192.168.1.8"), AttachError::NotAttached { .. }));
    assert!(matches!(add("lo", "192.168.1.8"), AttachError::NotAttached { .. }));
    let other_family = block_on(add_address(&at, "eth1", "fd80::7".parse().unwrap(), Some([10, 5, 0, 1].into())));
    assert!(matches!(other_family, Err(AttachError::Gateway { .. })));
    let remove = |interface: &str, address: &str| {
        block_on(remove_address(&at, interface, address.parse().unwrap())).expect_err(address)
    };
    assert!(matches!(remove("eth1", "192.168.1.8"), AttachError::NoAddress { .. }));
    assert!(matches!(remove("eth9", "192.168.1.7"), AttachError::NoInterface { .. }));
    assert_eq!((host.namespace.state(), workload.state()), before);
}
