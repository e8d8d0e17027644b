//! The seam to a database: what has to be made durable, taken back or loaded; and compaction.
//!
//! Writes are *staged* until the caller says that they are durable:
//!
//! ```text
//!   txn, revoke, grant …  ──►  changes_after(durable), lease_changes()  ──►  one database transaction
//!                                                                              │
//!                                    settle()  ◄── it is on disk ──────────────┤
//!                                 roll_back()  ◄── it failed ──────────────────┘
//! ```
//!
//! Who keeps nothing settles after every write.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    Bytes, Core, Key, Refusal,
    key::{Record, Versions},
};

/// One write of one key, to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// The revision of the write.
    pub revision: i64,
    /// Counts the writes of one revision, from 0.
    pub sub: u32,
    /// The key.
    pub key: &'a Key,
    /// What was written; `None` is a deletion.
    pub value: Option<ChangedValue<'a>>,
}

/// The value of a [`Change`] that is no deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangedValue<'a> {
    /// The value.
    pub value: &'a Bytes,
    /// The revision at which the key came into being.
    pub create_revision: i64,
    /// How often the key was written since.
    pub version: i64,
    /// The lease, 0 for none.
    pub lease: i64,
}

/// A [`Change`] as it comes back from the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedChange {
    /// The revision of the write.
    pub revision: i64,
    /// Counts the writes of one revision, from 0.
    pub sub: u32,
    /// The key.
    pub key: Vec<u8>,
    /// What was written; `None` is a deletion.
    pub value: Option<OwnedValue>,
}

/// The value of an [`OwnedChange`] that is no deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedValue {
    /// The value.
    pub value: Vec<u8>,
    /// The revision at which the key came into being.
    pub create_revision: i64,
    /// How often the key was written since.
    pub version: i64,
    /// The lease, 0 for none.
    pub lease: i64,
}

impl Change<'_> {
    /// A copy to keep.
    pub fn into_owned(self) -> OwnedChange {
        let value = self.value.map(|value| OwnedValue {
            value: value.value.to_vec(),
            create_revision: value.create_revision,
            version: value.version,
            lease: value.lease,
        });
        OwnedChange { revision: self.revision, sub: self.sub, key: self.key.to_vec(), value }
    }
}

/// Why what was loaded cannot be what a [`Core`] once held.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("change {sub} of revision {revision}, key {key:?}: {what}")]
pub struct Inconsistent {
    /// The revision of the change that does not fit.
    pub revision: i64,
    /// Which of its changes.
    pub sub: u32,
    /// The key, as text.
    pub key: String,
    /// What does not fit.
    pub what: &'static str,
}

