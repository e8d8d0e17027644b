//! Two hosts, workloads on both, and two neighbours: the set-up of the reference's cases.
//!
//! Hosts A (192.0.2.1) and B (192.0.2.2) and the outsider X (192.0.2.9) are on one network; Y (198.51.100.2) is behind
//! A's second interface and A's default gateway. Workloads w0, w1 and w3 are on A, w2 is on B. A table of A's user
//! translates ports 32010 and 32011 of A, and a service address, to w0 and w1; Y has one address of the service range.

use std::{io, net::IpAddr};

use serde_json::{Value, json};

use crate::{
    Host, Namespace, Place, Rig,
    topology::{Party, Role, workload_inside, workload_wire},
};

/// Places by name, in the order of their indices.
pub const PLACES: [&str; 8] = ["w0", "w1", "w3", "w2", "A", "B", "X", "Y"];

/// Name, host, and what the addresses end in.
const WORKLOADS: [(&str, usize, &str); 4] =
    [("w0", 0, "0.10"), ("w1", 0, "0.11"), ("w3", 0, "0.12"), ("w2", 1, "1.10")];

/// The node names of A and B.
pub const NODES: [&str; 2] = ["a", "b"];

/// The address by which a place is called.
///
/// # Panics
/// If there is no such place.
pub fn address(place: usize, family: u8) -> IpAddr {
    let (v4, v6) = match PLACES[place] {
        "A" => ("192.0.2.1".to_owned(), "fd00:2::1".to_owned()),
        "B" => ("192.0.2.2".to_owned(), "fd00:2::2".to_owned()),
        "X" => ("192.0.2.9".to_owned(), "fd00:2::9".to_owned()),
        "Y" => ("198.51.100.2".to_owned(), "fd00:3::2".to_owned()),
        _ => {
            let end = WORKLOADS[place].2;
            let (network, host) = end.split_once('.').expect("it has two parts");
            let network = if network == "0" { "fd65::" } else { "fd65:1::" };
            (format!("10.65.{end}"), format!("{network}{host}"))
        }
    };
    let text = if family == 4 { v4 } else { v6 };
    text.parse().expect("these are addresses")
}

/// The workload endpoints, in the form that [`Cluster`](crate::scenario::Cluster) takes: label `name`, profile
/// `default`, port `shared`; w0 has a second one, and one of UDP.
pub fn endpoints() -> Vec<Value> {
    let ports = |name: &str| {
        let mut ports = json!([
            {"name": "shared", "protocol": "TCP", "port": 1100},
            {"name": "shared-udp", "protocol": "UDP", "port": 2200},
        ]);
        if let (true, Some(ports)) = (name == "w0", ports.as_array_mut()) {
            ports.push(json!({"name": "w0-port", "protocol": "TCP", "port": 1000}));
        }
        ports
    };
    let endpoint = |(place, (name, host, _)): (usize, &(&str, usize, &str))| {
        json!({
            "name": name, "namespace": "default", "node": NODES[*host], "labels": {"name": name},
            "interface": format!("cali{name}"), "mac": party(place).mac(), "profiles": ["default"],
            "ports": ports(name), "ipv4": [address(place, 4)], "ipv6": [address(place, 6)],
        })
    };
    WORKLOADS.iter().enumerate().map(endpoint).collect()
}

/// What stands beside them.
pub fn resources() -> Vec<Value> {
    let resource = |kind: &str, name: &str, spec: Value| json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let open = json!([{"action": "Allow"}]);
    vec![
        resource("Node", "a", json!({"bgp": {"ipv4Address": "192.0.2.1/24", "ipv6Address": "fd00:2::1/64"}})),
        resource("Node", "b", json!({"bgp": {"ipv4Address": "192.0.2.2/24", "ipv6Address": "fd00:2::2/64"}})),
        resource("IPPool", "pool4", json!({"cidr": "10.65.0.0/16", "natOutgoing": false})),
        resource("IPPool", "pool6", json!({"cidr": "fd65::/16", "natOutgoing": false})),
        resource("Profile", "default", json!({"ingress": open.clone(), "egress": open})),
    ]
}

fn party(place: usize) -> Party {
    Party {
        name: PLACES[place].to_owned(),
        interface: format!("cali{}", PLACES[place]),
        role: Role::Workload(u8::try_from(place).expect("there are few")),
        addresses: vec![address(place, 4), address(place, 6)],
        spare: Vec::new(),
    }
}

