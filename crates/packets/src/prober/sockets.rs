//! Sockets as the prober needs them. None ever blocks.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    io::{Errno, Result},
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect as connect_to,
        getsockname, ipproto, listen, recvfrom, sendto, socket_with, sockopt,
    },
};

/// The protocol of a raw socket that takes packets with their IP header.
pub(super) const HAND_MADE: u8 = 255;

/// More than a child takes from its fork to its program, also on a busy machine.
const HELD_BY_CHILD: Duration = Duration::from_secs(10);

const FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);

fn domain(is_v4: bool) -> AddressFamily {
    if is_v4 { AddressFamily::INET } else { AddressFamily::INET6 }
}

/// Accepts connections to all addresses of the namespace, of both families.
pub(super) fn listener(port: u16) -> Result<OwnedFd> {
    let socket = socket_with(AddressFamily::INET6, SocketType::STREAM, FLAGS, None)?;
    sockopt::set_ipv6_v6only(&socket, false)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
    listen(&socket, 4096)?;
    Ok(socket)
}

/// A TCP socket with this source. Closing it resets the connection, so that nothing of it lingers.
pub(super) fn stream(source: SocketAddr) -> Result<OwnedFd> {
    let socket = from(source, SocketType::STREAM)?;
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    Ok(socket)
}

/// A UDP socket with this source.
pub(super) fn datagram(source: SocketAddr) -> Result<OwnedFd> {
    from(source, SocketType::DGRAM)
}

fn from(source: SocketAddr, kind: SocketType) -> Result<OwnedFd> {
    let socket = socket_with(domain(source.is_ipv4()), kind, FLAGS, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // An address may be given to the place later.
    match source {
        SocketAddr::V4(_) => sockopt::set_ip_freebind(&socket, true)?,
        SocketAddr::V6(_) => sockopt::set_ipv6_freebind(&socket, true)?,
    }
    bind(&socket, &source)?;
    Ok(socket)
}

/// A raw socket: hears all packets of the protocol that reach the namespace, or sends [hand-made](HAND_MADE) ones.
pub(super) fn raw(family: u8, protocol: u8) -> Result<OwnedFd> {
    // IPv4's protocol 0 cannot be heard by itself, nor is it ever sent here.
    let number = std::num::NonZeroU32::new(u32::from(protocol)).ok_or(Errno::PROTONOSUPPORT)?;
    let protocol = Protocol::from_raw(number);
    debug_assert!(protocol != ipproto::RAW || u32::from(HAND_MADE) == number.get());
    let socket = socket_with(domain(family == 4), SocketType::RAW, FLAGS, Some(protocol))?;
    sockopt::set_socket_recv_buffer_size_force(&socket, 4 << 20)?;
    Ok(socket)
}

/// Starts a connection; INPROGRESS says that it is under way.
///
/// A probe that is sent again has the ports of the first try. That one's socket is closed, but a child that another
/// thread forks at that moment holds it until it executes its program, and until then the kernel says ADDRNOTAVAIL.
pub(super) fn connect(socket: &OwnedFd, destination: SocketAddr) -> Result<()> {
    let end = Instant::now() + HELD_BY_CHILD;
    loop {
        match connect_to(socket, &destination) {
            Err(Errno::ADDRNOTAVAIL) if Instant::now() < end => std::thread::sleep(Duration::from_millis(1)),
            outcome => return outcome,
        }
    }
}

/// Sends over a connected socket.
pub(super) fn send(socket: &OwnedFd, bytes: &[u8]) -> Result<()> {
    rustix::net::send(socket, bytes, SendFlags::NOSIGNAL).map(drop)
}

/// Sends a whole packet.
pub(super) fn send_to(socket: &OwnedFd, packet: &[u8], destination: IpAddr) -> Result<()> {
    sendto(socket, packet, SendFlags::NOSIGNAL, &SocketAddr::new(destination, 0)).map(drop)
}

/// Answers a datagram.
pub(super) fn answer(socket: &OwnedFd, bytes: &[u8], to: SocketAddr) -> Result<()> {
    sendto(socket, bytes, SendFlags::NOSIGNAL, &to).map(drop)
}

/// One datagram or packet, and who sent it; `None` if there is none now.
pub(super) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Result<Option<(usize, Option<SocketAddr>)>> {
    match recvfrom(socket, buffer, RecvFlags::empty()) {
        Ok((length, _, source)) => Ok(Some((length, source.and_then(|source| source.try_into().ok())))),
        Err(Errno::AGAIN) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// True for TCP.
pub(super) fn is_stream(socket: &OwnedFd) -> Result<bool> {
    Ok(sockopt::socket_type(socket)? == SocketType::STREAM)
}

/// The address that the kernel chooses for packets to a destination, in the thread's namespace.
pub(super) fn source_for(destination: IpAddr) -> Result<IpAddr> {
    let socket = socket_with(domain(destination.is_ipv4()), SocketType::DGRAM, FLAGS, None)?;
    connect_to(&socket, &SocketAddr::new(destination, 9))?;
    let local: SocketAddr = getsockname(&socket)?.try_into()?;
    Ok(local.ip())
}
