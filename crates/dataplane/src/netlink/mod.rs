//! The conversation with the kernel. Everything that knows the crate `nlink` or a wire format is below here.
//!
//! Requests are answered inside the system call that sends them, so a request is: send, then read what is queued.
//! Requests and notifications have sockets of their own; replies are matched by sequence number, so an answer that
//! came after a timeout is never taken for another request's.

mod conntrack;
mod events;
mod legacy;
mod nft_list;
mod nft_read;
mod nft_write;
mod rtnl;
mod socket;
mod vxlan;

pub(crate) use conntrack::Conntrack;
pub(crate) use events::{Events, LinkEvent, Notice, SeenAddress};
pub(crate) use legacy::{
    filter_mentions as legacy_filter_mentions, forward_policy_is_drop as legacy_forward_policy_is_drop,
};
pub(crate) use nft_read::{FilterRule, FilterTable};
pub(crate) use nft_write::ForeignOp;
pub(crate) use rtnl::{Link, Rtnl, TYPE_BLACKHOLE};
pub(crate) use socket::Socket;
pub(crate) use vxlan::{Device, SeenEntry, VxlanParameters};

/// The socket for nftables requests.
pub(crate) struct Nft {
    socket: Socket,
}

impl Nft {
    /// Opens it in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, crate::Error> {
        Ok(Self { socket: Socket::open(nlink::netlink::Protocol::Netfilter, "netfilter")? })
    }

    /// Our port identifier: notifications of our own commits carry it.
    pub(crate) fn port(&self) -> u32 {
        self.socket.port()
    }
}
