//! BIRD's side of the seam: how it is started, its control socket, and what it says there.
//!
//! [`Client`] speaks the control protocol over the Unix socket; [`ReplyReader`] is its parser, without I/O, so that
//! every split of the byte stream can be tried. [`Session`] and [`Status`] are the two answers that people and
//! agents ask for. [`command_line`] and [`needs_recovery`] are for whoever starts the daemon.
//!
//! Facts that shape the code (BIRD 2.0.12): a request line of 1,023 bytes or more makes BIRD close the connection
//! without a word; an end of file before the greeting means that the daemon refused its configuration; lines that
//! start with `+` are log echo of other clients' making and belong to no reply.

mod client;
mod md5;
mod parse;
mod reply;
mod session;
mod start;
mod status;

pub use client::{Client, Configured, Error};
pub use md5::{Md5Failures, md5_failures};
pub use reply::{BadReply, Reply, ReplyReader};
pub use session::{BgpState, Channel, ErrorOrigin, Family, LastError, Session, SessionKind};
pub use start::{RecoveryError, Start, command_line, needs_recovery};
pub use status::{Recovery, Status};

pub(crate) use session::{established_sessions, session_count};
