//! Random work on the core, the naive store and a stand-in for the database at once.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, time::Duration};

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::{super::*, naive::Naive};

const NOW: Duration = Duration::from_secs(1_000);

#[derive(Clone, Debug)]
enum Step {
    Txn(Txn),
    Put(Vec<u8>, Vec<u8>),
    Delete(KeyRange),
    Read(Read),
    Grant(i64, i64),
    Revoke(i64),
    Settle,
    RollBack,
    /// The process dies and starts again.
    Reload,
    Compact(usize),
    Watch(KeyRange, usize, [bool; 3]),
    Poll(usize, Enough),
    /// Compact so that not more than so many bytes of history are left.
    Leave(usize),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    let keys: &[&[u8]] = &[b"a", b"a/", b"a/1", b"a/2", b"a0", b"b", b"\xff", b"\xff\xff", b"\xff\xffz"];
    select(keys.to_vec()).prop_map(<[u8]>::to_vec)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    vec(0..3u8, 0..2)
}

fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        6 => key().prop_map(KeyRange::one),
        3 => key().prop_map(KeyRange::prefix),
        1 => Just(KeyRange::prefix("")),
        2 => (key(), option::of(key())).prop_map(|(start, end)| KeyRange::Span(start, end)),
    ]
}

fn compare() -> impl Strategy<Value = Compare> {
    let target = prop_oneof![
        (0..4i64).prop_map(Target::Version),
        (0..20i64).prop_map(Target::CreateRevision),
        (0..20i64).prop_map(Target::ModRevision),
        (0..4i64).prop_map(Target::Lease),
        value().prop_map(Target::Value),
    ];
    let relation = select(vec![Relation::Equal, Relation::NotEqual, Relation::Greater, Relation::Less]);
    (range(), target, relation).prop_map(|(range, target, relation)| Compare { range, target, relation })
}

fn read() -> impl Strategy<Value = Read> {
    use {Order::*, SortTarget::*};
    let sort =
        (select(vec![Key, Version, CreateRevision, ModRevision, Value]), select(vec![Unsaid, Ascending, Descending]))
            .prop_map(|(target, order)| Sort { target, order });
    let bound = || option::weighted(0.15, 0..20i64);
    (
        range(),
        option::weighted(0.3, 0..25i64),
        prop_oneof![2 => Just(0), 3 => 1..5usize],
        (any::<bool>(), proptest::bool::weighted(0.1)),
        option::of(sort),
        (bound(), bound(), bound(), bound()),
    )
        .prop_map(|(range, revision, limit, (keys_only, count_only), sort, bounds)| Read {
            range,
            revision,
            limit,
            keys_only,
            count_only,
            sort,
            min_mod_revision: bounds.0,
            max_mod_revision: bounds.1,
            min_create_revision: bounds.2,
            max_create_revision: bounds.3,
        })
}

fn put() -> impl Strategy<Value = Op> {
    (
        key(),
        value(),
        prop_oneof![3 => Just(0), 2 => 1..4i64],
        proptest::bool::weighted(0.2),
        proptest::bool::weighted(0.2),
    )
        .prop_map(|(key, value, lease, ignore_value, ignore_lease)| Op::Put {
            key,
            value: if ignore_value { Vec::new() } else { value },
            lease: if ignore_lease { 0 } else { lease },
            ignore_value,
            ignore_lease,
        })
}

