//! `--confirm TIME` and `calicoctl confirm`: a change that is taken back unless somebody says that all is well.
//!
//! ```text
//! record (writing) ─► the command writes ─► record (waiting) ─► confirmed: the record goes
//!                                                └─ time over, Ctrl-C, terminal lost ─► rolling back ─► the record goes
//! ```
//!
//! - The record is in the datastore before anything is written and leaves it last, so a change whose command was
//!   killed can still be confirmed or taken back: `calicoctl confirm [--roll-back]`.
//! - Each object goes back to its former value by compare-and-swap; one that somebody else changed meanwhile is left
//!   alone and named.
//! - A change that succeeds in part is taken back at once.
//! - What cannot be taken back (addresses, blocks of addresses) is not done on probation.

mod record;
mod recorder;

use std::time::Duration;

use calico_model::Revision;
use calico_store::{Error, Kv, Store};
use time::{OffsetDateTime, macros::format_description};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};

use self::{
    record::{Back, PREFIX, Record, State, Written},
    recorder::Recorder,
};
use crate::{
    args::{Confirm, Probation},
    context::Context,
    failure::Failure,
    output::Output,
};

/// How often it is looked whether somebody else has confirmed.
const LOOK: Duration = Duration::from_millis(500);
/// How long the datastore may be away while a change is taken back.
const PATIENCE: Duration = Duration::from_secs(600);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The longest time that anybody may ask for.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Runs a command that writes, on probation if that was asked for.
pub(crate) async fn on_probation(
    ctx: &Context,
    probation: &Probation,
    command: &str,
    act: impl AsyncFnOnce(&Context) -> Result<Output, Failure>,
) -> Result<Output, Failure> {
    let Some(word) = &probation.within else { return act(ctx).await };
    let within = parse_time(word)?;
    let _acting = ctx.interrupt.acting();
    // From here on a lost terminal does not end the process.
    let mut hangup =
        signal(SignalKind::hangup()).map_err(|error| Failure::new("Signals cannot be received.").cause(&error))?;
    // What makes the datastore ready is not part of the change.
    if let Err(error) = calico_startup::initialise(&ctx.store).await {
        tracing::debug!(%error, "the datastore could not be made ready");
    }
    let mut pending = Pending::begin(ctx, command, within).await?;
    let recorder = Recorder::new(ctx.store.kv().clone());
    let recorded = Context {
        store: Store::new(recorder.clone()),
        node: ctx.node.clone(),
        host: ctx.host.clone(),
        runtime: ctx.runtime.clone(),
        console: ctx.console.clone(),
        interrupt: ctx.interrupt.clone(),
    };
    let outcome = act(&recorded).await;
    let written = recorder.written().into_iter().filter(|own| own.before != own.after).collect();
    let output = match outcome {
        Ok(Output { failure: None, text, .. }) => text,
        Ok(Output { failure: Some(failure), .. }) | Err(failure) => {
            pending.record.written = written;
            return Err(pending.undo(ctx, failure).await);
        }
    };
    ctx.console.say(output.trim_end());
    if let Err(failure) = pending.wait_for_confirmation(written, within).await {
        return Err(pending.undo(ctx, failure).await);
    }
    if pending.record.written.is_empty() {
        pending.confirm().await?;
        return Ok(Output::line("Nothing was changed, so there is nothing to confirm."));
    }
    announce(ctx, &pending.record, word);
    let end = tokio::select! {
        end = pending.elsewhere() => end,
        () = typed_yes(ctx) => End::Confirmed,
        () = tokio::time::sleep(within) => End::Over(format!("it was not confirmed within {word}")),
        _ = ctx.interrupt.wait() => End::Over("it was interrupted".to_owned()),
        _ = hangup.recv() => End::Over("the terminal was lost".to_owned()),
    };
    pending.end(ctx, end).await
}

/// How waiting ended.
enum End {
    /// Here, or the record is gone.
    Confirmed,
    /// Somebody else takes it back.
    Elsewhere,
    /// It is to be taken back, because of this.
    Over(String),
}

