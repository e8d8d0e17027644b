//! What a host that joins and the datastore say to each other: JSON over HTTP/1.1 over TLS.

use serde::{Deserialize, Serialize};

use super::CLOCK_TOLERANCE;
use crate::pki::shown;

/// By what a client sees that it speaks to a datastore of this kind.
pub(super) const SERVICE: &str = "calico-datastore";

/// The answer to `GET /v1/clock`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClockAnswer {
    /// [`SERVICE`].
    pub(super) service: String,
    /// The datastore's clock, in seconds since 1970.
    pub(super) now: i64,
}

/// `POST /v1/enrol`.
#[derive(Serialize, Deserialize)]
pub(super) struct EnrolRequest {
    pub(super) token: String,
    /// The name that the node wants.
    pub(super) host: String,
    /// The host's clock, in seconds since 1970.
    pub(super) now: i64,
    /// The certificate request, in PEM form.
    pub(super) request: String,
}

/// `POST /v1/renew`, of a host with a certificate.
#[derive(Serialize, Deserialize)]
pub(super) struct RenewRequest {
    /// The host's clock, in seconds since 1970.
    pub(super) now: i64,
    /// The certificate request, in PEM form.
    pub(super) request: String,
}

/// The answer to both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Certified {
    /// The host's certificate, in PEM form.
    pub(super) certificate: String,
    /// The authority's, in PEM form.
    pub(super) authority: String,
    /// The host that keeps the datastore.
    pub(super) keeper: String,
    /// Addresses or names under which it says that it is reached.
    pub(super) names: Vec<String>,
    /// The port there.
    pub(super) port: u16,
}

/// The answer to `GET /v1/whoami`, of a host with a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WhoAmI {
    pub(super) host: String,
    pub(super) valid_until: i64,
}

/// The body of every answer that is a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refused {
    pub(super) refused: Refusal,
    /// The same in words, for programs that do not know the reason.
    pub(super) message: String,
}

/// Why the datastore does not let a host join or go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "reason", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Refusal {
    /// No invitation has this token.
    #[error("the datastore knows no invitation with this token")]
    WrongToken,
    /// The invitation has been used.
    #[error("the invitation has been used already, by host {host} at {}", shown(*at))]
    UsedToken {
        /// By whom.
        host: String,
        /// When, in seconds since 1970.
        at: i64,
    },
    /// The invitation is over.
    #[error("the invitation was valid until {}", shown(*at))]
    ExpiredToken {
        /// Until when, in seconds since 1970.
        at: i64,
    },
    /// Too many wrong tokens.
    #[error("too many wrong tokens came from this host; the datastore listens to it again in {seconds} s")]
    TooManyTries {
        /// How long to wait.
        seconds: i64,
    },
    /// The clocks differ too much.
    #[error(
        "the clocks differ by {} s: it is {} on the host that keeps the datastore, and {} here; at most {} s are allowed",
        datastore.abs_diff(*here), shown(*datastore), shown(*here), CLOCK_TOLERANCE.as_secs()
    )]
    Clock {
        /// The datastore's, in seconds since 1970.
        datastore: i64,
        /// The other host's.
        here: i64,
    },
    /// A host of this name is there.
    #[error("the name {host} belongs to a host that is connected right now, from {from}")]
    NameTaken {
        /// The name.
        host: String,
        /// Its address; `the host that keeps the datastore` for that one itself.
        from: String,
    },
    /// The name is none.
    #[error("{host:?} cannot be the name of a host: {cause}")]
    BadName {
        /// What was said.
        host: String,
        /// What is wrong.
        cause: String,
    },
    /// The host was shut out.
    #[error("host {host} was shut out with `calicoctl node revoke`")]
    Revoked {
        /// Its name.
        host: String,
    },
    /// No certificate came along where one is needed, or one that is not in the book.
    #[error("the datastore does not know this host's certificate")]
    Stranger,
    /// The request makes no sense.
    #[error("the request is not understood: {cause}")]
    BadRequest {
        /// What is wrong.
        cause: String,
    },
    /// The datastore could not do it.
    #[error("the datastore cannot do it now: {cause}")]
    Failed {
        /// Why.
        cause: String,
    },
}

impl Refusal {
    /// What a person can do about it.
    pub fn way_out(&self) -> String {
        match self {
            Self::WrongToken => "copy the whole line that `calicoctl node invite` printed; if another datastore \
                                 answers, look at the address"
                .into(),
            Self::UsedToken { .. } | Self::ExpiredToken { .. } => {
                "every invitation is for one host and for a limited time; ask for a new one where the datastore is: \
                 calicoctl node invite"
                    .into()
            }
            Self::TooManyTries { .. } => "wait, and copy the whole line that `calicoctl node invite` printed".into(),
            Self::Clock { .. } => "set the clock that is wrong (timedatectl set-ntp true), then try again; the \
                                   invitation has not been used"
                .into(),
            Self::NameTaken { host, .. } => format!(
                "give this host another name with --name; or, if it is this one that joins again, stop its service \
                 (calicoctl node stop) or shut the old one out where the datastore is: calicoctl node revoke {host}"
            ),
            Self::BadName { .. } => "say a better one with --name".into(),
            Self::Revoked { .. } | Self::Stranger => {
                "to let it in again, invite it where the datastore is (calicoctl node invite) and let it join".into()
            }
            Self::BadRequest { .. } => "use the same version of calicoctl on both hosts".into(),
            Self::Failed { .. } => "look at the log of calico-node on the host that keeps the datastore".into(),
        }
    }
}
