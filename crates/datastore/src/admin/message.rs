//! What is asked and answered.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::Status;

/// `POST /v1/invite`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteRequest {
    /// How long the invitation holds.
    pub ttl_seconds: u64,
    /// The address or name of this host that the other one will use; the one of the default route if left out.
    #[serde(default)]
    pub address: Option<String>,
}

/// The answer to it. Holds a secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteAnswer {
    /// The secret.
    pub token: String,
    /// The authority's, as [`Fingerprint`](crate::pki::Fingerprint) writes it.
    pub fingerprint: String,
    /// Where to join: `10.0.0.1:2379`, `[fd00::1]:2379`.
    pub address: String,
    /// The TCP port.
    pub port: u16,
    /// Until when, in seconds since 1970.
    pub expires: i64,
    /// The port was closed before.
    pub opened: bool,
}

impl std::fmt::Debug for InviteAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InviteAnswer").field("address", &self.address).finish_non_exhaustive()
    }
}

/// `POST /v1/revoke`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RevokeRequest {
    pub(super) host: String,
}

/// The answer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeAnswer {
    /// There was such a host.
    pub known: bool,
    /// So many connections of it were cut.
    pub connections: usize,
}

/// `POST /v1/compact`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CompactRequest {
    /// The revision up to which history is given up; the present one if left out.
    #[serde(default)]
    pub(super) revision: Option<i64>,
}

/// The answer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactAnswer {
    /// History begins there now.
    pub compacted: i64,
    /// The file's size before, in bytes.
    pub before: u64,
    /// And now.
    pub after: u64,
}

/// The answer to `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusAnswer {
    /// The datastore itself; its folder is as the service sees it.
    #[serde(flatten)]
    pub datastore: Status,
    /// Where other hosts reach it; `None` while the port is closed.
    pub listens_on: Option<SocketAddr>,
    /// How many invitations are open.
    pub invitations: usize,
    /// How many hosts belong.
    pub hosts: usize,
    /// How many of them are connected now.
    pub connected: usize,
}

impl StatusAnswer {
    pub(super) fn new(
        datastore: Status,
        listens_on: Option<SocketAddr>,
        invitations: usize,
        guests: &[crate::enrol::Guest],
    ) -> Self {
        let hosts = guests.iter().filter(|guest| guest.state.revoked.is_none()).count();
        let connected = guests.iter().filter(|guest| guest.connections > 0).count();
        Self { datastore, listens_on, invitations, hosts, connected }
    }
}

/// The body of every answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refused {
    pub(super) error: String,
    #[serde(default)]
    pub(super) causes: Vec<String>,
    #[serde(default)]
    pub(super) hint: Option<String>,
}

impl Refused {
    /// An error with all that is below it.
    pub(super) fn of(error: &dyn std::error::Error, hint: Option<String>) -> Self {
        let mut causes = Vec::new();
        let mut next = error.source();
        while let Some(cause) = next {
            let words = cause.to_string();
            if causes.last() != Some(&words) && words != error.to_string() {
                causes.push(words);
            }
            next = cause.source();
        }
        Self { error: error.to_string(), causes, hint }
    }
}
