//! The same random operations to a real etcd and to ours: every answer, every error, every event must be equal.
//!
//! Both begin empty, and every operation goes to both, so that revisions are equal as they are. Ids of clusters and
//! members and raft's term are left out of the comparison. A difference is reported with the seed and with the least
//! operations that show it on fresh servers.
//!
//! `DIFF_SECONDS` says for how long (15), `DIFF_SEED` where to begin.
//!
//! Differences on purpose, which are kept out of the comparison:
//!
//! - A watch from the compacted revision on, made where that revision deleted a key: etcd 3.4 has lost the deletion
//!   (mended in 3.5.18), ours tells it.
//! - A negative revision to begin a watch at, or to read at within a transaction: as long as nothing was compacted
//!   etcd says that -1 is the compacted revision; for ours it is 0. After a compaction they agree. For the same
//!   reason etcd lets itself be compacted once at revision 0.
//! - A transaction that deletes a key by a range without an end, or in a nested transaction, and then puts it keeping
//!   its value or lease: etcd ends in a panic, ours refuses it whole.

mod edges;
mod generate;
mod op;

use std::{
    collections::BTreeSet,
    env,
    time::{Duration, Instant},
};

use etcd_client::proto::{PbDeleteRequest, PbPutRequest, PbWatchRequest, PbWatchRequestUnion};
use generate::Random;
use op::{Answer, Op, play};
use tokio::time::sleep;

use crate::{
    client::{Client, Item, Seen, Watches},
    etcd::{PATIENCE, PrivateEtcd},
    ours::Ours,
};

/// Operations of one case.
const CASE: u64 = 60;
/// After so many cases both begin anew, so that a difference cannot need more than that.
const CASES_PER_PAIR: u64 = 60;

/// A real etcd and ours.
struct Pair {
    _etcd: PrivateEtcd,
    _ours: Ours,
    theirs: Client,
    mine: Client,
    revision: i64,
    /// Where history was cut.
    compacted: BTreeSet<i64>,
}

/// What differs.
#[derive(Debug)]
struct Difference {
    at: String,
    etcd: String,
    ours: String,
}

impl Difference {
    /// On a machine whose disk stalls for seconds etcd gives an operation up, and nobody knows what became of it.
    fn is_overload(&self) -> bool {
        ["request timed out", "leader changed", "no leader"].iter().any(|cause| self.etcd.contains(cause))
    }
}

impl Pair {
    async fn start() -> Self {
        let etcd = PrivateEtcd::start().await;
        let ours = Ours::start().await;
        let (theirs, mine) = (Client::of(&etcd.endpoint()), Client::of(&ours.endpoint()));
        // A private etcd listens before it has a leader.
        crate::etcd::wait_for("etcd leads", async || {
            let answer = play(&theirs, &Op::Leases).await;
            answer.text.starts_with("LeaseLeases").then_some(())
        })
        .await;
        Self { _etcd: etcd, _ours: ours, theirs, mine, revision: 1, compacted: BTreeSet::new() }
    }

    /// Nothing is left of the case before, except revisions.
    async fn clean(&mut self) -> Result<(), Difference> {
        let all = PbDeleteRequest { key: vec![0], range_end: vec![0], prev_kv: true };
        self.call(&Op::Delete(all)).await?;
        for id in [1, 2, 3, 4] {
            self.call(&Op::Revoke(id)).await?;
        }
        Ok(())
    }

    async fn call(&mut self, op: &Op) -> Result<Answer, Difference> {
        let (etcd, ours) = tokio::join!(play(&self.theirs, op), play(&self.mine, op));
        if etcd != ours {
            return Err(Difference { at: format!("{op:?}"), etcd: format!("{etcd:?}"), ours: format!("{ours:?}") });
        }
        self.revision = etcd.revision.unwrap_or(0).max(self.revision);
        if let Op::Compact(request) = op
            && etcd.revision.is_some()
        {
            self.compacted.insert(request.revision);
        }
        Ok(etcd)
    }

    /// Plays a whole case.
    async fn play(&mut self, ops: &[Op]) -> Result<(), Difference> {
        self.clean().await?;
        let (theirs, mine) = tokio::join!(self.theirs.watch(), self.mine.watch());
        let mut streams = Streams { theirs, mine, settled: 0 };
        for op in ops {
            if op.hurts_watches() {
                self.settle(&mut streams).await?;
            }
            match op.resolved(self.revision) {
                Op::Watch(request) => streams.send(request).await,
                Op::CancelWatch(watch_id) => streams.send(cancel(watch_id)).await,
                op => {
                    self.call(&op).await?;
                }
            }
        }
        self.settle(&mut streams).await
    }

    /// Waits until both have told their watches everything, and compares what they told.
    ///
    /// etcd brings watches that begin in the past up to the present ten times a second, all in one go, and does not
    /// show it where there is nothing to tell. So one more such watch is made, which has something to be told.
    async fn settle(&mut self, streams: &mut Streams) -> Result<(), Difference> {
        let put = PbPutRequest { key: SENTINEL.to_vec(), ..PbPutRequest::default() };
        self.call(&Op::Put(put)).await?;
        streams.settled += 1;
        let id = FIRST_SENTINEL + streams.settled;
        streams.send(watch_sentinel(id, self.revision)).await;
        let (theirs, mine) = (&streams.theirs, &streams.mine);
        tokio::join!(theirs.until("etcd's watches", id), mine.until("our watches", id));
        streams.send(cancel(id)).await;
        streams.compare(&self.compacted).await
    }
}

