//! What chance seldom hits: limits, and values that the protocol does not know.

use etcd_client::proto::{
    PbCompare, PbPutRequest, PbRangeRequest, PbTargetUnion, PbTxnOpRequest, PbTxnRequest, PbTxnRequestOp,
};

use super::{Op, Pair};

fn put(number: usize) -> PbTxnRequestOp {
    let request = PbPutRequest { key: format!("k{number}").into_bytes(), ..PbPutRequest::default() };
    PbTxnRequestOp { request: Some(PbTxnOpRequest::RequestPut(request)) }
}

fn puts(count: usize) -> Vec<PbTxnRequestOp> {
    (0..count).map(put).collect()
}

fn within(request: PbTxnRequest) -> PbTxnRequestOp {
    PbTxnRequestOp { request: Some(PbTxnOpRequest::RequestTxn(request)) }
}

fn always(success: Vec<PbTxnRequestOp>) -> PbTxnRequest {
    PbTxnRequest { success, ..PbTxnRequest::default() }
}

/// A transaction of one read, if this holds.
fn given(compare: PbCompare) -> Op {
    let read = PbRangeRequest { key: b"k1".to_vec(), ..PbRangeRequest::default() };
    let read = PbTxnRequestOp { request: Some(PbTxnOpRequest::RequestRange(read)) };
    Op::Txn(PbTxnRequest { compare: vec![compare], success: vec![read], failure: Vec::new() })
}

fn edges() -> Vec<Op> {
    let compare = PbCompare { key: b"k1".to_vec(), ..PbCompare::default() };
    let empty_key = PbTxnOpRequest::RequestPut(PbPutRequest::default());
    let mut long_nested = vec![within(always(puts(100)))];
    long_nested.extend((200..228).map(put));
    let mut longer_nested = long_nested.clone();
    longer_nested.push(put(300));
    let read = PbRangeRequest { key: b"k1".to_vec(), range_end: vec![0], ..PbRangeRequest::default() };
    vec![
        Op::Txn(always(puts(128))),
        Op::Txn(always(puts(129))),
        Op::Txn(PbTxnRequest { failure: puts(129), ..PbTxnRequest::default() }),
        Op::Txn(PbTxnRequest { compare: vec![compare.clone(); 128], ..PbTxnRequest::default() }),
        Op::Txn(PbTxnRequest { compare: vec![compare.clone(); 129], ..PbTxnRequest::default() }),
        // Counted down with every level: 29 here leave 99 there, 28 leave 100.
        Op::Txn(always(long_nested[..28].to_vec())),
        Op::Txn(always(long_nested)),
        Op::Txn(always(longer_nested)),
        // Of several faults the same one is told.
        Op::Txn(always(vec![put(1), put(1), PbTxnRequestOp { request: None }])),
        Op::Txn(always(vec![put(1), put(1), PbTxnRequestOp { request: Some(empty_key) }])),
        Op::Txn(PbTxnRequest { compare: vec![PbCompare::default()], success: puts(129), failure: Vec::new() }),
        Op::Range(PbRangeRequest { limit: i64::MAX, ..read.clone() }),
        Op::Range(PbRangeRequest { limit: i64::MIN, ..read.clone() }),
        Op::Range(PbRangeRequest { revision: i64::MAX, ..read.clone() }),
        Op::Range(PbRangeRequest { min_mod_revision: -1, max_create_revision: -1, ..read }),
        given(PbCompare { target: 3, target_union: Some(PbTargetUnion::Value(Vec::new())), ..compare.clone() }),
        given(PbCompare { target: 3, ..compare.clone() }),
        given(PbCompare { target: 1, target_union: Some(PbTargetUnion::Lease(2)), ..compare }),
    ]
}

#[tokio::test]
async fn limits_are_etcds() {
    let mut pair = Pair::start().await;
    for op in edges() {
        if let Err(difference) = pair.call(&op).await {
            panic!("at:   {}\netcd: {}\nours: {}", difference.at, difference.etcd, difference.ours);
        }
    }
}
