//! From records of the datastore to a configuration, without I/O.

#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr};

use crate::common::{
    Known, NODE, affinity, affinity_key, bird_accepts, config, decide, filter, labelled, node, peer, pool, problems,
    remove, set, settings, state, with,
};
use calico_confd::{NextHop, PeerKind, State, Template, Waiting};
use calico_model::{DecodeError, KindName, ResourceKey};
use calico_store::{Event, KvEvent};
use proptest::prelude::*;
use serde_json::json;

/// The IPv4 sessions by name.
fn sessions(events: Vec<Event>) -> Vec<String> {
    config(events).families[0].peers.iter().map(|peer| peer.name.clone()).collect()
}

fn nets(texts: &[&str]) -> Vec<ipnet::IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn nothing_before_the_snapshot_and_without_this_node() {
    let secrets = Known::default();
    let mut state = State::new(NODE);
    state.absorb(node(NODE, json!({"ipv4Address": "10.192.0.2/16"})));
    assert_eq!(state.decide(&secrets), Err(Waiting::Snapshot));
    assert!(state.absorb(Event::InSync) && state.decide(&secrets).is_ok());
    assert!(state.absorb(remove(KindName::Node, NODE)));
    assert_eq!(state.decide(&secrets), Err(Waiting::Node(NODE.into())));
    for without in
        [json!({"asNumber": 64512}), json!({"ipv4Address": "10.192.0.2/33"}), json!({"ipv4Address": "127.0.0.1/8"})]
    {
        assert_eq!(decide(vec![node(NODE, without)]), Err(Waiting::Address(NODE.into())));
    }
}

#[test]
fn repeated_events_change_nothing() {
    let all = || {
        with([
            node("host2", json!({"ipv4Address": "10.192.0.6/16"})),
            settings(json!({"asNumber": 64600})),
            peer("tor", json!({"peerIP": "10.192.0.9", "asNumber": 65000})),
            pool("p", "10.244.0.0/16"),
            affinity("10.244.1.0/26", "confirmed"),
        ])
    };
    let mut state = state(all());
    for event in all() {
        assert!(!state.absorb(event));
    }
    assert!(!state.absorb(Event::Lost { cause: "gone".into() }));
    assert_eq!(state.lost(), Some("gone"));
    assert!(!state.absorb(Event::Back));
    assert_eq!(state.lost(), None);
}

#[test]
fn a_lost_datastore_changes_nothing() {
    let mut state = state(with([affinity("10.244.1.0/26", "confirmed")]));
    let before = state.decide(&Known::default());
    state.absorb(Event::Lost { cause: "gone".into() });
    assert_eq!(state.decide(&Known::default()), before);
}

#[test]
fn only_confirmed_blocks_are_own() {
    let blocks = |events| config(with(events)).families[0].blocks.clone();
    assert_eq!(
        blocks(vec![affinity("10.244.1.0/26", "confirmed"), affinity("10.244.2.0/26", "")]),
        nets(&["10.244.1.0/26", "10.244.2.0/26"])
    );
    assert_eq!(blocks(vec![affinity("10.244.1.0/26", "pending"), affinity("10.244.2.0/26", "pendingDeletion")]), []);
    assert_eq!(blocks(vec![affinity("10.244.1.0/26", "confirmed"), affinity("10.244.1.0/26", "pendingDeletion")]), []);
    let gone = Event::Raw(KvEvent::Delete { key: affinity_key("10.244.1.0/26"), revision: Default::default() });
    assert_eq!(blocks(vec![affinity("10.244.1.0/26", "confirmed"), gone]), []);
}

#[test]
fn unreadable_records_are_skipped_and_said() {
    let key = ResourceKey::new(KindName::IPPool, None, "p");
    let broken = || {
        let source = serde_json::from_str::<u8>("{").unwrap_err();
        Event::Unreadable(DecodeError::Json { key: key.clone(), source, resource: None })
    };
    let found = problems(with([broken(), affinity("10.0.0.0/8", "confirmed")]));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with(&affinity_key("10.0.0.0/8")), "{found:?}");
    assert!(found[1].starts_with(&key.to_string()) && found[1].contains("skipped"), "{found:?}");
    assert_eq!(problems(with([broken(), pool("p", "10.244.0.0/16")])), [""; 0], "healed");
    assert_eq!(problems(with([broken(), remove(KindName::IPPool, "p")])), [""; 0], "removed");
}

