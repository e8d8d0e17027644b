//! The datastore as its servers see it: etcd's semantics, and durable when a call returns.
//!
//! ```text
//!   txn, grant, revoke, compact ──► queue ──► writer thread:  apply all that wait to the core   (staged)
//!                                                             one commit of the database        (durable)
//!   range, lease … ◄── core, at the durable revision ◄─────── settle, answer, wake the watches
//!   Subscription   ◄─────────────────────────────────────────
//! ```
//!
//! The core ([`calico_store::mvcc`]) has everything in memory and decides; the [database](crate::disk) only has to be
//! able to bring it back. One thread writes. It takes all transactions that wait at once, so that they share one sync
//! of the disk; nobody waits for more than one other batch.
//!
//! Invariants:
//!
//! - What is answered is durable, and what is not durable is never shown, neither by a read nor by a watch.
//! - If a batch cannot be made durable, all of it is taken back, and each of its callers gets
//!   [`WriteError::NoSpace`] or [`WriteError::Failed`]. Reads and watches go on.
//! - On a full disk, transactions that only delete, and compactions, still work, out of a reserve.
//! - A lease is durable once granted; how long it has lived is not, so after a restart each lives its whole time again,
//!   as with etcd.
//! - The history is compacted by itself: the last [`KEPT_REVISIONS`] and everything of the last
//!   [`KEPT_TIME`] stay, for watches that come back and for readers of a past revision. But it has a bound in memory:
//!   beyond [`MOST_HISTORY`] it is compacted earlier, down to [`KEPT_UNDER_PRESSURE`] revisions, and beyond
//!   [`HISTORY_LIMIT`] however few that leaves. A watch that was behind is told so and reads everything anew, as with
//!   etcd.
//! - If the writer ends though it is still wanted (a panic), every write fails at once and says why,
//!   [`Status::trouble`] has it, and [`Datastore::writer_ended`] completes, upon which [`serve`](crate::serve) ends.
//!   A writer is not started anew here: what made it end may have left the memory or the file in a state that nobody
//!   thought of, and the way back from that is the one that is tested a thousand times: a new process that reads the
//!   file and checks all of it. calico-node starts that process, with pauses that grow.

mod watch;
mod writer;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    thread,
    time::{Duration, Instant},
};

use calico_store::mvcc::{Core, LeaseInfo, Read, ReadResult, Refusal, Txn, TxnResult};
use redb::ReadTransaction;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch as signal};

use self::writer::{Command, Writer};
pub use self::{
    watch::{Subscription, Watch},
    writer::{HISTORY_LIMIT, KEPT_REVISIONS, KEPT_TIME, KEPT_UNDER_PRESSURE, MOST_HISTORY},
};
use crate::disk::{
    Disk,
    backup::{self, Backup},
    check::{self, Report},
    error::{BackupError, OpenError},
    rows,
};

/// Commands that may wait for the writer; who comes then waits before he is let in.
const QUEUE: usize = 256;

/// Why a write was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The store's rules forbid it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The disk is full. Nothing was written.
    #[error(
        "the disk of the datastore is full ({0}): make room on it, or delete keys, which still works; nothing was written, and reading goes on"
    )]
    NoSpace(String),
    /// The database could not be written, for the reason given; it says so if it is not certain that nothing was.
    #[error("the datastore cannot be written: {0}")]
    Failed(String),
}

/// How a datastore is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The last durable revision.
    pub revision: i64,
    /// The compacted revision; 0 if nothing was compacted.
    pub compacted: i64,
    /// How many leases there are.
    pub leases: usize,
    /// The space that the database takes on the disk, in bytes.
    pub bytes: u64,
    /// The part of it that keys, values and history need, in bytes.
    pub bytes_in_use: u64,
    /// Memory that what was overwritten and deleted takes until it is compacted, in bytes, roughly.
    pub history_bytes: usize,
    /// True while the disk is full: only deletions and compactions are accepted.
    pub full: bool,
    /// Why nothing at all can be written any more, until calico-node starts anew.
    pub trouble: Option<String>,
    /// The id of the cluster; drawn when the datastore was made, and kept by a backup.
    pub cluster: u64,
    /// The id of its only member.
    pub member: u64,
    /// The folder.
    pub folder: PathBuf,
}

/// What [`Datastore::shrink`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Shrunk {
    /// The space that the database took on the disk before, in bytes.
    pub before: u64,
    /// And afterwards.
    pub after: u64,
}

/// What the writer knows of the disk.
#[derive(Clone, Debug, Default)]
struct Facts {
    bytes: u64,
    used: u64,
    full: bool,
    trouble: Option<String>,
}

