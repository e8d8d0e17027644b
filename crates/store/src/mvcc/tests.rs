#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// The obvious implementation: a whole copy of the store for every revision, and what was written at each.
#[derive(Clone)]
struct Naive {
    snapshots: Vec<BTreeMap<Vec<u8>, KeyValue>>,
    writes: Vec<Vec<(Vec<u8>, bool)>>,
    compacted: i64,
}

impl Naive {
    fn new() -> Self {
        // Index is revision: 0 is never, 1 is the empty store.
        Self { snapshots: vec![BTreeMap::new(); 2], writes: vec![Vec::new(); 2], compacted: 0 }
    }

    fn revision(&self) -> i64 {
        i64::try_from(self.snapshots.len()).unwrap() - 1
    }

    fn apply(&mut self, writes: &[(Vec<u8>, Option<Vec<u8>>)]) {
        let revision = self.revision() + 1;
        let mut next = self.snapshots.last().unwrap().clone();
        let mut log = Vec::new();
        for (key, value) in writes {
            match value {
                Some(value) => {
                    let old = next.get(key);
                    let kv = KeyValue {
                        key: key.as_slice().into(),
                        value: value.as_slice().into(),
                        create_revision: old.map_or(revision, |old| old.create_revision),
                        mod_revision: revision,
                        version: old.map_or(1, |old| old.version + 1),
                        lease: 0,
                    };
                    next.insert(key.clone(), kv);
                    log.push((key.clone(), true));
                }
                None => {
                    next.remove(key);
                    log.push((key.clone(), false));
                }
            }
        }
        if !log.is_empty() {
            self.snapshots.push(next);
            self.writes.push(log);
        }
    }

    fn list(&self, range: &KeyRange, revision: i64) -> Vec<KeyValue> {
        let snapshot = &self.snapshots[usize::try_from(revision).unwrap()];
        snapshot.iter().filter(|(key, _)| range.contains(key)).map(|(_, kv)| kv.clone()).collect()
    }

    fn events(&self, range: &KeyRange, start: i64) -> Result<Vec<WatchEvent>, Refusal> {
        if start < self.compacted {
            return Err(Refusal::Compacted(self.compacted));
        }
        let mut events = Vec::new();
        for revision in start.max(1)..=self.revision() {
            for (key, put) in &self.writes[usize::try_from(revision).unwrap()] {
                if range.contains(key) {
                    events.push(if *put {
                        WatchEvent::Put { kv: self.list(&KeyRange::one(key.clone()), revision).remove(0), prev: None }
                    } else {
                        WatchEvent::Delete { key: key.as_slice().into(), revision, prev: None }
                    });
                }
            }
        }
        Ok(events)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<u8>, Vec<u8>),
    Delete(KeyRange),
    Swap { compare: Compare, puts: Vec<(Vec<u8>, Vec<u8>)>, deletes: Vec<KeyRange>, otherwise: Vec<u8> },
    Compact(usize),
    Watch(KeyRange, usize),
    Poll(usize),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    let keys: &[&[u8]] = &[b"a", b"a/", b"a/1", b"a/2", b"a0", b"b", b"\xff", b"\xff\xff", b"\xff\xffz"];
    proptest::sample::select(keys.to_vec()).prop_map(<[u8]>::to_vec)
}

fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        3 => key().prop_map(KeyRange::one),
        3 => key().prop_filter("a prefix that ends", |key| key[0] != 0xff).prop_map(KeyRange::prefix),
        1 => (key(), key()).prop_map(|(start, end)| KeyRange::Span(start, Some(end))),
    ]
}

fn compare() -> impl Strategy<Value = Compare> {
    let target = prop_oneof![
        (0..4i64).prop_map(Target::Version),
        (0..20i64).prop_map(Target::CreateRevision),
        (0..20i64).prop_map(Target::ModRevision),
        proptest::collection::vec(0..3u8, 0..2).prop_map(Target::Value),
    ];
    let relation =
        proptest::sample::select(vec![Relation::Equal, Relation::NotEqual, Relation::Greater, Relation::Less]);
    (key(), target, relation).prop_map(|(key, target, relation)| Compare::new(key, target, relation))
}

