//! Leaving a host that is no node any more: everything of ours goes, nothing else.

use std::sync::Arc;

use rustix::io::Errno;

use crate::{Error, Options, family::Family, netlink::Rtnl, vxlan::remove_devices, writer::Writer};

/// The kernel's number of the protocol `bird` (rtnetlink(7), `RTPROT_BIRD`).
const BIRD_PROTOCOL: u8 = 12;

/// Takes our routes, our VXLAN devices, the routes of our BIRD (those with `bird_metric`), our chains and sets of iptables, our single
/// rules in other programs' chains and our tables out of the kernel, in this order: packets stay closed until nothing
/// leads to a workload any more. What is gone already is no error; a second call does nothing. Settings (forwarding)
/// stay, as others may rely on them.
///
/// Call it when no agent runs: felix would write everything again.
///
/// # Errors
/// [`Error::Kernel`] names the first object that the kernel did not let go.
pub async fn purge(options: &Options, bird_metric: u32) -> Result<(), Error> {
    remove_routes(options.route_protocol, None).await?;
    remove_devices(&Rtnl::open(options.route_protocol)?).await?;
    remove_routes(BIRD_PROTOCOL, Some(bird_metric)).await?;
    Writer::open(Arc::new(options.clone()))?.remove_everything().await
}

async fn remove_routes(protocol: u8, metric: Option<u32>) -> Result<(), Error> {
    let rtnl = Rtnl::open(protocol)?;
    for family in Family::ALL {
        let routes = rtnl.routes(family).await?;
        for route in routes.iter().filter(|route| metric.is_none_or(|metric| route.metric == metric)) {
            match rtnl.delete_route(route).await {
                // Its interface went meanwhile, and the route with it.
                Err(Error::Kernel(error)) if error.is(Errno::SRCH) || error.is(Errno::NODEV) => {}
                other => other?,
            }
        }
    }
    Ok(())
}
