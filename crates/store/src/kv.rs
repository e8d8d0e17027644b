//! The seam below: keys, bytes, revisions.

use async_trait::async_trait;
use calico_model::Revision;

use crate::Error;

/// One key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// The revision of the last write to the key.
    pub revision: Revision,
}

/// All keys below a prefix at one revision, in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The revision of the whole listing; watch from the one after it.
    pub revision: Revision,
    /// The entries.
    pub entries: Vec<Entry>,
}

/// One event of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvEvent {
    /// Created or changed.
    Put(Entry),
    /// Deleted at `revision`.
    Delete {
        /// The key.
        key: String,
        /// The revision of the deletion.
        revision: Revision,
    },
}

/// A running watch. Dropping it ends it.
#[async_trait]
pub trait KvWatch: Send {
    /// The next events, in revision order; those of one revision come together.
    ///
    /// Cancel-safe: a call that is dropped loses no event.
    ///
    /// # Errors
    /// [`Error::Compacted`] or [`Error::Unreachable`]; the watch is over then.
    async fn next(&mut self) -> Result<Vec<KvEvent>, Error>;
}

/// Keys and values with compare-and-swap, list and watch. Every call ends within seconds.
///
/// A write that fails with [`Error::Unreachable`] may have been carried out all the same; who must know looks at the
/// key. It is never repeated here.
#[async_trait]
pub trait Kv: Send + Sync {
    /// The value of a key, `None` if there is none.
    async fn get(&self, key: &str) -> Result<Option<Entry>, Error>;

    /// All keys that start with `prefix`.
    async fn list(&self, prefix: &str) -> Result<Listing, Error>;

    /// Writes a key that is absent.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] with what is there.
    async fn create(&self, key: &str, value: Vec<u8>) -> Result<Revision, Error>;

    /// Writes a key that still has revision `expected`.
    ///
    /// # Errors
    /// [`Error::Conflict`] with what is there now, [`Error::NotFound`] if it is gone.
    async fn update(&self, key: &str, value: Vec<u8>, expected: Revision) -> Result<Revision, Error>;

    /// Deletes a key that still has revision `expected`.
    ///
    /// # Errors
    /// As for [`update`](Self::update).
    async fn delete(&self, key: &str, expected: Revision) -> Result<(), Error>;

    /// Events below `prefix` with revisions after `after`.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Box<dyn KvWatch>, Error>;

    /// Where the datastore is, for messages.
    fn location(&self) -> String;
}
