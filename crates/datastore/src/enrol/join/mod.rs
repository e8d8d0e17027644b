//! Joining a datastore, from the side of the host that joins.
//!
//! Until the certificate is there the only thing known of the datastore is the fingerprint of its authority, carried
//! here by a person. So the server is believed if, and only if, it shows a certificate of that authority, made for
//! servers and for the address that was dialled; the token is sent after that, and after the clocks have been compared.
//! The certificate that comes back is tried before anything is written.

mod files;
mod pinning;
mod talk;

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};

use super::{
    CLOCK_TOLERANCE, Clock, PORT, Refusal, Token,
    message::{Certified, ClockAnswer, EnrolRequest, RenewRequest, SERVICE, WhoAmI},
};
use crate::{
    pki::{Facts, Fingerprint, Identity, PkiError, Request, new_key, seconds, shown},
    tls::{self, TlsClock},
};
pub use files::{AUTHORITY_FILE, IDENTITY_FILE, Kept, LeftAside, Standing, keep, leave_own, standing};
use pinning::{PinFault, Pinned};
use talk::Talk;

/// Where a datastore is: an address or a host name, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Without brackets.
    pub host: String,
    /// [`PORT`] if nothing was said.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// The text is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it must be ADDRESS or ADDRESS:PORT, with an IPv6 address in brackets")]
pub struct NoAddress;

impl FromStr for Address {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        let text = text.trim();
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self { host: address.to_string(), port: PORT });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0).ok_or(NoAddress)?),
            None => (text, PORT),
        };
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(inner) => inner.parse::<std::net::Ipv6Addr>().map_err(|_| NoAddress)?.to_string(),
            None if host.contains([':', '/', '@']) || ServerName::try_from(host).is_err() => return Err(NoAddress),
            None => host.to_owned(),
        };
        Ok(Self { host, port })
    }
}

/// What a person carries from the first host to this one.
#[derive(Clone, Debug)]
pub struct Invitation {
    /// Where the datastore is.
    pub address: Address,
    /// The secret.
    pub token: Token,
    /// The authority to believe.
    pub fingerprint: Fingerprint,
}

/// What joining brought; nothing is on disk yet.
pub struct Joined {
    /// Certificate and key, the text of a file. A secret.
    pub identity: String,
    /// The authority's certificate.
    pub authority: String,
    /// The host that keeps the datastore.
    pub keeper: String,
    /// The node's name that the certificate is for.
    pub host: String,
    /// Where the datastore is.
    pub address: Address,
    /// The certificate's last second, in seconds since 1970. It is renewed long before.
    pub valid_until: i64,
}

impl fmt::Debug for Joined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keeper, host, address, .. } = self;
        f.debug_struct("Joined")
            .field("keeper", keeper)
            .field("host", host)
            .field("address", address)
            .finish_non_exhaustive()
    }
}

/// Why a host could not join or renew.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Nobody answers there.
    #[error("{address} cannot be reached: {cause}")]
    Unreachable {
        /// Where.
        address: Address,
        /// Why.
        cause: String,
    },
    /// Somebody else answers there.
    #[error("what answers at {address} is not a datastore of Calico: {cause}")]
    NotCalico {
        /// Where.
        address: Address,
        /// Why one can tell.
        cause: String,
    },
    /// The authority is another one.
    #[error(
        "the datastore at {address} shows {}, but the invitation says {expected}; nothing was sent to it",
        presented.as_ref().map_or_else(|| "no authority".to_owned(), ToString::to_string)
    )]
    Fingerprint {
        /// Where.
        address: Address,
        /// The invitation's.
        expected: Fingerprint,
        /// What was seen.
        presented: Option<Fingerprint>,
    },
    /// The certificate is not for the address that was dialled.
    #[error("the datastore at {address} has a certificate for {names} only; nothing was sent to it")]
    Name {
        /// Where.
        address: Address,
        /// The names in it.
        names: String,
    },
    /// The server's certificate has ended, or has not begun.
    #[error("the certificate of the datastore at {address} is valid from {} to {}, and it is {} now",
        shown(*from), shown(*until), shown(*now))]
    Lifetime {
        /// Where.
        address: Address,
        /// Its first second.
        from: i64,
        /// Its last second.
        until: i64,
        /// Our clock.
        now: i64,
    },
    /// The datastore says no.
    #[error("{0}")]
    Refused(Refusal),
    /// The connection broke, or the answer makes no sense.
    #[error("talking to the datastore at {address} failed: {cause}")]
    Broken {
        /// Where.
        address: Address,
        /// Why.
        cause: String,
    },
    /// Keys and files here.
    #[error(transparent)]
    Pki(#[from] PkiError),
}

