//! The default routes of a workload: ours, and those that step aside for it.
//!
//! IPv4: a route without a metric has metric 0, and nothing is better. Where the workload has such a default route
//! (Docker's bridge), all its default routes step aside by one and keep their order; when ours goes, those that it
//! had pushed back step forward again. Whether that happened is remembered in the alias of the host's end
//! ([`ASIDE`]): it lives exactly as long as the pair, and the workload cannot reach it.
//!
//! IPv6: a route without a metric has metric 1024, so there is room in front, and ours takes the place before the
//! best one; nothing has to move.

use std::net::{IpAddr, Ipv6Addr};

use nlink::{Connection, Ipv4Route, Ipv6Route, Route};

use crate::{AttachError, error::kernel, wire::RawRoute};

/// Alias of a host's end whose workload has default routes that stepped aside. Shown by `ip link`.
pub(crate) const ASIDE: &str = "calico: the workload's other default routes stepped aside";

/// The metric that the kernel gives an IPv6 route added without one.
const METRIC6: u32 = 1024;

/// Adds the default route of `gateway`'s family through interface `index`. The gateway need not be on a subnet of
/// the interface; a neighbour entry says where it is.
pub(crate) async fn add_default(links: &Connection<Route>, index: u32, gateway: IpAddr) -> Result<(), AttachError> {
    let what = || format!("adding the default route via {gateway}");
    match gateway {
        IpAddr::V4(gateway) => {
            let route = Ipv4Route::default_route().gateway(gateway).dev_index(index).onlink();
            links.add_route(route).await.map_err(kernel(what))
        }
        IpAddr::V6(gateway) => {
            let metric = metric_in_front(&defaults6(links).await?);
            let route = Ipv6Route::default_route().gateway(gateway).dev_index(index).metric(metric).onlink();
            links.add_route(route).await.map_err(kernel(what))
        }
    }
}

/// True if there is a default route of `family`'s family through interface `index`.
pub(crate) async fn has_default(links: &Connection<Route>, index: u32, family: IpAddr) -> Result<bool, AttachError> {
    match family {
        IpAddr::V4(_) => Ok(RawRoute::defaults4(links).await?.iter().any(|route| route.interface() == Some(index))),
        IpAddr::V6(_) => Ok(defaults6(links).await?.iter().any(|route| route.interface == Some(index))),
    }
}

/// Removes the IPv4 default routes through interface `index`.
pub(crate) async fn remove_default4(links: &Connection<Route>, index: u32) -> Result<(), AttachError> {
    let routes = RawRoute::defaults4(links).await?;
    for route in routes.into_iter().filter(|route| route.interface() == Some(index)) {
        links.del_route_if_exists(route).await.map_err(kernel(|| "removing the IPv4 default route".into()))?;
    }
    Ok(())
}

/// Removes the IPv6 default routes through interface `index`; returns their gateways.
pub(crate) async fn remove_default6(links: &Connection<Route>, index: u32) -> Result<Vec<Ipv6Addr>, AttachError> {
    let mut gateways = Vec::new();
    for route in defaults6(links).await?.into_iter().filter(|route| route.interface == Some(index)) {
        let mut key = Ipv6Route::default_route().dev_index(index).metric(route.metric);
        if let Some(gateway) = route.gateway {
            key = key.gateway(gateway);
            gateways.push(gateway);
        }
        links.del_route_if_exists(key).await.map_err(kernel(|| "removing the IPv6 default route".into()))?;
    }
    Ok(gateways)
}

struct Default6 {
    metric: u32,
    interface: Option<u32>,
    gateway: Option<Ipv6Addr>,
}