impl Core {
    /// All that was written after `revision`, in order; it is complete if `revision` is not below the compacted one.
    pub fn changes_after(&self, revision: i64) -> impl Iterator<Item = Change<'_>> {
        let start = self.log.partition_point(|record| record.revision <= revision);
        self.log.range(start..).map(|record| change(record))
    }

    /// The last revision that is durable: the one at the last [`settle`](Self::settle).
    pub fn settled(&self) -> i64 {
        self.settled
    }

    /// Everything that was staged is durable.
    pub fn settle(&mut self) {
        self.settled = self.revision;
        self.leases.settle();
    }

    /// Nothing that was staged could be made durable: the store is again what it was at the last
    /// [`settle`](Self::settle), leases included. (Only a lease that was kept alive meanwhile stays so.)
    pub fn roll_back(&mut self) {
        self.leases.roll_back();
        self.unwrite(self.settled);
        self.revision = self.settled;
    }

    /// Takes all writes after `revision` out again.
    pub(super) fn unwrite(&mut self, revision: i64) {
        while self.log.back().is_some_and(|last| last.revision > revision)
            && let Some(record) = self.log.pop_back()
        {
            let versions = self.keys.get_mut(&record.key);
            let uncovered = versions.and_then(|versions| Some((versions.pop()?, versions.newest.lease)));
            let shrinks = match uncovered {
                Some((shrinks, _)) => shrinks,
                None => self.keys.remove(&record.key).map_or(0, |versions| versions.history()),
            };
            self.history -= shrinks;
            let uncovered = uncovered.map(|(_, lease)| lease);
            self.leases.moved(&record.key, record.lease, uncovered.unwrap_or(0));
        }
    }

    /// A store as it was: all changes that were stored and not [superseded](Self::superseded) since, in order of
    /// revision and number, and all leases with their time to live in seconds; each begins to live anew at `now`.
    ///
    /// # Errors
    /// [`Inconsistent`] with the first change that cannot follow the ones before it.
    pub fn load(
        changes: impl IntoIterator<Item = OwnedChange>,
        revision: i64,
        compacted: i64,
        leases: impl IntoIterator<Item = (i64, i64)>,
        now: Duration,
    ) -> Result<Self, Inconsistent> {
        let mut core = Self { revision, compacted, ..Self::new() };
        for (id, ttl) in leases {
            core.leases.insert(id, ttl, now);
        }
        let mut last = (0, 0);
        for change in changes {
            core.check_loaded(&change, last)?;
            last = (change.revision, change.sub);
            core.take_in(change);
        }
        core.check_leases()?;
        core.settle();
        Ok(core)
    }

    fn check_loaded(&self, change: &OwnedChange, last: (i64, u32)) -> Result<(), Inconsistent> {
        let before = self.keys.get(change.key.as_slice()).map(|versions| &versions.newest);
        let live = before.filter(|record| record.value.is_some());
        // What stood there before may have been forgotten by a compaction.
        let forgotten = change.revision <= self.compacted;
        let what = match (&change.value, live) {
            _ if (change.revision, change.sub) <= last => "it does not come after the change before it",
            _ if change.revision < 1 || change.revision > self.revision => "the store was never at its revision",
            _ if change.key.is_empty() => "its key is empty",
            (None, _) if change.revision < self.compacted => "a compaction should have removed this deletion",
            (None, None) if !forgotten => "it deletes a key that is not there",
            (Some(value), Some(live))
                if (value.create_revision, value.version) != (live.create_revision, live.version + 1) =>
            {
                "its version does not follow the one before"
            }
            (Some(value), None) if !forgotten && (value.create_revision, value.version) != (change.revision, 1) => {
                "it changes a key that is not there"
            }
            (Some(value), _) if value.version < 1 || value.create_revision > change.revision => {
                "its version is impossible"
            }
            _ => return Ok(()),
        };
        let key = String::from_utf8_lossy(&change.key).into_owned();
        Err(Inconsistent { revision: change.revision, sub: change.sub, key, what })
    }

    /// Revoking a lease deletes its keys, so no key has a lease that does not exist.
    fn check_leases(&self) -> Result<(), Inconsistent> {
        let newest = self.keys.values().map(|versions| &versions.newest);
        match newest.filter(|record| record.lease != 0).find(|record| !self.leases.contains(record.lease)) {
            None => Ok(()),
            Some(record) => Err(Inconsistent {
                revision: record.revision,
                sub: record.sub,
                key: String::from_utf8_lossy(&record.key).into_owned(),
                what: "its lease does not exist",
            }),
        }
    }

    fn take_in(&mut self, change: OwnedChange) {
        let known = self.keys.get_key_value(change.key.as_slice());
        let key: Key = known.map_or_else(|| change.key.into(), |(key, _)| key.clone());
        let from = known.map_or(0, |(_, versions)| versions.newest.lease);
        let (create_revision, version, lease) =
            change.value.as_ref().map_or((0, 0, 0), |value| (value.create_revision, value.version, value.lease));
        let record = Arc::new(Record {
            revision: change.revision,
            sub: change.sub,
            key: key.clone(),
            value: change.value.map(|value| value.value.into()),
            create_revision,
            version,
            lease,
        });
        self.leases.moved(&key, from, lease);
        if record.revision >= self.compacted {
            self.log.push_back(record.clone());
        }
        self.keep(record);
        self.forget(&key, self.compacted);
    }

    /// Whether [`compact`](Self::compact) would be refused.
    ///
    /// # Errors
    /// [`Refusal::Compacted`] if that was done already; [`Refusal::Future`], also for a revision that is only staged.
    pub fn check_compaction(&self, revision: i64) -> Result<(), Refusal> {
        if revision <= self.compacted {
            return Err(Refusal::Compacted(self.compacted));
        }
        if revision > self.settled {
            return Err(Refusal::Future(self.settled));
        }
        Ok(())
    }

    /// Revision and number of each change that a compaction at `revision` makes superfluous, in order, for the
    /// database to forget.
    pub fn superseded(&self, revision: i64) -> Vec<(i64, u32)> {
        let mut superseded = BTreeSet::new();
        for record in self.log.iter().take_while(|record| record.revision <= revision) {
            let versions = self.keys.get(&record.key);
            let kept = versions.and_then(|versions| versions.live_at(revision));
            // The one version from before the log, if there is one, is superseded by those in the log.
            let oldest = versions.map(Versions::oldest);
            for record in [Some(record), oldest].into_iter().flatten() {
                if record.revision < revision && !kept.is_some_and(|kept| Arc::ptr_eq(kept, record)) {
                    superseded.insert((record.revision, record.sub));
                }
            }
        }
        superseded.into_iter().collect()
    }

    /// Forgets what was overwritten or deleted before `revision`; what a reader at `revision` sees, and what happened
    /// at `revision`, stays.
    ///
    /// # Errors
    /// As for [`check_compaction`](Self::check_compaction).
    pub fn compact(&mut self, revision: i64) -> Result<(), Refusal> {
        self.check_compaction(revision)?;
        self.compacted = revision;
        // Only keys that were written since the last compaction have anything to forget.
        let upto = self.log.partition_point(|record| record.revision <= revision);
        let written: Vec<Key> = self.log.range(..upto).map(|record| record.key.clone()).collect();
        for key in written {
            self.forget(&key, revision);
        }
        let before = self.log.partition_point(|record| record.revision < revision);
        self.log.drain(..before);
        Ok(())
    }

    /// Takes the versions of a key away that nobody can read after a compaction at `revision`. A deletion hides
    /// nothing any more; that it happened is in the log.
    fn forget(&mut self, key: &Key, revision: i64) {
        let Some(versions) = self.keys.get_mut(key) else { return };
        let (freed, is_left) = versions.compact(revision);
        self.history -= freed;
        if !is_left {
            self.keys.remove(key);
        }
    }

    /// What only readers of the past need takes roughly so much memory, in bytes: superseded values, and deletions.
    pub fn history_bytes(&self) -> usize {
        self.history
    }

    /// The least revision at which a compaction leaves at most `bytes` of [history](Self::history_bytes), or the last
    /// durable one if none does; `None` if there is no more than that, or nothing to compact.
    pub fn compaction_leaving(&self, bytes: usize) -> Option<i64> {
        let mut left = self.history;
        let mut target = None;
        for record in &self.log {
            if left <= bytes || record.revision > self.settled {
                break;
            }
            if record.revision > self.compacted {
                left -= self.keys.get(&record.key).map_or(0, |versions| versions.freed_at(record));
                target = Some(record.revision);
            }
        }
        target
    }
}

fn change(record: &Arc<Record>) -> Change<'_> {
    let value = record.value.as_ref().map(|value| ChangedValue {
        value,
        create_revision: record.create_revision,
        version: record.version,
        lease: record.lease,
    });
    Change { revision: record.revision, sub: record.sub, key: &record.key, value }
}
