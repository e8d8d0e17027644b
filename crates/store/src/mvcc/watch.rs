//! Watching: a cursor over the history of a range.

use std::sync::Arc;

use super::{Core, Key, KeyRange, KeyValue, Refusal, key::Record};

/// One event of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// Created (version 1) or changed.
    Put {
        /// What stands there now.
        kv: KeyValue,
        /// What stood there before the revision; only if the watcher asked for it, and if it is not compacted.
        prev: Option<KeyValue>,
    },
    /// Deleted.
    Delete {
        /// The key.
        key: Key,
        /// The revision of the deletion.
        revision: i64,
        /// As for a put.
        prev: Option<KeyValue>,
    },
}

impl WatchEvent {
    /// The revision at which it happened.
    pub fn revision(&self) -> i64 {
        match self {
            Self::Put { kv, .. } => kv.mod_revision,
            Self::Delete { revision, .. } => *revision,
        }
    }

    /// The bytes of its keys and values.
    pub(super) fn bytes(&self) -> usize {
        let of = |kv: &KeyValue| kv.key.len() + kv.value.len();
        match self {
            Self::Put { kv, prev } => of(kv) + prev.as_ref().map_or(0, of),
            Self::Delete { key, prev, .. } => key.len() + prev.as_ref().map_or(0, of),
        }
    }
}

/// How much comes with one poll: whichever of the two is reached first ends it, at the end of that revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enough {
    /// Events.
    pub events: usize,
    /// Bytes of keys and values.
    pub bytes: usize,
}

impl Enough {
    /// Everything there is.
    pub const ALL: Self = Self { events: usize::MAX, bytes: usize::MAX };
}

/// A cursor over the history of a range. The caller owns it; the store knows nothing of it.
#[derive(Clone, Debug)]
pub struct Watcher {
    range: KeyRange,
    next: i64,
    puts: bool,
    deletes: bool,
    previous: bool,
}

impl Watcher {
    /// A watch of `range` from revision `start` on (inclusive); `start` may lie in the future.
    pub fn new(range: KeyRange, start: i64) -> Self {
        Self { range, next: start, puts: true, deletes: true, previous: false }
    }

    /// Leaves out puts.
    #[must_use]
    pub fn without_puts(self) -> Self {
        Self { puts: false, ..self }
    }

    /// Leaves out deletions.
    #[must_use]
    pub fn without_deletes(self) -> Self {
        Self { deletes: false, ..self }
    }

    /// Tells with each event what stood there before.
    #[must_use]
    pub fn with_previous(self) -> Self {
        Self { previous: true, ..self }
    }

    /// The least revision that it has not seen: everything before it was delivered.
    pub fn next_revision(&self) -> i64 {
        self.next
    }

    /// What it watches.
    pub fn range(&self) -> &KeyRange {
        &self.range
    }

    fn wants(&self, record: &Record) -> bool {
        let kind = if record.value.is_some() { self.puts } else { self.deletes };
        kind && self.range.contains(&record.key)
    }
}

impl Core {
    /// Everything that happened in the watcher's range since its last poll and not after revision `up_to`, in order;
    /// empty if nothing did.
    ///
    /// # Errors
    /// [`Refusal::Compacted`] if some of it is gone; the watcher stays where it is.
    pub fn poll(&self, watcher: &mut Watcher, up_to: i64) -> Result<Vec<WatchEvent>, Refusal> {
        self.poll_some(watcher, up_to, Enough::ALL)
    }

    /// As [`poll`](Self::poll), but stops at the first end of a revision where [`Enough`] is together; the rest
    /// comes with the next poll. There is a rest if [`Watcher::next_revision`] is not past `up_to` afterwards.
    ///
    /// # Errors
    /// As [`poll`](Self::poll).
    pub fn poll_some(&self, watcher: &mut Watcher, up_to: i64, enough: Enough) -> Result<Vec<WatchEvent>, Refusal> {
        if watcher.next < self.compacted {
            return Err(Refusal::Compacted(self.compacted));
        }
        let start = self.log.partition_point(|record| record.revision < watcher.next);
        let mut events: Vec<WatchEvent> = Vec::new();
        let mut bytes = 0;
        for record in self.log.range(start..) {
            if record.revision > up_to {
                break;
            }
            let is_enough = events.len() >= enough.events || bytes >= enough.bytes;
            if is_enough && events.last().is_some_and(|last| last.revision() < record.revision) {
                watcher.next = record.revision;
                return Ok(events);
            }
            if watcher.wants(record) {
                let event = self.event(record, watcher.previous);
                bytes += event.bytes();
                events.push(event);
            }
        }
        // A watch may start in the future; it must not be pulled back.
        watcher.next = watcher.next.max(up_to + 1);
        Ok(events)
    }

    fn event(&self, record: &Arc<Record>, previous: bool) -> WatchEvent {
        let prev = if previous { self.before(record) } else { None };
        match record.key_value() {
            Some(kv) => WatchEvent::Put { kv, prev },
            None => WatchEvent::Delete { key: record.key.clone(), revision: record.revision, prev },
        }
    }

    /// What a reader at the revision before the record's would see.
    fn before(&self, record: &Record) -> Option<KeyValue> {
        let revision = record.revision - 1;
        if revision < self.compacted {
            return None;
        }
        self.keys.get(&record.key)?.live_at(revision)?.key_value()
    }
}
