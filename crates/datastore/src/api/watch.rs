//! Watches: any number on one stream, each a cursor into the history.
//!
//! One task serves a stream. Whenever the durable revision moves, and whenever the client asks for something, it goes
//! round its watches and sends what each has missed, a batch of each in turn. It waits for the client to take an
//! answer before it makes the next but one, so that a client that does not read costs the same as one that does; what
//! it misses stays in the history, and once that is compacted its watch ends with the compaction's revision.
//!
//! As in etcd an id is taken until its watch is cancelled by the client, also after the watch ended by itself.

use std::collections::BTreeMap;

use async_trait::async_trait;
use calico_store::mvcc::{KeyRange, Refusal, WatchEvent};
use etcd_client::proto::{PbWatchRequest, PbWatchRequestUnion, PbWatchResponse, PbWatchService};
use futures::FutureExt as _;
use tokio::{
    sync::mpsc,
    task,
    time::{self, Instant, MissedTickBehavior},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Api, MAX_REQUEST, response, status};
use crate::{Subscription, Watch};

/// Answers that wait for the client.
const IN_FLIGHT: usize = 2;
/// The id under which what concerns no single watch is sent, and of a watch that could not be made.
const NO_WATCH: i64 = -1;
/// Filters on the wire.
const NO_PUT: i32 = 0;
const NO_DELETE: i32 = 1;

/// The stream is over: the client is gone, or the server stops.
#[derive(Debug)]
struct Over;

#[async_trait]
impl PbWatchService for Api {
    type WatchStream = ReceiverStream<Result<PbWatchResponse, Status>>;

    async fn watch(&self, request: Request<Streaming<PbWatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let (answers, client) = mpsc::channel(IN_FLIGHT);
        let stream = Stream { api: self.clone(), answers, watches: BTreeMap::new(), next_id: 0 };
        tokio::spawn(stream.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(client)))
    }
}

/// One watch of a stream.
struct Watched {
    /// `None` once it has ended by itself.
    subscription: Option<Subscription>,
    /// A revision too large for one answer may be cut.
    fragment: bool,
    /// The client wants to hear from time to time how far the watch is.
    progress: bool,
    /// Nothing was sent since the last time that was told.
    quiet: bool,
}

/// A stream and all its watches.
struct Stream {
    api: Api,
    answers: mpsc::Sender<Result<PbWatchResponse, Status>>,
    watches: BTreeMap<i64, Watched>,
    next_id: i64,
}

impl Stream {
    /// Serves the stream until the client or the server ends it.
    async fn run(mut self, mut requests: Streaming<PbWatchRequest>) {
        // Whoever ended it knows.
        let _ = self.serve(&mut requests).await;
    }

    async fn serve(&mut self, requests: &mut Streaming<PbWatchRequest>) -> Result<(), Over> {
        let api = self.api.clone();
        let answers = self.answers.clone();
        let mut revision = api.datastore.revision();
        let mut progress = time::interval_at(Instant::now() + api.progress_interval, api.progress_interval);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A client that has said all it has to say goes on listening.
        let mut listening = true;
        loop {
            revision.borrow_and_update();
            let behind = self.deliver().await?;
            tokio::select! {
                request = requests.message(), if listening => match request {
                    Ok(Some(request)) => self.handle(request).await?,
                    Ok(None) => listening = false,
                    Err(_) => return Err(Over),
                },
                changed = revision.changed() => changed.map_err(|_| Over)?,
                () = std::future::ready(()), if behind => {}
                _ = progress.tick() => self.tell_progress().await?,
                stopped = api.stopped() => {
                    // If the client does not take it, its connection ends all the same.
                    let _ = answers.try_send(Err(stopped));
                    return Err(Over);
                }
                () = answers.closed() => return Err(Over),
            }
        }
    }

    async fn handle(&mut self, request: PbWatchRequest) -> Result<(), Over> {
        match request.request_union {
            Some(PbWatchRequestUnion::CreateRequest(create)) => {
                let key = if create.key.is_empty() { vec![0] } else { create.key };
                let range = KeyRange::from_wire(key, create.range_end);
                // Without a revision from the one after that which the answer names.
                let present = self.api.datastore.durable();
                let start = if create.start_revision == 0 { present + 1 } else { create.start_revision };
                let watch = Watch {
                    range,
                    start: Some(start),
                    puts: !create.filters.contains(&NO_PUT),
                    deletes: !create.filters.contains(&NO_DELETE),
                    previous: create.prev_kv,
                };
                self.create(create.watch_id, present, watch, create.fragment, create.progress_notify).await
            }
            Some(PbWatchRequestUnion::CancelRequest(cancel)) => self.cancel(cancel.watch_id).await,
            Some(PbWatchRequestUnion::ProgressRequest(_)) => self.tell_progress_of_all().await,
            None => Ok(()),
        }
    }

    async fn create(
        &mut self,
        wished: i64,
        present: i64,
        watch: Watch,
        fragment: bool,
        progress: bool,
    ) -> Result<(), Over> {
        let header = self.api.header(present);
        let created = PbWatchResponse { header, created: true, ..PbWatchResponse::default() };
        let watch_id = match self.take_id(wished, &watch.range) {
            Ok(id) => id,
            Err(reason) => {
                let cancel_reason = reason.to_owned();
                return self
                    .send(PbWatchResponse { watch_id: NO_WATCH, canceled: true, cancel_reason, ..created })
                    .await;
            }
        };
        let subscription = Some(self.api.datastore.watch(watch));
        self.watches.insert(watch_id, Watched { subscription, fragment, progress, quiet: true });
        self.send(PbWatchResponse { watch_id, ..created }).await
    }

