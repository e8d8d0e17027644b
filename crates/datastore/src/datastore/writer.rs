//! The thread that writes: takes what waits, applies it, makes it durable, answers.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use calico_store::mvcc::{Core, Op, Refusal, Txn, TxnResult};
use redb::ReadTransaction;
use tokio::sync::{mpsc, oneshot};

use super::{Facts, Shared, Shrunk, WriteError, lease_id};
use crate::disk::{Batch, CommitError, Disk, rows::Row};

/// The least number of revisions that automatic compaction leaves.
pub const KEPT_REVISIONS: i64 = 10_000;
/// The least age of what automatic compaction takes.
pub const KEPT_TIME: Duration = Duration::from_secs(600);
/// With more history than this in memory, in bytes, automatic compaction does not wait for [`KEPT_TIME`]: it leaves half
/// as much, and at least [`KEPT_UNDER_PRESSURE`].
pub const MOST_HISTORY: usize = 16 << 20;
/// The least number of revisions that is left under pressure: a watch that breaks and comes back is behind by a second or
/// two. Only when these alone take more than [`HISTORY_LIMIT`] are there fewer.
pub const KEPT_UNDER_PRESSURE: i64 = 1000;
/// The most history that there ever is in memory beside that of the last commit, in bytes.
pub const HISTORY_LIMIT: usize = 32 << 20;
/// How often the age of revisions is noted and compaction thought of.
const SAMPLE: Duration = Duration::from_secs(60);
/// A compaction of fewer revisions is not worth a commit; and under pressure.
const WORTHWHILE: i64 = 1000;
const WORTHWHILE_UNDER_PRESSURE: i64 = 500;
/// How often it is told that there is pressure.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// So many revisions are compacted in one commit: what it rewrites is free for the next one, so that a compaction
/// needs little space beside what is there. Each step is a compaction of its own, so one that ends between two steps
/// has done less, and nothing by half.
const STEP: i64 = 2000;
/// After a failure to end a lease the next try waits so long.
const PAUSE: Duration = Duration::from_secs(1);

/// What the writer is asked for.
pub(super) enum Command {
    Txn(Txn, oneshot::Sender<Result<TxnResult, WriteError>>),
    Grant { id: i64, ttl: i64, reply: oneshot::Sender<Result<(i64, i64), WriteError>> },
    Revoke(i64, oneshot::Sender<Result<i64, WriteError>>),
    Compact(i64, oneshot::Sender<Result<i64, WriteError>>),
    Snapshot(oneshot::Sender<Result<ReadTransaction, WriteError>>),
    Shrink(oneshot::Sender<Result<Shrunk, WriteError>>),
}

/// A command that stages something, and that others may share a commit with.
enum Staged {
    Txn(Txn, oneshot::Sender<Result<TxnResult, WriteError>>),
    Grant { id: i64, ttl: i64, reply: oneshot::Sender<Result<(i64, i64), WriteError>> },
    Revoke(i64, oneshot::Sender<Result<i64, WriteError>>),
}

/// The answer to a staged command, to be given once it is durable.
enum Answer {
    Txn(Result<TxnResult, Refusal>),
    Grant(Result<(i64, i64), Refusal>),
    Revoke(Result<i64, Refusal>),
}

impl Staged {
    /// True if it makes the datastore larger.
    fn grows(&self) -> bool {
        match self {
            Self::Txn(txn, _) => puts(txn),
            Self::Grant { .. } => true,
            Self::Revoke(..) => false,
        }
    }

    fn fail(self, error: WriteError) {
        // Whoever does not wait any more does not want the answer; here and below.
        match self {
            Self::Txn(_, reply) => drop(reply.send(Err(error))),
            Self::Grant { reply, .. } => drop(reply.send(Err(error))),
            Self::Revoke(_, reply) => drop(reply.send(Err(error))),
        }
    }