/// What readers, watches and the writer have in common.
struct Shared {
    core: RwLock<Core>,
    /// The durable revision.
    durable: signal::Sender<i64>,
    facts: Mutex<Facts>,
    /// Set once the writer has ended though it was still wanted.
    writer_ended: signal::Sender<bool>,
    /// When the clock of the leases began.
    started: Instant,
    cluster: u64,
    member: u64,
    folder: PathBuf,
}

impl Shared {
    /// A panic in the writer leaves the core whole, since the core checks before it changes anything; and the writer
    /// is gone then, so nothing staged is shown.
    fn core(&self) -> RwLockReadGuard<'_, Core> {
        self.core.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn core_mut(&self) -> RwLockWriteGuard<'_, Core> {
        self.core.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn facts(&self) -> std::sync::MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer has ended, for the reason given.
    fn end_writer(&self, why: &str) {
        let trouble = format!("its writer has ended ({why}): nothing is written until calico-node starts anew");
        tracing::error!(%why, "the writer of the datastore has ended");
        self.facts().trouble.get_or_insert(trouble);
        self.writer_ended.send_replace(true);
    }

    /// The leases' clock.
    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

/// The way to the writer. When the last one goes, the writer ends, and its database with it.
struct Handle {
    commands: Option<mpsc::Sender<Command>>,
    writer: Option<thread::JoinHandle<()>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.commands = None;
        // So the folder is free when the last clone is gone. It takes one commit at most; a panic was told of already.
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// An open datastore. A clone is the same one; the last clone that goes closes it. See the [module](self).
#[derive(Clone)]
pub struct Datastore {
    shared: Arc<Shared>,
    handle: Arc<Handle>,
}

impl Datastore {
    /// Opens the datastore in a folder, or makes an empty one there. Reads all of it, so it may take a second.
    ///
    /// # Errors
    /// [`OpenError`]; the database file is as it was.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        let (disk, core) = Disk::open(folder)?;
        Self::start(disk, core)
    }

    pub(crate) fn start(disk: Disk, core: Core) -> Result<Self, OpenError> {
        let meta = disk.meta();
        let shared = Arc::new(Shared {
            durable: signal::Sender::new(core.settled()),
            core: RwLock::new(core),
            facts: Mutex::default(),
            writer_ended: signal::Sender::new(false),
            started: Instant::now(),
            cluster: meta.cluster,
            member: meta.member,
            folder: disk.path().to_owned(),
        });
        let (commands, queue) = mpsc::channel(QUEUE);
        let path = disk.path().to_owned();
        let writer = Writer::new(shared.clone(), disk);
        let common = shared.clone();
        let started = thread::Builder::new().name("datastore".to_owned()).spawn(move || {
            match catch_unwind(AssertUnwindSafe(|| writer.run(queue))) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => common.end_writer(&error.to_string()),
                Err(panic) => common.end_writer(&format!("it panicked: {}", words_of(&*panic))),
            }
        });
        let writer = started.map_err(|source| OpenError::Io { action: "start the writer of", path, source })?;
        Ok(Self { shared, handle: Arc::new(Handle { commands: Some(commands), writer: Some(writer) }) })
    }

    /// Reads at the durable revision, or at an earlier one that is asked for. Returns the durable revision, too.
    ///
    /// # Errors
    /// What [`Core::range`] says.
    pub fn range(&self, read: &Read) -> Result<(ReadResult, i64), Refusal> {
        let core = self.shared.core();
        let durable = core.settled();
        Ok((core.range(read, durable)?, durable))
    }

    /// Runs a transaction; what it wrote is durable when this returns.
    ///
    /// # Errors
    /// [`WriteError`]. Whoever drops this call does not know whether it was carried out.
    pub async fn txn(&self, txn: Txn) -> Result<TxnResult, WriteError> {
        self.ask(|reply| Command::Txn(txn, reply)).await?
    }

    /// Forgets what was overwritten or deleted before `revision`. Returns the durable revision.
    ///
    /// # Errors
    /// [`WriteError`], with [`Refusal::Compacted`] and [`Refusal::Future`] within.
    pub async fn compact(&self, revision: i64) -> Result<i64, WriteError> {
        self.ask(|reply| Command::Compact(revision, reply)).await?
    }

    /// Follows a range.
    pub fn watch(&self, watch: Watch) -> Subscription {
        Subscription::new(self.shared.clone(), watch)
    }

    /// Follows the durable revision.
    pub fn revision(&self) -> signal::Receiver<i64> {
        self.shared.durable.subscribe()
    }

    /// The durable revision.
    pub fn durable(&self) -> i64 {
        *self.shared.durable.borrow()
    }

