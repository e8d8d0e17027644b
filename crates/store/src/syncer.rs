//! List and watch turned into events: one complete snapshot, `InSync`, then changes.
//!
//! ```text
//!            ┌────────────── Compacted, Unreachable, … (back-off) ─────────────┐
//!            ▼                                                                 │
//!   list every prefix ──► differences ──► InSync (first time) ──► watch each prefix from
//!                                         Back (after Lost)        its listing's revision
//! ```
//!
//! Invariants:
//!
//! - The first snapshot is complete before [`Event::InSync`], which comes exactly once.
//! - After any break of a watch everything is listed anew and only differences are delivered, deletions first. (Not
//!   resumed: etcd before 3.5.18 loses a deletion made exactly at the compacted revision.)
//! - Nothing is ever taken back because the datastore is away; consumers keep what they have.
//! - An outage costs one attempt per back-off (100 ms doubling to 10 s, with jitter), one [`Event::Lost`] and two
//!   lines of log. A break that the first attempt heals is no outage.
//! - A value that cannot be used is reported once per revision. What counts as such is decided by
//!   [`AnyResource::decode_valid`](calico_model::AnyResource::decode_valid).
//! - Memory per key: the key below its prefix and the revision, never the value.

mod tracker;

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::Arc,
    time::Duration,
};

use calico_model::{Change, DecodeError};
use futures::{FutureExt, future::select_all};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};
use tracing::{debug, info, warn};

use crate::{Error, Kv, KvEvent, KvWatch};
use tracker::Tracker;

/// What a [`Syncer`] delivers.
#[derive(Debug)]
pub enum Event {
    /// A v3 resource changed.
    Change(Change),
    /// A key that is not a v3 resource changed (IPAM keys).
    Raw(KvEvent),
    /// A value cannot be read. A [`Change::Remove`] for its key precedes it if the key held a good value before, and
    /// follows when the key is deleted. Delivered once per revision of the value.
    Unreadable(DecodeError),
    /// The first snapshot is complete. Exactly once in a syncer's life.
    InSync,
    /// The datastore was lost; what was delivered stays in force. Delivered once per outage.
    Lost {
        /// The transport's words.
        cause: String,
    },
    /// The datastore is back and all differences have been delivered.
    Back,
}

/// Batches that may wait for a slow consumer; beyond that the watches wait.
const QUEUE: usize = 16;
/// Events after which a batch is delivered although more are at hand.
const BATCH: usize = 10_000;
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(10);

/// Starts syncers.
pub struct Syncer;

/// A running syncer. Dropping it ends it.
pub struct SyncerHandle {
    batches: mpsc::Receiver<Vec<Event>>,
    task: JoinHandle<()>,
}

impl Syncer {
    /// Follows all keys that start with one of `prefixes`, on the running Tokio runtime. A prefix that lies within
    /// another one is left out.
    pub fn spawn(kv: Arc<dyn Kv>, mut prefixes: Vec<String>) -> SyncerHandle {
        prefixes.sort();
        prefixes.dedup_by(|later, earlier| later.starts_with(earlier.as_str()));
        let (sender, batches) = mpsc::channel(QUEUE);
        let trackers = prefixes.into_iter().map(Tracker::new).collect();
        let driver = Driver { kv, trackers, sender, in_sync: false, lost: false };
        SyncerHandle { batches, task: tokio::spawn(driver.run()) }
    }
}

impl SyncerHandle {
    /// The next events, all that are at hand; never an empty batch. Cancel-safe.
    ///
    /// `None` means that the syncer's task has died, which is a defect.
    pub async fn next(&mut self) -> Option<Vec<Event>> {
        self.batches.recv().await
    }
}

impl Drop for SyncerHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Driver {
    kv: Arc<dyn Kv>,
    trackers: Vec<Tracker>,
    sender: mpsc::Sender<Vec<Event>>,
    in_sync: bool,
    /// [`Event::Lost`] was delivered and [`Event::Back`] was not yet.
    lost: bool,
}

