//! The command's side: from the question to the hosts until they have arrived.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use calico_model::{ClusterInformation, ClusterInformationSpec, KindName, ResourceKey, Revision};
use calico_store::{Error, Kv, Store};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{
    AnswerState, Copied, Destination, HOSTS, Phase, RECORD, ROOT, Record, RelocationError,
    RelocationError::{New, Old},
    copy, encode, identity, read_answers, read_record, remove,
};

/// How often answers of hosts are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How often a host looks whether the command has brought after what was written late, before it does so itself.
const LATE_LOOKS: u32 = 15;
/// How often both datastores are compared before it is given up.
const MOST_ROUNDS: u32 = 30;
/// The wait between two of the later rounds.
const BETWEEN_ROUNDS: Duration = Duration::from_millis(100);

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Migration {
    /// Where to.
    pub to: Destination,
    /// Hosts that are not waited for.
    pub without: BTreeSet<String>,
    /// How long hosts may take to answer, and then to switch.
    pub patience: Duration,
}

/// What happens, while it happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The hosts are asked whether they reach the new datastore.
    Asking {
        /// How many.
        hosts: usize,
    },
    /// All of them do.
    AllReady,
    /// This many keys were written into the new one.
    Copied {
        /// How many.
        keys: usize,
    },
    /// No address is given out from here on.
    Locked,
    /// Both were compared key by key and are equal.
    Verified {
        /// The number of keys.
        keys: usize,
    },
    /// The hosts switch.
    Switching,
    /// Keys written in the last moment were brought after.
    BroughtLate {
        /// How many.
        keys: usize,
    },
    /// A host has switched.
    Arrived {
        /// Its name.
        host: String,
    },
    /// The cluster goes on in the new datastore.
    Unlocked,
}

/// How far a host is in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostState {
    /// It works on the new datastore.
    Switched,
    /// It has not said so in time. It goes as soon as it can.
    Late,
    /// It was not waited for.
    LeftBehind,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Where from, in words.
    pub from: String,
    /// How many keys were copied.
    pub keys: usize,
    /// Each host.
    pub hosts: BTreeMap<String, HostState>,
    /// Whether the cluster stays locked, because it was before.
    pub stays_locked: bool,
}

/// Moves the cluster from `old` to `new`, or goes on with that where an earlier run stopped.
///
/// # Errors
/// Any [`RelocationError`]; running it again goes on.
pub async fn migrate(
    old: &Arc<dyn Kv>,
    new: &Arc<dyn Kv>,
    migration: &Migration,
    say: &mut (dyn FnMut(Progress) + Send),
) -> Result<Moved, RelocationError> {
    let mut begun = begin(old, new, migration).await?;
    if begun.record.phase == Phase::Prepare {
        open_copy(old, new, &begun).await?;
        ask(old, &begun.record, migration, say).await?;
        let copied = copy_all(old, new, &begun, say).await?;
        set_phase(new, Phase::Arriving, |record| record.copied = Some(copied)).await.map_err(New)?;
        begun.record.phase = Phase::Switch;
        match old.update(RECORD, encode(&begun.record), begun.revision).await {
            Ok(_) => {}
            Err(error) if error.is_conflict() || error.is_not_found() => return Err(RelocationError::Overtaken),
            Err(error) => return Err(Old(error)),
        }
    }
    say(Progress::Switching);
    bring_late(old, new, say).await?;
    match finish(new, migration.patience, say).await? {
        Some(moved) => Ok(moved),
        // Another run of the command finished it between two steps of this one.
        None => Err(RelocationError::SamePlace(new.location())),
    }
}

