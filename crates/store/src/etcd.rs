//! The datastore in etcd v3.
//!
//! - **Bounded.** Every call ends within [`CALL_TIMEOUT`], also against a host that swallows packets; one that is
//!   known to be dead is left at once. A watch that has gone quiet is checked by HTTP/2 pings.
//! - **Several endpoints.** Calls go to the endpoint that worked last. Another one is tried if the connection
//!   could not be made, or if the call only reads. A write whose answer got lost is *not* sent again: it may have
//!   been carried out, and a second one would report a lost race against ourselves. It is reported as
//!   [`Error::Unreachable`], and the caller looks before it decides.
//! - **Large listings** come in pages of one revision, so that no message and no server stall grows with the data.
//! - Watches ask for a leader: a member cut off from its cluster ends them instead of going silent.

use std::{
    error::Error as StdError,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use calico_model::Revision;
use etcd_client::{
    Certificate, Client, Compare, CompareOp, EventType, GetOptions, GetResponse, Identity, KeyValue, TlsOptions, Txn,
    TxnOp, TxnOpResponse, TxnResponse, WatchOptions, WatchStream,
};
use futures::{FutureExt, future::BoxFuture};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout_at},
};
use tonic::Code;

use crate::{
    ConnectOptions, Entry, Error, Kv, KvEvent, KvWatch, Listing,
    settings::{self, CA_FILE, CERT_FILE, Endpoint, KEY_FILE, TlsFiles, USERNAME},
};

/// The most that one call takes, all endpoints together.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// The most that making one connection takes, so that there is time left for another endpoint.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Pings on connections with a running watch. etcd tolerates one per 5 s, and none on idle connections.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Entries per page of a listing.
const PAGE: i64 = 10_000;
/// How often a listing starts over because its revision was compacted between two pages.
const LIST_TRIES: u32 = 3;

/// A connection to etcd, made when it is first needed and again after each loss. Share it by [`Arc`](std::sync::Arc).
pub struct EtcdKv {
    options: ConnectOptions,
    members: Vec<Member>,
    /// Index of the member that answered last.
    preferred: AtomicUsize,
}

struct Member {
    endpoint: Endpoint,
    options: etcd_client::ConnectOptions,
    /// Made at the first call; with credentials that asks the server for a token.
    client: Mutex<Option<Client>>,
    /// It has answered a call, so the settings are right for it.
    answered: AtomicBool,
}

/// A request on its way.
type Sent<T> = BoxFuture<'static, Result<T, etcd_client::Error>>;

/// A call that failed at one member.
struct Failure {
    error: Error,
    /// Certainly not carried out.
    not_sent: bool,
}

impl EtcdKv {
    /// Prepares the connection; nothing is sent until the first call.
    ///
    /// # Errors
    /// [`Error::Settings`] if the TLS files do not hold what they should.
    pub fn new(options: ConnectOptions) -> Result<Self, Error> {
        let members = options.endpoints().iter().map(|endpoint| Member::new(endpoint, &options));
        let members = members.collect::<Result<Vec<_>, Error>>()?;
        Ok(Self { options, members, preferred: AtomicUsize::new(0) })
    }

    /// Prepares the connection and makes sure that etcd answers.
    ///
    /// # Errors
    /// [`Error::Settings`], [`Error::Unreachable`], [`Error::Refused`] for wrong credentials.
    pub async fn connect(options: ConnectOptions) -> Result<Self, Error> {
        let kv = Self::new(options)?;
        kv.get(calico_model::RESOURCE_ROOT).await?;
        Ok(kv)
    }

    /// The settings it was made with.
    pub fn options(&self) -> &ConnectOptions {
        &self.options
    }

