//! The operations, and how each is played on a server and its answer shown.

use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbCompare, PbDeleteRequest, PbDeleteResponse, PbLeaseGrantRequest,
    PbLeaseGrantResponse, PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse, PbLeaseLeasesRequest,
    PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse, PbLeaseTimeToLiveRequest,
    PbLeaseTimeToLiveResponse, PbPutRequest, PbPutResponse, PbRangeRequest, PbRangeResponse, PbTargetUnion,
    PbTxnOpRequest, PbTxnRequest, PbTxnResponse, PbWatchRequest, PbWatchRequestUnion,
};
use tonic::Status;

use crate::client::{Client, bare};

/// A revision of `PRESENT + n` in an operation means n after the present one, so that an operation means the same
/// whatever came before it.
pub const PRESENT: i64 = 1 << 40;

/// What is done to both servers.
#[derive(Clone, Debug)]
pub enum Op {
    Range(PbRangeRequest),
    Put(PbPutRequest),
    Delete(PbDeleteRequest),
    Txn(PbTxnRequest),
    Compact(PbCompactionRequest),
    Grant(PbLeaseGrantRequest),
    /// Grants with a time to live or an id whose outcome nobody can foresee, and revokes.
    GrantAndRevoke(PbLeaseGrantRequest),
    Revoke(i64),
    KeepAlive(i64),
    TimeToLive(PbLeaseTimeToLiveRequest),
    Leases,
    Watch(PbWatchRequest),
    CancelWatch(i64),
}

impl Op {
    /// The operation with revisions filled in, when the store is at `present`.
    pub fn resolved(&self, present: i64) -> Self {
        let mut op = self.clone();
        match &mut op {
            Self::Range(request) => resolve_range(request, present),
            Self::Txn(request) => resolve_txn(request, present),
            Self::Compact(request) => resolve(&mut request.revision, present),
            Self::Watch(request) => {
                if let Some(PbWatchRequestUnion::CreateRequest(create)) = &mut request.request_union {
                    resolve(&mut create.start_revision, present);
                }
            }
            _ => {}
        }
        op
    }

    /// Watches must be even before it: it takes history away that a slower server still has to send.
    pub fn hurts_watches(&self) -> bool {
        matches!(self, Self::Compact(_) | Self::CancelWatch(_))
    }
}

fn resolve(revision: &mut i64, present: i64) {
    if *revision > PRESENT / 2 {
        // There is nothing before the first.
        *revision = (*revision + present - PRESENT).max(1);
    }
}

fn resolve_range(request: &mut PbRangeRequest, present: i64) {
    resolve(&mut request.revision, present);
    resolve(&mut request.min_mod_revision, present);
    resolve(&mut request.max_mod_revision, present);
    resolve(&mut request.min_create_revision, present);
    resolve(&mut request.max_create_revision, present);
}

fn resolve_txn(request: &mut PbTxnRequest, present: i64) {
    request.compare.iter_mut().for_each(|compare| resolve_compare(compare, present));
    for op in request.success.iter_mut().chain(&mut request.failure) {
        match &mut op.request {
            Some(PbTxnOpRequest::RequestRange(request)) => resolve_range(request, present),
            Some(PbTxnOpRequest::RequestTxn(request)) => resolve_txn(request, present),
            _ => {}
        }
    }
}

fn resolve_compare(compare: &mut PbCompare, present: i64) {
    if let Some(PbTargetUnion::CreateRevision(revision) | PbTargetUnion::ModRevision(revision)) =
        &mut compare.target_union
    {
        resolve(revision, present);
    }
}

/// The answer, comparable between servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub text: String,
    /// The revision that the server says it is at, if it says so.
    pub revision: Option<i64>,
}

macro_rules! shown {
    ($answer:expr, $kind:ty $(, |$good:ident| $more:expr)?) => {{
        let answer: Result<$kind, Status> = $answer;
        match answer {
            Ok(mut good) => {
                bare(&mut good.header);
                $({
                    let $good = &mut good;
                    $more
                })?
                let revision = good.header.as_ref().map(|header| header.revision).filter(|revision| *revision > 0);
                Answer { text: format!("{good:?}"), revision }
            }
            Err(status) => Answer { text: format!("{:?}: {}", status.code(), status.message()), revision: None },
        }
    }};
}

/// Plays a call; watches are the caller's.
pub async fn play(client: &Client, op: &Op) -> Answer {
    match op.clone() {
        Op::Range(request) => shown!(client.call("/etcdserverpb.KV/Range", request).await, PbRangeResponse),
        Op::Put(request) => shown!(client.call("/etcdserverpb.KV/Put", request).await, PbPutResponse),
        Op::Delete(request) => {
            shown!(client.call("/etcdserverpb.KV/DeleteRange", request).await, PbDeleteResponse)
        }
        Op::Txn(request) => shown!(client.call("/etcdserverpb.KV/Txn", request).await, PbTxnResponse),
        Op::Compact(request) => {
            shown!(client.call("/etcdserverpb.KV/Compact", request).await, PbCompactionResponse)
        }
        op => play_lease(client, op).await,
    }
}

async fn play_lease(client: &Client, op: Op) -> Answer {
    match op {
        Op::Grant(request) => grant(client, request).await.0,
        Op::GrantAndRevoke(request) => {
            let (mut answer, id) = grant(client, request).await;
            if let Some(id) = id {
                let revoked = revoke(client, id).await;
                answer.text = answer.text.replace(&format!("id: {id}"), "id: ?");
                // One of two seconds may have ended by itself.
                if request.ttl >= 1000 {
                    answer.text.push_str(&revoked.text);
                }
            }
            answer
        }
        Op::Revoke(id) => revoke(client, id).await,
        Op::KeepAlive(id) => {
            let request = PbLeaseKeepAliveRequest { id };
            shown!(
                client.first("/etcdserverpb.Lease/LeaseKeepAlive", request).await,
                PbLeaseKeepAliveResponse,
                |_good| ()
            )
        }
        Op::TimeToLive(request) => {
            let answer = client.call("/etcdserverpb.Lease/LeaseTimeToLive", request).await;
            shown!(answer, PbLeaseTimeToLiveResponse, |good| {
                good.keys.sort();
                // Somewhere between the granted time and a minute's less.
                if (good.granted_ttl - 60..=good.granted_ttl).contains(&good.ttl) {
                    good.ttl = good.granted_ttl;
                }
            })
        }
        Op::Leases => {
            let answer = client.call("/etcdserverpb.Lease/LeaseLeases", PbLeaseLeasesRequest {}).await;
            shown!(answer, PbLeaseLeasesResponse, |good| good.leases.sort_by_key(|lease| lease.id))
        }
        other => unreachable!("{other:?} is no call"),
    }
}

async fn grant(client: &Client, request: PbLeaseGrantRequest) -> (Answer, Option<i64>) {
    let mut id = None;
    let answer = client.call("/etcdserverpb.Lease/LeaseGrant", request).await;
    (shown!(answer, PbLeaseGrantResponse, |good| id = Some(good.id)), id)
}

async fn revoke(client: &Client, id: i64) -> Answer {
    let request = PbLeaseRevokeRequest { id };
    shown!(client.call("/etcdserverpb.Lease/LeaseRevoke", request).await, PbLeaseRevokeResponse)
}
