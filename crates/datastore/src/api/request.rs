//! What clients ask, in the core's words.
//!
//! The checks are etcd's, in its order. What needs the store to be decided is left to the core.

use calico_store::mvcc::{Compare, KeyRange, Op, Order, Read, Refusal, Relation, Sort, SortTarget, Target, Txn};
use etcd_client::proto::{
    PbCompare, PbDeleteRequest, PbPutRequest, PbRangeRequest, PbTargetUnion, PbTxnOpRequest, PbTxnRequest,
    PbTxnRequestOp,
};
use tonic::Status;

use super::status::{invalid_compare, invalid_sort, refused, too_many_ops};

/// The most compares, or operations of one branch, nested ones counted down from it; etcd's.
pub(super) const MAX_TXN_OPS: usize = 128;

/// What of an operation's result the client wants, beside the operation itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// A write, with what stood there before or without.
    Write {
        /// With it.
        prev_kv: bool,
    },
    /// A read.
    Read,
    /// A transaction within.
    Txn(AskedTxn),
}

/// What of a transaction's results the client wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AskedTxn {
    pub then: Vec<Asked>,
    pub otherwise: Vec<Asked>,
}

/// A read by itself; its revision counts only if it is positive.
pub(super) fn range(request: PbRangeRequest) -> Result<Read, Status> {
    let mut read = read(request)?;
    read.revision = read.revision.filter(|revision| *revision > 0);
    Ok(read)
}

fn read(request: PbRangeRequest) -> Result<Read, Status> {
    check_key(&request.key)?;
    let given = |revision: i64| (revision != 0).then_some(revision);
    Ok(Read {
        sort: sort(&request)?,
        revision: given(request.revision),
        // A negative limit is none.
        limit: usize::try_from(request.limit).unwrap_or(0),
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: given(request.min_mod_revision),
        max_mod_revision: given(request.max_mod_revision),
        min_create_revision: given(request.min_create_revision),
        max_create_revision: given(request.max_create_revision),
        range: KeyRange::from_wire(request.key, request.range_end),
    })
}

fn sort(request: &PbRangeRequest) -> Result<Option<Sort>, Status> {
    let order = match request.sort_order {
        0 => Order::Unsaid,
        1 => Order::Ascending,
        2 => Order::Descending,
        _ => return Err(invalid_sort()),
    };
    let target = match request.sort_target {
        0 => SortTarget::Key,
        1 => SortTarget::Version,
        2 => SortTarget::CreateRevision,
        3 => SortTarget::ModRevision,
        4 => SortTarget::Value,
        _ => return Err(invalid_sort()),
    };
    let unsorted = order == Order::Unsaid && target == SortTarget::Key;
    Ok((!unsorted).then_some(Sort { target, order }))
}

/// A put, and whether the client wants to see what stood there before.
pub(super) fn put(request: PbPutRequest) -> Result<(Op, bool), Status> {
    check_key(&request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        return Err(refused(Refusal::ValueProvided));
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(refused(Refusal::LeaseProvided));
    }
    let PbPutRequest { key, value, lease, prev_kv, ignore_value, ignore_lease } = request;
    Ok((Op::Put { key, value, lease, ignore_value, ignore_lease }, prev_kv))
}

/// A deletion, and whether the client wants to see what stood there before.
pub(super) fn delete(request: PbDeleteRequest) -> Result<(Op, bool), Status> {
    check_key(&request.key)?;
    Ok((Op::Delete(KeyRange::from_wire(request.key, request.range_end)), request.prev_kv))
}

/// A transaction.
pub(super) fn txn(request: PbTxnRequest) -> Result<(Txn, AskedTxn), Status> {
    nested(request, MAX_TXN_OPS)
}

fn nested(request: PbTxnRequest, most: usize) -> Result<(Txn, AskedTxn), Status> {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    let Some(left) = most.checked_sub(longest) else { return Err(too_many_ops()) };
    let compare = request.compare.into_iter().map(compare).collect::<Result<_, _>>()?;
    let branch = |ops: Vec<PbTxnRequestOp>| -> Result<(Vec<Op>, Vec<Asked>), Status> {
        let mut both = (Vec::with_capacity(ops.len()), Vec::with_capacity(ops.len()));
        for request in ops {
            let (op, asked) = op(request, left)?;
            both.0.push(op);
            both.1.push(asked);
        }
        Ok(both)
    };
    let (then, asked_then) = branch(request.success)?;
    let (otherwise, asked_otherwise) = branch(request.failure)?;
    Ok((Txn { compare, then, otherwise }, AskedTxn { then: asked_then, otherwise: asked_otherwise }))
}

fn op(request: PbTxnRequestOp, most: usize) -> Result<(Op, Asked), Status> {
    // An operation that is none is, in etcd's words, a key that is not there.
    let request = request.request.ok_or_else(|| refused(Refusal::KeyNotFound))?;
    Ok(match request {
        PbTxnOpRequest::RequestRange(request) => (Op::Get(read(request)?), Asked::Read),
        PbTxnOpRequest::RequestPut(request) => {
            let (op, prev_kv) = put(request)?;
            (op, Asked::Write { prev_kv })
        }
        PbTxnOpRequest::RequestDeleteRange(request) => {
            let (op, prev_kv) = delete(request)?;
            (op, Asked::Write { prev_kv })
        }
        PbTxnOpRequest::RequestTxn(request) => {
            let (txn, asked) = nested(request, most)?;
            (Op::Txn(Box::new(txn)), Asked::Txn(asked))
        }
    })
}

fn compare(request: PbCompare) -> Result<Compare, Status> {
    check_key(&request.key)?;
    let relation = match request.result {
        0 => Relation::Equal,
        1 => Relation::Greater,
        2 => Relation::Less,
        3 => Relation::NotEqual,
        _ => return Err(invalid_compare()),
    };
    // A value that does not belong to the target counts as none: 0, or empty.
    let union = request.target_union;
    let number = |wanted: fn(&PbTargetUnion) -> Option<i64>| union.as_ref().and_then(wanted).unwrap_or(0);
    let target = match request.target {
        0 => Target::Version(number(|union| match union {
            PbTargetUnion::Version(version) => Some(*version),
            _ => None,
        })),
        1 => Target::CreateRevision(number(|union| match union {
            PbTargetUnion::CreateRevision(revision) => Some(*revision),
            _ => None,
        })),
        2 => Target::ModRevision(number(|union| match union {
            PbTargetUnion::ModRevision(revision) => Some(*revision),
            _ => None,
        })),
        3 => Target::Value(match union {
            Some(PbTargetUnion::Value(value)) => value,
            _ => Vec::new(),
        }),
        4 => Target::Lease(number(|union| match union {
            PbTargetUnion::Lease(lease) => Some(*lease),
            _ => None,
        })),
        _ => return Err(invalid_compare()),
    };
    Ok(Compare { range: KeyRange::from_wire(request.key, request.range_end), target, relation })
}

fn check_key(key: &[u8]) -> Result<(), Status> {
    if key.is_empty() { Err(refused(Refusal::EmptyKey)) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
