//! The host of `vectors/verdicts.md` with all that hangs on it, read from the first element of `verdicts.json`.
//!
//! What the page says and this follows: workloads behind veth pairs with a fixed host end MAC, two neighbours of the
//! host on networks of their own, a management interface with the lowest index, a table of the user's that translates
//! destinations. Neighbour entries are permanent everywhere, so that no verdict depends on the age of a cache.

use std::{fs, io, net::IpAddr, path::PathBuf};

use serde_json::Value;

use crate::{Namespace, prober::Place};

/// The MAC address of every host end.
const HOST_END: &str = "ee:ee:ee:ee:ee:ee";
/// The link-local address that follows from it.
const GATEWAY_V6: &str = "fe80::ecee:eeff:feee:eeee";
/// The IPv4 gateway of workloads.
const GATEWAY_V4: &str = "169.254.1.1";
/// The management interface; IPv4 from the host to workloads comes from here.
const MANAGEMENT: &str = "172.18.0.11";

/// Waits until every veth pair of a namespace has a carrier.
pub(crate) const ALL_UP: &str = "for try in $(seq 500); do
         [ -z \"$(ip -o link show type veth | grep -v 'state UP')\" ] && exit 0; sleep 0.01
     done; ip -o link; exit 1";

/// The text of a file among the vectors: of the folder that the environment variable VECTORS names, or else of the
/// repository's own.
///
/// # Errors
/// It cannot be read; a missing file is a failure.
pub fn vectors(file: &str) -> io::Result<String> {
    let folder = std::env::var_os("VECTORS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors")), PathBuf::from);
    let path = folder.join(file);
    fs::read_to_string(&path).map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
}

/// The members of a list, none if there is no list.
pub fn list<'a>(value: &'a Value, member: &str) -> &'a [Value] {
    value[member].as_array().map_or(&[], Vec::as_slice)
}

/// A text, empty if there is none.
pub fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_default()
}

/// Addresses in a list.
fn addresses(value: &Value, member: &str) -> Vec<IpAddr> {
    list(value, member).iter().filter_map(|address| address.as_str()?.parse().ok()).collect()
}

/// What hangs on the host.
#[derive(Clone, Debug)]
pub struct Topology {
    /// The agent's node name.
    pub node: String,
    /// Workloads, then neighbours, then the host itself.
    pub parties: Vec<Party>,
    /// Ports on which all of them listen.
    pub tcp: Vec<u16>,
    /// The same for UDP.
    pub udp: Vec<u16>,
    /// Rules of the user's that translate destinations.
    pub translations: Vec<Translation>,
}

/// Somebody who sends and receives.
#[derive(Clone, Debug)]
pub struct Party {
    /// What probes call it.
    pub name: String,
    /// The host's interface to it; empty for the host itself.
    pub interface: String,
    /// What it is.
    pub role: Role,
    /// Its addresses; the first of a family is the one it is called by.
    pub addresses: Vec<IpAddr>,
    /// Further addresses that are never chosen as a source by themselves.
    pub spare: Vec<IpAddr>,
}

/// What a party is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Behind a workload interface; the number gives its MAC address.
    Workload(u8),
    /// On a network with the host, which has these addresses there.
    Neighbour(Vec<IpAddr>),
    /// The host.
    Host,
}

/// TCP to a port of the host goes elsewhere.
#[derive(Clone, Debug)]
pub struct Translation {
    /// The host's address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Where it goes.
    pub to: IpAddr,
    /// At which port.
    pub to_port: u16,
}

impl Party {
    /// The address of a family (4 or 6) by which it is called.
    pub fn address(&self, family: u8) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv4() == (family == 4))
    }

    /// The MAC address of a workload.
    pub fn mac(&self) -> Option<String> {
        match self.role {
            Role::Workload(number) => Some(format!("02:00:00:00:00:{number:02x}")),
            Role::Neighbour(_) | Role::Host => None,
        }
    }
}

