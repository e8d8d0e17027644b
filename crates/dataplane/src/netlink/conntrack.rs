//! Connection tracking entries of addresses that moved away, and of datagrams that a port now leads elsewhere.

use std::{collections::HashSet, net::IpAddr};

use calico_policy::instruction::PublishedPort;
use nlink::netlink::{AttrIter, Connection, MessageBuilder, Netfilter, Protocol, netfilter::ConntrackFilter};

use super::{rtnl::address, socket::Socket};
use crate::{error::Error, family::Family};

/// `NFNL_SUBSYS_CTNETLINK`.
const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
/// Attributes of an entry.
mod cta {
    pub(super) const TUPLE_ORIGINAL: u16 = 1;
    pub(super) const TUPLE_REPLY: u16 = 2;
    pub(super) const ID: u16 = 12;
    pub(super) const ZONE: u16 = 18;
    /// Of a tuple.
    pub(super) const TUPLE_IP: u16 = 1;
    pub(super) const TUPLE_PROTO: u16 = 2;
    /// Of a tuple's addresses: sources of IPv4 and IPv6, and destinations.
    pub(super) const SOURCES: [u16; 2] = [1, 3];
    pub(super) const DESTINATIONS: [u16; 2] = [2, 4];
    /// Of a tuple's protocol: its number, the destination port.
    pub(super) const PROTO_NUMBER: u16 = 1;
    pub(super) const PROTO_DESTINATION: u16 = 3;
    /// The attribute is a list of attributes.
    pub(super) const NESTED: u16 = 0x8000;
}

/// Up to this many IPv4 addresses are left to the kernel to search for; more, and IPv6, are searched in a listing.
const FEW: usize = 8;

/// Deletes connection tracking entries.
pub(crate) struct Conntrack {
    socket: Socket,
    filtering: Connection<Netfilter>,
}

/// What names an entry in a request to delete it, as the kernel wrote it: attribute and value.
type EntryName = Vec<(u16, Vec<u8>)>;

impl Conntrack {
    /// Opens sockets in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, Error> {
        let filtering = Connection::<Netfilter>::new()
            .map_err(|e| Error::Socket { protocol: "conntrack", source: std::io::Error::other(e) })?;
        Ok(Self { socket: Socket::open(Protocol::Netfilter, "conntrack")?, filtering })
    }

    /// Deletes the entries that have one of these addresses as source of the original or of the reply direction: a
    /// later owner of the address must not inherit what was allowed to the former.
    pub(crate) async fn forget(&self, addresses: &[IpAddr]) -> Result<(), Error> {
        for family in Family::ALL {
            let mine: Vec<IpAddr> =
                addresses.iter().copied().filter(|address| Family::of_address(address) == family).collect();
            let by_kernel = family == Family::V4 && mine.len() <= FEW && self.filtered(&mine).await;
            if !by_kernel && !mine.is_empty() {
                self.listed(family, |entry| sources(entry).any(|source| mine.contains(&source))).await?;
            }
        }
        Ok(())
    }

    /// Deletes the entries of datagrams to these published ports at `local` addresses that are not translated, because
    /// they began before the port was published: whoever goes on sending from the same port would never reach the
    /// workload. What is translated already stays.
    pub(crate) async fn forget_untranslated(
        &self,
        ports: &[PublishedPort],
        local: &HashSet<IpAddr>,
    ) -> Result<(), Error> {
        for family in Family::ALL {
            let mine: Vec<&PublishedPort> =
                ports.iter().filter(|port| Family::of_address(&port.host) == family).collect();
            let concerns = |entry: &[u8]| {
                let Some((protocol, address, port)) = destination(entry) else { return false };
                let is_for = |own: &&PublishedPort| {
                    (own.protocol, own.host_port) == (protocol, port)
                        && (own.host.is_unspecified() || own.host == address)
                };
                local.contains(&address)
                    && mine.iter().any(is_for)
                    // The reply comes from where the question went.
                    && sources(entry).nth(1) == Some(address)
            };
            if !mine.is_empty() {
                self.listed(family, concerns).await?;
            }
        }
        Ok(())
    }

    /// Has the kernel find the entries, which spares a listing of what may be very many. Not every kernel can; `false`
    /// if it did not work.
    async fn filtered(&self, addresses: &[IpAddr]) -> bool {
        for address in addresses {
            let original = ConntrackFilter::new().orig_src(*address);
            let reply = ConntrackFilter::new().reply_src(*address);
            for filter in [original, reply] {
                if let Err(error) = self.filtering.flush_conntrack_matching(&filter).await {
                    tracing::debug!(%address, %error, "the kernel does not find the entries by itself");
                    return false;
                }
            }
        }
        true
    }

    /// Lists all entries and deletes those concerned, each by the very attributes that it was listed with.
    async fn listed(&self, family: Family, concerns: impl Fn(&[u8]) -> bool) -> Result<(), Error> {
        let mut concerned: Vec<EntryName> = Vec::new();
        let what = "list conntrack entries";
        self.socket
            .dump(what, message(GET, family), |_, payload| {
                let attributes = payload.get(4..).unwrap_or_default();
                if concerns(attributes) {
                    concerned.push(name_of(attributes));
                }
            })
            .await?;
        for name in concerned {
            let mut request = message(DELETE, family);
            for (attribute, value) in name {
                request.append_attr(attribute, &value);
            }
            match self.socket.acknowledged("delete conntrack entry", request).await {
                // It ended meanwhile.
                Err(Error::Kernel(error)) if error.is(rustix::io::Errno::NOENT) => {}
                other => other?,
            }
        }
        Ok(())
    }
}

