//! Keys, ranges of keys, and what stands at a key.

use std::{ops::Bound, sync::Arc};

use super::Refusal;

/// A key.
pub type Key = Arc<[u8]>;
/// A value; shared, since history, listings and events hold the same one.
pub type Bytes = Arc<[u8]>;

/// A key with its value at some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Key,
    /// The value.
    pub value: Bytes,
    /// The revision at which the key came into being.
    pub create_revision: i64,
    /// The revision of this value.
    pub mod_revision: i64,
    /// How often the key was written since it came into being; 1 for a new key.
    pub version: i64,
    /// The lease that the key ends with; 0 for none.
    pub lease: i64,
}

/// Which keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRange {
    /// Exactly this key.
    One(Vec<u8>),
    /// From the first key on, up to and without the second; without a second to the end. Empty if the second is not
    /// greater than the first.
    Span(Vec<u8>, Option<Vec<u8>>),
}

impl KeyRange {
    /// One key.
    pub fn one(key: impl Into<Vec<u8>>) -> Self {
        Self::One(key.into())
    }

    /// All keys that start with `prefix`; all keys if it is empty.
    pub fn prefix(prefix: impl Into<Vec<u8>>) -> Self {
        let mut start = prefix.into();
        let mut end = start.clone();
        if start.is_empty() {
            // There is no empty key, so this is the least one.
            start.push(0);
        }
        // The first key after all that start with the prefix: the last byte that can grow, grown.
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                return Self::Span(start, Some(end));
            }
        }
        Self::Span(start, None)
    }

    /// A range as etcd's API writes it: without an end one key, with the end `\0` from `key` on to the last one.
    pub fn from_wire(key: Vec<u8>, range_end: Vec<u8>) -> Self {
        match range_end.as_slice() {
            [] => Self::One(key),
            [0] => Self::Span(key, None),
            _ => Self::Span(key, Some(range_end)),
        }
    }

    /// True if `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => one == key,
            Self::Span(start, end) => start.as_slice() <= key && end.as_ref().is_none_or(|end| key < end.as_slice()),
        }
    }

    /// The key, or the first of the range.
    pub fn start(&self) -> &[u8] {
        match self {
            Self::One(key) | Self::Span(key, _) => key,
        }
    }

    pub(super) fn check(&self) -> Result<(), Refusal> {
        if self.start().is_empty() { Err(Refusal::EmptyKey) } else { Ok(()) }
    }

    pub(super) fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        match self {
            Self::One(key) => (Bound::Included(key), Bound::Included(key)),
            Self::Span(start, None) => (Bound::Included(start), Bound::Unbounded),
            // A range that ends before it starts is empty; BTreeMap would panic on it.
            Self::Span(start, Some(end)) if end <= start => (Bound::Included(start), Bound::Excluded(start)),
            Self::Span(start, Some(end)) => (Bound::Included(start), Bound::Excluded(end)),
        }
    }
}

/// One write of one key, shared by the key's versions and the log.
#[derive(Debug)]
pub(super) struct Record {
    pub revision: i64,
    /// Counts the writes of one revision, from 0.
    pub sub: u32,
    pub key: Key,
    /// `None` is a deletion.
    pub value: Option<Bytes>,
    /// This and the two below are 0 for a deletion.
    pub create_revision: i64,
    pub version: i64,
    pub lease: i64,
}

/// What a version takes beside its value, roughly: its record, the pointers to it, and what the allocator adds. Bytes.
const OVERHEAD: usize = 128;

impl Record {
    /// What it takes in memory, roughly, in bytes. The key is its versions' common one, and is counted with a deletion: only
    /// for that a key is kept that has no value any more.
    pub(super) fn cost(&self) -> usize {
        OVERHEAD + self.value.as_ref().map_or(self.key.len(), |value| value.len())
    }

    /// What a deletion takes: it says only what was, and keeps the key. Of a value nothing.
    fn cost_of_deletion(&self) -> usize {
        if self.value.is_none() { self.cost() } else { 0 }
    }

