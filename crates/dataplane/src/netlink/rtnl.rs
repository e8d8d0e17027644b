//! Links, routes and neighbour entries.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use nlink::netlink::{
    AttrIter, MessageBuilder, NlMsgType, Protocol,
    message::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE},
};

use super::socket::{Socket, text};
use crate::{
    error::Error,
    family::Family,
    ifname::IfName,
    routing::{Neighbour, Route},
};

/// `IFF_RUNNING`: up and with a carrier.
const RUNNING: u32 = 0x40;
/// `RTEXT_FILTER_SKIP_STATS`.
const SKIP_STATISTICS: u32 = 1 << 3;
const MAIN_TABLE: u8 = 254;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const TYPE_UNICAST: u8 = 1;
/// `RTN_BLACKHOLE`: what goes there is dropped silently.
pub(crate) const TYPE_BLACKHOLE: u8 = 6;
/// `RTNH_F_ONLINK`: the gateway is behind the interface whatever other routes say.
const ONLINK: u32 = 4;
/// `NUD_PERMANENT`.
const PERMANENT: u16 = 0x80;
/// `NTF_PROXY`.
const PROXY: u8 = 0x08;
const AF_BRIDGE: u8 = 7;

/// Route attributes.
mod rta {
    pub(super) const DST: u16 = 1;
    pub(super) const OIF: u16 = 4;
    pub(super) const GATEWAY: u16 = 5;
    pub(super) const PRIORITY: u16 = 6;
    pub(super) const MULTIPATH: u16 = 9;
    pub(super) const TABLE: u16 = 15;
    pub(super) const VIA: u16 = 18;
    pub(super) const NEXTHOP: u16 = 30;
}

/// An interface as far as routes are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: IfName,
    /// Up and with a carrier.
    pub running: bool,
}

/// The socket for links, routes and neighbours.
pub(crate) struct Rtnl {
    pub(super) socket: Socket,
    protocol: u8,
}

impl Rtnl {
    /// Opens it in the calling thread's network namespace. Routes are written and read with this protocol number.
    pub(crate) fn open(protocol: u8) -> Result<Self, Error> {
        Ok(Self { socket: Socket::open(Protocol::Route, "routes")?, protocol })
    }

    /// Our port identifier.
    pub(crate) fn port(&self) -> u32 {
        self.socket.port()
    }

    /// All interfaces.
    pub(crate) async fn links(&self) -> Result<Vec<Link>, Error> {
        let request = || {
            let mut request = MessageBuilder::new(NlMsgType::RTM_GETLINK, 0);
            request.append_bytes(&[0; 16]);
            request.append_attr_u32(29, SKIP_STATISTICS);
            request
        };
        self.dump("list links", request, |_, payload| match link_event(payload) {
            Some((index, Some(name), running)) => Some(Link { index, name, running }),
            _ => None,
        })
        .await
    }

    /// The addresses of all interfaces, with the interfaces' indexes.
    pub(crate) async fn addresses(&self) -> Result<Vec<(u32, IpAddr)>, Error> {
        let request = || {
            let mut request = MessageBuilder::new(NlMsgType::RTM_GETADDR, 0);
            request.append_bytes(&[0; 8]);
            request
        };
        self.dump("list addresses", request, |_, payload| seen_address(payload)).await
    }

    /// The routes of one family in the main table that have our protocol number.
    pub(crate) async fn routes(&self, family: Family) -> Result<Vec<Route>, Error> {
        let request = || {
            let mut request = MessageBuilder::new(NlMsgType::RTM_GETROUTE, 0);
            request.append_bytes(&[family.number(), 0, 0, 0, MAIN_TABLE, self.protocol, 0, 0, 0, 0, 0, 0]);
            request
        };
        self.dump("list routes", request, |kind, payload| {
            let seen = seen_route(payload).filter(|_| kind == NlMsgType::RTM_NEWROUTE)?;
            (seen.protocol == self.protocol).then_some(seen.route)
        })
        .await
    }

