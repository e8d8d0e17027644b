//! Passwords of BGP sessions: checked, kept in files that only root can read, and shown nowhere.
//!
//! A BGPPeer says only where its password is kept, `NAME/KEY`; on every host that peers, confd reads
//! `/etc/calico/bgp-secrets/NAME/KEY`. So a password that is typed here is written into that file of this host, before
//! the BGPPeer that refers to it, and taken back if that cannot be stored.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use calico_confd::{Password, SecretKeyRef};
use calico_model::BGPPeerSpec;
use serde_json::{Value, json};

use crate::{args::PeerAdd, context::Context, failure::Failure};

/// The file of a peer's password in the peer's own folder.
const KEY: &str = "password";
/// No password is longer, and no file with one.
const LARGEST: u64 = 1024;

/// What was said of the password.
pub(super) enum Wanted {
    /// Nothing: it stays as it is.
    AsIs,
    /// It is kept somewhere already.
    KeptIn(SecretKeyRef),
    /// It is to be kept; checked.
    Keep(String),
}

impl Wanted {
    /// Reads and checks what was typed, and changes nothing.
    ///
    /// # Errors
    /// A reference that is none; a file that cannot be read, or holds what is no password. Never with the password.
    pub(super) fn read(ctx: &Context, add: &PeerAdd) -> Result<Self, Failure> {
        if let Some(text) = &add.password_secret {
            return reference(text).map(Self::KeptIn);
        }
        let Some(file) = &add.password_file else { return Ok(Self::AsIs) };
        if let Some(kept) = kept_already(&ctx.runtime.bgp_secrets(), Path::new(file)) {
            return Ok(Self::KeptIn(kept));
        }
        ctx.require_root()?;
        let named = |failure: Failure| failure.about(&format!("--password-file {file}"));
        let text = if file == "-" { from_input(ctx) } else { from_file(ctx, Path::new(file)) }.map_err(named)?;
        // One line end is what an editor or `echo` adds.
        let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
        Password::new(text.to_owned()).map_err(|reason| named(Failure::new(format!("The password {reason}."))))?;
        Ok(Self::Keep(text.to_owned()))
    }
}

/// `NAME/KEY`.
fn reference(text: &str) -> Result<SecretKeyRef, Failure> {
    let plain = |part: &str| {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        !part.is_empty() && part.bytes().all(good) && !part.bytes().all(|byte| byte == b'.')
    };
    match text.split_once('/') {
        Some((name, key)) if plain(name) && plain(key) => {
            Ok(SecretKeyRef { name: name.to_owned(), key: key.to_owned() })
        }
        // Not shown: somebody may have typed the password itself.
        _ => Err(Failure::new("--password-secret is not NAME/KEY.")
            .because("name and key are letters, digits, dots, dashes and underscores")
            .hint("the password is then read from /etc/calico/bgp-secrets/NAME/KEY; or use --password-file=FILE")),
    }
}

/// A file that is where confd looks for it.
fn kept_already(dir: &Path, file: &Path) -> Option<SecretKeyRef> {
    let below = file.strip_prefix(dir).ok()?.to_str()?;
    reference(below).ok()
}

fn from_input(ctx: &Context) -> Result<String, Failure> {
    ctx.console.input().map_err(|error| Failure::new("Standard input cannot be read.").cause(&error))
}

fn from_file(ctx: &Context, path: &Path) -> Result<String, Failure> {
    let unreadable = |error: io::Error| Failure::new("The file cannot be read.").cause(&error);
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode();
    if mode & 0o077 != 0 {
        let path = path.display();
        ctx.console.note(&format!("warning: others than its owner can read or change {path}: chmod 600 {path}"));
    }
    let mut text = String::new();
    file.take(LARGEST + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > LARGEST {
        return Err(
            Failure::new("The file is larger than any password.").hint("it holds the password and nothing else")
        );
    }
    Ok(text)
}

/// Where the password of the BGPPeer of that name is kept when it is written here.
pub(super) fn own_reference(peer: &str) -> SecretKeyRef {
    SecretKeyRef { name: peer.to_owned(), key: KEY.to_owned() }
}

/// The reference of a BGPPeer, if it has one.
pub(super) fn of(spec: &BGPPeerSpec) -> Option<SecretKeyRef> {
    let reference = spec.extra.get("password")?.get("secretKeyRef")?;
    serde_json::from_value(reference.clone()).ok()
}

/// As a member of a BGPPeer.
pub(super) fn member(reference: &SecretKeyRef) -> Value {
    json!({ "secretKeyRef": { "name": reference.name, "key": reference.key } })
}

/// A password file that was written or is about to be.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    before: Option<Vec<u8>>,
}

