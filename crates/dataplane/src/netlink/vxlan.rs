//! VXLAN devices and their forwarding entries.

use std::{collections::HashMap, net::IpAddr};

use nlink::netlink::{
    AttrIter, MessageBuilder, NlMsgType,
    message::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE},
};
use rustix::io::Errno;

use super::{
    rtnl::{Rtnl, address, append_address, native},
    socket::text,
};
use crate::{error::Error, family::Family, ifname::IfName};

const AF_BRIDGE: u8 = 7;
/// `IFF_UP`.
const UP: u32 = 1;
/// `NUD_PERMANENT`.
const PERMANENT: u16 = 0x80;
/// `NTF_SELF`: the device's own forwarding table, not that of a bridge above it.
const SELF: u8 = 0x02;
/// `IFA_F_NODAD`: usable at once; nobody on a tunnel could answer.
const NO_DUPLICATE_DETECTION: u8 = 0x02;
/// The kind of link.
const KIND: &str = "vxlan";

/// Link attributes.
mod ifla {
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const NAME: u16 = 3;
    pub(super) const MTU: u16 = 4;
    pub(super) const LINKINFO: u16 = 18;
    pub(super) const EXT_MASK: u16 = 29;
    pub(super) const INFO_KIND: u16 = 1;
    pub(super) const INFO_DATA: u16 = 2;
}

/// `IFLA_VXLAN_*`.
mod data {
    pub(super) const ID: u16 = 1;
    pub(super) const LINK: u16 = 3;
    pub(super) const LOCAL: u16 = 4;
    pub(super) const LEARNING: u16 = 7;
    pub(super) const PORT: u16 = 15;
    pub(super) const LOCAL6: u16 = 17;
    /// Attributes that are not zero of devices that are not as we make them: a group or a single remote, proxying,
    /// short circuits, notifications of misses, external control, filters.
    pub(super) const OTHER: [u16; 8] = [2, 11, 12, 13, 14, 16, 25, 30];
    /// Attributes without value that our devices do not have: extensions of the packets' header.
    pub(super) const EXTENSIONS: [u16; 2] = [23, 27];
}

/// Neighbour attributes.
mod nda {
    pub(super) const DST: u16 = 1;
    pub(super) const LLADDR: u16 = 2;
    /// Port, identifier and interface of an entry where they are not those of the device.
    pub(super) const OTHER: [u16; 3] = [6, 7, 8];
}

/// What cannot be changed of a VXLAN device: with other parameters it is another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VxlanParameters {
    pub vni: u32,
    pub port: u16,
    /// The address that packets are sent from.
    pub local: IpAddr,
    /// Index of the interface that carries them.
    pub parent: u32,
    /// It asks nobody but us whom to send to.
    pub plain: bool,
}

/// A link, whatever its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub index: u32,
    pub up: bool,
    pub mac: [u8; 6],
    pub mtu: u32,
    /// `None` if it is no VXLAN device.
    pub vxlan: Option<VxlanParameters>,
}

/// The other end of a forwarding entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Forwarding {
    /// The host.
    pub host: IpAddr,
    /// As we make it: permanent, with the device's own port and identifier.
    pub plain: bool,
}

/// A neighbour or forwarding entry in a notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeenEntry {
    pub interface: u32,
    /// A forwarding entry; else a neighbour.
    pub forwarding: bool,
    /// The host that packets go to, or the neighbour's address.
    pub address: Option<IpAddr>,
    pub mac: Option<[u8; 6]>,
    /// Permanent, and without attributes of its own.
    pub plain: bool,
    /// It went.
    pub gone: bool,
}

impl Rtnl {
    /// The link of this name, if there is one.
    pub(crate) async fn device(&self, name: &IfName) -> Result<Option<Device>, Error> {
        let mut request = MessageBuilder::new(NlMsgType::RTM_GETLINK, 0);
        request.append_bytes(&[0; 16]);
        request.append_attr_str(ifla::NAME, name.as_str());
        self.one_device(&format!("look at interface {name}"), request).await
    }

    /// The link with this index, if there is one.
    pub(crate) async fn device_at(&self, index: u32) -> Result<Option<Device>, Error> {
        let mut request = MessageBuilder::new(NlMsgType::RTM_GETLINK, 0);
        request.append_bytes(&link_header(index, 0, 0));
        self.one_device(&format!("look at interface {index}"), request).await
    }

