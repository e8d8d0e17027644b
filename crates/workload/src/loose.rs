//! A pair whose workload's end still lies in the host's namespace: somebody else moves it.
//!
//! Docker moves and renames interfaces of its networks itself, gives them their addresses, and makes the routes that a
//! network driver asks for. It knows no neighbour entries, so the gateway has to answer ARP and NDP. Here the host's
//! end carries the gateway's addresses itself, of link-local ranges and different for every pair:
//!
//! - the host answers for them whatever `arp_ignore` or proxying says, as they are the interface's own;
//! - a workload with several pairs has several gateways, and routes through one are none through the other;
//! - the IPv4 address has the scope of the host, so that the kernel never takes it as the source of a packet.

use std::net::{Ipv4Addr, Ipv6Addr};

use calico_model::MacAddress;
use nlink::{
    Connection, Ipv4Address, Ipv6Address, Route,
    netlink::{link::VethLink, types::addr::Scope},
};

use crate::{
    AttachError, HOST_MAC,
    attach::mtu,
    check::{interface_name, mtu as check_mtu},
    error::kernel,
    link,
    pair::prepare_host6,
};

/// What to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoosePair {
    /// Name of the host's end, `cali…`; at most 15 bytes.
    pub host_interface: String,
    /// Name of the workload's end while it lies in the host's namespace; at most 15 bytes.
    pub workload_interface: String,
    /// MAC address of the workload's end.
    pub mac: MacAddress,
    /// The gateway's IPv4 address, link-local, for the host's end.
    pub gateway4: Option<Ipv4Addr>,
    /// The gateway's IPv6 address, link-local, for the host's end.
    pub gateway6: Option<Ipv6Addr>,
    /// MTU of both ends, bytes; `None` is as for [`Attachment`](crate::Attachment).
    pub mtu: Option<u32>,
}

/// Makes the pair, its host's end up and with the gateway's addresses, its other end down and bare.
///
/// A pair of the name that is there already is made anew: its workload is gone, or is being given the interface again.
///
/// # Errors
/// [`AttachError::InterfaceName`], [`AttachError::Mtu`], [`AttachError::HostInterfaceTaken`] by something that is no
/// veth, [`AttachError::Kernel`]; nothing is left behind.
pub async fn make_loose(pair: &LoosePair) -> Result<(), AttachError> {
    interface_name(&pair.host_interface)?;
    interface_name(&pair.workload_interface)?;
    if let Some(mtu) = pair.mtu {
        check_mtu(mtu, pair.gateway6.is_some())?;
    }
    let host = Connection::<Route>::new().map_err(kernel(|| "opening a netlink socket".into()))?;
    let name = &pair.host_interface;
    if let Some(present) = link::by_name(&host, name).await? {
        if present.kind() != Some("veth") {
            return Err(AttachError::HostInterfaceTaken { name: name.clone() });
        }
        remove(&host, present.ifindex(), name).await?;
    }
    let index = create(&host, pair).await?;
    match equip(&host, index, pair).await {
        Ok(()) => Ok(()),
        Err(error) => match remove(&host, index, name).await {
            Ok(()) => Err(error),
            Err(left) => Err(AttachError::Undo { cause: Box::new(error), left: vec![left.to_string()] }),
        },
    }
}

async fn remove(host: &Connection<Route>, index: u32, name: &str) -> Result<(), AttachError> {
    host.del_link_if_exists(index).await.map(drop).map_err(kernel(|| format!("removing {name}")))
}

async fn create(host: &Connection<Route>, pair: &LoosePair) -> Result<u32, AttachError> {
    let (name, other) = (&pair.host_interface, &pair.workload_interface);
    let mut veth = VethLink::new(name, other).address(HOST_MAC.0).peer_address(pair.mac.0);
    if let Some(mtu) = mtu(host, pair.mtu, pair.gateway6.is_some()).await? {
        veth = veth.mtu(mtu).peer_mtu(mtu);
    }
    host.add_link(veth).await.map_err(kernel(|| format!("creating the veth pair {name}, {other}")))?;
    let link = link::by_name(host, name).await?;
    link.map(|link| link.ifindex()).ok_or_else(|| AttachError::Kernel {
        operation: format!("looking for {name}"),
        cause: "it vanished right after it was made".to_owned(),
    })
}

/// Settings, state and addresses of the host's end.
async fn equip(host: &Connection<Route>, index: u32, pair: &LoosePair) -> Result<(), AttachError> {
    let name = &pair.host_interface;
    prepare_host6(host, index, name, pair.gateway6.is_some()).await?;
    host.set_link_up_by_index(index).await.map_err(kernel(|| format!("setting {name} up")))?;
    if let Some(gateway) = pair.gateway4 {
        let address = Ipv4Address::with_index(index, gateway, 32).scope(Scope::Host);
        host.add_address(address).await.map_err(kernel(|| format!("adding the gateway {gateway} to {name}")))?;
    }
    if let Some(gateway) = pair.gateway6 {
        let address = Ipv6Address::with_index(index, gateway, 128).nodad();
        host.add_address(address).await.map_err(kernel(|| format!("adding the gateway {gateway} to {name}")))?;
    }
    Ok(())
}