    /// Runs `call` at one member after the other until one answers; see the [module](self) on which errors go on to
    /// the next.
    async fn call<T>(
        &self,
        operation: &str,
        reads_only: bool,
        call: impl Fn(Client) -> Sent<T> + Sync,
    ) -> Result<T, Error> {
        let deadline = Instant::now() + CALL_TIMEOUT;
        let first = self.preferred.load(Ordering::Relaxed);
        let mut last = None;
        // Once more at the first: its connection may have died unnoticed since the last call.
        for index in (0..=self.members.len()).map(|offset| (first + offset) % self.members.len()) {
            let member = &self.members[index];
            match self.call_member(member, operation, deadline, &call).await {
                Ok(answer) => {
                    member.answered.store(true, Ordering::Relaxed);
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(Failure { error, not_sent }) => {
                    let again = error.is_unreachable() && (not_sent || reads_only) && Instant::now() < deadline;
                    // A refused connection is refused again; do not ask the only member twice.
                    let again = again && !(not_sent && self.members.len() == 1);
                    if !again {
                        return Err(error);
                    }
                    last = Some(error);
                }
            }
        }
        Err(last.expect("there is at least one endpoint, so the loop ran"))
    }

    async fn call_member<T>(
        &self,
        member: &Member,
        operation: &str,
        deadline: Instant,
        call: &(impl Fn(Client) -> Sent<T> + Sync),
    ) -> Result<T, Failure> {
        let late = |not_sent| Failure {
            error: self.unreachable(format!("no answer within {} s, is etcd running?", CALL_TIMEOUT.as_secs())),
            not_sent,
        };
        let client = timeout_at(deadline, member.client()).await.map_err(|_| late(true))?;
        let client = client.map_err(|error| match error {
            // Before anything is sent the transport refuses only the TLS files.
            etcd_client::Error::TransportError(error) => Failure { error: self.bad_files(&error), not_sent: true },
            error => Failure { not_sent: true, ..self.failure(member, operation, error) },
        })?;
        match timeout_at(deadline, call(client)).await {
            Ok(answer) => answer.map_err(|error| self.failure(member, operation, error)),
            Err(_) => Err(late(false)),
        }
    }

    fn unreachable(&self, cause: String) -> Error {
        Error::Unreachable { endpoints: self.location(), cause }
    }

    /// What an error of the client means.
    fn failure(&self, member: &Member, operation: &str, error: etcd_client::Error) -> Failure {
        let status = match error {
            etcd_client::Error::GRpcStatus(status) => status,
            other => {
                let error = self.unreachable(self.explain(member, &root_cause(&other)));
                return Failure { error, not_sent: false };
            }
        };
        let refused = |cause| Error::Refused { operation: operation.to_owned(), cause };
        let error = match status.code() {
            Code::OutOfRange if status.message().contains("compacted") => {
                Error::Compacted { compacted: Revision::default() }
            }
            Code::InvalidArgument if status.message().contains("user name is empty") => {
                refused(format!("{}; set {USERNAME} and its password", status.message()))
            }
            Code::InvalidArgument if status.message().contains("authentication failed") => {
                refused(format!("{}; are {USERNAME} and its password right?", status.message()))
            }
            Code::Unauthenticated
            | Code::PermissionDenied
            | Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::Unimplemented
            | Code::OutOfRange => refused(status.message().to_owned()),
            _ if status.source().is_some() => self.unreachable(self.explain(member, &root_cause(&status))),
            _ => self.unreachable(format!("{member}: {}", status.message())),
        };
        Failure { error, not_sent: is_connect_error(&status) }
    }

    fn bad_files(&self, error: &dyn StdError) -> Error {
        match self.options.tls() {
            Some(TlsFiles { identity: Some((cert, key)), .. }) => {
                let cause = format!("{} does not fit the key {}: {}", cert.display(), key.display(), root_cause(error));
                settings::settings(CERT_FILE, cause)
            }
            _ => settings::settings(CA_FILE, root_cause(error)),
        }
    }

    /// The transport's words on `member`, and what a person should look at.
    fn explain(&self, member: &Member, words: &str) -> String {
        let has = |needle: &str| words.contains(needle);
        let torn = [
            "broken pipe",
            "connection closed",
            "reset by peer",
            "handshake eof",
            "canceled",
            "frame with invalid size",
        ];
        let hint = if has("Connection refused") {
            ", is etcd running?".to_owned()
        } else if has("UnknownIssuer") || has("BadSignature") {
            let ca = self.options.tls().map(|tls| tls.ca.display().to_string()).unwrap_or_default();
            format!(": the server's certificate is not signed by the authority in {CA_FILE} ({ca})")
        } else if has("not valid for name") || has("NotValidForName") {
            ": the server's certificate is for another name".to_owned()
        } else if has("InvalidContentType") {
            ": the server does not speak TLS, should the endpoint be http://?".to_owned()
        } else if has("received fatal alert") || torn.into_iter().any(has) {
            self.explain_torn(member)
        } else {
            String::new()
        };
        format!("{member}: {words}{hint}")
    }

    /// A connection that the server made and then ended. The TLS alert that would say why often gets lost: with TLS
    /// 1.3 a client certificate is refused only after the client has begun to send.
    fn explain_torn(&self, member: &Member) -> String {
        if member.answered.load(Ordering::Relaxed) {
            return ", is etcd running?".to_owned();
        }
        match self.options.tls() {
            None => ", is it etcd, and does it want https://?".to_owned(),
            Some(TlsFiles { identity: None, .. }) => format!(
                ": does the server want a client certificate ({CERT_FILE} and {KEY_FILE}), or does it not speak TLS?"
            ),
            Some(TlsFiles { identity: Some((cert, _)), .. }) => format!(
                ": does the server accept the certificate in {CERT_FILE} ({}), or does it not speak TLS?",
                cert.display()
            ),
        }
    }

    /// A transaction: `compare` and then `write`, or else what stands at `key`.
    async fn swap(&self, operation: &str, key: &str, compare: Compare, write: TxnOp) -> Result<Swapped, Error> {
        let txn = Txn::new().when([compare]).and_then([write]).or_else([TxnOp::get(key, None)]);
        let send = |client: Client| -> Sent<TxnResponse> {
            let txn = txn.clone();
            async move { client.kv_client().txn(txn).await }.boxed()
        };
        let answer = self.call(operation, false, send).await?;
        let revision = Revision(answer.header().map_or(0, etcd_client::ResponseHeader::revision));
        if answer.succeeded() {
            return Ok(Swapped::Done(revision));
        }
        let current = answer.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(get) => get.kvs().first().map(entry),
            _ => None,
        });
        Ok(Swapped::Lost(current))
    }

    async fn read(&self, operation: &str, key: Vec<u8>, options: GetOptions) -> Result<GetResponse, Error> {
        let send = |client: Client| -> Sent<GetResponse> {
            let (key, options) = (key.clone(), options.clone());
            let mut client = client.kv_client().max_decoding_message_size(usize::MAX);
            async move { client.get(key, Some(options)).await }.boxed()
        };
        self.call(operation, true, send).await
    }

    /// One page of a listing: keys from `from` on below `end`, at `revision` if given.
    async fn page(&self, from: &[u8], end: &[u8], revision: Option<i64>) -> Result<(Listing, bool), Error> {
        let mut options = GetOptions::new().with_range(end).with_limit(PAGE);
        if let Some(revision) = revision {
            options = options.with_revision(revision);
        }
        let answer = self.read("list", from.to_vec(), options).await?;
        let revision = revision.or_else(|| answer.header().map(etcd_client::ResponseHeader::revision));
        let entries = answer.kvs().iter().map(entry).collect();
        Ok((Listing { revision: Revision(revision.unwrap_or_default()), entries }, answer.more()))
    }

    async fn list_once(&self, prefix: &str) -> Result<Listing, Error> {
        let end = end_of_prefix(prefix);
        let (mut listing, mut more) = self.page(&start_of_prefix(prefix), &end, None).await?;
        while more && let Some(last) = listing.entries.last() {
            let mut from = last.key.clone().into_bytes();
            from.push(0);
            let (page, further) = self.page(&from, &end, Some(listing.revision.0)).await?;
            listing.entries.extend(page.entries);
            more = further;
        }
        Ok(listing)
    }
}

