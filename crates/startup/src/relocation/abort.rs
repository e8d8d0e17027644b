//! Taking a migration back, as long as no host has begun to switch.

use std::{sync::Arc, time::Duration};

use calico_store::{Error, Kv};
use tokio::time::sleep;

use super::{
    Phase, RECORD, ROOT, Record, RelocationError,
    RelocationError::{New, Old},
    encode,
    migrate::{clear, set_ready, too_late},
    read_record, remove,
};

/// How often it is looked whether the copy is gone.
const MOST_ROUNDS: u32 = 30;
/// The wait between two looks.
const BETWEEN_ROUNDS: Duration = Duration::from_millis(100);

/// What was taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenBack {
    /// Where the cluster would have gone, in words.
    pub to: String,
    /// The number of keys that were deleted there; `None` if the new datastore could not be reached, so that a copy may
    /// be left in it.
    pub deleted: Option<usize>,
}

/// Takes the migration that is under way in `old` back: hosts stay, the copy is deleted, the cluster is unlocked. `new` is
/// the way to the datastore it was to go to, if that can be reached.
///
/// # Errors
/// [`RelocationError::TooLate`] if a host has begun to switch: then everything stays, and the migration goes forward.
pub async fn abort(old: &Arc<dyn Kv>, new: Option<&Arc<dyn Kv>>) -> Result<TakenBack, RelocationError> {
    let record = say_back(old, new).await?;
    let deleted = match new {
        Some(new) => Some(delete_copy(new, &record).await.map_err(New)?),
        None => None,
    };
    if record.unlock {
        set_ready(old, true).await.map_err(Old)?;
    }
    clear(old).await.map_err(Old)?;
    Ok(TakenBack { to: record.to.to_string(), deleted })
}

/// Says `back`, and only then looks whether a host has begun to go. A migration that is over is not touched: hosts that
/// were away read in its record where the cluster is.
async fn say_back(old: &Arc<dyn Kv>, new: Option<&Arc<dyn Kv>>) -> Result<Record, RelocationError> {
    let Some((mut record, entry)) = read_record(old.as_ref()).await.map_err(Old)? else {
        return Err(RelocationError::NothingToAbort);
    };
    match record.phase {
        Phase::Prepare | Phase::Switch | Phase::Back => {}
        Phase::Copying => return Err(RelocationError::UnfinishedCopy(record.from)),
        Phase::Arriving => return Err(RelocationError::TooLate(record.hosts)),
    }
    if record.phase == Phase::Switch
        && let Some(reason) = too_late(old, new, &record).await?
    {
        return Err(reason);
    }
    record.phase = Phase::Back;
    let revision = old.update(RECORD, encode(&record), entry.revision).await.map_err(overtaken)?;
    let Some(reason) = too_late(old, new, &record).await? else { return Ok(record) };
    record.phase = Phase::Switch;
    old.update(RECORD, encode(&record), revision).await.map_err(overtaken)?;
    Err(reason)
}

fn overtaken(error: Error) -> RelocationError {
    if error.is_conflict() || error.is_not_found() { RelocationError::Overtaken } else { Old(error) }
}

/// Deletes what this migration copied, and nothing of another one. The record says first that the copy is not complete,
/// and goes last.
async fn delete_copy(new: &Arc<dyn Kv>, record: &Record) -> Result<usize, Error> {
    let Some((mut found, entry)) = read_record(new.as_ref()).await? else { return Ok(0) };
    if found.id != record.id || !matches!(found.phase, Phase::Copying | Phase::Arriving) {
        return Ok(0);
    }
    found.phase = Phase::Copying;
    found.copied = None;
    new.update(RECORD, encode(&found), entry.revision).await?;
    let mut deleted = 0;
    // A command that is still copying writes until it sees that it was overtaken.
    for _ in 0..MOST_ROUNDS {
        let listing = new.list(ROOT).await?;
        let copied: Vec<_> = listing.entries.iter().filter(|entry| entry.key != RECORD).collect();
        if copied.is_empty() {
            break;
        }
        for entry in &copied {
            match new.delete(&entry.key, entry.revision).await {
                // Written again meanwhile: the next round sees it.
                Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
                _ => {}
            }
        }
        deleted += copied.len();
        sleep(BETWEEN_ROUNDS).await;
    }
    remove(new.as_ref(), RECORD).await?;
    Ok(deleted)
}