fn step() -> impl Strategy<Value = Step> {
    let value = || proptest::collection::vec(0..3u8, 0..2);
    prop_oneof![
        6 => (key(), value()).prop_map(|(key, value)| Step::Put(key, value)),
        3 => range().prop_map(Step::Delete),
        4 => (
            compare(),
            proptest::collection::vec((key(), value()), 0..3),
            proptest::collection::vec(range(), 0..2),
            key(),
        )
            .prop_map(|(compare, puts, deletes, otherwise)| Step::Swap { compare, puts, deletes, otherwise }),
        1 => any::<usize>().prop_map(Step::Compact),
        3 => (range(), any::<usize>()).prop_map(|(range, start)| Step::Watch(range, start)),
        4 => any::<usize>().prop_map(Step::Poll),
    ]
}

/// What the naive model says of a compare.
fn naive_holds(naive: &Naive, compare: &Compare) -> bool {
    let current = naive.snapshots.last().unwrap().get(compare.range.start());
    let (ordering, present) = match &compare.target {
        Target::Version(given) => (current.map_or(0, |kv| kv.version).cmp(given), true),
        Target::CreateRevision(given) => (current.map_or(0, |kv| kv.create_revision).cmp(given), true),
        Target::ModRevision(given) => (current.map_or(0, |kv| kv.mod_revision).cmp(given), true),
        Target::Lease(given) => (current.map_or(0, |kv| kv.lease).cmp(given), true),
        Target::Value(given) => match current {
            Some(kv) => (kv.value[..].cmp(&given[..]), true),
            None => (std::cmp::Ordering::Equal, false),
        },
    };
    present
        && match compare.relation {
            Relation::Equal => ordering.is_eq(),
            Relation::NotEqual => ordering.is_ne(),
            Relation::Greater => ordering.is_gt(),
            Relation::Less => ordering.is_lt(),
        }
}

