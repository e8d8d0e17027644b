//! A multi-version key-value store as a pure value: revisions, history, transactions, leases, watches, compaction.
//!
//! The semantics are those of etcd v3 in all that its API can show, so that the same core stands behind a test double
//! ([`MemoryKv`](crate::MemoryKv)) and behind the embedded datastore, which serves etcd's own API. No I/O, no clock,
//! no task: every call takes `&self` or `&mut self` and returns at once. The typed layer is not known here; keys and
//! values are bytes.
//!
//! Invariants:
//!
//! - A transaction that writes anything takes exactly one new revision, `current + 1`; one that writes nothing
//!   takes none. All of a transaction's writes share its revision and are numbered within it.
//! - A refused transaction changes nothing: what can be refused is checked before the first write, or taken back.
//! - Below the compacted revision nothing can be read or watched. *At* the compacted revision everything can,
//!   deletions included (etcd before 3.5.18 loses a deletion made exactly there).
//! - A watch is a cursor owned by the caller ([`Watcher`]); polling it never misses an event between two polls and
//!   never splits a revision.
//! - Reads and watches name the last revision that they may see, so that what is written but not yet durable stays
//!   hidden; [`Core::roll_back`] takes exactly that back.
//! - A key has a lease exactly as long as the lease has the key.
//!
//! Keys and values are shared between versions, log, listings and events: a key written once costs one record, one
//! entry of the map and one pointer in the log beside its bytes. A read copies nothing that its limit leaves out.

mod key;
mod lease;
mod persist;
mod read;
mod refusal;
mod txn;
mod watch;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

pub use key::{Bytes, Key, KeyRange, KeyValue};
use key::{Record, Versions};
use lease::Leases;
pub use lease::{LeaseChange, LeaseInfo, MAX_TTL, MIN_TTL};
pub use persist::{Change, ChangedValue, Inconsistent, OwnedChange, OwnedValue};
pub use read::{Order, Read, ReadResult, Sort, SortTarget};
pub use refusal::Refusal;
pub use txn::{Compare, Op, OpResult, Relation, Target, Txn, TxnResult};
pub use watch::{Enough, WatchEvent, Watcher};

/// The store. See the [module](self).
#[derive(Clone, Debug)]
pub struct Core {
    revision: i64,
    compacted: i64,
    /// What is durable; the writes after it can be rolled back.
    settled: i64,
    /// Every key's versions. One that is deleted stays until a compaction comes after the deletion.
    keys: BTreeMap<Key, Versions>,
    /// Every write in order, from the compacted revision on.
    log: VecDeque<Arc<Record>>,
    /// What [`Versions`] call history, of all keys.
    history: usize,
    leases: Leases,
}

impl Default for Core {
    fn default() -> Self {
        Self::new()
    }
}

impl Core {
    /// An empty store; like a new etcd it stands at revision 1.
    pub fn new() -> Self {
        Self {
            revision: 1,
            compacted: 0,
            settled: 1,
            keys: BTreeMap::new(),
            log: VecDeque::new(),
            history: 0,
            leases: Leases::default(),
        }
    }

    /// The revision of the last write, durable or not.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The revision below which nothing can be read; 0 if nothing was compacted.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }
}

#[cfg(test)]
mod tests;