    fn answer(self, answer: Answer) {
        match (self, answer) {
            (Self::Txn(_, reply), Answer::Txn(result)) => drop(reply.send(result.map_err(WriteError::from))),
            (Self::Grant { reply, .. }, Answer::Grant(result)) => drop(reply.send(result.map_err(WriteError::from))),
            (Self::Revoke(_, reply), Answer::Revoke(result)) => drop(reply.send(result.map_err(WriteError::from))),
            _ => unreachable!("`apply` gives each command an answer of its kind"),
        }
    }
}

fn puts(txn: &Txn) -> bool {
    txn.then.iter().chain(&txn.otherwise).any(|op| match op {
        Op::Put { .. } => true,
        Op::Delete(_) | Op::Get(_) => false,
        Op::Txn(txn) => puts(txn),
    })
}

/// See the [module](self).
pub(super) struct Writer {
    shared: Arc<Shared>,
    disk: Disk,
    /// When the store was at which revision, oldest first.
    samples: VecDeque<(Duration, i64)>,
    next_sample: Duration,
    /// Leases are not ended before this.
    lease_pause: Duration,
    /// After a failure the history is not compacted under pressure before this.
    relief_pause: Duration,
    /// It is not told before this that there is pressure.
    next_telling: Duration,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, disk: Disk) -> Self {
        let [next_sample, lease_pause, relief_pause, next_telling] = [Duration::ZERO; 4];
        let samples = VecDeque::new();
        let writer = Self { shared, disk, samples, next_sample, lease_pause, relief_pause, next_telling };
        writer.note_facts(false);
        writer
    }

    /// Writes until nobody can ask for anything any more.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Command>) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let mut commands = Vec::new();
        loop {
            let pause = self.until_next_duty();
            let room = queue.max_capacity();
            let received =
                runtime.block_on(async { tokio::time::timeout(pause, queue.recv_many(&mut commands, room)).await });
            if received == Ok(0) {
                return Ok(());
            }
            self.carry_out(&mut commands);
            self.end_leases();
            self.relieve();
            self.sample();
        }
    }

    /// How long there is nothing to do unless somebody asks.
    fn until_next_duty(&self) -> Duration {
        let expiry = self.shared.core().next_expiry().map(|expiry| expiry.max(self.lease_pause));
        let next = expiry.map_or(self.next_sample, |expiry| expiry.min(self.next_sample));
        // A timer may be early by a fraction of its resolution; then the lease would not have ended yet.
        next.saturating_sub(self.shared.now()) + Duration::from_millis(1)
    }

    /// Carries commands out in their order; those that stage something, one after another, in one commit.
    fn carry_out(&mut self, commands: &mut Vec<Command>) {
        let mut staged = Vec::new();
        for command in commands.drain(..) {
            match command {
                Command::Txn(txn, reply) => staged.push(Staged::Txn(txn, reply)),
                Command::Grant { id, ttl, reply } => {
                    let id = if id == 0 { lease_id() } else { id };
                    staged.push(Staged::Grant { id, ttl, reply });
                }
                Command::Revoke(id, reply) => staged.push(Staged::Revoke(id, reply)),
                Command::Compact(revision, reply) => {
                    self.write(std::mem::take(&mut staged));
                    let _ = reply.send(self.compact(revision));
                }
                Command::Snapshot(reply) => {
                    self.write(std::mem::take(&mut staged));
                    let _ = reply.send(self.disk.snapshot().map_err(WriteError::Failed));
                }
                Command::Shrink(reply) => {
                    self.write(std::mem::take(&mut staged));
                    let _ = reply.send(self.shrink());
                }
            }
        }
        self.write(staged);
    }

    /// Makes commands durable and answers them.
    fn write(&mut self, mut commands: Vec<Staged>) {
        if commands.iter().any(Staged::grows) && !self.disk.has_room() {
            self.note_facts(true);
            commands = refuse_growth(commands, &WriteError::NoSpace("not even the reserve finds room".to_owned()));
        }
        let mut error = match self.try_write(commands) {
            Ok(()) => return,
            Err((left, error)) => {
                commands = left;
                error
            }
        };
        // With the reserve given back, what makes the datastore smaller can be tried once more.
        if let WriteError::NoSpace(_) = &error {
            commands = refuse_growth(commands, &error);
            if !commands.is_empty() && self.disk.release_reserve() {
                match self.try_write(commands) {
                    Ok(()) => return,
                    // Worse than before, maybe: nobody knows whether it was written.
                    Err((left, second)) => (commands, error) = (left, second),
                }
            }
        }
        for command in commands {
            command.fail(error.clone());
        }
    }

    /// Applies commands, commits them and answers them; or gives them back, with everything as before.
    fn try_write(&mut self, commands: Vec<Staged>) -> Result<(), (Vec<Staged>, WriteError)> {
        if commands.is_empty() {
            return Ok(());
        }
        let answers = self.apply(&commands);
        if let Err(error) = self.commit() {
            return Err((commands, error));
        }
        for (command, answer) in commands.into_iter().zip(answers) {
            command.answer(answer);
        }
        Ok(())
    }

    fn apply(&self, commands: &[Staged]) -> Vec<Answer> {
        let now = self.shared.now();
        let mut core = self.shared.core_mut();
        let apply = |command: &Staged| match command {
            Staged::Txn(txn, _) => Answer::Txn(core.txn(txn)),
            Staged::Grant { id, ttl, .. } => Answer::Grant(core.grant(*id, *ttl, now).map(|ttl| (*id, ttl))),
            Staged::Revoke(id, _) => Answer::Revoke(core.revoke(*id).map(|_| core.revision())),
        };
        commands.iter().map(apply).collect()
    }

    /// Makes all that is staged durable and shows it, or takes it back.
    fn commit(&mut self) -> Result<(), WriteError> {
        let core = self.shared.core();
        let settled = core.settled();
        let revision = core.revision();
        if revision == settled && core.lease_changes().next().is_none() {
            return Ok(());
        }
        let batch = Batch {
            revision,
            changes: core.changes_after(settled).map(|change| Row::new(&change)).collect(),
            leases: core.lease_changes().collect(),
            compaction: None,
        };
        // Whoever reads or keeps a lease alive does not wait for the disk.
        drop(core);
        match self.disk.commit(&batch) {
            Ok(()) => {
                self.shared.core_mut().settle();
                self.note_facts(false);
                self.shared.durable.send_if_modified(|durable| std::mem::replace(durable, revision) != revision);
                Ok(())
            }
            Err(error) => {
                self.shared.core_mut().roll_back();
                Err(self.failed(error))
            }
        }
    }

    fn failed(&self, error: CommitError) -> WriteError {
        self.note_facts(matches!(error, CommitError::Full(_)));
        match error {
            CommitError::Full(what) => {
                tracing::warn!(%what, "the disk of the datastore is full");
                WriteError::NoSpace(what)
            }
            CommitError::NotStored(what) => {
                tracing::warn!(%what, "the datastore cannot be written");
                WriteError::Failed(format!("{what}; nothing was written"))
            }
            CommitError::Unknown(what) => WriteError::Failed(what),
        }
    }

    fn note_facts(&self, full: bool) {
        let (bytes, used) = self.disk.size();
        let trouble = self.disk.broken().map(str::to_owned);
        *self.shared.facts() = Facts { bytes, used, full, trouble };
    }

    /// Notes what changed without any write that needs room.
    fn note_size(&self) {
        let full = self.shared.facts().full;
        self.note_facts(full);
    }

    /// Compacts in steps. Returns the revision.
    fn compact(&mut self, revision: i64) -> Result<i64, WriteError> {
        self.shared.core().check_compaction(revision)?;
        loop {
            let core = self.shared.core();
            let (settled, compacted) = (core.settled(), core.compacted());
            if compacted == revision {
                return Ok(settled);
            }
            let step = revision.min(compacted + STEP);
            let batch =
                Batch { revision: settled, compaction: Some((step, core.superseded(step))), ..Batch::default() };
            drop(core);
            let mut outcome = self.disk.commit(&batch);
            if let Err(CommitError::Full(_)) = &outcome
                && self.disk.release_reserve()
            {
                outcome = self.disk.commit(&batch);
            }
            outcome.map_err(|error| self.failed(error))?;
            self.shared.core_mut().compact(step)?;
            self.note_size();
            // Watches that are behind learn of it.
            self.shared.durable.send_modify(|_| {});
        }
    }

    fn shrink(&mut self) -> Result<Shrunk, WriteError> {
        let (before, _) = self.disk.size();
        self.disk.shrink().map_err(|error| self.failed(error))?;
        self.note_size();
        let (after, _) = self.disk.size();
        Ok(Shrunk { before, after })
    }

    /// Ends the leases that are over.
    fn end_leases(&mut self) {
        let now = self.shared.now();
        if now < self.lease_pause {
            return;
        }
        let expired = self.shared.core().expired(now);
        if expired.is_empty() {
            return;
        }
        let revoke = |id: &i64| Staged::Revoke(*id, oneshot::channel().0);
        let mut outcome = self.try_write(expired.iter().map(revoke).collect());
        if let Err((left, WriteError::NoSpace(_))) = outcome {
            outcome = if self.disk.release_reserve() {
                self.try_write(left)
            } else {
                Err((left, WriteError::NoSpace(String::new())))
            };
        }
        match outcome {
            Ok(()) => tracing::debug!(leases = expired.len(), "leases are over"),
            Err((_, error)) => {
                tracing::warn!(%error, leases = expired.len(), "leases that are over cannot be ended yet");
                self.lease_pause = now + PAUSE;
            }
        }
    }

    /// Compacts before the time if the history takes too much memory.
    fn relieve(&mut self) {
        let now = self.shared.now();
        if now < self.relief_pause {
            return;
        }
        let Some(target) = relief_target(&self.shared.core()) else { return };
        let before = self.shared.core().history_bytes();
        if let Err(error) = self.compact(target) {
            tracing::warn!(%error, "the history takes much memory and cannot be compacted");
            self.relief_pause = now + PAUSE;
            return;
        }
        let (mib, left) = (before >> 20, self.shared.core().history_bytes() >> 20);
        if now >= self.next_telling {
            self.next_telling = now + TOLD_EVERY;
            tracing::warn!(
                revision = target,
                "much is written: {mib} MiB of history in memory, compacted to {left} MiB before its time; a watch that was \
                 behind that revision has to read everything anew"
            );
        } else {
            tracing::debug!(revision = target, mib, left, "the history was compacted before its time");
        }
    }

    /// Notes how old which revision is, and compacts what is old enough.
    fn sample(&mut self) {
        let now = self.shared.now();
        if now < self.next_sample {
            return;
        }
        self.next_sample = now + SAMPLE;
        let (settled, compacted) = {
            let core = self.shared.core();
            (core.settled(), core.compacted())
        };
        self.samples.push_back((now, settled));
        let Some(target) = compaction_target(&mut self.samples, now, settled, compacted) else { return };
        match self.compact(target) {
            Ok(_) => tracing::debug!(revision = target, "the history was compacted"),
            Err(error) => tracing::warn!(%error, "the history cannot be compacted; the next try is in a minute"),
        }
    }
}

