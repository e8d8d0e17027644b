//! Making the pair, all or nothing.

use std::net::IpAddr;

use calico_model::{LEAST_MTU, MacAddress, VXLAN_DEVICES};
use nlink::{Connection, Route, netlink::link::VethLink};

use crate::{
    AttachError, Attached, Attachment, HOST_MAC, NetnsRef, check,
    error::kernel,
    link,
    netns::Workload,
    pair::{Before, Pair, Step, go_on},
};

/// Makes the veth pair with its addresses, routes and neighbour entries, after the same checks as [`check`](crate::check()).
///
/// Not to be cancelled: dropping the future midway leaves what was made so far.
///
/// # Errors
/// What [`check`](crate::check()) refuses, [`AttachError::Kernel`] and [`AttachError::Permission`]; all that was made is removed
/// then, or [`AttachError::Undo`] says what could not be.
pub async fn attach(netns: &NetnsRef, attachment: &Attachment) -> Result<Attached, AttachError> {
    attach_with(netns, attachment, &go_on).await
}

pub(crate) async fn attach_with(
    netns: &NetnsRef,
    attachment: &Attachment,
    before: Before<'_>,
) -> Result<Attached, AttachError> {
    check::pure(attachment)?;
    let workload = Workload::open(netns)?;
    let host = Connection::<Route>::new().map_err(kernel(|| "opening a netlink socket".into()))?;
    check::against_kernel(&host, &workload, attachment).await?;
    let mut pair = Pair::new(host, workload, HOST_MAC.0, before);
    match build(&mut pair, attachment).await {
        Ok(mac) => {
            let host_interface_index = pair.host_index;
            tracing::debug!(
                host = attachment.host_interface,
                workload = attachment.container_interface,
                host_interface_index,
                %mac,
                "attached"
            );
            Ok(Attached { mac, host_interface_index })
        }
        Err(error) => Err(pair.undo(error).await),
    }
}

async fn build(pair: &mut Pair<'_>, attachment: &Attachment) -> Result<MacAddress, AttachError> {
    let ipv6 = attachment.addresses.iter().any(IpAddr::is_ipv6);
    let mac = create(pair, attachment).await?;
    pair.prepare_host6(&attachment.host_interface, ipv6).await?;
    if ipv6 {
        pair.prepare_workload6(&attachment.container_interface)?;
    }
    (pair.before)(Step::HostUp)?;
    let up = pair.host.set_link_up_by_index(pair.host_index).await;
    up.map_err(kernel(|| format!("setting {} up", attachment.host_interface)))?;
    (pair.before)(Step::WorkloadUp)?;
    let up = pair.workload.links.set_link_up_by_index(pair.index).await;
    up.map_err(kernel(|| format!("setting {} up in the workload", attachment.container_interface)))?;
    for address in &attachment.addresses {
        pair.add_address(*address).await?;
    }
    for gateway in attachment.gateways() {
        pair.add_gateway(gateway).await?;
    }
    Ok(mac)
}

/// Creates the pair in one request, the workload's end in its namespace and under its final name; returns that
/// end's MAC address.
async fn create(pair: &mut Pair<'_>, attachment: &Attachment) -> Result<MacAddress, AttachError> {
    (pair.before)(Step::Create)?;
    let (host_name, name) = (&attachment.host_interface, &attachment.container_interface);
    let mut veth = VethLink::new(host_name, name).address(HOST_MAC.0).peer_netns_fd(pair.workload.netns());
    let ipv6 = attachment.addresses.iter().any(IpAddr::is_ipv6);
    if let Some(mtu) = mtu(&pair.host, attachment.mtu, ipv6).await? {
        veth = veth.mtu(mtu).peer_mtu(mtu);
    }
    if let Err(error) = pair.host.add_link(veth).await {
        if error.is_already_exists() {
            // Somebody was faster than the check; say whose name it is.
            check::against_kernel(&pair.host, &pair.workload, attachment).await?;
        }
        return Err(kernel(|| format!("creating the veth pair {host_name}, {name}"))(error));
    }
    let of = |link: Option<nlink::LinkMessage>, name: &str| {
        let cause = "it vanished right after it was made".to_owned();
        link.ok_or_else(|| AttachError::Kernel { operation: format!("looking for {name}"), cause })
    };
    let host = of(link::by_name(&pair.host, host_name).await?, host_name)?;
    pair.host_index = host.ifindex();
    pair.created();
    let inside = of(link::by_name(&pair.workload.links, name).await?, name)?;
    pair.index = inside.ifindex();
    let mac = inside.address().and_then(|address| address.try_into().ok()).map(MacAddress);
    mac.ok_or_else(|| AttachError::Kernel {
        operation: format!("reading the MAC address of {name}"),
        cause: "it has none".into(),
    })
}

/// The MTU to set: the one wanted, else the least of the interface by which packets leave the host for the rest of the
/// world and of the tunnels between hosts, else none (the kernel's 1500). So that what a workload sends at its largest
/// comes through without being cut, wherever it goes.
pub(crate) async fn mtu(host: &Connection<Route>, wanted: Option<u32>, ipv6: bool) -> Result<Option<u32>, AttachError> {
    if wanted.is_some() {
        return Ok(wanted);
    }
    let mut found = uplink_mtu(host, ipv6).await?;
    for name in VXLAN_DEVICES {
        if let Some(tunnel) = link::by_name(host, name).await?.and_then(|link| link.mtu()) {
            // A tunnel that is too narrow for IPv6 is IPv4's.
            let tunnel = if ipv6 { tunnel.max(LEAST_MTU[1]) } else { tunnel };
            found = Some(found.map_or(tunnel, |found| found.min(tunnel)));
        }
    }
    Ok(found)
}

/// The MTU of the interface of the host's default route.
async fn uplink_mtu(host: &Connection<Route>, ipv6: bool) -> Result<Option<u32>, AttachError> {
    // Addresses of documentation (RFC 5737, RFC 3849) stand for the rest of the world: a look-up costs the same with
    // ten routes as with a full table, which a BGP host may have.
    for elsewhere in [IpAddr::from([192, 0, 2, 1]), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1])] {
        // No route is no error: a host need not have a default route.
        let Ok(route) = host.lookup_route(elsewhere).await else { continue };
        let Some(interface) = route.oif() else { continue };
        let link = host.get_link_by_index(interface).await;
        let link = link.map_err(kernel(|| "looking for the interface of the default route".into()))?;
        if let Some(mtu) = link.filter(|link| !link.is_loopback()).and_then(|link| link.mtu()) {
            check::mtu(mtu, ipv6)?;
            return Ok(Some(mtu));
        }
    }
    Ok(None)
}
