//! Random packets that have a chance to meet something.

use std::{collections::BTreeMap, net::IpAddr};

use calico_policy::{
    oracle::State,
    packet::{Addressed, Hop, Packet, Tracking, Transport},
};
use proptest::{prelude::*, sample::select};

use super::NODE;

fn parse(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The interfaces of the host, and their addresses.
pub(crate) fn interfaces() -> BTreeMap<String, Vec<IpAddr>> {
    let of = |name: &str, addresses: &[&str]| (name.to_owned(), addresses.iter().map(|text| parse(text)).collect());
    BTreeMap::from([
        of("lo", &["127.0.0.1", "::1"]),
        of("eth0", &["192.0.2.1", "2001:db8::1"]),
        of("eth1", &["198.51.100.1"]),
    ])
}

pub(crate) fn packet() -> impl Strategy<Value = Packet> {
    let hop = || {
        prop_oneof![
            6 => select(vec!["cali1", "cali2", "cali3"]).prop_map(|name| Hop::Interface(name.to_owned())),
            4 => select(vec!["eth0", "eth0", "eth1", "cali9"]).prop_map(|name| Hop::Interface(name.to_owned())),
            2 => Just(Hop::Host),
        ]
    };
    let four = (
        select(vec!["10.0.0.1", "10.0.0.2", "10.0.0.3", "0.0.0.0", "192.0.2.1", "192.0.2.9", "10.8.1.1"]),
        select(vec![
            "10.0.0.1",
            "10.0.0.2",
            "192.0.2.1",
            "192.0.2.2",
            "255.255.255.255",
            "10.9.9.9",
            "10.96.0.5",
            "127.0.0.1",
        ]),
    );
    let six = (
        select(vec!["fd00::1", "fd00::2", "fe80::1", "::", "2001:db8::9"]),
        select(vec!["fd00::1", "fd00::2", "2001:db8::1", "ff02::2", "fd99::9", "fd96::5"]),
    );
    let pair = prop_oneof![4 => four.boxed(), 3 => six.boxed()];
    let port = || select(vec![80_u16, 80, 443, 443, 53, 53, 60, 22, 179, 4789]);
    let transport = prop_oneof![
        6 => (select(vec![6, 17, 132]), port(), port())
            .prop_map(|(protocol, source, destination)| Transport::Ports { protocol, source, destination }),
        3 => (select(vec![8, 3, 128, 135, 134, 0]), select(vec![0, 1])).prop_map(|(icmp_type, code)| Transport::Icmp { icmp_type, code }),
        1 => select(vec![47, 47, 4, 136]).prop_map(Transport::Other),
    ];
    let tracking =
        prop_oneof![10 => Just(Tracking::New), 1 => Just(Tracking::Established), 1 => Just(Tracking::Invalid)];
    let addressed = prop::option::weighted(0.15, (any::<bool>(), port()));
    (hop(), hop(), pair, transport, (tracking, addressed)).prop_map(
        |(from, to, (source, destination), transport, (tracking, addressed))| {
            let mut packet = Packet::new(from, to, parse(source), parse(destination), transport);
            packet.tracking = tracking;
            packet.addressed = addressed.filter(|_| packet.ports().is_some()).map(|(local, port)| {
                let four = packet.source.is_ipv4();
                let address = match (four, local) {
                    (true, true) => "192.0.2.1",
                    (true, false) => "10.0.0.2",
                    (false, true) => "2001:db8::1",
                    (false, false) => "fd00::2",
                };
                Addressed { address: parse(address), port: Some(port) }
            });
            packet
        },
    )
}

/// The same packet, but from or to endpoints that exist, as far as there are any: blind packets mostly fail for their
/// source address.
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
    let is_workload = |hop: &Hop| matches!(hop, Hop::Interface(name) if name.starts_with("cali"));
    let (interface, source) = ends[dice.0 % ends.len()];
    if is_workload(&packet.from) || source.is_ipv4() != packet.destination.is_ipv4() {
        (packet.from, packet.source) = (Hop::Interface(interface.to_owned()), source);
    }
    let targets: Vec<_> = ends.iter().filter(|(_, address)| address.is_ipv4() == packet.source.is_ipv4()).collect();
    if let Some((interface, destination)) = targets.get(dice.1 % targets.len().max(1))
        && (is_workload(&packet.to) || packet.destination.is_ipv4() != packet.source.is_ipv4())
    {
        packet.destination = *destination;
        packet.to = Hop::Interface((*interface).to_owned());
    }
    if packet.addressed.is_some_and(|addressed| addressed.address.is_ipv4() != packet.source.is_ipv4()) {
        packet.addressed = None;
    }
    packet
}
