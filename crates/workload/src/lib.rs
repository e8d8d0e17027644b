//! Attach and detach: how a workload gets its interface, and what Docker knows of it.
//!
//! A workload's network namespace and the host are joined by a veth pair. The host's end carries no address, only
//! the fixed MAC address [`HOST_MAC`]; the workload's end carries host addresses (/32, /128) and a default route
//! through the pair. The gateway of that route is resolved by a permanent neighbour entry, never by ARP or NDP: it
//! works before any agent has seen the endpoint, needs no proxying, and survives a change of the host's addresses.
//!
//! Used by `calicoctl container add`; nothing here knows of command lines, datastores or policy, so that a Docker
//! plugin and CNI can stand on the same functions.
//!
//! Invariants:
//! - all or nothing: a failed [`attach`] leaves no interface, address or route behind and gives routes that it moved
//!   aside their place back;
//! - the workload is not trusted: only its network namespace is entered, by threads that never leave it again; no
//!   file of the workload is read, nothing that it can change decides what happens on the host;
//! - foreign interfaces, routes and addresses stay as they are, with one exception: default routes of metric 0 step
//!   aside by one (Docker's stays as the fallback) and step back on [`detach`];
//! - the kernel is changed by netlink and sysctl only.
//!
//! ```no_run
//! use calico_workload::{Attachment, NetnsRef, attach, check, detach, docker::Docker};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let container = Docker::connect().await?.inspect("web").await?;
//! let netns = NetnsRef::Pid(container.pid);
//! let attachment = Attachment {
//!     host_interface: "cali0123456789a".into(),
//!     container_interface: "eth1".into(),
//!     addresses: vec!["192.168.1.7".parse()?],
//!     gateway4: Some("10.5.0.1".parse()?),
//!     gateway6: None,
//!     mtu: None,
//! };
//! check(&netns, &attachment).await?;          // everything that can be refused, before an address is taken
//! let attached = attach(&netns, &attachment).await?;
//! println!("{}", attached.mac);
//! detach("cali0123456789a").await?;
//! # Ok(())
//! # }
//! ```
//!
//! Names to know: [`NetnsRef`] says which namespace, [`Attachment`] what to make in it; [`docker::Docker`] finds
//! containers and runs the service's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use calico_model::MacAddress;

mod address;
mod attach;
mod check;
mod detach;
mod error;
mod link;
mod loose;
mod netns;
mod pair;
mod routes;
#[cfg(test)]
mod tests;
mod wire;

pub mod docker;

pub use address::{add_address, remove_address};
pub use attach::attach;
pub use check::{check, interface_exists};
pub use detach::detach;
pub use error::AttachError;
pub use loose::{LoosePair, make_loose};
pub use netns::NetnsRef;

/// The MAC address of the host's end of every pair, upstream's choice. All host ends may share it, because each is
/// alone on its link with one workload. Locally administered, unicast.
pub const HOST_MAC: MacAddress = MacAddress([0xee; 6]);

/// The IPv4 gateway when none is given. On no interface: the neighbour entry makes it work.
pub const DEFAULT_GATEWAY4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The IPv6 gateway when none is given: the link-local address that the kernel derives from [`HOST_MAC`] (modified
/// EUI-64, RFC 4291 appendix A) on the host's end.
pub const DEFAULT_GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);

/// What to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Name of the host's end, `cali…`; at most 15 bytes.
    pub host_interface: String,
    /// Name of the workload's end, `eth1`; at most 15 bytes.
    pub container_interface: String,
    /// The workload's addresses, each becoming a /32 or /128. May be empty.
    pub addresses: Vec<IpAddr>,
    /// Gateway of the IPv4 default route, usually the host's BGP address; `None` is [`DEFAULT_GATEWAY4`]. Used only
    /// if there is an IPv4 address.
    pub gateway4: Option<Ipv4Addr>,
    /// Gateway of the IPv6 default route; `None` is [`DEFAULT_GATEWAY6`]. Used only if there is an IPv6 address.
    pub gateway6: Option<Ipv6Addr>,
    /// MTU of both ends, bytes; `None` is the least of the interface of the host's default route and of the tunnels
    /// between hosts (`vxlan.calico`, `vxlan-v6.calico`), 1500 if there is none of these.
    pub mtu: Option<u32>,
}

impl Attachment {
    /// The gateways that are used: one for each family that has an address.
    fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        let of = |family: fn(&IpAddr) -> bool, gateway: IpAddr| self.addresses.iter().any(family).then_some(gateway);
        let gateway4 = of(IpAddr::is_ipv4, self.gateway4.unwrap_or(DEFAULT_GATEWAY4).into());
        let gateway6 = of(IpAddr::is_ipv6, self.gateway6.unwrap_or(DEFAULT_GATEWAY6).into());
        [gateway4, gateway6].into_iter().flatten()
    }
}

/// The gateway of an address's family when none is given.
fn default_gateway(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { DEFAULT_GATEWAY4.into() } else { DEFAULT_GATEWAY6.into() }
}

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The MAC address of the workload's end.
    pub mac: MacAddress,
    /// The interface index of the host's end, in the host's namespace.
    pub host_interface_index: u32,
}
