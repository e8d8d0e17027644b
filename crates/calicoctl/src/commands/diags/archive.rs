//! The archive: a gzipped tar file that only its owner can read, or no file at all.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};

use crate::failure::Failure;

/// The folder in the archive, as the classic tool calls it.
const FOLDER: &str = "diagnostics";

/// An archive that is being written. Dropped before [`finish`](Self::finish) it takes its file away.
pub(super) struct Archive {
    path: PathBuf,
    /// The folder that was made for it alone.
    folder: Option<PathBuf>,
    /// Seconds since 1970, for all that is in it.
    time: u64,
    tar: Option<tar::Builder<GzEncoder<File>>>,
}

impl Archive {
    /// Makes the file: at `wanted`, in the folder `wanted`, or in a new folder in the temporary one. `name` is used
    /// where `wanted` names no file.
    ///
    /// # Errors
    /// There is a file of that name, or it cannot be made.
    pub(super) fn create(wanted: Option<&str>, name: &str, time: u64) -> Result<Self, Failure> {
        let (path, folder) = match wanted.map(Path::new) {
            Some(path) if path.is_dir() => (path.join(name), None),
            Some(path) => (path.to_owned(), None),
            None => {
                let folder = std::env::temp_dir().join(format!("calico-diags-{}", uuid::Uuid::new_v4().simple()));
                // A name that nobody can guess, and a folder that must not be there yet: no link can lead elsewhere.
                let made = std::fs::DirBuilder::new().mode(0o700).create(&folder);
                made.map_err(|error| cannot(&folder, &error))?;
                (folder.join(name), Some(folder))
            }
        };
        let file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(|error| {
                match error.kind() {
                    io::ErrorKind::AlreadyExists => Failure::new(format!("{} is there already.", path.display()))
                        .hint("name a file that is not there, or a folder, with --output"),
                    _ => cannot(&path, &error),
                }
            })?;
        let tar = tar::Builder::new(GzEncoder::new(file, Compression::default()));
        Ok(Self { path, folder, time, tar: Some(tar) })
    }

    /// Adds a file.
    ///
    /// # Errors
    /// It cannot be written: usually the disk is full.
    pub(super) fn add(&mut self, name: &str, content: &str) -> Result<(), Failure> {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.time);
        let tar = self.tar.as_mut().expect("only `finish` takes it, and consumes the archive");
        let added = tar.append_data(&mut header, format!("{FOLDER}/{name}"), content.as_bytes());
        added.map_err(|error| cannot(&self.path, &error))
    }

    /// Completes it; returns its path.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub(super) fn finish(mut self) -> Result<PathBuf, Failure> {
        let tar = self.tar.take().expect("nothing has taken it");
        let written = tar.into_inner().and_then(GzEncoder::finish);
        match written {
            Ok(_) => {
                self.folder = None;
                Ok(std::mem::take(&mut self.path))
            }
            Err(error) => Err(cannot(&self.path, &error)),
        }
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        if self.path.as_os_str().is_empty() {
            return;
        }
        drop(self.tar.take());
        let _ = std::fs::remove_file(&self.path);
        if let Some(folder) = &self.folder {
            let _ = std::fs::remove_dir(folder);
        }
    }
}

fn cannot(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("The archive {} cannot be written.", path.display()))
        .cause(error)
        .hint("say with --output where there is room and right to write")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_file_is_its_owners_alone_and_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = dir.path().to_str().unwrap();
        let mut archive = Archive::create(Some(wanted), "a.tar.gz", 7).unwrap();
        archive.add("date", "today\n").unwrap();
        let path = archive.finish().unwrap();
        assert_eq!(path, dir.path().join("a.tar.gz"));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let Err(refused) = Archive::create(Some(wanted), "a.tar.gz", 7) else { panic!("overwritten") };
        assert!(refused.to_string().contains("is there already") && path.exists(), "{refused}");
        let Err(refused) = Archive::create(Some("/nonexistent/x.tar.gz"), "y", 7) else { panic!("made") };
        assert!(refused.to_string().contains("/nonexistent/x.tar.gz"), "{refused}");
    }

    #[test]
    fn what_is_not_finished_is_gone() {
        let archive = Archive::create(None, "a.tar.gz", 7).unwrap();
        let (path, folder) = (archive.path.clone(), archive.folder.clone().unwrap());
        assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert!(path.exists());
        drop(archive);
        assert!(!folder.exists());
    }
}
