//! BIRD's configuration file: written beside, checked by BIRD, then put in place.
//!
//! The file is complete and accepted at any moment, whatever is killed when, and readable by its owner only, because
//! it holds passwords. What BIRD refuses is kept as `<file>.refused`, so that a person can look at the line that the
//! message names.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, task::spawn_blocking, time::timeout};

/// How long `bird -p` may take; 10,000 sessions take 32 ms.
const CHECK_PATIENCE: Duration = Duration::from_secs(10);

/// A configuration that could not be put in place; the file is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum FileError {
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// The kernel's words.
        source: io::Error,
    },
    /// BIRD could not be asked.
    #[error("cannot run {} to check the configuration: {source}; is BIRD 2 installed (package bird2)?", binary.display())]
    Checker {
        /// The program.
        binary: PathBuf,
        /// The kernel's words.
        source: io::Error,
    },
    /// BIRD said no.
    #[error("BIRD refuses the configuration: {0}")]
    Refused(String),
}

/// What tells one version of a file from another: modification time, its fraction, size, inode, mode.
pub(crate) type Fingerprint = Option<(i64, i64, u64, u64, u32)>;

/// The version of a file that is there now, `None` if there is none.
pub(crate) fn fingerprint(path: &Path) -> Fingerprint {
    let found = fs::metadata(path).ok()?;
    Some((found.mtime(), found.mtime_nsec(), found.size(), found.ino(), found.mode()))
}

/// The file and its checker.
#[derive(Clone, Debug)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    binary: PathBuf,
    /// The version that was read or written last.
    seen: Fingerprint,
}

impl ConfigFile {
    pub(crate) fn new(path: PathBuf, binary: PathBuf) -> Self {
        Self { path, binary, seen: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What stands in the file, `None` if there is none. A file that others can read counts as none: it is to be
    /// written anew.
    pub(crate) fn read(&mut self) -> Option<String> {
        // Before reading, so that a change in between is noticed later.
        self.seen = fingerprint(&self.path);
        let (.., mode) = self.seen?;
        if mode & 0o177 == 0 { fs::read_to_string(&self.path).ok() } else { None }
    }

    /// True if the file is not the one that was read or written last.
    pub(crate) fn changed(&self) -> bool {
        fingerprint(&self.path) != self.seen
    }

    /// True if there is a file, whatever is in it.
    pub(crate) fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Puts a text in place that BIRD accepts.
    ///
    /// # Errors
    /// [`FileError`]; the file is as it was then.
    pub(crate) async fn replace(&mut self, text: &str) -> Result<(), FileError> {
        let (staged, content) = (self.beside("tmp"), text.to_owned());
        let path = staged.clone();
        blocking(move || write_private(&path, &content)).await?;
        if let Err(error) = self.check(&staged).await {
            // The message names the file under the name that it has from now on.
            let _ = fs::rename(&staged, self.beside("refused"));
            return Err(error);
        }
        // A rename keeps all of it.
        let written = fingerprint(&staged);
        let (from, to) = (staged, self.path.clone());
        blocking(move || put_in_place(&from, &to)).await?;
        self.seen = written;
        Ok(())
    }

    async fn check(&self, staged: &Path) -> Result<(), FileError> {
        let unusable = |source| FileError::Checker { binary: self.binary.clone(), source };
        let mut command = Command::new(&self.binary);
        command.arg("-p").arg("-c").arg(staged).stdin(Stdio::null()).kill_on_drop(true);
        let output = match timeout(CHECK_PATIENCE, command.output()).await {
            Ok(output) => output.map_err(unusable)?,
            Err(_elapsed) => return Err(unusable(io::ErrorKind::TimedOut.into())),
        };
        if output.status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&output.stderr)
            .replace(&staged.display().to_string(), &self.beside("refused").display().to_string());
        let words = words.trim();
        let words = words.strip_prefix("bird: ").unwrap_or(words);
        Err(FileError::Refused(if words.is_empty() { output.status.to_string() } else { words.to_owned() }))
    }

    /// A name in the same folder, so that a rename is atomic.
    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".");
        name.push(suffix);
        self.path.with_file_name(name)
    }
}

async fn blocking(work: impl FnOnce() -> Result<(), FileError> + Send + 'static) -> Result<(), FileError> {
    spawn_blocking(work).await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

fn write_private(path: &Path, text: &str) -> Result<(), FileError> {
    let failed = |action| move |source| FileError::Io { action, path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed("make the folder of"))?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove")(error)),
        _ => {}
    }
    // Created anew with its mode, so that nobody can have opened it before.
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path).map_err(failed("create"))?;
    file.write_all(text.as_bytes()).map_err(failed("write"))?;
    file.sync_all().map_err(failed("write"))
}

fn put_in_place(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(|source| FileError::Io { action: "replace", path: to.to_owned(), source })?;
    // The rename is to survive a power cut; if the folder cannot be synchronised, it is still in place.
    if let Some(Ok(folder)) = to.parent().map(File::open) {
        let _ = folder.sync_all();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const GOOD: &str = "router id 10.0.0.1;\nprotocol device { }\n";

    fn file(binary: &str) -> (tempfile::TempDir, ConfigFile) {
        let dir = tempfile::tempdir().unwrap();
        let file = ConfigFile::new(dir.path().join("made/on/demand/bird.cfg"), binary.into());
        (dir, file)
    }

    #[tokio::test]
    async fn a_good_text_is_put_in_place_privately() {
        let (_dir, mut file) = file("bird");
        file.replace(GOOD).await.unwrap();
        assert_eq!(file.read().as_deref(), Some(GOOD));
        assert_eq!(fs::metadata(file.path()).unwrap().mode() & 0o7777, 0o600);
        let names: Vec<_> =
            fs::read_dir(file.path().parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["bird.cfg"], "nothing is left behind");
    }

    #[tokio::test]
    async fn a_refused_text_changes_nothing_and_names_the_line() {
        let (_dir, mut file) = file("bird");
        file.replace(GOOD).await.unwrap();
        let error = file.replace("router id 10.0.0.1;\n\nprotocol nonsense { }\n").await.unwrap_err();
        let words = error.to_string();
        assert!(matches!(error, FileError::Refused(_)) && words.contains("bird.cfg.refused:3:"), "{words}");
        assert_eq!(file.read().as_deref(), Some(GOOD));
        assert!(fs::read_to_string(file.beside("refused")).unwrap().contains("nonsense"));
        assert_eq!(fs::metadata(file.beside("refused")).unwrap().mode() & 0o7777, 0o600);
    }

    #[tokio::test]
    async fn without_bird_nothing_is_written() {
        let (_dir, mut file) = file("/nonexistent/bird");
        let error = file.replace(GOOD).await.unwrap_err();
        assert!(matches!(error, FileError::Checker { .. }) && error.to_string().contains("bird2"), "{error}");
        assert!(!file.exists());
    }

    #[tokio::test]
    async fn a_left_over_and_a_readable_file_are_replaced() {
        let (_dir, mut file) = file("bird");
        file.replace(GOOD).await.unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(file.read(), None, "others can read it");
        fs::write(file.beside("tmp"), "left over").unwrap();
        file.replace(GOOD).await.unwrap();
        assert_eq!(file.read().as_deref(), Some(GOOD));
        assert!(!file.beside("tmp").exists());
    }
}
