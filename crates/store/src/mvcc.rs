//! A multi-version key-value store as a pure value: revisions, history, transactions, watches, compaction.
//!
//! The semantics are those of etcd v3, so that the same core can stand behind a test double today and behind
//! etcd's own API later. No I/O, no clock, no task: every call takes `&self` or `&mut self` and returns at once.
//! The typed layer is not known here; keys and values are bytes.
//!
//! Invariants:
//!
//! - A transaction that writes anything takes exactly one new revision, `current + 1`; one that writes nothing
//!   takes none. All of a transaction's writes share its revision, and each key is written at most once in it.
//! - A refused transaction changes nothing: everything that can be refused is checked before the first write.
//! - Below the compacted revision nothing can be read or watched. *At* the compacted revision everything can,
//!   deletions included (etcd before 3.5.18 loses a deletion made exactly there).
//! - A watch is a cursor owned by the caller ([`Watcher`]); polling it never misses an event between two polls and
//!   never splits a revision.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

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
}

/// Which keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRange {
    /// Exactly this key.
    One(Vec<u8>),
    /// From the first key on, up to and without the second; without a second to the end.
    Span(Vec<u8>, Option<Vec<u8>>),
}

impl KeyRange {
    /// One key.
    pub fn one(key: impl Into<Vec<u8>>) -> Self {
        Self::One(key.into())
    }

    /// All keys that start with `prefix`.
    pub fn prefix(prefix: impl Into<Vec<u8>>) -> Self {
        let start = prefix.into();
        let mut end = start.clone();
        // The first key after all that start with the prefix: the last byte that can grow, grown.
        while let Some(last) = end.pop() {
            if last < u8::MAX {
                end.push(last + 1);
                return Self::Span(start, Some(end));
            }
        }
        Self::Span(start, None)
    }

    /// True if `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => one == key,
            Self::Span(start, end) => start.as_slice() <= key && end.as_ref().is_none_or(|end| key < end.as_slice()),
        }
    }

    fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        match self {
            Self::One(key) => (Bound::Included(key), Bound::Included(key)),
            Self::Span(start, None) => (Bound::Included(start), Bound::Unbounded),
            // A range that ends before it starts is empty; BTreeMap would panic on it.
            Self::Span(start, Some(end)) if end <= start => (Bound::Included(start), Bound::Excluded(start)),
            Self::Span(start, Some(end)) => (Bound::Included(start), Bound::Excluded(end)),
        }
    }
}

/// What a transaction compares; a key that is absent has version, creation and modification revision 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Of which key.
    pub key: Vec<u8>,
    /// What, and with what.
    pub target: Target,
    /// How.
    pub relation: Relation,
}

/// The compared property and the value to compare it with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The number of writes since creation.
    Version(i64),
    /// The creation revision.
    CreateRevision(i64),
    /// The modification revision.
    ModRevision(i64),
    /// The value; never holds for an absent key, whatever the relation.
    Value(Vec<u8>),
}

/// A relation: the stored property stands in it to the given value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Equal.
    Equal,
    /// Not equal.
    NotEqual,
    /// The stored one is greater.
    Greater,
    /// The stored one is less.
    Less,
}

impl Compare {
    /// The key does not exist.
    pub fn absent(key: impl Into<Vec<u8>>) -> Self {
        Self { key: key.into(), target: Target::Version(0), relation: Relation::Equal }
    }

    /// The key was last written at `revision`.
    pub fn unchanged(key: impl Into<Vec<u8>>, revision: i64) -> Self {
        Self { key: key.into(), target: Target::ModRevision(revision), relation: Relation::Equal }
    }
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Write a key.
    Put {
        /// The key.
        key: Vec<u8>,
        /// Its new value.
        value: Vec<u8>,
    },
    /// Delete all keys of a range.
    Delete(KeyRange),
    /// Read. Without a revision: what the transaction has made of the store so far.
    Get {
        /// Which keys.
        range: KeyRange,
        /// At which revision.
        revision: Option<i64>,
    },
}

/// What an operation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpResult {
    /// Written; what stood there before.
    Put(Option<KeyValue>),
    /// Deleted; all that stood there.
    Delete(Vec<KeyValue>),
    /// Read, in key order.
    Get(Vec<KeyValue>),
}

/// Compares, and what to do when all hold, or when one does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold; none is no condition.
    pub compare: Vec<Compare>,
    /// What to do if they do.
    pub then: Vec<Op>,
    /// What to do if one does not.
    pub otherwise: Vec<Op>,
}

/// The outcome of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnResult {
    /// True if all compares held.
    pub succeeded: bool,
    /// The store's revision afterwards.
    pub revision: i64,
    /// One result per operation of the branch taken.
    pub results: Vec<OpResult>,
}

/// Why the core refuses a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The revision is gone.
    #[error("required revision has been compacted (up to {0})")]
    Compacted(i64),
    /// The revision is not there yet.
    #[error("required revision is a future revision (current is {0})")]
    Future(i64),
    /// A transaction writes a key twice.
    #[error("duplicate key given in txn request")]
    DuplicateKey,
}

