//! Notifications of what others changed.

use nlink::netlink::{AttrIter, MessageIter, NetlinkSocket, NlMsgHdr, NlMsgType, Protocol, message::NLM_F_REPLACE};

use super::{
    nft_write::{SUBSYSTEM, msg},
    rtnl::{link_event, seen_address, seen_route},
    socket::text,
    vxlan::{SeenEntry, seen_entry},
};
use std::{cell::Cell, net::IpAddr};

use crate::{error::Error, family::Family, ifname::IfName, routing::Route, ruleset::TABLE};

/// Multicast groups: `NFNLGRP_NFTABLES`; `RTNLGRP_LINK`, `…_IPV4_IFADDR`, `…_IPV4_ROUTE`, `…_IPV6_IFADDR`,
/// `…_IPV6_ROUTE`.
const NFTABLES_GROUP: u32 = 7;
const ROUTE_GROUPS: [u32; 5] = [1, 5, 7, 9, 11];
/// `RTNLGRP_NEIGH`.
const NEIGHBOUR_GROUP: u32 = 3;
/// Notifications of a large foreign change must fit, or they are lost and everything has to be read again.
const RECEIVE_BUFFER: usize = 8 << 20;

/// A change of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkEvent {
    /// The interface's index.
    pub index: u32,
    /// Its name, if it still has one that we understand.
    pub name: Option<IfName>,
    /// Up and with a carrier.
    pub running: bool,
    /// It is not in this namespace any more.
    pub gone: bool,
}

/// A change of an address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeenAddress {
    /// The interface's index.
    pub interface: u32,
    /// The address.
    pub address: IpAddr,
    /// It went.
    pub gone: bool,
}

/// Something that somebody else changed, or that we must look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// One of our tables.
    Table(Family),
    /// Another program's filter table, where rules of iptables may be too.
    Filter(Family),
    /// Another table that rules of iptables may be in.
    Iptables(Family),
    /// A link.
    Link(LinkEvent),
    /// An address came to an interface or went.
    Address(SeenAddress),
    /// A neighbour or forwarding entry of the interface of a tunnel, perhaps.
    Entry(SeenEntry),
    /// A route that has our protocol number.
    OurRoute,
    /// A route of somebody else that took the place of one that was there.
    Replaced(Route),
    /// Some were lost.
    Overrun,
}

/// The sockets for notifications, and what to recognise in them.
pub(crate) struct Events {
    nft: NetlinkSocket,
    route: NetlinkSocket,
    nft_port: u32,
    route_port: u32,
    protocol: u8,
    /// Entries of neighbours are heard of.
    neighbours: Cell<bool>,
}

impl Events {
    /// Subscribes. Notifications that carry one of our own ports are not news.
    pub(crate) fn open(nft_port: u32, route_port: u32, protocol: u8) -> Result<Self, Error> {
        let open = |protocol, name, groups: &[u32]| -> Result<NetlinkSocket, Error> {
            let cannot = |e: nlink::Error| Error::Socket { protocol: name, source: std::io::Error::other(e) };
            let socket = NetlinkSocket::new(protocol).map_err(cannot)?;
            socket.set_rcvbuf(RECEIVE_BUFFER).map_err(cannot)?;
            for group in groups {
                socket.add_membership(*group).map_err(cannot)?;
            }
            Ok(socket)
        };
        let nft = open(Protocol::Netfilter, "netfilter notifications", &[NFTABLES_GROUP])?;
        if let Err(error) = nft.attach_filter(&skip_port(nft_port)) {
            tracing::debug!(%error, "own notifications are sorted out by hand");
        }
        let route = open(Protocol::Route, "route notifications", &ROUTE_GROUPS)?;
        Ok(Self { nft, route, nft_port, route_port, protocol, neighbours: Cell::new(false) })
    }

    /// Hears of neighbour and forwarding entries from now on, or no more. A host has many neighbours that do not
    /// matter, so this is only for those with a tunnel.
    pub(crate) fn follow_neighbours(&self, follow: bool) {
        if self.neighbours.replace(follow) == follow {
            return;
        }
        let group = NEIGHBOUR_GROUP;
        let done = if follow { self.route.add_membership(group) } else { self.route.drop_membership(group) };
        if let Err(error) = done {
            // The slow net below finds what is not heard of.
            tracing::warn!(%error, follow, "notifications of neighbour entries");
        }
    }

    /// Waits until something is notified that may matter. Cancel-safe: what was received is returned at once.
    pub(crate) async fn next(&self) -> Vec<Notice> {
        loop {
            let (data, rules) = tokio::select! {
                data = self.nft.recv_msg() => (data, true),
                data = self.route.recv_msg() => (data, false),
            };
            let notices = match data {
                Ok(data) => self.parse(&data, rules, &[]),
                Err(error) if error.is_no_buffer_space() || error.is_truncated() => vec![Notice::Overrun],
                Err(error) => {
                    tracing::warn!(%error, "cannot read notifications, reading everything back in a second");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                    vec![Notice::Overrun]
                }
            };
            if !notices.is_empty() {
                return notices;
            }
        }
    }

