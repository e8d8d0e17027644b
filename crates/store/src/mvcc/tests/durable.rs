//! Leases by the clock, and what a database has to refuse.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::super::*;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn put_leased(core: &mut Core, key: &str, lease: i64) {
    let op = Op::Put { key: key.into(), value: b"v".to_vec(), lease, ignore_value: false, ignore_lease: false };
    core.txn(&Txn::always(vec![op])).unwrap();
}

#[test]
fn leases_are_granted_within_limits() {
    let mut core = Core::new();
    let cases = [
        (7, 1, Ok(2)),
        (8, 0, Ok(2)),
        (9, -5, Ok(2)),
        (-10, 100, Ok(100)),
        (7, 100, Err(Refusal::LeaseExists)),
        (0, 100, Err(Refusal::LeaseExists)),
        (7, 9_000_000_001, Err(Refusal::LeaseTtlTooLarge)),
        (11, 9_000_000_000, Ok(9_000_000_000)),
    ];
    for (id, ttl, expected) in cases {
        assert_eq!(core.grant(id, ttl, seconds(0)), expected, "lease {id} of {ttl} s");
    }
    assert_eq!(core.leases(), [7, 8, 9, -10, 11], "the first to end comes first");
    assert_eq!(core.revision(), 1);
}

#[test]
fn leases_end_by_the_clock_of_the_caller() {
    let mut core = Core::new();
    core.grant(1, 10, seconds(100)).unwrap();
    core.grant(2, 20, seconds(100)).unwrap();
    assert_eq!(core.next_expiry(), Some(seconds(110)));
    assert_eq!(core.lease(1, seconds(103)).unwrap().remaining, seconds(7));
    assert!(core.expired(seconds(109)).is_empty());
    assert_eq!(core.expired(seconds(110)), [1]);
    assert_eq!(core.keep_alive(1, seconds(109)), Ok(10));
    assert!(core.expired(seconds(110)).is_empty());
    assert_eq!(core.next_expiry(), Some(seconds(119)));
    assert_eq!(core.expired(seconds(500)), [1, 2]);
    assert_eq!(core.lease(1, seconds(500)).unwrap().remaining, seconds(0));
    core.revoke(1).unwrap();
    assert_eq!(core.keep_alive(1, seconds(109)), Err(Refusal::LeaseNotFound));
    assert_eq!(core.lease(1, seconds(109)), None);
    assert_eq!(core.revoke(1), Err(Refusal::LeaseNotFound));
}

#[test]
fn a_key_leaves_its_lease_when_it_is_written_without() {
    let mut core = Core::new();
    core.grant(1, 10, seconds(0)).unwrap();
    for key in ["b", "a", "moved", "deleted"] {
        put_leased(&mut core, key, 1);
    }
    core.put(b"moved", b"x");
    core.delete(&KeyRange::one("deleted"));
    let keys: Vec<Key> = vec![b"a"[..].into(), b"b"[..].into()];
    assert_eq!(core.lease(1, seconds(0)).unwrap().keys, keys);
    let before = core.revision();
    let gone = core.revoke(1).unwrap();
    assert_eq!(gone.iter().map(|kv| kv.key.clone()).collect::<Vec<_>>(), keys);
    assert_eq!(core.revision(), before + 1, "all keys of a lease end at one revision");
    assert_eq!(core.range(&Read::new(KeyRange::prefix("")), core.revision()).unwrap().count, 1);
}

