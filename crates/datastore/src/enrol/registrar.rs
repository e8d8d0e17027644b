//! The book on disk, the authority, the port and the connections, behind one door.
//!
//! In the folder `pki/` of the datastore: `ca.pem` (the authority, made at the first invitation), `server.pem` (the
//! server's certificate, replaced by itself) and `hosts.json` (the book). All are root's alone. Who removes the folder
//! shuts out all hosts: a book that is gone from the disk is forgotten here too, and never written again.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use rustls::ServerConfig;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    Book, CLOCK_TOLERANCE, Connections, HostState, LONGEST_INVITATION, Refusal, Token,
    book::{Barred, Standing, VERSION},
    guesses::Guesses,
    message::{Certified, EnrolRequest, RenewRequest},
    name_fault,
};
use crate::{
    pki::{
        Authority, Facts, Fingerprint, Identity, PkiError, Request, is_due, make_private_folder, read_private, seconds,
        write_private,
    },
    tls::{self, Door},
};

/// Reads the time.
pub type Clock = Arc<dyn Fn() -> OffsetDateTime + Send + Sync>;

/// What a registrar is made of.
#[derive(Clone)]
pub struct RegistrarOptions {
    /// The datastore's folder; the registrar's own is `pki/` in it.
    pub dir: PathBuf,
    /// The name of the node that keeps the datastore.
    pub host: String,
    /// The TCP port that is opened once somebody is invited; 0 for any.
    pub port: u16,
    /// The address that is listened on; `None` for all of the host.
    pub bind: Option<IpAddr>,
    /// The clock.
    pub clock: Clock,
}

impl RegistrarOptions {
    /// On all addresses, with the system's clock.
    pub fn new(dir: impl Into<PathBuf>, host: impl Into<String>, port: u16) -> Self {
        Self { dir: dir.into(), host: host.into(), port, bind: None, clock: Arc::new(OffsetDateTime::now_utc) }
    }
}

impl std::fmt::Debug for RegistrarOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { dir, host, port, bind, clock: _ } = self;
        f.debug_struct("RegistrarOptions")
            .field("dir", dir)
            .field("host", host)
            .field("port", port)
            .field("bind", bind)
            .finish_non_exhaustive()
    }
}

/// What a registrar, or an invitation, cannot be made of.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Keys, certificates or their files.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The book is of a later version.
    #[error("{} is of version {version}, this calico-node writes version {VERSION}", path.display())]
    Newer {
        /// The book.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// Words that make no sense.
    #[error("{0}")]
    Words(String),
    /// The port cannot be opened.
    #[error("TCP port {port} of this host cannot be opened")]
    Port {
        /// The port.
        port: u16,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl OpenError {
    /// What a person can do about it.
    pub fn way_out(&self) -> Option<String> {
        match self {
            Self::Pki(error) => error.way_out().map(str::to_owned),
            Self::Newer { .. } => Some("use the newer calico-node that wrote it".into()),
            Self::Words(_) => None,
            Self::Port { port, .. } => Some(format!(
                "see who listens there: ss -ltnp 'sport = :{port}'; an etcd of your own and this datastore cannot \
                 share the port"
            )),
        }
    }
}

/// An invitation for one host.
#[derive(Clone, Debug)]
pub struct Invited {
    /// The secret. Shown once, kept nowhere.
    pub token: Token,
    /// The authority's.
    pub fingerprint: Fingerprint,
    /// The port to join at.
    pub port: u16,
    /// Until when, in seconds since 1970.
    pub expires: i64,
    /// The port was closed before.
    pub opened: bool,
}

/// What shutting out a host did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// There was such a host.
    pub known: bool,
    /// So many connections of it were cut.
    pub connections: usize,
}

/// A host, and whether it is here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// What the book says.
    #[serde(flatten)]
    pub state: HostState,
    /// From where it is connected.
    pub from: Option<IpAddr>,
    /// By how many connections.
    pub connections: usize,
}

/// Who decides about other hosts. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Registrar(Arc<Inner>);

/// A registrar that may have ended.
#[derive(Clone)]
pub(crate) struct WeakRegistrar(Weak<Inner>);

impl std::fmt::Debug for WeakRegistrar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WeakRegistrar")
    }
}

