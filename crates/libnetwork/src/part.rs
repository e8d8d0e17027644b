//! Which address of a part of a pool to try next (`docker network create --ip-range`).
//!
//! IPAM assigns from whole blocks of a pool; a part is anything. So addresses are asked for one by one, in an order that
//! keeps to blocks as long as it can: those of this node, then blocks that nobody has, then single addresses of other
//! nodes' blocks, which cost a route each. Pure.

use std::{
    collections::BTreeSet,
    iter,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use calico_ipam::Reservations;
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

/// Addresses of a part that look free, best first. `block_length` is the prefix length of the pool's blocks, `reserved`
/// what people keep from assignment.
pub(crate) fn candidates<'a>(
    part: IpNet,
    block_length: u8,
    held: &'a [Held],
    reserved: &'a Reservations,
) -> impl Iterator<Item = IpAddr> + 'a {
    let of = move |own: bool| {
        let blocks = held.iter().filter(move |block| block.own == own);
        blocks.flat_map(move |block| {
            let addresses = overlap(block.cidr, part).into_iter().flat_map(addresses);
            addresses.filter(|address| !block.used.contains(address) && !reserved.contains(*address))
        })
    };
    of(true).chain(of_unclaimed(part, block_length, held, reserved)).chain(of(false))
}

/// The first address of each block that nobody has. One of each is enough: when it is had, the block is this node's.
/// Claimed blocks and reserved ranges are each passed over in one step, however large the part is.
fn of_unclaimed<'a>(
    part: IpNet,
    block_length: u8,
    held: &[Held],
    reserved: &'a Reservations,
) -> impl Iterator<Item = IpAddr> + 'a {
    let claimed: BTreeSet<IpNet> = held.iter().map(|block| block.cidr).collect();
    let mut next = Some(part.network());
    iter::from_fn(move || {
        while let Some(at) = next.filter(|at| part.contains(at)) {
            let block = IpNet::new(at, block_length).ok()?.trunc();
            let range = overlap(block, part)?;
            next = after(range);
            if claimed.contains(&block) {
                continue;
            }
            let free = reserved.first_free_from(addresses(range).next()?);
            if free.is_some_and(|free| range.contains(&free)) {
                return free;
            }
            next = free;
        }
        None
    })
}

/// The address that follows a range.
fn after(range: IpNet) -> Option<IpAddr> {
    match range.broadcast() {
        IpAddr::V4(last) => u32::from(last).checked_add(1).map(|next| Ipv4Addr::from(next).into()),
        IpAddr::V6(last) => u128::from(last).checked_add(1).map(|next| Ipv6Addr::from(next).into()),
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
        unreserved(part, length, held, &[], count)
    }

    fn unreserved(part: &str, length: u8, held: &[Held], reserved: &[&str], count: usize) -> Vec<String> {
        let reserved = Reservations::new(reserved.iter().map(|text| text.parse().unwrap()));
        let found = candidates(part.parse().unwrap(), length, held, &reserved);
        found.take(count).map(|address| address.to_string()).collect()
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

    #[test]
    fn what_is_reserved_is_passed_over() {
        assert_eq!(
            unreserved("10.7.0.0/24", 26, &[], &["10.7.0.0/32", "10.7.0.64/26", "10.7.0.130/32"], 9),
            ["10.7.0.1", "10.7.0.128", "10.7.0.192"],
        );
        assert_eq!(unreserved("10.7.0.8/30", 26, &[], &["10.7.0.8/31"], 9), ["10.7.0.10"], "within a block");
        let claimed = [held("10.7.0.0/26", true, &["10.7.0.0"])];
        assert_eq!(unreserved("10.7.0.0/30", 26, &claimed, &["10.7.0.2/32"], 9), ["10.7.0.1", "10.7.0.3"]);
        assert!(unreserved("10.7.0.0/24", 26, &[], &["10.7.0.0/16"], 9).is_empty());
        assert!(unreserved("255.255.255.0/24", 26, &[], &["255.255.255.0/24"], 9).is_empty(), "nothing follows");
    }

    #[test]
    fn a_large_reservation_costs_no_more_than_a_small_one() {
        let half = ["fd00:7::/65"];
        assert_eq!(unreserved("fd00:7::/64", 122, &[], &half, 2), ["fd00:7::8000:0:0:1", "fd00:7::8000:0:0:41"]);
        assert!(unreserved("fd00:7::/64", 122, &[], &["fd00:7::/65", "fd00:7:0:0:8000::/65"], 2).is_empty());
    }
}