/// One event of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// Created (version 1) or changed.
    Put(KeyValue),
    /// Deleted.
    Delete {
        /// The key.
        key: Key,
        /// The revision of the deletion.
        revision: i64,
    },
}

/// A cursor over the history of a range.
#[derive(Clone, Debug)]
pub struct Watcher {
    range: KeyRange,
    next: i64,
}

impl Watcher {
    /// A watch of `range` from revision `start` on (inclusive).
    pub fn new(range: KeyRange, start: i64) -> Self {
        Self { range, next: start }
    }
}

/// One value of a key, or its absence after a deletion.
#[derive(Clone, Debug)]
struct Version {
    revision: i64,
    /// `None` is a deletion.
    live: Option<Live>,
}

#[derive(Clone, Debug)]
struct Live {
    value: Bytes,
    create_revision: i64,
    version: i64,
}

/// The store. See the [module](self).
#[derive(Clone, Debug)]
pub struct Core {
    revision: i64,
    compacted: i64,
    /// Every key's versions in ascending revision.
    keys: BTreeMap<Key, Vec<Version>>,
    /// Every write in order, from the compacted revision on.
    log: VecDeque<(i64, Key)>,
}

impl Default for Core {
    fn default() -> Self {
        Self::new()
    }
}

impl Core {
    /// An empty store; like a new etcd it stands at revision 1.
    pub fn new() -> Self {
        Self { revision: 1, compacted: 0, keys: BTreeMap::new(), log: VecDeque::new() }
    }

    /// The revision of the last write.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The revision below which nothing can be read; 0 if nothing was compacted.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// The keys of `range` in key order, now or as of `revision`.
    ///
    /// # Errors
    /// [`Refusal::Compacted`], [`Refusal::Future`].
    pub fn range(&self, range: &KeyRange, revision: Option<i64>) -> Result<Vec<KeyValue>, Refusal> {
        self.check_revision(revision)?;
        Ok(self.read(range, revision.unwrap_or(self.revision)))
    }

    /// Runs a transaction.
    ///
    /// # Errors
    /// Any [`Refusal`]; nothing has changed then.
    pub fn txn(&mut self, txn: &Txn) -> Result<TxnResult, Refusal> {
        check_duplicates(&txn.then)?;
        check_duplicates(&txn.otherwise)?;
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let branch = if succeeded { &txn.then } else { &txn.otherwise };
        for op in branch {
            if let Op::Get { revision, .. } = op {
                self.check_revision(*revision)?;
            }
        }
        let writing = self.revision + 1;
        let results = branch.iter().map(|op| self.execute(op, writing)).collect();
        if self.log.back().is_some_and(|(revision, _)| *revision == writing) {
            self.revision = writing;
        }
        Ok(TxnResult { succeeded, revision: self.revision, results })
    }

