//! A small random cluster: few names, addresses and labels, so that everything collides with everything.

#![allow(clippy::unwrap_used, dead_code)]

pub(crate) mod scenario;

use std::{collections::BTreeMap, net::IpAddr};

use calico_model::{
    AnyResource, Change, EntityRule, FelixConfigurationSpec, IPPoolSpec, Icmp, Kind, KindName, Port, ProfileSpec,
    Protocol, Resource, ResourceKey, Rule, WorkloadEndpointSpec,
};
use calico_policy::{
    oracle::State,
    packet::{Hop, Packet, Transport},
};
use proptest::{prelude::*, sample::select};

/// The host whose engine is tested.
pub(crate) const NODE: &str = "n1";

/// One step of a run.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Change(Change),
    Flush,
}

pub(crate) fn set<S: Kind>(resource: Resource<S>) -> Change {
    Change::Set { key: resource.key(), resource: Box::new(S::into_any(resource)) }
}

pub(crate) fn key_of(change: &Change) -> &ResourceKey {
    match change {
        Change::Set { key, .. } | Change::Remove { key } | Change::Unusable { key, .. } => key,
    }
}

fn strings(choices: &'static [&'static str]) -> impl Strategy<Value = String> + Clone {
    select(choices).prop_map(str::to_owned)
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map(strings(&["a", "b", "c", "pcns.a"]), strings(&["", "1", "2"]), 0..3)
}

fn profile_name() -> impl Strategy<Value = String> + Clone {
    prop_oneof![
        20 => strings(&["p1", "p2", "p3"]),
        1 => strings(&["ghost", calico_policy::BUILT_IN_PROFILE]),
    ]
}

fn endpoint_key() -> impl Strategy<Value = ResourceKey> {
    (select(vec!["blue", "default"]), select(vec!["a", "b", "c"]))
        .prop_map(|(namespace, name)| ResourceKey::new(KindName::WorkloadEndpoint, Some(namespace), name))
}

fn address() -> impl Strategy<Value = String> {
    prop_oneof![
        90 => strings(&["10.0.0.1/32", "10.0.0.2/32", "10.0.0.3", "fd00::1/128", "fd00::2/128"]),
        1 => strings(&["10.0.0.0/24", "127.0.0.1/32", "nonsense"]),
    ]
}

fn endpoint() -> impl Strategy<Value = Change> {
    let interface = prop_oneof![40 => strings(&["cali1", "cali2", "cali3"]), 1 => strings(&["", "eth0", "cali/1", "cali567890123456"])];
    let mac = prop_oneof![40 => strings(&["", "ee:ee:ee:ee:ee:ee"]), 1 => strings(&["ee:ee"])];
    (
        endpoint_key(),
        (select(vec![NODE, NODE, NODE, "n2"]), interface, mac),
        prop_oneof![20 => prop::collection::vec(address(), 1..4), 1 => Just(Vec::new())],
        prop_oneof![20 => prop::collection::vec(profile_name(), 1..4), 1 => Just(Vec::new())],
        labels(),
        prop_oneof![9 => Just(""), 1 => Just("robot")],
        prop_oneof![29 => Just(false), 1 => Just(true)],
    )
        .prop_map(|(key, (node, interface_name, mac), ip_networks, profiles, labels, account, spoof)| {
            let spec = WorkloadEndpointSpec {
                node: node.into(),
                interface_name,
                mac,
                ip_networks,
                profiles,
                service_account_name: account.into(),
                allow_spoofed_source_prefixes: if spoof { vec!["10.9.0.0/16".into()] } else { Vec::new() },
                ..Default::default()
            };
            let mut resource = Resource::namespaced(key.namespace.clone().unwrap(), key.name, spec);
            resource.metadata.labels = labels;
            // Every write puts the namespace among the labels.
            Kind::set_defaults(&mut resource);
            set(resource)
        })
}

/// `bad` here and below: whether things without a clear meaning may come up. One of them closes a whole profile, so
/// most profiles are made without.
fn selector(bad: bool, chance: u32) -> impl Strategy<Value = String> {
    let good = strings(&[
        "has(a)",
        "a == ''",
        "a == '1' || b == '2'",
        "!has(b)",
        "all()",
        "a in {'1', '2'} && c != '1'",
        "has(pcns.a)",
        "projectcalico.org/serviceaccount == 'robot'",
        "!(a == '1')",
        "b contains ''",
    ]);
    let broken = strings(&["has(", " ", "a) || (b"]);
    prop_oneof![100 - chance => Just(String::new()), chance => good, 3 * u32::from(bad) => broken]
}

fn nets(bad: bool, chance: u32) -> impl Strategy<Value = Vec<String>> {
    let net = prop_oneof![
        20 => strings(&["10.0.0.0/31", "10.0.0.2", "10.0.0.0/8", "fd00::/64", "fd00::1/128"]),
        3 * u32::from(bad) => strings(&["10.0.0.1/8", "any", "0.0.0.0/0"]),
    ];
    prop_oneof![100 - chance => Just(Vec::new()), chance => prop::collection::vec(net, 1..3)]
}

