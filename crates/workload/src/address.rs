//! Addresses of an interface that is attached already.

use std::net::IpAddr;

use nlink::{Connection, Route};

use crate::{
    AttachError, NetnsRef, check, default_gateway,
    error::kernel,
    link,
    netns::Workload,
    pair::{self, Before, Pair, go_on},
    routes::{self, ASIDE},
    wire::{Peering, RawRoute},
};

/// Adds an address to an attached interface, and with the first of a family its default route and neighbour entry.
/// `gateway` is used only then; `None` is [`DEFAULT_GATEWAY4`](crate::DEFAULT_GATEWAY4) or
/// [`DEFAULT_GATEWAY6`](crate::DEFAULT_GATEWAY6).
///
/// # Errors
/// [`AttachError::NoInterface`], [`AttachError::NotAttached`], [`AttachError::Address`], [`AttachError::Gateway`],
/// and what [`attach`](crate::attach()) returns; nothing is changed then.
pub async fn add_address(
    netns: &NetnsRef,
    interface: &str,
    address: IpAddr,
    gateway: Option<IpAddr>,
) -> Result<(), AttachError> {
    add_address_with(netns, interface, address, gateway, &go_on).await
}

pub(crate) async fn add_address_with(
    netns: &NetnsRef,
    interface: &str,
    address: IpAddr,
    gateway: Option<IpAddr>,
    before: Before<'_>,
) -> Result<(), AttachError> {
    check::usable(address)?;
    let gateway = gateway.unwrap_or_else(|| default_gateway(address));
    if gateway.is_ipv4() != address.is_ipv4() {
        return Err(AttachError::Gateway { gateway, reason: "it is of another family than the address" });
    }
    let workload = Workload::open(netns)?;
    let index = index_of(&workload, interface).await?;
    let present = check::addresses(&workload.links).await?;
    check::absent(address, &present)?;
    let first = !present.iter().any(|(at, found)| *at == index && counts(*found) && same_family(*found, address));
    let needs_route = first && !routes::has_default(&workload.links, index, address).await?;
    if needs_route {
        let own: Vec<IpAddr> = present.iter().map(|(_, found)| *found).chain([address]).collect();
        check::gateway(gateway, &own)?;
    }
    let mut pair = host_end(workload, interface, index, before).await?;
    match add(&mut pair, interface, address, needs_route.then_some(gateway)).await {
        Ok(()) => Ok(()),
        Err(error) => Err(pair.undo(error).await),
    }
}

async fn add(
    pair: &mut Pair<'_>,
    interface: &str,
    address: IpAddr,
    gateway: Option<IpAddr>,
) -> Result<(), AttachError> {
    if gateway.is_some() && address.is_ipv6() {
        let host = pair.host.get_link_by_index(pair.host_index).await;
        let host = host.map_err(kernel(|| format!("looking for the host's end of {interface}")))?;
        let not_attached = || AttachError::NotAttached { name: interface.to_owned() };
        let name = host.as_ref().and_then(|link| link.name()).ok_or_else(not_attached)?.to_owned();
        pair.prepare_host6(&name, true).await?;
        pair.prepare_workload6(interface)?;
    }
    pair.add_address(address).await?;
    match gateway {
        Some(gateway) => pair.add_gateway(gateway).await,
        None => Ok(()),
    }
}

/// Removes an address from an interface, and with the last of a family the default route through the interface.
///
/// # Errors
/// [`AttachError::NoInterface`], [`AttachError::NoAddress`], [`AttachError::Kernel`]; nothing is changed then.
pub async fn remove_address(netns: &NetnsRef, interface: &str, address: IpAddr) -> Result<(), AttachError> {
    let workload = Workload::open(netns)?;
    let index = index_of(&workload, interface).await?;
    let metric = own_metric4(&workload.links, index).await?;
    if !pair::remove_address(&workload.links, index, address).await? {
        return Err(AttachError::NoAddress { interface: interface.to_owned(), address });
    }
    let present = check::addresses(&workload.links).await?;
    if present.iter().any(|(at, found)| *at == index && counts(*found) && same_family(*found, address)) {
        return Ok(());
    }
    // The address is gone, which is what was asked for; a route that stays behind only leads nowhere.
    if let Err(error) = withdraw(workload, interface, index, address, metric).await {
        tracing::warn!(interface, %address, %error, "the address is removed, its default route could not be tidied");
    }
    Ok(())
}

/// Removes what [`Pair::add_gateway`] made for the family of `address`.
async fn withdraw(
    workload: Workload,
    interface: &str,
    index: u32,
    address: IpAddr,
    metric: u32,
) -> Result<(), AttachError> {
    if address.is_ipv6() {
        for gateway in routes::remove_default6(&workload.links, index).await? {
            pair::remove_neighbour(&workload.links, index, gateway.into()).await?;
        }
        return Ok(());
    }
    routes::remove_default4(&workload.links, index).await?;
    let pair = host_end(workload, interface, index, &go_on).await?;
    if is_marked(&pair.host, pair.host_index).await? {
        routes::step_forward(&pair.workload.links, metric).await?;
        pair::unmark(&pair.host, pair.host_index).await?;
    }
    Ok(())
}

/// The metric of the IPv4 default route through an interface; 0, where ours usually is, if there is none.
pub(crate) async fn own_metric4(links: &Connection<Route>, index: u32) -> Result<u32, AttachError> {
    let routes = RawRoute::defaults4(links).await?;
    Ok(routes.iter().find(|route| route.interface() == Some(index)).map_or(0, RawRoute::metric))
}

/// True if the host's end says that default routes of the workload stepped aside.
pub(crate) async fn is_marked(host: &Connection<Route>, host_index: u32) -> Result<bool, AttachError> {
    let link = host.get_link_by_index(host_index).await.map_err(kernel(|| "reading the host's end".into()))?;
    Ok(link.is_some_and(|link| link.alias() == Some(ASIDE)))
}

async fn index_of(workload: &Workload, interface: &str) -> Result<u32, AttachError> {
    check::interface_name(interface)?;
    let link = link::by_name(&workload.links, interface).await?;
    link.map(|link| link.ifindex()).ok_or_else(|| AttachError::NoInterface { name: interface.to_owned() })
}

/// Finds the host's end of an attached interface. Both ends must name each other: what the workload's end says alone
/// is not believed, an interface of another host or namespace may have the same index.
async fn host_end<'a>(
    workload: Workload,
    interface: &str,
    index: u32,
    before: Before<'a>,
) -> Result<Pair<'a>, AttachError> {
    let not_attached = || AttachError::NotAttached { name: interface.to_owned() };
    let host = Connection::<Route>::new().map_err(kernel(|| "opening a netlink socket".into()))?;
    let inside = Peering::of(&workload.links, index).await?.ok_or_else(not_attached)?;
    let outside = match inside.peer {
        Some(peer) => Peering::of(&host, peer).await?.ok_or_else(not_attached)?,
        None => return Err(not_attached()),
    };
    let nsid =
        host.get_nsid(workload.netns()).await.map_err(kernel(|| "identifying the workload's namespace".into()))?;
    let (Some(mac), true) = (outside.mac, outside.peer == Some(index) && outside.peer_nsid == Some(nsid)) else {
        return Err(not_attached());
    };
    let mut pair = Pair::new(host, workload, mac, before);
    (pair.host_index, pair.index) = (outside.index, index);
    Ok(pair)
}

/// Link-local addresses come by themselves and do not count as a family's first or last.
fn counts(address: IpAddr) -> bool {
    !matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn same_family(one: IpAddr, other: IpAddr) -> bool {
    one.is_ipv4() == other.is_ipv4()
}
