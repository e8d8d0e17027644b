//! etcd's v3 API over gRPC, in front of a [`Datastore`].
//!
//! Who speaks to etcd speaks to this: `etcdctl`, upstream's programs and ours see the same answers, the same error
//! codes and the same texts, since clients match on them. The message types are etcd's own, from the protocol files
//! that the crate `etcd-client` carries. Served are KV, Watch, Lease, Cluster's member list and the part of
//! Maintenance that has a meaning here; everything else is [`Code::Unimplemented`](tonic::Code) with a way out.
//!
//! - [`request`] and [`response`] translate between messages and the core's types; they are pure.
//! - A request is checked whole before the datastore sees it, in etcd's order, so that of several faults the same
//!   one is reported.
//! - Nothing here holds data: a slow client is a cursor into the history and two answers in flight, whatever
//!   happened meanwhile.
//! - When the server stops, every stream ends with etcd's word for that, so that clients look elsewhere or come back.

mod kv;
mod lease;
mod maintenance;
mod request;
mod response;
mod status;
mod watch;

use std::{sync::Arc, time::Duration};

use etcd_client::proto::{
    PbClusterServer, PbKvServer, PbLeaseServer, PbMaintenanceServer, PbResponseHeader, PbWatchServer,
};
use tokio::sync::watch as cell;
use tonic::{Status, service::Routes};

use crate::Datastore;

/// The version of etcd whose API this is.
const VERSION: &str = "3.5.0";
/// There is one member and it always leads.
const RAFT_TERM: u64 = 1;
/// etcd's limit of a request that writes, in bytes.
const MAX_REQUEST: usize = 1536 * 1024;
/// etcd's limit of any message to the server, in bytes.
const MAX_MESSAGE: usize = MAX_REQUEST + 512 * 1024;
/// What is read at all, in bytes: more than [`MAX_MESSAGE`], so that a message slightly too large gets etcd's answer.
const MAX_READ: usize = 8 * MAX_MESSAGE;
/// How often a watch that asked for it is told how far it is, if nothing happens; etcd's.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(600);

/// Who this server says it is.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// The name of the one member: the host's.
    pub name: String,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
}

/// The services' common ground; cheap to clone.
#[derive(Clone)]
pub(crate) struct Api {
    datastore: Datastore,
    identity: Arc<Identity>,
    cluster: u64,
    member: u64,
    stopping: cell::Receiver<bool>,
    progress_interval: Duration,
}

impl Api {
    /// The API of `datastore`. Streams end when `stopping` becomes true.
    pub(crate) fn new(datastore: Datastore, identity: Identity, stopping: cell::Receiver<bool>) -> Self {
        let status = datastore.status();
        Self {
            datastore,
            identity: Arc::new(identity),
            cluster: status.cluster,
            member: status.member,
            stopping,
            progress_interval: PROGRESS_INTERVAL,
        }
    }

    /// The services, to be put behind a connection.
    pub(crate) fn routes(&self) -> Routes {
        let routes = Routes::new(PbKvServer::new(self.clone()).max_decoding_message_size(MAX_READ))
            .add_service(PbWatchServer::new(self.clone()).max_decoding_message_size(MAX_READ))
            .add_service(PbLeaseServer::new(self.clone()).max_decoding_message_size(MAX_READ))
            .add_service(PbClusterServer::new(self.clone()).max_decoding_message_size(MAX_READ))
            .add_service(PbMaintenanceServer::new(self.clone()).max_decoding_message_size(MAX_READ));
        let rest = async |path: hyper::Uri| status::not_served(path.path()).into_http::<tonic::body::Body>();
        Routes::from(routes.into_axum_router().fallback(rest)).prepare()
    }

    /// The header of an answer given at `revision`.
    fn header(&self, revision: i64) -> Option<PbResponseHeader> {
        Some(PbResponseHeader { cluster_id: self.cluster, member_id: self.member, revision, raft_term: RAFT_TERM })
    }

    /// The header of an answer given now.
    fn header_now(&self) -> Option<PbResponseHeader> {
        self.header(self.datastore.durable())
    }

    /// Returns when the server stops.
    async fn stopped(&self) -> Status {
        let mut stopping = self.stopping.clone();
        // Its sender going away means that the server is no more: the same.
        let _ = stopping.wait_for(|stopping| *stopping).await;
        status::stopped()
    }
}
