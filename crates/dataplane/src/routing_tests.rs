//! Routing decisions, without a kernel.

use super::*;

fn name(text: &str) -> IfName {
    IfName::new(text).expect("valid")
}

fn endpoint(interface: &str, addresses: &[&str]) -> Endpoint {
    Endpoint {
        interface: interface.to_owned(),
        mac: Some(calico_model::MacAddress([2, 0, 0, 0, 0, 1])),
        addresses: addresses.iter().map(|a| a.parse().expect("an address")).collect(),
        ..Endpoint::default()
    }
}

fn link(index: u32, text: &str, running: bool) -> LinkEvent {
    LinkEvent { index, name: Some(name(text)), running, gone: false }
}

/// Does all steps; what it did as text.
fn settle(routing: &mut Routing) -> Vec<String> {
    let mut done: Vec<String> = routing.moved().iter().map(|address| format!("clean {address}")).collect();
    routing.cleaned();
    for (neighbour, mac) in routing.neighbour_steps() {
        done.push(format!("{} {neighbour}", if mac.is_some() { "set" } else { "unset" }));
        routing.neighbour_done(&neighbour);
    }
    for (route, step) in routing.route_steps() {
        done.push(format!("{step:?} {route}"));
        routing.route_done(&route);
    }
    done
}

fn started() -> Routing {
    let mut routing = Routing::new(&Options::default());
    routing.read_back(Vec::new(), HashMap::new());
    routing
}

#[test]
fn a_route_needs_a_running_interface() {
    let mut routing = started();
    routing.attach(name("cali1"), Some(&endpoint("cali1", &["10.0.0.1", "fd00::1"])), &[]);
    assert!(settle(&mut routing).is_empty(), "no interface");
    assert!(routing.link_event(&link(5, "cali1", false)));
    assert!(settle(&mut routing).is_empty(), "not running");
    assert!(routing.link_event(&link(5, "cali1", true)));
    let done = settle(&mut routing);
    assert_eq!(
        done,
        [
            "set 10.0.0.1 interface 5",
            "set fd00::1 interface 5",
            "Create 10.0.0.1/32 metric 1024 interface 5",
            "Create fd00::1/128 metric 1024 interface 5"
        ]
    );
    assert!(routing.is_routed(&name("cali1")));
    assert!(!routing.link_event(&link(5, "cali1", true)), "no news");
    assert!(!routing.link_event(&link(9, "eth0", true)), "not a workload's");
}

#[test]
fn an_address_that_goes_is_cleaned_once() {
    let mut routing = started();
    routing.attach(name("cali1"), Some(&endpoint("cali1", &["10.0.0.1"])), &[]);
    routing.link_event(&link(5, "cali1", true));
    settle(&mut routing);
    routing.attach(name("cali1"), None, &[]);
    assert_eq!(
        settle(&mut routing),
        ["clean 10.0.0.1", "unset 10.0.0.1 interface 5", "Delete 10.0.0.1/32 metric 1024 interface 5"]
    );
    assert!(settle(&mut routing).is_empty());
}

#[test]
fn a_contested_address_goes_to_the_newest_interface_and_back() {
    let mut routing = started();
    for (index, interface) in [(5, "cali1"), (7, "cali2")] {
        routing.attach(name(interface), Some(&endpoint(interface, &["10.0.0.1"])), &[]);
        routing.link_event(&link(index, interface, true));
    }
    let done = settle(&mut routing);
    assert!(done.contains(&"Create 10.0.0.1/32 metric 1024 interface 7".to_owned()), "{done:?}");
    assert!(routing.problems()[0].to_string().contains("cali1, cali2; cali2 has it"));
    routing.link_event(&LinkEvent { index: 7, name: None, running: false, gone: true });
    let done = settle(&mut routing);
    assert!(done.contains(&"clean 10.0.0.1".to_owned()), "{done:?}");
    assert!(done.contains(&"Create 10.0.0.1/32 metric 1024 interface 5".to_owned()), "{done:?}");
    routing.attach(name("cali2"), None, &[]);
    assert!(routing.problems().is_empty());
}

#[test]
fn after_a_restart_nothing_is_done_where_all_is_as_wanted() {
    let mut routing = Routing::new(&Options::default());
    routing.read_links(&[Link { index: 5, name: name("cali1"), running: true }]);
    routing.attach(name("cali1"), Some(&endpoint("cali1", &["10.0.0.1"])), &[]);
    let address: IpAddr = "10.0.0.1".parse().expect("an address");
    let there = routing.route(address, 5);
    let neighbour = Neighbour { interface: 5, address };
    routing.read_back(vec![there], HashMap::from([(neighbour, [2, 0, 0, 0, 0, 1])]));
    assert!(settle(&mut routing).is_empty());
}

#[test]
fn after_a_restart_strange_routes_of_ours_go_and_unrouted_addresses_are_cleaned() {
    let mut routing = Routing::new(&Options::default());
    routing.read_links(&[Link { index: 5, name: name("cali1"), running: true }]);
    routing.attach(name("cali1"), Some(&endpoint("cali1", &["10.0.0.1"])), &[]);
    let blackhole = Route {
        destination: "10.0.0.0/26".parse().expect("a network"),
        metric: 0,
        interface: 0,
        plain: false,
        gateway: None,
        kind: 6,
    };
    let elsewhere = routing.route("10.0.0.9".parse().expect("an address"), 4);
    routing.read_back(vec![blackhole, elsewhere], HashMap::new());
    assert_eq!(
        settle(&mut routing),
        [
            "clean 10.0.0.1",
            "clean 10.0.0.9",
            "set 10.0.0.1 interface 5",
            "Delete 10.0.0.0/26 metric 0 interface 0",
            "Create 10.0.0.1/32 metric 1024 interface 5",
            "Delete 10.0.0.9/32 metric 1024 interface 4"
        ]
    );
}

#[test]
fn a_link_that_went_down_makes_its_routes_doubtful() {
    let mut routing = started();
    routing.attach(name("cali1"), Some(&endpoint("cali1", &["10.0.0.1"])), &[]);
    routing.link_event(&link(5, "cali1", true));
    settle(&mut routing);
    assert!(!routing.stale);
    routing.link_event(&link(5, "cali1", false));
    routing.link_event(&link(5, "cali1", true));
    assert!(routing.stale, "the kernel may have flushed them between the two events");
}

#[test]
fn a_renamed_interface_is_another() {
    let mut routing = started();
    routing.attach(name("cali1"), Some(&endpoint("cali1", &["10.0.0.1"])), &[]);
    routing.link_event(&link(5, "cali1", true));
    settle(&mut routing);
    routing.link_event(&link(5, "cali2", true));
    let done = settle(&mut routing);
    assert!(done.contains(&"Delete 10.0.0.1/32 metric 1024 interface 5".to_owned()), "{done:?}");
    assert_eq!(routing.interface(&name("cali2")).map(|(link, attached)| (link.index, attached)), Some((5, false)));
}

#[test]
fn addresses_that_no_workload_can_have_are_refused() {
    let mut routing = started();
    let bad = ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1"];
    routing.attach(name("cali1"), Some(&endpoint("cali1", &bad)), &[]);
    routing.link_event(&link(5, "cali1", true));
    assert!(settle(&mut routing).is_empty());
    assert_eq!(routing.problems().len(), bad.len());
    routing.attach(name("cali1"), None, &[]);
    assert!(routing.problems().is_empty());
}