async fn defaults6(links: &Connection<Route>) -> Result<Vec<Default6>, AttachError> {
    const MAIN: u32 = 254;
    let routes = links.get_routes().await.map_err(kernel(|| "reading routes".into()))?;
    let defaults = routes.iter().filter(|route| route.is_ipv6() && route.is_default() && route.table_id() == MAIN);
    // A network namespace has an "unreachable default" of metric 2^32-1 on lo; it leads nowhere and is in no way.
    let usable = defaults.filter(|route| route.route_type() == nlink::netlink::types::route::RouteType::Unicast);
    let gateway = |route: &nlink::RouteMessage| match route.gateway() {
        Some(IpAddr::V6(gateway)) => Some(*gateway),
        _ => None,
    };
    Ok(usable
        .map(|route| Default6 {
            metric: route.priority().unwrap_or(METRIC6),
            interface: route.oif(),
            gateway: gateway(route),
        })
        .collect())
}

/// The metric that makes a new IPv6 default route the best one.
fn metric_in_front(present: &[Default6]) -> u32 {
    match present.iter().map(|route| route.metric).min() {
        // 0 would be read as "no metric given"; 1 beside 1 makes a second route of the same metric, which the
        // kernel refuses with a clear word.
        Some(best) if best <= METRIC6 => (best - 1).max(1),
        _ => METRIC6,
    }
}

/// IPv4 default routes that have stepped aside, and how to bring them back.
#[derive(Debug, Default)]
pub(crate) struct SteppedAside {
    /// As they were, in the order in which they moved.
    moved: Vec<RawRoute>,
}

impl SteppedAside {
    /// True if nothing moved.
    pub(crate) fn is_empty(&self) -> bool {
        self.moved.is_empty()
    }

    /// Moves every default route back by one metric if one of them has metric 0. On an error those that had moved
    /// are where they were.
    pub(crate) async fn make_room(links: &Connection<Route>) -> Result<Self, AttachError> {
        let mut aside = Self::default();
        let routes = RawRoute::defaults4(links).await?;
        if routes.first().is_none_or(|best| best.metric() > 0) {
            return Ok(aside);
        }
        // From the worst to the best, so that the place of each is free when it comes.
        for route in routes.into_iter().rev() {
            let metric = route.metric().saturating_add(1);
            if let Err(error) = shift(links, &route, metric).await {
                return Err(match aside.undo(links).await {
                    Ok(()) => error,
                    Err(left) => AttachError::Undo { cause: Box::new(error), left: vec![left.to_string()] },
                });
            }
            aside.moved.push(route);
        }
        Ok(aside)
    }

    /// Brings every route back to where it was.
    pub(crate) async fn undo(&self, links: &Connection<Route>) -> Result<(), AttachError> {
        for route in self.moved.iter().rev() {
            shift(links, &route.with_metric(route.metric().saturating_add(1)), route.metric()).await?;
        }
        Ok(())
    }
}

/// Moves the IPv4 default routes behind metric `ours` forward by one: the counterpart of [`SteppedAside::make_room`],
/// after the route that they had made room for is gone.
pub(crate) async fn step_forward(links: &Connection<Route>, ours: u32) -> Result<(), AttachError> {
    for route in RawRoute::defaults4(links).await? {
        if route.metric() > ours {
            shift(links, &route, route.metric() - 1).await?;
        }
    }
    Ok(())
}

/// Gives a route another metric: adds it anew, then removes the old one, so that there is always one of the two.
async fn shift(links: &Connection<Route>, route: &RawRoute, metric: u32) -> Result<(), AttachError> {
    let what = || format!("changing the metric of a default route from {} to {metric}", route.metric());
    let moved = route.with_metric(metric);
    links.add_route(moved.clone()).await.map_err(kernel(what))?;
    if let Err(error) = links.del_route(route.clone()).await {
        // Best effort: with both in place traffic goes as before, and the error below is what the caller needs.
        let _ = links.del_route(moved).await;
        return Err(kernel(what)(error));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(of: &[u32]) -> Vec<Default6> {
        of.iter().map(|&metric| Default6 { metric, interface: None, gateway: None }).collect()
    }

    #[test]
    fn an_ipv6_default_route_takes_the_place_in_front() {
        for (present, ours) in
            [(&[][..], 1024), (&[1024], 1023), (&[2000], 1024), (&[100, 1024], 99), (&[1], 1), (&[u32::MAX], 1024)]
        {
            assert_eq!(metric_in_front(&metrics(present)), ours, "{present:?}");
        }
    }
}