#[test]
fn what_could_not_be_made_durable_was_never_there() {
    let mut core = Core::new();
    core.grant(1, 10, seconds(0)).unwrap();
    put_leased(&mut core, "a", 1);
    core.settle();
    let before = core.clone();

    core.grant(2, 10, seconds(0)).unwrap();
    put_leased(&mut core, "a", 2);
    put_leased(&mut core, "new", 1);
    core.revoke(1).unwrap();
    core.grant(1, 99, seconds(0)).unwrap();
    core.delete(&KeyRange::prefix(""));
    assert_eq!(core.changes_after(core.settled()).count(), 4);
    let changes: Vec<_> = core.lease_changes().collect();
    assert_eq!(
        changes,
        [
            LeaseChange::Granted { id: 2, ttl: 10 },
            LeaseChange::Revoked { id: 1 },
            LeaseChange::Granted { id: 1, ttl: 99 },
        ]
    );
    core.roll_back();
    assert_eq!(format!("{core:?}"), format!("{before:?}"));
}

#[test]
fn what_is_staged_cannot_be_compacted() {
    let mut core = Core::new();
    core.put(b"a", b"1");
    core.settle();
    core.put(b"a", b"2");
    assert_eq!(core.compact(3), Err(Refusal::Future(2)));
    core.compact(2).unwrap();
    core.roll_back();
    assert_eq!(core.range(&Read::new(KeyRange::one("a")), 2).unwrap().kvs[0].value[..], b"1"[..]);
}

fn stored(revision: i64, sub: u32, key: &str, value: Option<(i64, i64, i64)>) -> OwnedChange {
    let value = value.map(|(create_revision, version, lease)| OwnedValue {
        value: b"v".to_vec(),
        create_revision,
        version,
        lease,
    });
    OwnedChange { revision, sub, key: key.into(), value }
}

#[test]
fn what_no_store_ever_held_is_not_loaded() {
    // A store at revision 9, compacted at 5, with lease 1.
    let load = |changes: Vec<OwnedChange>| Core::load(changes, 9, 5, [(1, 60)], seconds(0));
    let good = [
        vec![stored(3, 0, "a", Some((2, 2, 0))), stored(6, 0, "a", Some((2, 3, 1))), stored(7, 1, "a", None)],
        vec![stored(5, 0, "a", None), stored(8, 0, "a", Some((8, 1, 0)))],
        vec![stored(8, 0, "a", Some((8, 1, 0))), stored(8, 1, "b", Some((8, 1, 0)))],
        vec![stored(6, 0, "a", Some((6, 1, 2))), stored(8, 1, "a", None)],
    ];
    for changes in good {
        load(changes.clone()).unwrap_or_else(|error| panic!("{error}: {changes:?}"));
    }
    let bad = [
        ("come after", vec![stored(8, 0, "a", Some((8, 1, 0))), stored(7, 0, "b", Some((7, 1, 0)))]),
        ("come after", vec![stored(8, 0, "a", Some((8, 1, 0))), stored(8, 0, "b", Some((8, 1, 0)))]),
        ("never at", vec![stored(10, 0, "a", Some((10, 1, 0)))]),
        ("never at", vec![stored(0, 1, "a", Some((0, 1, 0)))]),
        ("empty", vec![stored(8, 0, "", Some((8, 1, 0)))]),
        ("have removed", vec![stored(4, 0, "a", None)]),
        ("deletes a key", vec![stored(6, 0, "a", None)]),
        ("does not follow", vec![stored(3, 0, "a", Some((2, 2, 0))), stored(6, 0, "a", Some((2, 4, 0)))]),
        ("does not follow", vec![stored(3, 0, "a", Some((2, 2, 0))), stored(6, 0, "a", Some((6, 1, 0)))]),
        ("changes a key", vec![stored(6, 0, "a", Some((6, 2, 0)))]),
        ("changes a key", vec![stored(5, 0, "a", None), stored(6, 0, "a", Some((4, 3, 0)))]),
        ("impossible", vec![stored(3, 0, "a", Some((2, 0, 0)))]),
        ("impossible", vec![stored(3, 0, "a", Some((4, 1, 0)))]),
        ("lease", vec![stored(6, 0, "a", Some((6, 1, 2)))]),
    ];
    for (what, changes) in bad {
        let error = load(changes.clone()).map(|_| changes).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    }
}
