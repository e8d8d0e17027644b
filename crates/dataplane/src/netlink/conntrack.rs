//! Connection tracking entries of addresses that moved away.

use std::net::IpAddr;

use nlink::netlink::{
    Connection, Netfilter,
    netfilter::{ConntrackEntry, ConntrackFilter},
};

use crate::{
    error::{Error, KernelError},
    family::Family,
};

/// Up to this many addresses are cleaned one by one, which leaves the search to the kernel; more by one listing.
const FEW: usize = 8;

/// Deletes connection tracking entries.
pub(crate) struct Conntrack {
    connection: Connection<Netfilter>,
}

impl Conntrack {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, Error> {
        let connection = Connection::<Netfilter>::new()
            .map_err(|e| Error::Socket { protocol: "conntrack", source: std::io::Error::other(e) })?;
        Ok(Self { connection })
    }

    /// Deletes the entries that have one of these addresses as source of the original or of the reply direction: a
    /// later owner of the address must not inherit what was allowed to the former.
    pub(crate) async fn forget(&self, addresses: &[IpAddr]) -> Result<(), Error> {
        let fails = |error: nlink::Error| -> Error {
            let operation = "delete conntrack entries".to_owned();
            match error.errno() {
                Some(errno) => KernelError::new(operation, errno).into(),
                None => Error::Netlink { operation, reason: error.to_string() },
            }
        };
        if addresses.len() <= FEW {
            for address in addresses {
                let original = ConntrackFilter::new().orig_src(*address);
                let reply = ConntrackFilter::new().reply_src(*address);
                for filter in [original, reply] {
                    self.connection.flush_conntrack_matching(&filter).await.map_err(fails)?;
                }
            }
            return Ok(());
        }
        let concerned = |entry: &ConntrackEntry| {
            [entry.orig.src_ip, entry.reply.src_ip].iter().flatten().any(|source| addresses.contains(source))
        };
        for family in Family::ALL {
            let entries = match family {
                Family::V4 => self.connection.get_conntrack().await.map_err(fails)?,
                Family::V6 => self.connection.get_conntrack_v6().await.map_err(fails)?,
            };
            for entry in entries.iter().filter(|entry| concerned(entry)) {
                match self.connection.del_conntrack_entry(entry).await {
                    Err(error) if !error.is_not_found() => return Err(fails(error)),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}