enum Swapped {
    Done(Revision),
    Lost(Option<Entry>),
}

impl std::fmt::Display for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.endpoint.fmt(f)
    }
}

impl Member {
    fn new(endpoint: &Endpoint, options: &ConnectOptions) -> Result<Self, Error> {
        let mut client = etcd_client::ConnectOptions::new()
            .with_connect_timeout(DIAL_TIMEOUT)
            .with_keep_alive(PING_EVERY, PING_TIMEOUT)
            .with_keep_alive_while_idle(false)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(files) = options.tls() {
            client = client.with_tls(tls_options(endpoint, files)?);
        }
        if let Some(credentials) = options.credentials() {
            client = client.with_user(&credentials.user, &credentials.password);
        }
        Ok(Self {
            endpoint: endpoint.clone(),
            options: client,
            client: Mutex::new(None),
            answered: AtomicBool::new(false),
        })
    }

    async fn client(&self) -> Result<Client, etcd_client::Error> {
        let mut slot = self.client.lock().await;
        if let Some(client) = &*slot {
            return Ok(client.clone());
        }
        let client = Client::connect([self.endpoint.to_string()], Some(self.options.clone())).await?;
        Ok(slot.insert(client).clone())
    }
}

fn tls_options(endpoint: &Endpoint, files: &TlsFiles) -> Result<TlsOptions, Error> {
    let ca = settings::read_pem(CA_FILE, &files.ca, "CERTIFICATE")?;
    // The name is given explicitly, since that of a URI has brackets around an IPv6 address.
    let mut options = TlsOptions::new().domain_name(&endpoint.host).ca_certificate(Certificate::from_pem(ca));
    if let Some((cert, key)) = &files.identity {
        let cert = settings::read_pem(CERT_FILE, cert, "CERTIFICATE")?;
        let key = settings::read_pem(KEY_FILE, key, "PRIVATE KEY")?;
        options = options.identity(Identity::from_pem(cert, key));
    }
    Ok(options)
}