impl Topology {
    /// As the first element of `verdicts.json` says.
    ///
    /// # Panics
    /// If it has no node or a number that is none.
    pub fn of_header(header: &Value) -> Self {
        let topology = &header["topology"];
        let pair = |value: &Value, v4: &str, v6: &str| -> Vec<IpAddr> {
            [v4, v6].iter().filter_map(|member| text(value, member).parse().ok()).collect()
        };
        let mut parties = Vec::new();
        for (number, endpoint) in (0..).zip(list(header, "endpoints")) {
            let name = text(endpoint, "name").to_owned();
            parties.push(Party {
                interface: format!("cali{name}"),
                name,
                role: Role::Workload(number),
                addresses: [addresses(endpoint, "ipv4"), addresses(endpoint, "ipv6")].concat(),
                spare: addresses(endpoint, "spare"),
            });
        }
        let mut own = Vec::new();
        for outside in list(topology, "outside") {
            let ours = pair(outside, "host4", "host6");
            own.extend(&ours);
            parties.push(Party {
                name: text(outside, "name").to_owned(),
                interface: text(outside, "interface").to_owned(),
                role: Role::Neighbour(ours),
                addresses: [pair(outside, "ipv4", "ipv6"), addresses(outside, "more")].concat(),
                spare: Vec::new(),
            });
        }
        let host = &topology["host"];
        own.extend([MANAGEMENT, "127.0.0.1", "::1"].map(|address| address.parse::<IpAddr>().expect("it is one")));
        parties.push(Party {
            name: text(host, "name").to_owned(),
            interface: String::new(),
            role: Role::Host,
            addresses: own,
            spare: Vec::new(),
        });
        let port = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok()).expect("ports are numbers");
        let translations = list(topology, "dnat").iter().map(|rule| Translation {
            address: text(rule, "address").parse().expect("an address"),
            port: port(&rule["port"]),
            to: text(rule, "to").parse().expect("an address"),
            to_port: port(&rule["to_port"]),
        });
        Self {
            node: text(host, "node").to_owned(),
            parties,
            tcp: list(topology, "tcp").iter().map(port).collect(),
            udp: list(topology, "udp").iter().map(port).collect(),
            translations: translations.collect(),
        }
    }

    /// The index of a party.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.parties.iter().position(|party| party.name == name)
    }

    /// Makes namespaces and wires for all parties; the places, the namespace of the host once more, and one that must
    /// live as long.
    ///
    /// # Errors
    /// A command failed; it says which.
    pub fn build(&self) -> io::Result<(Vec<Place>, Namespace, Namespace)> {
        let host = Namespace::new()?;
        host.sh("echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")?;
        // Where it leads to does not matter: nobody is there.
        let nowhere = Namespace::new()?;
        let mut wires = format!(
            "ip link add eth0 type veth peer name eth0 netns {}\n\
             ip address add {MANAGEMENT}/24 dev eth0\n ip link set eth0 up\n",
            nowhere.path()
        );
        let mut places = Vec::new();
        for party in &self.parties {
            let namespace = match party.role {
                Role::Host => host.try_clone()?,
                Role::Workload(_) | Role::Neighbour(_) => Namespace::new()?,
            };
            let peer = namespace.path();
            match &party.role {
                Role::Host => {}
                Role::Workload(_) => wires += &workload_wire(party, &peer),
                Role::Neighbour(ours) => wires += &neighbour_wire(party, ours, &peer),
            }
            let addresses = party.addresses.iter().chain(&party.spare).copied().collect();
            places.push(Place { name: party.name.clone(), namespace, addresses });
        }
        host.sh(&wires)?;
        nowhere.sh("ip link set eth0 up")?;
        for (party, place) in self.parties.iter().zip(&places) {
            match &party.role {
                Role::Host => {}
                Role::Workload(_) => drop(place.namespace.sh(&workload_inside(party))?),
                Role::Neighbour(ours) => drop(place.namespace.sh(&neighbour_inside(party, ours))?),
            }
        }
        host.sh(&self.user_rules())?;
        // The carrier is reported by a work queue of the kernel; only then has IPv6 an address there.
        host.sh(ALL_UP)?;
        let first = self.parties.iter().find(|party| matches!(party.role, Role::Neighbour(_)));
        for family in [4, 6] {
            if let Some(gateway) = first.and_then(|party| party.address(family)) {
                host.sh(&format!("ip -{family} route add default via {gateway}"))?;
            }
        }
        Ok((places, host, nowhere))
    }

    /// The user's table.
    fn user_rules(&self) -> String {
        let mut rules = String::from("nft -f - <<END\n");
        for (family, ip) in [(4, "ip"), (6, "ip6")] {
            rules += &format!(
                "table {ip} users {{\n chain prerouting {{\n  type nat hook prerouting priority dstnat; policy accept;\n"
            );
            for rule in self.translations.iter().filter(|rule| crate::wire::family(rule.address) == family) {
                let to = std::net::SocketAddr::new(rule.to, rule.to_port);
                rules += &format!("  {ip} daddr {} tcp dport {} dnat to {to}\n", rule.address, rule.port);
            }
            rules += " }\n}\n";
        }
        rules + "END\n"
    }
}

