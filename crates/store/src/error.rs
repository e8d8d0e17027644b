//! What can go wrong between a caller and the datastore.

use calico_model::{Invalid, Revision};

use crate::Entry;

/// A failed datastore operation. Every variant names the key or the datastore, and the cause.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A create found the key taken.
    #[error("{key} already exists")]
    AlreadyExists {
        /// The key.
        key: String,
        /// What stands there.
        existing: Box<Entry>,
    },
    /// The key is not there.
    #[error("{key} does not exist")]
    NotFound {
        /// The key.
        key: String,
    },
    /// An update or delete lost a race.
    #[error("{key} was changed by somebody else meanwhile")]
    Conflict {
        /// The key.
        key: String,
        /// What stands there now.
        current: Box<Entry>,
    },
    /// The revision to watch or read from is gone; list again.
    #[error("revision {compacted} and older have been compacted away")]
    Compacted {
        /// The oldest revision that is gone.
        compacted: Revision,
    },
    /// The datastore cannot be reached, or does not answer in time.
    #[error("the datastore at {endpoints} is unreachable: {cause}")]
    Unreachable {
        /// Where it was looked for.
        endpoints: String,
        /// The transport's words.
        cause: String,
    },
    /// The datastore answered with an error of its own.
    #[error("the datastore refused {operation}: {cause}")]
    Refused {
        /// What was asked.
        operation: String,
        /// The datastore's words.
        cause: String,
    },
    /// The connection settings make no sense; nothing was tried.
    #[error("{setting}: {cause}")]
    Settings {
        /// The variable or option at fault.
        setting: String,
        /// What is wrong, and what would be right.
        cause: String,
    },
    /// The resource to write has faults.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// A stored value cannot be read.
    #[error("{key} holds a value that cannot be read: {cause}")]
    Corrupt {
        /// The key.
        key: String,
        /// Why not.
        cause: String,
    },
}

/// etcd's words; its code for them stands for other things too.
const PERMISSION_DENIED: &str = "etcdserver: permission denied";

impl Error {
    /// A compare-and-swap of `key` found `current` instead of what was expected.
    pub(crate) fn lost_race(key: &str, current: Option<Entry>) -> Self {
        match current {
            Some(current) => Self::Conflict { key: key.to_owned(), current: Box::new(current) },
            None => Self::NotFound { key: key.to_owned() },
        }
    }

    /// A lost race, or a create of what is there already.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. } | Self::AlreadyExists { .. })
    }

    /// Nothing is there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// The same call may succeed later without any change by the caller.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// True if the user of the datastore has no right to what was asked.
    pub fn is_permission_denied(&self) -> bool {
        matches!(self, Self::Refused { cause, .. } if cause.contains(PERMISSION_DENIED))
    }
}