impl Kept {
    /// Writes the password where confd looks for it; nobody but this user can read it at any time.
    ///
    /// # Errors
    /// The file system's; nothing has changed then.
    pub(super) fn write(dir: &Path, reference: &SecretKeyRef, password: &str) -> Result<Self, Failure> {
        let folder = dir.join(&reference.name);
        let path = folder.join(&reference.key);
        let failed = |error: io::Error| {
            Failure::new(format!("The password cannot be kept in {}.", path.display())).cause(&error)
        };
        let before = match fs::read(&path) {
            Ok(before) => Some(before),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        make_private(dir, &folder).map_err(failed)?;
        replace(&path, password.as_bytes()).map_err(failed)?;
        Ok(Self { path, before })
    }

    /// Puts back what was there before.
    ///
    /// # Errors
    /// The file system's, in words.
    pub(super) fn undo(self) -> Result<(), String> {
        let undone = match &self.before {
            Some(before) => replace(&self.path, before),
            None => forget_file(&self.path),
        };
        undone.map_err(|error| format!("{} could not be put back: {error}", self.path.display()))
    }
}

/// Takes the password of a peer that is gone away, if this host keeps one of its own for it. Returns whether it did.
///
/// # Errors
/// The file system's.
pub(super) fn forget(dir: &Path, peer: &str, reference: &SecretKeyRef) -> io::Result<bool> {
    let path = dir.join(&reference.name).join(&reference.key);
    if *reference != own_reference(peer) || !path.exists() {
        return Ok(false);
    }
    forget_file(&path).map(|()| true)
}

/// Removes a file, and its folder if that is empty then.
fn forget_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Some(folder) = path.parent() {
        // Another password may be in it.
        let _ = fs::remove_dir(folder);
    }
    Ok(())
}

/// Makes the folder of a secret, which only this user can look into; those above it are anybody's to see.
fn make_private(dir: &Path, folder: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Writes a private file in one step: confd sees the old one or the new one.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let half = path.with_extension(format!("new-{}", std::process::id()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&half)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&half, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&half)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use calico_confd::{FileSecrets, Secrets};

    use super::*;

    #[test]
    fn what_is_kept_is_what_confd_reads_and_undoing_puts_the_former_back() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = FileSecrets { dir: dir.path().join("bgp-secrets") };
        let reference = own_reference("1-2-3-4");
        let is = |word: &str| secrets.password(&reference).unwrap() == Password::new(word.into()).unwrap();

        let first = Kept::write(&secrets.dir, &reference, "first").unwrap();
        assert!(is("first"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&secrets.dir.join("1-2-3-4")), 0o700);
        assert_eq!(mode(&secrets.dir.join("1-2-3-4/password")), 0o600);

        let second = Kept::write(&secrets.dir, &reference, "second").unwrap();
        assert!(is("second"));
        second.undo().unwrap();
        assert!(is("first"));
        first.undo().unwrap();
        assert!(!secrets.dir.join("1-2-3-4").exists());
    }

    #[test]
    fn only_a_peers_own_password_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let own = own_reference("1-2-3-4");
        let shared = SecretKeyRef { name: "tor".into(), key: "rack1".into() };
        Kept::write(dir.path(), &own, "a").unwrap();
        Kept::write(dir.path(), &shared, "b").unwrap();
        assert!(!forget(dir.path(), "1-2-3-4", &shared).unwrap());
        assert!(dir.path().join("tor/rack1").exists());
        assert!(forget(dir.path(), "1-2-3-4", &own).unwrap());
        assert!(!forget(dir.path(), "1-2-3-4", &own).unwrap(), "it is gone");
    }

    #[test]
    fn references_are_two_plain_names_and_a_password_is_not_repeated() {
        assert_eq!(reference("tor/rack1").unwrap(), SecretKeyRef { name: "tor".into(), key: "rack1".into() });
        for text in ["s3cret", "a/b/c", "../x", "a/..", "/x", "a/", "a b/c"] {
            let said = reference(text).unwrap_err().to_string();
            assert!(said.contains("NAME/KEY") && !said.contains("s3cret"), "{said}");
        }
        let dir = Path::new("/etc/calico/bgp-secrets");
        assert!(kept_already(dir, Path::new("/etc/calico/bgp-secrets/tor/rack1")).is_some());
        assert!(kept_already(dir, Path::new("/root/password")).is_none());
        assert!(kept_already(dir, Path::new("/etc/calico/bgp-secrets/../password")).is_none());
    }
}
