//! Whole configurations, as text to be reviewed: `tests/golden/*.cfg`. Each is given to BIRD's own checker.
//!
//! After a wanted change run with `BLESS=1` and review the difference.

#![allow(clippy::unwrap_used)]

use std::{fs, path::PathBuf};

use crate::common::{affinity, bird_accepts, decide, labelled, node, peer, pool, set, settings};
use calico_confd::Template;
use calico_model::KindName;
use serde_json::json;

/// Compares with the file, or writes it; and asks BIRD.
fn check(name: &str, events: Vec<calico_store::Event>, problems: &[&str]) {
    let decision = decide(events).unwrap();
    let text = Template::built_in().render(&decision.config).unwrap();
    bird_accepts(&text).unwrap_or_else(|refusal| panic!("{name}: BIRD refuses it: {refusal}\n{text}"));

    let found: Vec<String> = decision.problems.iter().map(ToString::to_string).collect();
    assert_eq!(found, problems, "{name}: problems");

    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden")).join(format!("{name}.cfg"));
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let wanted = fs::read_to_string(&path).unwrap_or_default();
    assert!(text == wanted, "{} differs from what is rendered now (BLESS=1 accepts it):\n{text}", path.display());
}

/// Two nodes as `calicoctl node` leaves them behind.
fn two_nodes() -> Vec<calico_store::Event> {
    vec![
        settings(json!({"logSeverityScreen": "Info", "nodeToNodeMeshEnabled": true, "asNumber": 64512})),
        node("host1", json!({"ipv4Address": "10.192.0.2/16", "ipv6Address": "fd00:192::2/64"})),
        node("host2", json!({"ipv4Address": "10.192.0.3/16", "ipv6Address": "fd00:192::3/64"})),
        pool("default-ipv4-ippool", "192.168.0.0/16"),
        pool("default-ipv6-ippool", "fd80:24e2:f998:72d6::/64"),
        affinity("192.168.17.64/26", "confirmed"),
        affinity("fd80:24e2:f998:72d6:1::40/122", "confirmed"),
    ]
}

#[test]
fn mesh_of_two() {
    check("mesh_of_two", two_nodes(), &[]);
}

#[test]
fn a_node_alone() {
    check("a_node_alone", vec![node("host1", json!({"ipv4Address": "10.192.0.2"}))], &[]);
}

#[test]
fn ipv6_only() {
    let events = vec![
        settings(json!({"listenPort": 1790, "logSeverityScreen": "Debug"})),
        node("host1", json!({"ipv6Address": "fd00:192::2/64", "asNumber": "4294.566"})),
        node("host2", json!({"ipv6Address": "fd00:192::1/64"})),
        node("host3", json!({"ipv4Address": "10.192.0.3/16"})),
        pool("p6", "fd00:244::/48"),
        affinity("fd00:244::40/122", ""),
    ];
    check("ipv6_only", events, &[]);
}

#[test]
fn peers_of_every_sort() {
    let mut events = two_nodes();
    events.extend([
        settings(json!({
            "asNumber": 64512,
            "bindMode": "NodeIP",
            "ignoredInterfaces": ["docker*", "br-0123456789ab"],
            "nodeMeshMaxRestartTime": "2m",
            "nodeMeshPassword": {"secretKeyRef": {"name": "tor", "key": "rack1"}},
            "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}, {"cidr": "fd00:96::/108"}],
        })),
        labelled(
            KindName::Node,
            "host4",
            json!({"rack": "1"}),
            json!({"bgp": {"ipv4Address": "10.192.0.5/16", "routeReflectorClusterID": "10.0.0.1"}}),
        ),
        set(KindName::BGPConfiguration, "node.host4", json!({"listenPort": 1179})),
        peer(
            "fabric",
            json!({"peerIP": "10.192.0.4", "asNumber": 65000, "ttlSecurity": 1, "keepOriginalNextHop": true,
            "password": {"secretKeyRef": {"name": "tor", "key": "rack1"}}}),
        ),
        peer(
            "fabric6",
            json!({"peerIP": "[fd00:192::4]:1791", "asNumber": 65000, "localASNumber": 64999,
            "keepaliveTime": "40s", "maxRestartTime": "0s", "numAllowedLocalASNumbers": 2, "nextHopMode": "Self"}),
        ),
        peer("here", json!({"node": "host1", "peerIP": "10.192.0.6", "asNumber": 64512, "sourceAddress": "None"})),
        peer("elsewhere", json!({"node": "host2", "peerIP": "10.192.0.7", "asNumber": 65000})),
        peer("reflectors", json!({"nodeSelector": "all()", "peerSelector": "has(rack)"})),
        peer("unreadable", json!({"peerIP": "10.192.0.8", "password": {"secretKeyRef": {"name": "tor", "key": "x"}}})),
        set(KindName::IPPool, "hidden", json!({"cidr": "10.50.0.0/16", "disableBGPExport": true})),
        set(KindName::IPPool, "tunnelled", json!({"cidr": "10.60.0.0/16", "vxlanMode": "Always"})),
        set(KindName::IPPool, "onlink", json!({"cidr": "10.192.128.0/17", "disabled": true})),
        affinity("10.60.3.7/32", "confirmed"),
        affinity("10.60.4.0/26", "pending"),
    ]);
    let services = "BGPConfiguration default: service ranges are for Kubernetes: without it there is no service to \
                    announce; what peers announce of them is passed on and stays out of the kernel";
    let problem = "BGPPeer unreadable: \"tor/x\" cannot be the name or key of a secret; its neighbours get no session";
    let bind = "BGPPeer here: sourceAddress None makes BIRD listen on all addresses, in spite of bindMode NodeIP";
    check("peers_of_every_sort", events, &[services, bind, problem]);
}

