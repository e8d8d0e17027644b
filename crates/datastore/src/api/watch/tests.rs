//! How events are cut into answers.

use std::sync::Arc;

use calico_store::mvcc::KeyValue;

use super::*;

/// An event of about `size` bytes at a revision.
fn event(revision: i64, size: usize) -> WatchEvent {
    let kv = KeyValue {
        key: Arc::from(b"k".as_slice()),
        value: vec![0; size].into(),
        create_revision: 1,
        mod_revision: revision,
        version: 1,
        lease: 0,
    };
    WatchEvent::Put { kv, prev: None }
}

/// The revisions of each part, with a mark for those that go on.
fn cut(events: &[WatchEvent], fragment: bool) -> Vec<(Vec<i64>, bool)> {
    let parts = split(events, fragment, 1000);
    parts.iter().map(|part| (part.events.iter().map(WatchEvent::revision).collect(), part.continues)).collect()
}

#[test]
fn what_fits_goes_out_together() {
    assert_eq!(cut(&[event(1, 100), event(2, 100), event(2, 100)], false), [(vec![1, 2, 2], false)]);
    assert!(cut(&[], true).is_empty());
}

#[test]
fn it_is_cut_between_revisions() {
    let events = [event(1, 300), event(2, 300), event(2, 300), event(3, 300), event(4, 10)];
    let expected = [(vec![1], false), (vec![2, 2], false), (vec![3, 4], false)];
    assert_eq!(cut(&events, false), expected);
    assert_eq!(cut(&events, true), expected, "no fragments where whole revisions fit");
}

#[test]
fn a_revision_too_large_is_cut_only_for_who_can_join_it() {
    let events = [event(1, 100), event(2, 700), event(2, 700), event(2, 100), event(3, 700)];
    assert_eq!(cut(&events, false), [(vec![1], false), (vec![2, 2, 2], false), (vec![3], false)]);
    assert_eq!(cut(&events, true), [(vec![1], false), (vec![2], true), (vec![2, 2], false), (vec![3], false)]);
}

#[test]
fn an_event_larger_than_the_limit_goes_by_itself() {
    let events = [event(1, 10), event(2, 5000), event(2, 10), event(3, 5000)];
    assert_eq!(cut(&events, true), [(vec![1], false), (vec![2], true), (vec![2], false), (vec![3], false)]);
}
