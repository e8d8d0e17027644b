//! Looking whether a datastore is whole.

use std::path::{Path, PathBuf};

use calico_store::mvcc::{Core, KeyRange, Read, ReadResult, Refusal};
use redb::ReadTransaction;
use serde::{Deserialize, Serialize};

use super::{
    error::OpenError,
    folder::{self, DATA},
    load::{self, Loaded},
    rows::FORMAT,
};

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The file.
    pub path: PathBuf,
    /// What is wrong, empty if nothing is; the other numbers say nothing if something is.
    pub problems: Vec<String>,
    /// The format of the file.
    pub format: i64,
    /// The revision of the last write.
    pub revision: i64,
    /// The compacted revision; 0 if nothing was compacted.
    pub compacted: i64,
    /// The number of keys that exist.
    pub keys: usize,
    /// The number of changes in the history, the ones that made the present keys among them.
    pub changes: u64,
    /// The number of leases.
    pub leases: usize,
    /// The bytes of all changes.
    pub bytes_in_use: u64,
    /// True if the process that wrote the file did not close it; the next start mends that by itself.
    pub unclean: bool,
}

impl Report {
    /// True if nothing is wrong.
    pub fn is_whole(&self) -> bool {
        self.problems.is_empty()
    }

    fn damaged(path: &Path, problems: Vec<String>) -> Self {
        let (format, revision, compacted, keys, changes, leases, bytes_in_use) = (FORMAT, 0, 0, 0, 0, 0, 0);
        let (path, unclean) = (path.to_owned(), false);
        Self { path, problems, format, revision, compacted, keys, changes, leases, bytes_in_use, unclean }
    }

    fn whole(path: &Path, loaded: &Loaded) -> Self {
        let Loaded { walked, meta, mended } = loaded;
        Self {
            path: path.to_owned(),
            problems: Vec::new(),
            format: FORMAT,
            revision: meta.revision,
            compacted: meta.compacted,
            keys: keys(&walked.core),
            changes: walked.changes,
            leases: walked.leases,
            bytes_in_use: walked.used,
            unclean: *mended,
        }
    }
}

/// Reads all of a datastore that nobody has open, or of a backup: checksums of all pages, revisions without a gap, versions
/// that follow each other, leases that exist. `path` is the folder or the file. Nothing is changed.
///
/// # Errors
/// [`OpenError::Locked`] while a calico-node has it (ask that one instead), [`OpenError::Newer`], [`OpenError::Io`].
/// Damage is no error but a report.
pub fn check(path: &Path) -> Result<Report, OpenError> {
    let path = if path.is_dir() { path.join(DATA) } else { path.to_owned() };
    let lock = folder::lock_beside(&path)?;
    match load::load(&path) {
        Ok(loaded) => {
            let mut report = Report::whole(&path, &loaded);
            // A backup has no such note, and beside one lies none.
            let acknowledged = lock.and_then(|_| folder::acknowledged(&path));
            if let Some(acknowledged) = acknowledged.filter(|acknowledged| *acknowledged > report.revision) {
                report.problems.push(super::lost(acknowledged, report.revision));
            }
            Ok(report)
        }
        Err(OpenError::Damaged { what, .. }) => Ok(Report::damaged(&path, vec![what])),
        Err(error) => Err(error),
    }
}

/// Reads all of a snapshot and compares it with what is in memory; `memory` answers as [`Core::range`] does.
pub(crate) fn snapshot(
    snapshot: &ReadTransaction,
    folder: &Path,
    memory: impl FnOnce(&Read) -> Result<ReadResult, Refusal>,
) -> Report {
    let path = folder.join(DATA);
    let walked = load::guarded(|| load::meta(snapshot)).map_err(|error| error.to_string());
    match walked.and_then(|meta| Ok((meta, load::walk(snapshot, meta)?))) {
        Ok((meta, walked)) => {
            let problem = differs(&walked.core, memory);
            let mut report = Report::whole(&path, &Loaded { walked, meta, mended: false });
            report.problems.extend(problem);
            report
        }
        Err(what) => Report::damaged(&path, vec![what]),
    }
}

/// How many keys there are.
fn keys(core: &Core) -> usize {
    let all = Read { count_only: true, ..Read::new(KeyRange::prefix("")) };
    core.range(&all, core.settled()).map_or(0, |read| read.count)
}

/// What differs between what was stored and the memory that it is to bring back, at the revision of the former.
fn differs(stored: &Core, memory: impl FnOnce(&Read) -> Result<ReadResult, Refusal>) -> Option<String> {
    let revision = stored.settled();
    let all = Read { revision: Some(revision), ..Read::new(KeyRange::prefix("")) };
    let stored = stored.range(&all, revision).ok()?;
    // A compaction meanwhile has taken that revision from memory: then there is nothing to compare with.
    let held = memory(&all).ok()?;
    if stored == held {
        return None;
    }
    let differing = stored.kvs.iter().zip(&held.kvs).find(|(stored, held)| stored != held);
    let key = differing.map_or_else(|| "after all others".into(), |(kv, _)| String::from_utf8_lossy(&kv.key));
    let (stored, held) = (stored.kvs.len(), held.kvs.len());
    Some(format!("at revision {revision} the file has {stored} keys and the memory {held}; first difference: {key}"))
}