/// A change on probation that this process made.
struct Pending<'a> {
    kv: &'a dyn Kv,
    record: Record,
    revision: Revision,
}

impl<'a> Pending<'a> {
    async fn begin(ctx: &'a Context, command: &str, within: Duration) -> Result<Self, Failure> {
        let record = Record {
            id: uuid::Uuid::new_v4().simple().to_string()[..8].to_owned(),
            command: command.to_owned(),
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            deadline: deadline(within),
            state: State::Writing,
            written: Vec::new(),
        };
        let kv = &**ctx.store.kv();
        let revision = kv.create(&record.key(), record.value()).await.map_err(Failure::from);
        let revision = revision.map_err(|failure| failure.context("Nothing was changed: it could not be noted."))?;
        Ok(Self { kv, record, revision })
    }

    /// Notes what was written, and until when it may be confirmed.
    async fn wait_for_confirmation(&mut self, written: Vec<Written>, within: Duration) -> Result<(), Failure> {
        self.record.written = written;
        self.record.deadline = deadline(within);
        self.record.state = State::Waiting;
        self.revision = self.kv.update(&self.record.key(), self.record.value(), self.revision).await?;
        Ok(())
    }

    /// Returns when somebody else has decided. A datastore that is away has decided nothing.
    async fn elsewhere(&self) -> End {
        loop {
            tokio::time::sleep(LOOK).await;
            match self.kv.get(&self.record.key()).await {
                // Whoever took it back has removed the record too.
                Ok(None) if self.record.is_undone(self.kv).await => return End::Elsewhere,
                Ok(None) => return End::Confirmed,
                Ok(Some(entry)) if entry.revision != self.revision => return End::Elsewhere,
                Ok(Some(_)) => {}
                Err(error) => tracing::debug!(%error, "cannot see whether the change was confirmed"),
            }
        }
    }

    async fn end(mut self, ctx: &Context, end: End) -> Result<Output, Failure> {
        match end {
            End::Confirmed => {
                self.confirm().await?;
                Ok(Output::line("Confirmed: the change stays."))
            }
            End::Elsewhere => {
                Err(Failure::new("The change was taken back by somebody else.").hint("see who ran: calicoctl confirm"))
            }
            End::Over(reason) => {
                ctx.console.note(&format!("Taking the change back: {reason}."));
                let failure = Failure::new(format!("The change was taken back: {reason}."));
                Err(self.undo(ctx, failure).await)
            }
        }
    }

    /// Makes the change stay.
    async fn confirm(&mut self) -> Result<(), Failure> {
        confirm_record(self.kv, &self.record, self.revision).await
    }

    /// Takes the change back; the failure says what came of it.
    async fn undo(&mut self, ctx: &Context, failure: Failure) -> Failure {
        roll_back(ctx, &mut self.record, Some(self.revision)).await.told(failure)
    }
}

/// Deletes the record, whereby the change is confirmed.
async fn confirm_record(kv: &dyn Kv, record: &Record, revision: Revision) -> Result<(), Failure> {
    match kv.delete(&record.key(), revision).await {
        Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
        Err(Error::Conflict { .. }) => Err(Failure::new("It is too late: the change is being taken back.")),
        Err(error) => Err(Failure::from(error).hint("it is taken back when the time is over")),
    }
}

/// What came of taking back.
#[derive(Default)]
struct Outcome {
    /// Somebody confirmed first.
    confirmed: bool,
    back: Vec<String>,
    foreign: Vec<String>,
    /// What is as the change left it.
    left: Vec<String>,
    cause: Option<String>,
}

impl Outcome {
    fn told(self, failure: Failure) -> Failure {
        if self.confirmed {
            return Failure::new("The change stays: it was confirmed before it could be taken back.");
        }
        let failure = self.back.into_iter().fold(failure, Failure::because);
        let failure = self.foreign.into_iter().fold(failure, |failure, name| {
            failure.because(format!("{name} was changed by somebody else meanwhile and is left alone"))
        });
        let Some(cause) = self.cause else { return failure };
        let failure =
            self.left.into_iter().fold(failure, |failure, name| failure.because(format!("{name}: NOT taken back")));
        failure
            .because(cause)
            .hint("when the datastore answers again, take back what is left: calicoctl confirm --roll-back")
    }
}

