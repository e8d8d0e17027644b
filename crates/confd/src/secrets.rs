//! Passwords of BGP sessions, from files.
//!
//! A v3 resource never holds a password, only where it is kept: `secretKeyRef` with the name and key of a secret.
//! Without Kubernetes there is no secret store, so the secret is a file that the operator puts on each node:
//! `/etc/calico/bgp-secrets/<name>/<key>`, readable by its owner alone. A peer whose password cannot be had gets no
//! session at all: a session without the password would be a weaker one than was asked for.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use serde::Deserialize;

use crate::config::Password;

/// Where the files are looked for.
pub const SECRETS_DIR: &str = "/etc/calico/bgp-secrets";

/// Where a password is kept.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SecretKeyRef {
    /// The secret's name; the folder.
    pub name: String,
    /// The key in the secret; the file.
    pub key: String,
}

/// A password that cannot be had. Never holds the password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// The reference is no path of two plain names.
    #[error("{0:?} cannot be the name or key of a secret")]
    Name(String),
    /// The file cannot be read.
    #[error("{}: {source}; put the password into this file, mode 0600", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The kernel's words.
        source: io::Error,
    },
    /// Others could read the password, or have written it.
    #[error("{} must be a regular file of this process's user with mode 0600 or 0400, it is owned by {owner} with mode {mode:04o}", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// The owner's user id.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// BIRD cannot take it.
    #[error("the password in {} {reason}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
}

/// Where passwords come from.
pub trait Secrets {
    /// The password behind a reference.
    ///
    /// # Errors
    /// Why it cannot be had.
    fn password(&self, reference: &SecretKeyRef) -> Result<Password, SecretError>;
}

/// Passwords in files below a folder.
#[derive(Clone, Debug)]
pub struct FileSecrets {
    /// The folder, [`SECRETS_DIR`].
    pub dir: PathBuf,
}

impl Secrets for FileSecrets {
    fn password(&self, reference: &SecretKeyRef) -> Result<Password, SecretError> {
        let mut path = self.dir.clone();
        for name in [&reference.name, &reference.key] {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            // "." and ".." are plain too, and are not names.
            if name.is_empty() || !name.bytes().all(plain) || name.bytes().all(|byte| byte == b'.') {
                return Err(SecretError::Name(name.clone()));
            }
            path.push(name);
        }
        let text = read_private(&path)?;
        // One line end is what an editor or `echo` adds.
        let text = text.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text)).unwrap_or(&text);
        Password::new(text.to_owned()).map_err(|reason| SecretError::Content { path, reason })
    }
}

/// Reads a small file that nobody else may read or write. The checks are made on the open file, so that it cannot be
/// exchanged between check and reading.
fn read_private(path: &Path) -> Result<String, SecretError> {
    let unreadable = |source| SecretError::Unreadable { path: path.to_owned(), source };
    // Without blocking: a pipe in the file's place must not stop the agent.
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).expect("open flags fit the kernel's int");
    let file = File::options().read(true).custom_flags(nonblocking).open(path).map_err(unreadable)?;
    let found = file.metadata().map_err(unreadable)?;
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    if !found.is_file() || owner != rustix::process::geteuid().as_raw() || mode & 0o177 != 0 {
        return Err(SecretError::Exposed { path: path.to_owned(), owner, mode });
    }
    let mut text = String::new();
    file.take(1024).read_to_string(&mut text).map_err(unreadable)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn secrets() -> (tempfile::TempDir, FileSecrets) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tor")).unwrap();
        let secrets = FileSecrets { dir: dir.path().to_owned() };
        (dir, secrets)
    }

    fn put(secrets: &FileSecrets, content: &str, mode: u32) -> Result<Password, SecretError> {
        let path = secrets.dir.join("tor/rack1");
        let _ = fs::remove_file(&path);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        secrets.password(&SecretKeyRef { name: "tor".into(), key: "rack1".into() })
    }

    #[test]
    fn content() {
        let (_dir, secrets) = secrets();
        let good = Password::new("s3cret word".into()).unwrap();
        for text in ["s3cret word", "s3cret word\n", "s3cret word\r\n"] {
            assert_eq!(put(&secrets, text, 0o600).unwrap(), good);
        }
        assert_eq!(put(&secrets, "s3cret word", 0o400).unwrap(), good);
        for text in ["", "\n", "a\nb", "a\"b", &"x".repeat(81), &"x".repeat(5000)] {
            let error = put(&secrets, text, 0o600).unwrap_err();
            assert!(matches!(error, SecretError::Content { .. }), "{error}");
        }
    }

    #[test]
    fn exposed_files_are_refused() {
        let (_dir, secrets) = secrets();
        for mode in [0o640, 0o604, 0o644, 0o660, 0o666, 0o700, 0o620, 0o602] {
            let error = put(&secrets, "s3cret", mode).unwrap_err();
            assert!(matches!(error, SecretError::Exposed { .. }), "{mode:o}: {error}");
            assert!(!error.to_string().contains("s3cret"));
        }
    }

    #[test]
    fn references_stay_below_the_folder() {
        let (_dir, secrets) = secrets();
        for (name, key) in
            [("..", "x"), ("tor", ".."), ("tor/../..", "x"), ("", "x"), ("tor", ""), ("tor", "/etc/x"), ("tor", "a\0")]
        {
            let error = secrets.password(&SecretKeyRef { name: name.into(), key: key.into() }).unwrap_err();
            assert!(matches!(error, SecretError::Name(_)), "{name:?} {key:?}: {error}");
        }
        let missing = secrets.password(&SecretKeyRef { name: "tor".into(), key: "none".into() }).unwrap_err();
        assert!(
            matches!(missing, SecretError::Unreadable { .. }) && missing.to_string().contains("tor/none"),
            "{missing}"
        );
    }
}