#[test]
fn pools_by_what_is_asked() {
    let config = config(with([
        pool("a", "10.244.0.0/16"),
        set(KindName::IPPool, "b", json!({"cidr": "10.50.0.0/16", "disableBGPExport": true})),
        set(KindName::IPPool, "c", json!({"cidr": "10.60.0.0/16", "vxlanMode": "CrossSubnet"})),
        set(KindName::IPPool, "d", json!({"cidr": "10.70.0.0/16", "ipipMode": "Always", "vxlanMode": "Never"})),
        set(KindName::IPPool, "e", json!({"cidr": "10.80.0.0/16", "disabled": true})),
        set(KindName::IPPool, "f", json!({"cidr": "fd00:244::/48"})),
    ]));
    let [v4, v6] = config.families;
    assert_eq!(v4.pools, nets(&["10.60.0.0/16", "10.70.0.0/16", "10.80.0.0/16", "10.244.0.0/16"]));
    assert_eq!(v4.no_export, nets(&["10.50.0.0/16"]));
    assert_eq!(v4.encapsulated, nets(&["10.60.0.0/16", "10.70.0.0/16"]));
    assert_eq!((v6.pools, v6.peers, v6.address), (nets(&["fd00:244::/48"]), vec![], None));
}

#[test]
fn pools_and_the_nodes_own_subnet() {
    let inside = with([pool("p", "10.192.64.0/18")]);
    assert_eq!(config(inside).families[0].onlink_pools, nets(&["10.192.64.0/18"]));
    for covering in ["10.192.0.0/16", "10.0.0.0/8"] {
        let events = || with([pool("p", covering)]);
        assert_eq!(config(events()).families[0].onlink_pools, [], "peers must not take over the hosts' subnet");
        assert!(problems(events())[0].starts_with("pool p: "), "{covering}");
    }
}

#[test]
fn router_ids() {
    assert_eq!(config(with([])).router_id, Ipv4Addr::new(10, 192, 0, 5));
    let only6 = |name: &str| {
        let mut state = State::new(name);
        state.absorb(node(name, json!({"ipv6Address": "fd00:192::2/64"})));
        state.absorb(Event::InSync);
        state.decide(&Known::default()).unwrap().config.router_id
    };
    assert_eq!(only6("host1"), only6("host1"));
    assert_ne!(only6("host1"), only6("host2"));
}

#[test]
fn as_numbers() {
    let other = || node("host2", json!({"ipv4Address": "10.192.0.6/16"}));
    let numbers = |events| {
        let config = config(events);
        (config.local_as, config.families[0].peers[0].as_number)
    };
    assert_eq!(numbers(with([other()])), (64512, 64512));
    assert_eq!(numbers(with([other(), settings(json!({"asNumber": 64600}))])), (64600, 64600));
    let own = node(NODE, json!({"ipv4Address": "10.192.0.5/16", "asNumber": "4294.566"}));
    assert_eq!(numbers(vec![own, other()]), (4294 * 65536 + 566, 64512));
    let theirs = node("host2", json!({"ipv4Address": "10.192.0.6/16", "asNumber": 65001}));
    assert_eq!(numbers(with([theirs, settings(json!({"asNumber": 0}))])), (64512, 65001));
}

#[test]
fn the_mesh() {
    let others = || {
        [node("host2", json!({"ipv4Address": "10.192.0.6/16"})), node("host0", json!({"ipv4Address": "10.192.0.4"}))]
    };
    assert_eq!(sessions(with(others())), ["Mesh_10_192_0_4", "Mesh_10_192_0_6"]);
    let mut off = with(others());
    off.push(settings(json!({"nodeToNodeMeshEnabled": false})));
    assert_eq!(sessions(off), [""; 0]);
    let reflector = node("host2", json!({"ipv4Address": "10.192.0.6/16", "routeReflectorClusterID": "1.0.0.1"}));
    assert_eq!(sessions(with([reflector])), [""; 0], "reflectors take no part");
    let without = set(KindName::Node, "host2", json!({}));
    assert_eq!(sessions(with([without])), [""; 0]);
    assert_eq!(sessions(with([node("host2", json!({"ipv6Address": "fd00::2/64"}))])), [""; 0], "no common family");
}

