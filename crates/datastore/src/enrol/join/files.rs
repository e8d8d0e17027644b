//! What joining leaves on disk, and what was there before.
//!
//! Below the datastore's folder: `pki/ca.crt` (the authority) and `pki/host.pem` (certificate and key). A host that
//! keeps a datastore of its own has its database there too; it is never written over, only moved aside when told.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use time::OffsetDateTime;

use super::Joined;
use crate::pki::{Fingerprint, Identity, PkiError, make_private_folder, read_private, write_private};

/// The authority's certificate, below the datastore's folder.
pub const AUTHORITY_FILE: &str = "pki/ca.crt";
/// The host's certificate and key, below the datastore's folder.
pub const IDENTITY_FILE: &str = "pki/host.pem";
/// The database of a datastore of the host's own.
const DATABASES: [&str; 2] = ["data.redb", "data.sqlite"];
/// What belongs to it; moved before it, so that no note of what was acknowledged is ever without its database.
const OWN: [&str; 3] = ["pki", "location.env", "acknowledged"];

/// What a host has before it joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing.
    Fresh,
    /// A datastore of its own, in this file.
    KeepsOne(PathBuf),
    /// A certificate of this authority.
    Joined(Fingerprint),
}

/// What was written, until it is settled that it stays.
#[derive(Debug)]
#[must_use = "dropped, it is taken back"]
pub struct Kept {
    dir: PathBuf,
    before: Vec<(&'static str, Option<String>)>,
    settled: bool,
}

impl Kept {
    /// It stays.
    pub fn settle(mut self) {
        self.settled = true;
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        for (file, text) in &self.before {
            let path = self.dir.join(file);
            let undone = match text {
                Some(text) => write_private(&path, text).map_err(|error| error.to_string()),
                None => fs::remove_file(&path).map_err(|error| error.to_string()),
            };
            if let Err(error) = undone {
                tracing::warn!(file = %path.display(), error, "what joining wrote could not be taken back");
            }
        }
    }
}

/// Looks at what the host has in the datastore's folder.
///
/// # Errors
/// [`PkiError`]: a file that cannot be read.
pub fn standing(dir: &Path) -> Result<Standing, PkiError> {
    if let Some(database) = DATABASES.iter().map(|name| dir.join(name)).find(|path| path.exists()) {
        return Ok(Standing::KeepsOne(database));
    }
    let Some(text) = read_private(&dir.join(AUTHORITY_FILE))? else { return Ok(Standing::Fresh) };
    match Identity::certificates(AUTHORITY_FILE, &text) {
        Ok(certificates) => Ok(Standing::Joined(Fingerprint::of(&certificates[0]))),
        // Nothing can be joined with it, so it is as good as none.
        Err(_) => Ok(Standing::Fresh),
    }
}

/// Writes what joining brought. Taken back when the result is dropped without [`Kept::settle`].
///
/// # Errors
/// [`PkiError::File`]; what was there is unchanged.
pub fn keep(dir: &Path, joined: &Joined) -> Result<Kept, PkiError> {
    make_private_folder(dir)?;
    make_private_folder(&dir.join("pki"))?;
    let mut kept = Kept { dir: dir.to_owned(), before: Vec::new(), settled: false };
    for (file, text) in [(AUTHORITY_FILE, &joined.authority), (IDENTITY_FILE, &joined.identity)] {
        let path = dir.join(file);
        let before = read_private(&path)?;
        write_private(&path, text)?;
        kept.before.push((file, before));
    }
    Ok(kept)
}

/// A datastore's files that were moved aside.
#[derive(Debug)]
#[must_use = "dropped, they come back"]
pub struct LeftAside {
    /// Where they are.
    pub folder: PathBuf,
    moved: Vec<(PathBuf, PathBuf)>,
    settled: bool,
}

impl LeftAside {
    /// They stay there; where that is.
    pub fn settle(mut self) -> PathBuf {
        self.settled = true;
        self.folder.clone()
    }
}

impl Drop for LeftAside {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        for (from, to) in self.moved.iter().rev() {
            if let Err(error) = fs::rename(to, from) {
                tracing::warn!(file = %to.display(), %error, "what was moved aside could not be moved back");
            }
        }
        // Only if nothing is left in it.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Moves the host's own datastore, or what is left of an earlier joining, into a folder beside it.
///
/// # Errors
/// [`PkiError::File`]; everything is where it was.
pub fn leave_own(dir: &Path, now: OffsetDateTime) -> Result<LeftAside, PkiError> {
    let form = time::macros::format_description!("left-[year][month][day]-[hour][minute][second]");
    let name = now.format(form).unwrap_or_else(|_| format!("left-{}", now.unix_timestamp()));
    let folder = dir.join(name);
    make_private_folder(&folder)?;
    let mut aside = LeftAside { folder: folder.clone(), moved: Vec::new(), settled: false };
    for name in OWN.iter().chain(&DATABASES) {
        let (from, to) = (dir.join(name), folder.join(name));
        match fs::rename(&from, &to) {
            Ok(()) => aside.moved.push((from, to)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(PkiError::File { path: from, action: "moved", source }),
        }
    }
    Ok(aside)
}
