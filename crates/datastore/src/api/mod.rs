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
//! - Nothing here holds data: a slow client is a cursor into the history, one batch of a megabyte and two answers in
//!   flight, whatever happened meanwhile.
//! - When the server stops, every stream ends with etcd's word for that, so that clients look elsewhere or come back.

mod kv;
mod lease;
mod maintenance;
mod request;
mod response;
mod status;
mod watch;

use std::{path::PathBuf, sync::Arc, time::Duration};

use etcd_client::proto::{
    PbClusterServer, PbKvServer, PbLeaseServer, PbMaintenanceServer, PbResponseHeader, PbWatchServer,
};
use tokio::sync::watch as cell;
use tonic::{Status, service::Routes};

use crate::{Datastore, tls::Peer};

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
pub(crate) struct Identity {
    /// The name of the one member: the host's.
    pub name: String,
    /// The socket, where processes of the host reach it.
    pub socket: PathBuf,
    /// Where other hosts reach it now; none while the port is closed.
    pub remote: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
}

impl Identity {
    /// Where a client reaches it: a local one by the socket, too. To one that came from another host (and from where it
    /// reached this one) the socket is of no use; clients that take their endpoints from the list of members would try it.
    fn client_urls(&self, remote: Option<&Peer>) -> Vec<String> {
        let mut urls = (self.remote)();
        match remote {
            None => urls.insert(0, format!("unix://{}", self.socket.display())),
            Some(peer) => {
                // The one that surely works comes first.
                let reached = format!("https://{}", peer.to);
                urls.retain(|url| *url != reached);
                urls.insert(0, reached);
            }
        }
        urls
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_member_is_named_by_where_the_client_can_reach_it() {
        let open = |urls: &'static [&str]| Identity {
            name: "host-1".into(),
            socket: "/run/x.sock".into(),
            remote: Arc::new(move || urls.iter().map(|url| (*url).to_owned()).collect()),
        };
        assert_eq!(open(&[]).client_urls(None), ["unix:///run/x.sock"]);
        let served = open(&["https://10.0.0.1:2379", "https://[fd00::1]:2379"]);
        assert_eq!(served.client_urls(None), ["unix:///run/x.sock", "https://10.0.0.1:2379", "https://[fd00::1]:2379"]);
        let from = std::net::SocketAddr::from(([10, 0, 0, 2], 40_000));
        let peer = |to: &str| {
            let to = to.parse().unwrap_or(from);
            Peer { host: "host-2".into(), serial: String::new(), from, to }
        };
        let urls = served.client_urls(Some(&peer("[fd00::1]:2379")));
        assert_eq!(urls, ["https://[fd00::1]:2379", "https://10.0.0.1:2379"]);
        assert_eq!(open(&[]).client_urls(Some(&peer("10.0.0.7:2379"))), ["https://10.0.0.7:2379"]);
    }
}