struct Inner {
    options: RegistrarOptions,
    folder: PathBuf,
    state: Mutex<State>,
    guesses: Mutex<Guesses>,
    connections: Connections,
    door: Door,
}

struct State {
    book: Book,
    authority: Option<Arc<Authority>>,
    server: Option<Server>,
}

/// What is shown to those who connect.
struct Server {
    config: Arc<ServerConfig>,
    facts: Facts,
}

impl std::fmt::Debug for Registrar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registrar").field("options", &self.0.options).finish_non_exhaustive()
    }
}

impl Registrar {
    /// Reads what is on disk; makes nothing.
    ///
    /// # Errors
    /// Files that are damaged, of a newer version or unreadable.
    pub fn open(options: RegistrarOptions) -> Result<Self, OpenError> {
        let folder = options.dir.join("pki");
        let book = read_book(&folder.join(BOOK))?;
        let authority = match read_private(&folder.join(AUTHORITY))? {
            Some(text) => Some(Arc::new(Authority::from_pem(&spell(&folder, AUTHORITY), &text)?)),
            None => None,
        };
        let door = Door::new(options.bind, options.port);
        let state = Mutex::new(State { book, authority, server: None });
        let (guesses, connections) = (Mutex::default(), Connections::default());
        Ok(Self(Arc::new(Inner { options, folder, state, guesses, connections, door })))
    }

    /// Invites one host that will come to `address` of this one, for `ttl`. Makes the authority and opens the port
    /// if that has not been done.
    ///
    /// # Errors
    /// A time or an address that makes no sense, a port that cannot be opened, a disk that cannot be written; then
    /// there is no invitation.
    pub fn invite(&self, ttl: Duration, address: &str) -> Result<Invited, OpenError> {
        let now = self.now();
        let name = server_name(address).map_err(OpenError::Words)?;
        if ttl.is_zero() || ttl > LONGEST_INVITATION {
            let days = LONGEST_INVITATION.as_secs() / 86400;
            return Err(OpenError::Words(format!("an invitation is valid for 1 second to {days} days")));
        }
        let expires = now.saturating_add_unsigned(ttl.as_secs().max(1));
        self.forget_if_removed();
        let token = Token::new()?;
        let authority = self.authority()?;
        let source_port = self.0.options.port;
        let opened = self.0.door.open().map_err(|source| OpenError::Port { port: source_port, source })?;
        let noted = self.change(|book| {
            book.learn(&name, true);
            book.invite(token.hash(), expires);
        });
        if let Err(error) = noted {
            self.close_if_idle();
            return Err(error.into());
        }
        let port = self.0.door.address().map_or(source_port, |address| address.port());
        Ok(Invited { token, fingerprint: authority.fingerprint(), port, expires, opened })
    }

    /// Shuts a host out, now and until it is invited again.
    ///
    /// # Errors
    /// The disk cannot be written; the host is still in.
    pub fn revoke(&self, host: &str) -> Result<Revoked, PkiError> {
        let now = self.now();
        let known = self.change(|book| book.revoke(host, now))?;
        // After the book: whoever connects now is entered first and looked up then, so is cut here or refused there.
        let connections = self.0.connections.cut(host);
        Ok(Revoked { known, connections })
    }

    /// All hosts that ever joined, by name.
    pub fn hosts(&self) -> Vec<Guest> {
        let hosts: Vec<HostState> = self.state().book.hosts().collect();
        let guest = |state: HostState| {
            let connected = self.0.connections.of(&state.name);
            Guest { from: connected.map(|(from, _)| from), connections: connected.map_or(0, |(_, n)| n), state }
        };
        hosts.into_iter().map(guest).collect()
    }

    /// How many invitations are open.
    pub fn open_invitations(&self) -> usize {
        let now = self.now();
        self.state().book.open_invitations(now)
    }

    /// The address that is listened on, while it is.
    pub fn listens_on(&self) -> Option<SocketAddr> {
        self.0.door.address()
    }