/// The end of a migration, for who finds himself in the new datastore already: waits for the hosts, unlocks, and tidies
/// up. `None` if no migration led here that is not finished.
///
/// # Errors
/// [`RelocationError::UnfinishedCopy`], [`RelocationError::New`].
pub async fn finish(
    new: &Arc<dyn Kv>,
    patience: Duration,
    say: &mut (dyn FnMut(Progress) + Send),
) -> Result<Option<Moved>, RelocationError> {
    let Some((record, _)) = read_record(new.as_ref()).await.map_err(New)? else { return Ok(None) };
    match record.phase {
        Phase::Arriving => {}
        Phase::Copying => return Err(RelocationError::UnfinishedCopy(record.from)),
        Phase::Prepare | Phase::Switch | Phase::Back => return Ok(None),
    }
    let missing = wait_for_arrivals(new, &record, patience, say).await?;
    if record.unlock {
        set_ready(new, true).await.map_err(New)?;
        say(Progress::Unlocked);
    }
    if missing.is_empty() {
        clear(new).await.map_err(New)?;
    }
    let state =
        |host: &String| (host.clone(), if missing.contains(host) { HostState::Late } else { HostState::Switched });
    let left = record.left_behind.iter().map(|host| (host.clone(), HostState::LeftBehind));
    let hosts = record.hosts.iter().map(state).chain(left).collect();
    Ok(Some(Moved { from: record.from, keys: record.keys, hosts, stays_locked: !record.unlock }))
}

/// The migration's record as it was written last.
struct Begun {
    record: Record,
    revision: Revision,
    /// No earlier run wrote one.
    is_first: bool,
}

/// Writes the record, or takes up the one that an earlier run wrote.
async fn begin(old: &Arc<dyn Kv>, new: &Arc<dyn Kv>, migration: &Migration) -> Result<Begun, RelocationError> {
    let found = read_record(old.as_ref()).await.map_err(Old)?;
    match &found {
        Some((record, _)) if record.phase == Phase::Copying => {
            return Err(RelocationError::UnfinishedCopy(record.from.clone()));
        }
        Some((record, _)) if record.to != migration.to || record.phase == Phase::Arriving => {
            return Err(RelocationError::Another(record.to.to_string()));
        }
        _ => {}
    }
    if let Some((record, entry)) = &found
        && record.phase == Phase::Switch
    {
        return Ok(Begun { record: record.clone(), revision: entry.revision, is_first: false });
    }
    let is_first = found.is_none();
    let unlocked = is_ready(old).await?;
    let (hosts, left_behind) = hosts(old, &migration.without).await?;
    let mut record = Record {
        id: found.as_ref().map_or_else(|| Uuid::new_v4().simple().to_string(), |(record, _)| record.id.clone()),
        attempt: found.as_ref().map_or(1, |(record, _)| record.attempt + 1),
        phase: Phase::Prepare,
        to: migration.to.clone(),
        from: old.location(),
        hosts,
        left_behind,
        unlock: found.as_ref().map_or(unlocked, |(record, _)| record.unlock),
        keys: 0,
        copied: None,
    };
    let written = match found {
        None => old.create(RECORD, encode(&record)).await,
        Some((before, entry)) => {
            // Half taken back, and it was too late for that: it only goes forward.
            if before.phase == Phase::Back && too_late(old, Some(new), &before).await?.is_some() {
                record = Record { phase: Phase::Switch, ..before };
            }
            old.update(RECORD, encode(&record), entry.revision).await
        }
    };
    match written {
        Ok(revision) => Ok(Begun { record, revision, is_first }),
        Err(error) if error.is_conflict() || error.is_not_found() => Err(RelocationError::Overtaken),
        Err(error) => Err(Old(error)),
    }
}

