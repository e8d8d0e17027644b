//! Hand-made packets, and how they are recognised where they arrive.
//!
//! Every packet carries a [token](Token) behind its headers, also the ones that a program would never send; ICMP error
//! messages quote it, so one search finds it wherever it turns up. ICMP messages have the number in their identifier and
//! sequence number too, as some answers leave the data away.

use std::net::{IpAddr, SocketAddr};

/// IP protocol numbers.
pub mod protocol {
    #![allow(missing_docs, reason = "they are names of protocols")]
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
}

/// What follows the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// A TCP segment.
    Tcp {
        /// The destination port.
        port: u16,
        /// The flags of a single segment; SYN if it opens a connection.
        flags: u8,
    },
    /// A datagram.
    Udp {
        /// The destination port.
        port: u16,
    },
    /// An SCTP INIT.
    Sctp {
        /// The destination port.
        port: u16,
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

/// The TCP flag that opens a connection.
pub const SYN: u8 = 2;

impl Content {
    /// Its protocol number in a family (4 or 6).
    pub fn protocol(&self, family: u8) -> u8 {
        match self {
            Self::Tcp { .. } => protocol::TCP,
            Self::Udp { .. } => protocol::UDP,
            Self::Sctp { .. } => protocol::SCTP,
            Self::Icmp { .. } if family == 4 => protocol::ICMP,
            Self::Icmp { .. } => protocol::ICMPV6,
            Self::Other(number) => *number,
        }
    }

    /// True for ICMP messages that report an error about another packet.
    pub fn is_icmp_error(&self, family: u8) -> bool {
        matches!(self, Self::Icmp { icmp_type, .. } if is_error(family, *icmp_type))
    }
}

/// The number of a probe, in the form in which packets carry it.
pub struct Token;

const MAGIC: [u8; 8] = *b"\xc0probe\r\n";

impl Token {
    /// The bytes for a number.
    pub fn of(number: u32) -> [u8; 12] {
        let mut token = [0; 12];
        token[..8].copy_from_slice(&MAGIC);
        token[8..].copy_from_slice(&number.to_be_bytes());
        token
    }

    /// The number of the first token in these bytes.
    pub fn find(bytes: &[u8]) -> Option<u32> {
        let at = bytes.windows(MAGIC.len()).position(|window| window == MAGIC)?;
        bytes.get(at + 8..at + 12)?.try_into().ok().map(u32::from_be_bytes)
    }
}

/// A whole packet, IP header included, with right checksums (that of the IPv4 header is the kernel's).
pub fn packet(source: IpAddr, destination: IpAddr, source_port: u16, content: &Content, number: u32) -> Vec<u8> {
    let family = family(destination);
    let protocol = content.protocol(family);
    let mut body = body(source, destination, source_port, content, number);
    match content {
        Content::Tcp { .. } => put(&mut body, 16, pseudo_checksum(source, destination, protocol)),
        Content::Udp { .. } => put(&mut body, 6, pseudo_checksum(source, destination, protocol)),
        Content::Icmp { .. } if family == 4 => put(&mut body, 2, |body| checksum(&[body])),
        Content::Icmp { .. } => put(&mut body, 2, pseudo_checksum(source, destination, protocol)),
        Content::Sctp { .. } => {
            let sum = crc32c(&body).to_le_bytes();
            body[8..12].copy_from_slice(&sum);
        }
        Content::Other(_) => {}
    }
    let mut packet = ip_header(source, destination, protocol, body.len());
    packet.extend(body);
    packet
}

/// 4 or 6.
pub fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { 4 } else { 6 }
}

