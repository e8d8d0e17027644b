//! Reading a database file: looked at in memory only, whatever state it is in.

use std::{
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use calico_store::mvcc::{Core, OwnedChange};
use redb::{AccessGuard, Database, ReadTransaction, ReadableDatabase, ReadableTable};

use super::{
    CACHE,
    error::{OpenError, io_error},
    rows::{self, CHANGES, FORMAT, Meta},
    storage::Overlay,
};

/// A database as it was read.
pub(super) struct Loaded {
    pub walked: Walked,
    pub meta: Meta,
    /// True if the process that wrote it did not close it.
    pub mended: bool,
}

/// Reads a file and checks all of it; the file stays as it is.
pub(super) fn load(path: &Path) -> Result<Loaded, OpenError> {
    let (database, mended) = overlay(path, true)?;
    let outcome = guarded(|| {
        let transaction = database.begin_read()?;
        let meta = match Meta::read(&transaction)? {
            Ok(meta) => meta,
            Err(found) => return Ok(Err(OpenError::Newer { path: path.to_owned(), found, known: FORMAT })),
        };
        let walked = walk(&transaction, meta).map_err(|what| OpenError::damaged(path, what));
        Ok(walked.map(|walked| Loaded { walked, meta, mended }))
    });
    outcome.unwrap_or_else(|error| Err(OpenError::damaged(path, error)))
}

/// What a file says of itself, as the next start would find it.
pub(super) fn inspect(path: &Path) -> Result<Meta, OpenError> {
    let (database, _) = overlay(path, false)?;
    guarded(|| meta(&database.begin_read()?)).map_err(|error| OpenError::damaged(path, error))
}

/// As [`Meta::read`], for a file of which the format was looked at before.
pub(super) fn meta(transaction: &ReadTransaction) -> Result<Meta, redb::Error> {
    Meta::read(transaction)?.map_err(|format| redb::Error::Corrupted(format!("it has the format {format} all at once")))
}

/// Opens a file in memory. Returns whether it had to be mended, too.
pub(super) fn overlay(path: &Path, check: bool) -> Result<(Database, bool), OpenError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let empty = file.metadata().map_err(io_error("open", path))?.len() == 0;
    if empty {
        return Err(OpenError::damaged(path, "the file is empty"));
    }
    let storage = Overlay::new(file).map_err(io_error("open", path))?;
    let mended = Arc::new(AtomicBool::new(false));
    let seen = mended.clone();
    let opened = guarded(|| {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE).set_check_integrity_on_open(check);
        builder.set_repair_callback(move |_| seen.store(true, Ordering::SeqCst));
        Ok(builder.create_with_backend(storage)?)
    });
    match opened {
        Ok(database) => Ok((database, mended.load(Ordering::SeqCst))),
        Err(redb::Error::Io(source)) if source.raw_os_error().is_some() => Err(io_error("read", path)(source)),
        Err(redb::Error::UpgradeRequired(_)) => Err(OpenError::damaged(path, "it is no database of this kind")),
        Err(error) => Err(OpenError::damaged(path, error)),
    }
}

/// The database promises errors for a damaged file, not for every damage: a panic is one more.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, redb::Error> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(redb::Error::Corrupted(crate::datastore::words_of(&*panic).to_owned())))
}

/// The row of a change, read; and what it takes.
fn read_row(row: Found<'_>) -> Result<(OwnedChange, u64), String> {
    let (key, value) = row.map_err(|error| error.to_string())?;
    let (key, value) = (key.value(), value.value());
    let change = rows::decode(key, value);
    let change = change.ok_or_else(|| format!("change {} of revision {} cannot be read", key.1, key.0))?;
    Ok((change, rows::size(value)))
}

type Found<'a> = Result<(AccessGuard<'a, (i64, u32)>, AccessGuard<'a, &'static [u8]>), redb::StorageError>;

/// Watches that no revision and no number within a revision is left out, as far as compaction has not come.
pub(super) struct Sequence {
    compacted: i64,
    last: (i64, u32),
}

impl Sequence {
    pub(super) fn new(meta: &Meta) -> Self {
        // An empty store stands at revision 1, without a change that has it.
        Self { compacted: meta.compacted, last: (meta.compacted.max(1), 0) }
    }

    /// The next change.
    pub(super) fn next(&mut self, revision: i64, sub: u32) -> Result<(), String> {
        if revision <= self.compacted {
            return Ok(());
        }
        let expected = if revision == self.last.0 { (revision, self.last.1 + 1) } else { (self.last.0 + 1, 0) };
        if (revision, sub) != expected {
            return Err(format!(
                "change {} of revision {} is missing: after it comes change {sub} of revision {revision}",
                expected.1, expected.0
            ));
        }
        self.last = (revision, sub);
        Ok(())
    }

    /// There is no further change.
    pub(super) fn end(&self, revision: i64) -> Result<(), String> {
        if self.last.0 == revision {
            return Ok(());
        }
        Err(format!("the store stands at revision {revision}, but the changes end with revision {}", self.last.0))
    }
}

/// What was met on the way through all rows.
pub(super) struct Walked {
    pub core: Core,
    /// Bytes in rows of changes.
    pub used: u64,
    /// How many rows of changes there are.
    pub changes: u64,
    pub leases: usize,
}

/// Builds the core of all rows, which checks each against the ones before it.
pub(super) fn walk(transaction: &ReadTransaction, meta: Meta) -> Result<Walked, String> {
    if meta.revision < 1 || meta.compacted < 0 || meta.compacted > meta.revision {
        return Err(format!("revision {} and compacted revision {} cannot be", meta.revision, meta.compacted));
    }
    let leases = rows::leases(transaction).map_err(|error| error.to_string())?;
    let table = transaction.open_table(CHANGES).map_err(|error| error.to_string())?;
    let mut walked = Walked { leases: leases.len(), changes: 0, used: 0, core: Core::new() };
    let mut sequence = Sequence::new(&meta);
    let mut failed = None;
    let mut take = |row| {
        let (change, size) = read_row(row)?;
        sequence.next(change.revision, change.sub)?;
        walked.used += size;
        walked.changes += 1;
        Ok(change)
    };
    // The core takes changes, not errors: the first one ends what it gets.
    let rows = table.iter().map_err(|error| error.to_string())?;
    let rows = rows.map_while(|row| take(row).map_err(|error: String| failed = Some(error)).ok());
    let core = Core::load(rows, meta.revision, meta.compacted, leases, Duration::ZERO);
    if let Some(failed) = failed {
        return Err(failed);
    }
    sequence.end(meta.revision)?;
    walked.core = core.map_err(|error| error.to_string())?;
    Ok(walked)
}