    /// Where clients reach the datastore by TLS: under each name that it is known by to others. None while the port is
    /// closed.
    pub(crate) fn client_urls(&self) -> Vec<String> {
        let Some(port) = self.listens_on().map(|address| address.port()) else { return Vec::new() };
        let url = |name: &str| match name.parse::<IpAddr>() {
            Ok(address) => (!address.is_loopback()).then(|| format!("https://{}", SocketAddr::new(address, port))),
            Err(_) => Some(format!("https://{name}:{port}")),
        };
        self.state().book.names().filter_map(url).collect()
    }

    /// Admits a host that has a token.
    pub(super) fn enrol(&self, request: &EnrolRequest, from: IpAddr) -> Result<Certified, Refusal> {
        let now = self.now();
        let wait = |seconds| Refusal::TooManyTries { seconds };
        self.guesses().may_try(from, now).map_err(wait)?;
        check_clock(now, request.now)?;
        let host = &request.host;
        if let Some(cause) = name_fault(host) {
            return Err(Refusal::BadName { host: host.clone(), cause: cause.to_owned() });
        }
        let asked =
            Request::parse(&request.request).map_err(|error| Refusal::BadRequest { cause: error.to_string() })?;
        let (hash, key) = match request.token.parse::<Token>() {
            Ok(token) => (token.hash(), asked.key_hash()),
            Err(_) => (String::new(), String::new()),
        };
        let standing = self.state().book.standing(&hash, host, &key, now);
        if standing == Err(Refusal::WrongToken) {
            self.guesses().wrong(from, now);
            tracing::warn!(%from, host, "somebody tried to join with a token that no invitation has");
        }
        if standing? == Standing::Open {
            self.check_name(host)?;
        }
        let certified = self.sign(&asked, host, |book, issued_serial, not_after| {
            // Looked at again under the lock: two may come with one token at the same moment.
            book.standing(&hash, host, &key, now)?;
            book.use_up(&hash, host, key.clone(), now);
            book.admit(host, issued_serial, not_after, now);
            Ok(())
        })?;
        // One of an earlier life that came between the look at the name and now has a certificate that counts no more.
        self.0.connections.cut(host);
        tracing::info!(host, %from, "a host has joined");
        Ok(certified)
    }

    /// A further certificate for a host that has one.
    pub(super) fn renew(&self, request: &RenewRequest, peer: &tls::Peer) -> Result<Certified, Refusal> {
        check_clock(self.now(), request.now)?;
        let asked =
            Request::parse(&request.request).map_err(|error| Refusal::BadRequest { cause: error.to_string() })?;
        let host = &peer.host;
        let certified = self.sign(&asked, host, |book, serial, not_after| {
            book.check(host, &peer.serial).map_err(|barred| refusal(barred, host))?;
            book.renew(host, &peer.serial, serial, not_after);
            Ok(())
        })?;
        tracing::info!(host, "a host has renewed its certificate");
        Ok(certified)
    }

    /// Whether a certificate counts.
    pub(crate) fn check(&self, host: &str, serial: &str) -> Result<(), Barred> {
        self.state().book.check(host, serial)
    }

    /// The list of connections.
    pub(crate) fn connections(&self) -> &Connections {
        &self.0.connections
    }

    /// The port.
    pub(crate) fn door(&self) -> &Door {
        &self.0.door
    }

    /// The time, in seconds since 1970.
    pub(crate) fn now(&self) -> i64 {
        seconds((self.0.options.clock)())
    }

    pub(crate) fn clock(&self) -> Clock {
        self.0.options.clock.clone()
    }

    pub(crate) fn downgrade(&self) -> WeakRegistrar {
        WeakRegistrar(Arc::downgrade(&self.0))
    }

    /// What time brings: old tokens are forgotten, all is if the book was removed, connections whose certificate has ended
    /// are cut, and the port is opened or closed, as anybody is expected or not.
    ///
    /// # Errors
    /// The port cannot be opened.
    pub(crate) fn keep_up(&self) -> std::io::Result<()> {
        let now = self.now();
        self.forget_if_removed();
        self.0.connections.cut_expired(now);
        let tidied = {
            let state = self.state();
            let mut book = state.book.clone();
            book.tidy(now);
            (book != state.book).then_some(())
        };
        if tidied.is_some() {
            // What cannot be forgotten now is forgotten later.
            let _ = self.change(|book| book.tidy(now));
        }
        if self.state().book.expects_anybody(now) {
            self.0.door.open().map(drop)
        } else {
            self.0.door.close();
            Ok(())
        }
    }