impl JoinError {
    /// What a person can do about it.
    pub fn way_out(&self) -> Option<String> {
        match self {
            Self::Unreachable { address, .. } => Some(format!(
                "is calico-node running there, and does a firewall let this host in to TCP port {port}? There: \
                 ss -ltn 'sport = :{port}' shows whether it listens; `calicoctl node invite` opens it",
                port = address.port
            )),
            Self::NotCalico { .. } | Self::Fingerprint { .. } => Some(
                "copy the whole line that `calicoctl node invite` printed; the address must be the one of the host \
                 where it ran"
                    .into(),
            ),
            Self::Name { address, .. } => Some(format!(
                "join at one of these, or ask for an invitation for this address: calicoctl node invite --address {}",
                address.host
            )),
            Self::Lifetime { .. } => Some("look at the clocks of both hosts: timedatectl".into()),
            Self::Refused(refusal) => Some(refusal.way_out()),
            Self::Broken { .. } => Some("try again; the log of calico-node on the other host may say more".into()),
            Self::Pki(error) => error.way_out().map(str::to_owned),
        }
    }
}

/// Gets a certificate for `host` by an invitation, and tries it.
///
/// # Errors
/// [`JoinError`]; nothing was changed here. After [`JoinError::Broken`] the token may have been used up.
pub async fn join(invitation: &Invitation, host: &str, clock: &Clock) -> Result<Joined, JoinError> {
    let address = &invitation.address;
    let mut talk = meet(invitation, clock).await?;
    let key = new_key()?;
    let request = EnrolRequest {
        token: invitation.token.reveal(),
        host: host.to_owned(),
        now: seconds(clock()),
        request: Request::make(host, &key)?,
    };
    let certified: Certified = match talk.post("/v1/enrol", &request).await {
        // The answer may have been lost on the way: the same request is answered in the same way once more.
        Err(JoinError::Broken { .. }) => meet(invitation, clock).await?.post("/v1/enrol", &request).await?,
        answer => answer?,
    };
    let seen = Fingerprint::of(&authority_of(&certified, address)?);
    if seen != invitation.fingerprint {
        return Err(broken(address, "the authority in the answer is not the one of the invitation"));
    }
    let joined = accept(certified, host, &key, address)?;
    whoami(&joined, clock).await?;
    Ok(joined)
}

/// A new certificate for a host that has one: a new key, too.
///
/// # Errors
/// [`JoinError`].
pub(super) async fn renew(
    address: &Address,
    host: &str,
    identity: Identity,
    authority: &str,
    clock: &Clock,
) -> Result<Joined, JoinError> {
    let mut talk = Talk::begin(address, known(address, identity, authority, clock)?).await?;
    let key = new_key()?;
    let request = RenewRequest { now: seconds(clock()), request: Request::make(host, &key)? };
    let certified: Certified = talk.post("/v1/renew", &request).await?;
    if certified.authority.trim() != authority.trim() {
        return Err(broken(address, "the authority in the answer is another one"));
    }
    let renewed = accept(certified, host, &key, address)?;
    whoami(&renewed, clock).await?;
    Ok(renewed)
}

