//! Reading: a range of keys at one revision, filtered, sorted, limited.

use std::{cmp::Ordering, sync::Arc};

use super::{Bytes, Core, KeyRange, KeyValue, Refusal, key::Record};

/// What to read. [`Read::new`] reads everything in a range at the present; set the fields that should differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Which keys.
    pub range: KeyRange,
    /// At which revision; without one, the present.
    pub revision: Option<i64>,
    /// The most keys to return; 0 for all.
    pub limit: usize,
    /// Leave the values out (they come back empty).
    pub keys_only: bool,
    /// Only count.
    pub count_only: bool,
    /// In which order; without one, by key. The limit applies afterwards.
    pub sort: Option<Sort>,
    /// Only keys last written at or after this revision.
    pub min_mod_revision: Option<i64>,
    /// Only keys last written at or before this revision.
    pub max_mod_revision: Option<i64>,
    /// Only keys that came into being at or after this revision.
    pub min_create_revision: Option<i64>,
    /// Only keys that came into being at or before this revision.
    pub max_create_revision: Option<i64>,
}

/// An order to return keys in. Keys that are equal in it stay in the order of keys, both up and down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    /// By what.
    pub target: SortTarget,
    /// Up or down.
    pub order: Order,
}

/// What to sort by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SortTarget {
    /// The key.
    Key,
    /// The number of writes since creation.
    Version,
    /// The creation revision.
    CreateRevision,
    /// The modification revision.
    ModRevision,
    /// The value.
    Value,
}

/// Up or down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Not said. etcd sorts upwards then, but only after it has taken the first keys up to the limit and one more.
    Unsaid,
    /// Least first.
    Ascending,
    /// Greatest first.
    Descending,
}

impl Read {
    /// Everything in `range`, now.
    pub fn new(range: KeyRange) -> Self {
        Self {
            range,
            revision: None,
            limit: 0,
            keys_only: false,
            count_only: false,
            sort: None,
            min_mod_revision: None,
            max_mod_revision: None,
            min_create_revision: None,
            max_create_revision: None,
        }
    }

    fn filters(&self) -> bool {
        [self.min_mod_revision, self.max_mod_revision, self.min_create_revision, self.max_create_revision]
            .iter()
            .any(Option::is_some)
    }

    fn passes(&self, record: &Record) -> bool {
        let within = |value: i64, min: Option<i64>, max: Option<i64>| {
            min.is_none_or(|min| value >= min) && max.is_none_or(|max| value <= max)
        };
        within(record.revision, self.min_mod_revision, self.max_mod_revision)
            && within(record.create_revision, self.min_create_revision, self.max_create_revision)
    }

    /// How many keys, in the order of keys, have to be looked at besides being counted.
    fn needed(&self) -> usize {
        let whole = self.filters() || self.sort.is_some_and(|sort| sort.order != Order::Unsaid);
        if self.limit == 0 || whole { usize::MAX } else { self.limit.saturating_add(1) }
    }
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadResult {
    /// The keys and values.
    pub kvs: Vec<KeyValue>,
    /// True if the limit left some out.
    pub more: bool,
    /// How many keys the range has at that revision, whatever the limit and the filters say.
    pub count: usize,
}

impl Core {
    /// What stands in a range. `at` is the present of the reader: the last revision that he may see, which may lie
    /// before [`Core::revision`] while later ones are staged.
    ///
    /// # Errors
    /// [`Refusal::Compacted`], [`Refusal::Future`], [`Refusal::EmptyKey`].
    pub fn range(&self, read: &Read, at: i64) -> Result<ReadResult, Refusal> {
        read.range.check()?;
        self.check_revision(read.revision, at)?;
        Ok(self.read(read, read.revision.unwrap_or(at)))
    }

    pub(super) fn check_revision(&self, revision: Option<i64>, present: i64) -> Result<(), Refusal> {
        match revision {
            Some(revision) if revision > present => Err(Refusal::Future(present)),
            Some(revision) if revision < self.compacted => Err(Refusal::Compacted(self.compacted)),
            _ => Ok(()),
        }
    }

    pub(super) fn read(&self, read: &Read, revision: i64) -> ReadResult {
        let mut live = self.live(&read.range, revision);
        if read.count_only {
            return ReadResult { count: live.count(), ..ReadResult::default() };
        }
        let mut found: Vec<&Arc<Record>> = live.by_ref().take(read.needed()).collect();
        let count = found.len() + live.count();
        if read.filters() {
            found.retain(|record| read.passes(record));
        }
        if let Some(sort) = read.sort {
            // Sorting is stable, and the keys came in order.
            found.sort_by(|left, right| match sort.order {
                Order::Descending => compare(sort.target, right, left),
                Order::Ascending | Order::Unsaid => compare(sort.target, left, right),
            });
        }
        let more = read.limit > 0 && found.len() > read.limit;
        if more {
            found.truncate(read.limit);
        }
        let empty = Bytes::default();
        let kv = |record: &Arc<Record>| {
            let kv = record.key_value()?;
            Some(if read.keys_only { KeyValue { value: empty.clone(), ..kv } } else { kv })
        };
        ReadResult { kvs: found.into_iter().filter_map(kv).collect(), more, count }
    }

    /// What exists in `range` at `revision`, in the order of keys.
    pub(super) fn live(&self, range: &KeyRange, revision: i64) -> impl Iterator<Item = &Arc<Record>> {
        self.keys.range::<[u8], _>(range.bounds()).filter_map(move |(_, versions)| versions.live_at(revision))
    }

    /// The newest value of one key, also one that the running transaction wrote.
    pub(super) fn current(&self, key: &[u8]) -> Option<&Arc<Record>> {
        self.keys.get(key).map(|versions| &versions.newest).filter(|record| record.value.is_some())
    }
}

fn compare(target: SortTarget, left: &Record, right: &Record) -> Ordering {
    match target {
        SortTarget::Key => left.key.cmp(&right.key),
        SortTarget::Version => left.version.cmp(&right.version),
        SortTarget::CreateRevision => left.create_revision.cmp(&right.create_revision),
        SortTarget::ModRevision => left.revision.cmp(&right.revision),
        SortTarget::Value => left.value.cmp(&right.value),
    }
}
