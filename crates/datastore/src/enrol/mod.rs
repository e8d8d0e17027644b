//! How a host comes to belong to a datastore, and how it is shut out again.
//!
//! ```text
//!  first host                                             second host
//!  calicoctl node invite ── admin socket ─► Registrar     calicoctl node --join=… --token=… --ca-fingerprint=…
//!     one line: address, token, fingerprint ────────────►   │
//!                                     TLS, the authority is known by its fingerprint
//!                        GET  /v1/clock  ◄───────────────   │ are we who was invited by whom, at what time?
//!                        POST /v1/enrol  ◄───────────────   │ token, name, clock, certificate request
//!                                        ───────────────►   │ certificate, authority
//!                        gRPC            ◄═══════════════   the host's certificate from here on
//! ```
//!
//! [`Book`] is what the first host keeps: invitations (only the hashes of their tokens) and the certificates that count.
//! [`Registrar`] puts the book on disk, signs, and knows who is connected. [`join`] and [`renewal`] are the other side.
//!
//! Invariants:
//! - A certificate counts only while it is in the book: whoever is not in it is a stranger, whatever a certificate says.
//! - A token is used up in the same write that enters the certificate; a failed write changes nothing.
//! - Who joins says nothing secret before it has seen the authority with the right fingerprint, and a clock that agrees.

mod book;
mod connections;
mod guesses;
mod http;
pub mod join;
mod message;
mod registrar;
pub mod renewal;
mod token;

pub(crate) use book::Barred;
use book::Book;
pub use book::HostState;
pub(crate) use connections::{Connections, Cut, Entry};
pub(crate) use http::serve;
pub use message::Refusal;
pub(crate) use registrar::WeakRegistrar;
pub use registrar::{Clock, Guest, Invited, OpenError, Registrar, RegistrarOptions, Revoked};
pub use token::Token;

use std::time::Duration;

/// How much the clocks of two hosts may differ: certificates count from one hour before they are made, so this is on
/// the safe side.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(5 * 60);
/// How long an invitation holds if nothing is said.
pub const DEFAULT_INVITATION: Duration = Duration::from_secs(3600);
/// The longest that an invitation may hold.
pub const LONGEST_INVITATION: Duration = Duration::from_secs(7 * 24 * 3600);
/// The TCP port of the datastore, etcd's.
pub const PORT: u16 = 2379;
/// The longest request of a host that joins, and the longest answer, in bytes.
const MESSAGE_LIMIT: usize = 64 << 10;

/// What is wrong with the name of a host.
fn name_fault(name: &str) -> Option<&'static str> {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if name.is_empty() || name.len() > 253 {
        Some("it must have 1 to 253 characters")
    } else if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte)) {
        Some("only lower-case letters, digits, dashes and dots are allowed")
    } else if !name.split('.').all(|label| edge(label.bytes().next()) && edge(label.bytes().last())) {
        Some("it and each part between dots must begin and end with a letter or a digit")
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
