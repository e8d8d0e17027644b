//! The seam to the host's interfaces and ports.

use std::{io, net::SocketAddr, ops::RangeInclusive};

use async_trait::async_trait;
use calico_workload::LoosePair;
use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketType, bind, ipproto,
        netdevice::name_to_index,
        socket,
        sockopt::{set_ipv6_v6only, set_socket_reuseaddr},
    },
};

use crate::endpoint::HostPort;

/// What the plugin does to interfaces, and asks about ports.
#[async_trait]
pub(crate) trait Kernel: Send + Sync {
    /// Makes a pair, anew if there is one of the name.
    async fn make(&self, pair: &LoosePair) -> Result<(), String>;

    /// Removes the pair of a host's end; `false` if there is none.
    async fn remove(&self, host_interface: &str) -> Result<bool, String>;

    /// Whether the host has an interface of the name. What cannot be found out is there: nothing is taken from it.
    fn exists(&self, host_interface: &str) -> bool;

    /// The ports to choose from where the user left the choice.
    fn dynamic_ports(&self) -> RangeInclusive<u16>;

    /// Whether a port of the host can be published; if not, why: published it would be taken from the process that
    /// listens there.
    fn probe(&self, port: HostPort) -> Result<(), String>;
}

/// The real one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostKernel;

#[async_trait]
impl Kernel for HostKernel {
    async fn make(&self, pair: &LoosePair) -> Result<(), String> {
        calico_workload::make_loose(pair).await.map_err(|error| error.to_string())
    }

    async fn remove(&self, host_interface: &str) -> Result<bool, String> {
        calico_workload::detach(host_interface).await.map_err(|error| error.to_string())
    }

    fn exists(&self, host_interface: &str) -> bool {
        let any = socket(AddressFamily::INET, SocketType::DGRAM, None);
        any.and_then(|socket| name_to_index(socket, host_interface)) != Err(Errno::NODEV)
    }

    /// The kernel's own range, as Docker has it: what people's firewalls know.
    fn dynamic_ports(&self) -> RangeInclusive<u16> {
        let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        range(&text).unwrap_or(32_768..=60_999)
    }

    fn probe(&self, port: HostPort) -> Result<(), String> {
        match try_bind(port) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                Err("a process of this host uses the port".to_owned())
            }
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                Err("this host does not have the address".to_owned())
            }
            // Whatever else the system has against a socket, a rule is no socket.
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// The two numbers of `ip_local_port_range`.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut words = text.split_whitespace().map(str::parse);
    let (first, last) = (words.next()?.ok()?, words.next()?.ok()?);
    (0 < first && first <= last).then_some(first..=last)
}

/// Binds a socket and closes it again, without ever listening.
fn try_bind(port: HostPort) -> io::Result<()> {
    let (kind, protocol) = match port.protocol {
        6 => (SocketType::STREAM, ipproto::TCP),
        17 => (SocketType::DGRAM, ipproto::UDP),
        // SCTP's sockets come with a kernel module, which a question must not load.
        _ => return Ok(()),
    };
    let family = if port.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket(family, kind, Some(protocol))?;
    if port.protocol == 6 {
        // Connections of a listener that is gone do not hold its port.
        set_socket_reuseaddr(&socket, true)?;
    }
    if port.address.is_ipv6() {
        // Of IPv4 it is asked apart, if at all.
        set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &SocketAddr::new(port.address, port.port))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn the_kernel_s_range_is_read() {
        assert_eq!(range("32768\t60999\n"), Some(32_768..=60_999));
        for bad in ["", "1", "9 2", "0 9", "a b"] {
            assert_eq!(range(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn interfaces_are_there_or_not() {
        assert!(HostKernel.exists("lo"));
        assert!(!HostKernel.exists("cali-nothing"));
    }

    #[test]
    fn a_port_that_a_process_has_is_not_published() {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let (tcp, udp) = (TcpListener::bind((loopback, 0)).unwrap(), UdpSocket::bind((loopback, 0)).unwrap());
        let (tcp_port, udp_port) = (tcp.local_addr().unwrap().port(), udp.local_addr().unwrap().port());
        for (protocol, port) in [(6, tcp_port), (17, udp_port)] {
            for address in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), loopback] {
                let taken = HostKernel.probe(HostPort { protocol, address, port }).unwrap_err();
                assert!(taken.contains("a process"), "{taken}");
            }
        }
        let elsewhere = "192.0.2.1".parse().unwrap();
        let error = HostKernel.probe(HostPort { protocol: 6, address: elsewhere, port: tcp_port }).unwrap_err();
        assert!(error.contains("does not have the address"), "{error}");
        let other = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
        assert_eq!(HostKernel.probe(HostPort { protocol: 6, address: other, port: tcp_port }), Ok(()));
    }

    #[test]
    fn each_family_has_ports_of_its_own() {
        let (v4, v6) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        let socket = socket(AddressFamily::INET6, SocketType::STREAM, Some(ipproto::TCP)).unwrap();
        set_ipv6_v6only(&socket, true).unwrap();
        bind(&socket, &SocketAddr::new(v6, 0)).unwrap();
        rustix::net::listen(&socket, 1).unwrap();
        let port = TcpListener::from(socket);
        let asked = |listener: &TcpListener, address| {
            let port = listener.local_addr().unwrap().port();
            HostKernel.probe(HostPort { protocol: 6, address, port })
        };
        assert!(asked(&port, v6).unwrap_err().contains("a process"));
        assert_eq!(asked(&port, v4), Ok(()));
        let port = TcpListener::bind((v4, 0)).unwrap();
        assert!(asked(&port, v4).unwrap_err().contains("a process"));
        assert_eq!(asked(&port, v6), Ok(()));
    }
}
