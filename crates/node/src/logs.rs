//! Log files of the supervised processes: `<dir>/<name>/current`, turned over at 1 MB, ten old ones kept.
//!
//! Old files are called `@<nanoseconds since 1970>`, so that names sort by age. A log that cannot be written never
//! stops a process: it is said once, and the lines still go to standard error.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// Size at which a log file is turned over, in bytes.
const MAX_SIZE: u64 = 1_000_000;
/// How many old files are kept.
const KEEP: usize = 10;

/// The log of one process.
pub(crate) struct LogFile {
    dir: PathBuf,
    open: Option<(File, u64)>,
    complained: bool,
}

impl LogFile {
    /// A log in `dir`, which is made when the first line comes.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, open: None, complained: false }
    }

    /// Appends a line.
    pub(crate) fn write_line(&mut self, line: &str) {
        match self.try_write(line) {
            Ok(()) => self.complained = false,
            Err(error) => {
                self.open = None;
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::warn!(dir = %self.dir.display(), %error, "log file cannot be written");
                }
            }
        }
    }

    fn try_write(&mut self, line: &str) -> io::Result<()> {
        let full = self.open.as_ref().is_some_and(|(_, size)| *size + line.len() as u64 >= MAX_SIZE);
        if full {
            self.open = None;
            turn_over(&self.dir)?;
        }
        if self.open.is_none() {
            fs::create_dir_all(&self.dir)?;
            let file = OpenOptions::new().create(true).append(true).open(self.dir.join("current"))?;
            let size = file.metadata()?.len();
            self.open = Some((file, size));
        }
        if let Some((file, size)) = &mut self.open {
            file.write_all(format!("{line}\n").as_bytes())?;
            *size += line.len() as u64 + 1;
        }
        Ok(())
    }
}

fn turn_over(dir: &Path) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    fs::rename(dir.join("current"), dir.join(format!("@{now:020}")))?;
    let mut old: Vec<PathBuf> = fs::read_dir(dir)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('@')))
        .collect();
    old.sort();
    for path in old.iter().rev().skip(KEEP) {
        fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn turned_over_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("felix");
        let mut log = LogFile::new(path.clone());
        let line = "x".repeat(100_000);
        for _ in 0..200 {
            log.write_line(&line);
        }
        let files: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap()).collect();
        assert_eq!(files.len(), KEEP + 1);
        assert!(files.iter().all(|file| file.metadata().unwrap().len() <= MAX_SIZE));
        assert!(path.join("current").exists());
    }

    #[test]
    fn a_log_that_cannot_be_written_is_no_failure() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        LogFile::new(file.join("felix")).write_line("lost");
    }
}