fn body(source: IpAddr, destination: IpAddr, source_port: u16, content: &Content, number: u32) -> Vec<u8> {
    let token = Token::of(number);
    let mut body = Vec::with_capacity(64);
    let ports = |body: &mut Vec<u8>, port: u16| {
        body.extend(source_port.to_be_bytes());
        body.extend(port.to_be_bytes());
    };
    match *content {
        Content::Tcp { port, flags } => {
            ports(&mut body, port);
            body.extend(number.to_be_bytes()); // sequence
            body.extend([0; 4]); // acknowledgement
            body.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        }
        Content::Udp { port } => {
            ports(&mut body, port);
            body.extend(length(8 + token.len()).to_be_bytes());
            body.extend([0, 0]);
        }
        Content::Sctp { port } => {
            ports(&mut body, port);
            body.extend([0; 8]); // verification tag, checksum
            body.extend([1, 0]); // INIT
            body.extend(length(20 + 4 + token.len()).to_be_bytes());
            body.extend((number | 1).to_be_bytes()); // initiate tag, not 0
            body.extend([0, 1, 0, 0, 0, 1, 0, 1]); // window, streams
            body.extend(number.to_be_bytes()); // first TSN
            body.extend([0xc0, 0xfe]); // an unknown parameter, to be skipped
            body.extend(length(4 + token.len()).to_be_bytes());
        }
        Content::Icmp { icmp_type, code } if is_error(family(destination), icmp_type) => {
            body.extend([icmp_type, code, 0, 0, 0, 0, 0, 0]);
            // About a datagram that nobody sent.
            body.extend(ip_header(destination, source, protocol::UDP, 8 + token.len()));
            body.extend([0x13, 0x88, 0x13, 0x88, 0, 8 + 12, 0, 0]);
        }
        Content::Icmp { icmp_type, code } => {
            body.extend([icmp_type, code, 0, 0]);
            let [a, b, c, d] = number.to_be_bytes();
            body.extend([c, d, a, b]); // identifier: the half that changes; sequence
            body.extend([0; 12]); // the times of a timestamp request
        }
        Content::Other(_) => {}
    }
    body.extend(token);
    body
}

/// True if messages of this type quote a packet.
pub fn is_error(family: u8, icmp_type: u8) -> bool {
    if family == 4 { matches!(icmp_type, 3 | 4 | 5 | 11 | 12) } else { icmp_type < 128 }
}

/// The number in identifier and sequence number of an ICMP message that is neither an error nor anything but question
/// or answer.
pub fn icmp_number(message: &[u8]) -> Option<u32> {
    let fields: [u8; 4] = message.get(4..8)?.try_into().ok()?;
    let [c, d, a, b] = fields;
    Some(u32::from_be_bytes([a, b, c, d]))
}

/// The number of the packet that an ICMP error quotes.
pub fn quoted_number(family: u8, message: &[u8]) -> Option<u32> {
    Token::find(message).or_else(|| {
        let (_, protocol, body) = quoted(family, message)?;
        let icmp = matches!((family, protocol), (4, protocol::ICMP) | (6, protocol::ICMPV6));
        if icmp { icmp_number(body) } else { None }
    })
}

/// Source port and destination of the TCP segment that an ICMP error quotes.
pub fn quoted_connection(family: u8, message: &[u8]) -> Option<(u16, SocketAddr)> {
    let (destination, protocol, body) = quoted(family, message)?;
    let port = |at: usize| Some(u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?));
    (protocol == protocol::TCP).then_some(())?;
    Some((port(0)?, SocketAddr::new(destination, port(2)?)))
}

/// Destination, protocol and what follows the header of the packet that an ICMP error quotes.
fn quoted(family: u8, message: &[u8]) -> Option<(IpAddr, u8, &[u8])> {
    let inner = message.get(8..)?;
    if family == 4 {
        let destination: [u8; 4] = inner.get(16..20)?.try_into().ok()?;
        let header = usize::from(inner[0] & 15) * 4;
        Some((destination.into(), inner[9], inner.get(header..)?))
    } else {
        let destination: [u8; 16] = inner.get(24..40)?.try_into().ok()?;
        Some((destination.into(), inner[6], &inner[40..]))
    }
}