fn ports(bad: bool, chance: u32) -> impl Strategy<Value = Vec<Port>> {
    let port = prop_oneof![
        10 => select(vec![Port::Number(80), Port::Number(443), Port::Range(50, 100), Port::Range(53, 53)]),
        u32::from(bad) => select(vec![Port::Number(0), Port::Range(9, 1)]),
    ];
    prop_oneof![100 - chance => Just(Vec::new()), chance => prop::collection::vec(port, 1..3)]
}

fn entity(bad: bool, has_ports: bool) -> impl Strategy<Value = EntityRule> {
    let members = |json: serde_json::Value| Just(serde_json::from_value::<EntityRule>(json).unwrap());
    let others = prop_oneof![
        40 => members(serde_json::json!({})),
        2 => members(serde_json::json!({"serviceAccounts": {"names": ["robot"]}})),
        u32::from(bad) => members(serde_json::json!({"serviceAccounts": {"names": ["it's"]}})),
        u32::from(bad) => members(serde_json::json!({"serviceAccounts": {"selector": "has(", "names": []}})),
        u32::from(bad) => members(serde_json::json!({"services": {"name": "dns"}})),
    ];
    let namespace = prop_oneof![
        30 => Just(String::new()),
        2 => strings(&["has(a)", "all()"]),
        u32::from(bad) => strings(&["has("]),
    ];
    let port_chance = if has_ports { 35 } else { 0 };
    (
        (nets(bad, 20), nets(bad, 10)),
        (selector(bad, 30), selector(bad, 15), namespace),
        (ports(bad, port_chance), ports(bad, port_chance / 3)),
        others,
    )
        .prop_map(
            |((nets, not_nets), (selector, not_selector, namespace_selector), (ports, not_ports), others)| EntityRule {
                nets,
                not_nets,
                selector,
                not_selector,
                namespace_selector,
                ports,
                not_ports,
                ..others
            },
        )
}

fn protocol(bad: bool) -> impl Strategy<Value = Option<Protocol>> {
    let of = |texts: &'static [&'static str]| select(texts).prop_map(|text| Some(Protocol::from(text)));
    prop_oneof![
        8 => Just(None),
        8 => of(&["TCP", "6", "UDP", "17"]),
        4 => of(&["ICMP", "ICMPv6", "SCTP", "47"]),
        u32::from(bad) => of(&["tcp", "0"]),
    ]
}

fn icmp(bad: bool) -> impl Strategy<Value = Option<Icmp>> {
    let types = || select(vec![Some(8), Some(3), Some(128)]);
    let good = (types(), select(vec![None, None, Some(0), Some(1)]));
    let odd = (select(vec![None, Some(255), Some(300)]), select(vec![None, Some(0), Some(300)]));
    let one = prop_oneof![4 => good.boxed(), u32::from(bad) => odd.boxed()];
    prop_oneof![2 => Just(None), 3 => one.prop_map(|(icmp_type, code)| Some(Icmp { icmp_type, code }))]
}

fn rule(bad: bool) -> impl Strategy<Value = Rule> {
    let action = prop_oneof![
        20 => strings(&["Allow", "Allow", "Allow", "Deny", "Pass", "Log"]),
        u32::from(bad) => strings(&["allow", "", "Reject"]),
    ];
    let version = prop_oneof![10 => Just(None), 2 => select(vec![Some(4), Some(6)]), u32::from(bad) => Just(Some(5))];
    let not_protocol = prop_oneof![9 => Just(None), 1 => protocol(bad)];
    let members = |json: serde_json::Value| Just(serde_json::from_value::<Rule>(json).unwrap());
    let others = prop_oneof![
        9 => members(serde_json::json!({})),
        1 => members(serde_json::json!({"metadata": {"annotations": {"why": "test"}}, "http": null})),
        u32::from(bad) => members(serde_json::json!({"http": {"methods": ["GET"]}})),
    ];
    let stray = prop_oneof![9 => Just(false), u32::from(bad) => Just(true)];
    (action, version, protocol(bad), not_protocol, others, stray).prop_flat_map(
        move |(action, ip_version, protocol, not_protocol, others, stray)| {
            let has_ports = stray || protocol.as_ref().is_some_and(Protocol::has_ports);
            let has_types = stray || matches!(protocol.as_ref().and_then(Protocol::number), Some(1 | 58));
            let ends = (entity(bad, has_ports), entity(bad, has_ports));
            (ends, icmp(bad), icmp(bad)).prop_map(move |((source, destination), icmp, not_icmp)| Rule {
                action: action.clone(),
                ip_version,
                protocol: protocol.clone(),
                not_protocol: not_protocol.clone(),
                icmp: icmp.filter(|_| has_types),
                not_icmp: not_icmp.filter(|_| has_types && icmp.is_none()),
                source,
                destination,
                ..others.clone()
            })
        },
    )
}

fn profile() -> impl Strategy<Value = Change> {
    let open = || Just(vec![Rule::of(calico_model::Action::Allow)]);
    let rules = move |bad| prop_oneof![1 => open(), 4 => prop::collection::vec(rule(bad), 0..5)];
    let bad = prop_oneof![4 => Just(false), 1 => Just(true)];
    let body = bad.prop_flat_map(move |bad| (rules(bad), rules(bad)));
    (profile_name(), body, labels()).prop_map(|(name, (ingress, egress), labels_to_apply)| {
        set(Resource::new(name, ProfileSpec { ingress, egress, labels_to_apply, extra: Default::default() }))
    })
}