/// Connects to who has the right authority, and compares clocks.
async fn meet(invitation: &Invitation, clock: &Clock) -> Result<Talk, JoinError> {
    let address = &invitation.address;
    let pinned = Arc::new(Pinned::new(invitation.fingerprint, &address.host));
    let config = ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| broken(address, error))?
        .dangerous()
        .with_custom_certificate_verifier(pinned.clone())
        .with_no_client_auth();
    let mut talk = match Talk::begin(address, config).await {
        Ok(talk) => talk,
        Err(error) => return Err(pinned.fault().map_or(error, |fault| explain(fault, invitation))),
    };
    let answer: ClockAnswer = talk.get("/v1/clock").await.map_err(|error| match error {
        JoinError::Broken { address, cause } => JoinError::NotCalico { address, cause },
        other => other,
    })?;
    if answer.service != SERVICE {
        let cause = format!("it calls itself {:?}", answer.service);
        return Err(JoinError::NotCalico { address: address.clone(), cause });
    }
    let here = seconds(clock());
    if here.abs_diff(answer.now) > CLOCK_TOLERANCE.as_secs() {
        return Err(JoinError::Refused(Refusal::Clock { datastore: answer.now, here }));
    }
    // The handshake did not look at the clock, so that a wrong one is told by both times; now it is known to be right.
    if let Some((from, until)) = pinned.lifetime().filter(|(from, until)| !(*from..=*until).contains(&here)) {
        return Err(JoinError::Lifetime { address: address.clone(), from, until, now: here });
    }
    Ok(talk)
}

fn explain(fault: PinFault, invitation: &Invitation) -> JoinError {
    let (address, expected) = (invitation.address.clone(), invitation.fingerprint);
    match fault {
        PinFault::Fingerprint(presented) => JoinError::Fingerprint { address, expected, presented },
        PinFault::Name(names) => JoinError::Name { address, names },
        PinFault::Certificate(cause) => JoinError::NotCalico { address, cause },
    }
}

/// Looks at the certificate that came.
fn accept(certified: Certified, host: &str, key: &rcgen::KeyPair, address: &Address) -> Result<Joined, JoinError> {
    use rcgen::PublicKeyData;
    let identity = format!("{}{}", certified.certificate, key.serialize_pem());
    let facts = Identity::from_pem("the certificate in the answer", &identity)
        .and_then(|identity| identity.facts("the certificate in the answer"))
        .map_err(|error| broken(address, error))?;
    if facts.name != host || facts.public_key != key.subject_public_key_info() {
        return Err(broken(address, "the certificate in the answer is not the one that was asked for"));
    }
    let Certified { authority, keeper, .. } = certified;
    let (host, address, valid_until) = (host.to_owned(), address.clone(), facts.not_after);
    Ok(Joined { identity, authority, keeper, host, address, valid_until })
}

/// Tries a certificate.
async fn whoami(joined: &Joined, clock: &Clock) -> Result<(), JoinError> {
    let identity = Identity::from_pem("the new certificate", &joined.identity)?;
    let config = known(&joined.address, identity, &joined.authority, clock)?;
    let answer: WhoAmI = Talk::begin(&joined.address, config).await?.get("/v1/whoami").await?;
    if answer.host == joined.host {
        return Ok(());
    }
    Err(broken(&joined.address, format!("the datastore takes this host for {}", answer.host)))
}

/// TLS as a host that belongs.
fn known(address: &Address, identity: Identity, authority: &str, clock: &Clock) -> Result<ClientConfig, JoinError> {
    let mut roots = RootCertStore::empty();
    for certificate in Identity::certificates("the authority's certificate", authority)? {
        roots.add(certificate).map_err(|error| broken(address, error))?;
    }
    ClientConfig::builder_with_details(tls::provider(), Arc::new(TlsClock(clock.clone())))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| broken(address, error))?
        .with_root_certificates(roots)
        .with_client_auth_cert(identity.chain, identity.key)
        .map_err(|error| broken(address, error))
}

fn authority_of(certified: &Certified, address: &Address) -> Result<Vec<u8>, JoinError> {
    let certificates = Identity::certificates("the authority in the answer", &certified.authority)
        .map_err(|error| broken(address, error))?;
    Ok(certificates[0].to_vec())
}

fn broken(address: &Address, cause: impl ToString) -> JoinError {
    JoinError::Broken { address: address.clone(), cause: cause.to_string() }
}

/// What a certificate on disk says; `None` if there is none.
pub(super) fn facts_of(text: Option<&str>, what: &str) -> Result<Option<Facts>, PkiError> {
    text.map(|text| Identity::from_pem(what, text)?.facts(what)).transpose()
}
