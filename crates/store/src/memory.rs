//! The in-memory datastore: the [`mvcc`](crate::mvcc) core behind the [`Kv`] seam, with faults on demand.
//!
//! For tests, and for looking at what a command would do. A clone is another client of the same data. Calls never
//! suspend except [`KvWatch::next`], so they may be run to completion anywhere.
//!
//! Two faults can be injected. [`MemoryKv::set_down`] makes every call and every watch fail as against a dead
//! etcd. [`MemoryKv::inject`] installs a callback that sees each write just before it happens and may let it pass,
//! lose the race (by writing first through the clone it is handed), or fail it before or after it took effect, as
//! a crash or a torn connection between two operations does:
//!
//! ```
//! use calico_store::{Injected, Kv, MemoryKv};
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let kv = MemoryKv::new();
//! let revision = kv.create("/a", b"1".to_vec()).await?;
//! kv.inject(|behind, write| {
//!     behind.put(write.key, b"somebody else's");      // a lost race
//!     Injected::Proceed
//! });
//! let error = kv.update("/a", b"2".to_vec(), revision).await.unwrap_err();
//! assert!(error.is_conflict());
//! # Ok::<(), calico_store::Error>(()) }).unwrap();
//! ```

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use calico_model::Revision;
use tokio::sync::watch;

use crate::{
    Entry, Error, Kv, KvEvent, KvWatch, Listing,
    mvcc::{Compare, Core, KeyRange, KeyValue, Op, OpResult, Read, Refusal, Txn, TxnResult, WatchEvent, Watcher},
};

/// What kind of write a callback sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteKind {
    /// [`Kv::create`]
    Create,
    /// [`Kv::update`]
    Update,
    /// [`Kv::delete`]
    Delete,
}

/// A write that is about to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write<'a> {
    /// What it is.
    pub kind: WriteKind,
    /// Of which key.
    pub key: &'a str,
    /// The value to write; `None` for a deletion.
    pub value: Option<&'a [u8]>,
}

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injected {
    /// It goes on as if nothing were injected.
    Proceed,
    /// It is not carried out; the caller sees [`Error::Unreachable`].
    FailBefore,
    /// It is carried out, and the caller sees [`Error::Unreachable`] all the same.
    FailAfter,
}