/// Answers commands that make the datastore larger. Returns the others.
fn refuse_growth(commands: Vec<Staged>, error: &WriteError) -> Vec<Staged> {
    let (grow, others): (Vec<_>, Vec<_>) = commands.into_iter().partition(Staged::grows);
    for command in grow {
        command.fail(error.clone());
    }
    others
}

/// The revision to compact at: the greatest that leaves [`KEPT_REVISIONS`] and everything of the last [`KEPT_TIME`], if
/// it is worth it. Forgets samples that have served.
fn compaction_target(
    samples: &mut VecDeque<(Duration, i64)>,
    now: Duration,
    settled: i64,
    compacted: i64,
) -> Option<i64> {
    let old = |at: Duration| at.saturating_add(KEPT_TIME) <= now;
    while samples.get(1).is_some_and(|(at, _)| old(*at)) {
        samples.pop_front();
    }
    let (_, aged) = samples.front().filter(|(at, _)| old(*at))?;
    let target = (*aged).min(settled - KEPT_REVISIONS);
    (target >= compacted + WORTHWHILE).then_some(target)
}

/// The revision to compact at so that the history takes less memory; `None` while it does not take too much, or if that
/// is not worth it yet. Costs nothing while there is little.
fn relief_target(core: &Core) -> Option<i64> {
    let history = core.history_bytes();
    if history <= MOST_HISTORY {
        return None;
    }
    if history > HISTORY_LIMIT {
        return core.compaction_leaving(MOST_HISTORY);
    }
    let floor = core.settled() - KEPT_UNDER_PRESSURE;
    if floor < core.compacted() + WORTHWHILE_UNDER_PRESSURE {
        return None;
    }
    core.compaction_leaving(MOST_HISTORY / 2).map(|target| target.min(floor))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A store in which few keys are written again and again, with values of one size or another: the history stays below
    /// its bounds, what is left is enough for who comes back, and compactions are far between.
    #[test]
    fn under_pressure_the_history_is_bounded_and_what_is_left_is_enough() {
        for size in [0, 500, 10_000, 40_000, 500_000] {
            let mut core = Core::new();
            let value = vec![b'x'; size];
            let (mut compactions, mut last) = (0, 0);
            let writes: i64 = if size > 1000 { 5000 } else { 200_000 };
            for number in 0..writes {
                core.put(format!("/key/{}", number % 10).as_bytes(), &value);
                core.settle();
                let Some(target) = relief_target(&core) else { continue };
                let before = core.history_bytes();
                assert!(target > core.compacted() && target <= core.settled(), "{size}: {target}");
                assert!(before > MOST_HISTORY && before <= HISTORY_LIMIT + size + 1000, "{size}: {before}");
                if before <= HISTORY_LIMIT {
                    assert!(core.settled() - target >= KEPT_UNDER_PRESSURE, "{size}: {target}");
                }
                core.compact(target).unwrap();
                assert!(core.history_bytes() <= MOST_HISTORY || core.settled() - target == KEPT_UNDER_PRESSURE);
                compactions += 1;
                assert!(number - last >= 20, "{size}: compactions are {} writes apart", number - last);
                last = number;
            }
            assert!(compactions > 0, "{size}");
            assert!(core.history_bytes() <= HISTORY_LIMIT, "{size}: {}", core.history_bytes());
        }
    }

    #[test]
    fn what_is_only_new_is_no_history() {
        let mut core = Core::new();
        for number in 0..100_000 {
            core.put(format!("/key/{number}").as_bytes(), &[0; 300]);
        }
        core.settle();
        assert_eq!((core.history_bytes(), relief_target(&core)), (0, None));
    }

    /// A store that is written at a steady rate, minute by minute: what is compacted is old and far enough back.
    #[test]
    fn compaction_takes_only_what_is_old_and_far_back() {
        for per_minute in [0, 10, 900, 5000, 100_000] {
            let (mut samples, mut compacted, mut taken) = (VecDeque::new(), 0, 0);
            for minute in 0..240_u64 {
                let now = Duration::from_secs(60 * minute);
                let settled = 1 + per_minute * minute.cast_signed();
                samples.push_back((now, settled));
                if let Some(target) = compaction_target(&mut samples, now, settled, compacted) {
                    let ten_minutes_ago = 1 + per_minute * (minute.cast_signed() - 10);
                    assert!(target <= settled - KEPT_REVISIONS, "{per_minute}/min: {target} at {settled}");
                    assert!(target <= ten_minutes_ago, "{per_minute}/min: {target} at {settled}");
                    assert!(target > compacted);
                    compacted = target;
                    taken += 1;
                }
                assert!(samples.len() <= 12);
                let longest = KEPT_REVISIONS.max(per_minute * 11) + per_minute + WORTHWHILE;
                assert!(settled - compacted <= longest, "{per_minute}/min: {compacted} at {settled}");
            }
            assert_eq!(taken > 0, per_minute >= 900, "{per_minute}/min");
        }
    }
}
