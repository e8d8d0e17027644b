//! The folder of a datastore: its lock, and the few files beside the database.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{Advice, FlockOperation, fadvise, flock};

use super::error::{OpenError, io_error};

/// The database.
pub(super) const DATA: &str = "data.redb";
const LOCK: &str = "lock";
const ACKNOWLEDGED: &str = "acknowledged";
const RESERVE: &str = "reserve";
const SENDING: &str = "sending-";
/// Space that is kept for deletions and compactions on a full disk, in bytes.
const RESERVE_SIZE: usize = 1 << 20;
/// How often a lock is tried, and how long between two tries. Who has it may be at his end: a process that a restart
/// has just killed, or one between fork and exec, which has the files of its parent for a moment.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(25);

/// A folder that this process alone may use, as long as it has this.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Holds the lock; closing the file gives it back.
    _lock: File,
    acknowledged: File,
    reserved: bool,
}

impl Folder {
    /// Makes the folder if it is not there, and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        if !path.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("make the folder", path))?;
            if let Some(parent) = path.parent() {
                sync(parent)?;
            }
        }
        let lock = lock(path)?;
        let file = path.join(ACKNOWLEDGED);
        let acknowledged = private().read(true).create(true).open(&file).map_err(io_error("open", &file))?;
        let reserved = path.join(RESERVE).exists();
        Ok(Self { path: path.to_owned(), _lock: lock, acknowledged, reserved })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The database's file.
    pub(super) fn data(&self) -> PathBuf {
        self.path.join(DATA)
    }

    /// Where a new database is made before it takes the place of the old one.
    pub(super) fn new_data(&self) -> PathBuf {
        self.path.join(format!("{DATA}.new"))
    }

    /// Removes what an interrupted backup, restore or start left. Nobody else is at work: the folder is locked.
    pub(super) fn tidy(&self) {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| is_left_over(&entry.file_name().to_string_lossy())) {
            match fs::remove_file(entry.path()) {
                Ok(()) => tracing::info!(file = %entry.path().display(), "removed what an interrupted process left"),
                Err(error) => {
                    tracing::warn!(file = %entry.path().display(), %error, "this is of no use and cannot be removed")
                }
            }
        }
    }

    /// Keeps in mind that `revision` was acknowledged.
    ///
    /// This is a witness against the database file: whoever is told "written" must find it there later. It is not
    /// synced, so after a power failure it may say less than is true, but never more, and after the death of the
    /// process alone it is exact.
    pub(super) fn acknowledge(&self, revision: i64) -> io::Result<()> {
        self.acknowledged.write_all_at(format!("{revision:020}\n").as_bytes(), 0)
    }

    /// The greatest revision that is known to have been acknowledged; `None` if nothing is known.
    pub(super) fn acknowledged(&self) -> Option<i64> {
        read_acknowledged(&self.acknowledged)
    }

    /// Sees to it that some space is kept for bad times. False if the disk has none left.
    pub(super) fn reserve(&mut self) -> bool {
        if self.reserved {
            return true;
        }
        let file = self.path.join(RESERVE);
        let written = private().create(true).truncate(true).open(&file).and_then(|mut file| {
            file.write_all(&vec![0; RESERVE_SIZE])?;
            file.sync_all()
        });
        if written.is_err() {
            // What was written of it is space that somebody may need.
            let _ = fs::remove_file(&file);
        }
        self.reserved = written.is_ok();
        self.reserved
    }

    pub(super) fn has_reserve(&self) -> bool {
        self.reserved
    }

    /// Gives the kept space back to the disk.
    pub(super) fn release_reserve(&mut self) {
        self.reserved = false;
        if let Err(error) = fs::remove_file(self.path.join(RESERVE)) {
            tracing::warn!(%error, "the reserve of the datastore cannot be given back");
        }
    }
}

/// The greatest revision that is known to have been acknowledged by the datastore of this database file.
pub(super) fn acknowledged(data: &Path) -> Option<i64> {
    read_acknowledged(&File::open(data.parent()?.join(ACKNOWLEDGED)).ok()?)
}

fn read_acknowledged(file: &File) -> Option<i64> {
    let mut text = [0; 21];
    file.read_exact_at(&mut text, 0).ok()?;
    std::str::from_utf8(text.strip_suffix(b"\n")?).ok()?.parse().ok()
}

/// Where a backup that is to be sent is written.
pub(crate) fn sending(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{SENDING}{name}.redb"))
}

/// A file that is whole only under another name, or that should have none any more.
fn is_left_over(name: &str) -> bool {
    let is_sent = |name: &str| name.starts_with(SENDING) && name.ends_with(".redb");
    let is_partial = name.strip_prefix('.').is_some_and(|name| name.contains(".redb.") && name.ends_with(".partial"));
    is_sent(name) || is_partial || name == format!("{DATA}.new")
}

