//! A client of the in-memory datastore that lets others go first, before and after each operation, and that is
//! answered with outdated values on demand.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    task::Poll,
};

use async_trait::async_trait;
use calico_model::Revision;
use calico_store::{Entry, Error, Kv, KvWatch, Listing, MemoryKv};

/// Which reads of all clients are outdated, and what was read before.
#[derive(Clone, Default)]
pub(crate) struct Reads(Arc<Mutex<History>>);

#[derive(Default)]
struct History {
    count: u16,
    stale: BTreeSet<u16>,
    entries: BTreeMap<String, Option<Entry>>,
    listings: BTreeMap<String, Listing>,
}

impl Reads {
    /// All reads see what is.
    pub(crate) fn current() -> Self {
        Self::default()
    }

    /// The reads with these numbers see what the read before them of the same thing saw, whosever it was.
    pub(crate) fn stale_at(stale: BTreeSet<u16>) -> Self {
        Self(Arc::new(Mutex::new(History { stale, ..History::default() })))
    }

    /// What a read is answered with: what is, or what was.
    fn answer<T: Clone>(&self, key: &str, is: T, memory: impl FnOnce(&mut History) -> &mut BTreeMap<String, T>) -> T {
        let mut history = self.0.lock().unwrap();
        history.count = history.count.saturating_add(1);
        let number = history.count - 1;
        let is_stale = history.stale.contains(&number);
        let known = memory(&mut history);
        match known.get(key) {
            Some(was) if is_stale => was.clone(),
            _ => {
                known.insert(key.to_owned(), is.clone());
                is
            }
        }
    }
}

/// A client.
pub(crate) struct Polite {
    memory: MemoryKv,
    reads: Reads,
}

impl Polite {
    pub(crate) fn new(memory: MemoryKv, reads: Reads) -> Self {
        Self { memory, reads }
    }
}

async fn let_others_go_first() {
    let mut waited = false;
    std::future::poll_fn(|_| if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

macro_rules! politely {
    ($call:expr) => {{
        let_others_go_first().await;
        let result = $call.await;
        let_others_go_first().await;
        result
    }};
}

#[async_trait]
impl Kv for Polite {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let found = politely!(self.memory.get(key))?;
        Ok(self.reads.answer(key, found, |history| &mut history.entries))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        let found = politely!(self.memory.list(prefix))?;
        Ok(self.reads.answer(prefix, found, |history| &mut history.listings))
    }

    async fn create(&self, key: &str, value: Vec<u8>) -> Result<Revision, Error> {
        politely!(self.memory.create(key, value))
    }

    async fn update(&self, key: &str, value: Vec<u8>, expected: Revision) -> Result<Revision, Error> {
        politely!(self.memory.update(key, value, expected))
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<(), Error> {
        politely!(self.memory.delete(key, expected))
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn KvWatch>, Error> {
        self.memory.watch(prefix, after).await
    }

    fn location(&self) -> String {
        self.memory.location()
    }
}
