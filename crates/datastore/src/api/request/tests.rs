#![allow(clippy::unwrap_used)]

use tonic::Code;

use super::*;

fn key() -> Vec<u8> {
    b"k".to_vec()
}

fn reading() -> PbRangeRequest {
    PbRangeRequest { key: key(), ..PbRangeRequest::default() }
}

#[test]
fn a_plain_read_is_of_one_key_now() {
    assert_eq!(range(reading()).unwrap(), Read::new(KeyRange::one("k")));
    let to_the_end = PbRangeRequest { range_end: vec![0], ..reading() };
    assert_eq!(range(to_the_end).unwrap().range, KeyRange::Span(key(), None));
}

#[test]
fn nothing_given_is_no_limit_no_bound_no_revision() {
    let request = PbRangeRequest { limit: -4, revision: -7, ..reading() };
    assert_eq!(range(request).unwrap(), Read::new(KeyRange::one("k")));
    let request = PbRangeRequest { limit: 5, revision: 7, max_mod_revision: 3, ..reading() };
    let read = range(request).unwrap();
    assert_eq!((read.limit, read.revision, read.max_mod_revision, read.min_mod_revision), (5, Some(7), Some(3), None));
}

#[test]
fn an_order_is_one_only_if_it_says_something() {
    let sort = |sort_target, sort_order| {
        range(PbRangeRequest { sort_target, sort_order, ..reading() }).map(|read| read.sort.map(|sort| sort.order))
    };
    assert_eq!(sort(0, 0).unwrap(), None);
    assert_eq!(sort(4, 0).unwrap(), Some(Order::Unsaid));
    assert_eq!(sort(0, 2).unwrap(), Some(Order::Descending));
    for (target, order) in [(5, 0), (0, 3), (-1, 0), (0, -1)] {
        assert_eq!(sort(target, order).unwrap_err().message(), "etcdserver: invalid sort option");
    }
}

#[test]
fn a_put_that_contradicts_itself_is_refused() {
    let refused = |request: PbPutRequest| put(request).unwrap_err().message().to_owned();
    let good = PbPutRequest { key: key(), value: b"v".to_vec(), lease: 3, prev_kv: true, ..PbPutRequest::default() };
    assert!(put(good.clone()).unwrap().1);
    assert_eq!(refused(PbPutRequest { ignore_value: true, ..good.clone() }), "etcdserver: value is provided");
    assert_eq!(refused(PbPutRequest { ignore_lease: true, ..good.clone() }), "etcdserver: lease is provided");
    assert_eq!(refused(PbPutRequest { key: Vec::new(), ..good }), "etcdserver: key is not provided");
}

#[test]
fn of_a_transaction_it_is_kept_what_the_client_wants_to_see() {
    let op = |request| PbTxnRequestOp { request: Some(request) };
    let delete =
        |prev_kv| PbTxnOpRequest::RequestDeleteRange(PbDeleteRequest { key: key(), prev_kv, ..Default::default() });
    let inner = PbTxnRequest { failure: vec![op(delete(true))], ..PbTxnRequest::default() };
    let outer = PbTxnRequest {
        success: vec![op(PbTxnOpRequest::RequestRange(reading())), op(PbTxnOpRequest::RequestTxn(inner))],
        failure: vec![op(delete(false))],
        compare: Vec::new(),
    };
    let (translated, asked) = txn(outer).unwrap();
    let nested = AskedTxn { then: Vec::new(), otherwise: vec![Asked::Write { prev_kv: true }] };
    assert_eq!(asked.then, [Asked::Read, Asked::Txn(nested)]);
    assert_eq!(asked.otherwise, [Asked::Write { prev_kv: false }]);
    assert_eq!((translated.then.len(), translated.otherwise.len()), (2, 1));
}

#[test]
fn a_value_of_another_kind_counts_as_none() {
    let target = |target, union| {
        compare(PbCompare { key: key(), target, target_union: union, ..PbCompare::default() }).map(|found| found.target)
    };
    assert_eq!(target(0, Some(PbTargetUnion::Version(4))).unwrap(), Target::Version(4));
    assert_eq!(target(2, Some(PbTargetUnion::Version(4))).unwrap(), Target::ModRevision(0));
    assert_eq!(target(3, None).unwrap(), Target::Value(Vec::new()));
    assert_eq!(target(4, Some(PbTargetUnion::Lease(-2))).unwrap(), Target::Lease(-2));
    assert_eq!(target(5, None).unwrap_err().code(), Code::InvalidArgument);
}

#[test]
fn operations_are_counted_down_from_level_to_level() {
    let nothing =
        || PbTxnRequest { compare: vec![PbCompare { key: key(), ..Default::default() }; 2], ..Default::default() };
    let around = |inner| PbTxnRequest {
        success: vec![PbTxnRequestOp { request: Some(PbTxnOpRequest::RequestTxn(inner)) }],
        ..PbTxnRequest::default()
    };
    assert!(nested(around(nothing()), 3).is_ok());
    let error = nested(around(nothing()), 2).unwrap_err();
    assert_eq!(error.message(), "etcdserver: too many operations in txn request");
}
