//! The certificates by which hosts and the datastore know each other.
//!
//! The host that keeps the datastore makes an authority for itself the first time that somebody is invited. It signs
//! two kinds of certificate: the server's, for the addresses under which the datastore is reached, and one for each
//! host, which carries the node's name. Nobody else is believed, on either side, and the two kinds cannot stand in for
//! each other: a host's certificate is no server's.
//!
//! Invariants:
//! - A host's key never leaves the host: what travels is a certificate request.
//! - Of a request only the public key is taken. Name, life and purpose are the authority's decision.
//! - A key and its certificate are one file, replaced by a rename, so that no crash leaves a pair that does not fit.
//!
//! No clock is read here: `now` is always an argument.

mod authority;
mod facts;
mod files;
mod fingerprint;
mod schedule;

use std::path::PathBuf;

use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use time::{Duration, OffsetDateTime};

pub use authority::{Authority, Issued, Request};
pub use facts::Facts;
pub use files::{make_private_folder, read_private, write_private};
pub use fingerprint::Fingerprint;
pub use schedule::{Patience, is_due, renew_at};

/// How long an authority is good for.
pub const AUTHORITY_LIFE: Duration = Duration::days(20 * 365);
/// How long a host's or the server's certificate is good for.
pub const CERTIFICATE_LIFE: Duration = Duration::days(90);
/// How far certificates reach back before the moment they are made, for clocks that are behind.
pub const BACKDATE: Duration = Duration::hours(1);

/// What went wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PkiError {
    /// A file or folder cannot be used.
    #[error("{} cannot be {action}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// `read`, `written`, `made`.
        action: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file holds something else.
    #[error("{what} is damaged: {cause}")]
    Damaged {
        /// What it should be.
        what: String,
        /// What is wrong.
        cause: String,
    },
    /// A certificate request that nothing is signed for.
    #[error("the certificate request is not usable: {cause}")]
    Request {
        /// What is wrong.
        cause: String,
    },
    /// Keys or signatures cannot be made.
    #[error("{operation} is not possible: {cause}")]
    Crypto {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        cause: String,
    },
}

impl PkiError {
    /// What a person can do about it.
    pub fn way_out(&self) -> Option<&'static str> {
        match self {
            Self::File { .. } => Some("look at the disk and at the owner and mode of the folder; it is root's alone"),
            Self::Damaged { .. } => Some(
                "put the file back from a backup; or remove it to begin anew: every host must then be invited and \
                 join again",
            ),
            Self::Request { .. } | Self::Crypto { .. } => None,
        }
    }
}

/// A certificate, those above it, and its key.
pub struct Identity {
    /// The certificate itself, then those that signed it.
    pub chain: Vec<CertificateDer<'static>>,
    /// The secret half.
    pub key: PrivateKeyDer<'static>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads certificates and key from the text of one file; `what` names it in errors.
    ///
    /// # Errors
    /// [`PkiError::Damaged`]: there is no certificate, no key, or something unreadable.
    pub fn from_pem(what: &str, text: &str) -> Result<Self, PkiError> {
        let chain = Self::certificates(what, text)?;
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes());
        let key = key.map_err(|_| damaged(what, "it holds no private key"))?;
        Ok(Self { chain, key })
    }

    /// The certificates in a text; at least one.
    ///
    /// # Errors
    /// [`PkiError::Damaged`]: there is none, or one that cannot be read.
    pub fn certificates(what: &str, text: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
        let chain = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| damaged(what, format!("a certificate cannot be read ({error:?})")))?;
        if chain.is_empty() { Err(damaged(what, "it holds no certificate")) } else { Ok(chain) }
    }

    /// What the certificate says.
    ///
    /// # Errors
    /// [`PkiError::Damaged`].
    pub fn facts(&self, what: &str) -> Result<Facts, PkiError> {
        let first = self.chain.first().ok_or_else(|| damaged(what, "it holds no certificate"))?;
        Facts::of(first).map_err(|cause| damaged(what, cause))
    }
}

/// A new key, for ECDSA on the curve P-256.
///
/// # Errors
/// The system gives no randomness.
pub fn new_key() -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(|error| crypto("making a key", error))
}

/// `N` bytes that nobody can guess.
///
/// # Errors
/// The system gives no randomness.
pub fn random<const N: usize>() -> Result<[u8; N], PkiError> {
    let mut bytes = [0; N];
    let source = rustls::crypto::ring::default_provider().secure_random;
    source.fill(&mut bytes).map_err(|_| crypto("drawing random bytes", "the system gives none"))?;
    Ok(bytes)
}

/// The time as seconds since 1970, which files and messages carry.
pub fn seconds(time: OffsetDateTime) -> i64 {
    time.unix_timestamp()
}

/// A time for people: `2026-03-01 12:00:05 UTC`.
pub fn shown(seconds: i64) -> String {
    let form = time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|time| time.format(form).ok())
        .unwrap_or_else(|| format!("{seconds} s after 1970"))
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn damaged(what: &str, cause: impl Into<String>) -> PkiError {
    PkiError::Damaged { what: what.to_owned(), cause: cause.into() }
}

fn crypto(operation: &'static str, cause: impl ToString) -> PkiError {
    PkiError::Crypto { operation, cause: cause.to_string() }
}

#[cfg(test)]
mod tests;
