//! The record of a change on probation, and how it ends.
//!
//! It stands in the datastore, so that it can be confirmed from any terminal and host, and so that a change whose
//! command was killed can still be taken back. Whoever deletes the record has confirmed; whoever takes back first
//! marks it, by compare-and-swap, so of the two only one happens.

use calico_model::{ResourceKey, Revision};
use calico_store::{Entry, Error, Kv};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// Where records stand. No agent reads it.
pub(super) const PREFIX: &str = "/calico/calicoctl/v1/pending/";

/// A change on probation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    /// Its name.
    pub(super) id: String,
    /// `apply`, `delete` and so on.
    pub(super) command: String,
    /// Where it waits.
    pub(super) host: String,
    /// Seconds since 1970.
    pub(super) deadline: i64,
    pub(super) state: State,
    /// Oldest first.
    pub(super) written: Vec<Written>,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum State {
    /// The command still writes.
    Writing,
    /// It may be confirmed.
    Waiting,
    /// It is being taken back.
    RollingBack,
}

/// A key that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Written {
    pub(super) key: String,
    /// `None`: it was not there.
    pub(super) before: Option<String>,
    /// `None`: it was deleted.
    pub(super) after: Option<String>,
    /// Of the last write; `None` if it is not known, or was a deletion.
    pub(super) revision: Option<i64>,
}

/// How taking one key back ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Back {
    /// As before.
    Done,
    /// It never changed.
    Untouched,
    /// Somebody else changed it meanwhile, so it is left alone.
    Foreign,
}

impl Record {
    pub(super) fn key(&self) -> String {
        format!("{PREFIX}{}", self.id)
    }

    pub(super) fn value(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record is plain data")
    }

    /// True if everything is as it was before the change.
    pub(super) async fn is_undone(&self, kv: &dyn Kv) -> bool {
        for written in &self.written {
            let present = kv.get(&written.key).await;
            if !present.is_ok_and(|entry| written.is_before(entry.as_ref())) {
                return false;
            }
        }
        !self.written.is_empty()
    }

    pub(super) fn read(entry: &Entry) -> Result<Self, Failure> {
        serde_json::from_slice(&entry.value)
            .map_err(|error| Failure::new(format!("The record {} cannot be read.", entry.key)).cause(&error))
    }
}

impl Written {
    /// The resource in words.
    pub(super) fn name(&self) -> String {
        match self.key.parse::<ResourceKey>() {
            Ok(ResourceKey { kind, namespace: Some(namespace), name }) => format!("{kind} {namespace}/{name}"),
            Ok(ResourceKey { kind, namespace: None, name }) => format!("{kind} {name}"),
            Err(_) => self.key.clone(),
        }
    }

    /// What was done to it.
    pub(super) fn done(&self) -> &'static str {
        match (&self.before, &self.after) {
            (None, _) => "created",
            (Some(_), Some(_)) => "changed",
            (Some(_), None) => "deleted",
        }
    }

    /// What taking back does.
    pub(super) fn undone(&self) -> &'static str {
        match (&self.before, &self.after) {
            (None, _) => "deleted again",
            (Some(_), Some(_)) => "as before",
            (Some(_), None) => "there again",
        }
    }

    fn is_before(&self, entry: Option<&Entry>) -> bool {
        entry.map(|entry| entry.value.as_slice()) == self.before.as_ref().map(String::as_bytes)
    }

    /// Takes it back. Can be repeated.
    pub(super) async fn take_back(&self, kv: &dyn Kv) -> Result<Back, Error> {
        let present = kv.get(&self.key).await?;
        if self.is_before(present.as_ref()) {
            return Ok(if self.revision.is_some() { Back::Done } else { Back::Untouched });
        }
        let ours = match (&present, &self.after) {
            (Some(entry), Some(after)) => {
                entry.value == after.as_bytes() && self.revision.is_none_or(|own| entry.revision == Revision(own))
            }
            (None, None) => true,
            _ => false,
        };
        if !ours {
            return Ok(Back::Foreign);
        }
        let outcome = match (present, &self.before) {
            (Some(entry), Some(before)) => {
                kv.update(&self.key, before.clone().into_bytes(), entry.revision).await.map(|_| ())
            }
            (Some(entry), None) => kv.delete(&self.key, entry.revision).await,
            (None, Some(before)) => kv.create(&self.key, before.clone().into_bytes()).await.map(|_| ()),
            (None, None) => Ok(()),
        };
        match outcome {
            Ok(()) => Ok(Back::Done),
            // Between looking and writing.
            Err(Error::Conflict { .. } | Error::AlreadyExists { .. } | Error::NotFound { .. }) => Ok(Back::Foreign),
            Err(error) => Err(error),
        }
    }
}
