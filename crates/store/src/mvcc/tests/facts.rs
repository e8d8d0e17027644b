//! Facts of etcd 3.4, each seen there before it was written down here.

#![allow(clippy::unwrap_used)]

use super::super::*;

/// a=3 (rev 2), b=1 (3), c=2 (4), d=0 (5), b=5 (6).
fn letters() -> Core {
    let mut core = Core::new();
    for (key, value) in [("a", "3"), ("b", "1"), ("c", "2"), ("d", "0"), ("b", "5")] {
        core.put(key.as_bytes(), value.as_bytes());
    }
    core.settle();
    core
}

fn all() -> Read {
    Read::new(KeyRange::prefix(""))
}

fn run(core: &mut Core, then: Vec<Op>) -> Result<TxnResult, Refusal> {
    core.txn(&Txn::always(then))
}

fn nested(then: Vec<Op>, otherwise: Vec<Op>) -> Op {
    Op::Txn(Box::new(Txn { compare: Vec::new(), then, otherwise }))
}

fn delete(key: &str) -> Op {
    Op::Delete(KeyRange::one(key))
}

fn delete_from(key: &str) -> Op {
    Op::Delete(KeyRange::Span(key.into(), None))
}

fn put_with(key: &str, value: &str, lease: i64, ignore_value: bool, ignore_lease: bool) -> Op {
    Op::Put { key: key.into(), value: value.into(), lease, ignore_value, ignore_lease }
}

fn keys(kvs: &[KeyValue]) -> String {
    kvs.iter().map(|kv| String::from_utf8_lossy(&kv.key).into_owned()).collect()
}

