//! What the database reads and writes: the file itself, or a file that is only looked at.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use redb::StorageBackend;

/// Which storage a file gets; tests put one between that fails on demand.
pub(super) type Wrap = Box<dyn Fn(DataFile) -> Box<dyn StorageBackend> + Send>;

/// The database file.
///
/// The database's own lock is not taken: the folder has one, which the process holds longer than the file.
#[derive(Debug)]
pub(super) struct DataFile {
    file: File,
    /// Set once a sync has failed, and never taken back; see [`Disk`](super::Disk).
    unsynced: Arc<AtomicBool>,
}

impl DataFile {
    pub(super) fn new(file: File, unsynced: Arc<AtomicBool>) -> Self {
        Self { file, unsynced }
    }

    /// Keeps in mind that a sync failed.
    pub(super) fn note_sync(&self, outcome: io::Result<()>) -> io::Result<()> {
        if outcome.is_err() {
            self.unsynced.store(true, Ordering::SeqCst);
        }
        outcome
    }
}

impl StorageBackend for DataFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.note_sync(self.file.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }
}

/// A storage of which only the trait is known.
#[derive(Debug)]
pub(super) struct Boxed(pub Box<dyn StorageBackend>);

impl StorageBackend for Boxed {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }
}

/// The unit in which an [`Overlay`] keeps what was written.
const PAGE: usize = 4096;

/// A file that is only read; what is written to it stays in memory.
///
/// The database mends a file after a crash as it opens it, and walks it by writing. Through this it can do both to a
/// file that must stay as it is: one that may be damaged, one of a newer version, a backup.
#[derive(Debug)]
pub(super) struct Overlay {
    file: File,
    state: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    len: u64,
    /// Bytes of the file from here on do not count: the length was below them once.
    file_len: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
}

impl Overlay {
    pub(super) fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self { file, state: Mutex::new(Written { len, file_len: len, pages: BTreeMap::new() }) })
    }

    fn state(&self) -> MutexGuard<'_, Written> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the file itself says of the bytes from `offset` on; zeros where it says nothing.
    fn base(&self, file_len: u64, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = file_len.saturating_sub(offset).min(out.len() as u64) as usize;
        out[there..].fill(0);
        self.file.read_exact_at(&mut out[..there], offset)
    }
}

/// Cuts a span of bytes at the borders of pages: page number, offset in the page, place in the span, length.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = (at % PAGE as u64) as usize;
        let size = (PAGE - within).min(len - done);
        let piece = (at / PAGE as u64, within, done, size);
        done += size;
        (size > 0).then_some(piece)
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        if offset.saturating_add(out.len() as u64) > state.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if state.pages.is_empty() {
            return self.base(state.file_len, offset, out);
        }
        for (page, within, place, size) in pieces(offset, out.len()) {
            let out = &mut out[place..place + size];
            match state.pages.get(&page) {
                Some(written) => out.copy_from_slice(&written[within..within + size]),
                None => self.base(state.file_len, offset + place as u64, out)?,
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state();
        if len < state.len {
            state.file_len = state.file_len.min(len);
            let last = len / PAGE as u64;
            state.pages.retain(|page, _| *page <= last);
            if let Some(page) = state.pages.get_mut(&last) {
                page[(len % PAGE as u64) as usize..].fill(0);
            }
        }
        state.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        if offset.saturating_add(data.len() as u64) > state.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (page, within, place, size) in pieces(offset, data.len()) {
            if !state.pages.contains_key(&page) {
                let mut fresh = Box::new([0; PAGE]);
                self.base(state.file_len, page * PAGE as u64, fresh.as_mut_slice())?;
                state.pages.insert(page, fresh);
            }
            let written = state.pages.get_mut(&page).expect("inserted just now if it was not there");
            written[within..within + size].copy_from_slice(&data[place..place + size]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, Vec<u8>),
        Resize(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let bytes = (0..20_000u64, prop::collection::vec(any::<u8>(), 1..6000));
        prop_oneof![3 => bytes.prop_map(|(offset, data)| Step::Write(offset, data)), 1 => (0..20_000u64).prop_map(Step::Resize)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// An overlay reads like a copy of the file that was really written to, and the file stays as it was.
        #[test]
        fn an_overlay_reads_like_a_copy(before in prop::collection::vec(any::<u8>(), 0..15_000), steps in prop::collection::vec(step(), 0..12)) {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            io::Write::write_all(&mut file, &before).unwrap();
            let overlay = Overlay::new(File::open(file.path()).unwrap()).unwrap();
            let mut copy = before.clone();
            for step in steps {
                match step {
                    Step::Write(offset, data) => {
                        let end = offset as usize + data.len();
                        prop_assert_eq!(overlay.write(offset, &data).is_ok(), end <= copy.len());
                        if end <= copy.len() {
                            copy[offset as usize..end].copy_from_slice(&data);
                        }
                    }
                    Step::Resize(len) => {
                        overlay.set_len(len).unwrap();
                        copy.resize(len as usize, 0);
                    }
                }
                let mut all = vec![1; copy.len()];
                overlay.read(0, &mut all).unwrap();
                prop_assert!(all == copy);
                prop_assert_eq!(overlay.len().unwrap(), copy.len() as u64);
                prop_assert!(overlay.read(0, &mut vec![0; copy.len() + 1]).is_err());
            }
            prop_assert!(std::fs::read(file.path()).unwrap() == before);
        }
    }
}
