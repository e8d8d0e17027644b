//! Keys and values: reads, writes, transactions, compaction.

use async_trait::async_trait;
use calico_store::mvcc::{Op, OpResult, Refusal, Txn};
use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbKvService, PbPutRequest,
    PbPutResponse, PbRangeRequest, PbRangeResponse, PbRangeStreamResponse, PbTxnRequest, PbTxnResponse,
};
use futures::stream::Empty;
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::{
    Api, request, response,
    status::{check_size, not_offered, refused, write_failed},
};
use crate::WriteError;

impl Api {
    /// One write by itself; what it did, and at which revision.
    async fn write(&self, op: Op) -> Result<(OpResult, i64), WriteError> {
        let mut result = self.datastore.txn(Txn::always(vec![op])).await?;
        let done = result.results.pop().expect("a transaction of one operation has one result");
        Ok((done, result.revision))
    }

    /// etcd looks for the lease of a put by itself before it looks for the key, and in a transaction the other way
    /// round, as the core does.
    fn put_failed(&self, error: WriteError, lease: i64) -> Status {
        match error {
            WriteError::Refused(Refusal::KeyNotFound) if lease != 0 && self.datastore.lease(lease).is_err() => {
                refused(Refusal::LeaseNotFound)
            }
            error => write_failed(error),
        }
    }
}

#[async_trait]
impl PbKvService for Api {
    async fn range(&self, request: Request<PbRangeRequest>) -> Result<Response<PbRangeResponse>, Status> {
        let request = request.into_inner();
        check_size(request.encoded_len(), false)?;
        let read = request::range(request)?;
        let (result, revision) = self.datastore.range(&read).map_err(refused)?;
        Ok(Response::new(response::range(&result, self.header(revision))))
    }

    type RangeStreamStream = Empty<Result<PbRangeStreamResponse, Status>>;

    async fn range_stream(&self, _: Request<PbRangeRequest>) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(not_offered("RangeStream", "use Range, with a limit to read in pages"))
    }

    async fn put(&self, request: Request<PbPutRequest>) -> Result<Response<PbPutResponse>, Status> {
        let request = request.into_inner();
        let (size, lease) = (request.encoded_len(), request.lease);
        let (op, prev_kv) = request::put(request)?;
        check_size(size, true)?;
        let (done, revision) = self.write(op).await.map_err(|error| self.put_failed(error, lease))?;
        let OpResult::Put(before) = done else { unreachable!("a put has a put's result") };
        Ok(Response::new(response::put(before.as_ref(), prev_kv, self.header(revision))))
    }

    async fn delete_range(&self, request: Request<PbDeleteRequest>) -> Result<Response<PbDeleteResponse>, Status> {
        let request = request.into_inner();
        let size = request.encoded_len();
        let (op, prev_kv) = request::delete(request)?;
        check_size(size, true)?;
        let (done, revision) = self.write(op).await.map_err(write_failed)?;
        let OpResult::Delete(gone) = done else { unreachable!("a deletion has a deletion's result") };
        Ok(Response::new(response::delete(&gone, prev_kv, self.header(revision))))
    }

    async fn txn(&self, request: Request<PbTxnRequest>) -> Result<Response<PbTxnResponse>, Status> {
        let request = request.into_inner();
        let size = request.encoded_len();
        let (txn, asked) = request::txn(request)?;
        txn.validate().map_err(refused)?;
        check_size(size, !txn.only_reads())?;
        let result = self.datastore.txn(txn).await.map_err(write_failed)?;
        Ok(Response::new(response::txn(&result, &asked, self.header(result.revision))))
    }

    /// The datastore gives up what is superfluous at once, so that a compaction is always a physical one.
    async fn compact(&self, request: Request<PbCompactionRequest>) -> Result<Response<PbCompactionResponse>, Status> {
        let revision = self.datastore.compact(request.into_inner().revision).await.map_err(write_failed)?;
        Ok(Response::new(PbCompactionResponse { header: self.header(revision) }))
    }
}
