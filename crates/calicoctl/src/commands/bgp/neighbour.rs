//! Neighbours: whose they are, what people type for them, what their BGPPeers are called.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use calico_model::{AsNumber, BGPPeerSpec};

/// BGP's own port.
const BGP_PORT: u16 = 179;

/// Whose peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Every node peers.
    AllNodes,
    /// One node peers.
    Node(String),
}

impl Scope {
    /// True for a BGPPeer that is for exactly these nodes. One with a selector is for neither.
    pub(super) fn has(&self, spec: &BGPPeerSpec) -> bool {
        spec.node_selector.is_empty()
            && match self {
                Self::AllNodes => spec.node.is_empty(),
                Self::Node(name) => spec.node == *name,
            }
    }

    /// The member of the spec that says so.
    pub(super) fn node(&self) -> &str {
        match self {
            Self::AllNodes => "",
            Self::Node(name) => name,
        }
    }
}

/// A neighbour: where its BGP daemon listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Neighbour {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
}

impl Neighbour {
    pub(super) fn new(address: IpAddr, port: Option<u16>) -> Self {
        Self { address, port: port.unwrap_or(BGP_PORT) }
    }

    /// From a BGPPeer's `peerIP`: an address, `v4:port` or `[v6]:port`.
    pub(crate) fn of(spec: &BGPPeerSpec) -> Option<Self> {
        let text = spec.peer_ip.as_str();
        let plain = text.parse().map(|address| Self::new(address, None));
        plain
            .or_else(|_| text.parse::<SocketAddr>().map(|socket| Self { address: socket.ip(), port: socket.port() }))
            .ok()
    }

    /// The name of a BGPPeer for it: dashes for dots and colons, IPv6 written out, the node before it, and a port that
    /// is not BGP's own after it.
    pub(super) fn name(&self, scope: &Scope) -> String {
        let address = match self.address {
            IpAddr::V4(address) => address.to_string().replace('.', "-"),
            IpAddr::V6(address) => address.segments().map(|segment| format!("{segment:04x}")).as_slice().join("-"),
        };
        let port = if self.port == BGP_PORT { String::new() } else { format!("-port-{}", self.port) };
        match scope {
            Scope::AllNodes => format!("{address}{port}"),
            Scope::Node(node) => format!("{node}.{address}{port}"),
        }
    }
}

impl fmt::Display for Neighbour {
    /// As in a BGPPeer's `peerIP`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            BGP_PORT => self.address.fmt(f),
            port => SocketAddr::new(self.address, port).fmt(f),
        }
    }
}

/// A neighbour's address as typed.
///
/// # Errors
/// Why it is none.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| format!("{text:?} is not an IPv4 or IPv6 address"))?;
    let of_many = match address {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_multicast() || v6.to_ipv4_mapped().is_some(),
    };
    // Without the interface nobody knows where a link-local neighbour is.
    let of_link = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    match address.is_unspecified() || address.is_loopback() || of_many || of_link {
        true => Err(format!("{text:?} cannot be the address of a neighbour")),
        false => Ok(address),
    }
}

/// An AS number as typed. Zero is no one's (RFC 7607).
///
/// # Errors
/// Why it is none.
pub(super) fn as_number(text: &str) -> Result<AsNumber, String> {
    match text.parse::<AsNumber>() {
        Ok(AsNumber(0)) => Err(format!("{text:?} is reserved and nobody's AS number")),
        other => other,
    }
}

/// A TCP port as typed.
///
/// # Errors
/// Why it is none.
pub(super) fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| format!("{text:?} is not a port, 1 to 65535"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_those_of_upstreams_converter() {
        let name = |address: &str, port, scope: &Scope| Neighbour::new(address.parse().unwrap(), port).name(scope);
        let host = Scope::Node("host-1".into());
        assert_eq!(name("1.2.3.4", None, &Scope::AllNodes), "1-2-3-4");
        assert_eq!(name("1.2.3.4", Some(179), &host), "host-1.1-2-3-4");
        assert_eq!(name("fd00::1", None, &Scope::AllNodes), "fd00-0000-0000-0000-0000-0000-0000-0001");
        assert_eq!(name("1.2.3.4", Some(1790), &Scope::AllNodes), "1-2-3-4-port-1790");
    }

    #[test]
    fn neighbours_are_read_as_they_are_written() {
        for text in ["10.0.0.1", "10.0.0.1:1790", "fd00::1", "[fd00::1]:1790"] {
            let spec = BGPPeerSpec { peer_ip: text.into(), ..BGPPeerSpec::default() };
            assert_eq!(Neighbour::of(&spec).unwrap().to_string(), text);
        }
        let spec = BGPPeerSpec { peer_ip: "10.0.0.1:179".into(), ..BGPPeerSpec::default() };
        assert_eq!(Neighbour::of(&spec).unwrap().to_string(), "10.0.0.1");
        assert_eq!(Neighbour::of(&BGPPeerSpec::default()), None);
    }

    #[test]
    fn what_cannot_be_a_neighbour_is_refused() {
        for text in ["", "host2", "1.2.3", "10.0.0.0/8", "0.0.0.0", "127.0.0.1", "224.0.0.1", "::", "fe80::1", "::1"] {
            assert!(address(text).is_err(), "{text}");
        }
        assert_eq!(as_number("4294.566").unwrap(), AsNumber(281_412_150));
        for text in ["", "0", "x", "4294967296", "99999999999999999999999", "1.65536", "-1"] {
            assert!(as_number(text).is_err(), "{text}");
        }
        assert!(port("0").is_err() && port("65536").is_err() && port("1790") == Ok(1790));
    }
}
