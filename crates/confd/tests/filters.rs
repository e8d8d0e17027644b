//! Filters, priorities, gateways and settings around them: from records to a configuration, without I/O.

#![allow(clippy::unwrap_used)]

mod common;

use calico_confd::Template;
use calico_model::KindName;
use calico_store::Event;
use common::{Known, config, filter, node, peer, problems, remove, settings, state, with};
use serde_json::json;

/// What the filters of the only IPv4 peer do: calls of import and export, or `closed`.
fn screens(events: Vec<Event>) -> [String; 2] {
    let peer = config(events).families[0].peers[0].clone();
    [peer.import, peer.export].map(|screen| if screen.closed { "closed".into() } else { screen.calls.join(" ") })
}

#[test]
fn filters_of_a_peer_in_its_order_and_only_where_they_have_rules() {
    let tor = |filters| peer("tor", json!({"peerIP": "10.192.0.9", "asNumber": 65000, "filters": filters}));
    let events = |filters| {
        with([
            filter("b", json!({"importV4": [{"action": "Reject"}], "exportV6": [{"action": "Accept"}]})),
            filter("a", json!({"importV4": [{"action": "Accept"}], "exportV4": [{"action": "Accept"}]})),
            filter("unused", json!({"importV4": [{"action": "?"}]})),
            tor(filters),
        ])
    };
    assert_eq!(screens(events(json!(["b", "a"]))), ["filter_b_import4 filter_a_import4", "filter_a_export4"]);
    assert_eq!(screens(events(json!([]))), ["", ""]);
    let functions = config(events(json!(["b"]))).families.map(|family| family.functions.len());
    assert_eq!(functions, [1, 0], "those that are called");
    assert_eq!(problems(events(json!(["b", "a"]))), [""; 0]);
}

#[test]
fn a_filter_that_cannot_be_followed_lets_nothing_through_in_its_direction() {
    let tor = || peer("tor", json!({"peerIP": "10.192.0.9", "asNumber": 65000, "filters": ["f"]}));
    for (spec, closed) in [
        (None, ["closed", "closed"]),
        (Some(json!({"importV4": [{"action": "Accept"}, {"action": "Perhaps"}]})), ["closed", ""]),
        (
            Some(json!({"exportV4": [{"action": "Accept", "cidr": "10.0.0.1/8", "matchOperator": "In"}]})),
            ["", "closed"],
        ),
        (Some(json!({"exportV6": [{"action": "Accept", "colour": "blue"}]})), ["", ""]),
        (Some(json!({"importV5": [{"action": "Accept"}]})), ["closed", "closed"]),
    ] {
        let events = || with([tor()].into_iter().chain(spec.clone().map(|spec| filter("f", spec))));
        assert_eq!(screens(events()), closed, "{spec:?}");
        let found = problems(events());
        assert_eq!(found.is_empty(), closed == ["", ""], "{found:?}");
        assert!(found.iter().all(|problem| problem.starts_with("BGPFilter f: ")), "{found:?}");
        let text = Template::built_in().render(&config(events())).unwrap();
        for (direction, wanted) in ["import", "export"].iter().zip(closed) {
            assert_eq!(text.contains(&format!("    {direction} none;")), wanted == "closed", "{spec:?}\n{text}");
        }
    }
    let mut state = state(with([tor(), filter("f", json!({"importV4": [{"action": "Reject"}]}))]));
    assert!(state.absorb(remove(KindName::BGPFilter, "f")), "its removal closes the peer again");
    assert!(state.decide(&Known::default()).unwrap().config.families[0].peers[0].import.closed);
}

/// Whether a peer is in this node's AS depends on the number that this node shows it.
#[test]
fn inside_or_outside_of_the_as() {
    for (spec, internal) in [
        (json!({"asNumber": 64512}), true),
        (json!({"asNumber": 65000}), false),
        (json!({"asNumber": 65000, "localASNumber": 65000}), true),
        (json!({"asNumber": 64512, "localASNumber": 65000}), false),
    ] {
        let mut whole = json!({"peerIP": "10.192.0.9"});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        assert_eq!(config(with([peer("p", whole)])).families[0].peers[0].internal, internal, "{spec}");
    }
    let mesh = with([node("host2", json!({"ipv4Address": "10.192.0.6/16", "asNumber": 65001}))]);
    assert!(!config(mesh).families[0].peers[0].internal);
}

#[test]
fn priorities_are_told_by_all_nodes_once_any_filter_speaks_of_them() {
    let preference = |spec| config(with([filter("elsewhere", spec)])).normal_preference;
    assert_eq!(preference(json!({"importV4": [{"action": "Accept"}]})), None);
    assert_eq!(preference(json!({"importV6": [{"action": "Accept", "priority": 512}]})), Some(2_147_482_623));
    let set = json!([{"setPriority": {"value": 512}}]);
    assert_eq!(preference(json!({"exportV4": [{"action": "Accept", "operations": set}]})), Some(2_147_482_623));
}

#[test]
fn one_gateway_to_each_neighbour() {
    let via = |name: &str, ip: &str, gateway: &str| {
        peer(name, json!({"peerIP": ip, "asNumber": 65000, "reachableBy": gateway}))
    };
    let events = with([
        via("a", "172.20.0.1", "10.192.0.1"),
        via("b", "172.20.0.1:1790", "10.192.0.2"),
        via("c", "172.20.0.2", "10.192.0.1"),
    ]);
    let gateways = config(events).families[0].gateways.clone();
    let shown: Vec<String> = gateways.iter().map(|g| format!("{} {}", g.peer, g.gateway)).collect();
    assert_eq!(shown, ["172.20.0.1/32 10.192.0.1", "172.20.0.2/32 10.192.0.1"]);
}

#[test]
fn settings_that_are_not_followed_are_said() {
    for (spec, word) in [
        (json!({"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}]}), Some("Kubernetes")),
        (json!({"programClusterRoutes": "Disabled"}), Some("programClusterRoutes")),
        (json!({"programClusterRoutes": "EnabledNoEncapOnly", "ipv4NormalRoutePriority": 1024}), None),
        (json!({"ipv6NormalRoutePriority": 512}), Some("ipv6NormalRoutePriority")),
        (json!({"localWorkloadPeeringIPV4": "10.0.0.1"}), Some("localWorkloadPeeringIPV4")),
        (json!({"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["gold"]}]}), Some("gold")),
    ] {
        let found = problems(with([settings(spec.clone())]));
        assert_eq!(found.len(), usize::from(word.is_some()), "{spec}: {found:?}");
        assert!(word.is_none_or(|word| found[0].contains(word)), "{spec}: {found:?}");
    }
}
