//! Addresses as numbers: families, ranges, blocks of a pool, ordinals of a block.
//!
//! Everything here is exact 128-bit arithmetic; an IPv4 address is its 32-bit value.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

/// The longest host part of a block: blocks are /20 to /32 and /116 to /128, so a block has at most 4096 addresses.
pub(crate) const MAX_BLOCK_BITS: u8 = 12;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, in the order in which requests are served.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The family of a prefix.
    pub fn of_net(net: IpNet) -> Self {
        Self::of(net.network())
    }

    /// The length of an address in bits.
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// The segment in datastore keys: `ipv4`, `ipv6`.
    pub fn segment(self) -> &'static str {
        match self {
            Self::V4 => "ipv4",
            Self::V6 => "ipv6",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// An address as a number.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address of a number; the upper bits of an IPv4 number are cut.
pub(crate) fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(number as u32).into(),
        Family::V6 => Ipv6Addr::from_bits(number).into(),
    }
}

/// First and last address of a prefix, as numbers.
pub(crate) fn bounds(net: IpNet) -> (u128, u128) {
    (number(net.network()), number(net.broadcast()))
}

/// The number of addresses of a prefix; one less than true for `::/0`, which no pool is.
pub(crate) fn size(net: IpNet) -> u128 {
    let (first, last) = bounds(net);
    (last - first).saturating_add(1)
}

/// The block with prefix length `len` that holds `address`. `len` must not exceed the family's length.
pub(crate) fn block_of(address: IpAddr, len: u8) -> IpNet {
    IpNet::new(address, len.min(Family::of(address).bits())).expect("the length was just capped").trunc()
}

/// How many blocks of prefix length `len` a pool has; 0 when the pool is smaller than one block.
pub(crate) fn block_count(pool: IpNet, len: u8) -> u128 {
    match len.checked_sub(pool.prefix_len()) {
        None => 0,
        Some(128) => u128::MAX,
        Some(bits) => 1 << bits,
    }
}

/// The block number `index` of a pool.
pub(crate) fn nth_block(pool: IpNet, len: u8, index: u128) -> IpNet {
    let family = Family::of_net(pool);
    let step = u32::from(family.bits() - len);
    block_of(address(family, number(pool.network()) + (index << step.min(127))), len)
}

/// The number of a block in its pool, `None` when it is not one of the pool's blocks.
pub(crate) fn block_index(pool: IpNet, len: u8, block: IpNet) -> Option<u128> {
    let fits = block.prefix_len() == len && Family::of_net(pool) == Family::of_net(block) && pool.contains(&block);
    let step = u32::from(Family::of_net(pool).bits() - len);
    fits.then(|| (number(block.network()) - number(pool.network())) >> step.min(127))
}

/// The address of an ordinal in a block.
pub(crate) fn nth_address(block: IpNet, ordinal: usize) -> IpAddr {
    address(Family::of_net(block), number(block.network()) + ordinal as u128)
}

/// The ordinal of an address in a block, `None` when it lies outside.
pub(crate) fn ordinal_of(block: IpNet, address: IpAddr) -> Option<usize> {
    block.contains(&address).then(|| (number(address) - number(block.network())) as usize)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn blocks_are_counted_and_found_again() {
        for (pool, len, count, index, block) in [
            ("10.10.0.0/24", 29, 32, 26, "10.10.0.208/29"),
            ("10.10.0.0/29", 29, 1, 0, "10.10.0.0/29"),
            ("0.0.0.0/0", 32, 1 << 32, (1 << 32) - 1, "255.255.255.255/32"),
            ("fd00:10::/120", 125, 32, 26, "fd00:10::d0/125"),
            ("fd00::/64", 122, 1 << 58, (1 << 58) - 1, "fd00::ffff:ffff:ffff:ffc0/122"),
        ] {
            assert_eq!(block_count(net(pool), len), count, "{pool}");
            assert_eq!(nth_block(net(pool), len, index), net(block), "{pool}");
            assert_eq!(block_index(net(pool), len, net(block)), Some(index), "{pool}");
        }
        assert_eq!(block_count(net("10.0.0.0/30"), 29), 0);
        assert_eq!(block_index(net("10.0.0.0/24"), 29, net("10.0.1.0/29")), None);
        assert_eq!(block_index(net("10.0.0.0/24"), 29, net("10.0.0.0/30")), None);
        assert_eq!(block_index(net("10.0.0.0/24"), 29, net("fd00::/29")), None);
    }

    #[test]
    fn ordinals_and_addresses_are_inverse() {
        for block in ["10.10.0.8/29", "fd00::40/122", "255.255.255.248/29"] {
            for ordinal in 0..8 {
                assert_eq!(ordinal_of(net(block), nth_address(net(block), ordinal)), Some(ordinal));
            }
        }
        assert_eq!(ordinal_of(net("10.10.0.8/29"), "10.10.0.16".parse().unwrap()), None);
        assert_eq!(ordinal_of(net("10.10.0.8/29"), "fd00::1".parse().unwrap()), None);
    }

    #[test]
    fn sizes() {
        assert_eq!(size(net("10.0.0.0/8")), 1 << 24);
        assert_eq!(size(net("fd00::/64")), 1 << 64);
        assert_eq!(size(net("::/0")), u128::MAX);
    }
}
