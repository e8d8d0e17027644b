//! Upstream's address checks. Go's parsers are stricter than most: no leading zeros, no zone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

pub(super) const CIDR_RULE: &str = "it must be a network such as 10.0.0.0/8 or fd00::/8, without host bits";
pub(super) const IP_RULE: &str = "it must be an address without prefix length";
pub(super) const IPV4_RULE: &str = "it must be an IPv4 address without prefix length";
pub(super) const IPV6_RULE: &str = "it must be an IPv6 address without prefix length";

pub(super) fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

pub(super) fn is_ipv4(text: &str) -> bool {
    text.parse::<Ipv4Addr>().is_ok()
}

pub(super) fn is_ipv6(text: &str) -> bool {
    text.parse::<Ipv6Addr>().is_ok()
}

/// A network with its prefix length, host bits allowed.
pub(super) fn is_network(text: &str) -> bool {
    text.parse::<IpNet>().is_ok()
}

/// An address, or a network with host bits allowed.
pub(super) fn is_address_or_network(text: &str) -> bool {
    is_ip(text) || is_network(text)
}

pub(super) fn is_v4_address_or_network(text: &str) -> bool {
    is_ipv4(text) || matches!(text.parse(), Ok(IpNet::V4(_)))
}

pub(super) fn is_v6_address_or_network(text: &str) -> bool {
    is_ipv6(text) || matches!(text.parse(), Ok(IpNet::V6(_)))
}

/// An address, or a network without host bits.
pub(super) fn is_address_or_clean_network(text: &str) -> bool {
    is_ip(text) || clean_network(text).is_some()
}

/// A network with its prefix length and without host bits.
pub(super) fn clean_network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().filter(|net| net.trunc() == *net)
}

/// A single address, bare or as /32 or /128.
pub(super) fn single_address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    text.parse::<IpNet>().ok().filter(|net| net.prefix_len() == net.max_prefix_len()).map(|net| net.addr())
}

pub(super) fn is_mac(text: &str) -> bool {
    text.parse::<crate::MacAddress>().is_ok()
}
