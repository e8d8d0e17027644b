//! Random instructions and packets.

use calico_policy::{
    instruction::{
        Endpoint, EndpointId, EntityMatch, HostAction, IcmpMatch, Instruction, Pool, ProfileId, Rule, RuleAction,
        RuleSet, SetId, Settings,
    },
    interpret::Programmed,
    packet::{Hop, Packet, Transport},
};
use ipnet::IpNet;
use proptest::{prelude::*, sample::select};

/// The workloads' addresses: IPv4 of each interface, then IPv6.
pub(crate) const ADDRESSES: [&str; 6] = ["10.65.0.1", "10.65.0.2", "10.66.0.1", "fd65::1", "fd65::2", "fd66::1"];
const NETS: [&str; 12] = [
    "10.65.0.1/32",
    "10.65.0.2/32",
    "10.66.0.1/32",
    "10.65.0.0/16",
    "10.64.0.0/10",
    "0.0.0.0/0",
    "fd65::1/128",
    "fd65::2/128",
    "fd66::1/128",
    "fd65::/64",
    "fd00::/8",
    "::/0",
];
const SETS: [&str; 3] = ["s:a", "s:b", "s:c"];
const PROFILES: [&str; 4] = ["one", "two", "Three", "four"];
/// The workloads' interfaces.
pub(crate) const INTERFACES: [&str; 3] = ["cali1", "cali2", "cali3"];
const PORTS: [u16; 5] = [53, 80, 443, 4789, 8080];

fn net() -> impl Strategy<Value = IpNet> {
    select(&NETS).prop_map(|net| net.parse().expect("a network"))
}

fn set_id() -> impl Strategy<Value = SetId> {
    select(&SETS).prop_map(|id| SetId(id.to_owned()))
}

fn profile_id() -> impl Strategy<Value = ProfileId> {
    select(&PROFILES).prop_map(|id| ProfileId(id.to_owned()))
}

fn few<S: Strategy + 'static>(strategy: S) -> impl Strategy<Value = Vec<S::Value>>
where
    S::Value: Clone + std::fmt::Debug + 'static,
{
    // Mostly nothing: a rule with many conditions never matches, and then it tests nothing.
    prop_oneof![7 => Just(Vec::new()), 1 => prop::collection::vec(strategy, 1..3)]
}

fn port_range() -> impl Strategy<Value = (u16, u16)> {
    (select(&PORTS), select(&PORTS)).prop_map(|(a, b)| (a.min(b), a.max(b)))
}

fn entity() -> impl Strategy<Value = EntityMatch> {
    (few(net()), few(net()), few(set_id()), few(set_id()), few(port_range()), few(port_range())).prop_map(
        |(nets, not_nets, sets, not_sets, ports, not_ports)| EntityMatch {
            nets,
            not_nets,
            sets,
            not_sets,
            ports,
            not_ports,
            ..EntityMatch::default()
        },
    )
}

fn icmp() -> impl Strategy<Value = Option<IcmpMatch>> {
    let one = (select(&[8u8, 13, 128, 135, 139][..]), prop::option::of(0u8..2));
    prop_oneof![
        8 => Just(None),
        1 => one.prop_map(|(icmp_type, code)| Some(IcmpMatch { icmp_type, code })),
    ]
}

fn protocol() -> impl Strategy<Value = Option<u8>> {
    prop_oneof![3 => Just(None), 1 => select(&[1u8, 4, 6, 17, 58, 132, 200][..]).prop_map(Some)]
}

fn rule() -> impl Strategy<Value = Rule> {
    let action =
        select(&[RuleAction::Allow, RuleAction::Allow, RuleAction::Deny, RuleAction::Pass, RuleAction::Log][..]);
    let version = prop_oneof![9 => Just(None), 1 => select(&[4u8, 6][..]).prop_map(Some)];
    (action, version, protocol(), protocol(), icmp(), icmp(), entity(), entity()).prop_map(
        |(action, ip_version, protocol, not_protocol, icmp, not_icmp, source, destination)| Rule {
            action,
            ip_version,
            protocol,
            not_protocol,
            icmp,
            not_icmp,
            source,
            destination,
        },
    )
}

fn rules() -> impl Strategy<Value = RuleSet> {
    (prop::collection::vec(rule(), 0..4), prop::collection::vec(rule(), 0..4))
        .prop_map(|(ingress, egress)| RuleSet { ingress, egress })
}