#[test]
fn ranges_are_as_the_wire_says_them() {
    let range = |key: &str, end: &str| KeyRange::from_wire(key.into(), end.into());
    let core = letters();
    let cases = [
        (range("b", ""), "b"),
        (range("b", "d"), "bc"),
        (range("c", "\0"), "cd"),
        (range("\0", "\0"), "abcd"),
        (range("d", "b"), ""),
        (range("b", "b"), ""),
        (range("b", "b\0"), "b"),
        (KeyRange::prefix(""), "abcd"),
    ];
    for (range, expected) in cases {
        let read = Read::new(range.clone());
        assert_eq!(keys(&core.range(&read, core.revision()).unwrap().kvs), expected, "{range:?}");
        assert!("abcd".chars().all(|key| range.contains(&[key as u8]) == expected.contains(key)), "{range:?}");
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
fn limits_filters_and_orders() {
    let core = letters();
    let sort = |target, order| Some(Sort { target, order });
    let by_value = |order| sort(SortTarget::Value, order);
    // What is read, the keys in order, whether there are more; the count is always of the whole range.
    let cases = [
        (Read { limit: 2, ..all() }, "ab", true),
        (Read { limit: 4, ..all() }, "abcd", false),
        (Read { limit: 2, sort: by_value(Order::Ascending), ..all() }, "dc", true),
        (Read { limit: 2, sort: by_value(Order::Unsaid), ..all() }, "ca", true),
        (Read { sort: by_value(Order::Descending), keys_only: true, ..all() }, "bacd", false),
        (Read { sort: sort(SortTarget::ModRevision, Order::Descending), ..all() }, "bdca", false),
        (Read { sort: sort(SortTarget::Version, Order::Ascending), ..all() }, "acdb", false),
        (Read { sort: sort(SortTarget::Version, Order::Descending), ..all() }, "bacd", false),
        (Read { limit: 1, min_mod_revision: Some(4), max_mod_revision: Some(5), ..all() }, "c", true),
        (Read { limit: 2, min_create_revision: Some(3), max_mod_revision: Some(4), ..all() }, "c", false),
        (Read { max_create_revision: Some(3), ..all() }, "ab", false),
        (Read { count_only: true, limit: 2, ..all() }, "", false),
    ];
    for (read, expected, more) in cases {
        let result = core.range(&read, core.revision()).unwrap();
        assert_eq!((keys(&result.kvs).as_str(), result.more, result.count), (expected, more, 4), "{read:?}");
        assert!(result.kvs.iter().all(|kv| kv.value.is_empty() == read.keys_only));
    }
}

#[test]
fn the_past_can_be_read_down_to_the_compacted_revision() {
    let mut core = letters();
    let at = |core: &Core, revision| {
        let read = Read { revision: Some(revision), ..all() };
        core.range(&read, core.revision()).map(|result| keys(&result.kvs))
    };
    core.compact(4).unwrap();
    assert_eq!(at(&core, 3), Err(Refusal::Compacted(4)));
    assert_eq!(at(&core, 4).unwrap(), "abc");
    assert_eq!(at(&core, 7), Err(Refusal::Future(6)));
    let old = Read { revision: Some(4), ..Read::new(KeyRange::one("b")) };
    assert_eq!(core.range(&old, 6).unwrap().kvs[0].value[..], b"1"[..]);
    assert_eq!(core.range(&all(), 4).unwrap().count, 3, "what a reader may not see yet is not there");
    assert_eq!(core.range(&Read { revision: Some(5), ..all() }, 4), Err(Refusal::Future(4)));
    assert_eq!(core.compact(4), Err(Refusal::Compacted(4)));
    assert_eq!(core.compact(7), Err(Refusal::Future(6)));
}

#[test]
fn versions_start_again_after_a_deletion() {
    let mut core = letters();
    core.delete(&KeyRange::one("b"));
    core.put(b"b", b"new");
    let kv = core.range(&Read::new(KeyRange::one("b")), 8).unwrap().kvs.remove(0);
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (8, 8, 1));
}

#[test]
fn no_key_is_written_twice_by_what_runs_together() {
    let refused = [
        vec![Op::put("a", "1"), Op::put("a", "2")],
        vec![Op::put("a", "1"), delete("a")],
        vec![delete("a"), Op::put("a", "1")],
        vec![
            Op::Delete(KeyRange::prefix("")),
            Op::Delete(KeyRange::Span("a".into(), Some("c".into()))),
            Op::put("b", ""),
        ],
        vec![nested(vec![Op::put("a", "1")], vec![]), Op::put("a", "2")],
        vec![Op::put("a", "1"), nested(vec![], vec![Op::put("a", "2")])],
        vec![nested(vec![Op::put("a", "1")], vec![]), nested(vec![], vec![Op::put("a", "2")])],
        vec![nested(vec![delete("a")], vec![]), nested(vec![Op::put("a", "1")], vec![])],
        vec![nested(vec![delete("a")], vec![]), Op::put("a", "1")],
        vec![nested(vec![Op::put("a", "1"), delete("a")], vec![])],
    ];
    let allowed = [
        vec![nested(vec![Op::put("a", "1")], vec![Op::put("a", "2")])],
        vec![nested(vec![Op::put("a", "1")], vec![delete("a")])],
        vec![delete("a"), delete("a")],
        vec![Op::put("a", "1"), Op::Delete(KeyRange::Span("b".into(), Some("c".into())))],
        vec![nested(vec![Op::put("a", "1")], vec![]), nested(vec![delete("a")], vec![])],
        vec![Op::put("a", "1"), delete_from("a")],
        vec![delete_from("a"), Op::put("a", "1")],
    ];
    for ops in refused {
        let mut core = letters();
        assert_eq!(run(&mut core, ops.clone()), Err(Refusal::DuplicateKey), "{ops:?}");
        let other = Txn { otherwise: ops, ..Txn::default() };
        assert_eq!(core.txn(&other), Err(Refusal::DuplicateKey), "also in a branch that is not taken");
        assert_eq!(core.revision(), 6);
    }
    for ops in allowed {
        let mut core = letters();
        assert_eq!(run(&mut core, ops.clone()).unwrap().revision, 7, "{ops:?}");
    }
}

#[test]
fn a_key_written_twice_at_one_revision_shows_both_in_the_watch_and_the_last_in_reads() {
    let mut core = letters();
    let put_then_delete = vec![nested(vec![Op::put("a", "n")], vec![]), nested(vec![delete("a")], vec![])];
    let result = run(&mut core, put_then_delete).unwrap();
    let OpResult::Txn(second) = &result.results[1] else { panic!("{result:?}") };
    let OpResult::Delete(gone) = &second.results[0] else { panic!("{second:?}") };
    assert_eq!(gone[0].value[..], b"n"[..]);
    run(&mut core, vec![delete_from("a"), Op::put("a", "again")]).unwrap();
    let mut watcher = Watcher::new(KeyRange::one("a"), 7);
    let events = core.poll(&mut watcher, 8).unwrap();
    let seen: Vec<_> = events.iter().map(|event| (matches!(event, WatchEvent::Put { .. }), event.revision())).collect();
    assert_eq!(seen, [(true, 7), (false, 7), (true, 8)]);
    let kv = core.range(&Read::new(KeyRange::one("a")), 8).unwrap().kvs.remove(0);
    assert_eq!((kv.create_revision, kv.version, &kv.value[..]), (8, 1, &b"again"[..]));
}

#[test]
fn nested_compares_look_at_the_store_before_the_first_write() {
    let mut core = Core::new();
    let inner = Txn {
        compare: vec![Compare::absent("new")],
        then: vec![Op::put("seen", "absent")],
        otherwise: vec![Op::put("seen", "present")],
    };
    let result = run(&mut core, vec![Op::put("new", "1"), Op::Txn(Box::new(inner))]).unwrap();
    let OpResult::Txn(inner) = &result.results[1] else { panic!("{result:?}") };
    assert!(inner.succeeded);
    assert_eq!(core.range(&Read::new(KeyRange::one("seen")), 2).unwrap().kvs[0].value[..], b"absent"[..]);
}

#[test]
fn a_transaction_reads_its_own_writes_and_the_past() {
    let mut core = letters();
    let old = Read { revision: Some(3), ..Read::new(KeyRange::one("a")) };
    let ops = vec![Op::get(KeyRange::one("a")), Op::put("a", "x"), Op::get(KeyRange::one("a")), Op::Get(old)];
    let result = run(&mut core, ops).unwrap();
    let values: Vec<_> = result
        .results
        .iter()
        .filter_map(|result| match result {
            OpResult::Get(read) => Some(String::from_utf8_lossy(&read.kvs[0].value).into_owned()),
            _ => None,
        })
        .collect();
    assert_eq!(values, ["3", "x", "3"]);

    let future = Read { revision: Some(8), ..all() };
    assert_eq!(run(&mut core, vec![Op::put("a", "y"), Op::Get(future)]), Err(Refusal::Future(7)));
    assert_eq!(core.revision(), 7, "a refused transaction writes nothing");
}

#[test]
fn puts_that_keep_the_value_or_the_lease() {
    let mut core = letters();
    core.grant(20, 1000, std::time::Duration::ZERO).unwrap();
    let cases = [
        (put_with("nope", "", 0, true, false), Some(Refusal::KeyNotFound)),
        (put_with("nope", "", 0, false, true), Some(Refusal::KeyNotFound)),
        (put_with("a", "x", 0, true, false), Some(Refusal::ValueProvided)),
        (put_with("a", "x", 20, false, true), Some(Refusal::LeaseProvided)),
        (put_with("a", "x", 21, false, false), Some(Refusal::LeaseNotFound)),
        (put_with("", "x", 0, false, false), Some(Refusal::EmptyKey)),
        (put_with("a", "", 20, true, false), None),
        (put_with("a", "z", 0, false, true), None),
    ];
    for (op, refusal) in cases {
        assert_eq!(run(&mut core, vec![op.clone()]).err(), refusal, "{op:?}");
    }
    let kv = core.range(&Read::new(KeyRange::one("a")), core.revision()).unwrap().kvs.remove(0);
    assert_eq!((&kv.value[..], kv.lease, kv.version), (&b"z"[..], 20, 3));
}

#[test]
fn a_put_that_keeps_what_its_transaction_deleted_takes_the_transaction_back() {
    let mut core = letters();
    core.grant(20, 1000, std::time::Duration::ZERO).unwrap();
    run(&mut core, vec![put_with("d", "x", 20, false, false)]).unwrap();
    let ops = vec![Op::put("a", "y"), delete_from("b"), put_with("c", "", 0, true, false)];
    assert_eq!(run(&mut core, ops), Err(Refusal::KeyNotFound));
    assert_eq!(core.revision(), 7);
    let kvs = core.range(&all(), 7).unwrap().kvs;
    assert_eq!((keys(&kvs).as_str(), &kvs[0].value[..]), ("abcd", &b"3"[..]));
    assert_eq!(core.lease(20, std::time::Duration::ZERO).unwrap().keys, ["d".as_bytes().into()]);
}

#[test]
fn compares_of_ranges_hold_for_every_key_and_for_an_absent_one() {
    let core = letters();
    let span = |start: &str, end: &str| KeyRange::Span(start.into(), Some(end.into()));
    let holds = |range, target, relation| {
        let compare = vec![Compare { range, target, relation }];
        core.clone().txn(&Txn { compare, ..Txn::default() }).unwrap().succeeded
    };
    assert!(holds(span("a", "e"), Target::Version(0), Relation::Greater));
    assert!(!holds(span("a", "e"), Target::Version(1), Relation::Equal));
    assert!(holds(span("x", "y"), Target::Version(1), Relation::Less));
    assert!(holds(span("x", "y"), Target::Lease(0), Relation::Equal));
    assert!(!holds(span("x", "y"), Target::Value("20".into()), Relation::NotEqual));
    assert!(holds(span("c", "a"), Target::Version(0), Relation::Equal), "an empty range holds an absent key");
}

#[test]
fn empty_keys_are_refused_everywhere() {
    let mut core = letters();
    let empty = KeyRange::one("");
    assert_eq!(core.range(&Read::new(empty.clone()), 6), Err(Refusal::EmptyKey));
    for op in [Op::put("", "x"), Op::Delete(empty.clone()), Op::get(empty), nested(vec![], vec![Op::put("", "")])] {
        assert_eq!(run(&mut core, vec![op]), Err(Refusal::EmptyKey));
    }
    let compare = vec![Compare::absent("")];
    assert_eq!(core.txn(&Txn { compare, ..Txn::default() }), Err(Refusal::EmptyKey));
}

#[test]
fn watches_start_in_the_future_or_at_the_compacted_revision_but_not_below() {
    let mut core = letters();
    core.delete(&KeyRange::one("c"));
    core.settle();
    core.compact(7).unwrap();
    let mut below = Watcher::new(KeyRange::prefix(""), 6);
    assert_eq!(core.poll(&mut below, 7), Err(Refusal::Compacted(7)));
    assert_eq!(below.next_revision(), 6);
    let mut at = Watcher::new(KeyRange::prefix(""), 7).with_previous();
    let gone = WatchEvent::Delete { key: b"c"[..].into(), revision: 7, prev: None };
    assert_eq!(core.poll(&mut at, 7).unwrap(), [gone], "what was before is compacted");

    let mut future = Watcher::new(KeyRange::one("a"), 10).with_previous();
    for value in ["8", "9", "10", "11"] {
        core.put(b"a", value.as_bytes());
    }
    assert!(core.poll(&mut future, 9).unwrap().is_empty());
    let events = core.poll(&mut future, 10).unwrap();
    let [WatchEvent::Put { kv, prev: Some(prev) }] = &events[..] else { panic!("{events:?}") };
    assert_eq!((&kv.value[..], &prev.value[..]), (&b"10"[..], &b"9"[..]));
    assert_eq!(core.poll(&mut future, 11).unwrap().len(), 1);
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