/// Two passive ends would never meet, two active ones would collide.
#[test]
fn exactly_one_end_of_a_mesh_pair_waits() {
    let addresses = ["10.192.0.2", "10.192.0.10", "10.192.1.1", "9.255.255.255"];
    let addresses6 = ["fd00::2", "fd00::10", "fd00:0:1::1", "fc00:ffff::1"];
    let seen_from = |me: usize| {
        let mut state = State::new(format!("n{me}"));
        for (at, (v4, v6)) in addresses.iter().zip(addresses6).enumerate() {
            state.absorb(node(&format!("n{at}"), json!({"ipv4Address": v4, "ipv6Address": v6})));
        }
        state.absorb(Event::InSync);
        state.decide(&Known::default()).unwrap().config.families
    };
    let waits = |me: usize, other: &str, family: usize| {
        let other: IpAddr = other.parse().unwrap();
        seen_from(me)[family].peers.iter().find(|peer| peer.address == other).unwrap().passive
    };
    for (family, list) in [addresses, addresses6].iter().enumerate() {
        for a in 0..4 {
            for b in 0..a {
                assert_ne!(waits(a, list[b], family), waits(b, list[a], family), "{} and {}", list[a], list[b]);
            }
        }
    }
}

#[test]
fn two_nodes_with_one_address() {
    let same = |name: &str| node(name, json!({"ipv4Address": "10.192.0.6/16"}));
    let events = || with([same("host3"), same("host2")]);
    assert_eq!(sessions(events()), ["Mesh_10_192_0_6"]);
    assert_eq!(config(events()).families[0].peers[0].description, "node host2", "the first by name");
    assert_eq!(problems(events()), ["node host3: has the address 10.192.0.6 of node host2, which is kept"]);
    let mine = || with([node("host2", json!({"ipv4Address": "10.192.0.5/24"}))]);
    assert_eq!(sessions(mine()), [""; 0]);
    assert_eq!(problems(mine()), ["node host2: has the address 10.192.0.5 of this node; no session with it"]);
}

#[test]
fn peers_of_all_of_one_and_of_some() {
    let tor = |spec: serde_json::Value| {
        let mut whole = json!({"peerIP": "10.192.0.9", "asNumber": 65000});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        peer("tor", whole)
    };
    assert_eq!(sessions(with([tor(json!({}))])), ["Global_10_192_0_9"]);
    assert_eq!(sessions(with([tor(json!({"node": NODE}))])), ["Node_10_192_0_9"]);
    assert_eq!(sessions(with([tor(json!({"node": "host2"}))])), [""; 0]);
    let me = || labelled(KindName::Node, NODE, json!({"rack": "1"}), json!({"bgp": {"ipv4Address": "10.192.0.5/16"}}));
    assert_eq!(sessions(vec![me(), tor(json!({"nodeSelector": "rack == '1'"}))]), ["Node_10_192_0_9"]);
    assert_eq!(sessions(vec![me(), tor(json!({"nodeSelector": "rack == '2'"}))]), [""; 0]);
    assert_eq!(sessions(with([tor(json!({"peerIP": "10.192.0.9:1790"}))])), ["Global_10_192_0_9_port_1790"]);
    assert_eq!(sessions(with([tor(json!({"peerIP": "10.192.0.9:179"}))])), ["Global_10_192_0_9"]);
    assert_eq!(sessions(with([tor(json!({"peerIP": "fd00::9"}))])), [""; 0], "this node has no IPv6");
    assert_eq!(sessions(with([tor(json!({"peerIP": "10.192.0.5"}))])), ["Global_10_192_0_5"], "this node itself");
}

#[test]
fn peers_by_selector_of_nodes() {
    let labelled = |name: &str, last: u8, labels| {
        labelled(KindName::Node, name, labels, json!({"bgp": {"ipv4Address": format!("10.192.0.{last}/16")}}))
    };
    let nodes = || {
        vec![
            settings(json!({"nodeToNodeMeshEnabled": false})),
            labelled(NODE, 5, json!({"role": "leaf"})),
            labelled("host2", 6, json!({"role": "spine"})),
            labelled("host3", 7, json!({"role": "leaf"})),
        ]
    };
    let after = |spec| sessions(nodes().into_iter().chain([peer("p", spec)]).collect());
    assert_eq!(after(json!({"peerSelector": "role == 'spine'"})), ["Global_10_192_0_6"]);
    assert_eq!(after(json!({"peerSelector": "all()"})), ["Global_10_192_0_6", "Global_10_192_0_7"], "never itself");
    assert_eq!(
        after(json!({"nodeSelector": "role == 'leaf'", "peerSelector": "role == 'spine'"})),
        ["Node_10_192_0_6"]
    );
    // This node is what the others select: it peers back, unless that is to be done by hand.
    assert_eq!(
        after(json!({"nodeSelector": "role == 'spine'", "peerSelector": "role == 'leaf'"})),
        ["Node_10_192_0_6"]
    );
    let manual =
        json!({"nodeSelector": "role == 'spine'", "peerSelector": "role == 'leaf'", "reversePeering": "Manual"});
    assert_eq!(after(manual), [""; 0]);
    assert_eq!(after(json!({"node": "host2", "peerSelector": "role == 'leaf'"})), ["Node_10_192_0_6"]);
}