/// Why a migration cannot be taken back any more; `None` if it can. That it can holds only while the record in `old` says
/// `back`: then nobody goes who has not said so before.
pub(super) async fn too_late(
    old: &Arc<dyn Kv>,
    new: Option<&Arc<dyn Kv>>,
    record: &Record,
) -> Result<Option<RelocationError>, RelocationError> {
    let arrived = match new {
        Some(new) => Some(arrived(new, record).await?),
        None => None,
    };
    // Whoever says that he goes there read it just before it was taken back, and ended before he could unsay it: nobody
    // is there, and what is there is no cluster to go to.
    if arrived == Some(Arrived::Nothing) {
        return Ok(None);
    }
    let answers = read_answers(old.as_ref()).await.map_err(Old)?;
    let gone = |state: &AnswerState| matches!(state, AnswerState::Switching | AnswerState::Switched);
    let hosts = answers.iter().filter(|(_, answer)| answer.id == record.id && gone(&answer.state));
    let hosts: Vec<String> = hosts.map(|(host, _)| host.clone()).collect();
    if !hosts.is_empty() {
        return Ok(Some(RelocationError::TooLate(hosts)));
    }
    // A migration of no host at all is over without an answer: its record in the new one is gone, and the cluster is there.
    let finished = match arrived {
        Some(Arrived::Cluster(there)) => identity(old).await.map_err(Old)? == Some(there),
        _ => false,
    };
    Ok(finished.then(|| RelocationError::SamePlace(record.to.to_string())))
}

/// What of a migration is in the new datastore.
#[derive(PartialEq, Eq)]
enum Arrived {
    /// No cluster: the copy is not complete, is being deleted, or is gone.
    Nothing,
    /// A cluster of this identity, and no record.
    Cluster(String),
    /// A record: of this migration with all hosts told to come, or of another one.
    Record,
}

async fn arrived(new: &Arc<dyn Kv>, record: &Record) -> Result<Arrived, RelocationError> {
    Ok(match read_record(new.as_ref()).await.map_err(New)? {
        Some((found, _)) if found.id == record.id && found.phase == Phase::Copying => Arrived::Nothing,
        Some(_) => Arrived::Record,
        None => identity(new).await.map_err(New)?.map_or(Arrived::Nothing, Arrived::Cluster),
    })
}

/// The hosts that have to switch, and those that are left behind.
async fn hosts(old: &Arc<dyn Kv>, without: &BTreeSet<String>) -> Result<(Vec<String>, Vec<String>), RelocationError> {
    // By their keys: a Node that cannot be read is a host all the same.
    let prefix = ResourceKey::prefix(KindName::Node);
    let listing = old.list(&prefix).await.map_err(Old)?;
    let nodes: Vec<&str> = listing.entries.iter().filter_map(|entry| entry.key.strip_prefix(&prefix)).collect();
    if let Some(stranger) = without.iter().find(|host| !nodes.contains(&host.as_str())) {
        return Err(RelocationError::NoSuchHost(stranger.clone()));
    }
    let (left, hosts): (Vec<&str>, Vec<&str>) = nodes.into_iter().partition(|node| without.contains(*node));
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
    Ok((owned(hosts), owned(left)))
}

/// Makes sure that the new datastore is empty or holds what an earlier run of this migration copied.
async fn open_copy(old: &Arc<dyn Kv>, new: &Arc<dyn Kv>, begun: &Begun) -> Result<(), RelocationError> {
    let record = &begun.record;
    let copying = Record { phase: Phase::Copying, ..record.clone() };
    let found = read_record(new.as_ref()).await.map_err(New)?;
    match found {
        Some((found, entry)) if found.id == record.id => match found.phase {
            Phase::Copying | Phase::Arriving => {
                new.update(RECORD, encode(&copying), entry.revision).await.map(drop).map_err(New)
            }
            // What was written into the old one stands in the new one.
            Phase::Prepare | Phase::Switch | Phase::Back => {
                clear(old).await.map_err(Old)?;
                Err(RelocationError::SamePlace(old.location()))
            }
        },
        _ => {
            let listing = new.list(ROOT).await.map_err(New)?;
            if let Some(first) = listing.entries.first() {
                // With a record of an earlier run the cluster may be locked by it, which only abort puts right.
                if begun.is_first {
                    clear(old).await.map_err(Old)?;
                }
                return Err(RelocationError::NotEmpty { keys: listing.entries.len(), first: first.key.clone() });
            }
            new.create(RECORD, encode(&copying)).await.map(drop).map_err(New)
        }
    }
}