    /// The id that the client wishes, or the next free one if it wishes none; or why there is no such watch.
    fn take_id(&mut self, wished: i64, range: &KeyRange) -> Result<i64, &'static str> {
        if let KeyRange::Span(start, Some(end)) = range
            && end <= start
        {
            return Err("mvcc: watcher range is empty");
        }
        if wished == 0 {
            while self.watches.contains_key(&self.next_id) {
                self.next_id += 1;
            }
            self.next_id += 1;
            return Ok(self.next_id - 1);
        }
        if self.watches.contains_key(&wished) {
            return Err("mvcc: duplicate watch ID provided on the WatchStream");
        }
        Ok(wished)
    }

    /// A watch that is not there is not worth an answer.
    async fn cancel(&mut self, id: i64) -> Result<(), Over> {
        if self.watches.remove(&id).is_none() {
            return Ok(());
        }
        let header = self.api.header_now();
        self.send(PbWatchResponse { header, watch_id: id, canceled: true, ..PbWatchResponse::default() }).await
    }

    /// Sends each watch's next batch. True if some may have more.
    async fn deliver(&mut self) -> Result<bool, Over> {
        let mut behind = false;
        let ids: Vec<i64> = self.watches.keys().copied().collect();
        for id in ids {
            let Some(watch) = self.watches.get_mut(&id) else { continue };
            let Some(subscription) = &mut watch.subscription else { continue };
            // Out of the runtime's turn-taking, which would let it seem that nothing has happened.
            match task::unconstrained(subscription.next()).now_or_never() {
                None => {}
                Some(Ok((events, revision))) => {
                    behind = true;
                    watch.quiet = false;
                    let fragment = watch.fragment;
                    self.send_events(id, fragment, events, revision).await?;
                }
                Some(Err(refusal)) => {
                    watch.subscription = None;
                    self.send(ended(id, refusal)).await?;
                }
            }
        }
        Ok(behind)
    }

    async fn send_events(
        &mut self,
        id: i64,
        fragment: bool,
        events: Vec<WatchEvent>,
        revision: i64,
    ) -> Result<(), Over> {
        let header = self.api.header(revision);
        for part in split(&events, fragment, MAX_REQUEST) {
            let events = part.events.iter().map(response::event).collect();
            let fragment = part.continues;
            self.send(PbWatchResponse { header, watch_id: id, fragment, events, ..PbWatchResponse::default() }).await?;
        }
        Ok(())
    }

    /// Tells the watches that asked for it, and got nothing since the last time, how far they are.
    async fn tell_progress(&mut self) -> Result<(), Over> {
        let mut quiet = Vec::new();
        for (id, watch) in &mut self.watches {
            if let Some(subscription) = watch.subscription.as_ref().filter(|_| watch.progress && watch.quiet) {
                quiet.push((*id, subscription.synced()));
            }
            watch.quiet = true;
        }
        for (watch_id, synced) in quiet {
            let header = self.api.header(synced);
            self.send(PbWatchResponse { header, watch_id, ..PbWatchResponse::default() }).await?;
        }
        Ok(())
    }

    /// Says a revision up to which every watch of the stream has been told everything: the present one.
    async fn tell_progress_of_all(&mut self) -> Result<(), Over> {
        let present = self.api.datastore.durable();
        while self.deliver().await? && self.is_behind(present) {}
        let header = self.api.header(present);
        self.send(PbWatchResponse { header, watch_id: NO_WATCH, ..PbWatchResponse::default() }).await
    }

    fn is_behind(&self, revision: i64) -> bool {
        let mut running = self.watches.values().filter_map(|watch| watch.subscription.as_ref());
        running.any(|subscription| subscription.synced() < revision)
    }

    async fn send(&self, answer: PbWatchResponse) -> Result<(), Over> {
        tokio::select! {
            sent = self.answers.send(Ok(answer)) => sent.map_err(|_| Over),
            _ = self.api.stopped() => Err(Over),
        }
    }
}

/// The last answer of a watch that cannot go on.
fn ended(watch_id: i64, refusal: Refusal) -> PbWatchResponse {
    let answer = PbWatchResponse { header: Some(Default::default()), watch_id, canceled: true, ..Default::default() };
    match refusal {
        Refusal::Compacted(compact_revision) => PbWatchResponse { compact_revision, ..answer },
        other => PbWatchResponse { cancel_reason: status::refused(other).message().to_owned(), ..answer },
    }
}

/// Events that go out in one answer.
#[derive(Debug, PartialEq, Eq)]
struct Part<'a> {
    events: &'a [WatchEvent],
    /// The revision goes on in the next answer.
    continues: bool,
}

/// Cuts events into answers of at most `limit` bytes: between two revisions, and within one only if the client can put
/// it together again.
fn split(events: &[WatchEvent], fragment: bool, limit: usize) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut start, mut size) = (0, 0);
    // Where the last revision of the running part begins, and how large it is by now.
    let (mut boundary, mut since) = (0, 0);
    for (index, event) in events.iter().enumerate() {
        let more = response::event_size(event);
        if index > 0 && events[index - 1].revision() != event.revision() {
            (boundary, since) = (index, 0);
        }
        if size + more > limit && index > start {
            if boundary > start {
                parts.push(Part { events: &events[start..boundary], continues: false });
                (start, size) = (boundary, since);
            }
            if fragment && size + more > limit && index > start {
                parts.push(Part { events: &events[start..index], continues: true });
                (start, size, since) = (index, 0, 0);
            }
        }
        size += more;
        since += more;
    }
    if start < events.len() {
        parts.push(Part { events: &events[start..], continues: false });
    }
    parts
}

#[cfg(test)]
mod tests;
