//! Removing the pair.

use nlink::{Connection, Route};

use crate::{
    AttachError,
    address::{is_marked, own_metric4},
    check,
    error::kernel,
    link,
    netns::Workload,
    routes,
    wire::Peering,
};

/// Removes the veth pair, and with it everything on it, and gives default routes that had stepped aside their place
/// back. `Ok(false)` if the host has no such interface.
///
/// Works without the workload: the interface of a stopped container is gone already, that of a hanging one goes.
///
/// # Errors
/// [`AttachError::NotAttached`] if the interface is not one of a veth pair, [`AttachError::Kernel`],
/// [`AttachError::Permission`].
pub async fn detach(host_interface: &str) -> Result<bool, AttachError> {
    check::interface_name(host_interface)?;
    let host = Connection::<Route>::new().map_err(kernel(|| "opening a netlink socket".into()))?;
    let Some(link) = link::by_name(&host, host_interface).await? else { return Ok(false) };
    if link.kind() != Some("veth") {
        return Err(AttachError::NotAttached { name: host_interface.to_owned() });
    }
    let index = link.ifindex();
    // Only while the pair exists does the kernel say where its other end is.
    let aside = match moved_aside(&host, index).await {
        Ok(aside) => aside,
        Err(error) => {
            tracing::warn!(host_interface, %error, "the workload's other default routes keep their metrics");
            None
        }
    };
    let removed = host.del_link_if_exists(index).await.map_err(kernel(|| format!("removing {host_interface}")))?;
    if let Some((workload, metric)) = aside
        && let Err(error) = routes::step_forward(&workload.links, metric).await
    {
        tracing::warn!(host_interface, %error, "the workload's other default routes keep their metrics");
    }
    Ok(removed)
}

/// The workload whose default routes stepped aside for this pair, with the metric of the route they did it for.
async fn moved_aside(host: &Connection<Route>, index: u32) -> Result<Option<(Workload, u32)>, AttachError> {
    if !is_marked(host, index).await? {
        return Ok(None);
    }
    let Some(Peering { peer: Some(peer), peer_nsid: Some(nsid), .. }) = Peering::of(host, index).await? else {
        return Ok(None);
    };
    let Some(workload) = Workload::find(host, nsid).await? else { return Ok(None) };
    let metric = own_metric4(&workload.links, peer).await?;
    Ok(Some((workload, metric)))
}
