//! A packet as policy sees it: the first of a flow, on its way through this host.

use std::net::IpAddr;

/// Where a packet comes from or goes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Hop {
    /// The host itself: made here, or addressed to one of its own addresses.
    Host,
    /// An interface, by name. Those with the workloads' prefix lead to workloads, all others to the world.
    Interface(String),
}

/// What follows the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP (6), UDP (17) or SCTP (132).
    Ports {
        /// The protocol's number.
        protocol: u8,
        /// The sender's port.
        source: u16,
        /// The receiver's port.
        destination: u16,
    },
    /// ICMP in IPv4, ICMPv6 in IPv6.
    Icmp {
        /// The type.
        icmp_type: u8,
        /// The code.
        code: u8,
    },
    /// Any other protocol, by number.
    Other(u8),
}

/// A packet. Source and destination are of one family.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Packet {
    /// Where it comes from.
    pub from: Hop,
    /// Where routing sends it.
    pub to: Hop,
    /// Its source address.
    pub source: IpAddr,
    /// Its destination address, after translation.
    pub destination: IpAddr,
    /// The rest.
    pub transport: Transport,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It passes what is governed here. The host's own rules may still drop it.
    Allow,
    /// It goes no further.
    Deny,
}

impl Packet {
    /// 4 or 6.
    pub fn family(&self) -> u8 {
        if self.source.is_ipv4() { 4 } else { 6 }
    }

    /// The IP protocol's number.
    pub fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Ports { protocol, .. } | Transport::Other(protocol) => protocol,
            Transport::Icmp { .. } if self.family() == 4 => 1,
            Transport::Icmp { .. } => 58,
        }
    }

    /// The source and destination port of protocols that have them.
    pub fn ports(&self) -> Option<(u16, u16)> {
        match self.transport {
            Transport::Ports { source, destination, .. } => Some((source, destination)),
            _ => None,
        }
    }

    /// Type and code of an ICMP packet.
    pub fn icmp(&self) -> Option<(u8, u8)> {
        match self.transport {
            Transport::Icmp { icmp_type, code } => Some((icmp_type, code)),
            _ => None,
        }
    }

    /// A source that any workload may use: none yet (a DHCP discover, duplicate address detection), or link-local.
    /// The kernel's reverse path check has the same exceptions.
    pub(crate) fn has_unroutable_source(&self) -> bool {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => source.is_unspecified() && destination.is_broadcast(),
            (IpAddr::V6(source), _) => source.is_unspecified() || source.is_unicast_link_local(),
            _ => false,
        }
    }

    /// Multicast listener discovery, router solicitation and neighbour discovery: without them a workload cannot
    /// reach even its host, so they pass from workloads to their host before all policy.
    pub(crate) fn is_neighbour_discovery(&self) -> bool {
        self.family() == 6 && matches!(self.icmp(), Some((130..=133 | 135 | 136, _)))
    }

    /// Traffic that hosts exchange between themselves; a workload must not inject into it. VXLAN, IP in IP.
    pub(crate) fn is_overlay(&self) -> bool {
        const VXLAN: u16 = 4789;
        const UDP: u8 = 17;
        self.protocol() == 4 || matches!(self.transport, Transport::Ports { protocol: UDP, destination: VXLAN, .. })
    }
}
