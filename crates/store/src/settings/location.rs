//! The host's record of where the datastore is, when it is neither on this host nor given by the environment.
//!
//! A small file of lines `ETCD_…=…`. Whoever can write it decides whose policy this host enforces, and it may hold a
//! password: so it must be open to nobody but its owner. It is replaced as a whole, so that a reader finds the old record
//! or the new one, also after a crash.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{ConnectOptions, ENDPOINTS, Source, settings};
use crate::Error;

/// Where a host keeps its datastore, or what it needs to reach the one it joined. Of root alone.
pub const DATASTORE_DIR: &str = "/var/lib/calico/datastore";
/// Where calico-node serves the datastore that it keeps, to processes of this host. Of root alone.
pub const DATASTORE_SOCKET: &str = "/var/run/calico/datastore.sock";
/// The record of where the datastore is, on a host that joined another one or whose cluster moved to etcd.
pub const LOCATION_FILE: &str = "/var/lib/calico/datastore/location.env";

/// The line that names the host whose calico-node keeps the datastore.
const KEEPER: &str = "CALICO_DATASTORE_HOST";
/// The line that names the places where the cluster's datastore was before it moved, with [`BETWEEN`] between them.
const FORMER: &str = "CALICO_DATASTORE_FORMER";
const BETWEEN: char = ';';
/// A record is a few lines.
const LARGEST: u64 = 64 << 10;

impl ConnectOptions {
    /// What the record at `path` says; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Settings`] names the file and the line: it cannot be read, is open to others, is no such record, or says
    /// what [`from_env`](Self::from_env) would refuse.
    pub fn from_location(path: &Path) -> Result<Option<Self>, Error> {
        let refuse = |cause: String| settings(&path.display().to_string(), cause);
        let Some(text) = read(path).map_err(refuse)? else { return Ok(None) };
        let mut variables = parse(&text).map_err(refuse)?;
        let keeper = variables.remove(KEEPER);
        variables.remove(FORMER);
        let options = Self::from_variables(&|name| variables.get(name).map(|value| (*value).to_owned()))
            .map_err(|error| refuse(error.to_string()))?
            .ok_or_else(|| refuse(format!("it has no line {ENDPOINTS}=… that says where the datastore is")))?;
        let source = Source::File { path: path.to_owned(), keeper: keeper.map(str::to_owned) };
        Ok(Some(Self { source, ..options }))
    }

    /// Makes these settings the record at `path`, in place of an earlier one. `keeper` is the host whose calico-node
    /// keeps the datastore, for messages; `None` for an etcd. The files that the settings name must lie where
    /// calico-node's container sees them too: below [`DATASTORE_DIR`].
    ///
    /// # Errors
    /// [`Error::Settings`] names the file: it cannot be written, or a value cannot stand on a line.
    pub fn write_location(&self, path: &Path, keeper: Option<&str>) -> Result<(), Error> {
        self.write(path, keeper.map(|keeper| (KEEPER, keeper.to_owned())))
    }

    /// As [`write_location`](Self::write_location) for an etcd to which the cluster moved from `former` (what
    /// [`location`](Self::location) says of that). The record then goes before an environment that still names the
    /// former place, or one from an earlier move.
    ///
    /// # Errors
    /// As for [`write_location`](Self::write_location).
    pub fn write_moved(&self, path: &Path, former: &str) -> Result<(), Error> {
        let mut all = former_places(path).map_err(|cause| settings(&path.display().to_string(), cause))?;
        all.retain(|known| known != former && *known != self.location());
        all.push(former.to_owned());
        self.write(path, Some((FORMER, all.join(&BETWEEN.to_string()))))
    }

    /// True if the record at `path` says that the cluster's datastore is no longer at `location`.
    ///
    /// # Errors
    /// As for [`from_location`](Self::from_location).
    pub fn has_left(path: &Path, location: &str) -> Result<bool, Error> {
        // Who may not read it works with what his environment says; nothing on a host does so but people.
        if File::open(path).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
            return Ok(false);
        }
        let former = former_places(path).map_err(|cause| settings(&path.display().to_string(), cause))?;
        Ok(former.iter().any(|known| known == location))
    }

    fn write(&self, path: &Path, more: Option<(&'static str, String)>) -> Result<(), Error> {
        let refuse = |cause: String| settings(&path.display().to_string(), cause);
        let mut text = String::from("# Where the datastore of this host is. Written by calicoctl.\n");
        for (name, value) in self.variables().into_iter().chain(more) {
            if value.contains(['\n', '\r', '\0']) {
                return Err(refuse(format!("the value of {name} has a line end in it, so it cannot be kept there")));
            }
            text.push_str(&format!("{name}={value}\n"));
        }
        replace(path, &text).map_err(|error| refuse(format!("it cannot be written: {error}")))
    }
}

/// The places that the cluster has left, by the record at `path`.
fn former_places(path: &Path) -> Result<Vec<String>, String> {
    let Some(text) = read(path)? else { return Ok(Vec::new()) };
    let former = parse(&text)?.get(FORMER).map(|former| former.split(BETWEEN).map(str::to_owned).collect());
    Ok(former.unwrap_or_default())
}

/// The record's text, if there is one and it is to be trusted. Checked on the open file, so that it cannot be exchanged
/// between check and reading.
fn read(path: &Path) -> Result<Option<String>, String> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::PermissionDenied => format!("it cannot be read: {error}; run this as root"),
        _ => format!("it cannot be read: {error}"),
    };
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    if found.mode() & 0o077 != 0 {
        return Err(format!("it is open to others (mode {:04o}); chmod 600 it", found.mode() & 0o7777));
    }
    if found.len() > LARGEST {
        return Err(format!("it has {} bytes, which is no record of where the datastore is", found.len()));
    }
    let mut text = String::new();
    file.take(LARGEST).read_to_string(&mut text).map_err(failed)?;
    Ok(Some(text))
}

/// Name and value of each line. Values are not shown in errors, since they may be secrets.
fn parse(text: &str) -> Result<BTreeMap<&str, &str>, String> {
    let mut variables = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else {
            return Err(format!("line {number} is not NAME=VALUE"));
        };
        let name = name.trim_end();
        if !(name.starts_with("ETCD_") || name == KEEPER || name == FORMER) {
            return Err(format!("line {number}: {name:?} says nothing of where the datastore is"));
        }
        if variables.insert(name, value.trim()).is_some() {
            return Err(format!("line {number}: {name} stands there twice"));
        }
    }
    Ok(variables)
}

/// Writes beside `path`, to the disk, and renames.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let fresh = beside(path);
    // One that was left by a crash may have any mode.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    written
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}
