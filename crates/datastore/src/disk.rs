//! The database below the core: one redb file, which holds every durable revision.
//!
//! The core has everything in memory; the database is there to survive. So it is written in commits of whole batches
//! and read once, when it is opened.
//!
//! Invariants:
//!
//! - A commit is one transaction of the database, and has reached the disk when it returns (`fdatasync`).
//! - After a commit that failed it is certain what is on the disk: either all of it or nothing. The file is closed and
//!   looked at through an [`Overlay`](storage::Overlay), which mends it in memory as the next start would; the serial
//!   number of the last transaction tells the two apart. Only when the *sync* failed nobody can know: the kernel keeps
//!   pages that never reached the disk, reads them back from memory and says nothing at the next sync. Then the
//!   database takes no further commit until the process starts anew. It goes on reading, and does not start anew by
//!   itself: a disk that has failed once wants to be looked at, and if it is gone, reading is all there is.
//! - What is read at a start is what the disk holds. First all that the kernel still has to write is written, so that
//!   nothing is shown that a power failure could take back (a process that was killed may have written without a sync);
//!   then the kernel's copy is dropped, so that what it would not tell apart after a failed sync is read from the disk
//!   itself, where the checksums judge it. A file system in memory has no such copy and keeps it all.
//! - What an interrupted backup or restore left in the folder is removed at a start.
//! - A file that is damaged or of a newer format is never written to: it is opened, mended and walked in memory before
//!   it is opened for writing. All of its pages are checked against their checksums then, which cover each other up to
//!   the root, so a flipped bit anywhere in live data is found. What the root cannot show, that the file is not one
//!   commit older than it should be, the note of the last acknowledged revision beside it does.
//! - A new file takes its place by renaming, whole and synced.
//!
//! With the default of redb (one sync for each commit, checksums decide after a crash) and not two-phase commit, which
//! costs a second sync: what that adds is protection against somebody who chooses the written data *and* when the
//! machine crashes. Quick repair is off for the same reason; mending 100,000 keys takes 50 ms.

pub(crate) mod backup;
pub(crate) mod check;
pub(crate) mod error;
mod folder;
mod load;
pub(crate) mod rows;
mod storage;

pub(crate) use folder::sending;

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use calico_store::mvcc::{Core, LeaseChange};
use redb::{Database, ReadTransaction, ReadableDatabase};

use self::{
    error::{OpenError, io_error, is_full},
    folder::Folder,
    rows::{CHANGES, LEASES, Meta, Row},
    storage::{Boxed, DataFile, Wrap},
};

/// Memory for pages of the file, in bytes. What is read often is in the core, so this is only for writing.
const CACHE: usize = 512 << 10;

/// What one commit makes durable.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The store's revision afterwards.
    pub revision: i64,
    /// All writes since the last commit.
    pub changes: Vec<Row>,
    /// All grants and revocations since then, in order.
    pub leases: Vec<LeaseChange>,
    /// A compaction: its revision, and the changes that it makes superfluous.
    pub compaction: Option<(i64, Vec<(i64, u32)>)>,
}

/// Why a commit failed.
#[derive(Debug)]
pub(crate) enum CommitError {
    /// The disk is full. Nothing of the batch is stored.
    Full(String),
    /// Nothing of the batch is stored.
    NotStored(String),
    /// Nobody can know what is stored; see the [module](self).
    Unknown(String),
}

/// The database, and the lock on its folder.
pub(crate) struct Disk {
    folder: Folder,
    wrap: Wrap,
    /// `None` after a failure, until it can be opened again.
    database: Option<Database>,
    meta: Meta,
    /// Bytes of keys and values and what belongs to them, without the database's own.
    used: u64,
    unsynced: Arc<AtomicBool>,
    /// Why nothing can be written any more.
    broken: Option<String>,
}

impl Disk {
    /// Opens or makes the datastore of a folder, and loads it.
    pub(crate) fn open(folder: &Path) -> Result<(Self, Core), OpenError> {
        Self::open_with(folder, Box::new(|file| Box::new(file)))
    }

    fn open_with(folder: &Path, wrap: Wrap) -> Result<(Self, Core), OpenError> {
        let folder = Folder::open(folder)?;
        let path = folder.data();
        folder.tidy();
        if !path.exists() {
            create(&folder)?;
        }
        folder::settle(&path)?;
        let loaded = load::load(&path)?;
        if let Some(acknowledged) = folder.acknowledged()
            && acknowledged > loaded.meta.revision
        {
            return Err(OpenError::damaged(&path, lost(acknowledged, loaded.meta.revision)));
        }
        let mut disk = Self {
            folder,
            wrap,
            database: None,
            meta: loaded.meta,
            used: loaded.walked.used,
            unsynced: Arc::default(),
            broken: None,
        };
        disk.reopen().map_err(|error| disk.cannot_open(error))?;
        disk.folder.acknowledge(disk.meta.revision).map_err(io_error("write", disk.folder.path()))?;
        if !disk.folder.reserve() {
            tracing::warn!(folder = %disk.folder.path().display(), "the disk is full: the datastore can only be read");
        }
        Ok((disk, loaded.walked.core))
    }

