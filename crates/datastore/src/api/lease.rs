//! Leases: granted, kept alive, looked at, revoked.

use async_trait::async_trait;
use etcd_client::proto::{
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse, PbLeaseLeasesRequest,
    PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse, PbLeaseService, PbLeaseStatus,
    PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse,
};
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tonic::{Request, Response, Status, Streaming};

use super::{Api, status::write_failed};

impl Api {
    fn kept_alive(&self, id: i64) -> PbLeaseKeepAliveResponse {
        let header = self.header_now();
        // A lease that is gone lives for no time; that is all that the client is told.
        let ttl = self.datastore.keep_alive(id).unwrap_or(0);
        PbLeaseKeepAliveResponse { header, id, ttl }
    }

    /// The answer to the client's next wish to keep a lease alive; `None` when it is through.
    async fn next_kept_alive(
        &self,
        requests: &mut Streaming<PbLeaseKeepAliveRequest>,
    ) -> Option<Result<PbLeaseKeepAliveResponse, Status>> {
        tokio::select! {
            request = requests.message() => match request {
                Ok(Some(request)) => Some(Ok(self.kept_alive(request.id))),
                // The client is through, or gone.
                Ok(None) | Err(_) => None,
            },
            stopped = self.stopped() => Some(Err(stopped)),
        }
    }
}

#[async_trait]
impl PbLeaseService for Api {
    async fn lease_grant(
        &self,
        request: Request<PbLeaseGrantRequest>,
    ) -> Result<Response<PbLeaseGrantResponse>, Status> {
        let PbLeaseGrantRequest { ttl, id } = request.into_inner();
        let (id, ttl) = self.datastore.grant(id, ttl).await.map_err(write_failed)?;
        Ok(Response::new(PbLeaseGrantResponse { header: self.header_now(), id, ttl, error: String::new() }))
    }

    async fn lease_revoke(
        &self,
        request: Request<PbLeaseRevokeRequest>,
    ) -> Result<Response<PbLeaseRevokeResponse>, Status> {
        let revision = self.datastore.revoke(request.into_inner().id).await.map_err(write_failed)?;
        Ok(Response::new(PbLeaseRevokeResponse { header: self.header(revision) }))
    }

    type LeaseKeepAliveStream = BoxStream<'static, Result<PbLeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<PbLeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let begin = Some((self.clone(), request.into_inner()));
        let answers = stream::unfold(begin, |state| async move {
            let (api, mut requests) = state?;
            let answer = api.next_kept_alive(&mut requests).await?;
            // After an error there is nothing more to say.
            let state = answer.is_ok().then_some((api, requests));
            Some((answer, state))
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<PbLeaseTimeToLiveRequest>,
    ) -> Result<Response<PbLeaseTimeToLiveResponse>, Status> {
        let PbLeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let header = self.header_now();
        let answer = match self.datastore.lease(id) {
            Ok(lease) => PbLeaseTimeToLiveResponse {
                header,
                id,
                ttl: i64::try_from(lease.remaining.as_secs()).unwrap_or(i64::MAX),
                granted_ttl: lease.ttl,
                keys: if keys { lease.keys.iter().map(|key| key.to_vec()).collect() } else { Vec::new() },
            },
            Err(_) => PbLeaseTimeToLiveResponse { header, id, ttl: -1, granted_ttl: 0, keys: Vec::new() },
        };
        Ok(Response::new(answer))
    }

    async fn lease_leases(&self, _: Request<PbLeaseLeasesRequest>) -> Result<Response<PbLeaseLeasesResponse>, Status> {
        let leases = self.datastore.leases().into_iter().map(|id| PbLeaseStatus { id }).collect();
        Ok(Response::new(PbLeaseLeasesResponse { header: self.header_now(), leases }))
    }
}
