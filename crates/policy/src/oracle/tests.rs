//! Single facts of the oracle that no recorded scenario holds; whole scenarios are in `tests/verdicts.rs`.

#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use calico_model::{
    AnyResource, Change, FelixConfigurationSpec, GlobalNetworkPolicySpec, HostEndpointSpec, Kind, Node, NodeSpec,
    PolicySpec, ProfileSpec, Resource, TierSpec, WorkloadEndpointSpec,
};
use serde_json::{Value, json};

use super::*;
use crate::packet::{Addressed, Hop, Packet, Tracking, Transport, Verdict};

const TCP: u8 = 6;
const UDP: u8 = 17;

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn hop(name: &str) -> Hop {
    if name == "host" { Hop::Host } else { Hop::Interface(name.to_owned()) }
}

fn ports(protocol: u8, source: u16, destination: u16) -> Transport {
    Transport::Ports { protocol, source, destination }
}

fn icmp(icmp_type: u8, code: u8) -> Transport {
    Transport::Icmp { icmp_type, code }
}

/// From an outsider to the host.
fn inbound(transport: Transport) -> Packet {
    Packet::new(hop("eth0"), Hop::Host, address("192.0.2.9"), address("192.0.2.1"), transport)
}

/// From the host to an outsider.
fn outbound(transport: Transport) -> Packet {
    Packet::new(Hop::Host, hop("eth0"), address("192.0.2.1"), address("192.0.2.9"), transport)
}

/// From an outsider through the host to the workload web.
fn through(transport: Transport) -> Packet {
    Packet::new(hop("eth0"), hop("cali1"), address("192.0.2.9"), address("10.0.0.1"), transport)
}

fn put<S: Kind>(state: &mut State, resource: Resource<S>) {
    state.apply(&Change::Set { key: resource.key(), resource: Box::new(S::into_any(resource)) });
}

fn open() -> Resource<ProfileSpec> {
    let rules = vec![calico_model::Rule::of(calico_model::Action::Allow)];
    Resource::new("open", ProfileSpec { ingress: rules.clone(), egress: rules, ..ProfileSpec::default() })
}

/// A host with the workload web behind cali1, and whatever else is said.
fn state(host_endpoint: Option<&str>, settings: Value) -> State {
    let mut state = State::new("n1");
    for (name, own) in [("lo", "127.0.0.1"), ("eth0", "192.0.2.1")] {
        state.interfaces.insert(name.into(), vec![address(own)]);
    }
    put(&mut state, open());
    let spec = WorkloadEndpointSpec {
        node: "n1".into(),
        interface_name: "cali1".into(),
        ip_networks: vec!["10.0.0.1/32".into(), "fd00::1/128".into()],
        profiles: vec!["open".into()],
        ..WorkloadEndpointSpec::default()
    };
    put(&mut state, Resource::namespaced("default", "web", spec));
    if let Some(interface) = host_endpoint {
        let spec =
            HostEndpointSpec { node: "n1".into(), interface_name: interface.into(), ..HostEndpointSpec::default() };
        put(&mut state, Resource::new("h1", spec));
    }
    let spec: FelixConfigurationSpec = serde_json::from_value(settings).unwrap();
    put(&mut state, Resource::new("default", spec));
    state
}

/// A global policy of the members given.
fn policy(state: &mut State, name: &str, spec: Value) {
    let spec: PolicySpec = serde_json::from_value(spec).unwrap();
    put(state, Resource::new(name, GlobalNetworkPolicySpec(spec)));
}

fn of(state: &State, packet: &Packet) -> Verdict {
    verdict(state, packet).0
}

#[test]
fn a_failsafe_port_may_be_for_some_neighbours_only() {
    let ports_of = json!([{"protocol": "tcp", "port": 22, "net": "192.0.2.0/28"}]);
    let state = state(Some("eth0"), json!({"failsafeInboundHostPorts": ports_of}));
    assert_eq!(of(&state, &inbound(ports(TCP, 40_000, 22))), Verdict::Allow);
    let far = Packet { source: address("192.0.2.200"), ..inbound(ports(TCP, 40_000, 22)) };
    assert_eq!(of(&state, &far), Verdict::Drop);
    assert_eq!(of(&state, &inbound(ports(UDP, 40_000, 22))), Verdict::Drop);
}

