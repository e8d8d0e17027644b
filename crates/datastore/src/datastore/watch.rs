//! Following a range.

use std::sync::Arc;

use calico_store::mvcc::{Enough, KeyRange, Refusal, WatchEvent, Watcher};
use tokio::sync::watch as signal;

use super::Shared;

/// How much comes at once, unless one revision has more. A client that does not take it keeps this much in memory and
/// no more: what comes after it is the history's, which a compaction takes away from him as from everybody.
const ENOUGH: Enough = Enough { events: 1000, bytes: 1 << 20 };

/// What to follow. [`Watch::new`] follows everything in a range from now on; set the fields that should differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Which keys.
    pub range: KeyRange,
    /// From which revision on, itself included; without one, from the next write on.
    pub start: Option<i64>,
    /// Puts are told.
    pub puts: bool,
    /// Deletions are told.
    pub deletes: bool,
    /// With each event comes what stood there before.
    pub previous: bool,
}

impl Watch {
    /// Everything in `range`, from now on.
    pub fn new(range: KeyRange) -> Self {
        Self { range, start: None, puts: true, deletes: true, previous: false }
    }
}

/// A running watch. It keeps the memory of a datastore alive, but not its file.
pub struct Subscription {
    shared: Arc<Shared>,
    watcher: Watcher,
    durable: signal::Receiver<i64>,
}

impl Subscription {
    pub(super) fn new(shared: Arc<Shared>, watch: Watch) -> Self {
        let durable = shared.durable.subscribe();
        let start = watch.start.unwrap_or_else(|| *durable.borrow() + 1);
        let mut watcher = Watcher::new(watch.range, start);
        if !watch.puts {
            watcher = watcher.without_puts();
        }
        if !watch.deletes {
            watcher = watcher.without_deletes();
        }
        if watch.previous {
            watcher = watcher.with_previous();
        }
        Self { shared, watcher, durable }
    }

    /// The next events in order, at least one, and all of a revision together; and the durable revision of that moment.
    ///
    /// Cancel-safe: a call that is dropped loses nothing.
    ///
    /// # Errors
    /// [`Refusal::Compacted`] if some of what is asked for is gone; again at each further call.
    pub async fn next(&mut self) -> Result<(Vec<WatchEvent>, i64), Refusal> {
        loop {
            let durable = *self.durable.borrow_and_update();
            let events = self.shared.core().poll_some(&mut self.watcher, durable, ENOUGH)?;
            if !events.is_empty() {
                return Ok((events, durable));
            }
            // The sender lives as long as `self.shared`, so this ends only by a change.
            let _ = self.durable.changed().await;
        }
    }

    /// The revision up to which everything was given: for whoever wants to say how far he is. It may be below the
    /// durable one while events wait, and below the start of a watch that starts in the future.
    pub fn synced(&self) -> i64 {
        (self.watcher.next_revision() - 1).min(*self.shared.durable.borrow())
    }
}