/// Builds it and starts the agents of A and B.
///
/// # Errors
/// As [`Rig::new`].
pub fn build(tcp: &[u16], udp: &[u16]) -> io::Result<Rig> {
    let wire = Namespace::new()?;
    wire.sh("ip link add br0 type bridge && ip link set br0 up")?;
    let names = [
        ("A", "192.0.2.1/24", "fd00:2::1/64"),
        ("B", "192.0.2.2/24", "fd00:2::2/64"),
        ("X", "192.0.2.9/24", "fd00:2::9/64"),
    ];
    let mut on_wire = Vec::new();
    for (name, v4, v6) in names {
        let namespace = Namespace::new()?;
        wire.sh(&format!(
            "ip link add {name} type veth peer name eth0 netns {} && ip link set {name} master br0 up",
            namespace.path()
        ))?;
        namespace
            .sh(&format!("ip address add {v4} dev eth0\nip address add {v6} dev eth0 nodad\nip link set eth0 up"))?;
        on_wire.push(namespace);
    }
    let [a, b, x] = <[Namespace; 3]>::try_from(on_wire).expect("three were made");
    let y = Namespace::new()?;
    a.sh(&format!("ip link add eth1 type veth peer name eth0 netns {}\n{A}", y.path()))?;
    b.sh(B)?;
    x.sh(X)?;
    y.sh(Y)?;
    let mut places = Vec::new();
    for (place, (name, host, _)) in WORKLOADS.iter().enumerate() {
        let (namespace, party) = (Namespace::new()?, party(place));
        [&a, &b][*host].sh(&workload_wire(&party, &namespace.path()))?;
        namespace.sh(&workload_inside(&party))?;
        places.push(Place { name: (*name).to_owned(), namespace, addresses: party.addresses });
    }
    for namespace in [&a, &b] {
        namespace.sh(crate::topology::ALL_UP)?;
    }
    let hosts = vec![Host::new(NODES[0], a.try_clone()?), Host::new(NODES[1], b.try_clone()?)];
    for (place, namespace) in (WORKLOADS.len()..).zip([a, b, x, y]) {
        let mut addresses = vec![address(place, 4), address(place, 6)];
        let more: &[&str] = match PLACES[place] {
            "A" => &["198.51.100.1", "fd00:3::1", "127.0.0.1"],
            "Y" => &["10.96.0.5"],
            _ => &[],
        };
        addresses.extend(more.iter().map(|address| address.parse::<IpAddr>().expect("these are addresses")));
        places.push(Place { name: PLACES[place].to_owned(), namespace, addresses });
    }
    Rig::of(places, hosts, vec![wire], tcp, udp)
}

const A: &str = "
    echo 1 > /proc/sys/net/ipv4/ip_forward
    echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
    ip address add 198.51.100.1/24 dev eth1
    ip address add fd00:3::1/64 dev eth1 nodad
    ip link set eth1 up
    ip route add 10.65.1.0/26 via 192.0.2.2
    ip -6 route add fd65:1::/64 via fd00:2::2
    ip route add default via 198.51.100.2
    ip -6 route add default via fd00:3::2
    nft -f - <<END
    table ip users {
        chain translate {
            ip daddr 192.0.2.1 tcp dport 32010 dnat to 10.65.0.10:8055
            ip daddr 192.0.2.1 tcp dport 32011 dnat to 10.65.0.11:8055
            ip daddr 10.96.0.10 tcp dport 8055 dnat to 10.65.0.10:8055
        }
        chain prerouting { type nat hook prerouting priority dstnat; policy accept; jump translate; }
        chain output { type nat hook output priority -100; policy accept; jump translate; }
    }
    table ip6 users {
        chain translate {
            ip6 daddr fd00:2::1 tcp dport 32010 dnat to [fd65::10]:8055
            ip6 daddr fd00:2::1 tcp dport 32011 dnat to [fd65::11]:8055
        }
        chain prerouting { type nat hook prerouting priority dstnat; policy accept; jump translate; }
        chain output { type nat hook output priority -100; policy accept; jump translate; }
    }
END
";
const B: &str = "
    echo 1 > /proc/sys/net/ipv4/ip_forward
    echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
    ip route add 10.65.0.0/26 via 192.0.2.1
    ip -6 route add fd65::/64 via fd00:2::1
    ip route add default via 192.0.2.1
    ip -6 route add default via fd00:2::1
";
const X: &str = "
    ip route add 10.65.1.0/26 via 192.0.2.2
    ip -6 route add fd65:1::/64 via fd00:2::2
    ip route add default via 192.0.2.1
    ip -6 route add default via fd00:2::1
";
const Y: &str = "
    ip link set eth0 up
    ip address add 198.51.100.2/24 dev eth0
    ip address add fd00:3::2/64 dev eth0 nodad
    ip route add default via 198.51.100.1
    ip -6 route add default via fd00:3::1
    ip address add 10.96.0.5/32 dev lo
";
