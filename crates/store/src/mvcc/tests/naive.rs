//! The obvious implementation: a whole copy of the store for every revision, and what was written at each.

#![allow(clippy::unwrap_used)]

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use super::super::*;

type Snapshot = BTreeMap<Vec<u8>, KeyValue>;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Naive {
    /// Index is revision: 0 is never, 1 is the empty store.
    snapshots: Vec<Snapshot>,
    writes: Vec<Vec<(Vec<u8>, Option<KeyValue>)>>,
    pub(super) compacted: i64,
    /// Time to live by id.
    pub(super) leases: BTreeMap<i64, i64>,
}

fn index(revision: i64) -> usize {
    usize::try_from(revision).unwrap()
}

/// What stands in `range` in a snapshot.
fn within(snapshot: &Snapshot, range: &KeyRange) -> Vec<KeyValue> {
    snapshot.values().filter(|kv| range.contains(&kv.key)).cloned().collect()
}

/// A transaction on its way: what the store becomes, and what was written.
struct Running {
    now: Snapshot,
    written: Vec<(Vec<u8>, Option<KeyValue>)>,
}

impl Running {
    fn put(&mut self, key: &[u8], value: Vec<u8>, lease: i64, revision: i64) -> Option<KeyValue> {
        let old = self.now.get(key).cloned();
        let kv = KeyValue {
            key: key.into(),
            value: value.into(),
            create_revision: old.as_ref().map_or(revision, |old| old.create_revision),
            mod_revision: revision,
            version: old.as_ref().map_or(1, |old| old.version + 1),
            lease,
        };
        self.now.insert(key.to_vec(), kv.clone());
        self.written.push((key.to_vec(), Some(kv)));
        old
    }

    fn delete(&mut self, range: &KeyRange) -> Vec<KeyValue> {
        let gone = within(&self.now, range);
        for kv in &gone {
            self.now.remove(kv.key.as_ref());
            self.written.push((kv.key.to_vec(), None));
        }
        gone
    }
}

impl Naive {
    pub(super) fn new() -> Self {
        Self { snapshots: vec![Snapshot::new(); 2], writes: vec![Vec::new(); 2], compacted: 0, leases: BTreeMap::new() }
    }

    pub(super) fn revision(&self) -> i64 {
        i64::try_from(self.snapshots.len()).unwrap() - 1
    }

    fn last(&self) -> &Snapshot {
        self.snapshots.last().unwrap()
    }

    fn run(&mut self) -> Running {
        Running { now: self.last().clone(), written: Vec::new() }
    }

    fn finish(&mut self, running: Running) {
        if !running.written.is_empty() {
            self.snapshots.push(running.now);
            self.writes.push(running.written);
        }
    }

    pub(super) fn lease_keys(&self, id: i64) -> Vec<Key> {
        self.last().values().filter(|kv| kv.lease == id).map(|kv| kv.key.clone()).collect()
    }

    pub(super) fn revoke(&mut self, id: i64) -> Result<Vec<KeyValue>, Refusal> {
        self.leases.remove(&id).ok_or(Refusal::LeaseNotFound)?;
        let keys = self.lease_keys(id);
        let mut running = self.run();
        let gone = keys.iter().flat_map(|key| running.delete(&KeyRange::one(key.as_ref()))).collect();
        self.finish(running);
        Ok(gone)
    }

    pub(super) fn read(&self, read: &Read, at: i64) -> Result<ReadResult, Refusal> {
        let revision = read.revision.unwrap_or(at);
        if revision > at {
            return Err(Refusal::Future(at));
        }
        if revision < self.compacted {
            return Err(Refusal::Compacted(self.compacted));
        }
        Ok(read_snapshot(&self.snapshots[index(revision)], read))
    }

