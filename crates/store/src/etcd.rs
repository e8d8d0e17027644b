//! The datastore in etcd v3, or in anything else that serves etcd's API: calico-node's own datastore, by its socket.
//!
//! - **Bounded.** Every call ends within [`CALL_TIMEOUT`], also against a host that swallows packets; one that is
//!   known to be dead is left at once. A watch that has gone quiet is checked by HTTP/2 pings.
//! - **Several endpoints.** Calls go to the endpoint that worked last. Another one is tried if the connection
//!   could not be made, or if the call only reads; the next call begins with that one. A write whose answer got lost is *not* sent again: it may have
//!   been carried out, and a second one would report a lost race against ourselves. It is reported as
//!   [`Error::Unreachable`], and the caller looks before it decides.
//! - **Large listings** come in pages of one revision, so that no message and no server stall grows with the data.
//! - Watches ask for a leader: a member cut off from its cluster ends them instead of going silent.

mod failure;
mod member;
mod status;

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use calico_model::Revision;
use etcd_client::{
    Client, Compare, CompareOp, EventType, GetOptions, GetResponse, KeyValue, Txn, TxnOp, TxnOpResponse, TxnResponse,
    WatchOptions, WatchStream,
};
use futures::{FutureExt, future::BoxFuture};
use tokio::time::{Instant, timeout_at};

use crate::{ConnectOptions, Entry, Error, Kv, KvEvent, KvWatch, Listing, Source};
use failure::{Failure, words};
use member::{Member, NoClient};
pub use status::MemberStatus;

/// The most that one call takes, all endpoints together.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
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

/// A request on its way.
type Sent<T> = BoxFuture<'static, Result<T, etcd_client::Error>>;

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
        let count = self.members.len();
        let deadline = Instant::now() + CALL_TIMEOUT;
        let first = self.preferred.load(Ordering::Relaxed);
        let mut last = None;
        // Once more at the first: its connection may have died unnoticed since the last call.
        for index in (0..=count).map(|offset| (first + offset) % count) {
            // A member that says nothing must leave time for the others.
            let patience = if count == 1 { CALL_TIMEOUT } else { CALL_TIMEOUT / 2 };
            let until = deadline.min(Instant::now() + patience);
            match self.call_member(&self.members[index], operation, until, &call).await {
                Ok(answer) => {
                    self.members[index].answered.store(true, Ordering::Relaxed);
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(Failure { error, not_sent }) => {
                    if !error.is_unreachable() {
                        return Err(error);
                    }
                    self.preferred.store((index + 1) % count, Ordering::Relaxed);
                    // A refused connection is refused again; do not ask the only member twice.
                    let again = (not_sent || reads_only) && !(not_sent && count == 1) && Instant::now() < deadline;
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
        until: Instant,
        call: &(impl Fn(Client) -> Sent<T> + Sync),
    ) -> Result<T, Failure> {
        let started = Instant::now();
        let late = |not_sent| {
            let waited = started.elapsed().as_secs_f32();
            let hint = self.does_it_run();
            let error = self.unreachable(format!("no answer from {member} within {waited:.1} s{hint}"));
            Failure { error, not_sent }
        };
        let client = timeout_at(until, member.client()).await.map_err(|_| late(true))?;
        let client = client.map_err(|error| match error {
            // Before anything is sent the transport refuses only the TLS files.
            NoClient::Settings(error) => Failure { error, not_sent: true },
            NoClient::Client(etcd_client::Error::TransportError(error)) => {
                Failure { error: self.bad_files(&error), not_sent: true }
            }
            NoClient::Client(error) => Failure { not_sent: true, ..self.failure(member, operation, error) },
        })?;
        match timeout_at(until, call(client)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                let failure = self.failure(member, operation, error);
                if failure.error.is_unreachable() {
                    member.forget().await;
                }
                Err(failure)
            }
            Err(_) => {
                member.forget().await;
                Err(late(false))
            }
        }
    }

    fn unreachable(&self, cause: String) -> Error {
        unreachable(&self.options, cause)
    }

    /// A transaction: `compare` and then `write`, or else what stands at `key`.
    async fn swap(&self, operation: &str, key: &str, compare: Vec<Compare>, write: TxnOp) -> Result<Swapped, Error> {
        let txn = Txn::new().when(compare).and_then([write]).or_else([TxnOp::get(key, None)]);
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

fn unreachable(options: &ConnectOptions, cause: String) -> Error {
    let cause = match options.source() {
        Source::Embedded => {
            format!("calico-node, which keeps the datastore of this host, does not run or does not answer: {cause}")
        }
        Source::Environment | Source::File { .. } => cause,
    };
    Error::Unreachable { endpoints: options.location(), cause }
}

enum Swapped {
    Done(Revision),
    Lost(Option<Entry>),
}

/// The key exists, and since `expected` nobody wrote it. (An absent key alone would equal revision 0.)
fn unchanged(key: &str, expected: Revision) -> Vec<Compare> {
    vec![Compare::version(key, CompareOp::Greater, 0), Compare::mod_revision(key, CompareOp::Equal, expected.0)]
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
        let compare = vec![Compare::version(key, CompareOp::Equal, 0)];
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
        let compare = unchanged(key, expected);
        match self.swap("update", key, compare, TxnOp::put(key, value, None)).await? {
            Swapped::Done(revision) => Ok(revision),
            Swapped::Lost(current) => Err(Error::lost_race(key, current)),
        }
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<(), Error> {
        let compare = unchanged(key, expected);
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
        Ok(Box::new(EtcdWatch { stream, options: self.options.clone() }))
    }

    fn location(&self) -> String {
        self.options.location()
    }
}

struct EtcdWatch {
    stream: WatchStream,
    options: ConnectOptions,
}

impl EtcdWatch {
    fn over(&self, cause: String) -> Error {
        unreachable(&self.options, cause)
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
                Err(error) => return Err(self.over(format!("the watch broke: {}", words(&error)))),
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