/// Waits until every host has said that it reaches the new datastore.
async fn ask(
    old: &Arc<dyn Kv>,
    record: &Record,
    migration: &Migration,
    say: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), RelocationError> {
    say(Progress::Asking { hosts: record.hosts.len() });
    let deadline = Instant::now() + migration.patience;
    loop {
        let answers = read_answers(old.as_ref()).await.map_err(Old)?;
        let state = |host: &String| {
            let answer = answers.get(host)?;
            (answer.id == record.id && answer.attempt == record.attempt).then_some(&answer.state)
        };
        let silent: Vec<String> = record.hosts.iter().filter(|host| state(host).is_none()).cloned().collect();
        let unable: BTreeMap<String, String> = record
            .hosts
            .iter()
            .filter_map(|host| match state(host)? {
                AnswerState::Unable(why) => Some((host.clone(), why.clone())),
                _ => None,
            })
            .collect();
        if silent.is_empty() && unable.is_empty() {
            say(Progress::AllReady);
            return Ok(());
        }
        // Who cannot go will not be able to by waiting.
        if silent.is_empty() || Instant::now() >= deadline {
            return Err(RelocationError::HostsNotReady { silent, unable });
        }
        sleep(LOOK).await;
    }
}

/// Copies, locks, copies what changed, until a whole comparison finds no difference.
async fn copy_all(
    old: &Arc<dyn Kv>,
    new: &Arc<dyn Kv>,
    begun: &Begun,
    say: &mut (dyn FnMut(Progress) + Send),
) -> Result<Copied, RelocationError> {
    let first = copy::round(old.as_ref(), new.as_ref()).await?;
    say(Progress::Copied { keys: first.written });
    still_ours(old, begun).await?;
    if begun.record.unlock {
        set_ready(old, false).await.map_err(Old)?;
    }
    say(Progress::Locked);
    let mut written = first.written;
    for _ in 0..MOST_ROUNDS {
        // Who takes it back deletes the copy; nothing must be written into that any more.
        still_ours(old, begun).await?;
        let round = copy::round(old.as_ref(), new.as_ref()).await?;
        written = round.written;
        if written == 0 {
            say(Progress::Verified { keys: round.copied.keys });
            return Ok(round.copied);
        }
        sleep(BETWEEN_ROUNDS).await;
    }
    Err(RelocationError::NeverQuiet { keys: written })
}

/// Fails if the record is not the one that this run wrote.
async fn still_ours(old: &Arc<dyn Kv>, begun: &Begun) -> Result<(), RelocationError> {
    let found = old.get(RECORD).await.map_err(Old)?;
    let is_ours = found.is_some_and(|entry| entry.revision == begun.revision);
    if is_ours { Ok(()) } else { Err(RelocationError::Overtaken) }
}

/// Brings after what was written in the last moment; once, by the command or by a host that goes.
async fn bring_late(
    old: &Arc<dyn Kv>,
    new: &Arc<dyn Kv>,
    say: &mut (dyn FnMut(Progress) + Send),
) -> Result<(), RelocationError> {
    let Some((record, _)) = read_record(new.as_ref()).await.map_err(New)? else { return Ok(()) };
    let Some(copied) = record.copied else { return Ok(()) };
    let keys = copy::bring_late(old.as_ref(), new.as_ref(), copied).await?;
    if keys > 0 {
        say(Progress::BroughtLate { keys });
    }
    match set_phase(new, Phase::Arriving, |record| record.copied = None).await {
        // Somebody else brought it at the same time.
        Err(error) if error.is_conflict() || error.is_not_found() => Ok(()),
        outcome => outcome.map_err(New),
    }
}