    fn cannot_open(&self, error: redb::Error) -> OpenError {
        let path = self.folder.data();
        match error {
            redb::Error::Io(source) => OpenError::Io { action: "open", path, source },
            other => OpenError::damaged(&path, other),
        }
    }

    /// Opens the file for writing. What it holds was looked at before.
    fn reopen(&mut self) -> Result<(), redb::Error> {
        let file = File::options().read(true).write(true).open(self.folder.data())?;
        let storage = (self.wrap)(DataFile::new(file, self.unsynced.clone()));
        let database =
            load::guarded(|| Ok(Database::builder().set_cache_size(CACHE).create_with_backend(Boxed(storage))?))?;
        let meta = load::guarded(|| load::meta(&database.begin_read()?))?;
        if meta != self.meta {
            return Err(redb::Error::Corrupted("it changes while it is opened".to_owned()));
        }
        self.database = Some(database);
        Ok(())
    }

    pub(crate) fn meta(&self) -> Meta {
        self.meta
    }

    /// Where the datastore is.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Why nothing can be written until the process starts anew.
    pub(crate) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// The space that the file takes on the disk, and the part of it that live data needs, in bytes.
    pub(crate) fn size(&self) -> (u64, u64) {
        // 512 is the unit of `st_blocks`, whatever the file system's own is.
        let blocks = fs::metadata(self.folder.data()).map_or(0, |found| found.blocks() * 512);
        (blocks, self.used)
    }

    /// True if there is room to write more; else only deletions and compactions may be committed, out of a reserve.
    pub(crate) fn has_room(&mut self) -> bool {
        self.folder.reserve()
    }

    /// Gives the reserve away, for commits that make the datastore smaller. False if that was done already.
    pub(crate) fn release_reserve(&mut self) -> bool {
        let had = self.folder.has_reserve();
        if had {
            self.folder.release_reserve();
        }
        had
    }

    /// Makes a batch durable. See the [module](self) for what is on the disk if that fails.
    pub(crate) fn commit(&mut self, batch: &Batch) -> Result<(), CommitError> {
        if let Some(broken) = &self.broken {
            return Err(CommitError::Unknown(broken.clone()));
        }
        if self.database.is_none() {
            self.reopen().map_err(|error| not_stored("the database cannot be opened again", &error))?;
        }
        let database = self.database.as_ref().expect("opened just now if it was not");
        let compacted = batch.compaction.as_ref().map_or(self.meta.compacted, |(revision, _)| *revision);
        let meta = Meta { revision: batch.revision, compacted, serial: self.meta.serial + 1, ..self.meta };
        match load::guarded(|| write(database, &meta, batch)) {
            Ok((added, removed)) => {
                self.used = (self.used + added).saturating_sub(removed);
                self.stored(meta);
                Ok(())
            }
            Err(error) => self.look_up(meta, &error),
        }
    }

    fn stored(&mut self, meta: Meta) {
        self.meta = meta;
        if let Err(error) = self.folder.acknowledge(meta.revision) {
            tracing::warn!(%error, "the last revision of the datastore cannot be noted beside it");
        }
    }

    /// A commit failed: finds out what became of it.
    fn look_up(&mut self, wanted: Meta, error: &redb::Error) -> Result<(), CommitError> {
        self.database = None;
        if self.unsynced.load(Ordering::SeqCst) {
            let what = format!(
                "the disk did not take what was written ({error}), so it is not certain what it holds; reading goes on, nothing is written: look at the disk (`dmesg`), then start calico-node anew, which reads and checks what the disk really holds"
            );
            return Err(self.give_up(what));
        }
        let found = match load::inspect(&self.folder.data()) {
            Ok(found) => found,
            Err(looked) => return Err(self.give_up(format!("{error}; afterwards: {looked}"))),
        };
        if found == self.meta {
            // If it cannot be opened now, the next commit tries again.
            if let Err(error) = self.reopen() {
                tracing::warn!(%error, "the database of the datastore cannot be opened again yet");
            }
            return Err(not_stored("the database cannot be written", error));
        }
        if found != wanted {
            return Err(
                self.give_up(format!("{error}; afterwards the file holds neither what it did nor what it should"))
            );
        }
        // All of it is in the file, and no sync failed; but perhaps none was made.
        if let Err(error) = File::open(self.folder.data()).and_then(|file| file.sync_all()) {
            return Err(self.give_up(format!("the disk did not take what was written ({error})")));
        }
        self.stored(wanted);
        let _ = self.reopen();
        Ok(())
    }

