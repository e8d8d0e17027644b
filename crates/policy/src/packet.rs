//! A packet as policy sees it, on its way through this host.

use std::net::IpAddr;

/// Where a packet comes from or goes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Hop {
    /// The host itself: made here, or addressed to one of its own addresses.
    Host,
    /// An interface, by name. Those with the workloads' prefix lead to workloads, all others to the world.
    Interface(String),
}

/// The protocols that have ports, by IANA's number and the word that people use.
const WITH_PORTS: [(u8, &str); 3] = [(6, "tcp"), (17, "udp"), (132, "sctp")];

/// The word for a protocol that has ports; of any other its number.
#[must_use]
pub fn protocol_word(number: u8) -> String {
    let known = WITH_PORTS.iter().find(|(known, _)| *known == number);
    known.map_or_else(|| number.to_string(), |(_, word)| (*word).to_owned())
}

/// The number of a protocol that has ports; `None` for any other word.
#[must_use]
pub fn protocol_number(word: &str) -> Option<u8> {
    WITH_PORTS.iter().find(|(_, known)| *known == word).map(|(number, _)| *number)
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

/// What connection tracking says of a packet when it comes to this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Tracking {
    /// The first of its flow: policy decides on it.
    #[default]
    New,
    /// Of a flow that passed, or an answer to one: no policy is asked again, except before connection tracking.
    Established,
    /// Of no flow that is known, and none that could begin one: an answer without a question, impossible TCP flags.
    Invalid,
}

/// What the sender wrote where translation of destinations has changed the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Addressed {
    /// The destination address.
    pub address: IpAddr,
    /// The destination port, if the protocol has ports.
    pub port: Option<u16>,
}

/// A packet. Source and destination are of one family.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Packet {
    /// Where it comes from.
    pub from: Hop,
    /// Where routing sends it, after translation.
    pub to: Hop,
    /// Its source address, before translation.
    pub source: IpAddr,
    /// Its destination address, after translation.
    pub destination: IpAddr,
    /// The rest, ports after translation.
    pub transport: Transport,
    /// What it was addressed to, if somebody else's rules translate that on this host (`DNAT` of a published port).
    pub addressed: Option<Addressed>,
    /// Its place in a flow.
    pub tracking: Tracking,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It passes what is governed here. The host's own rules may still drop it.
    Allow,
    /// It goes no further, and the sender hears nothing.
    Drop,
    /// It goes no further, and the sender is told so by an ICMP error (`Reject` as deny action).
    Reject,
}

impl Verdict {
    /// True if the packet passes.
    pub fn is_allow(self) -> bool {
        self == Self::Allow
    }
}

impl Packet {
    /// The first packet of a flow, not translated.
    pub fn new(from: Hop, to: Hop, source: IpAddr, destination: IpAddr, transport: Transport) -> Self {
        Self { from, to, source, destination, transport, addressed: None, tracking: Tracking::New }
    }

    /// The packet with what connection tracking says of it if it knows no flow that it belongs to: only questions begin
    /// one in ICMP, and neighbour discovery is never tracked, which policy sees as it sees new flows. TCP counts as a
    /// SYN, or as a segment in mid-stream, which Linux takes for a new flow.
    #[must_use]
    pub fn unknown_to_tracking(mut self) -> Self {
        let begins = match (self.icmp(), self.family()) {
            (Some((icmp_type, _)), 4) => matches!(icmp_type, 8 | 13 | 15 | 17),
            (Some((icmp_type, _)), _) => matches!(icmp_type, 128 | 130..=137 | 139 | 143),
            (None, _) => true,
        };
        self.tracking = if begins { Tracking::New } else { Tracking::Invalid };
        self
    }

    /// The packet that answers this one, as it comes back to this host; `None` if nothing answers it. Its place in the
    /// flow is that of an answer to a packet that connection tracking has seen.
    pub fn reply(&self) -> Option<Self> {
        let transport = match self.transport {
            Transport::Ports { protocol, source, destination } => {
                Transport::Ports { protocol, source: destination, destination: source }
            }
            Transport::Icmp { icmp_type, code } => {
                let questions: &[(u8, u8)] = if self.family() == 4 { &[(8, 0), (13, 14)] } else { &[(128, 129)] };
                let (_, answer) = questions.iter().find(|(question, _)| *question == icmp_type)?;
                Transport::Icmp { icmp_type: *answer, code }
            }
            Transport::Other(_) => return None,
        };
        Some(Self {
            from: self.to.clone(),
            to: self.from.clone(),
            source: self.destination,
            destination: self.source,
            transport,
            addressed: None,
            tracking: Tracking::Established,
        })
    }

    /// The packet as it stands on the wire before the destination is translated. It goes to the same place: where the
    /// untranslated one would go is not known here.
    pub(crate) fn as_sent(&self) -> Self {
        let mut sent = self.clone();
        if let Some(addressed) = sent.addressed.take() {
            sent.destination = addressed.address;
            if let (Transport::Ports { destination, .. }, Some(port)) = (&mut sent.transport, addressed.port) {
                *destination = port;
            }
        }
        sent
    }

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

    /// Neighbour discovery and multicast listener discovery of a host on its own links (RFC 4861, 2710, 3810; no
    /// redirects): without them IPv6 dies on a link as soon as the neighbour cache is empty, so no policy of a host
    /// endpoint closes them.
    pub(crate) fn is_link_upkeep(&self) -> bool {
        self.family() == 6 && matches!(self.icmp(), Some((130..=136 | 143, _)))
    }

    /// IP in IP, that hosts exchange between themselves.
    pub(crate) fn is_ipip(&self) -> bool {
        const IPIP: u8 = 4;
        self.protocol() == IPIP
    }

    /// VXLAN, that hosts exchange between themselves.
    pub(crate) fn is_vxlan(&self, port: u16) -> bool {
        const UDP: u8 = 17;
        matches!(self.transport, Transport::Ports { protocol: UDP, destination, .. } if destination == port)
    }
}