    /// The permanent neighbour entries of one family.
    pub(crate) async fn neighbours(&self, family: Family) -> Result<HashMap<Neighbour, [u8; 6]>, Error> {
        let request = || {
            let mut request = MessageBuilder::new(NlMsgType::RTM_GETNEIGH, 0);
            request.append_bytes(&[family.number(), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            request
        };
        Ok(self.dump("list neighbours", request, |_, payload| permanent(payload)).await?.into_iter().collect())
    }

    /// Adds a route; an error if there is one to the same destination with the same metric, whoever's it is.
    pub(crate) async fn add_route(&self, route: &Route) -> Result<(), Error> {
        let request = self.route_request(NlMsgType::RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, route);
        self.socket.acknowledged(&format!("add route {route}"), request).await
    }

    /// Removes a route of ours.
    pub(crate) async fn delete_route(&self, route: &Route) -> Result<(), Error> {
        let request = self.route_request(NlMsgType::RTM_DELROUTE, 0, route);
        self.socket.acknowledged(&format!("delete route {route}"), request).await
    }

    /// Makes an entry permanent.
    pub(crate) async fn set_neighbour(&self, neighbour: &Neighbour, mac: [u8; 6]) -> Result<(), Error> {
        let mut request =
            neighbour_request(NlMsgType::RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, neighbour, PERMANENT);
        request.append_attr(2, &mac);
        self.socket.acknowledged(&format!("set neighbour {neighbour}"), request).await
    }

    /// Removes an entry.
    pub(crate) async fn delete_neighbour(&self, neighbour: &Neighbour) -> Result<(), Error> {
        let request = neighbour_request(NlMsgType::RTM_DELNEIGH, 0, neighbour, 0);
        self.socket.acknowledged(&format!("delete neighbour {neighbour}"), request).await
    }

    /// A dump, repeated while it is interrupted by changes.
    pub(super) async fn dump<T>(
        &self,
        what: &str,
        request: impl Fn() -> MessageBuilder,
        parse: impl Fn(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        const ATTEMPTS: u32 = 8;
        for attempt in 0..ATTEMPTS {
            let mut found = Vec::new();
            let interrupted =
                self.socket.dump(what, request(), |kind, payload| found.extend(parse(kind, payload))).await?;
            if !interrupted {
                return Ok(found);
            }
            tracing::debug!(what, attempt, "changed while it was read");
            tokio::time::sleep(std::time::Duration::from_millis(1 << attempt)).await;
        }
        Err(Error::Unsettled { what: what.to_owned(), attempts: ATTEMPTS })
    }

    fn route_request(&self, kind: u16, flags: u16, route: &Route) -> MessageBuilder {
        let Route { destination, metric, interface, gateway, plain, kind: route_type } = route;
        let family = Family::of(destination);
        // Deleting one that is not as we make it: any scope matches.
        let scope = if family == Family::V4 && !plain { 255 } else { scope(family, *route_type, gateway.is_some()) };
        let next_hop_flags: u32 = if *plain && gateway.is_some() { ONLINK } else { 0 };
        let mut request = MessageBuilder::new(kind, flags);
        let length = destination.prefix_len();
        request.append_bytes(&[family.number(), length, 0, 0, MAIN_TABLE, self.protocol, scope, *route_type]);
        request.append_bytes(&next_hop_flags.to_ne_bytes());
        append_address(&mut request, rta::DST, &destination.network());
        if *interface != 0 {
            request.append_attr_u32(rta::OIF, *interface);
        }
        if let Some(gateway) = gateway.filter(|_| *plain) {
            append_address(&mut request, rta::GATEWAY, &gateway);
        }
        request.append_attr_u32(rta::PRIORITY, *metric);
        request
    }
}

/// The scope that our routes have, and that the kernel gives to such routes.
fn scope(family: Family, route_type: u8, has_gateway: bool) -> u8 {
    if family == Family::V4 && route_type == TYPE_UNICAST && !has_gateway { SCOPE_LINK } else { SCOPE_UNIVERSE }
}

pub(super) fn append_address(request: &mut MessageBuilder, attribute: u16, address: &IpAddr) {
    match address {
        IpAddr::V4(address) => request.append_attr(attribute, &address.octets()),
        IpAddr::V6(address) => request.append_attr(attribute, &address.octets()),
    }
}

fn neighbour_request(kind: u16, flags: u16, neighbour: &Neighbour, state: u16) -> MessageBuilder {
    let mut request = MessageBuilder::new(kind, flags);
    let mut header = [0; 12];
    header[0] = Family::of_address(&neighbour.address).number();
    header[4..8].copy_from_slice(&neighbour.interface.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    request.append_bytes(&header);
    append_address(&mut request, 1, &neighbour.address);
    request
}

pub(super) fn native(payload: &[u8]) -> Option<u32> {
    payload.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

pub(super) fn address(payload: &[u8]) -> Option<IpAddr> {
    match payload.len() {
        4 => payload.first_chunk().map(|octets: &[u8; 4]| IpAddr::V4(Ipv4Addr::from(*octets))),
        16 => payload.first_chunk().map(|octets: &[u8; 16]| IpAddr::V6(Ipv6Addr::from(*octets))),
        _ => None,
    }
}

/// Index, name and whether it runs, of an `ifinfomsg`. A bridge reports its ports' changes in messages of its own
/// family, which say nothing about the link itself.
pub(super) fn link_event(payload: &[u8]) -> Option<(u32, Option<IfName>, bool)> {
    if *payload.first()? == AF_BRIDGE {
        return None;
    }
    let index = native(payload.get(4..8)?)?;
    let running = native(payload.get(8..12)?)? & RUNNING != 0;
    let name = AttrIter::new(payload.get(16..)?).find(|(kind, _)| *kind == 3);
    Some((index, name.and_then(|(_, name)| IfName::new(&text(name))), running))
}

/// Index and address of an `ifaddrmsg`. Of a point-to-point link attribute 2 is this end's, 1 the other end's; where
/// there is only one, it is this end's.
pub(super) fn seen_address(payload: &[u8]) -> Option<(u32, IpAddr)> {
    let index = native(payload.get(4..8)?)?;
    let (mut local, mut other) = (None, None);
    for (kind, value) in AttrIter::new(payload.get(8..)?) {
        match kind {
            1 => other = address(value),
            2 => local = address(value),
            _ => {}
        }
    }
    Some((index, local.or(other)?))
}

/// A route of the main table in a message.
pub(super) struct SeenRoute {
    /// The route.
    pub(super) route: Route,
    /// Who made it.
    pub(super) protocol: u8,
}

pub(super) fn seen_route(payload: &[u8]) -> Option<SeenRoute> {
    let [family, length, _, _, table, protocol, seen_scope, route_type, ..] = *payload else { return None };
    let family = Family::from_number(family)?;
    let mut destination = family.address(0);
    let flags = native(payload.get(8..12)?)?;
    let (mut table, mut metric, mut interface, mut single, mut gateway) = (u32::from(table), 0, 0, true, None);
    for (kind, value) in AttrIter::new(payload.get(12..)?) {
        match kind {
            rta::DST => destination = address(value)?,
            rta::OIF => interface = native(value)?,
            rta::PRIORITY => metric = native(value)?,
            rta::TABLE => table = native(value)?,
            rta::GATEWAY => gateway = address(value),
            rta::MULTIPATH | rta::VIA | rta::NEXTHOP => single = false,
            _ => {}
        }
    }
    let destination = IpNet::new(destination, length).ok()?;
    // The kernel says of routes without interface that they are lo's, in IPv6.
    if route_type == TYPE_BLACKHOLE {
        interface = 0;
    }
    let right_scope = family == Family::V6 || seen_scope == scope(family, route_type, gateway.is_some());
    let right_kind = route_type == TYPE_UNICAST || route_type == TYPE_BLACKHOLE;
    let plain = single && right_scope && right_kind && (gateway.is_none() || flags & ONLINK != 0);
    let route = Route { destination, metric, interface, gateway, plain, kind: route_type };
    (table == u32::from(MAIN_TABLE)).then_some(SeenRoute { route, protocol })
}

fn permanent(payload: &[u8]) -> Option<(Neighbour, [u8; 6])> {
    let interface = native(payload.get(4..8)?)?;
    let state = u16::from_ne_bytes([*payload.get(8)?, *payload.get(9)?]);
    let (mut found, mut mac) = (None, None);
    for (kind, value) in AttrIter::new(payload.get(12..)?) {
        match kind {
            1 => found = address(value),
            2 => mac = value.first_chunk().copied(),
            _ => {}
        }
    }
    if state & PERMANENT == 0 || *payload.get(10)? & PROXY != 0 {
        return None;
    }
    Some((Neighbour { interface, address: found? }, mac?))
}