#[test]
fn before_connection_tracking_answers_from_failsafe_ports_pass_too() {
    let mut state = state(Some("eth0"), json!({}));
    let deny = json!([{"action": "Deny"}]);
    let spec = json!({"doNotTrack": true, "applyOnForward": true, "types": ["Ingress"], "ingress": deny});
    policy(&mut state, "p", spec);
    let answer = |port| Packet { tracking: Tracking::Established, ..inbound(ports(TCP, port, 40_000)) };
    assert_eq!(of(&state, &answer(2379)), Verdict::Allow);
    assert_eq!(of(&state, &answer(80)), Verdict::Drop);
}

#[test]
fn what_is_not_tracked_is_not_translated() {
    let mut state = state(Some("eth0"), json!({}));
    // A published port of the host leads to the workload, which would let it in.
    let addressed = Some(Addressed { address: address("192.0.2.1"), port: Some(30_080) });
    let published = Packet { addressed, ..through(ports(TCP, 40_000, 80)) };
    assert_eq!(of(&state, &published), Verdict::Allow);
    let rule = json!([{"action": "Allow", "protocol": "TCP", "destination": {"ports": [30_080]}}]);
    policy(&mut state, "p", json!({"doNotTrack": true, "applyOnForward": true, "ingress": rule}));
    let (verdict, why) = verdict(&state, &published);
    assert_eq!((verdict, why.steps.len()), (Verdict::Allow, 1), "it ends at the host: {why}");
    assert!(why.is_untracked());
    // The answer of the host is of no known connection, and no rule is about it.
    let Flow { reply, .. } = flow(&state, &published);
    assert_eq!(reply.map(|(verdict, _)| verdict), Some(Verdict::Drop));
}

#[test]
fn reject_is_silent_where_no_error_can_be_sent() {
    let mut state =
        state(Some("eth0"), json!({"nftablesFilterDenyAction": "Reject", "defaultEndpointToHostAction": "Drop"}));
    assert_eq!(of(&state, &inbound(ports(TCP, 40_000, 80))), Verdict::Reject);
    assert_eq!(of(&state, &outbound(ports(TCP, 40_000, 80))), Verdict::Reject);
    let addressed = Some(Addressed { address: address("192.0.2.77"), port: Some(80) });
    let translated = Packet { addressed, ..outbound(ports(TCP, 40_000, 8080)) };
    assert_eq!(of(&state, &translated), Verdict::Drop, "judged after routing");
    let to_host = Packet::new(hop("cali1"), Hop::Host, address("10.0.0.1"), address("192.0.2.1"), ports(TCP, 1, 80));
    assert_eq!(of(&state, &to_host), Verdict::Drop);
    let forged = Packet { source: address("10.0.0.2"), ..to_host };
    assert_eq!(of(&state, &forged), Verdict::Drop);
    let spec = json!({"preDNAT": true, "applyOnForward": true, "types": ["Ingress"], "ingress": [{"action": "Deny"}]});
    policy(&mut state, "p", spec);
    assert_eq!(of(&state, &through(ports(TCP, 40_000, 80))), Verdict::Drop);
}