    /// What a value takes. Of a deletion nothing.
    fn cost_of_value(&self) -> usize {
        if self.value.is_some() { self.cost() } else { 0 }
    }

    pub(super) fn key_value(&self) -> Option<KeyValue> {
        Some(KeyValue {
            key: self.key.clone(),
            value: self.value.clone()?,
            create_revision: self.create_revision,
            mod_revision: self.revision,
            version: self.version,
            lease: self.lease,
        })
    }
}

/// All that is known of a key, in the order of writing. Most keys have one version, which costs no allocation.
///
/// What is *history* is all but the newest value: older versions, and deletions. What changes it says by how many bytes.
#[derive(Clone, Debug)]
pub(super) struct Versions {
    /// There is one of these for every key, so the nothing that most have is kept small.
    older: Option<Box<Older>>,
    pub newest: Arc<Record>,
}

/// At least one.
#[derive(Clone, Debug, Default)]
struct Older(Vec<Arc<Record>>);

impl Versions {
    pub(super) fn new(record: Arc<Record>) -> Self {
        Self { older: None, newest: record }
    }

    fn older(&self) -> &[Arc<Record>] {
        self.older.as_ref().map_or(&[], |older| &older.0)
    }

    /// Takes a record in as the newest. Returns by how much the history grows.
    pub(super) fn push(&mut self, record: Arc<Record>) -> usize {
        let before = std::mem::replace(&mut self.newest, record);
        let more = before.cost_of_value() + self.newest.cost_of_deletion();
        self.older.get_or_insert_default().0.push(before);
        more
    }

    /// Takes the newest away, and returns by how much the history shrinks; `None` if it is the only one.
    pub(super) fn pop(&mut self) -> Option<usize> {
        let older = &mut self.older.as_mut()?.0;
        let gone = std::mem::replace(&mut self.newest, older.pop()?);
        if older.is_empty() {
            self.older = None;
        }
        Some(gone.cost_of_deletion() + self.newest.cost_of_value())
    }

    /// How much of the history it is.
    pub(super) fn history(&self) -> usize {
        self.older().iter().map(|record| record.cost()).sum::<usize>() + self.newest.cost_of_deletion()
    }

    /// How much history a compaction at the revision of `record`, one of these, takes beyond one just before it.
    pub(super) fn freed_at(&self, record: &Record) -> usize {
        let place = (record.revision, record.sub);
        let older = self.older();
        let before = older.partition_point(|older| (older.revision, older.sub) < place);
        let superseded = before.checked_sub(1).map_or(0, |before| older[before].cost_of_value());
        superseded + record.cost_of_deletion()
    }

    /// What was written last at or before `revision`.
    pub(super) fn at(&self, revision: i64) -> Option<&Arc<Record>> {
        if self.newest.revision <= revision {
            return Some(&self.newest);
        }
        let upto = self.older().partition_point(|record| record.revision <= revision);
        self.older()[..upto].last()
    }

    /// The value at `revision`.
    pub(super) fn live_at(&self, revision: i64) -> Option<&Arc<Record>> {
        self.at(revision).filter(|record| record.value.is_some())
    }

    pub(super) fn oldest(&self) -> &Arc<Record> {
        self.older().first().unwrap_or(&self.newest)
    }

    /// Forgets all before what a reader at `revision` sees, and that too if it is a deletion. Returns by how much the
    /// history shrinks, and whether anything is left.
    pub(super) fn compact(&mut self, revision: i64) -> (usize, bool) {
        if self.newest.revision <= revision {
            let freed = self.history();
            self.older = None;
            return (freed, self.newest.value.is_some());
        }
        let live = self.live_at(revision).is_some();
        let Some(Older(older)) = self.older.as_deref_mut() else { return (0, true) };
        let upto = older.partition_point(|record| record.revision <= revision);
        let freed = older.drain(..upto - usize::from(live)).map(|record| record.cost()).sum();
        older.shrink_to_fit();
        if older.is_empty() {
            self.older = None;
        }
        (freed, true)
    }
}