/// Why a round ended.
enum End {
    /// The datastore's doing.
    Datastore(Error),
    /// The handle is gone.
    Dropped,
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Datastore(error)
    }
}

impl Driver {
    async fn run(mut self) {
        let mut attempt: u32 = 0;
        loop {
            let started = Instant::now();
            let Err(end) = self.round().await;
            let End::Datastore(error) = end else { return };
            // A long round has healed; short ones in a row are one trouble.
            attempt = if started.elapsed() >= LONGEST_DELAY { 1 } else { attempt.saturating_add(1) };
            let compacted = matches!(error, Error::Compacted { .. });
            debug!(%error, attempt, "the watch is over, listing again");
            if attempt > 1 && !compacted && !self.lost {
                self.lost = true;
                warn!(%error, "the datastore is lost, what is known stays in force");
                if self.send(vec![Event::Lost { cause: error.to_string() }]).await.is_err() {
                    return;
                }
            }
            tokio::time::sleep(delay(attempt)).await;
        }
    }

    /// Lists, delivers the differences, then watches until something breaks.
    async fn round(&mut self) -> Result<std::convert::Infallible, End> {
        let mut watches = Vec::with_capacity(self.trackers.len());
        for at in 0..self.trackers.len() {
            let listing = self.kv.list(self.trackers[at].prefix()).await?;
            let revision = listing.revision;
            let events = self.trackers[at].absorb_listing(listing);
            self.send(events).await?;
            watches.push(self.kv.watch(self.trackers[at].prefix(), revision).await?);
        }
        if !self.in_sync {
            self.in_sync = true;
            let keys: usize = self.trackers.iter().map(Tracker::len).sum();
            info!(location = self.kv.location(), keys, "in sync with the datastore");
            self.send(vec![Event::InSync]).await?;
        }
        if self.lost {
            self.lost = false;
            info!(location = self.kv.location(), "the datastore is back");
            self.send(vec![Event::Back]).await?;
        }
        loop {
            let mut batch = Vec::new();
            let ended = self.gather(&mut watches, &mut batch).await;
            self.send(batch).await?;
            ended?;
        }
    }

    /// Waits for the first events of any watch and takes all others that are there already.
    async fn gather(&mut self, watches: &mut [Box<dyn KvWatch>], batch: &mut Vec<Event>) -> Result<(), Error> {
        if watches.is_empty() {
            return std::future::pending().await;
        }
        let (first, at, _) = select_all(watches.iter_mut().map(|watch| watch.next())).await;
        self.absorb(at, first?, batch);
        for (at, watch) in watches.iter_mut().enumerate() {
            while batch.len() < BATCH
                && let Some(more) = watch.next().now_or_never()
            {
                self.absorb(at, more?, batch);
            }
        }
        Ok(())
    }

    fn absorb(&mut self, at: usize, events: Vec<KvEvent>, batch: &mut Vec<Event>) {
        for event in events {
            self.trackers[at].absorb_event(event, batch);
        }
    }

    async fn send(&self, batch: Vec<Event>) -> Result<(), End> {
        if batch.is_empty() {
            return Ok(());
        }
        self.sender.send(batch).await.map_err(|_| End::Dropped)
    }
}

/// How long to wait before trying again: not at all after the first failure, then doubling; between half and all of
/// it.
fn delay(attempt: u32) -> Duration {
    let Some(doublings) = attempt.checked_sub(2) else { return Duration::ZERO };
    let whole = FIRST_DELAY.saturating_mul(1 << doublings.min(10)).min(LONGEST_DELAY);
    // A fresh hasher is seeded at random: enough to keep a thousand agents from coming back in step.
    let random = RandomState::new().build_hasher().finish() >> 32;
    let half = whole / 2;
    half + half.mul_f64(random as f64 / f64::from(u32::MAX))
}