fn endpoint() -> impl Strategy<Value = Instruction> {
    let index = 0..INTERFACES.len();
    (index, prop::collection::vec(profile_id(), 0..3)).prop_map(|(index, profiles)| {
        let addresses = [ADDRESSES[index], ADDRESSES[index + 3]].map(|address| address.parse().expect("an address"));
        Instruction::EndpointUpdate {
            id: EndpointId { namespace: "ns".to_owned(), name: format!("e{index}") },
            endpoint: Endpoint {
                interface: INTERFACES[index].to_owned(),
                mac: None,
                addresses: addresses.to_vec(),
                profiles,
                ..Endpoint::default()
            },
        }
    })
}

/// Any instruction.
pub(crate) fn instruction() -> impl Strategy<Value = Instruction> {
    let members = || prop::collection::btree_set(net(), 0..5);
    let host_action = select(&[HostAction::Drop, HostAction::Accept, HostAction::Return][..]);
    prop_oneof![
        3 => (set_id(), members()).prop_map(|(id, members)| Instruction::SetReplace { id, members: members.into_iter().collect() }),
        4 => (set_id(), members(), members()).prop_map(|(id, added, removed)| Instruction::SetDelta {
            id,
            added: added.difference(&removed).copied().collect(),
            removed: removed.into_iter().collect(),
        }),
        1 => set_id().prop_map(|id| Instruction::SetRemove { id }),
        5 => (profile_id(), rules()).prop_map(|(id, rules)| Instruction::ProfileUpdate { id, rules: rules.into() }),
        1 => profile_id().prop_map(|id| Instruction::ProfileRemove { id }),
        6 => endpoint(),
        1 => (0..INTERFACES.len()).prop_map(|index| Instruction::EndpointRemove {
            id: EndpointId { namespace: "ns".to_owned(), name: format!("e{index}") },
        }),
        1 => prop::collection::vec((net(), any::<bool>()), 0..3).prop_map(|pools| Instruction::Pools {
            pools: pools.into_iter().map(|(cidr, masquerade)| Pool { cidr, masquerade }).collect(),
        }),
        1 => host_action.prop_map(|endpoint_to_host| Instruction::Settings(Settings { endpoint_to_host, ..Settings::default() })),
    ]
}

/// Any packet.
pub(crate) fn packet() -> impl Strategy<Value = Packet> {
    let hop = || {
        prop_oneof![
            3 => select(&INTERFACES).prop_map(|name| Hop::Interface(name.to_owned())),
            1 => Just(Hop::Interface("cali9".to_owned())),
            1 => Just(Hop::Interface("eth0".to_owned())),
            1 => Just(Hop::Host),
        ]
    };
    let transport = prop_oneof![
        3 => (select(&[6u8, 17, 132][..]), select(&PORTS), select(&PORTS))
            .prop_map(|(protocol, source, destination)| Transport::Ports { protocol, source, destination }),
        2 => (select(&[8u8, 13, 128, 135, 139][..]), 0u8..2)
            .prop_map(|(icmp_type, code)| Transport::Icmp { icmp_type, code }),
        1 => select(&[4u8, 200][..]).prop_map(Transport::Other),
    ];
    (hop(), hop(), 0usize..12, 0usize..12, any::<bool>(), transport).prop_map(|(from, to, a, b, v6, transport)| {
        // Mostly the address of the workload there.
        let address = |hop: &Hop, index: usize| {
            let own = INTERFACES.iter().position(|name| *hop == Hop::Interface((*name).to_owned()));
            let index = own.filter(|_| index >= 3).unwrap_or(index % 3);
            ADDRESSES[index + if v6 { 3 } else { 0 }].parse().expect("an address")
        };
        let (source, destination) = (address(&from, a), address(&to, b));
        Packet::new(from, to, source, destination, transport)
    })
}

/// What a route lookup would say of the source.
pub(crate) fn spoofed(programmed: &Programmed, packet: &Packet) -> bool {
    let Hop::Interface(name) = &packet.from else { return false };
    let mut behind = programmed.endpoints.values().filter(|endpoint| endpoint.interface == *name);
    name.starts_with("cali") && !behind.any(|endpoint| endpoint.addresses.contains(&packet.source))
}