/// The key, and the least id but one, of watches that tell that others have been told everything.
const SENTINEL: &[u8] = b"sentinel";
const FIRST_SENTINEL: i64 = 1_000_000;

fn watch_sentinel(watch_id: i64, revision: i64) -> PbWatchRequest {
    let mut union = PbWatchRequestUnion::CreateRequest(Default::default());
    if let PbWatchRequestUnion::CreateRequest(create) = &mut union {
        (create.key, create.start_revision, create.watch_id) = (SENTINEL.to_vec(), revision, watch_id);
    }
    PbWatchRequest { request_union: Some(union) }
}

fn cancel(watch_id: i64) -> PbWatchRequest {
    let mut union = PbWatchRequestUnion::CancelRequest(Default::default());
    if let PbWatchRequestUnion::CancelRequest(cancel) = &mut union {
        cancel.watch_id = watch_id;
    }
    PbWatchRequest { request_union: Some(union) }
}

/// One stream of watches at each.
struct Streams {
    theirs: Watches,
    mine: Watches,
    settled: i64,
}

impl Streams {
    async fn send(&mut self, request: PbWatchRequest) {
        tokio::join!(self.theirs.send(request.clone()), self.mine.send(request));
        tokio::join!(self.theirs.barrier(), self.mine.barrier());
    }

    /// After a barrier our watches have been told everything; what etcd told may still be on its way.
    async fn compare(&mut self, compacted: &BTreeSet<i64>) -> Result<(), Difference> {
        let ours = comparable(self.mine.seen(), compacted);
        if let Some(wrong) = ours.wrongs.first() {
            return Err(Difference { at: wrong.clone(), etcd: String::new(), ours: format!("{ours:#?}") });
        }
        let deadline = Instant::now() + PATIENCE / 4;
        loop {
            let etcd = comparable(self.theirs.seen(), compacted);
            if etcd.items == ours.items {
                return Ok(());
            }
            if Instant::now() > deadline || too_much(&etcd, &ours) {
                let (etcd, ours) = (format!("{:?}", etcd.items), format!("{:?}", ours.items));
                return Err(Difference { at: "watches".to_owned(), etcd, ours });
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// True if waiting cannot make them equal.
fn too_much(etcd: &Seen, ours: &Seen) -> bool {
    let none = Vec::new();
    etcd.items.iter().any(|(id, items)| !ours.items.get(id).unwrap_or(&none).starts_with(items))
}

/// Without deletions that etcd 3.4 loses.
fn comparable(mut seen: Seen, compacted: &BTreeSet<i64>) -> Seen {
    for items in seen.items.values_mut() {
        items.retain(|item| match item {
            Item::Event(event) => {
                let at = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
                event.r#type == 0 || !compacted.contains(&at)
            }
            _ => true,
        });
    }
    seen
}

/// Fresh servers, the whole case; the difference if there still is one.
async fn replay(ops: &[Op]) -> Option<Difference> {
    Pair::start().await.play(ops).await.err()
}

/// Leaves out whatever can be left out.
async fn shrink(mut ops: Vec<Op>) -> (Vec<Op>, Option<Difference>) {
    let Some(mut difference) = replay(&ops).await else { return (ops, None) };
    let mut size = ops.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < ops.len() {
            let mut fewer = ops.clone();
            fewer.drain(at..(at + size).min(fewer.len()));
            match replay(&fewer).await {
                Some(smaller) => (ops, difference) = (fewer, smaller),
                None => at += size,
            }
        }
        size /= 2;
    }
    (ops, Some(difference))
}

fn case(seed: u64) -> Vec<Op> {
    let mut random = Random::new(seed);
    (0..CASE).map(|_| generate::op(&mut random)).collect()
}

#[tokio::test]
async fn it_answers_as_etcd_does() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let until = Instant::now() + Duration::from_secs(number("DIFF_SECONDS").unwrap_or(15));
    let mut seed = number("DIFF_SEED").unwrap_or(0);
    let mut operations = 0;
    while Instant::now() < until {
        let mut pair = Pair::start().await;
        for _ in 0..CASES_PER_PAIR {
            if Instant::now() >= until {
                break;
            }
            let ops = case(seed);
            if let Err(first) = pair.play(&ops).await {
                if first.is_overload() {
                    println!("etcd gave up at {}; both begin anew", first.at);
                    break;
                }
                let (least, difference) = shrink(ops).await;
                let shown = difference.as_ref().unwrap_or(&first);
                let again = if difference.is_some() { "" } else { " (not so on fresh servers)" };
                let ops: String = least.iter().map(|op| format!("  {op:?}\n")).collect();
                panic!(
                    "etcd and ours differ{again}, DIFF_SEED={seed}\nat:   {}\netcd: {}\nours: {}\noperations:\n{ops}",
                    shown.at, shown.etcd, shown.ours
                );
            }
            seed += 1;
            operations += CASE;
        }
    }
    println!("{operations} operations, seeds up to {seed}");
    assert!(operations > 0, "no case was played in time");
}