#[test]
fn one_session_per_neighbour_the_most_specific() {
    let host2 = || node("host2", json!({"ipv4Address": "10.192.0.6/16"}));
    let global = || peer("a", json!({"peerIP": "10.192.0.6", "asNumber": 64512}));
    let own = || peer("b", json!({"node": NODE, "peerIP": "10.192.0.6", "asNumber": 64512}));
    assert_eq!(sessions(with([host2(), global()])), ["Global_10_192_0_6"]);
    assert_eq!(sessions(with([host2(), global(), own()])), ["Node_10_192_0_6"]);
    let twice = || with([global(), peer("z", json!({"peerIP": "10.192.0.6", "asNumber": 65000}))]);
    assert_eq!(config(twice()).families[0].peers[0].as_number, 64512, "the first by name");
    assert_eq!(problems(twice()), ["BGPPeer z: names the address 10.192.0.6 of BGPPeer a, which is kept"]);
}

/// A plainer session than was asked for would be a more open one.
#[test]
fn a_peer_that_cannot_be_had_as_asked_gets_no_session() {
    let host2 = || node("host2", json!({"ipv4Address": "10.192.0.6/16"}));
    for option in [
        json!({"password": {"secretKeyRef": {"name": "tor", "key": "missing"}}}),
        json!({"password": {}}),
        json!({"colour": "blue"}),
        json!({"localWorkloadSelector": "all()"}),
        json!({"nextHopMode": "Sideways"}),
        json!({"ttlSecurity": 999}),
    ] {
        let mut spec = json!({"peerIP": "10.192.0.6", "asNumber": 64512});
        spec.as_object_mut().unwrap().extend(option.as_object().unwrap().clone());
        let events = || with([host2(), peer("p", spec.clone())]);
        assert_eq!(sessions(events()), [""; 0], "{option}: not even the mesh's");
        let found = problems(events());
        assert!(found.len() == 1 && found[0].starts_with("BGPPeer p: "), "{option}: {found:?}");
    }
    let readable = json!({"peerIP": "10.192.0.6", "asNumber": 64512, "password": {"secretKeyRef": {"name": "tor", "key": "rack1"}}});
    assert!(config(with([peer("p", readable)])).families[0].peers[0].password.is_some());
}

#[test]
fn a_mesh_with_a_password_that_is_missing_has_no_sessions() {
    let reference = |key: &str| settings(json!({"nodeMeshPassword": {"secretKeyRef": {"name": "tor", "key": key}}}));
    let host2 = || node("host2", json!({"ipv4Address": "10.192.0.6/16"}));
    assert_eq!(sessions(with([host2(), reference("missing")])), [""; 0]);
    assert_eq!(problems(with([host2(), reference("missing")])).len(), 1);
    assert!(config(with([host2(), reference("rack1")])).families[0].peers[0].password.is_some());
}

#[test]
fn peers_that_make_no_sense_cost_only_themselves() {
    let good = || peer("good", json!({"peerIP": "10.192.0.9", "asNumber": 65000}));
    for bad in [
        json!({}),
        json!({"peerIP": "host2", "asNumber": 65000}),
        json!({"peerIP": "0.0.0.0", "asNumber": 65000}),
        json!({"peerIP": "224.0.0.5", "asNumber": 65000}),
        json!({"peerIP": "127.0.0.1", "asNumber": 65000}),
        json!({"peerIP": "fe80::1", "asNumber": 65000}),
        json!({"peerIP": "10.192.0.9:0", "asNumber": 65000}),
        json!({"peerIP": "10.192.0.9;", "asNumber": 65000}),
        json!({"peerIP": "10.192.0.8", "node": NODE, "nodeSelector": "all()"}),
        json!({"peerIP": "10.192.0.8", "nodeSelector": "a =="}),
        json!({"peerIP": "10.192.0.8", "nodeSelector": "  "}),
        json!({"peerSelector": "a =="}),
        json!({"localWorkloadSelector": "all()", "asNumber": 64999}),
    ] {
        let events = || with([good(), peer("bad", bad.clone())]);
        assert_eq!(sessions(events()), ["Global_10_192_0_9"], "{bad}");
        let found = problems(events());
        assert!(found.len() == 1 && found[0].starts_with("BGPPeer bad: "), "{bad}: {found:?}");
    }
}

