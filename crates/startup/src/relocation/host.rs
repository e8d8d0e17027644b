//! A host's side: tries the new datastore when it is asked to, and goes there when it is told.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use calico_model::Revision;
use calico_store::{Entry, Error, Kv, KvWatch};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::{
    Answer, AnswerState, Destination, Phase, RECORD, Record, answer_key, decode, identity, migrate::wait_for_late, put,
    read_record,
};

/// How long until what failed is tried again, though nothing changed in the datastore.
const AGAIN: Duration = Duration::from_secs(5);
/// First and longest wait while the datastore cannot be read.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How this host reaches a datastore, and how it remembers which one it belongs to.
#[async_trait]
pub trait Place: Send + Sync {
    /// A connection to a datastore, tried.
    ///
    /// # Errors
    /// [`Error::Settings`] for what is not right on this host, and the datastore's.
    async fn connect(&self, to: &Destination) -> Result<Arc<dyn Kv>, Error>;

    /// Makes `to` the datastore of this host, instead of `former`, from the next start of each process on.
    ///
    /// # Errors
    /// [`Error::Settings`] if it cannot be written; nothing has changed then.
    fn remember(&self, to: &Destination, former: &str) -> Result<(), Error>;
}

/// This machine.
#[derive(Clone, Debug)]
pub struct ThisPlace {
    /// The host's record of where its datastore is, [`calico_store::LOCATION_FILE`].
    pub location: PathBuf,
}

#[async_trait]
impl Place for ThisPlace {
    async fn connect(&self, to: &Destination) -> Result<Arc<dyn Kv>, Error> {
        Ok(Arc::new(to.connect().await?))
    }

    fn remember(&self, to: &Destination, former: &str) -> Result<(), Error> {
        to.options()?.write_moved(&self.location, former)
    }
}

/// What a host has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing until the record changes.
    Wait,
    /// Say whether the new datastore can be reached.
    Try,
    /// Nothing for a while, then try again.
    TryLater,
    /// Go.
    Switch,
    /// Say that it has arrived.
    Arrive,
}

/// What a host has to do, from the migration's record and from what it said last.
pub(super) fn decide(record: Option<&Record>, answer: Option<&Answer>) -> Step {
    let Some(record) = record else { return Step::Wait };
    let answer = answer.filter(|answer| (&answer.id, answer.attempt) == (&record.id, record.attempt));
    match (record.phase, answer.map(|answer| &answer.state)) {
        (Phase::Prepare, Some(AnswerState::Unable(_))) => Step::TryLater,
        (Phase::Prepare, Some(_)) => Step::Wait,
        (Phase::Prepare, None) => Step::Try,
        (Phase::Switch, _) => Step::Switch,
        (Phase::Arriving, Some(AnswerState::Switched)) => Step::Wait,
        (Phase::Arriving, _) => Step::Arrive,
        (Phase::Back | Phase::Copying, _) => Step::Wait,
    }
}

/// Follows the cluster: watches the present datastore of this host and takes part in a migration. Returns when the host's
/// record names a new datastore, which was reached and found to hold the cluster; all processes are to be started anew on
/// it then, and this is to be called again with it. Never returns otherwise; failures are logged and tried again.
pub async fn follow(kv: Arc<dyn Kv>, node: &str, place: &dyn Place) {
    let follower = Follower { kv, node, place };
    let mut wait = RETRY.0;
    loop {
        match follower.round().await {
            Ok(Went::On) => wait = RETRY.0,
            Ok(Went::Away) => return,
            Err(error) => {
                warn!(%error, ?wait, "a migration of the datastore would not be noticed; trying again");
                sleep(wait).await;
                wait = (wait * 2).min(RETRY.1);
            }
        }
    }
}

enum Went {
    On,
    Away,
}

struct Follower<'a> {
    kv: Arc<dyn Kv>,
    node: &'a str,
    place: &'a dyn Place,
}