/// Takes back everything that a record names, newest first, then removes the record.
async fn roll_back(ctx: &Context, record: &mut Record, revision: Option<Revision>) -> Outcome {
    let kv = &**ctx.store.kv();
    let mut outcome = Outcome::default();
    let begin = Instant::now();
    let mut left: Vec<Written> = record.written.iter().rev().cloned().collect();
    match mark(ctx, record, revision, begin).await {
        Ok(true) => {}
        Ok(false) => {
            outcome.confirmed = !record.is_undone(kv).await;
            return outcome;
        }
        Err(error) => {
            outcome.left = left.iter().map(Written::name).collect();
            outcome.cause = Some(error.to_string());
            return outcome;
        }
    }
    while let Some(written) = left.first() {
        match patiently(ctx, begin, || written.take_back(kv)).await {
            Ok(Back::Done) => outcome.back.push(format!("{} is {}", written.name(), written.undone())),
            Ok(Back::Untouched) => {}
            Ok(Back::Foreign) => outcome.foreign.push(written.name()),
            Err(error) => {
                outcome.left = left.iter().map(Written::name).collect();
                outcome.cause = Some(error.to_string());
                return outcome;
            }
        }
        left.remove(0);
    }
    let gone = patiently(ctx, begin, || async {
        match kv.get(&record.key()).await? {
            Some(entry) => kv.delete(&record.key(), entry.revision).await,
            None => Ok(()),
        }
    });
    if let Err(error) = gone.await {
        tracing::warn!(%error, record = record.id, "all is taken back, but its record is still there");
    }
    outcome
}

/// Marks the record as being taken back; false if it was confirmed before.
async fn mark(ctx: &Context, record: &mut Record, revision: Option<Revision>, begin: Instant) -> Result<bool, Error> {
    let kv = &**ctx.store.kv();
    record.state = State::RollingBack;
    let (key, value) = (record.key(), record.value());
    let mut expected = revision;
    loop {
        let outcome = patiently(ctx, begin, || async {
            let entry = kv.get(&key).await?;
            let Some(entry) = entry else { return Ok(None) };
            // A lost answer may have been ours.
            if entry.value == value {
                return Ok(Some(true));
            }
            let revision = expected.unwrap_or(entry.revision);
            kv.update(&key, value.clone(), revision).await.map(|_| Some(true))
        });
        match outcome.await {
            Ok(marked) => return Ok(marked.unwrap_or(false)),
            Err(Error::NotFound { .. }) => return Ok(false),
            // Somebody else takes it back too; both do the same.
            Err(Error::Conflict { .. }) if expected.is_some() => expected = None,
            Err(error) => return Err(error),
        }
    }
}