    /// What to show to somebody who has come to `local`: the certificate is good for that address too.
    ///
    /// # Errors
    /// There is no authority yet; keys or files cannot be made.
    pub(crate) fn server_config(&self, local: IpAddr) -> Result<Arc<ServerConfig>, PkiError> {
        let now = self.now();
        let authority = self.known_authority()?;
        let name = local.to_canonical().to_string();
        if !self.state().book.names().any(|known| known == name) {
            let mut learned = self.state().book.clone();
            if learned.learn(&name, false) {
                self.change(|book| book.learn(&name, false))?;
            }
        }
        let mut state = self.state();
        let wanted: BTreeSet<String> = self.names(&state.book);
        let is_good = |facts: &Facts| {
            !is_due(facts.not_before, facts.not_after, now) && wanted.iter().all(|name| facts.names.contains(name))
        };
        if let Some(server) = state.server.as_ref().filter(|server| is_good(&server.facts)) {
            return Ok(server.config.clone());
        }
        let file = self.0.folder.join(SERVER);
        let what = spell(&self.0.folder, SERVER);
        let mut text = read_private(&file)?;
        // One of another authority, or one that is damaged, is replaced.
        let usable = text.as_deref().and_then(|text| Identity::from_pem(&what, text).ok()).filter(|identity| {
            identity.chain.get(1) == Some(authority.certificate()) && identity.facts(&what).is_ok_and(|f| is_good(&f))
        });
        if usable.is_none() {
            let issued =
                authority.issue_server(&self.0.options.host, wanted.iter().map(String::as_str), (self.clock())())?;
            write_private(&file, &issued)?;
            text = Some(issued);
        }
        let identity = Identity::from_pem(&what, text.as_deref().unwrap_or_default())?;
        let facts = identity.facts(&what)?;
        let config = Arc::new(tls::server_config(identity, &authority, self)?);
        state.server = Some(Server { config: config.clone(), facts });
        Ok(config)
    }

    /// The names in the server's certificate.
    fn names(&self, book: &Book) -> BTreeSet<String> {
        let always = ["localhost", "127.0.0.1", "::1", self.0.options.host.as_str()];
        always.into_iter().chain(book.names()).map(str::to_owned).collect()
    }

    /// Signs what was asked for, if `enter` can put it into the book.
    fn sign(
        &self,
        request: &Request,
        host: &str,
        enter: impl FnOnce(&mut Book, String, i64) -> Result<(), Refusal>,
    ) -> Result<Certified, Refusal> {
        let failed = |error: PkiError| {
            tracing::error!(host, %error, "a certificate could not be given");
            Refusal::Failed { cause: error.to_string() }
        };
        let authority = self.known_authority().map_err(failed)?;
        let issued = authority.issue_host(request, host, (self.clock())()).map_err(failed)?;
        self.change(|book| enter(book, issued.serial, issued.not_after)).map_err(failed)??;
        let names = self.state().book.names().map(str::to_owned).collect();
        Ok(Certified {
            certificate: issued.pem,
            authority: authority.certificate_pem().to_owned(),
            keeper: self.0.options.host.clone(),
            names,
            port: self.0.door.address().map_or(self.0.options.port, |address| address.port()),
        })
    }

    /// Refuses a name that a host has which is here.
    fn check_name(&self, host: &str) -> Result<(), Refusal> {
        let from = if host == self.0.options.host {
            "the host that keeps the datastore".to_owned()
        } else {
            match self.0.connections.of(host) {
                Some((from, _)) => from.to_string(),
                None => return Ok(()),
            }
        };
        Err(Refusal::NameTaken { host: host.to_owned(), from })
    }

    /// The authority, which is made if there is none.
    fn authority(&self) -> Result<Arc<Authority>, PkiError> {
        let mut state = self.state();
        if let Some(authority) = &state.authority {
            return Ok(authority.clone());
        }
        let made = Arc::new(Authority::make(&self.0.options.host, (self.clock())())?);
        make_private_folder(&self.0.folder)?;
        write_private(&self.0.folder.join(AUTHORITY), &made.to_pem())?;
        tracing::info!(fingerprint = %made.fingerprint(), "made an authority for the certificates of hosts");
        Ok(state.authority.insert(made).clone())
    }