    pub(super) fn txn(&mut self, txn: &Txn) -> Result<TxnResult, Refusal> {
        if clash(&txn.then) || clash(&txn.otherwise) {
            return Err(Refusal::DuplicateKey);
        }
        let taken = self.taken(txn);
        for op in &taken {
            if let Op::Put { key, lease, ignore_value, ignore_lease, .. } = op {
                if (*ignore_value || *ignore_lease) && !self.last().contains_key(key) {
                    return Err(Refusal::KeyNotFound);
                }
                if *lease != 0 && !self.leases.contains_key(lease) {
                    return Err(Refusal::LeaseNotFound);
                }
            }
        }
        for op in taken {
            if let Op::Get(read) = op {
                self.read(read, self.revision())?;
            }
        }
        let mut running = self.run();
        let mut result = self.branch(txn, &mut running)?;
        self.finish(running);
        stamp(&mut result, self.revision());
        Ok(result)
    }

    /// The operations that run, those of nested transactions in place of them.
    fn taken<'a>(&self, txn: &'a Txn) -> Vec<&'a Op> {
        let each = |op: &'a Op| match op {
            Op::Txn(txn) => self.taken(txn),
            op => vec![op],
        };
        self.pick(txn).1.iter().flat_map(each).collect()
    }

    fn pick<'a>(&self, txn: &'a Txn) -> (bool, &'a [Op]) {
        let succeeded = txn.compare.iter().all(|compare| holds(self.last(), compare));
        (succeeded, if succeeded { &txn.then } else { &txn.otherwise })
    }

    fn branch(&self, txn: &Txn, running: &mut Running) -> Result<TxnResult, Refusal> {
        let writing = self.revision() + 1;
        let (succeeded, ops) = self.pick(txn);
        let mut results = Vec::new();
        for op in ops {
            results.push(match op {
                Op::Put { key, value, lease, ignore_value, ignore_lease } => {
                    let old = running.now.get(key).cloned();
                    if (*ignore_value || *ignore_lease) && old.is_none() {
                        return Err(Refusal::KeyNotFound);
                    }
                    let value = old.as_ref().filter(|_| *ignore_value).map_or(value.clone(), |old| old.value.to_vec());
                    let lease = old.as_ref().filter(|_| *ignore_lease).map_or(*lease, |old| old.lease);
                    OpResult::Put(running.put(key, value, lease, writing))
                }
                Op::Delete(range) => OpResult::Delete(running.delete(range)),
                Op::Get(read) => OpResult::Get(match read.revision {
                    Some(revision) => read_snapshot(&self.snapshots[index(revision)], read),
                    None => read_snapshot(&running.now, read),
                }),
                Op::Txn(txn) => OpResult::Txn(Box::new(self.branch(txn, running)?)),
            });
        }
        Ok(TxnResult { succeeded, revision: 0, results })
    }

    /// Events in `range` from `start` to `up_to`, the previous values included.
    pub(super) fn events(&self, range: &KeyRange, start: i64, up_to: i64) -> Result<Vec<WatchEvent>, Refusal> {
        if start < self.compacted {
            return Err(Refusal::Compacted(self.compacted));
        }
        let mut events = Vec::new();
        for revision in start.max(1)..=up_to {
            for (key, kv) in &self.writes[index(revision)] {
                let known = revision > self.compacted;
                let prev = self.snapshots[index(revision - 1)].get(key).filter(|_| known).cloned();
                let key: Key = key.as_slice().into();
                let event = match kv.clone() {
                    Some(kv) => WatchEvent::Put { kv, prev },
                    None => WatchEvent::Delete { key: key.clone(), revision, prev },
                };
                if range.contains(&key) {
                    events.push(event);
                }
            }
        }
        Ok(events)
    }
}

fn stamp(result: &mut TxnResult, revision: i64) {
    result.revision = revision;
    for inner in &mut result.results {
        if let OpResult::Txn(inner) = inner {
            stamp(inner, revision);
        }
    }
}

