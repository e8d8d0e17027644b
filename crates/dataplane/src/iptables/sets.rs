//! Sets and their members as ipset writes them.
//!
//! The kernel's hash sets of networks take overlaps but no network of length 0, so that one is written as its two
//! halves, and a range as the networks that make it up. Its hash sets of addresses take every address but the
//! unspecified one, so that a set with that one is a set of networks. Sets of ports and of protocols, and maps, need no counterpart: rules
//! name what is in them.

use std::{collections::HashSet, net::IpAddr};

use calico_policy::{instruction::PortMember, packet::protocol_word};
use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use super::model::{Elements, ModelSet};
use crate::{
    family::Family,
    family::Range,
    ruleset::{Data, Key},
};

/// Most members of a set. Felix' default (`MaxIpsetSize`).
const MOST: u32 = 1 << 20;

/// The type of a set with its options, as [`super::save::SavedSet::kind`] has it; `None` if it needs none.
pub(super) fn kind(family: Family, set: &ModelSet) -> Option<String> {
    let inet = match family {
        Family::V4 => "inet",
        Family::V6 => "inet6",
    };
    match set.spec.key {
        _ if set.spec.data != Data::None => None,
        Key::Address(_) if set.spec.interval || has_unspecified(&set.elements) => {
            Some(format!("hash:net family {inet}"))
        }
        Key::Address(_) => Some(format!("hash:ip family {inet}")),
        Key::PortMember(_) => Some(format!("hash:ip,port family {inet}")),
        Key::Port | Key::Protocol | Key::InterfaceName | Key::ProtocolPort | Key::Twice(_) => None,
    }
}

fn has_unspecified(elements: &Elements) -> bool {
    matches!(elements, Elements::Ranges(ranges) if ranges.first().is_some_and(|(first, _)| *first == 0))
}

/// The line that creates a set of a kind.
pub(super) fn create(name: &str, kind: &str) -> String {
    format!("create {name} {kind} maxelem {MOST}\n")
}

/// Members as text. The kernel keeps no member with the unspecified address or port 0: there is nothing to be reached
/// there.
pub(super) fn members(family: Family, elements: &Elements) -> HashSet<String> {
    match elements {
        Elements::Ranges(ranges) => ranges.iter().flat_map(|range| networks(family, *range)).collect(),
        Elements::Ports(ports) => {
            ports.iter().filter(|member| !member.address.is_unspecified() && member.port > 0).map(port).collect()
        }
        Elements::Targets(_) | Elements::Published(_) => HashSet::new(),
    }
}

/// The networks that make up a range, none of length 0.
fn networks(family: Family, (first, last): Range) -> Vec<String> {
    let mut networks: Vec<IpNet> = match (family.address(first), family.address(last)) {
        (IpAddr::V4(first), IpAddr::V4(last)) => Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect(),
        (IpAddr::V6(first), IpAddr::V6(last)) => Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect(),
        _ => Vec::new(),
    };
    if let [everything] = networks.as_slice()
        && everything.prefix_len() == 0
        && let Ok(halves) = everything.subnets(1)
    {
        networks = halves.collect();
    }
    let text = |net: IpNet| match net.prefix_len() == net.max_prefix_len() {
        true => net.addr().to_string(),
        false => net.to_string(),
    };
    networks.into_iter().map(text).collect()
}

fn port(member: &PortMember) -> String {
    format!("{},{}:{}", member.address, protocol_word(member.protocol), member.port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::SetSpec;

    fn set(key: Key, ranges: &[Range]) -> ModelSet {
        ModelSet { spec: SetSpec::set(key, true), elements: Elements::Ranges(ranges.iter().copied().collect()) }
    }

    fn sorted(family: Family, set: &ModelSet) -> Vec<String> {
        let mut members: Vec<String> = members(family, &set.elements).into_iter().collect();
        members.sort();
        members
    }

    #[test]
    fn ranges_become_networks_and_everything_two_halves() {
        let v4 = Key::Address(Family::V4);
        assert_eq!(sorted(Family::V4, &set(v4, &[(0, u128::from(u32::MAX))])), ["0.0.0.0/1", "128.0.0.0/1"]);
        let odd = set(v4, &[(0x0a00_0001, 0x0a00_0004), (0x0a00_0100, 0x0a00_01ff)]);
        assert_eq!(sorted(Family::V4, &odd), ["10.0.0.1", "10.0.0.2/31", "10.0.0.4", "10.0.1.0/24"]);
        let all = set(Key::Address(Family::V6), &[(0, u128::MAX)]);
        assert_eq!(sorted(Family::V6, &all), ["8000::/1", "::/1"]);
        assert_eq!(kind(Family::V4, &set(Key::Port, &[(80, 82)])), None, "rules name the ports");
    }

    #[test]
    fn the_unspecified_address_makes_it_a_set_of_networks() {
        let hash = |family, ranges: &[Range]| {
            let mut set = set(Key::Address(family), ranges);
            set.spec.interval = false;
            kind(family, &set).expect("a set of ipset")
        };
        assert_eq!(hash(Family::V4, &[(1, 1), (9, 9)]), "hash:ip family inet");
        assert_eq!(hash(Family::V4, &[(0, 0), (9, 9)]), "hash:net family inet");
        assert_eq!(hash(Family::V6, &[(0, 0)]), "hash:net family inet6");
        let odd = |address: &str, port| PortMember { address: address.parse().expect("an address"), protocol: 6, port };
        let ports = Elements::Ports([odd("0.0.0.0", 80), odd("10.0.0.1", 0), odd("10.0.0.1", 80)].into());
        assert_eq!(members(Family::V4, &ports), HashSet::from(["10.0.0.1,tcp:80".to_owned()]));
    }

    #[test]
    fn members_with_ports_name_their_protocol_as_ipset_does() {
        let member = |protocol| PortMember { address: "10.0.0.1".parse().expect("an address"), protocol, port: 80 };
        assert_eq!(port(&member(6)), "10.0.0.1,tcp:80");
        assert_eq!(port(&member(132)), "10.0.0.1,sctp:80");
    }
}