    /// Grants a lease of `ttl` seconds under an id; with the id 0 under a new one. Returns id and seconds, which are
    /// at least [`MIN_TTL`](calico_store::mvcc::MIN_TTL).
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn grant(&self, id: i64, ttl: i64) -> Result<(i64, i64), WriteError> {
        self.ask(|reply| Command::Grant { id, ttl, reply }).await?
    }

    /// Ends a lease, and deletes its keys. Returns the revision afterwards.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn revoke(&self, id: i64) -> Result<i64, WriteError> {
        self.ask(|reply| Command::Revoke(id, reply)).await?
    }

    /// Lets a lease live its whole time again. Returns that time in seconds.
    ///
    /// # Errors
    /// [`Refusal::LeaseNotFound`].
    pub fn keep_alive(&self, id: i64) -> Result<i64, Refusal> {
        self.shared.core_mut().keep_alive(id, self.shared.now())
    }

    /// What is known of a lease.
    ///
    /// # Errors
    /// [`Refusal::LeaseNotFound`].
    pub fn lease(&self, id: i64) -> Result<LeaseInfo, Refusal> {
        self.shared.core().lease(id, self.shared.now()).ok_or(Refusal::LeaseNotFound)
    }

    /// The ids of all leases, the one that ends first before the others.
    pub fn leases(&self) -> Vec<i64> {
        self.shared.core().leases()
    }

    /// Completes, with the reason, when the writer has ended though it is still wanted: nothing can be written any more.
    pub async fn writer_ended(&self) -> String {
        // The sender lives as long as `self`.
        let _ = self.shared.writer_ended.subscribe().wait_for(|ended| *ended).await;
        self.shared.facts().trouble.clone().unwrap_or_default()
    }

    /// How it is.
    pub fn status(&self) -> Status {
        let facts = self.shared.facts().clone();
        let core = self.shared.core();
        Status {
            revision: core.settled(),
            compacted: core.compacted(),
            leases: core.leases().len(),
            bytes: facts.bytes,
            bytes_in_use: facts.used,
            history_bytes: core.history_bytes(),
            full: facts.full,
            trouble: facts.trouble,
            cluster: self.shared.cluster,
            member: self.shared.member,
            folder: self.shared.folder.clone(),
        }
    }

    /// Writes all of it, as of now, into a new file, which only its owner may read. Writing goes on meanwhile.
    ///
    /// # Errors
    /// [`BackupError`]; no file is left then.
    pub async fn backup(&self, to: &Path) -> Result<Backup, BackupError> {
        let failed = |what: String| BackupError::Failed { to: to.to_owned(), what };
        let snapshot = self.snapshot().await.map_err(|error| failed(error.to_string()))?;
        let path = to.to_owned();
        let written = tokio::task::spawn_blocking(move || backup::write(&snapshot, &path)).await;
        written.unwrap_or_else(|error| Err(failed(error.to_string())))
    }

    /// Reads the database back and compares it with what is in memory. Writing goes on meanwhile. For a datastore
    /// that nobody has open there is [`check`](crate::check).
    ///
    /// # Errors
    /// [`WriteError::Failed`] if the database cannot be read at all.
    pub async fn check_now(&self) -> Result<Report, WriteError> {
        let snapshot = self.snapshot().await?;
        let shared = self.shared.clone();
        let checked = tokio::task::spawn_blocking(move || {
            let memory = |read: &Read| {
                let core = shared.core();
                core.range(read, core.settled())
            };
            check::snapshot(&snapshot, &shared.folder, memory)
        });
        checked.await.map_err(|error| WriteError::Failed(error.to_string()))
    }

    /// Gives the space of the file that it does not need any more back to the disk. Writing waits meanwhile.
    ///
    /// # Errors
    /// [`WriteError`], also while a backup or a check runs.
    pub async fn shrink(&self) -> Result<Shrunk, WriteError> {
        self.ask(Command::Shrink).await?
    }

    async fn snapshot(&self) -> Result<ReadTransaction, WriteError> {
        self.ask(Command::Snapshot).await?
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, WriteError> {
        // It may be gone a moment before it is known why.
        let gone = || {
            let why = self.shared.facts().trouble.clone();
            WriteError::Failed(why.unwrap_or_else(|| "its writer has just ended: start calico-node anew".to_owned()))
        };
        let (reply, answer) = oneshot::channel();
        let commands = self.handle.commands.as_ref().expect("taken away only as the last handle goes");
        commands.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}

/// What a panic says.
pub(crate) fn words_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it does not say why")
}

/// An id for a lease that asks for none: positive, as etcd's are.
fn lease_id() -> i64 {
    (rows::draw() >> 1).max(1).cast_signed()
}

#[cfg(test)]
mod tests;