fn read_snapshot(snapshot: &Snapshot, read: &Read) -> ReadResult {
    let all = within(snapshot, &read.range);
    let count = all.len();
    if read.count_only {
        return ReadResult { kvs: Vec::new(), more: false, count };
    }
    let mut kvs = all;
    let ordered = read.sort.is_some_and(|sort| sort.order != Order::Unsaid);
    let filtered = read.min_mod_revision.is_some()
        || read.max_mod_revision.is_some()
        || read.min_create_revision.is_some()
        || read.max_create_revision.is_some();
    if read.limit > 0 && !ordered && !filtered {
        kvs.truncate(read.limit + 1);
    }
    kvs.retain(|kv| {
        read.min_mod_revision.is_none_or(|min| kv.mod_revision >= min)
            && read.max_mod_revision.is_none_or(|max| kv.mod_revision <= max)
            && read.min_create_revision.is_none_or(|min| kv.create_revision >= min)
            && read.max_create_revision.is_none_or(|max| kv.create_revision <= max)
    });
    if let Some(Sort { target, order }) = read.sort {
        let property = |kv: &KeyValue| match target {
            SortTarget::Key => (0, kv.key.to_vec()),
            SortTarget::Version => (kv.version, Vec::new()),
            SortTarget::CreateRevision => (kv.create_revision, Vec::new()),
            SortTarget::ModRevision => (kv.mod_revision, Vec::new()),
            SortTarget::Value => (0, kv.value.to_vec()),
        };
        kvs.sort_by(|left, right| {
            let up = property(left).cmp(&property(right));
            if order == Order::Descending { up.reverse() } else { up }
        });
    }
    let more = read.limit > 0 && kvs.len() > read.limit;
    if read.limit > 0 {
        kvs.truncate(read.limit);
    }
    if read.keys_only {
        for kv in &mut kvs {
            kv.value = Bytes::default();
        }
    }
    ReadResult { kvs, more, count }
}

fn holds(snapshot: &Snapshot, compare: &Compare) -> bool {
    let one = |kv: Option<&KeyValue>| {
        let number = |property: fn(&KeyValue) -> i64, given: &i64| kv.map_or(0, property).cmp(given);
        let ordering = match &compare.target {
            Target::Version(given) => number(|kv| kv.version, given),
            Target::CreateRevision(given) => number(|kv| kv.create_revision, given),
            Target::ModRevision(given) => number(|kv| kv.mod_revision, given),
            Target::Lease(given) => number(|kv| kv.lease, given),
            Target::Value(given) => match kv {
                Some(kv) => kv.value[..].cmp(&given[..]),
                None => return false,
            },
        };
        match compare.relation {
            Relation::Equal => ordering == Ordering::Equal,
            Relation::NotEqual => ordering != Ordering::Equal,
            Relation::Greater => ordering == Ordering::Greater,
            Relation::Less => ordering == Ordering::Less,
        }
    };
    let found = within(snapshot, &compare.range);
    if found.is_empty() { one(None) } else { found.iter().all(|kv| one(Some(kv))) }
}

/// All that an operation may put, whatever branch is taken.
fn puts(op: &Op) -> BTreeSet<Vec<u8>> {
    match op {
        Op::Put { key, .. } => BTreeSet::from([key.clone()]),
        Op::Txn(txn) => txn.then.iter().chain(&txn.otherwise).flat_map(puts).collect(),
        _ => BTreeSet::new(),
    }
}

/// All that an operation may delete, but for deletions without an end.
fn deletes(op: &Op) -> Vec<&KeyRange> {
    match op {
        Op::Delete(KeyRange::Span(_, None)) => Vec::new(),
        Op::Delete(range) => vec![range],
        Op::Txn(txn) => txn.then.iter().chain(&txn.otherwise).flat_map(deletes).collect(),
        _ => Vec::new(),
    }
}

/// etcd's rule on keys written twice, said pair by pair.
fn clash(ops: &[Op]) -> bool {
    let nested = |op: &Op| matches!(op, Op::Txn(_));
    let inner = ops.iter().any(|op| match op {
        Op::Txn(txn) => clash(&txn.then) || clash(&txn.otherwise),
        _ => false,
    });
    let pair = |first: usize, second: usize| {
        let (one, other) = (&ops[first], &ops[second]);
        let both_put = first < second && !puts(one).is_disjoint(&puts(other));
        let put_deleted = deletes(other).iter().any(|range| puts(one).iter().any(|key| range.contains(key)));
        // A nested put looks only at nested deletions before it.
        let seen = !(nested(one) && nested(other)) || second < first;
        both_put || put_deleted && seen
    };
    inner || (0..ops.len()).any(|first| (0..ops.len()).any(|second| first != second && pair(first, second)))
}