#[test]
fn options_at_their_limits_are_accepted_by_bird() {
    for (option, fine) in [
        (json!({"asNumber": 0}), true),
        (json!({"asNumber": u32::MAX}), true),
        (json!({"localASNumber": 0}), true),
        (json!({"ttlSecurity": 0}), true),
        (json!({"ttlSecurity": 255}), true),
        (json!({"keepaliveTime": "0s"}), false),
        (json!({"keepaliveTime": "6h4m5s"}), true),
        (json!({"keepaliveTime": "7h"}), false),
        (json!({"maxRestartTime": "4095s"}), true),
        (json!({"maxRestartTime": "4096s"}), false),
        (json!({"maxRestartTime": "soon"}), false),
        (json!({"numAllowedLocalASNumbers": 10}), true),
        (json!({"reachableBy": "10.192.0.1"}), true),
        (json!({"reachableBy": "fd00::1"}), false),
        (json!({"reachableBy": "gateway"}), false),
        (json!({"reachableBy": ""}), true),
        (json!({"failureDetectionMode": "None"}), true),
        (json!({"failureDetectionMode": "BFDIfDirectlyConnected"}), false),
        (json!({"reversePeering": "Auto", "localWorkloadSelector": ""}), true),
        (json!({"keepOriginalNextHop": true}), true),
    ] {
        let mut spec = json!({"peerIP": "10.192.0.9", "asNumber": 65000});
        spec.as_object_mut().unwrap().extend(option.as_object().unwrap().clone());
        let events = || with([peer("p", spec.clone())]);
        assert_eq!(sessions(events()), ["Global_10_192_0_9"], "{option}");
        assert_eq!(problems(events()).is_empty(), fine, "{option}: {:?}", problems(events()));
    }
    let keep = config(with([peer("p", json!({"peerIP": "10.192.0.9", "keepOriginalNextHop": true}))]));
    assert_eq!((keep.families[0].peers[0].next_hop, keep.families[0].peers[0].kind), (NextHop::Keep, PeerKind::Global));
}

#[test]
fn settings_of_the_node_win() {
    let events = || {
        with([
            settings(json!({"listenPort": 1790, "logSeverityScreen": "Error", "ignoredInterfaces": ["docker*"]})),
            set(
                KindName::BGPConfiguration,
                "node.host1",
                json!({"listenPort": 1179, "logSeverityScreen": "debug", "ignoredInterfaces": ["a\"b", "eth1"]}),
            ),
            set(KindName::BGPConfiguration, "node.host2", json!({"listenPort": 179})),
            node("host2", json!({"ipv4Address": "10.192.0.6/16"})),
            node("host3", json!({"ipv4Address": "10.192.0.7/16"})),
        ])
    };
    let config = config(events());
    assert_eq!((config.listen_port, config.ignored_interfaces), (Some(1179), vec!["eth1".to_owned()]));
    assert_eq!(format!("{:?}", config.verbosity), "Debug");
    let ports: Vec<Option<u16>> = config.families[0].peers.iter().map(|peer| peer.port).collect();
    assert_eq!(ports, [None, Some(1790)], "each neighbour where it listens");
    assert_eq!(problems(events()).len(), 1, "the pattern that could end a string");
}