fn swap(core: &mut Core, naive: &mut Naive, step: &Step) {
    let Step::Swap { compare, puts, deletes, otherwise } = step else { unreachable!("called for swaps only") };
    let mut then: Vec<Op> = puts.iter().map(|(key, value)| Op::put(key.clone(), value.clone())).collect();
    then.extend(deletes.iter().cloned().map(Op::Delete));
    then.push(Op::get(KeyRange::prefix("")));
    let txn =
        Txn { compare: vec![compare.clone()], then, otherwise: vec![Op::put(otherwise.clone(), b"else".to_vec())] };
    let duplicate = puts.len() == 2 && puts[0].0 == puts[1].0
        || deletes
            .iter()
            .filter(|range| !matches!(range, KeyRange::Span(_, None)))
            .any(|range| puts.iter().any(|(key, _)| range.contains(key)));
    if duplicate {
        let before = core.revision();
        assert_eq!(core.txn(&txn), Err(Refusal::DuplicateKey));
        assert_eq!(core.revision(), before);
        return;
    }
    let holds = naive_holds(naive, compare);
    let result = core.txn(&txn).unwrap();
    assert_eq!(result.succeeded, holds);
    if !holds {
        naive.apply(&[(otherwise.clone(), Some(b"else".to_vec()))]);
        assert_eq!(result.revision, naive.revision());
        return;
    }
    let mut writes: Vec<_> = puts.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
    for range in deletes {
        let gone = naive.list(range, naive.revision());
        writes.extend(gone.into_iter().map(|kv| (kv.key.to_vec(), None)));
    }
    naive.apply(&writes);
    assert_eq!(result.revision, naive.revision());
    let kvs = naive.list(&KeyRange::prefix(""), naive.revision());
    let seen = OpResult::Get(ReadResult { more: false, count: kvs.len(), kvs });
    assert_eq!(result.results.last(), Some(&seen), "a transaction reads its own writes");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn equals_the_naive_store(steps in proptest::collection::vec(step(), 1..60), at in any::<usize>()) {
        let (mut core, mut naive) = (Core::new(), Naive::new());
        // Each watch with where it stands: what it returns must be the model's events since then.
        let mut watches: Vec<(Watcher, KeyRange, i64)> = Vec::new();
        for step in &steps {
            let pick = |n: usize, upto: i64| i64::try_from(n).unwrap_or(i64::MAX).rem_euclid(upto);
            match step {
                Step::Put(key, value) => {
                    naive.apply(&[(key.clone(), Some(value.clone()))]);
                    prop_assert_eq!(core.put(key, value), naive.revision());
                }
                Step::Delete(range) => {
                    let gone = naive.list(range, naive.revision());
                    prop_assert_eq!(&core.delete(range), &gone);
                    naive.apply(&gone.into_iter().map(|kv| (kv.key.to_vec(), None)).collect::<Vec<_>>());
                }
                Step::Swap { .. } => swap(&mut core, &mut naive, step),
                Step::Compact(n) => {
                    let revision = pick(*n, naive.revision() + 2);
                    let expected = if revision <= naive.compacted {
                        Err(Refusal::Compacted(naive.compacted))
                    } else if revision > naive.revision() {
                        Err(Refusal::Future(naive.revision()))
                    } else {
                        naive.compacted = revision;
                        Ok(())
                    };
                    core.settle();
                    prop_assert_eq!(core.compact(revision), expected);
                }
                Step::Watch(range, n) => {
                    let start = pick(*n, naive.revision() + 3);
                    watches.push((Watcher::new(range.clone(), start), range.clone(), start));
                }
                Step::Poll(n) => {
                    if watches.is_empty() { continue; }
                    let at = n % watches.len();
                    let (watcher, range, next) = &mut watches[at];
                    let expected = naive.events(range, *next);
                    prop_assert_eq!(core.poll(watcher, core.revision()), expected.clone());
                    if expected.is_ok() { *next = (naive.revision() + 1).max(*next); }
                }
            }
            prop_assert_eq!(core.revision(), naive.revision());
        }
        let at = i64::try_from(at).unwrap_or(i64::MAX).rem_euclid(naive.revision() + 2);
        for range in [KeyRange::prefix(""), KeyRange::prefix("a/"), KeyRange::one("a")] {
            let expected = if at < naive.compacted {
                Err(Refusal::Compacted(naive.compacted))
            } else if at > naive.revision() {
                Err(Refusal::Future(naive.revision()))
            } else {
                Ok(naive.list(&range, at))
            };
            let read = Read { revision: Some(at), ..Read::new(range) };
            prop_assert_eq!(core.range(&read, core.revision()).map(|result| result.kvs), expected);
        }
    }
}

#[test]
fn prefixes_end_where_they_should() {
    assert_eq!(KeyRange::prefix("a/"), KeyRange::Span(b"a/".to_vec(), Some(b"a0".to_vec())));
    assert_eq!(KeyRange::prefix(b"a\xff".to_vec()), KeyRange::Span(b"a\xff".to_vec(), Some(b"b".to_vec())));
    assert_eq!(KeyRange::prefix(b"\xff".to_vec()), KeyRange::Span(b"\xff".to_vec(), None));
    assert_eq!(KeyRange::prefix(""), KeyRange::Span(vec![0], None));
}

#[test]
fn compaction_forgets() {
    let mut core = Core::new();
    for n in 0..100u8 {
        core.put(b"k", &[n]);
    }
    core.delete(&KeyRange::one("k"));
    core.settle();
    core.compact(core.revision()).unwrap();
    core.put(b"other", b"");
    core.settle();
    core.compact(core.revision()).unwrap();
    assert_eq!(core.keys.len(), 1, "a deleted key leaves nothing");
    assert_eq!(core.log.len(), 1);
}
