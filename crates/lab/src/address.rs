//! Which address a host has.
//!
//! Hosts sit on segments, each a bridge of the lab's switch with a subnet per family. The switch is the router of every
//! segment (`.1`) and forwards between them; it has no way out, and answers for everything else that it is unreachable.
//! Since every lab has namespaces of its own, all labs use the same addresses and never meet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The place of a host: segment and number on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Place {
    /// Number of the segment, from 0.
    pub segment: u8,
    /// Number on the segment; 1 is the switch, hosts follow from 11.
    pub number: u8,
}

impl Place {
    /// Length of a segment's IPv4 prefix in bits.
    pub const PREFIX4: u8 = 24;
    /// Length of a segment's IPv6 prefix in bits.
    pub const PREFIX6: u8 = 64;

    /// The switch on a segment.
    pub fn router(segment: u8) -> Self {
        Self { segment, number: 1 }
    }

    /// The host that is the `index`-th of its segment, counted from 0.
    pub fn host(segment: u8, index: u8) -> Self {
        Self { segment, number: 11 + index }
    }

    /// `172.30.SEGMENT.NUMBER`.
    pub fn ipv4(self) -> Ipv4Addr {
        Ipv4Addr::new(172, 30, self.segment, self.number)
    }

    /// `fd00:172:30:SEGMENT::NUMBER`, the number in hexadecimal digits that read like the IPv4 one.
    pub fn ipv6(self) -> Ipv6Addr {
        let number = u16::from(self.number);
        let digits = ((number / 100) << 8) | ((number / 10 % 10) << 4) | (number % 10);
        Ipv6Addr::new(0xfd00, 0x172, 0x30, u16::from(self.segment), 0, 0, 0, digits)
    }

    /// Both addresses.
    pub fn addresses(self) -> [IpAddr; 2] {
        [self.ipv4().into(), self.ipv6().into()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_read_alike() {
        let place = Place::host(2, 0);
        assert_eq!(place.ipv4().to_string(), "172.30.2.11");
        assert_eq!(place.ipv6().to_string(), "fd00:172:30:2::11");
        assert_eq!(Place { segment: 0, number: 234 }.ipv6().to_string(), "fd00:172:30::234");
    }
}
