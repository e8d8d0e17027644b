//! The files of an image.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::tar::{Entry, TarWriter};

/// A set of files by path, sorted. Adding a path again replaces what was there.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    entries: BTreeMap<String, Entry>,
}

impl Layer {
    /// Adds the content of a file of this machine; symbolic links are followed.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn add_file(&mut self, path: &str, source: &Path, mode: u32) -> io::Result<()> {
        self.add_bytes(path, fs::read(source)?, mode);
        Ok(())
    }

    /// Adds a file with this content.
    pub fn add_bytes(&mut self, path: &str, content: Vec<u8>, mode: u32) {
        self.add(path, Entry::file(content, mode));
    }

    /// Adds a plain text file.
    pub fn add_text(&mut self, path: &str, text: &str) {
        self.add_bytes(path, text.into(), 0o644);
    }

    /// Adds a symbolic link.
    pub fn add_link(&mut self, path: &str, target: &str) {
        self.add(path, Entry::link(target));
    }

    /// Adds an empty folder.
    pub fn add_dir(&mut self, path: &str, mode: u32) {
        self.add(path, Entry::dir(mode));
    }

    fn add(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/');
        for (at, _) in path.match_indices('/') {
            self.entries.entry(path[..at].to_owned()).or_insert_with(|| Entry::dir(0o755));
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// The layer as a tar archive. Sorting puts every folder before what is in it.
    pub(super) fn to_tar(&self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let mut tar = TarWriter::new(&mut out);
        for (path, entry) in &self.entries {
            tar.append(path, entry)?;
        }
        tar.finish()?;
        Ok(out)
    }
}
