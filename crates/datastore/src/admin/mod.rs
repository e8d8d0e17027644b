//! What an operator asks of the datastore of this host: invitations, hosts, backups, looking after the database.
//!
//! HTTP/1.1 with JSON on a Unix socket of root's alone. `calicoctl` uses [`Client`]; it works across the border of a
//! container too, since a backup is sent, not written into a folder that the other side may not see.

mod client;
mod message;
mod server;

pub use client::{AdminError, Client};
pub use message::{CompactAnswer, InviteAnswer, InviteRequest, RevokeAnswer, StatusAnswer};
pub use server::serve;

pub use crate::enrol::Guest;

/// The socket.
pub const ADMIN_SOCKET: &str = "/var/run/calico/datastore-admin.sock";

#[cfg(test)]
mod tests;
