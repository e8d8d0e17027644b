//! A datastore that remembers how everything was before a command wrote it.
//!
//! It stands between the command and the datastore, so every command can be taken back, and none has to know. What it
//! does not know is whether a write arrived whose answer was lost: who takes back looks.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use calico_model::{RESOURCE_ROOT, Revision};
use calico_store::{Entry, Error, Kv, KvWatch, Listing};

use super::record::Written;

/// Remembers.
pub(super) struct Recorder {
    inner: Arc<dyn Kv>,
    written: Mutex<Vec<Written>>,
}

impl Recorder {
    pub(super) fn new(inner: Arc<dyn Kv>) -> Arc<Self> {
        Arc::new(Self { inner, written: Mutex::default() })
    }

    /// What was written, oldest first: once for each key, from its first value to its last.
    pub(super) fn written(&self) -> Vec<Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, key: &str, before: Option<Vec<u8>>, after: Option<Vec<u8>>, outcome: Option<Revision>) {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (before, after) = (before.map(text), after.map(text));
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let revision = outcome.map(|revision| revision.0);
        match written.iter_mut().find(|own| own.key == key) {
            Some(own) => {
                own.after = after;
                own.revision = revision;
            }
            None => written.push(Written { key: key.to_owned(), before, after, revision }),
        }
    }
}

/// Addresses and blocks change hands at once, so they are no part of a change that may be taken back.
fn refuse_others(key: &str) -> Result<(), Error> {
    if key.starts_with(RESOURCE_ROOT) {
        return Ok(());
    }
    Err(Error::Refused {
        operation: format!("to change {key} on probation"),
        cause: "addresses that are let go cannot be taken back; leave --confirm out".to_owned(),
    })
}

/// True if a write that failed may have been carried out.
fn in_doubt(error: &Error) -> bool {
    error.is_unreachable()
}

#[async_trait]
impl Kv for Recorder {
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, Error> {
        self.inner.list(prefix).await
    }

    async fn create(&self, key: &str, value: Vec<u8>) -> Result<Revision, Error> {
        refuse_others(key)?;
        let outcome = self.inner.create(key, value.clone()).await;
        match &outcome {
            Ok(revision) => self.note(key, None, Some(value), Some(*revision)),
            Err(error) if in_doubt(error) => self.note(key, None, Some(value), None),
            Err(_) => {}
        }
        outcome
    }

    async fn update(&self, key: &str, value: Vec<u8>, expected: Revision) -> Result<Revision, Error> {
        refuse_others(key)?;
        let before = self.at(key, expected).await?;
        let outcome = self.inner.update(key, value.clone(), expected).await;
        match &outcome {
            Ok(revision) => self.note(key, before, Some(value), Some(*revision)),
            Err(error) if in_doubt(error) => self.note(key, before, Some(value), None),
            Err(_) => {}
        }
        outcome
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<(), Error> {
        refuse_others(key)?;
        let before = self.at(key, expected).await?;
        let outcome = self.inner.delete(key, expected).await;
        match &outcome {
            Ok(()) => self.note(key, before, None, None),
            Err(error) if in_doubt(error) => self.note(key, before, None, None),
            Err(_) => {}
        }
        outcome
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn KvWatch>, Error> {
        self.inner.watch(prefix, after).await
    }

    fn location(&self) -> String {
        self.inner.location()
    }
}

impl Recorder {
    /// The value of a revision, if it is the present one; else the write will not succeed anyway.
    async fn at(&self, key: &str, expected: Revision) -> Result<Option<Vec<u8>>, Error> {
        let present = self.inner.get(key).await?;
        Ok(present.filter(|entry| entry.revision == expected).map(|entry| entry.value))
    }
}