/// Tries again while the datastore is away, for a while.
async fn patiently<T, F: Future<Output = Result<T, Error>>>(
    ctx: &Context,
    begin: Instant,
    attempt: impl Fn() -> F,
) -> Result<T, Error> {
    let mut pause = FIRST_PAUSE;
    loop {
        match attempt().await {
            Err(error) if error.is_unreachable() && begin.elapsed() < PATIENCE => {
                if pause == FIRST_PAUSE {
                    ctx.console.note(&format!("warning: trying again for {} s: {error}", PATIENCE.as_secs()));
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            other => return other,
        }
    }
}

/// Returns when `yes` was typed, and never if nobody can type any more.
async fn typed_yes(ctx: &Context) {
    loop {
        let console = ctx.console.clone();
        match tokio::task::spawn_blocking(move || console.line()).await {
            Ok(Ok(Some(line))) if line.trim().eq_ignore_ascii_case("yes") => return,
            Ok(Ok(Some(line))) if line.trim().is_empty() => {}
            Ok(Ok(Some(_))) => ctx.console.note("Type yes to confirm, or Ctrl-C to take the change back."),
            _ => std::future::pending().await,
        }
    }
}

fn announce(ctx: &Context, record: &Record, word: &str) {
    for written in &record.written {
        ctx.console.say(&format!("  {}: {}", written.done(), written.name()));
    }
    let format = format_description!("[hour]:[minute]:[second]");
    let until = OffsetDateTime::from_unix_timestamp(record.deadline).ok().and_then(|time| time.format(format).ok());
    let until = until.map_or(String::new(), |time| format!(", at {time} UTC"));
    ctx.console.say(&format!(
        "Taken back in {word}{until}, unless it is confirmed: type yes, or run: calicoctl confirm {}",
        record.id
    ));
}

/// `confirm`
pub(crate) async fn confirm(ctx: &Context, args: &Confirm) -> Result<Output, Failure> {
    let kv = &**ctx.store.kv();
    let (mut record, revision) = find(kv, args.id.as_deref()).await?;
    let _acting = ctx.interrupt.acting();
    let overdue = OffsetDateTime::now_utc().unix_timestamp() > record.deadline;
    if args.roll_back {
        if record.state == State::Writing && !overdue {
            return Err(Failure::new(format!("{} is still being made.", what(&record))).hint("try again in a moment"));
        }
        let outcome = roll_back(ctx, &mut record, None).await;
        if outcome.cause.is_some() || outcome.confirmed || !outcome.foreign.is_empty() {
            return Err(outcome.told(Failure::new(format!("{} was not taken back completely.", what(&record)))));
        }
        let lines = outcome.back.into_iter().map(|line| format!("  {line}"));
        return Ok(Output::lines(std::iter::once(format!("Taken back: {}.", what(&record))).chain(lines)));
    }
    match record.state {
        State::Writing if !overdue => {
            Err(Failure::new(format!("{} is still being made.", what(&record))).hint("try again in a moment"))
        }
        State::RollingBack => Err(Failure::new(format!("It is too late: {} is being taken back.", what(&record)))
            .hint("if the command that did so was killed: calicoctl confirm --roll-back")),
        _ => {
            confirm_record(kv, &record, revision).await?;
            Ok(Output::line(format!("Confirmed: {} stays.", what(&record))))
        }
    }
}

/// A change in words.
fn what(record: &Record) -> String {
    format!("the {} of {} object(s) on {} ({})", record.command, record.written.len(), record.host, record.id)
}

/// The record that is meant.
async fn find(kv: &dyn Kv, id: Option<&str>) -> Result<(Record, Revision), Failure> {
    let listing = kv.list(PREFIX).await?;
    let mut records = Vec::new();
    for entry in &listing.entries {
        let record = Record::read(entry)?;
        if id.is_none_or(|id| record.id.starts_with(id)) {
            records.push((record, entry.revision));
        }
    }
    match (records.len(), id) {
        (1, _) => Ok(records.remove(0)),
        (0, None) => Err(Failure::new("Nothing waits for a confirmation.")),
        (0, Some(id)) => Err(Failure::new(format!("Nothing with the id {id} waits for a confirmation."))
            .hint("it was confirmed, or taken back when its time was over")),
        _ => {
            let failure = Failure::new("Several changes wait for a confirmation.");
            let failure = records.iter().fold(failure, |failure, (record, _)| failure.because(what(record)));
            Err(failure.hint("say which: calicoctl confirm ID"))
        }
    }
}

fn deadline(within: Duration) -> i64 {
    OffsetDateTime::now_utc().unix_timestamp() + i64::try_from(within.as_secs()).unwrap_or(i64::MAX / 2)
}

/// `90`, `90s`, `5m`, `1h30m`
fn parse_time(word: &str) -> Result<Duration, Failure> {
    let seconds = word.parse::<u64>().ok().map(Duration::from_secs);
    let parsed = seconds.or_else(|| calico_model::parse_go_duration(word));
    match parsed {
        Some(time) if time >= Duration::from_secs(1) && time <= LONGEST => Ok(time),
        _ => {
            Err(Failure::new(format!("--confirm {word} is no time from 1s to 24h."))
                .hint("it looks like: --confirm 60s"))
        }
    }
}

#[cfg(test)]
mod tests;