fn length(bytes: usize) -> u16 {
    u16::try_from(bytes).expect("packets here are short")
}

fn ip_header(source: IpAddr, destination: IpAddr, protocol: u8, body: usize) -> Vec<u8> {
    const HOPS: u8 = 64;
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![0x45, 0];
            header.extend(length(20 + body).to_be_bytes());
            header.extend([0, 0, 0x40, 0, HOPS, protocol, 0, 0]);
            header.extend(source.octets());
            header.extend(destination.octets());
            put(&mut header, 10, |header| checksum(&[header]));
            header
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(length(body).to_be_bytes());
            header.extend([protocol, HOPS]);
            header.extend(source.octets());
            header.extend(destination.octets());
            header
        }
        _ => panic!("{source} and {destination} are of different families"),
    }
}

fn put(bytes: &mut [u8], at: usize, sum: impl Fn(&[u8]) -> u16) {
    let sum = sum(bytes).to_be_bytes();
    bytes[at..at + 2].copy_from_slice(&sum);
}

fn pseudo_checksum(source: IpAddr, destination: IpAddr, protocol: u8) -> impl Fn(&[u8]) -> u16 {
    move |body| {
        let mut pseudo = Vec::with_capacity(40);
        for address in [source, destination] {
            match address {
                IpAddr::V4(address) => pseudo.extend(address.octets()),
                IpAddr::V6(address) => pseudo.extend(address.octets()),
            }
        }
        pseudo.extend([0, protocol]);
        pseudo.extend(length(body.len()).to_be_bytes());
        match checksum(&[&pseudo, body]) {
            0 => 0xffff, // in UDP, 0 would mean that there is none
            sum => sum,
        }
    }
}

/// RFC 1071 over these pieces, all but the last of even length.
fn checksum(pieces: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for piece in pieces {
        for pair in piece.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("it was folded")
}

/// RFC 9260, appendix A: the checksum of SCTP.
fn crc32c(bytes: &[u8]) -> u32 {
    const REVERSED_POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { REVERSED_POLYNOMIAL } else { 0 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn checksums_are_those_of_the_standards() {
        // The example of RFC 1071 and the check value of CRC-32C.
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn the_number_is_found_in_the_packet_and_in_what_quotes_it() {
        for (a, b) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let (a, b): (IpAddr, IpAddr) = (a.parse().unwrap(), b.parse().unwrap());
            let family = family(a);
            let echo = if family == 4 { 8 } else { 128 };
            let header = if family == 4 { 20 } else { 40 };
            for content in [
                Content::Tcp { port: 80, flags: SYN },
                Content::Udp { port: 80 },
                Content::Sctp { port: 80 },
                Content::Icmp { icmp_type: echo, code: 0 },
                Content::Icmp { icmp_type: 3, code: 1 },
                Content::Other(253),
            ] {
                let packet = packet(a, b, 1024, &content, 0x1234_5678);
                assert_eq!(Token::find(&packet), Some(0x1234_5678), "{content:?}");
                if content.protocol(family) == protocol::TCP {
                    assert_eq!(pseudo_checksum(a, b, protocol::TCP)(&packet[header..]), 0xffff, "it sums to nothing");
                }
                if let Content::Tcp { port, .. } = content {
                    let mut quote = vec![0; 8];
                    quote.extend(&packet[..header + 8]);
                    assert_eq!(quoted_connection(family, &quote), Some((1024, SocketAddr::new(b, port))));
                }
                if let Content::Icmp { icmp_type: 8 | 128, .. } = content {
                    assert_eq!(icmp_number(&packet[header..]), Some(0x1234_5678));
                    let mut quote = vec![0; 8];
                    quote.extend(&packet[..header + 8]);
                    assert_eq!(quoted_number(family, &quote), Some(0x1234_5678), "also a short quote");
                }
            }
        }
    }
}