    /// The authority, which there is since the first invitation.
    fn known_authority(&self) -> Result<Arc<Authority>, PkiError> {
        let none = || PkiError::Damaged { what: "the authority".into(), cause: "there is none yet".into() };
        self.state().authority.clone().ok_or_else(none)
    }

    /// Forgets the hosts, the invitations and the authority if the book was removed from the disk, and ends what they
    /// have.
    fn forget_if_removed(&self) {
        {
            let mut state = self.state();
            if !self.is_removed(&state) {
                return;
            }
            *state = State { book: Book::default(), authority: None, server: None };
        }
        // After the book, as where one host is shut out.
        let cut = self.0.connections.cut_all();
        self.0.door.close();
        let book = spell(&self.0.folder, BOOK);
        tracing::warn!(book, connections = cut, "the book of hosts was removed: all of them are shut out");
    }

    /// Something is known that was on disk, and is there no more.
    fn is_removed(&self, state: &State) -> bool {
        // What cannot be looked at is not known to be gone.
        state.book != Book::default() && matches!(self.0.folder.join(BOOK).try_exists(), Ok(false))
    }

    /// Changes the book: on disk first, then here. One that was removed is not written anew.
    fn change<T>(&self, change: impl FnOnce(&mut Book) -> T) -> Result<T, PkiError> {
        let mut state = self.state();
        if self.is_removed(&state) {
            let source = std::io::Error::new(std::io::ErrorKind::NotFound, "somebody has removed it just now");
            return Err(PkiError::File { path: self.0.folder.join(BOOK), action: "written", source });
        }
        let mut book = state.book.clone();
        let outcome = change(&mut book);
        if book != state.book {
            make_private_folder(&self.0.folder)?;
            let text = serde_json::to_string_pretty(&book).expect("a book is plain maps with string keys");
            write_private(&self.0.folder.join(BOOK), &text)?;
            state.book = book;
        }
        Ok(outcome)
    }

    fn close_if_idle(&self) {
        if !self.state().book.expects_anybody(self.now()) {
            self.0.door.close();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change replaces a whole value, so what is there is whole also after a panic.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn guesses(&self) -> MutexGuard<'_, Guesses> {
        self.0.guesses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WeakRegistrar {
    pub(crate) fn upgrade(&self) -> Option<Registrar> {
        self.0.upgrade().map(Registrar)
    }
}

const AUTHORITY: &str = "ca.pem";
const SERVER: &str = "server.pem";
const BOOK: &str = "hosts.json";

fn spell(folder: &Path, file: &str) -> String {
    folder.join(file).display().to_string()
}

fn read_book(path: &Path) -> Result<Book, OpenError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Some(text) = read_private(path)? else { return Ok(Book::default()) };
    let damaged =
        |error: serde_json::Error| PkiError::Damaged { what: path.display().to_string(), cause: error.to_string() };
    let Versioned { version } = serde_json::from_str(&text).map_err(damaged)?;
    if version > VERSION {
        return Err(OpenError::Newer { path: path.to_owned(), version });
    }
    Ok(serde_json::from_str(&text).map_err(damaged)?)
}

/// The words of an address or a host name as they stand in a certificate.
fn server_name(address: &str) -> Result<String, String> {
    if let Ok(address) = address.parse::<IpAddr>() {
        if address.is_unspecified() || address.is_multicast() {
            return Err(format!("{address} is no address that a host can be reached by"));
        }
        return Ok(address.to_canonical().to_string());
    }
    let name = address.to_ascii_lowercase();
    match name_fault(&name) {
        None => Ok(name),
        Some(cause) => Err(format!("{address:?} is neither an address nor a host name: {cause}")),
    }
}

fn check_clock(now: i64, here: i64) -> Result<(), Refusal> {
    if now.abs_diff(here) > CLOCK_TOLERANCE.as_secs() { Err(Refusal::Clock { datastore: now, here }) } else { Ok(()) }
}

fn refusal(barred: Barred, host: &str) -> Refusal {
    match barred {
        Barred::Revoked => Refusal::Revoked { host: host.to_owned() },
        Barred::Unknown => Refusal::Stranger,
    }
}