fn pool() -> impl Strategy<Value = Change> {
    (strings(&["pool1", "pool2", "pool3"]), select(vec!["10.0.0.0/8", "10.0.0.0/16", "fd00::/64"]), any::<bool>())
        .prop_map(|(name, cidr, nat_outgoing)| {
            set(Resource::new(name, IPPoolSpec { cidr: cidr.parse().unwrap(), nat_outgoing, ..Default::default() }))
        })
}

fn felix() -> impl Strategy<Value = Change> {
    let action = select(vec![None, Some(""), Some("Drop"), Some("ACCEPT"), Some("Return"), Some("Perhaps")]);
    (strings(&["default", "node.n1", "node.n2", "n1"]), action).prop_map(|(name, action)| {
        let spec =
            FelixConfigurationSpec { default_endpoint_to_host_action: action.map(str::to_owned), ..Default::default() };
        set(Resource::new(name, spec))
    })
}

fn change() -> impl Strategy<Value = Change> {
    let any = || prop_oneof![6 => endpoint(), 6 => profile(), 1 => pool(), 1 => felix()];
    let removal = any().prop_map(|change| Change::Remove { key: key_of(&change).clone() });
    prop_oneof![10 => any().boxed(), 1 => removal.boxed()]
}

/// Changes and flushes in any order.
pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(prop_oneof![4 => change().prop_map(Step::Change), 1 => Just(Step::Flush)], 8..60)
}

/// Packets that have a chance to meet something.
pub(crate) fn packet() -> impl Strategy<Value = Packet> {
    let hop = || {
        prop_oneof![
            6 => select(vec!["cali1", "cali2", "cali3"]).prop_map(|name| Hop::Interface(name.to_owned())),
            1 => select(vec!["eth0", "cali9"]).prop_map(|name| Hop::Interface(name.to_owned())),
            1 => Just(Hop::Host),
        ]
    };
    let pair = prop_oneof![
        4 => (select(vec!["10.0.0.1", "10.0.0.2", "10.0.0.3", "0.0.0.0"]), select(vec!["10.0.0.1", "10.0.0.2", "192.0.2.1", "255.255.255.255"])),
        3 => (select(vec!["fd00::1", "fd00::2", "fe80::1", "::"]), select(vec!["fd00::1", "fd00::2", "2001:db8::1", "ff02::2"])),
    ];
    let port = || select(vec![80_u16, 80, 443, 443, 53, 53, 60, 60, 4789]);
    let transport = prop_oneof![
        6 => (select(vec![6, 17, 132]), port(), port())
            .prop_map(|(protocol, source, destination)| Transport::Ports { protocol, source, destination }),
        3 => (select(vec![8, 3, 128, 135, 0]), select(vec![0, 1])).prop_map(|(icmp_type, code)| Transport::Icmp { icmp_type, code }),
        1 => select(vec![47, 47, 4, 136]).prop_map(Transport::Other),
    ];
    (hop(), hop(), pair, transport).prop_map(|(from, to, (source, destination), transport)| {
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        Packet::new(from, to, parse(source), parse(destination), transport)
    })
}

/// The same packet, but from and to endpoints that exist, as far as there are any: blind packets mostly fail for
/// their source address.
pub(crate) fn aimed(packet: &Packet, state: &State, dice: (usize, usize)) -> Packet {
    let ends: Vec<(&str, IpAddr)> = state
        .endpoints
        .values()
        .filter(|endpoint| endpoint.spec.node == NODE)
        .flat_map(|endpoint| {
            let addresses = endpoint.spec.ip_networks.iter().filter_map(|text| text.split('/').next()?.parse().ok());
            addresses.map(|address| (endpoint.spec.interface_name.as_str(), address))
        })
        .collect();
    let mut packet = packet.clone();
    if ends.is_empty() {
        return packet;
    }
    let (interface, source) = ends[dice.0 % ends.len()];
    (packet.from, packet.source) = (Hop::Interface(interface.to_owned()), source);
    let targets: Vec<_> = ends.iter().filter(|(_, address)| address.is_ipv4() == source.is_ipv4()).collect();
    let (interface, destination) = *targets[dice.1 % targets.len()];
    packet.destination = destination;
    if packet.to != Hop::Host {
        packet.to = Hop::Interface(interface.to_owned());
    }
    packet
}

/// The resources that stand at the end of a run.
pub(crate) fn standing(steps: &[Step]) -> BTreeMap<ResourceKey, AnyResource> {
    let mut standing = BTreeMap::new();
    for step in steps {
        match step {
            Step::Change(Change::Set { key, resource }) => drop(standing.insert(key.clone(), (**resource).clone())),
            Step::Change(Change::Remove { key } | Change::Unusable { key, .. }) => drop(standing.remove(key)),
            Step::Flush => {}
        }
    }
    standing
}
