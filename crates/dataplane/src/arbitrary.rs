//! Random instructions and packets.

use std::{collections::BTreeSet, net::IpAddr};

use calico_policy::{
    instruction::{
        DenyAction, Endpoint, EndpointId, EntityMatch, FailsafePort, HostAction, HostEndpoint, HostEndpointId,
        HostInterfaces, IcmpMatch, Instruction, Members, PolicyId, PolicyKind, Pool, PortMember, ProfileId,
        PublishedPort, Rule, RuleAction, RuleSet, ServiceLoop, SetId, Settings, TierPolicies,
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
const PORT_SETS: [&str; 2] = ["n:a", "n:b"];
const POLICIES: [&str; 4] = ["first", "second", "Third", "fourth"];
const HOST_ENDPOINTS: [&str; 3] = ["host-a", "host-b", "host-c"];
/// The addresses of the host's own interface `eth0`.
pub(crate) const ETH0: [&str; 2] = ["198.51.100.1", "2001:db8:1::1"];
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

fn port_set_id() -> impl Strategy<Value = SetId> {
    select(&PORT_SETS).prop_map(|id| SetId(id.to_owned()))
}

fn port_member() -> impl Strategy<Value = PortMember> {
    (select(&ADDRESSES), select(&[6u8, 17][..]), select(&PORTS)).prop_map(|(address, protocol, port)| PortMember {
        address: address.parse().expect("an address"),
        protocol,
        port,
    })
}

/// Of either kind, by its name.
fn policy_id() -> impl Strategy<Value = PolicyId> {
    select(&POLICIES).prop_map(|name| {
        let (kind, namespace) = match name {
            "fourth" => (PolicyKind::Namespaced, "ns"),
            _ => (PolicyKind::Global, ""),
        };
        PolicyId { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    })
}

/// One or two tiers. A policy is in one of them only, as in life.
fn tiers() -> impl Strategy<Value = Vec<TierPolicies>> {
    let some = || prop::collection::btree_set(policy_id(), 0..3);
    (some(), some(), any::<bool>(), any::<bool>()).prop_map(|(ingress, egress, upper_passes, lower_passes)| {
        let split = |policies: &BTreeSet<PolicyId>, upper: bool| -> Vec<PolicyId> {
            policies.iter().filter(|policy| (policy.name.as_str() < "second") == upper).cloned().collect()
        };
        let tier = |name: &str, pass_at_end, upper| TierPolicies {
            tier: name.to_owned(),
            pass_at_end,
            ingress: split(&ingress, upper),
            egress: split(&egress, upper),
        };
        let tiers = [tier("upper", upper_passes, true), tier("default", lower_passes, false)];
        tiers.into_iter().filter(|tier| !tier.ingress.is_empty() || !tier.egress.is_empty()).collect()
    })
}

fn seldom<T: Clone + std::fmt::Debug + 'static>(
    strategy: impl Strategy<Value = Vec<T>> + 'static,
) -> impl Strategy<Value = Vec<T>> {
    prop_oneof![2 => Just(Vec::new()), 1 => strategy]
}

fn host_endpoint() -> impl Strategy<Value = Instruction> {
    let interfaces = select(vec![
        HostInterfaces::Named("eth0".to_owned()),
        HostInterfaces::Named("eth1".to_owned()),
        HostInterfaces::WithAddress(vec![ETH0[0].parse().expect("an address")]),
        HostInterfaces::AnyInterface,
    ]);
    let lists = (tiers(), seldom(tiers()), seldom(tiers()), seldom(tiers()));
    let profiles = prop::collection::vec(profile_id(), 0..2);
    (select(&HOST_ENDPOINTS), interfaces, lists, profiles).prop_map(
        |(id, interfaces, (normal, forward, untracked, mut pre_dnat), profiles)| {
            pre_dnat.iter_mut().for_each(|tier| tier.egress.clear());
            pre_dnat.retain(|tier| !tier.ingress.is_empty());
            let endpoint = HostEndpoint { interfaces, normal, forward, untracked, pre_dnat, profiles };
            Instruction::HostEndpointUpdate { id: HostEndpointId(id.to_owned()), endpoint }
        },
    )
}

/// Settings that change what becomes of a packet.
fn settings() -> impl Strategy<Value = Settings> {
    let host_action = select(&[HostAction::Drop, HostAction::Accept, HostAction::Return][..]);
    let deny = select(&[DenyAction::Drop, DenyAction::Reject][..]);
    let open = || {
        prop::collection::vec(
            (select(&[6u8, 17][..]), select(&PORTS), prop::option::of(net()))
                .prop_map(|(protocol, port, net)| FailsafePort { protocol, port, net }),
            0..2,
        )
    };
    let services = few(net());
    let vxlan_port = select(&[None, Some(4789), Some(8080)][..]);
    let loops = select(&[ServiceLoop::Drop, ServiceLoop::Reject, ServiceLoop::Disabled][..]);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (host_action, deny, open(), open(), services, vxlan_port, loops, flags).prop_map(
        |(
            endpoint_to_host,
            deny,
            inbound,
            outbound,
            service_cidrs,
            vxlan_port,
            service_loop,
            (vxlan, ipip, invalid),
        )| {
            Settings {
                endpoint_to_host,
                deny,
                failsafe_inbound: inbound,
                failsafe_outbound: outbound,
                service_cidrs,
                service_loop,
                vxlan_port,
                vxlan_from_workloads: vxlan,
                ipip_from_workloads: ipip,
                accept_invalid: invalid,
                ..Settings::default()
            }
        },
    )
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
    let ports = (few(port_range()), few(port_range()), few(port_set_id()), few(port_set_id()));
    (few(net()), few(net()), few(set_id()), few(set_id()), ports).prop_map(
        |(nets, not_nets, sets, not_sets, (ports, not_ports, port_sets, not_port_sets))| EntityMatch {
            nets,
            not_nets,
            sets,
            not_sets,
            ports,
            not_ports,
            port_sets,
            not_port_sets,
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

/// On one of few addresses of the host, to the workload's address of the same family.
fn published_port(host: usize, port: u16, addresses: [IpAddr; 2]) -> PublishedPort {
    let host: IpAddr = ["0.0.0.0", "192.0.2.1", "::"][host].parse().expect("an address");
    let address = if host.is_ipv4() == addresses[0].is_ipv4() { addresses[0] } else { addresses[1] };
    PublishedPort { protocol: 6, host_port: 8000 + port % 2, host, address, port }
}

fn endpoint() -> impl Strategy<Value = Instruction> {
    let index = 0..INTERFACES.len();
    let published = prop::collection::vec((0..3_usize, select(&[80_u16, 443][..])), 0..3);
    (index, prop::collection::vec(profile_id(), 0..3), seldom(tiers()), published).prop_map(
        |(index, profiles, tiers, published)| {
            let addresses =
                [ADDRESSES[index], ADDRESSES[index + 3]].map(|address| address.parse().expect("an address"));
            Instruction::EndpointUpdate {
                id: EndpointId { namespace: "ns".to_owned(), name: format!("e{index}") },
                endpoint: Endpoint {
                    interface: INTERFACES[index].to_owned(),
                    mac: None,
                    addresses: addresses.to_vec(),
                    profiles,
                    tiers: tiers.into(),
                    published: published
                        .into_iter()
                        .map(|(host, port)| published_port(host, port, addresses))
                        .collect(),
                    ..Endpoint::default()
                },
            }
        },
    )
}

/// Any instruction at all.
pub(crate) fn any_instruction() -> impl Strategy<Value = Instruction> {
    let hosts = prop::collection::btree_set(select(&ADDRESSES), 0..3).prop_map(|addresses| {
        let mut addresses: Vec<_> = addresses.iter().map(|address| address.parse().expect("an address")).collect();
        addresses.sort_unstable();
        Instruction::Hosts { addresses }
    });
    prop_oneof![
        20 => instruction(),
        4 => host_endpoint(),
        1 => select(&HOST_ENDPOINTS)
            .prop_map(|id| Instruction::HostEndpointRemove { id: HostEndpointId(id.to_owned()) }),
        2 => settings().prop_map(Instruction::Settings),
        1 => hosts,
    ]
}

/// Any instruction about workloads.
pub(crate) fn instruction() -> impl Strategy<Value = Instruction> {
    let members = || prop::collection::btree_set(net(), 0..5);
    let ports = || prop::collection::btree_set(port_member(), 0..4);
    let host_action = select(&[HostAction::Drop, HostAction::Accept, HostAction::Return][..]);
    prop_oneof![
        3 => (set_id(), members()).prop_map(|(id, members)| Instruction::SetReplace { id, members: members.into_iter().collect() }),
        4 => (set_id(), members(), members()).prop_map(|(id, added, removed)| Instruction::SetDelta {
            id,
            added: added.difference(&removed).copied().collect(),
            removed: removed.into_iter().collect(),
        }),
        2 => (port_set_id(), ports()).prop_map(|(id, members)| Instruction::SetReplace {
            id,
            members: Members::Ports(members.into_iter().collect()),
        }),
        2 => (port_set_id(), ports(), ports()).prop_map(|(id, added, removed)| Instruction::SetDelta {
            id,
            added: Members::Ports(added.difference(&removed).copied().collect()),
            removed: Members::Ports(removed.into_iter().collect()),
        }),
        1 => prop_oneof![set_id(), port_set_id()].prop_map(|id| Instruction::SetRemove { id }),
        5 => (policy_id(), rules()).prop_map(|(id, rules)| Instruction::PolicyUpdate { id, rules: rules.into() }),
        1 => policy_id().prop_map(|id| Instruction::PolicyRemove { id }),
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
            1 => select(&["eth0", "eth1"][..]).prop_map(|name| Hop::Interface(name.to_owned())),
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
