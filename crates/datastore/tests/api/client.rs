//! A client that sends any message, also such as no client library would, and shows the answer as text.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use etcd_client::proto::{PbEvent, PbResponseHeader, PbWatchRequest, PbWatchRequestUnion, PbWatchResponse};
use hyper::http::uri::PathAndQuery;
use tokio::{sync::mpsc, sync::watch as cell, task::JoinHandle, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status,
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use crate::etcd::{PATIENCE, wait_for};

/// A server, by its channel.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
}

impl Client {
    /// Of `endpoint`, `http://…` or `unix://…`.
    pub fn of(endpoint: &str) -> Self {
        Self { channel: Endpoint::from_shared(endpoint.to_owned()).unwrap().connect_lazy() }
    }

    fn grpc(&self) -> Grpc<Channel> {
        Grpc::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// One call, one answer.
    pub async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = self.grpc();
        grpc.ready().await.unwrap();
        let answer = grpc.unary(Request::new(request), PathAndQuery::from_static(path), codec::<Q, A>());
        Ok(timeout(PATIENCE, answer).await.unwrap_or_else(|_| panic!("{path}: no answer"))?.into_inner())
    }

    /// One message on a stream, and the first answer to it.
    pub async fn first<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = self.grpc();
        grpc.ready().await.unwrap();
        let requests = Request::new(tokio_stream::iter([request]));
        let mut answers =
            grpc.streaming(requests, PathAndQuery::from_static(path), codec::<Q, A>()).await?.into_inner();
        Ok(answers.message().await?.expect("an answer"))
    }

    /// A stream of watches.
    pub async fn watch(&self) -> Watches {
        let (requests, to_server) = mpsc::channel(16);
        let mut grpc = self.grpc();
        grpc.ready().await.unwrap();
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let codec = codec::<PbWatchRequest, PbWatchResponse>();
        // etcd answers only when there is something to answer.
        let opening = grpc.streaming(Request::new(ReceiverStream::new(to_server)), path, codec);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let barriers = cell::Sender::new(0);
        let (keep, told) = (seen.clone(), barriers.clone());
        // etcd opens its side of the stream with the first answer, so something has to be asked.
        requests.try_send(progress()).unwrap();
        let mut answers = opening.await.unwrap().into_inner();
        let reader = tokio::spawn(async move {
            while let Ok(Some(answer)) = answers.message().await {
                let barrier = answer.watch_id == -1 && !answer.created;
                keep.lock().unwrap().take(answer);
                if barrier {
                    told.send_modify(|count| *count += 1);
                }
            }
        });
        let mut watches = Watches { requests, seen, barriers, sent: 1, reader };
        watches.passed().await;
        watches
    }
}

fn progress() -> PbWatchRequest {
    PbWatchRequest { request_union: Some(PbWatchRequestUnion::ProgressRequest(Default::default())) }
}

fn codec<Q, A>() -> ProstCodec<Q, A> {
    ProstCodec::default()
}

/// A stream of watches, and all that came over it.
pub struct Watches {
    requests: mpsc::Sender<PbWatchRequest>,
    seen: Arc<Mutex<Seen>>,
    barriers: cell::Sender<u64>,
    sent: u64,
    reader: JoinHandle<()>,
}

impl Watches {
    /// Sends a request.
    pub async fn send(&self, request: PbWatchRequest) {
        self.requests.send(request).await.unwrap();
    }

    /// Waits until the server has taken all requests sent so far.
    pub async fn barrier(&mut self) {
        self.send(progress()).await;
        self.sent += 1;
        self.passed().await;
    }

    async fn passed(&mut self) {
        let sent = self.sent;
        let mut barriers = self.barriers.subscribe();
        let passed = barriers.wait_for(|count| *count >= sent);
        timeout(PATIENCE, passed).await.expect("the stream answers").unwrap();
    }

    /// Waits until the watch `id` has been told of something.
    pub async fn until(&self, what: &str, id: i64) {
        let event = |item: &Item| matches!(item, Item::Event(_));
        let told = async || {
            let seen = self.seen.lock().unwrap();
            seen.items.get(&id).is_some_and(|items| items.iter().any(event)).then_some(())
        };
        wait_for(what, told).await;
    }

    /// What came by now.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Watches {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// What came over a stream, by the id of the watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub items: BTreeMap<i64, Vec<Item>>,
    /// What the server did that it must not, whatever another server does.
    pub wrongs: Vec<String>,
    /// The last revision that each watch has seen.
    last: BTreeMap<i64, i64>,
}

/// One thing that happened to a watch.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    Event(PbEvent),
    /// Created, or not, and why not; at which revision.
    Created {
        canceled: bool,
        reason: String,
        revision: i64,
    },
    /// Ended, by whom or what.
    Canceled {
        compacted: i64,
        reason: String,
    },
}

impl Eq for Item {}

impl Seen {
    fn take(&mut self, answer: PbWatchResponse) {
        let revision = answer.header.as_ref().map_or(0, |header| header.revision);
        let items = self.items.entry(answer.watch_id).or_default();
        if answer.created {
            items.push(Item::Created { canceled: answer.canceled, reason: answer.cancel_reason.clone(), revision });
            self.last.remove(&answer.watch_id);
        } else if answer.canceled {
            items.push(Item::Canceled { compacted: answer.compact_revision, reason: answer.cancel_reason.clone() });
        }
        if answer.watch_id == -1 && !answer.created {
            let told = self.last.values().copied().max().unwrap_or(0);
            if revision < told {
                self.wrongs.push(format!("progress {revision} after an event of {told}"));
            }
            self.items.retain(|_, items| !items.is_empty());
            return;
        }
        for event in answer.events {
            let at = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            if at > revision {
                self.wrongs.push(format!("an event of {at} in an answer of {revision}"));
            }
            if self.last.insert(answer.watch_id, at).is_some_and(|last| last > at) {
                self.wrongs.push(format!("an event of {at} after a later one"));
            }
            items.push(Item::Event(event));
        }
    }
}

/// A header without what differs between any two servers.
pub fn bare(header: &mut Option<PbResponseHeader>) {
    if let Some(header) = header {
        (header.cluster_id, header.member_id, header.raft_term) = (0, 0, 0);
    }
}