/// Sees to it that what is read of a file from now on is what the disk holds; see [`disk`](super).
pub(super) fn settle(path: &Path) -> Result<(), OpenError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    file.sync_all().map_err(io_error("sync", path))?;
    // A file system that does not know the wish has nothing to drop.
    let _ = fadvise(&file, 0, None, Advice::DontNeed);
    Ok(())
}

/// Options of a file that nobody else may read.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

/// Makes the entries of a folder durable.
pub(super) fn sync(folder: &Path) -> Result<(), OpenError> {
    // The empty path is what `parent` gives for a file of the working folder.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("sync", folder))
}

/// Locks a folder, or says which process has it.
fn lock(folder: &Path) -> Result<File, OpenError> {
    let path = folder.join(LOCK);
    let mut file = private().read(true).create(true).open(&path).map_err(io_error("open", &path))?;
    let mut tries = 1;
    while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(io_error("lock", &path)(error.into()));
        }
        if tries == TRIES {
            let mut text = String::new();
            let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(OpenError::Locked { folder: folder.to_owned(), pid });
        }
        tries += 1;
        std::thread::sleep(PAUSE);
    }
    let write = file.set_len(0).and_then(|()| file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0));
    write.map_err(io_error("write", &path))?;
    Ok(file)
}

/// Locks the folder of a database file that is only looked at. A folder without a lock file is none of a datastore.
pub(super) fn lock_beside(data: &Path) -> Result<Option<File>, OpenError> {
    match data.parent() {
        Some(folder) if data.file_name().is_some_and(|name| name == DATA) && folder.join(LOCK).exists() => {
            lock(folder).map(Some)
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_was_acknowledged_is_read_back_and_nonsense_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        assert_eq!(folder.acknowledged(), None);
        for revision in [1, 12_345, i64::MAX, 7] {
            folder.acknowledge(revision).unwrap();
            assert_eq!(folder.acknowledged(), Some(revision));
        }
        folder.acknowledged.write_all_at(b"x", 3).unwrap();
        assert_eq!(folder.acknowledged(), None);
    }

    #[test]
    fn what_an_interrupted_process_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let left = ["sending-0a1b.redb", ".sending-0a1b.redb.77.partial", ".data.redb.7.partial", "data.redb.new"];
        let kept =
            ["data.redb", "data.redb.before-restore-1", "location.env", "sending", "my.redb", ".x.partial", "x.new"];
        for name in left.iter().chain(&kept) {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        assert!(is_left_over(sending(dir.path(), "00").file_name().unwrap().to_str().unwrap()));
        Folder::open(dir.path()).unwrap().tidy();
        assert!(!left.iter().any(|name| dir.path().join(name).exists()));
        assert!(kept.iter().all(|name| dir.path().join(name).exists()));
    }

    /// Whether a first page can be read without asking the disk; `None` if the file system does not say.
    fn is_cached(path: &Path) -> Option<bool> {
        use rustix::io::{Errno, ReadWriteFlags, preadv2};
        let file = File::open(path).unwrap();
        let mut page = [0; 4096];
        match preadv2(&file, &mut [io::IoSliceMut::new(&mut page)], 0, ReadWriteFlags::NOWAIT) {
            Ok(_) => Some(true),
            Err(Errno::AGAIN) => Some(false),
            Err(_) => None,
        }
    }

    /// The kernel's copy of a file is dropped, so that a page of which a sync has failed is read from the disk.
    #[test]
    fn what_is_read_at_a_start_comes_from_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(DATA);
        fs::write(&path, vec![7; 1 << 20]).unwrap();
        let in_memory = rustix::fs::statfs(dir.path()).unwrap().f_type == 0x0102_1994;
        if in_memory || is_cached(&path) != Some(true) {
            return eprintln!("SKIPPED: the file system of {} does not say what is cached", dir.path().display());
        }
        settle(&path).unwrap();
        assert_eq!(is_cached(&path), Some(false));
        assert_eq!(fs::read(&path).unwrap(), vec![7; 1 << 20]);
        assert!(matches!(settle(&dir.path().join("none")), Err(OpenError::Io { action: "open", .. })));
    }

    #[test]
    fn the_second_is_told_who_is_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = Folder::open(dir.path()).unwrap();
        let OpenError::Locked { pid, .. } = Folder::open(dir.path()).unwrap_err() else { panic!("not locked") };
        assert_eq!(pid, Some(std::process::id()));
        drop(first);
        Folder::open(dir.path()).unwrap();
    }
}
