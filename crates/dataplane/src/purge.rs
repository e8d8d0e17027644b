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

/// Removes the host's ends of workloads' interfaces: those named by the prefix and 11 hexadecimal digits, as
/// `container add` and the Docker plugin name them. A workload that still runs loses its network. Returns how many went.
///
/// Call it after [`purge`], which needs no packet to be open meanwhile.
///
/// # Errors
/// [`Error::Kernel`] names the first interface that the kernel did not let go.
pub async fn remove_interfaces(options: &Options) -> Result<usize, Error> {
    let rtnl = Rtnl::open(options.route_protocol)?;
    let mut removed = 0;
    for link in
        rtnl.links().await?.iter().filter(|link| is_of_a_workload(link.name.as_str(), &options.interface_prefix))
    {
        match rtnl.delete_link(link.index).await {
            Ok(()) => removed += 1,
            // Went with its container meanwhile.
            Err(Error::Kernel(error)) if error.is(Errno::NODEV) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

fn is_of_a_workload(name: &str, prefix: &str) -> bool {
    let digits = name.strip_prefix(prefix).unwrap_or_default();
    digits.len() == 11 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_we_give_are_those_of_workloads() {
        assert!(is_of_a_workload("cali0123456789a", "cali"));
        for other in
            ["cali", "calibre0", "cali0123456789", "cali0123456789ab", "cali0123456789A", "eth0", "vxlan.calico"]
        {
            assert!(!is_of_a_workload(other, "cali"), "{other}");
        }
    }
}
