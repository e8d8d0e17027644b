//! What all parts must say alike of VXLAN between hosts. Pairs are by family: IPv4, IPv6.

/// The devices, as felix (and upstream's) names them. One is there while a pool of its family needs it.
pub const VXLAN_DEVICES: [&str; 2] = ["vxlan.calico", "vxlan-v6.calico"];

/// Bytes that encapsulation adds to a packet: outer IP header, UDP, VXLAN, inner Ethernet header.
pub const VXLAN_OVERHEAD: [u32; 2] = [50, 70];

/// The least MTU that a link can have (RFC 791, RFC 8200), in bytes.
pub const LEAST_MTU: [u32; 2] = [68, 1280];