pub(crate) fn workload_wire(party: &Party, peer: &str) -> String {
    let (interface, mac) = (&party.interface, party.mac().unwrap_or_default());
    format!(
        "ip link add {interface} address {HOST_END} type veth peer name eth0 address {mac} netns {peer}\n\
         ip link set {interface} up\n"
    )
}

pub(crate) fn workload_inside(party: &Party) -> String {
    let mut script = String::from("ip link set eth0 up\n");
    for (addresses, life) in [(&party.addresses, ""), (&party.spare, " preferred_lft 0")] {
        for address in addresses {
            let bits = if address.is_ipv4() { "32" } else { "128 nodad" };
            let life = if bits.starts_with("128") { life } else { "" };
            let (length, flag) = bits.split_once(' ').unwrap_or((bits, ""));
            script += &format!("ip address add {address}/{length} dev eth0 {flag}{life}\n");
        }
    }
    script
        + &format!(
            "ip route add {GATEWAY_V4} dev eth0 scope link\n ip route add default via {GATEWAY_V4} dev eth0\n\
             ip neighbour add {GATEWAY_V4} lladdr {HOST_END} dev eth0 nud permanent\n\
             ip neighbour add {GATEWAY_V6} lladdr {HOST_END} dev eth0 nud permanent\n\
             ip -6 route add default via {GATEWAY_V6} dev eth0\n"
        )
}

/// The MAC addresses at the host's and the neighbour's end of the wire between them.
fn macs(party: &Party) -> [String; 2] {
    let number = party.interface.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0_u8);
    ["01", "02"].map(|end| format!("02:00:00:01:{number:02x}:{end}"))
}

fn neighbour_wire(party: &Party, ours: &[IpAddr], peer: &str) -> String {
    let interface = &party.interface;
    let [here, there] = macs(party);
    let mut script = format!(
        "ip link add {interface} address {here} type veth peer name eth0 address {there} netns {peer}\n\
         ip link set {interface} up\n"
    );
    for address in ours {
        script += &on_link(*address, interface);
    }
    for address in &party.addresses {
        script += &format!("ip neighbour add {address} lladdr {there} dev {interface} nud permanent\n");
    }
    script
}

fn neighbour_inside(party: &Party, ours: &[IpAddr]) -> String {
    let [here, _] = macs(party);
    let mut script = String::from("ip link set eth0 up\n");
    // The last address that is added to an interface is the first that IPv6 chooses.
    for address in party.addresses.iter().filter(|address| address.is_ipv4()) {
        script += &on_link(*address, "eth0");
    }
    for address in party.addresses.iter().rev().filter(|address| address.is_ipv6()) {
        script += &on_link(*address, "eth0");
    }
    for address in ours {
        script += &format!("ip neighbour add {address} lladdr {here} dev eth0 nud permanent\n");
        let family = crate::wire::family(*address);
        script += &format!("ip -{family} route add default via {address} dev eth0\n");
    }
    script
}

fn on_link(address: IpAddr, interface: &str) -> String {
    let bits = if address.is_ipv4() { "24" } else { "64" };
    let flag = if address.is_ipv4() { "" } else { " nodad" };
    format!("ip address add {address}/{bits} dev {interface}{flag}\n")
}