impl Follower<'_> {
    /// Looks, does one step, and waits until there may be another.
    async fn round(&self) -> Result<Went, Error> {
        let (record, answer, revision) = self.look().await?;
        // A lost wake-up must not matter: whatever is written after the look is seen by the watch.
        let mut watch = self.kv.watch(RECORD, revision).await?;
        let step = decide(record.as_ref(), answer.as_ref());
        match (record, step) {
            (Some(record), Step::Try) => self.try_out(&record).await?,
            (Some(record), Step::Arrive) => self.arrive(&record).await?,
            (Some(record), Step::TryLater) => {
                let _ = timeout(AGAIN, changed(&mut watch)).await;
                self.try_out(&record).await?;
            }
            (Some(record), Step::Switch) => match self.switch(&record).await {
                Ok(true) => return Ok(Went::Away),
                Ok(false) => changed(&mut watch).await?,
                Err(error) => {
                    warn!(%error, to = %record.to, "this host cannot go to the new datastore; trying again");
                    let unable = AnswerState::Unable(error.to_string());
                    // Once it has said that it goes, that stands: it may have gone by half. It may have said so just now.
                    if !self.has_said_that_it_goes(&record).await? {
                        self.say(&self.kv, &record, unable).await?;
                    }
                    sleep(AGAIN).await;
                }
            },
            (_, _) => changed(&mut watch).await?,
        }
        Ok(Went::On)
    }

    async fn look(&self) -> Result<(Option<Record>, Option<Answer>, Revision), Error> {
        let listing = self.kv.list(RECORD).await?;
        let own = answer_key(self.node);
        let find = |key: &str| listing.entries.iter().find(|entry| entry.key == key);
        let record = find(RECORD).map(decode).transpose()?;
        // What cannot be read is said anew.
        let answer = find(&own).and_then(|entry: &Entry| decode(entry).ok());
        Ok((record, answer, listing.revision))
    }

    async fn say(&self, kv: &Arc<dyn Kv>, record: &Record, state: AnswerState) -> Result<(), Error> {
        let answer = Answer { id: record.id.clone(), attempt: record.attempt, state };
        put(kv.as_ref(), &answer_key(self.node), &answer).await
    }

    async fn has_said_that_it_goes(&self, record: &Record) -> Result<bool, Error> {
        let Some(entry) = self.kv.get(&answer_key(self.node)).await? else { return Ok(false) };
        Ok(decode::<Answer>(&entry).is_ok_and(|said| said.id == record.id && said.state == AnswerState::Switching))
    }

    async fn try_out(&self, record: &Record) -> Result<(), Error> {
        let state = match self.place.connect(&record.to).await {
            Ok(_) => AnswerState::Ready,
            Err(error) => AnswerState::Unable(error.to_string()),
        };
        info!(to = %record.to, ?state, "the cluster is about to move to another datastore; this host tried it");
        self.say(&self.kv, record, state).await
    }

    async fn arrive(&self, record: &Record) -> Result<(), Error> {
        info!(from = record.from, "this host has moved to the cluster's new datastore");
        self.say(&self.kv, record, AnswerState::Switched).await
    }

    /// Goes to the new datastore; false if it is not to go after all. The order is what makes it safe, see
    /// [the module](super).
    async fn switch(&self, record: &Record) -> Result<bool, Error> {
        let new = self.place.connect(&record.to).await?;
        self.check_cluster(&new, record).await?;
        self.say(&self.kv, record, AnswerState::Switching).await?;
        let now = read_record(self.kv.as_ref()).await?;
        if !now.is_some_and(|(now, _)| now.id == record.id && now.phase == Phase::Switch) {
            self.say(&self.kv, record, AnswerState::Ready).await?;
            return Ok(false);
        }
        wait_for_late(&self.kv, &new).await?;
        self.place.remember(&record.to, &self.kv.location())?;
        info!(to = %record.to, "this host goes to the cluster's new datastore");
        Ok(true)
    }

    /// Whether what is there is the cluster that this host belongs to: it may have been emptied or used otherwise since.
    async fn check_cluster(&self, new: &Arc<dyn Kv>, record: &Record) -> Result<(), Error> {
        let refused = |cause: &str| {
            Err(Error::Refused { operation: format!("the move to {}", record.to), cause: cause.to_owned() })
        };
        let found = read_record(new.as_ref()).await?;
        if found.is_some_and(|(found, _)| found.phase == Phase::Copying) {
            return refused("what is there is not complete: the migration is being taken back, or was begun anew");
        }
        let old = identity(&self.kv).await?;
        if old.is_none() || old != identity(new).await? {
            return refused("what is there is not this host's cluster (another identity in its ClusterInformation)");
        }
        Ok(())
    }
}

/// Waits until something about the migration changes.
async fn changed(watch: &mut Box<dyn KvWatch>) -> Result<(), Error> {
    watch.next().await.map(drop)
}