type Hook = Box<dyn FnMut(&MemoryKv, Write<'_>) -> Injected + Send>;

/// What the clients of one data set share.
struct Shared {
    core: Mutex<Core>,
    /// Poked after every write, compaction and change of `down`.
    changed: watch::Sender<()>,
}

/// The faults of one client and its clones.
struct Faults {
    down: AtomicBool,
    hook: Mutex<Option<Hook>>,
}

/// An in-memory datastore. A clone is another client of the same data. For faults on demand see
/// [`set_down`](Self::set_down), [`inject`](Self::inject) and [`behind`](Self::behind).
#[derive(Clone)]
pub struct MemoryKv {
    shared: Arc<Shared>,
    faults: Arc<Faults>,
}

impl Default for MemoryKv {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryKv {
    /// An empty datastore.
    pub fn new() -> Self {
        let shared = Arc::new(Shared { core: Mutex::new(Core::new()), changed: watch::Sender::new(()) });
        Self { shared, faults: no_faults() }
    }

    /// A client of the same data that no injected fault concerns, and that the callback does not see.
    pub fn behind(&self) -> Self {
        Self { shared: self.shared.clone(), faults: no_faults() }
    }

    /// Calls `hook` before every [`create`](Kv::create), [`update`](Kv::update) and [`delete`](Kv::delete) of this
    /// client and its clones, in place of an earlier hook. It gets [`behind`](Self::behind) to act with; writes of
    /// other tasks wait until it returns, so it must not wait for them.
    pub fn inject(&self, hook: impl FnMut(&MemoryKv, Write<'_>) -> Injected + Send + 'static) {
        *lock(&self.faults.hook) = Some(Box::new(hook));
    }

    /// Ends what [`inject`](Self::inject) began.
    pub fn stop_injecting(&self) {
        *lock(&self.faults.hook) = None;
    }

    /// With `true` every call and every watch of this client and its clones fails with [`Error::Unreachable`].
    pub fn set_down(&self, down: bool) {
        self.faults.down.store(down, Ordering::SeqCst);
        self.shared.changed.send_replace(());
    }

    /// Writes a key whatever stands there, as a stranger would.
    pub fn put(&self, key: &str, value: impl AsRef<[u8]>) -> Revision {
        Revision(self.write(|core| core.put(key.as_bytes(), value.as_ref())))
    }

    /// Deletes a key whatever stands there. Returns whether anything did.
    pub fn remove(&self, key: &str) -> bool {
        !self.write(|core| core.delete(&KeyRange::one(key))).is_empty()
    }

    /// Runs a transaction, unseen by faults and callbacks: several keys changed at one revision.
    ///
    /// # Errors
    /// What [`Core::txn`] returns.
    pub fn txn(&self, txn: &Txn) -> Result<TxnResult, Refusal> {
        self.write(|core| core.txn(txn))
    }

    /// Forgets all history before the present revision, and returns that revision. Listings and watches that are
    /// up to date do not notice.
    pub fn compact(&self) -> Revision {
        self.write(|core| {
            let revision = core.revision();
            // The only refusals are a future revision, which the present one is not, and one compacted before.
            let _ = core.compact(revision);
            Revision(revision)
        })
    }

    /// The revision of the last write.
    pub fn revision(&self) -> Revision {
        Revision(self.core().revision())
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        lock(&self.shared.core)
    }

    /// Changes the data, which nothing keeps more durably than memory, and wakes the watches.
    fn write<T>(&self, change: impl FnOnce(&mut Core) -> T) -> T {
        let mut core = self.core();
        let result = change(&mut core);
        core.settle();
        drop(core);
        self.shared.changed.send_replace(());
        result
    }

    fn read(&self, range: KeyRange) -> Result<Listing, Error> {
        let core = self.core();
        let revision = core.revision();
        let found = core.range(&Read::new(range), revision).map_err(|refusal| refused("read", refusal))?;
        Ok(Listing { revision: Revision(revision), entries: found.kvs.into_iter().map(entry).collect() })
    }

    fn poll(&self, watcher: &mut Watcher) -> Result<Vec<WatchEvent>, Refusal> {
        let core = self.core();
        core.poll(watcher, core.revision())
    }

    fn unreachable(&self, cause: &str) -> Error {
        Error::Unreachable { endpoints: self.location(), cause: cause.to_owned() }
    }

    fn check_up(&self) -> Result<(), Error> {
        if self.faults.down.load(Ordering::SeqCst) { Err(self.unreachable("it is down")) } else { Ok(()) }
    }

    /// One compare-and-swap: `compare` holds and `then` is done, or what stands there is returned.
    fn swap(&self, write: Write<'_>, compare: Vec<Compare>, then: Op) -> Result<Swapped, Error> {
        self.check_up()?;
        let injected = match &mut *lock(&self.faults.hook) {
            Some(hook) => hook(&self.behind(), write),
            None => Injected::Proceed,
        };
        if injected == Injected::FailBefore {
            return Err(self.unreachable("injected: the write did not happen"));
        }
        let otherwise = vec![Op::get(KeyRange::one(write.key))];
        let txn = Txn { compare, then: vec![then], otherwise };
        let result = self.write(|core| core.txn(&txn)).map_err(|refusal| refused("write", refusal))?;
        if injected == Injected::FailAfter {
            return Err(self.unreachable("injected: the write did happen"));
        }
        Ok(swapped(result))
    }
}

/// The key exists, and since `expected` nobody wrote it. (An absent key alone would equal revision 0.)
fn unchanged(key: &str, expected: Revision) -> Vec<Compare> {
    vec![Compare::exists(key), Compare::unchanged(key, expected.0)]
}

/// The outcome of a compare-and-swap.
enum Swapped {
    Done(Revision),
    Lost(Option<Entry>),
}

fn swapped(mut result: TxnResult) -> Swapped {
    if result.succeeded {
        return Swapped::Done(Revision(result.revision));
    }
    match result.results.pop() {
        Some(OpResult::Get(found)) => Swapped::Lost(found.kvs.into_iter().next().map(entry)),
        _ => Swapped::Lost(None),
    }
}

fn refused(operation: &str, refusal: Refusal) -> Error {
    Error::Refused { operation: operation.to_owned(), cause: refusal.to_string() }
}

fn no_faults() -> Arc<Faults> {
    Arc::new(Faults { down: AtomicBool::new(false), hook: Mutex::new(None) })
}

/// A test that panicked inside a hook has failed already; the data is whole, since the core changes it in one go.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

fn entry(kv: KeyValue) -> Entry {
    Entry { key: text(&kv.key), value: kv.value.to_vec(), revision: Revision(kv.mod_revision) }
}

#[async_trait]
impl Kv for MemoryKv {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.check_up()?;
        Ok(self.read(KeyRange::one(key))?.entries.pop())
    }

    async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        self.check_up()?;
        self.read(KeyRange::prefix(prefix))
    }

    async fn create(&self, key: &str, value: Vec<u8>) -> Result<Revision, Error> {
        let write = Write { kind: WriteKind::Create, key, value: Some(&value) };
        let then = Op::put(key, value.clone());
        match self.swap(write, vec![Compare::absent(key)], then)? {
            Swapped::Done(revision) => Ok(revision),
            Swapped::Lost(Some(existing)) => {
                Err(Error::AlreadyExists { key: key.to_owned(), existing: Box::new(existing) })
            }
            Swapped::Lost(None) => unreachable!("the key was found present in the same transaction"),
        }
    }

    async fn update(&self, key: &str, value: Vec<u8>, expected: Revision) -> Result<Revision, Error> {
        let write = Write { kind: WriteKind::Update, key, value: Some(&value) };
        let then = Op::put(key, value.clone());
        match self.swap(write, unchanged(key, expected), then)? {
            Swapped::Done(revision) => Ok(revision),
            Swapped::Lost(current) => Err(Error::lost_race(key, current)),
        }
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<(), Error> {
        let write = Write { kind: WriteKind::Delete, key, value: None };
        let then = Op::Delete(KeyRange::one(key));
        match self.swap(write, unchanged(key, expected), then)? {
            Swapped::Done(_) => Ok(()),
            Swapped::Lost(current) => Err(Error::lost_race(key, current)),
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn KvWatch>, Error> {
        self.check_up()?;
        Ok(Box::new(MemoryWatch {
            changed: self.shared.changed.subscribe(),
            watcher: Watcher::new(KeyRange::prefix(prefix), after.0 + 1),
            kv: self.clone(),
        }))
    }

    fn location(&self) -> String {
        "memory".to_owned()
    }
}

struct MemoryWatch {
    kv: MemoryKv,
    watcher: Watcher,
    changed: watch::Receiver<()>,
}

#[async_trait]
impl KvWatch for MemoryWatch {
    async fn next(&mut self) -> Result<Vec<KvEvent>, Error> {
        loop {
            self.changed.mark_unchanged();
            self.kv.check_up()?;
            let events = self.kv.poll(&mut self.watcher);
            match events {
                Ok(events) if events.is_empty() => {}
                Ok(events) => return Ok(events.into_iter().map(event).collect()),
                Err(Refusal::Compacted(compacted)) => {
                    return Err(Error::Compacted { compacted: Revision(compacted) });
                }
                Err(refusal) => return Err(refused("watch", refusal)),
            }
            // The sender lives in `self.kv`, so this ends only by a change.
            let _ = self.changed.changed().await;
        }
    }
}

fn event(event: WatchEvent) -> KvEvent {
    match event {
        WatchEvent::Put { kv, .. } => KvEvent::Put(entry(kv)),
        WatchEvent::Delete { key, revision, .. } => KvEvent::Delete { key: text(&key), revision: Revision(revision) },
    }
}