    fn give_up(&mut self, what: String) -> CommitError {
        let what = format!("{}: {what}", self.folder.data().display());
        tracing::error!(%what, "the datastore can only be read from now on");
        self.broken = Some(what.clone());
        CommitError::Unknown(what)
    }

    /// Everything as of now, to be read while further commits are made.
    pub(crate) fn snapshot(&mut self) -> Result<ReadTransaction, String> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        if self.database.is_none() {
            self.reopen().map_err(|error| error.to_string())?;
        }
        let database = self.database.as_ref().expect("opened just now if it was not");
        database.begin_read().map_err(|error| error.to_string())
    }

    /// Gives space that the file does not need back to the disk. Not while a snapshot is read.
    pub(crate) fn shrink(&mut self) -> Result<(), CommitError> {
        if let Some(broken) = &self.broken {
            return Err(CommitError::Unknown(broken.clone()));
        }
        if self.database.is_none() {
            self.reopen().map_err(|error| not_stored("the database cannot be opened again", &error))?;
        }
        let database = self.database.as_mut().expect("opened just now if it was not");
        match load::guarded(|| Ok(database.compact()?)) {
            Ok(_) => Ok(()),
            Err(redb::Error::TransactionInProgress) => {
                Err(CommitError::NotStored("a backup or a check reads the file just now: try again afterwards".into()))
            }
            // It moved data about and changed none: what is there is what was there.
            Err(error) => self.look_up(self.meta, &error),
        }
    }
}

/// One transaction of the database. Returns how many bytes of rows came and went.
fn write(database: &Database, meta: &Meta, batch: &Batch) -> Result<(u64, u64), redb::Error> {
    let transaction = database.begin_write()?;
    let (mut added, mut removed) = (0, 0);
    {
        let mut table = transaction.open_table(CHANGES)?;
        for row in &batch.changes {
            table.insert(row.key, row.value.as_slice())?;
            added += rows::size(&row.value);
        }
        for key in batch.compaction.iter().flat_map(|(_, superseded)| superseded) {
            let gone = table.remove(key)?;
            removed += gone.map_or(0, |row| rows::size(row.value()));
        }
        let mut table = transaction.open_table(LEASES)?;
        for lease in &batch.leases {
            match *lease {
                LeaseChange::Granted { id, ttl } => table.insert(id, ttl)?,
                LeaseChange::Revoked { id } => table.remove(id)?,
            };
        }
    }
    meta.write(&transaction)?;
    transaction.commit()?;
    Ok((added, removed))
}

/// Makes the database of a new datastore.
fn create(folder: &Folder) -> Result<(), OpenError> {
    let path = folder.data();
    if let Some(acknowledged) = folder.acknowledged().filter(|acknowledged| *acknowledged > 1) {
        return Err(OpenError::damaged(
            &path,
            format_args!("the file is gone, with everything up to revision {acknowledged}"),
        ));
    }
    let new = folder.new_data();
    make(&new, |transaction| {
        transaction.open_table(CHANGES)?;
        transaction.open_table(LEASES)?;
        Meta::new().write(transaction)
    })?;
    fs::rename(&new, &path).map_err(io_error("make", &path))?;
    folder::sync(folder.path())
}

/// Makes a database file with what `fill` writes into it, in place of one that was left half made.
fn make(path: &Path, fill: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>) -> Result<(), OpenError> {
    let made = || {
        let file = folder::private().read(true).create(true).truncate(true).open(path)?;
        let storage = DataFile::new(file, Arc::default());
        let database = Database::builder().set_cache_size(CACHE).create_with_backend(storage)?;
        let transaction = database.begin_write()?;
        fill(&transaction)?;
        transaction.commit()?;
        database.close()?;
        Ok(File::open(path)?.sync_all()?)
    };
    made().map_err(|error: redb::Error| {
        let _ = fs::remove_file(path);
        let source = match error {
            redb::Error::Io(source) => source,
            other => io::Error::other(other),
        };
        io_error("make", path)(source)
    })
}

fn lost(acknowledged: i64, found: i64) -> String {
    format!("it ends with revision {found}, but revision {acknowledged} was written and acknowledged")
}

fn not_stored(what: &str, error: &redb::Error) -> CommitError {
    match error {
        redb::Error::Io(source) if is_full(source) => CommitError::Full(format!("{what}: {source}")),
        other => CommitError::NotStored(format!("{what}: {other}")),
    }
}

#[cfg(test)]
pub(crate) mod tests;
