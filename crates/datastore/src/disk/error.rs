//! Why a datastore cannot be opened, backed up or restored.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Why a datastore cannot be opened. Each says what to do about it; none has changed the database file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "{folder}: the datastore is in use by {}; there can be only one calico-node on a datastore: stop the other one (`calicoctl node stop`), or give this one a folder of its own",
        pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}")),
        folder = folder.display()
    )]
    Locked {
        /// The folder.
        folder: PathBuf,
        /// The process that has it, if it said so.
        pid: Option<u32>,
    },
    /// A later version of this program wrote it.
    #[error(
        "{path}: the file has the format {found}, and this program knows none after {known}: install the version that wrote it, or restore a backup of this version's (`calicoctl datastore restore FILE`)",
        path = path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The greatest format known here.
        known: i64,
    },
    /// Something else than this program has changed it, or the disk has lost parts of it.
    #[error(
        "{path}: the datastore is damaged: {what}; the file is left as it is: restore a backup (`calicoctl datastore restore FILE`), or move the folder away to begin with an empty datastore",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The system said no.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl OpenError {
    pub(super) fn damaged(path: &Path, what: impl ToString) -> Self {
        Self::Damaged { path: path.to_owned(), what: what.to_string() }
    }
}

/// For `map_err`: what was tried, and with what.
pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io { action, path: path.to_owned(), source }
}

/// Why there is no backup now.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupError {
    /// A file of this name exists; a backup never replaces one.
    #[error("{} exists, and a backup never replaces a file: choose another name", .0.display())]
    Exists(PathBuf),
    /// The datastore could not be read, or the file not be written.
    #[error("no backup was written to {to}: {what}", to = to.display())]
    Failed {
        /// The file.
        to: PathBuf,
        /// What happened.
        what: String,
    },
}

/// Why a backup was not restored; the datastore is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The backup cannot be used.
    #[error("the backup cannot be restored: {0}")]
    Backup(OpenError),
    /// The datastore cannot be replaced, above all because it is in use.
    #[error("nothing was restored: {0}")]
    Datastore(#[from] OpenError),
}

/// True if the disk, the quota or the largest allowed file is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}