#[test]
fn filters_communities_gateways() {
    let mut events = two_nodes();
    let filter = |name: &str, spec| set(KindName::BGPFilter, name, spec);
    events.extend([
        settings(json!({
            "communities": [{"name": "gold", "value": "65000:1"}],
            "prefixAdvertisements": [
                {"cidr": "192.168.0.0/16", "communities": ["gold", "64512:50:5364"]},
                {"cidr": "fd80:24e2:f998:72d6::/64", "communities": ["65000:6"]},
            ],
        })),
        filter(
            "tor.in",
            json!({
                "importV4": [
                    {"action": "Reject", "cidr": "172.20.0.0/16", "matchOperator": "In", "prefixLength": {"min": 24}},
                    {"action": "Accept", "communities": {"values": ["65000:42"]}, "peerType": "eBGP",
                     "operations": [{"setPriority": {"value": 512}}]},
                    {"action": "Reject", "asPathPrefix": [65000, 65009]},
                ],
                "importV6": [{"action": "Accept", "cidr": "2001:db8::/32", "matchOperator": "In"}, {"action": "Reject"}],
            }),
        ),
        filter(
            "tor.out",
            json!({"exportV4": [{"action": "Accept", "source": "RemotePeers", "interface": "eth*",
                "operations": [{"prependASPath": {"prefix": [64512, 64513]}}, {"addCommunity": {"value": "64512:666"}}]}]}),
        ),
        filter("odd", json!({"exportV6": [{"action": "Accept", "colour": "blue"}]})),
        peer(
            "fabric",
            json!({"peerIP": "172.31.0.1", "asNumber": 65000, "filters": ["tor.in", "tor.out"], "reachableBy": "10.192.0.9"}),
        ),
        peer("fabric6", json!({"peerIP": "fd00:192::4", "asNumber": 64512, "filters": ["tor.in", "odd"],
            "reachableBy": "fd00:192::9"})),
    ]);
    let problem =
        "BGPFilter odd: exportV6[0]: \"colour\" is not known here; peers with this filter export no IPv6 routes";
    check("filters_communities_gateways", events, &[problem]);
}

#[test]
fn a_route_reflector() {
    let reflector = |address: &str, id: &str| json!({"bgp": {"ipv4Address": address, "routeReflectorClusterID": id}});
    let events = vec![
        labelled(KindName::Node, "host1", json!({"rr": "a"}), reflector("10.192.0.2/16", "10.0.0.1")),
        labelled(KindName::Node, "host2", json!({"rr": "a"}), reflector("10.192.0.3/16", "10.0.0.1")),
        labelled(KindName::Node, "host3", json!({"rr": "b"}), reflector("10.192.0.4/16", "10.0.0.2")),
        node("host4", json!({"ipv4Address": "10.192.0.5/16"})),
        node("host5", json!({"ipv4Address": "10.192.0.6/16", "asNumber": 64999})),
        peer("clients", json!({"peerSelector": "has(rr)"})),
        settings(json!({"logSeverityScreen": "Trace"})),
    ];
    check("a_route_reflector", events, &[]);
}

#[test]
fn bird_accepts_many_peers() {
    let mut events = two_nodes();
    for i in 0..1000 {
        let (high, low) = (i / 250, i % 250 + 1);
        let bgp = json!({"ipv4Address": format!("10.192.{}.{low}/16", 10 + high),
            "ipv6Address": format!("fd00:192::{:x}:{low:x}/64", 10 + high)});
        events.push(node(&format!("many{i}"), bgp));
    }
    let decision = decide(events).unwrap();
    assert_eq!(decision.config.families.each_ref().map(|family| family.peers.len()), [1001, 1001]);
    bird_accepts(&Template::built_in().render(&decision.config).unwrap()).unwrap();
}
