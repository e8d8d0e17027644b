//! This host, as start-up sees and changes it. The seam that tests replace.

use std::{collections::HashMap, net::IpAddr, path::Path};

use async_trait::async_trait;
use ipnet::IpNet;
use nlink::{Connection, Route, netlink::types::route::RouteType};

use crate::{StartupError, Warning, address::Interface, forwarding};

/// What start-up needs of a host.
#[async_trait]
pub(crate) trait Host: Send + Sync {
    /// Its interfaces.
    async fn interfaces(&self) -> Result<Vec<Interface>, StartupError>;

    /// Lets it forward packets; returns what did not work but is not needed.
    async fn enable_forwarding(&self) -> Result<Vec<Warning>, StartupError>;

    /// True if its kernel has IPv6.
    fn has_ipv6(&self) -> bool;
}

/// The host, or network namespace, that this thread is in.
pub(crate) struct ThisHost;

#[async_trait]
impl Host for ThisHost {
    async fn interfaces(&self) -> Result<Vec<Interface>, StartupError> {
        read().await.map_err(|error| StartupError::Host { what: "interfaces", cause: error.to_string() })
    }

    async fn enable_forwarding(&self) -> Result<Vec<Warning>, StartupError> {
        forwarding::enable_forwarding().await
    }

    fn has_ipv6(&self) -> bool {
        Path::new("/proc/sys/net/ipv6").exists()
    }
}

async fn read() -> nlink::Result<Vec<Interface>> {
    let kernel = Connection::<Route>::new()?;
    let mut interfaces: HashMap<u32, Interface> = HashMap::new();
    for link in kernel.get_links().await? {
        interfaces.insert(
            link.ifindex(),
            Interface {
                index: link.ifindex(),
                name: link.name().unwrap_or_default().to_owned(),
                up: link.is_up() && link.is_running(),
                loopback: link.is_loopback(),
                ..Interface::default()
            },
        );
    }
    for address in kernel.get_addresses().await? {
        // On a point-to-point interface `address` is the other end's, `local` the host's own.
        let own = address.local().or(address.address());
        if let (Some(interface), Some(own)) = (interfaces.get_mut(&address.ifindex()), own)
            && !address.is_deprecated()
            && let Ok(net) = IpNet::new(*own, address.prefix_len())
        {
            interface.addresses.push(net);
        }
    }
    for route in kernel.get_routes().await? {
        const MAIN: u32 = 254;
        let is_default = route.is_ipv4() && route.is_default() && route.table_id() == MAIN;
        if !is_default || route.route_type() != RouteType::Unicast {
            continue;
        }
        // Of a route with several next hops the first counts.
        let through = route.oif().or_else(|| Some(route.multipath()?.first()?.ifindex));
        let Some(interface) = through.and_then(|index| interfaces.get_mut(&index)) else { continue };
        let source = match route.prefsrc() {
            Some(IpAddr::V4(source)) => Some(*source),
            _ => None,
        };
        let found = (route.priority().unwrap_or(0), source);
        if interface.default_route.is_none_or(|(metric, _)| found.0 < metric) {
            interface.default_route = Some(found);
        }
    }
    Ok(interfaces.into_values().collect())
}