    async fn one_device(&self, what: &str, mut request: MessageBuilder) -> Result<Option<Device>, Error> {
        // Without statistics.
        request.append_attr_u32(ifla::EXT_MASK, 1 << 3);
        let mut found = None;
        match self.socket.get(what, request, |_, payload| found = found.take().or(device(payload))).await {
            Ok(()) => Ok(found),
            Err(Error::Kernel(error)) if error.is(Errno::NODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a VXLAN device; an error if the name is taken.
    pub(crate) async fn create_vxlan(
        &self,
        name: &IfName,
        parameters: &VxlanParameters,
        mac: [u8; 6],
        mtu: u32,
    ) -> Result<(), Error> {
        let mut request = MessageBuilder::new(NlMsgType::RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
        request.append_bytes(&link_header(0, UP, UP));
        request.append_attr_str(ifla::NAME, name.as_str());
        request.append_attr(ifla::ADDRESS, &mac);
        request.append_attr_u32(ifla::MTU, mtu);
        let info = request.nest_start(ifla::LINKINFO);
        request.append_attr_str(ifla::INFO_KIND, KIND);
        let data = request.nest_start(ifla::INFO_DATA);
        request.append_attr_u32(data::ID, parameters.vni);
        request.append_attr_u32(data::LINK, parameters.parent);
        let local = if parameters.local.is_ipv4() { data::LOCAL } else { data::LOCAL6 };
        append_address(&mut request, local, &parameters.local);
        request.append_attr_u8(data::LEARNING, 0);
        request.append_attr(data::PORT, &parameters.port.to_be_bytes());
        request.nest_end(data);
        request.nest_end(info);
        self.socket.acknowledged(&format!("make VXLAN device {name}"), request).await
    }

    /// Brings a link up and gives it this MTU.
    pub(crate) async fn set_link(&self, index: u32, mtu: u32) -> Result<(), Error> {
        let mut request = MessageBuilder::new(NlMsgType::RTM_NEWLINK, 0);
        request.append_bytes(&link_header(index, UP, UP));
        request.append_attr_u32(ifla::MTU, mtu);
        self.socket.acknowledged(&format!("set interface {index} up with MTU {mtu}"), request).await
    }

    /// Removes a link, and with it its addresses, routes and entries.
    pub(crate) async fn delete_link(&self, index: u32) -> Result<(), Error> {
        let mut request = MessageBuilder::new(NlMsgType::RTM_DELLINK, 0);
        request.append_bytes(&link_header(index, 0, 0));
        self.socket.acknowledged(&format!("delete interface {index}"), request).await
    }

    /// Gives a link an address of its own, without a subnet around it.
    pub(crate) async fn add_address(&self, index: u32, address: IpAddr) -> Result<(), Error> {
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        let request = address_request(NlMsgType::RTM_NEWADDR, flags, index, address);
        self.socket.acknowledged(&format!("add address {address} to interface {index}"), request).await
    }

    /// Takes an address from a link.
    pub(crate) async fn delete_address(&self, index: u32, address: IpAddr) -> Result<(), Error> {
        let request = address_request(NlMsgType::RTM_DELADDR, 0, index, address);
        self.socket.acknowledged(&format!("delete address {address} of interface {index}"), request).await
    }

    /// The forwarding entries of a VXLAN device.
    pub(crate) async fn forwarding(&self, index: u32) -> Result<HashMap<[u8; 6], Forwarding>, Error> {
        let request = || {
            let mut request = MessageBuilder::new(NlMsgType::RTM_GETNEIGH, 0);
            request.append_bytes(&entry_header(AF_BRIDGE, index, 0, 0));
            request
        };
        let seen = self.dump("list forwarding entries", request, |_, payload| seen_entry(payload, false)).await?;
        let mut found: HashMap<[u8; 6], Forwarding> = HashMap::new();
        for entry in seen.into_iter().filter(|entry| entry.forwarding && entry.interface == index) {
            let (Some(mac), Some(host)) = (entry.mac, entry.address) else { continue };
            let seen = Forwarding { host, plain: entry.plain };
            // Of one with several ends none is as we make it.
            found.entry(mac).and_modify(|first| first.plain = false).or_insert(seen);
        }
        Ok(found)
    }

    /// Sends what goes to a MAC address to a host, and to no other.
    pub(crate) async fn set_forwarding(&self, index: u32, mac: [u8; 6], host: IpAddr) -> Result<(), Error> {
        let mut request = MessageBuilder::new(NlMsgType::RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE);
        request.append_bytes(&entry_header(AF_BRIDGE, index, PERMANENT, SELF));
        request.append_attr(nda::LLADDR, &mac);
        append_address(&mut request, nda::DST, &host);
        self.socket.acknowledged(&format!("forward to {host} on interface {index}"), request).await
    }

    /// Removes all ends of a MAC address.
    pub(crate) async fn delete_forwarding(&self, index: u32, mac: [u8; 6]) -> Result<(), Error> {
        let mut request = MessageBuilder::new(NlMsgType::RTM_DELNEIGH, 0);
        request.append_bytes(&entry_header(AF_BRIDGE, index, 0, SELF));
        request.append_attr(nda::LLADDR, &mac);
        self.socket.acknowledged(&format!("delete a forwarding entry of interface {index}"), request).await
    }
}

/// An `ifinfomsg`.
fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

/// An `ndmsg`.
fn entry_header(family: u8, index: u32, state: u16, flags: u8) -> [u8; 12] {
    let mut header = [0; 12];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header[10] = flags;
    header
}

fn address_request(kind: u16, flags: u16, index: u32, address: IpAddr) -> MessageBuilder {
    let family = Family::of_address(&address);
    let mut request = MessageBuilder::new(kind, flags);
    request.append_bytes(&[family.number(), family.width(), NO_DUPLICATE_DETECTION, 0]);
    request.append_bytes(&index.to_ne_bytes());
    // Local and address: the same, as there is no other end of the link.
    append_address(&mut request, 2, &address);
    append_address(&mut request, 1, &address);
    request
}

/// A link in a message.
fn device(payload: &[u8]) -> Option<Device> {
    let index = native(payload.get(4..8)?)?;
    let up = native(payload.get(8..12)?)? & UP != 0;
    let (mut mac, mut mtu, mut vxlan) = ([0; 6], 0, None);
    for (kind, value) in AttrIter::new(payload.get(16..)?) {
        match kind {
            ifla::ADDRESS => mac = value.first_chunk().copied().unwrap_or_default(),
            ifla::MTU => mtu = native(value)?,
            ifla::LINKINFO => vxlan = parameters(value),
            _ => {}
        }
    }
    Some(Device { index, up, mac, mtu, vxlan })
}

fn parameters(info: &[u8]) -> Option<VxlanParameters> {
    let attribute = |wanted: u16| AttrIter::new(info).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    if text(attribute(ifla::INFO_KIND)?) != KIND {
        return None;
    }
    let unknown = IpAddr::from([0, 0, 0, 0]);
    let mut found = VxlanParameters { vni: 0, port: 0, local: unknown, parent: 0, plain: true };
    for (kind, value) in AttrIter::new(attribute(ifla::INFO_DATA)?) {
        match kind {
            data::ID => found.vni = native(value)?,
            data::LINK => found.parent = native(value)?,
            data::LOCAL | data::LOCAL6 => found.local = address(value)?,
            data::PORT => found.port = u16::from_be_bytes(*value.first_chunk()?),
            data::LEARNING => found.plain &= value.first() == Some(&0),
            kind if data::OTHER.contains(&kind) => found.plain &= value.iter().all(|byte| *byte == 0),
            kind if data::EXTENSIONS.contains(&kind) => found.plain = false,
            _ => {}
        }
    }
    Some(found)
}

/// An entry in an `ndmsg`.
pub(super) fn seen_entry(payload: &[u8], gone: bool) -> Option<SeenEntry> {
    let interface = native(payload.get(4..8)?)?;
    let state = u16::from_ne_bytes([*payload.get(8)?, *payload.get(9)?]);
    let (mut found, mut mac, mut plain) = (None, None, state & PERMANENT != 0);
    for (kind, value) in AttrIter::new(payload.get(12..)?) {
        match kind {
            nda::DST => found = address(value),
            nda::LLADDR => mac = value.first_chunk().copied(),
            kind if nda::OTHER.contains(&kind) => plain = false,
            _ => {}
        }
    }
    let forwarding = *payload.first()? == AF_BRIDGE;
    Some(SeenEntry { interface, forwarding, address: found, mac, plain, gone })
}