    /// What is queued, without waiting. Changes that these processes made are not news.
    pub(crate) fn drain(&self, own: &[u32]) -> Vec<Notice> {
        let mut notices = Vec::new();
        for (socket, rules) in [(&self.nft, true), (&self.route, false)] {
            loop {
                match socket.try_recv_msg() {
                    Ok(Some(data)) => notices.extend(self.parse(&data, rules, own)),
                    Ok(None) => break,
                    Err(error) => {
                        notices.push(Notice::Overrun);
                        if !error.is_no_buffer_space() && !error.is_truncated() {
                            tracing::warn!(%error, "cannot read notifications");
                            break;
                        }
                    }
                }
            }
        }
        notices
    }

    fn parse(&self, data: &[u8], rules: bool, own: &[u32]) -> Vec<Notice> {
        let messages = MessageIter::new(data).filter_map(Result::ok);
        if rules {
            // A program's first netlink socket has its process identifier.
            let messages = messages.filter(|(header, _)| !own.contains(&header.nlmsg_pid));
            messages.filter_map(|(header, payload)| self.rules_notice(header, payload)).collect()
        } else {
            messages.filter_map(|(header, payload)| self.route_notice(header, payload)).collect()
        }
    }

    fn rules_notice(&self, header: &NlMsgHdr, payload: &[u8]) -> Option<Notice> {
        let [subsystem, kind] = header.nlmsg_type.to_be_bytes();
        if subsystem != SUBSYSTEM || kind == msg::NEWGEN || header.nlmsg_pid == self.nft_port {
            return None;
        }
        let family = Family::from_number(*payload.first()?)?;
        // The table's name is attribute 1 of every kind of message.
        let table = AttrIter::new(payload.get(4..)?).find(|(kind, _)| *kind == 1)?.1;
        match text(table).as_str() {
            TABLE => Some(Notice::Table(family)),
            crate::foreign::TABLE => Some(Notice::Filter(family)),
            "raw" | "mangle" | "nat" => Some(Notice::Iptables(family)),
            _ => None,
        }
    }

    fn route_notice(&self, header: &NlMsgHdr, payload: &[u8]) -> Option<Notice> {
        match header.nlmsg_type {
            kind @ (NlMsgType::RTM_NEWLINK | NlMsgType::RTM_DELLINK) => {
                let (index, name, running) = link_event(payload)?;
                let gone = kind == NlMsgType::RTM_DELLINK;
                Some(Notice::Link(LinkEvent { index, name, running: running && !gone, gone }))
            }
            kind @ (NlMsgType::RTM_NEWADDR | NlMsgType::RTM_DELADDR) => {
                let (interface, address) = seen_address(payload)?;
                Some(Notice::Address(SeenAddress { interface, address, gone: kind == NlMsgType::RTM_DELADDR }))
            }
            // Of forwarding entries the kernel does not say who made them.
            kind @ (NlMsgType::RTM_NEWNEIGH | NlMsgType::RTM_DELNEIGH) if header.nlmsg_pid != self.route_port => {
                Some(Notice::Entry(seen_entry(payload, kind == NlMsgType::RTM_DELNEIGH)?))
            }
            kind @ (NlMsgType::RTM_NEWROUTE | NlMsgType::RTM_DELROUTE) if header.nlmsg_pid != self.route_port => {
                let seen = seen_route(payload)?;
                if seen.protocol == self.protocol {
                    return Some(Notice::OurRoute);
                }
                let replaced = kind == NlMsgType::RTM_NEWROUTE && header.nlmsg_flags & NLM_F_REPLACE != 0;
                replaced.then_some(Notice::Replaced(seen.route))
            }
            _ => None,
        }
    }
}

/// A socket filter that drops messages whose first header names this port: `struct sock_filter` instructions "load
/// the word at 12; if equal return 0; else return everything". The load reads the host-order field in network order.
fn skip_port(port: u32) -> Vec<u8> {
    let port = u32::from_be_bytes(port.to_ne_bytes());
    let program: [(u16, u8, u8, u32); 4] =
        [(0x20, 0, 0, 12), (0x15, 0, 1, port), (0x06, 0, 0, 0), (0x06, 0, 0, u32::MAX)];
    let mut bytes = Vec::with_capacity(32);
    for (code, yes, no, value) in program {
        bytes.extend_from_slice(&code.to_ne_bytes());
        bytes.extend_from_slice(&[yes, no]);
        bytes.extend_from_slice(&value.to_ne_bytes());
    }
    bytes
}