#[test]
fn packets_of_no_connection_pass_no_endpoint() {
    let invalid = |packet: Packet| Packet { tracking: Tracking::Invalid, ..packet };
    for accept in [false, true] {
        let mut state = state(Some("eth0"), json!({"disableConntrackInvalidCheck": accept}));
        policy(
            &mut state,
            "p",
            json!({"types": ["Ingress", "Egress"], "ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}]}),
        );
        let expected = if accept { Verdict::Allow } else { Verdict::Drop };
        for packet in [inbound(ports(TCP, 1, 80)), outbound(ports(TCP, 1, 80)), through(ports(TCP, 1, 80))] {
            assert_eq!(of(&state, &invalid(packet)), expected);
        }
    }
}

#[test]
fn neighbour_discovery_passes_a_closed_host_endpoint_and_nothing_else_does() {
    let mut state = state(Some("eth0"), json!({}));
    state.interfaces.entry("eth0".into()).or_default().push(address("2001:db8::1"));
    let six = |from: &str, to: &str, transport| {
        Packet::new(hop(from), hop(to), address("2001:db8::9"), address("2001:db8::1"), transport)
    };
    for icmp_type in [130, 133, 134, 135, 136, 143] {
        assert_eq!(of(&state, &six("eth0", "host", icmp(icmp_type, 0))), Verdict::Allow, "{icmp_type}");
        assert_eq!(of(&state, &six("host", "eth0", icmp(icmp_type, 0))), Verdict::Allow, "{icmp_type}");
    }
    for icmp_type in [128, 137] {
        assert_eq!(of(&state, &six("eth0", "host", icmp(icmp_type, 0))), Verdict::Drop, "{icmp_type}");
    }
    // A workload does not announce routers, and what is forwarded is judged like anything else.
    policy(&mut state, "p", json!({"applyOnForward": true, "types": ["Ingress"]}));
    assert_eq!(of(&state, &six("eth0", "eth1", icmp(135, 0))), Verdict::Drop);
}

#[test]
fn tunnels_are_for_hosts() {
    let mut state = state(None, json!({"vxlanEnabled": true}));
    let node: NodeSpec = serde_json::from_value(json!({"bgp": {"ipv4Address": "192.0.2.9/24"}})).unwrap();
    put::<NodeSpec>(&mut state, Node::new("n2", node));
    let vxlan = ports(UDP, 40_000, 4789);
    assert_eq!(of(&state, &inbound(vxlan)), Verdict::Allow);
    let stranger = Packet { source: address("192.0.2.10"), ..inbound(vxlan) };
    assert_eq!(of(&state, &stranger), Verdict::Drop);
    let workload = Packet::new(hop("cali1"), Hop::Host, address("10.0.0.1"), address("192.0.2.1"), vxlan);
    assert_eq!(of(&state, &workload), Verdict::Drop);
    // A closed host endpoint does not cut hosts off from each other.
    let spec = HostEndpointSpec { node: "n1".into(), interface_name: "*".into(), ..HostEndpointSpec::default() };
    put(&mut state, Resource::new("all", spec));
    assert_eq!(of(&state, &outbound(vxlan)), Verdict::Allow);
    assert_eq!(of(&state, &outbound(ports(UDP, 40_000, 4790))), Verdict::Drop);
}

#[test]
fn service_addresses_that_nobody_took_go_nowhere() {
    for (word, expected) in [("Drop", Verdict::Drop), ("Reject", Verdict::Reject), ("Disabled", Verdict::Allow)] {
        let mut state = state(None, json!({"serviceLoopPrevention": word}));
        let spec = serde_json::from_value(json!({"serviceClusterIPs": [{"cidr": "10.96.0.0/12"}]})).unwrap();
        put::<calico_model::BGPConfigurationSpec>(&mut state, Resource::new("default", spec));
        let to_service =
            Packet::new(hop("eth0"), hop("eth1"), address("192.0.2.9"), address("10.96.0.5"), ports(TCP, 1, 80));
        assert_eq!(of(&state, &to_service), expected);
    }
}

#[test]
fn a_floating_address_leads_to_the_lowest_claimant() {
    let mut state = state(None, json!({"floatingIPs": "Enabled"}));
    for (name, own) in [("b", "10.0.0.7"), ("c", "10.0.0.6")] {
        let nats = json!([{"internalIP": own, "externalIP": "10.9.9.9"}]);
        let spec = WorkloadEndpointSpec {
            node: "n1".into(),
            interface_name: format!("cali{name}"),
            ip_networks: vec![own.into()],
            ip_nats: serde_json::from_value(nats).unwrap(),
            profiles: vec!["open".into()],
            ..WorkloadEndpointSpec::default()
        };
        put(&mut state, Resource::namespaced("default", name, spec));
    }
    let from_web =
        |to: &str| Packet::new(hop("cali1"), hop("eth0"), address("10.0.0.1"), address(to), ports(TCP, 1, 80));
    let (verdict, why) = verdict(&state, &from_web("10.9.9.9"));
    assert_eq!(verdict, Verdict::Allow);
    let id = EndpointId { namespace: "default".into(), name: "c".into() };
    assert_eq!(why.steps.last().unwrap().subject, Some(Subject::Workload(id)));
    let itself = Packet::new(hop("calic"), hop("eth0"), address("10.0.0.6"), address("10.9.9.9"), ports(TCP, 1, 80));
    assert_eq!(state.seen_source(&itself), address("10.9.9.9"));
}

/// An endpoint of the host with a published port.
fn publishing(state: &mut State, name: &str, own: &[&str], port: Value) {
    let spec = WorkloadEndpointSpec {
        node: "n1".into(),
        interface_name: format!("cali{name}"),
        ip_networks: own.iter().map(|&address| address.into()).collect(),
        ports: serde_json::from_value(json!([port])).unwrap(),
        profiles: vec!["open".into()],
        ..WorkloadEndpointSpec::default()
    };
    put(state, Resource::namespaced("default", name, spec));
}

#[test]
fn a_published_port_leads_to_the_first_endpoint_that_claims_it() {
    let mut state = state(None, json!({}));
    let local = |address: &str| address.parse().unwrap();
    state.interfaces.insert("eth0".into(), vec![local("192.0.2.1"), local("2001:db8::1")]);
    state.interfaces.insert("eth1".into(), vec![local("198.51.100.1")]);
    publishing(&mut state, "c", &["10.0.0.6", "fd00::6"], json!({"protocol": "TCP", "port": 80, "hostPort": 8080}));
    publishing(&mut state, "b", &["10.0.0.7"], json!({"protocol": "TCP", "port": 81, "hostPort": 8080}));
    let at = json!({"protocol": "TCP", "port": 82, "hostPort": 8080, "hostIP": "198.51.100.1"});
    publishing(&mut state, "d", &["10.0.0.8"], at);
    publishing(&mut state, "e", &["10.0.0.9"], json!({"protocol": "TCP", "port": 22, "hostPort": 22}));
    let at = json!({"protocol": "UDP", "port": 53, "hostPort": 53, "hostIP": "127.0.0.1"});
    publishing(&mut state, "f", &["10.0.0.10"], at);
    let led = |from: Hop, to: &str, transport| {
        let to = address(to);
        let source = address(if to.is_ipv4() { "192.0.2.9" } else { "2001:db8::9" });
        let packet = Packet::new(from, Hop::Host, source, to, transport);
        let packet = path::translated(&state, &packet);
        (packet.to != Hop::Host).then(|| format!("{} {}", packet.destination, packet.ports().unwrap().1))
    };
    let web = ports(TCP, 1, 8080);
    for (from, to, transport, expected) in [
        (hop("eth0"), "192.0.2.1", web, Some("10.0.0.7 81")),
        (hop("eth0"), "198.51.100.1", web, Some("10.0.0.8 82")),
        (hop("eth0"), "2001:db8::1", web, Some("fd00::6 80")),
        (hop("cali1"), "192.0.2.1", web, Some("10.0.0.7 81")),
        (Hop::Host, "192.0.2.1", web, Some("10.0.0.7 81")),
        (Hop::Host, "127.0.0.1", web, Some("10.0.0.7 81")),
        (hop("eth0"), "127.0.0.1", web, None),
        (Hop::Host, "::1", web, None),
        (hop("eth0"), "192.0.2.77", web, None),
        (hop("eth0"), "192.0.2.1", ports(UDP, 1, 8080), None),
        (hop("eth0"), "192.0.2.1", ports(TCP, 1, 22), None),
        (Hop::Host, "127.0.0.1", ports(UDP, 1, 53), Some("10.0.0.10 53")),
        (hop("eth0"), "192.0.2.1", ports(UDP, 1, 53), None),
    ] {
        assert_eq!(led(from.clone(), to, transport).as_deref(), expected, "{from:?} {to} {transport:?}");
    }
    let packet = Packet::new(hop("eth0"), Hop::Host, address("192.0.2.9"), address("192.0.2.1"), web);
    let (verdict, why) = verdict(&state, &packet);
    assert_eq!(verdict, Verdict::Allow);
    let id = EndpointId { namespace: "default".into(), name: "b".into() };
    assert_eq!(why.steps.last().unwrap().subject, Some(Subject::Workload(id)), "its policy is asked");
}

#[test]
fn icmp_has_types_and_codes_by_name_and_by_number() {
    for protocol in [json!("ICMP"), json!(1)] {
        let mut state = state(None, json!({}));
        let rule = |field: &str| json!([{"action": "Allow", "protocol": protocol, (field): {"type": 3, "code": 4}}]);
        policy(&mut state, "p", json!({"selector": "all()", "ingress": rule("icmp")}));
        assert_eq!(of(&state, &through(icmp(3, 4))), Verdict::Allow);
        assert_eq!(of(&state, &through(icmp(3, 1))), Verdict::Drop);
        policy(&mut state, "p", json!({"selector": "all()", "ingress": rule("notICMP")}));
        assert_eq!(of(&state, &through(icmp(3, 4))), Verdict::Drop);
        assert_eq!(of(&state, &through(icmp(3, 1))), Verdict::Allow, "not the pair is not neither");
        let six = Packet::new(hop("eth0"), hop("cali1"), address("2001:db8::9"), address("fd00::1"), icmp(3, 1));
        assert_eq!(of(&state, &six), Verdict::Drop, "ICMP is of IPv4");
    }
}

#[test]
fn what_was_asked_before_is_told() {
    let mut state = state(None, json!({}));
    put(
        &mut state,
        Resource::new("t1", TierSpec { order: Some(1.into()), default_action: "Pass".into(), ..TierSpec::default() }),
    );
    policy(&mut state, "t1.a", json!({"tier": "t1", "ingress": [{"action": "Allow", "protocol": "UDP"}]}));
    policy(&mut state, "b", json!({"ingress": [{"action": "Log"}, {"action": "Allow", "protocol": "UDP"}]}));
    let (_, why) = verdict(&state, &through(ports(TCP, 1, 80)));
    assert_eq!(
        why.to_string(),
        "ingress of endpoint default/web: denied at the end of tier default: no policy there decides (before: policy \
         t1.a of tier t1: no rule matches, and its tier passes; policy b: no rule matches)"
    );
    let (_, why) = verdict(&state, &through(ports(UDP, 1, 80)));
    assert_eq!(
        why.steps.first().unwrap().to_string(),
        "ingress of endpoint default/web: allowed by rule ingress[0] of policy t1.a of tier t1"
    );
}

#[test]
fn hints_name_the_smallest_change() {
    let mut state = state(None, json!({}));
    let shown = |state: &State| {
        what_would_change(state, &through(ports(TCP, 1, 80))).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        shown(&state),
        [
            "ingress of endpoint default/web: before rule ingress[0] of profile open: Deny TCP from 192.0.2.9/32 to port 80; \
          or take rule ingress[0] of profile open out, or make it match less"
        ]
    );
    policy(&mut state, "b", json!({"ingress": []}));
    assert_eq!(
        shown(&state),
        ["ingress of endpoint default/web: in a policy of tier default that applies here, ingress: Allow TCP from \
          192.0.2.9/32 to port 80"]
    );
}

#[test]
fn a_record_that_cannot_be_read_closes_what_it_may_mean() {
    let mut state = state(None, json!({}));
    let packet = through(ports(TCP, 1, 80));
    let key = AnyResource::GlobalNetworkPolicy(Resource::new("p", GlobalNetworkPolicySpec::default())).key();
    state.apply(&Change::Unusable { key: key.clone(), reason: "it is no JSON".into(), resource: None });
    let (verdict, why) = verdict(&state, &packet);
    assert_eq!(verdict, Verdict::Drop);
    assert!(matches!(why.denied_by().unwrap().reason, Reason::Closed { .. }), "{why}");
    state.apply(&Change::Remove { key });
    assert_eq!(of(&state, &packet), Verdict::Allow);
}
