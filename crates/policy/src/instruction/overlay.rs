//! How addresses of VXLAN pools on other hosts are reached.
//!
//! All routes of such pools are this host's to make, also those to hosts of its own subnet that need no encapsulation.
//! Everything is level-triggered, and a route may name a tunnel end point or a tunnel that is not there (yet): it takes
//! effect as soon as all that it needs is there.

use std::net::IpAddr;

use calico_model::MacAddress;

/// This host's end of the overlay, per family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tunnels {
    /// For IPv4, device `vxlan.calico`.
    pub v4: Option<Tunnel>,
    /// For IPv6, device `vxlan-v6.calico`.
    pub v6: Option<Tunnel>,
}

impl Tunnels {
    /// The tunnel that carries packets to an address of this family.
    #[must_use]
    pub fn for_address(&self, address: IpAddr) -> Option<&Tunnel> {
        if address.is_ipv4() { self.v4.as_ref() } else { self.v6.as_ref() }
    }
}

/// One VXLAN device.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tunnel {
    /// The device's own address, one of a VXLAN pool.
    pub address: IpAddr,
    /// The device's MAC address.
    pub mac: MacAddress,
    /// The host's address that packets are sent from; the interface that has it carries them.
    pub local: IpAddr,
    /// UDP port.
    pub port: u16,
    /// Network identifier, 24 bits.
    pub vni: u32,
    /// MTU in bytes; `None` is what fits into the MTU of the carrying interface.
    pub mtu: Option<u32>,
}

/// The end of the overlay on another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vtep {
    /// The address of that host's device; identifies it.
    pub address: IpAddr,
    /// The MAC address of that host's device.
    pub mac: MacAddress,
    /// The host's address, to which packets are sent.
    pub host: IpAddr,
}

/// The way to a block, or to an address of a block that another host borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClusterRoute {
    /// Encapsulated, to the tunnel end point with this address.
    Tunnel {
        /// See [`Vtep::address`].
        via: IpAddr,
    },
    /// As they are, to the host with this address in a subnet of ours.
    Direct {
        /// The host's address.
        via: IpAddr,
        /// This host's own address in that subnet; the interface that has it carries the packets.
        local: IpAddr,
    },
    /// A block of this host: what no workload has is dropped here and not sent to the default route and back.
    Unassigned,
}