    /// Writes a key whatever stands there. Returns the new revision.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> i64 {
        self.write(key, Some(value.into()), self.revision + 1);
        self.revision += 1;
        self.revision
    }

    /// Deletes a range. Returns what stood there; the revision moves only if that is anything.
    pub fn delete(&mut self, range: &KeyRange) -> Vec<KeyValue> {
        let gone = self.remove(range, self.revision + 1);
        self.revision += i64::from(!gone.is_empty());
        gone
    }

    /// Everything that happened in the watcher's range since its last poll, in order; empty if nothing did.
    ///
    /// # Errors
    /// [`Refusal::Compacted`] if some of it is gone; the watcher stays where it is.
    pub fn poll(&self, watcher: &mut Watcher) -> Result<Vec<WatchEvent>, Refusal> {
        if watcher.next < self.compacted {
            return Err(Refusal::Compacted(self.compacted));
        }
        let start = self.log.partition_point(|(revision, _)| *revision < watcher.next);
        let events = self
            .log
            .range(start..)
            .filter(|(_, key)| watcher.range.contains(key))
            .map(|(revision, key)| self.event(key, *revision))
            .collect();
        // A watch may start in the future; it must not be pulled back.
        watcher.next = watcher.next.max(self.revision + 1);
        Ok(events)
    }

    /// Forgets what was overwritten or deleted before `revision`.
    ///
    /// # Errors
    /// [`Refusal::Compacted`] if that was done already, [`Refusal::Future`].
    pub fn compact(&mut self, revision: i64) -> Result<(), Refusal> {
        if revision <= self.compacted {
            return Err(Refusal::Compacted(self.compacted));
        }
        if revision > self.revision {
            return Err(Refusal::Future(self.revision));
        }
        self.compacted = revision;
        self.keys.retain(|_, versions| {
            // The last version at or before the revision is what a reader at the revision sees.
            let seen = versions.partition_point(|version| version.revision <= revision).saturating_sub(1);
            versions.drain(..seen);
            // A deletion hides nothing any more; that it happened is in the log.
            if versions.first().is_some_and(|first| first.live.is_none()) {
                versions.remove(0);
            }
            !versions.is_empty()
        });
        let kept = self.log.partition_point(|(logged, _)| *logged < revision);
        self.log.drain(..kept);
        Ok(())
    }

    fn check_revision(&self, revision: Option<i64>) -> Result<(), Refusal> {
        match revision {
            Some(revision) if revision < self.compacted => Err(Refusal::Compacted(self.compacted)),
            Some(revision) if revision > self.revision => Err(Refusal::Future(self.revision)),
            _ => Ok(()),
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let current = self.current(&compare.key);
        let number = |property: fn(&KeyValue) -> i64| current.as_ref().map_or(0, property);
        let ordering = match &compare.target {
            Target::Version(given) => number(|kv| kv.version).cmp(given),
            Target::CreateRevision(given) => number(|kv| kv.create_revision).cmp(given),
            Target::ModRevision(given) => number(|kv| kv.mod_revision).cmp(given),
            Target::Value(given) => match &current {
                Some(kv) => kv.value.as_ref().cmp(given.as_slice()),
                None => return false,
            },
        };
        match compare.relation {
            Relation::Equal => ordering.is_eq(),
            Relation::NotEqual => ordering.is_ne(),
            Relation::Greater => ordering.is_gt(),
            Relation::Less => ordering.is_lt(),
        }
    }

    fn execute(&mut self, op: &Op, writing: i64) -> OpResult {
        match op {
            Op::Put { key, value } => {
                let before = self.current(key);
                self.write(key, Some(value.as_slice().into()), writing);
                OpResult::Put(before)
            }
            Op::Delete(range) => OpResult::Delete(self.remove(range, writing)),
            Op::Get { range, revision } => OpResult::Get(self.read(range, revision.unwrap_or(writing))),
        }
    }

    fn remove(&mut self, range: &KeyRange, writing: i64) -> Vec<KeyValue> {
        let gone = self.read(range, writing);
        for kv in &gone {
            self.write(&kv.key, None, writing);
        }
        gone
    }

    fn write(&mut self, key: &[u8], value: Option<Bytes>, revision: i64) {
        let key: Key = self.keys.get_key_value(key).map_or_else(|| key.into(), |(key, _)| key.clone());
        let versions = self.keys.entry(key.clone()).or_default();
        let before = versions.last().and_then(|last| last.live.as_ref());
        let live = value.map(|value| Live {
            value,
            create_revision: before.map_or(revision, |live| live.create_revision),
            version: before.map_or(0, |live| live.version) + 1,
        });
        versions.push(Version { revision, live });
        self.log.push_back((revision, key));
    }

    /// The newest value, also one that the running transaction wrote.
    fn current(&self, key: &[u8]) -> Option<KeyValue> {
        let (key, versions) = self.keys.get_key_value(key)?;
        key_value(key, versions.last()?)
    }

    fn read(&self, range: &KeyRange, revision: i64) -> Vec<KeyValue> {
        let at = |(key, versions): (&Key, &Vec<Version>)| {
            let upto = versions.partition_point(|version| version.revision <= revision);
            key_value(key, versions.get(upto.checked_sub(1)?)?)
        };
        self.keys.range::<[u8], _>(range.bounds()).filter_map(at).collect()
    }

    fn event(&self, key: &Key, revision: i64) -> WatchEvent {
        // Compaction keeps, for every logged put, the version it made, but not for a deletion; see `compact`.
        let version = self.keys.get(key).and_then(|versions| {
            versions.binary_search_by_key(&revision, |version| version.revision).ok().map(|at| &versions[at])
        });
        match version.and_then(|version| key_value(key, version)) {
            Some(kv) => WatchEvent::Put(kv),
            None => WatchEvent::Delete { key: key.clone(), revision },
        }
    }
}

/// etcd's rule: in one branch no key is put twice, nor put and deleted.
fn check_duplicates(ops: &[Op]) -> Result<(), Refusal> {
    let mut puts: Vec<&[u8]> = Vec::new();
    let mut deletes: Vec<&KeyRange> = Vec::new();
    for op in ops {
        match op {
            Op::Put { key, .. } => puts.push(key),
            Op::Delete(range) => deletes.push(range),
            Op::Get { .. } => {}
        }
    }
    puts.sort_unstable();
    let twice = puts.windows(2).any(|pair| pair[0] == pair[1]);
    let both = deletes.iter().any(|range| puts.iter().any(|key| range.contains(key)));
    if twice || both { Err(Refusal::DuplicateKey) } else { Ok(()) }
}

fn key_value(key: &Key, version: &Version) -> Option<KeyValue> {
    let live = version.live.as_ref()?;
    Some(KeyValue {
        key: key.clone(),
        value: live.value.clone(),
        create_revision: live.create_revision,
        mod_revision: version.revision,
        version: live.version,
    })
}

#[cfg(test)]
mod tests;
