//! Two netlink messages in more detail than the wrapper crate shows them: default routes with every attribute, so
//! that a route that is moved is moved whole, and links with the namespace of their peer.

use nlink::netlink::{
    AttrIter, FromNetlink, InterfaceRef, MessageBuilder,
    message::NlMsgType,
    parse::PResult,
    route::{ResolvedRouteInterfaces, RouteConfig},
};
use nlink::{Connection, Route};

use crate::{AttachError, error::kernel};

/// `struct rtmsg`, rtnetlink(7).
const RTMSG_LEN: usize = 12;
/// `struct ifinfomsg`, rtnetlink(7).
const IFINFOMSG_LEN: usize = 16;

const AF_INET: u8 = 2;
const RT_TABLE_MAIN: u8 = 254;
const RTN_UNICAST: u8 = 1;
const RTNH_F_PERVASIVE: u32 = 2;
const RTNH_F_ONLINK: u32 = 4;

const RTA_OIF: u16 = 4;
const RTA_PRIORITY: u16 = 6;
const RTA_CACHEINFO: u16 = 12;

const IFLA_ADDRESS: u16 = 1;
const IFLA_LINK: u16 = 5;
const IFLA_LINK_NETNSID: u16 = 37;

/// A route as the kernel told it: header and attributes, byte for byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RawRoute {
    header: [u8; RTMSG_LEN],
    attributes: Vec<(u16, Vec<u8>)>,
}

impl RawRoute {
    /// The IPv4 default routes of the main table, best first.
    pub(crate) async fn defaults4(links: &Connection<Route>) -> Result<Vec<Self>, AttachError> {
        let routes: Vec<Self> =
            links.dump_typed(NlMsgType::RTM_GETROUTE).await.map_err(kernel(|| "reading routes".into()))?;
        let mut defaults: Vec<Self> = routes.into_iter().filter(Self::is_default4).collect();
        defaults.sort_by_key(Self::metric);
        Ok(defaults)
    }

    fn is_default4(&self) -> bool {
        let [family, destination_len, source_len, tos, table, _, _, kind, ..] = self.header;
        (family, destination_len, source_len, tos, table, kind) == (AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTN_UNICAST)
    }

    fn attribute(&self, kind: u16) -> Option<u32> {
        let (_, value) = self.attributes.iter().find(|(found, _)| *found == kind)?;
        Some(u32::from_ne_bytes(value.as_slice().try_into().ok()?))
    }

    /// The route's metric; 0 is best and is what a route without one has.
    pub(crate) fn metric(&self) -> u32 {
        self.attribute(RTA_PRIORITY).unwrap_or(0)
    }

    /// The interface the route leads to, `None` for a route with several next hops.
    pub(crate) fn interface(&self) -> Option<u32> {
        self.attribute(RTA_OIF)
    }

    /// The same route with another metric.
    pub(crate) fn with_metric(&self, metric: u32) -> Self {
        let mut route = self.clone();
        route.attributes.retain(|(kind, _)| *kind != RTA_PRIORITY);
        if metric > 0 {
            route.attributes.push((RTA_PRIORITY, metric.to_ne_bytes().to_vec()));
        }
        route
    }

    fn write(&self, builder: &mut MessageBuilder) {
        let mut header = self.header;
        // The rest of the flags tell of the state of the next hop; the kernel refuses them in a request.
        let flags = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
        header[8..].copy_from_slice(&(flags & (RTNH_F_PERVASIVE | RTNH_F_ONLINK)).to_ne_bytes());
        builder.append_bytes(&header);
        for (kind, value) in self.attributes.iter().filter(|(kind, _)| *kind != RTA_CACHEINFO) {
            builder.append_attr(*kind, value);
        }
    }
}

impl FromNetlink for RawRoute {
    fn parse(input: &mut &[u8]) -> PResult<Self> {
        let bytes = std::mem::take(input);
        let Some((header, attributes)) = bytes.split_first_chunk::<RTMSG_LEN>() else { return Ok(Self::default()) };
        let attributes = AttrIter::new(attributes).map(|(kind, value)| (kind, value.to_vec())).collect();
        Ok(Self { header: *header, attributes })
    }

    fn write_dump_header(buffer: &mut Vec<u8>) {
        let mut header = [0; RTMSG_LEN];
        header[0] = AF_INET;
        buffer.extend_from_slice(&header);
    }
}

impl RouteConfig for RawRoute {
    fn device_ref(&self) -> Option<&InterfaceRef> {
        None
    }

    fn multipath_device_refs(&self) -> Vec<Option<&InterfaceRef>> {
        Vec::new()
    }

    fn family(&self) -> u8 {
        AF_INET
    }

    fn write_add(&self, builder: &mut MessageBuilder, _: &ResolvedRouteInterfaces) {
        self.write(builder);
    }

    fn write_delete(&self, builder: &mut MessageBuilder) {
        self.write(builder);
    }
}

/// A link with what says where the other end of a veth pair is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peering {
    /// The link's index.
    pub(crate) index: u32,
    /// Its MAC address, if it has one of six bytes.
    pub(crate) mac: Option<[u8; 6]>,
    /// The index of the other end, in its namespace.
    pub(crate) peer: Option<u32>,
    /// The id, in the namespace of this link, of the peer's namespace; `None` if it is the same.
    pub(crate) peer_nsid: Option<u32>,
}

impl Peering {
    /// The link of an index.
    pub(crate) async fn of(links: &Connection<Route>, index: u32) -> Result<Option<Self>, AttachError> {
        let all: Vec<Self> =
            links.dump_typed(NlMsgType::RTM_GETLINK).await.map_err(kernel(|| "reading interfaces".into()))?;
        Ok(all.into_iter().find(|link| link.index == index))
    }
}

impl FromNetlink for Peering {
    fn parse(input: &mut &[u8]) -> PResult<Self> {
        let bytes = std::mem::take(input);
        let mut link = Self::default();
        let Some((header, attributes)) = bytes.split_first_chunk::<IFINFOMSG_LEN>() else { return Ok(link) };
        link.index = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
        for (kind, value) in AttrIter::new(attributes) {
            let number = || value.try_into().ok().map(u32::from_ne_bytes);
            match kind {
                IFLA_ADDRESS => link.mac = value.try_into().ok(),
                IFLA_LINK => link.peer = number(),
                IFLA_LINK_NETNSID => link.peer_nsid = number(),
                _ => {}
            }
        }
        Ok(link)
    }

    fn write_dump_header(buffer: &mut Vec<u8>) {
        buffer.extend_from_slice(&[0; IFINFOMSG_LEN]);
    }
}
