//! Copies of a datastore, and the way back.
//!
//! A backup is a database file like the datastore's own, so everything that reads one reads the other.
//!
//! After a restore the store stands at a revision that it never had before, greater than any that it gave out, and
//! everything below it counts as compacted. Otherwise a client that has seen revision 500 would go on from there in a
//! store that was put back to 400, and would never hear of the next hundred writes; so it is told that the history is
//! gone, and reads everything anew.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use redb::{ReadTransaction, ReadableDatabase, ReadableTable, WriteTransaction};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::Serialize;

use super::{
    error::{BackupError, OpenError, RestoreError, io_error},
    folder::{self, Folder},
    load, make,
    rows::{self, CHANGES, LEASES, Meta},
};

/// A revision that is certainly greater than all that were given out after a backup, if nobody knows how many there were.
const FAR: i64 = 1_000_000_000;

/// A backup that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backup {
    /// The file.
    pub path: PathBuf,
    /// The revision that it is a copy of.
    pub revision: i64,
    /// Its size in bytes.
    pub bytes: u64,
}

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// The revision at which the datastore goes on.
    pub revision: i64,
    /// The revision of the backup.
    pub backup_revision: i64,
    /// Where what was there before is kept.
    pub kept: Option<PathBuf>,
}

/// Writes what a snapshot shows into a new file.
pub(crate) fn write(snapshot: &ReadTransaction, to: &Path) -> Result<Backup, BackupError> {
    let failed = |what: String| BackupError::Failed { to: to.to_owned(), what };
    if to.symlink_metadata().is_ok() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let meta = load::guarded(|| load::meta(snapshot)).map_err(|error| failed(error.to_string()))?;
    let partial = beside(to, "partial").ok_or_else(|| failed("this is no name of a file".to_owned()))?;
    copy(snapshot, &partial, meta, |_, _| true).map_err(|error| failed(error.to_string()))?;
    let placed = renameat_with(CWD, &partial, CWD, to, RenameFlags::NOREPLACE);
    if let Err(error) = placed {
        let _ = fs::remove_file(&partial);
        if error == rustix::io::Errno::EXIST {
            return Err(BackupError::Exists(to.to_owned()));
        }
        return Err(failed(io::Error::from(error).to_string()));
    }
    folder::sync(to.parent().unwrap_or(Path::new("."))).map_err(|error| failed(error.to_string()))?;
    let bytes = fs::metadata(to).map_err(|error| failed(error.to_string()))?.len();
    Ok(Backup { path: to.to_owned(), revision: meta.revision, bytes })
}

/// A hidden file of this process in the same folder.
fn beside(path: &Path, what: &str) -> Option<PathBuf> {
    let name = path.file_name()?.to_string_lossy();
    Some(path.with_file_name(format!(".{name}.{}.{what}", std::process::id())))
}

/// Makes a file with the wanted changes and all leases of a snapshot, under a head that may be another.
fn copy(
    snapshot: &ReadTransaction,
    to: &Path,
    meta: Meta,
    is_wanted: impl Fn(&(i64, u32), &[u8]) -> bool,
) -> Result<(), OpenError> {
    let fill = |transaction: &WriteTransaction| {
        let mut changes = transaction.open_table(CHANGES)?;
        for row in snapshot.open_table(CHANGES)?.iter()? {
            let (key, value) = row?;
            if is_wanted(&key.value(), value.value()) {
                changes.insert(key.value(), value.value())?;
            }
        }
        let mut leases = transaction.open_table(LEASES)?;
        for (id, ttl) in rows::leases(snapshot)? {
            leases.insert(id, ttl)?;
        }
        meta.write(transaction)
    };
    load::guarded(|| Ok(make(to, fill))).unwrap_or_else(|error| Err(OpenError::damaged(to, error)))
}

/// Puts a backup in place of the datastore in a folder, which nobody may have open. What was there is kept beside it.
///
/// # Errors
/// [`RestoreError`]; the datastore is as it was.
pub fn restore(from: &Path, folder: &Path) -> Result<Restored, RestoreError> {
    let folder = Folder::open(folder)?;
    let loaded = load::load(from).map_err(RestoreError::Backup)?;
    let backup = loaded.meta;
    let data = folder.data();
    // What the datastore says of itself, unless it is damaged; and what its clients were told.
    let known = load::inspect(&data).ok().map(|meta| meta.revision).max(folder.acknowledged());
    let revision = match known {
        Some(known) => known.max(backup.revision) + 1,
        None => backup.revision + FAR,
    };
    let new = folder.new_data();
    let superseded = loaded.walked.core.superseded(backup.revision).into_iter().collect();
    rewrite(from, &new, Meta { revision, compacted: revision, ..backup }, &superseded)?;
    let kept = if data.exists() { Some(keep(&data)?) } else { None };
    fs::rename(&new, &data).map_err(io_error("replace", &data))?;
    folder.acknowledge(revision).map_err(io_error("write", folder.path()))?;
    folder::sync(folder.path())?;
    Ok(Restored { revision, backup_revision: backup.revision, kept })
}

/// Copies what exists in a backup that was checked, under another head and without history.
fn rewrite(from: &Path, to: &Path, meta: Meta, superseded: &BTreeSet<(i64, u32)>) -> Result<(), OpenError> {
    let (database, _) = load::overlay(from, false)?;
    let snapshot = load::guarded(|| Ok(database.begin_read()?)).map_err(|error| OpenError::damaged(from, error))?;
    let is_wanted = |key: &(i64, u32), row: &[u8]| !superseded.contains(key) && !rows::is_deletion(row);
    copy(&snapshot, to, meta, is_wanted)
}

/// Gives a file that is to be replaced a further name. Until the replacement is there it has both.
fn keep(data: &Path) -> Result<PathBuf, OpenError> {
    for number in 1..=u32::MAX {
        let kept = data.with_extension(format!("redb.before-restore-{number}"));
        match fs::hard_link(data, &kept) {
            Ok(()) => return Ok(kept),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io_error("keep", data)(error)),
        }
    }
    Err(io_error("keep", data)(io::ErrorKind::AlreadyExists.into()))
}