fn message(kind: u16, family: Family) -> MessageBuilder {
    let mut message = MessageBuilder::new(SUBSYSTEM << 8 | kind, 0);
    message.append_bytes(&[family.number(), 0, 0, 0]);
    message
}

/// The source addresses of both directions.
fn sources(entry: &[u8]) -> impl Iterator<Item = IpAddr> {
    let tuples = AttrIter::new(entry).filter(|(kind, _)| [cta::TUPLE_ORIGINAL, cta::TUPLE_REPLY].contains(kind));
    tuples.filter_map(|(_, tuple)| {
        let (_, addresses) = AttrIter::new(tuple).find(|(kind, _)| *kind == cta::TUPLE_IP)?;
        let (_, source) = AttrIter::new(addresses).find(|(kind, _)| cta::SOURCES.contains(kind))?;
        address(source)
    })
}

/// Protocol, destination address and port of the original direction, of a protocol that has ports.
fn destination(entry: &[u8]) -> Option<(u8, IpAddr, u16)> {
    let part = |nest, wanted: &[u16]| AttrIter::new(nest).find(|(kind, _)| wanted.contains(kind)).map(|(_, part)| part);
    let tuple = part(entry, &[cta::TUPLE_ORIGINAL])?;
    let to = address(part(part(tuple, &[cta::TUPLE_IP])?, &cta::DESTINATIONS)?)?;
    let protocol = part(tuple, &[cta::TUPLE_PROTO])?;
    let number = part(protocol, &[cta::PROTO_NUMBER])?.first()?;
    let port = part(protocol, &[cta::PROTO_DESTINATION])?.first_chunk()?;
    Some((*number, to, u16::from_be_bytes(*port)))
}

/// The original tuple, the zone and the identifier: the kernel deletes only the very entry that has all three.
fn name_of(entry: &[u8]) -> EntryName {
    AttrIter::new(entry)
        .filter_map(|(kind, value)| match kind {
            cta::TUPLE_ORIGINAL => Some((kind | cta::NESTED, value.to_vec())),
            cta::ZONE | cta::ID => Some((kind, value.to_vec())),
            _ => None,
        })
        .collect()
}