/// The innermost error has the words that help: "Connection refused", not "transport error".
fn root_cause(error: &dyn StdError) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// True if no connection was made, so that nothing can have been carried out.
fn is_connect_error(error: &(dyn StdError + 'static)) -> bool {
    let mut error = Some(error);
    while let Some(this) = error {
        if this.is::<tonic::ConnectError>() {
            return true;
        }
        error = this.source();
    }
    false
}

/// The first key that starts with `prefix`; etcd has no empty key.
fn start_of_prefix(prefix: &str) -> Vec<u8> {
    if prefix.is_empty() { vec![0] } else { prefix.as_bytes().to_vec() }
}

/// The first key after all that start with `prefix`; etcd reads a single zero byte as "to the end".
fn end_of_prefix(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

fn entry(kv: &KeyValue) -> Entry {
    Entry { key: text(kv.key()), value: kv.value().to_vec(), revision: Revision(kv.mod_revision()) }
}

#[async_trait]
impl Kv for EtcdKv {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let answer = self.read("get", key.into(), GetOptions::new()).await?;
        Ok(answer.kvs().first().map(entry))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        let mut tries = 1;
        loop {
            match self.list_once(prefix).await {
                Err(Error::Compacted { .. }) if tries < LIST_TRIES => tries += 1,
                Err(Error::Compacted { .. }) => {
                    let cause = format!("its history was compacted during each of {LIST_TRIES} listings");
                    return Err(self.unreachable(cause));
                }
                other => return other,
            }
        }
    }

    async fn create(&self, key: &str, value: Vec<u8>) -> Result<Revision, Error> {
        let compare = Compare::version(key, CompareOp::Equal, 0);
        match self.swap("create", key, compare, TxnOp::put(key, value, None)).await? {
            Swapped::Done(revision) => Ok(revision),
            Swapped::Lost(Some(existing)) => {
                Err(Error::AlreadyExists { key: key.to_owned(), existing: Box::new(existing) })
            }
            Swapped::Lost(None) => {
                Err(Error::Refused { operation: format!("create of {key}"), cause: "it gave no reason".to_owned() })
            }
        }
    }

    async fn update(&self, key: &str, value: Vec<u8>, expected: Revision) -> Result<Revision, Error> {
        let compare = Compare::mod_revision(key, CompareOp::Equal, expected.0);
        match self.swap("update", key, compare, TxnOp::put(key, value, None)).await? {
            Swapped::Done(revision) => Ok(revision),
            Swapped::Lost(current) => Err(Error::lost_race(key, current)),
        }
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<(), Error> {
        let compare = Compare::mod_revision(key, CompareOp::Equal, expected.0);
        match self.swap("delete", key, compare, TxnOp::delete(key, None)).await? {
            Swapped::Done(_) => Ok(()),
            Swapped::Lost(current) => Err(Error::lost_race(key, current)),
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn KvWatch>, Error> {
        let options = WatchOptions::new().with_range(end_of_prefix(prefix)).with_start_revision(after.0 + 1);
        let send = |client: Client| -> Sent<WatchStream> {
            let (prefix, options) = (start_of_prefix(prefix), options.clone());
            let mut client = client.watch_client().max_decoding_message_size(usize::MAX);
            async move { client.watch(prefix, Some(options)).await }.boxed()
        };
        let stream = self.call("watch", true, send).await?;
        Ok(Box::new(EtcdWatch { stream, location: self.location() }))
    }

    fn location(&self) -> String {
        self.options.location()
    }
}

struct EtcdWatch {
    stream: WatchStream,
    location: String,
}

impl EtcdWatch {
    fn over(&self, cause: String) -> Error {
        Error::Unreachable { endpoints: self.location.clone(), cause }
    }
}

#[async_trait]
impl KvWatch for EtcdWatch {
    async fn next(&mut self) -> Result<Vec<KvEvent>, Error> {
        loop {
            let message = self.stream.message().await;
            let response = match message {
                Ok(Some(response)) => response,
                Ok(None) => return Err(self.over("the server ended the watch".to_owned())),
                Err(error) => return Err(self.over(format!("the watch broke: {}", root_cause(&error)))),
            };
            if response.compact_revision() > 0 {
                return Err(Error::Compacted { compacted: Revision(response.compact_revision()) });
            }
            if response.canceled() {
                return Err(self.over(format!("the server ended the watch: {}", response.cancel_reason())));
            }
            let events: Vec<KvEvent> = response.events().iter().filter_map(event).collect();
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }
}

fn event(event: &etcd_client::Event) -> Option<KvEvent> {
    let kv = event.kv()?;
    Some(match event.event_type() {
        EventType::Put => KvEvent::Put(entry(kv)),
        EventType::Delete => KvEvent::Delete { key: text(kv.key()), revision: Revision(kv.mod_revision()) },
    })
}