fn txn() -> impl Strategy<Value = Txn> {
    let flat = prop_oneof![5 => put(), 2 => range().prop_map(Op::Delete), 2 => read().prop_map(Op::Get)];
    let op = flat.prop_recursive(2, 8, 3, |op| {
        (vec(compare(), 0..2), vec(op.clone(), 0..3), vec(op, 0..3))
            .prop_map(|(compare, then, otherwise)| Op::Txn(Box::new(Txn { compare, then, otherwise })))
    });
    (vec(compare(), 0..2), vec(op.clone(), 0..4), vec(op, 0..2)).prop_map(|(compare, then, otherwise)| Txn {
        compare,
        then,
        otherwise,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => txn().prop_map(Step::Txn),
        4 => (key(), value()).prop_map(|(key, value)| Step::Put(key, value)),
        2 => range().prop_map(Step::Delete),
        4 => read().prop_map(Step::Read),
        3 => (0..4i64, -1..100i64).prop_map(|(id, ttl)| Step::Grant(id, ttl)),
        1 => (0..4i64).prop_map(Step::Revoke),
        4 => Just(Step::Settle),
        1 => Just(Step::RollBack),
        1 => Just(Step::Reload),
        1 => any::<usize>().prop_map(Step::Compact),
        3 => (range(), any::<usize>(), any::<[bool; 3]>()).prop_map(|(range, start, how)| Step::Watch(range, start, how)),
        5 => (any::<usize>(), 1..4usize, 1..12usize).prop_map(|(watch, events, bytes)| Step::Poll(watch, Enough { events, bytes })),
        1 => (0..2000usize).prop_map(Step::Leave),
    ]
}

/// What a database would hold.
#[derive(Default)]
struct Stored {
    changes: BTreeMap<(i64, u32), OwnedChange>,
    leases: BTreeMap<i64, i64>,
    revision: i64,
    compacted: i64,
}

impl Stored {
    fn save(&mut self, core: &mut Core) {
        for change in core.changes_after(core.settled()) {
            self.changes.insert((change.revision, change.sub), change.into_owned());
        }
        for change in core.lease_changes() {
            match change {
                LeaseChange::Granted { id, ttl } => self.leases.insert(id, ttl),
                LeaseChange::Revoked { id } => self.leases.remove(&id),
            };
        }
        self.revision = core.revision();
        core.settle();
    }

    fn load(&self) -> Core {
        let leases = self.leases.iter().map(|(id, ttl)| (*id, *ttl));
        Core::load(self.changes.values().cloned(), self.revision, self.compacted, leases, NOW).unwrap()
    }
}

struct Watch {
    watcher: Watcher,
    range: KeyRange,
    how: [bool; 3],
    /// Where the watch stands: what it returns must be the model's events since then.
    next: i64,
}

struct World {
    core: Core,
    naive: Naive,
    settled: Naive,
    stored: Stored,
    watches: Vec<Watch>,
}

fn pick(n: usize, upto: i64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX).rem_euclid(upto)
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            core: Core::new(),
            naive: Naive::new(),
            settled: Naive::new(),
            stored: Stored::default(),
            watches: Vec::new(),
        };
        world.save();
        world
    }

    fn save(&mut self) {
        self.stored.save(&mut self.core);
        self.settled = self.naive.clone();
    }

    fn step(&mut self, step: &Step) {
        let Self { core, naive, .. } = self;
        match step {
            Step::Txn(txn) => assert_eq!(core.txn(txn), naive.txn(txn)),
            Step::Put(key, value) => {
                let put = Txn::always(vec![Op::put(key.clone(), value.clone())]);
                assert_eq!(core.put(key, value), naive.txn(&put).unwrap().revision);
            }
            Step::Delete(range) => {
                let deleted = naive.txn(&Txn::always(vec![Op::Delete(range.clone())])).unwrap();
                assert_eq!(vec![OpResult::Delete(core.delete(range))], deleted.results);
            }
            Step::Read(read) => assert_eq!(core.range(read, core.settled()), naive.read(read, core.settled())),
            Step::Grant(id, ttl) => {
                let known = *id == 0 || naive.leases.contains_key(id);
                let expected = if known { Err(Refusal::LeaseExists) } else { Ok((*ttl).max(2)) };
                assert_eq!(core.grant(*id, *ttl, NOW), expected);
                if let Ok(ttl) = expected {
                    naive.leases.insert(*id, ttl);
                }
            }
            Step::Revoke(id) => assert_eq!(core.revoke(*id), naive.revoke(*id)),
            Step::Settle => self.save(),
            Step::RollBack => {
                core.roll_back();
                *naive = self.settled.clone();
            }
            Step::Reload => {
                *core = self.stored.load();
                *naive = self.settled.clone();
            }
            Step::Compact(n) => self.compact(*n),
            Step::Watch(range, n, how) => self.watch(range, *n, *how),
            Step::Poll(n, enough) => self.poll(*n, *enough),
            Step::Leave(bytes) => self.leave(*bytes),
        }
    }

    fn compact(&mut self, n: usize) {
        self.save();
        self.compact_at(pick(n, self.naive.revision() + 2));
    }

    /// The revision that is to leave so much history does, and the one before it does not.
    fn leave(&mut self, bytes: usize) {
        self.save();
        let has = self.core.history_bytes();
        let Some(revision) = self.core.compaction_leaving(bytes) else {
            assert!(has <= bytes || self.core.compacted() == self.core.revision(), "{has} bytes");
            return;
        };
        assert!(has > bytes && revision > self.core.compacted());
        if revision - 1 > self.core.compacted() {
            let mut less = self.core.clone();
            less.compact(revision - 1).unwrap();
            assert!(less.history_bytes() > bytes);
        }
        self.compact_at(revision);
        let left = self.core.history_bytes();
        assert!(left <= bytes || revision == self.core.revision(), "{left} of {bytes} bytes at {revision}");
    }

    fn compact_at(&mut self, revision: i64) {
        let expected = if revision <= self.naive.compacted {
            Err(Refusal::Compacted(self.naive.compacted))
        } else if revision > self.naive.revision() {
            Err(Refusal::Future(self.naive.revision()))
        } else {
            Ok(())
        };
        let superseded = self.core.superseded(revision);
        assert_eq!(self.core.compact(revision), expected);
        if expected.is_ok() {
            self.naive.compacted = revision;
            for position in superseded {
                assert!(self.stored.changes.remove(&position).is_some(), "{position:?} was stored once");
            }
            self.stored.compacted = revision;
            self.settled = self.naive.clone();
        }
    }

    fn watch(&mut self, range: &KeyRange, n: usize, how: [bool; 3]) {
        let start = pick(n, self.naive.revision() + 3);
        let mut watcher = Watcher::new(range.clone(), start);
        if how[0] {
            watcher = watcher.without_puts();
        }
        if how[1] {
            watcher = watcher.without_deletes();
        }
        if how[2] {
            watcher = watcher.with_previous();
        }
        self.watches.push(Watch { watcher, range: range.clone(), how, next: start });
    }

    /// Polls up to the durable revision, as a server does, in pieces that never split a revision.
    fn poll(&mut self, n: usize, enough: Enough) {
        if self.watches.is_empty() {
            return;
        }
        let at = n % self.watches.len();
        let up_to = self.core.settled();
        let Watch { watcher, range, how, next } = &mut self.watches[at];
        let expected = self.naive.events(range, *next, up_to).map(|events| {
            let wanted = |event: &WatchEvent| match event {
                WatchEvent::Put { .. } => !how[0],
                WatchEvent::Delete { .. } => !how[1],
            };
            let shown = |event| if how[2] { event } else { without_previous(event) };
            events.into_iter().filter(wanted).map(shown).collect::<Vec<_>>()
        });
        let mut events = Vec::new();
        let polled = loop {
            match self.core.poll_some(watcher, up_to, enough) {
                Ok(more) => {
                    let split =
                        |last: &WatchEvent| more.first().is_some_and(|first| first.revision() <= last.revision());
                    assert!(!events.last().is_some_and(split), "a revision is split");
                    let bytes: usize = more.iter().map(WatchEvent::bytes).sum();
                    assert!(watcher.next_revision() > up_to || more.len() >= enough.events || bytes >= enough.bytes);
                    let before: Vec<_> = more
                        .iter()
                        .take_while(|event| Some(event.revision()) < more.last().map(WatchEvent::revision))
                        .collect();
                    let bytes: usize = before.iter().map(|event| event.bytes()).sum();
                    assert!(before.len() < enough.events.max(1) && bytes < enough.bytes, "more than enough");
                    events.extend(more);
                }
                Err(refusal) => break Err(refusal),
            }
            if watcher.next_revision() > up_to {
                break Ok(events);
            }
        };
        assert_eq!(polled, expected);
        if polled.is_ok() {
            *next = (up_to + 1).max(*next);
        }
        assert_eq!(watcher.next_revision(), *next);
    }

    fn compare(&self) {
        let Self { core, naive, .. } = self;
        assert_eq!(core.revision(), naive.revision());
        assert_eq!(core.settled(), self.settled.revision());
        assert_eq!(core.history_bytes(), core.keys.values().map(Versions::history).sum::<usize>());
        let mut ids = core.leases();
        ids.sort_unstable();
        assert!(ids.iter().eq(naive.leases.keys()));
        for (id, ttl) in &naive.leases {
            let info = core.lease(*id, NOW).unwrap();
            assert_eq!((info.ttl, info.keys), (*ttl, naive.lease_keys(*id)));
        }
    }

    /// Everything that can be read, at every revision, and everything that can be watched.
    fn compare_history(&self) {
        let all = KeyRange::prefix("");
        let mut watcher = Watcher::new(all.clone(), self.core.compacted()).with_previous();
        let events = self.naive.events(&all, self.core.compacted(), self.naive.revision());
        assert_eq!(self.core.poll(&mut watcher, self.core.revision()), events);
        for revision in -1..=self.naive.revision() + 1 {
            let read = Read { revision: Some(revision), ..Read::new(KeyRange::prefix("")) };
            let expected = self.naive.read(&read, self.naive.revision());
            assert_eq!(self.core.range(&read, self.core.revision()), expected);
        }
    }
}

fn without_previous(event: WatchEvent) -> WatchEvent {
    match event {
        WatchEvent::Put { kv, .. } => WatchEvent::Put { kv, prev: None },
        WatchEvent::Delete { key, revision, .. } => WatchEvent::Delete { key, revision, prev: None },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn equals_the_naive_store(steps in vec(step(), 1..50), last in any::<usize>()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            world.compare();
        }
        world.compare_history();
        world.compact(last);
        world.compare_history();
        world.save();
        world.core = world.stored.load();
        world.compare();
        world.compare_history();
    }
}
