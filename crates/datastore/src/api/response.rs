//! What the core found and did, in etcd's messages.

use calico_store::mvcc::{KeyValue, OpResult, ReadResult, TxnResult, WatchEvent};
use etcd_client::proto::{
    PbDeleteResponse, PbEvent, PbKeyValue, PbPutResponse, PbRangeResponse, PbResponseHeader, PbResponseOp,
    PbTxnOpResponse, PbTxnResponse,
};

use super::request::{Asked, AskedTxn};

/// The type of an event that is a put, and of one that is a deletion.
const PUT: i32 = 0;
const DELETE: i32 = 1;

/// A key with its value.
pub(super) fn key_value(kv: &KeyValue) -> PbKeyValue {
    PbKeyValue {
        key: kv.key.to_vec(),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value.to_vec(),
        lease: kv.lease,
    }
}

/// What was read.
pub(super) fn range(result: &ReadResult, header: Option<PbResponseHeader>) -> PbRangeResponse {
    PbRangeResponse {
        header,
        kvs: result.kvs.iter().map(key_value).collect(),
        more: result.more,
        count: count(result.count),
    }
}

/// What a put did.
pub(super) fn put(before: Option<&KeyValue>, prev_kv: bool, header: Option<PbResponseHeader>) -> PbPutResponse {
    PbPutResponse { header, prev_kv: before.filter(|_| prev_kv).map(key_value) }
}

/// What a deletion did.
pub(super) fn delete(gone: &[KeyValue], prev_kv: bool, header: Option<PbResponseHeader>) -> PbDeleteResponse {
    let prev_kvs = if prev_kv { gone.iter().map(key_value).collect() } else { Vec::new() };
    PbDeleteResponse { header, deleted: count(gone.len()), prev_kvs }
}

/// What a transaction did.
pub(super) fn txn(result: &TxnResult, asked: &AskedTxn, header: Option<PbResponseHeader>) -> PbTxnResponse {
    let mut writing = Writing { begun_at: result.revision - i64::from(wrote(result)), wrote: false };
    PbTxnResponse { header, ..branch(result, asked, &mut writing) }
}

/// The store as the operations of one transaction see it, one after the other.
struct Writing {
    /// The revision before the transaction.
    begun_at: i64,
    /// It has written something by now.
    wrote: bool,
}

impl Writing {
    /// The header of one operation's result names a revision and nothing else.
    fn header(&self) -> Option<PbResponseHeader> {
        Some(PbResponseHeader { revision: self.begun_at + i64::from(self.wrote), ..PbResponseHeader::default() })
    }
}

fn wrote(result: &TxnResult) -> bool {
    result.results.iter().any(|result| match result {
        OpResult::Put(_) => true,
        OpResult::Delete(gone) => !gone.is_empty(),
        OpResult::Get(_) => false,
        OpResult::Txn(result) => wrote(result),
    })
}

fn branch(result: &TxnResult, asked: &AskedTxn, writing: &mut Writing) -> PbTxnResponse {
    let asked = if result.succeeded { &asked.then } else { &asked.otherwise };
    let responses = result.results.iter().zip(asked).map(|(result, asked)| op(result, asked, writing)).collect();
    // The header of a nested transaction is there and empty.
    PbTxnResponse { header: Some(PbResponseHeader::default()), succeeded: result.succeeded, responses }
}

fn op(result: &OpResult, asked: &Asked, writing: &mut Writing) -> PbResponseOp {
    let prev_kv = matches!(asked, Asked::Write { prev_kv: true });
    let response = match result {
        OpResult::Get(result) => PbTxnOpResponse::ResponseRange(range(result, writing.header())),
        OpResult::Put(before) => {
            writing.wrote = true;
            PbTxnOpResponse::ResponsePut(put(before.as_ref(), prev_kv, writing.header()))
        }
        OpResult::Delete(gone) => {
            writing.wrote |= !gone.is_empty();
            PbTxnOpResponse::ResponseDeleteRange(delete(gone, prev_kv, writing.header()))
        }
        OpResult::Txn(result) => {
            let nothing = AskedTxn::default();
            let asked = if let Asked::Txn(asked) = asked { asked } else { &nothing };
            PbTxnOpResponse::ResponseTxn(branch(result, asked, writing))
        }
    };
    PbResponseOp { response: Some(response) }
}

/// An event of a watch.
pub(super) fn event(event: &WatchEvent) -> PbEvent {
    match event {
        WatchEvent::Put { kv, prev } => {
            // What has just come into being has nothing before it, also where its revision deleted the key first.
            let prev = prev.as_ref().filter(|_| kv.create_revision < kv.mod_revision);
            PbEvent { r#type: PUT, kv: Some(key_value(kv)), prev_kv: prev.map(key_value) }
        }
        WatchEvent::Delete { key, revision, prev } => PbEvent {
            r#type: DELETE,
            kv: Some(PbKeyValue { key: key.to_vec(), mod_revision: *revision, ..PbKeyValue::default() }),
            prev_kv: prev.as_ref().map(key_value),
        },
    }
}

/// Roughly the bytes of an event on the wire.
pub(super) fn event_size(event: &WatchEvent) -> usize {
    /// What numbers and lengths take, generously.
    const REST: usize = 64;
    let of = |kv: &KeyValue| kv.key.len() + kv.value.len() + REST;
    match event {
        WatchEvent::Put { kv, prev } => of(kv) + prev.as_ref().map_or(0, of),
        WatchEvent::Delete { key, prev, .. } => key.len() + REST + prev.as_ref().map_or(0, of),
    }
}

fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
