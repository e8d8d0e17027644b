//! What is asked about the server itself: its state, its alarms, its members.
//!
//! There is one member, and it stays the only one. Copies of the data are made by `calicoctl datastore backup`, since
//! the database is not etcd's and `etcdctl snapshot restore` could do nothing with it.

use async_trait::async_trait;
use etcd_client::proto::{
    PbAlarmMember, PbAlarmRequest, PbAlarmResponse, PbClusterService, PbDefragmentRequest, PbDefragmentResponse,
    PbDowngradeRequest, PbDowngradeResponse, PbHashKvRequest, PbHashKvResponse, PbHashRequest, PbHashResponse,
    PbMaintenanceService, PbMember, PbMemberAddRequest, PbMemberAddResponse, PbMemberListRequest, PbMemberListResponse,
    PbMemberPromoteRequest, PbMemberPromoteResponse, PbMemberRemoveRequest, PbMemberRemoveResponse,
    PbMemberUpdateRequest, PbMemberUpdateResponse, PbMoveLeaderRequest, PbMoveLeaderResponse, PbSnapshotRequest,
    PbSnapshotResponse, PbStatusRequest, PbStatusResponse,
};
use futures::stream::Empty;
use tonic::{Request, Response, Status};

use super::{
    Api, RAFT_TERM, VERSION,
    status::{not_offered, write_failed},
};
use crate::tls::Peer;

/// The alarm that etcd raises when its disk is full.
const NO_SPACE: i32 = 1;
/// The action that only asks for alarms.
const GET: i32 = 0;

/// Where to go from one member to several.
const MIGRATE: &str = "it has one member; move to an etcd of several with `calicoctl datastore migrate`";
const ONE_COPY: &str = "it is the only copy, there is nothing to compare with; `calicoctl datastore check` checks it";

#[async_trait]
impl PbMaintenanceService for Api {
    /// The alarm of a full disk ends by itself when there is room; deactivating it is therefore never wrong.
    async fn alarm(&self, request: Request<PbAlarmRequest>) -> Result<Response<PbAlarmResponse>, Status> {
        const ACTIVATE: i32 = 1;
        let action = request.into_inner().action;
        if action == ACTIVATE {
            return Err(not_offered("alarms by hand", "the one of a full disk comes and goes by itself"));
        }
        let full = action == GET && self.datastore.status().full;
        let alarms = full.then_some(PbAlarmMember { member_id: self.member, alarm: NO_SPACE }).into_iter().collect();
        Ok(Response::new(PbAlarmResponse { header: self.header_now(), alarms }))
    }

    async fn status(&self, _: Request<PbStatusRequest>) -> Result<Response<PbStatusResponse>, Status> {
        let status = self.datastore.status();
        let size = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        // Every revision is one entry of the log that a cluster would keep.
        let index = u64::try_from(status.revision).unwrap_or(0);
        Ok(Response::new(PbStatusResponse {
            header: self.header(status.revision),
            version: VERSION.to_owned(),
            db_size: size(status.bytes),
            db_size_in_use: size(status.bytes_in_use),
            leader: self.member,
            raft_index: index,
            raft_applied_index: index,
            raft_term: RAFT_TERM,
            errors: status.trouble.into_iter().collect(),
            ..PbStatusResponse::default()
        }))
    }

    async fn defragment(&self, _: Request<PbDefragmentRequest>) -> Result<Response<PbDefragmentResponse>, Status> {
        self.datastore.shrink().await.map_err(write_failed)?;
        Ok(Response::new(PbDefragmentResponse { header: self.header_now() }))
    }

    async fn hash(&self, _: Request<PbHashRequest>) -> Result<Response<PbHashResponse>, Status> {
        Err(not_offered("Hash", ONE_COPY))
    }

    async fn hash_kv(&self, _: Request<PbHashKvRequest>) -> Result<Response<PbHashKvResponse>, Status> {
        Err(not_offered("HashKV", ONE_COPY))
    }

    type SnapshotStream = Empty<Result<PbSnapshotResponse, Status>>;

    async fn snapshot(&self, _: Request<PbSnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(not_offered("Snapshot", "its database is not etcd's; use `calicoctl datastore backup`, or `export`"))
    }

    async fn move_leader(&self, _: Request<PbMoveLeaderRequest>) -> Result<Response<PbMoveLeaderResponse>, Status> {
        Err(not_offered("MoveLeader", MIGRATE))
    }

    async fn downgrade(&self, _: Request<PbDowngradeRequest>) -> Result<Response<PbDowngradeResponse>, Status> {
        Err(not_offered("Downgrade", "its version is calico-node's"))
    }
}

#[async_trait]
impl PbClusterService for Api {
    async fn member_list(
        &self,
        request: Request<PbMemberListRequest>,
    ) -> Result<Response<PbMemberListResponse>, Status> {
        let member = PbMember {
            id: self.member,
            name: self.identity.name.clone(),
            peer_ur_ls: Vec::new(),
            client_ur_ls: self.identity.client_urls(request.extensions().get::<Peer>()),
            is_learner: false,
        };
        Ok(Response::new(PbMemberListResponse { header: self.header_now(), members: vec![member] }))
    }

    async fn member_add(&self, _: Request<PbMemberAddRequest>) -> Result<Response<PbMemberAddResponse>, Status> {
        Err(not_offered("MemberAdd", MIGRATE))
    }

    async fn member_remove(
        &self,
        _: Request<PbMemberRemoveRequest>,
    ) -> Result<Response<PbMemberRemoveResponse>, Status> {
        Err(not_offered("MemberRemove", MIGRATE))
    }

    async fn member_update(
        &self,
        _: Request<PbMemberUpdateRequest>,
    ) -> Result<Response<PbMemberUpdateResponse>, Status> {
        Err(not_offered("MemberUpdate", MIGRATE))
    }

    async fn member_promote(
        &self,
        _: Request<PbMemberPromoteRequest>,
    ) -> Result<Response<PbMemberPromoteResponse>, Status> {
        Err(not_offered("MemberPromote", MIGRATE))
    }
}