/// A host's part of [`bring_late`]: nobody works in the new datastore before all is there. The command does it at once; a
/// host waits a little for that, and does it itself if the command has died.
pub(super) async fn wait_for_late(old: &Arc<dyn Kv>, new: &Arc<dyn Kv>) -> Result<(), Error> {
    for _ in 0..LATE_LOOKS {
        match read_record(new.as_ref()).await? {
            Some((record, _)) if record.copied.is_some() => sleep(LOOK).await,
            _ => return Ok(()),
        }
    }
    bring_late(old, new, &mut |_| ()).await.map_err(|error| match error {
        Old(error) | New(error) => error,
        other => Error::Refused { operation: "the last part of the copy".into(), cause: other.to_string() },
    })
}

/// The hosts that have not said in time that they have switched.
async fn wait_for_arrivals(
    new: &Arc<dyn Kv>,
    record: &Record,
    patience: Duration,
    say: &mut (dyn FnMut(Progress) + Send),
) -> Result<BTreeSet<String>, RelocationError> {
    let deadline = Instant::now() + patience;
    let mut missing: BTreeSet<String> = record.hosts.iter().cloned().collect();
    loop {
        let answers = read_answers(new.as_ref()).await.map_err(New)?;
        let arrived = |host: &String| {
            answers.get(host).is_some_and(|answer| answer.id == record.id && answer.state == AnswerState::Switched)
        };
        let (now, still): (BTreeSet<String>, BTreeSet<String>) = missing.into_iter().partition(arrived);
        now.into_iter().for_each(|host| say(Progress::Arrived { host }));
        missing = still;
        if missing.is_empty() || Instant::now() >= deadline {
            return Ok(missing);
        }
        sleep(LOOK).await;
    }
}

/// Changes the record in the new datastore.
async fn set_phase(new: &Arc<dyn Kv>, phase: Phase, change: impl FnOnce(&mut Record)) -> Result<(), Error> {
    let Some((mut record, entry)) = read_record(new.as_ref()).await? else {
        return Err(Error::NotFound { key: RECORD.to_owned() });
    };
    record.phase = phase;
    change(&mut record);
    if let Some(copied) = record.copied {
        record.keys = copied.keys;
    }
    new.update(RECORD, encode(&record), entry.revision).await.map(drop)
}

/// Removes the record and all answers; the record after them, so that an interruption leaves it for the next run.
pub(super) async fn clear(kv: &Arc<dyn Kv>) -> Result<(), Error> {
    remove_answers(kv).await?;
    remove(kv.as_ref(), RECORD).await?;
    // As long as the record was there, a host may have said again what it found missing.
    remove_answers(kv).await
}

async fn remove_answers(kv: &Arc<dyn Kv>) -> Result<(), Error> {
    for entry in kv.list(HOSTS).await?.entries {
        remove(kv.as_ref(), &entry.key).await?;
    }
    Ok(())
}

fn cluster_key() -> ResourceKey {
    ResourceKey::new(KindName::ClusterInformation, None, "default")
}

async fn is_ready(old: &Arc<dyn Kv>) -> Result<bool, RelocationError> {
    match Store::new(old.clone()).get_key::<ClusterInformationSpec>(&cluster_key()).await {
        Ok(cluster) => Ok(cluster.spec.datastore_ready != Some(false)),
        Err(error) if error.is_not_found() => Err(RelocationError::NoCluster),
        Err(error) => Err(Old(error)),
    }
}

/// Locks or unlocks a cluster.
pub(super) async fn set_ready(kv: &Arc<dyn Kv>, ready: bool) -> Result<(), Error> {
    let set = |cluster: &mut ClusterInformation| {
        cluster.spec.datastore_ready = Some(ready);
        Ok(())
    };
    Store::new(kv.clone()).modify::<ClusterInformationSpec, Error>(&cluster_key(), set).await.map(drop)
}