#[test]
fn names_of_others_cannot_become_configuration() {
    let evil = "x\"; }\nprotocol static evil { ipv4; route 0.0.0.0/0 blackhole; }\n#";
    let mut state = State::new(evil);
    for event in [
        node(evil, json!({"ipv4Address": "10.192.0.5/16"})),
        node("y\"; }\nbug", json!({"ipv4Address": "10.192.0.6/16"})),
        peer("z\"; }\nbug", json!({"peerIP": "10.192.0.7"})),
        settings(json!({"logSeverityScreen": "all\"; }\nbug", "ignoredInterfaces": ["\"; }\nbug"]})),
        Event::InSync,
    ] {
        state.absorb(event);
    }
    let text = Template::built_in().render(&state.decide(&Known::default()).unwrap().config).unwrap();
    bird_accepts(&text).unwrap();
    let statements = text.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(statements.filter(|line| line.contains("evil")).count(), 0, "{text}");
    assert!(!text.lines().any(|line| line.starts_with("bug")), "{text}");
}

/// Records for the property tests: more than one of every kind, some in each other's way.
fn records() -> Vec<Event> {
    let mut events = with([
        settings(json!({"asNumber": 64600, "serviceClusterIPs": [{"cidr": "10.96.0.0/12"}, {"cidr": "x"}]})),
        set(KindName::BGPConfiguration, "node.host2", json!({"listenPort": 1179})),
        pool("a", "10.244.0.0/16"),
        pool("b", "fd00:244::/48"),
        set(KindName::IPPool, "c", json!({"cidr": "10.50.0.0/16", "disableBGPExport": true})),
        peer("p1", json!({"peerIP": "10.192.0.7", "asNumber": 65000})),
        peer("p2", json!({"peerIP": "10.192.0.7", "asNumber": 65001})),
        peer("p3", json!({"nodeSelector": "all()", "peerSelector": "has(rack)"})),
        peer("p4", json!({"peerIP": "bad"})),
        peer(
            "p5",
            json!({"peerIP": "172.20.0.1", "asNumber": 65000, "filters": ["f2", "f1"], "reachableBy": "10.192.0.1"}),
        ),
        filter("f1", json!({"importV4": [{"action": "Accept", "priority": 3}]})),
        filter(
            "f2",
            json!({"importV4": [{"action": "Reject", "cidr": "10.0.0.0/8", "matchOperator": "In"}], "exportV4": [{}]}),
        ),
        labelled(KindName::Node, "host9", json!({"rack": "1"}), json!({"bgp": {"ipv4Address": "10.192.0.9"}})),
    ]);
    for at in 2..6 {
        events.push(node(&format!("host{at}"), json!({"ipv4Address": format!("10.192.0.{}/16", at % 4 + 6)})));
        events.push(affinity(&format!("10.244.{at}.64/26"), "confirmed"));
        events.push(affinity(&format!("fd00:244::{at}40/122"), "confirmed"));
    }
    events
}

proptest! {
    #[test]
    fn equal_facts_give_equal_bytes_in_any_order(order in Just((0..records().len()).collect::<Vec<_>>()).prop_shuffle()) {
        let mut slots: Vec<Option<Event>> = records().into_iter().map(Some).collect();
        let shuffled = order.into_iter().map(|at| slots[at].take().unwrap()).collect();
        let (wanted, found) = (decide(records()).unwrap(), decide(shuffled).unwrap());
        let template = Template::built_in();
        prop_assert_eq!(template.render(&wanted.config).unwrap(), template.render(&found.config).unwrap());
        prop_assert_eq!(wanted.problems, found.problems);
    }
}

/// A node that joins adds its own session and touches no other line.
#[test]
fn a_joining_node_only_adds_lines() {
    let render = |events| Template::built_in().render(&decide(events).unwrap().config).unwrap();
    let base = || with([node("host2", json!({"ipv4Address": "10.192.0.6/16"})), pool("p", "10.244.0.0/16")]);
    let before = render(base());
    let after = render(base().into_iter().chain([node("host3", json!({"ipv4Address": "10.192.0.7/16"}))]).collect());
    let old: Vec<&str> = before.lines().collect();
    let mut rest = after.lines();
    assert!(old.iter().all(|line| rest.any(|other| other == *line)), "a line of the old text is missing or moved");
    assert_eq!(after.lines().count(), old.len() + 5);
}

#[test]
fn what_a_syncer_must_follow() {
    let prefixes = State::prefixes("host1");
    assert!(prefixes.contains(&"/calico/ipam/v2/host/host1/".to_owned()));
    for kind in ["bgpconfigurations", "bgpfilters", "bgppeers", "ippools", "nodes"] {
        assert!(prefixes.contains(&format!("/calico/resources/v3/projectcalico.org/{kind}/")), "{kind}");
    }
}
