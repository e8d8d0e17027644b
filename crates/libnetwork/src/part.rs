//! Which address of a part of a pool to try next (`docker network create --ip-range`).
//!
//! IPAM assigns from whole blocks of a pool; a part is anything. So addresses are asked for one by one, in an order that
//! keeps to blocks as long as it can: those of this node, then blocks that nobody has, then single addresses of other
//! nodes' blocks, which cost a route each. Pure.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use ipnet::{IpAddrRange, IpNet, Ipv4AddrRange, Ipv6AddrRange};

/// A block of a pool that exists.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// Its range.
    pub cidr: IpNet,
    /// True if it is this node's.
    pub own: bool,
    /// Addresses that cannot be had.
    pub used: BTreeSet<IpAddr>,
}

/// Addresses of a part that look free, best first. `block_length` is the prefix length of the pool's blocks.
pub(crate) fn candidates(part: IpNet, block_length: u8, held: &[Held]) -> impl Iterator<Item = IpAddr> + '_ {
    let of = move |own: bool| {
        let blocks = held.iter().filter(move |block| block.own == own);
        blocks.flat_map(move |block| {
            let addresses = overlap(block.cidr, part).into_iter().flat_map(addresses);
            addresses.filter(|address| !block.used.contains(address))
        })
    };
    let unclaimed = blocks(part, block_length).filter(|block| !held.iter().any(|held| held.cidr == *block));
    // One of each is enough: when it is had, the block is this node's.
    let first = unclaimed.filter_map(move |block| addresses(overlap(block, part)?).next());
    of(true).chain(first).chain(of(false))
}

/// The blocks that a part touches.
fn blocks(part: IpNet, block_length: u8) -> Box<dyn Iterator<Item = IpNet>> {
    match part.subnets(block_length) {
        Ok(blocks) => Box::new(blocks),
        // The part is smaller than a block.
        Err(_) => Box::new(IpNet::new(part.addr(), block_length).ok().map(|block| block.trunc()).into_iter()),
    }
}

/// What two ranges have in common: one of them, or nothing.
fn overlap(one: IpNet, other: IpNet) -> Option<IpNet> {
    match (one.contains(&other), other.contains(&one)) {
        (true, _) => Some(other),
        (_, true) => Some(one),
        _ => None,
    }
}

/// All addresses of a range. The first of an IPv6 range is the routers' (RFC 4291 §2.6.1), unless it is the only one.
fn addresses(net: IpNet) -> IpAddrRange {
    match net {
        IpNet::V4(net) => IpAddrRange::V4(Ipv4AddrRange::new(net.network(), net.broadcast())),
        IpNet::V6(net) => {
            let first = u128::from(net.network()) + u128::from(net.prefix_len() < 128);
            IpAddrRange::V6(Ipv6AddrRange::new(Ipv6Addr::from(first), net.broadcast()))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn held(cidr: &str, own: bool, used: &[&str]) -> Held {
        Held { cidr: cidr.parse().unwrap(), own, used: used.iter().map(|text| text.parse().unwrap()).collect() }
    }

    fn first(part: &str, length: u8, held: &[Held], count: usize) -> Vec<String> {
        candidates(part.parse().unwrap(), length, held).take(count).map(|address| address.to_string()).collect()
    }

    #[test]
    fn own_blocks_come_first_and_other_nodes_last() {
        let blocks = [
            held("10.7.0.0/26", false, &["10.7.0.0"]),
            held("10.7.0.64/26", true, &["10.7.0.64", "10.7.0.65"]),
            held("10.9.0.0/26", true, &[]),
        ];
        let found = first("10.7.0.0/24", 26, &blocks, 1000);
        assert_eq!(found[..2], ["10.7.0.66", "10.7.0.67"]);
        assert_eq!(found[62..65], ["10.7.0.128", "10.7.0.192", "10.7.0.1"]);
        assert_eq!(found.len(), 62 + 2 + 63);
    }

    #[test]
    fn a_part_within_a_block_is_all_there_is() {
        assert_eq!(first("10.7.0.8/30", 26, &[], 9), ["10.7.0.8"], "the rest follows when the block is there");
        let block = [held("10.7.0.0/26", true, &["10.7.0.8"])];
        assert_eq!(first("10.7.0.8/30", 26, &block, 9), ["10.7.0.9", "10.7.0.10", "10.7.0.11"]);
        let full = [held("10.7.0.0/26", true, &["10.7.0.8", "10.7.0.9", "10.7.0.10", "10.7.0.11"])];
        assert!(first("10.7.0.8/30", 26, &full, 9).is_empty());
    }

    #[test]
    fn a_large_part_costs_no_more_than_what_is_taken_of_it() {
        assert_eq!(first("fd00:7::/64", 122, &[], 2), ["fd00:7::1", "fd00:7::41"]);
    }
}
