//! Where the datastore is and how to speak to it, checked before anything is tried.
//!
//! Three sources, the first that says something decides, as [`Source`] tells:
//!
//! 1. **The environment.** `ETCD_ENDPOINTS` is a comma-separated list of `http[s]://host:port` or `unix:///path`;
//!    without it `ETCD_SCHEME` and `ETCD_AUTHORITY` give one endpoint (`http` and `127.0.0.1:2379` if only the other is
//!    given). With `https`, `ETCD_CA_CERT_FILE` is needed, `ETCD_CERT_FILE` and `ETCD_KEY_FILE` are given both or
//!    neither; with `http` the three are ignored. `ETCD_USERNAME` and a password are given both or neither; the password
//!    is in `ETCD_PASSWORD`, or, where an environment is seen by too many, in a file of its owner alone that
//!    `ETCD_PASSWORD_FILE` names. A variable that is set but blank counts as not set, and each may also be spelled with
//!    the prefix `CALICO_`, which wins.
//! 2. **The host's record** [`LOCATION_FILE`](crate::LOCATION_FILE), which holds the same variables as lines. A host that
//!    joined another one's datastore has it, and so has each host of a cluster that moved to etcd. The record of a move
//!    also names the places that were left: it goes before an environment that still names one of them.
//! 3. **The embedded datastore**, which calico-node on this host keeps and serves on the socket
//!    [`DATASTORE_SOCKET`](crate::DATASTORE_SOCKET).
//!
//! No error and no `Debug` output shows the password.

mod endpoint;
mod location;

use std::{
    fmt, fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::Error;
pub(crate) use endpoint::Endpoint;
pub use location::{DATASTORE_DIR, DATASTORE_SOCKET, LOCATION_FILE};

const ENDPOINTS: &str = "ETCD_ENDPOINTS";
const AUTHORITY: &str = "ETCD_AUTHORITY";
const SCHEME: &str = "ETCD_SCHEME";
const DISCOVERY: &str = "ETCD_DISCOVERY_SRV";
pub(crate) const CA_FILE: &str = "ETCD_CA_CERT_FILE";
pub(crate) const CERT_FILE: &str = "ETCD_CERT_FILE";
pub(crate) const KEY_FILE: &str = "ETCD_KEY_FILE";
pub(crate) const USERNAME: &str = "ETCD_USERNAME";
const PASSWORD: &str = "ETCD_PASSWORD";
const PASSWORD_FILE: &str = "ETCD_PASSWORD_FILE";

/// Where the datastore is and how to speak to it. Made by [`from_env`](Self::from_env); what it holds has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    endpoints: Vec<Endpoint>,
    tls: Option<TlsFiles>,
    credentials: Option<Credentials>,
    source: Source,
}

/// What said where the datastore is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Variables of the environment, or a settings file that stands for it.
    Environment,
    /// The host's record, written when it joined another host or when the cluster moved to etcd.
    File {
        /// Where the record is.
        path: PathBuf,
        /// The host whose calico-node keeps the datastore; `None` if it is an etcd.
        keeper: Option<String>,
    },
    /// Nothing: calico-node on this host keeps the datastore itself.
    Embedded,
}

/// Files for TLS, all in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// Authorities whose servers are believed.
    pub(crate) ca: PathBuf,
    /// Our own certificate and its key, for mutual TLS.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
    /// Where the password was read, if it was not given itself.
    file: Option<PathBuf>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).field("file", &self.file).finish_non_exhaustive()
    }
}

impl ConnectOptions {
    /// What the process's environment says, else this host's record, else the embedded datastore.
    ///
    /// # Errors
    /// [`Error::Settings`] names the variable, its value and what would be right.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// As [`from_env`](Self::from_env), from any source of the same variables.
    ///
    /// # Errors
    /// As for [`from_env`](Self::from_env).
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        Self::find(lookup, Path::new(LOCATION_FILE), Path::new(DATASTORE_SOCKET))
    }

    /// As [`from_lookup`](Self::from_lookup), with the host's record at `location` and the embedded datastore's socket
    /// at `socket`.
    ///
    /// # Errors
    /// As for [`from_env`](Self::from_env).
    pub fn find(lookup: impl Fn(&str) -> Option<String>, location: &Path, socket: &Path) -> Result<Self, Error> {
        if let Some(given) = Self::from_variables(&lookup)? {
            let embedded = Self::embedded(socket);
            // Whoever spells out the socket of this host's calico-node means the same.
            let given = if given.endpoints == embedded.endpoints { embedded } else { given };
            if !Self::has_left(location, &given.location())? {
                return Ok(given);
            }
        }
        Ok(Self::from_location(location)?.unwrap_or_else(|| Self::embedded(socket)))
    }

    /// What variables say, and nothing else: neither this host's record nor its embedded datastore stands in. `None` if
    /// none of them is about the datastore.
    ///
    /// # Errors
    /// As for [`from_env`](Self::from_env).
    pub fn given(lookup: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Error> {
        Self::from_variables(&lookup)
    }

    /// The datastore that calico-node on this host keeps, served on `socket`.
    pub fn embedded(socket: &Path) -> Self {
        let endpoints = vec![Endpoint::Unix { path: socket.to_owned() }];
        Self { endpoints, tls: None, credentials: None, source: Source::Embedded }
    }

    /// What said where the datastore is.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// What the variables say; `None` if none of them is about the datastore.
    fn from_variables(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>, Error> {
        let get = |name: &str| {
            let filled = |name: &str| lookup(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
            filled(&format!("CALICO_{name}")).or_else(|| filled(name))
        };
        if let Some(value) = get(DISCOVERY) {
            let cause = format!("{value:?}: discovery by DNS is not supported; list the members in {ENDPOINTS}");
            return Err(settings(DISCOVERY, cause));
        }
        let endpoints = match (get(ENDPOINTS), get(SCHEME), get(AUTHORITY)) {
            (Some(list), ..) => endpoint::parse_list(&list)?,
            (None, None, None) => return nowhere(&get).map(|()| None),
            (None, scheme, authority) => vec![endpoint::single(scheme.as_deref(), authority.as_deref())?],
        };
        let tls = match endpoints.iter().any(Endpoint::is_https) {
            true => Some(tls_files(get(CA_FILE), get(CERT_FILE), get(KEY_FILE))?),
            false => None,
        };
        let credentials = credentials(get(USERNAME), get(PASSWORD), get(PASSWORD_FILE))?;
        Ok(Some(Self { endpoints, tls, credentials, source: Source::Environment }))
    }

    /// The settings as environment variables, to hand to a child process or a container of this host; `ETCD_PASSWORD` is
    /// among them if that is how the password was given. Empty unless the environment is their [source](Self::source):
    /// everybody else on this host finds the datastore the same way.
    pub fn env_pairs(&self) -> Vec<(&'static str, String)> {
        match self.source {
            Source::Environment => self.variables(),
            Source::File { .. } | Source::Embedded => Vec::new(),
        }
    }

    /// All settings as environment variables, whatever their source, with what [`env_pairs`](Self::env_pairs) says of
    /// the password.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let mut pairs = vec![(ENDPOINTS, self.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))];
        let mut file = |name, path: &Path| pairs.push((name, path.to_string_lossy().into_owned()));
        if let Some(tls) = &self.tls {
            file(CA_FILE, &tls.ca);
            if let Some((cert, key)) = &tls.identity {
                file(CERT_FILE, cert);
                file(KEY_FILE, key);
            }
        }
        if let Some(Credentials { user, password, file }) = &self.credentials {
            pairs.push((USERNAME, user.clone()));
            pairs.push(match file {
                Some(file) => (PASSWORD_FILE, file.to_string_lossy().into_owned()),
                None => (PASSWORD, password.clone()),
            });
        }
        pairs
    }

    /// The files that the settings name (authority, certificate, key, password), for mounting them into a container.
    pub fn files(&self) -> Vec<&Path> {
        let mut files = Vec::new();
        if let Some(TlsFiles { ca, identity }) = &self.tls {
            files.push(ca.as_path());
            files.extend(identity.iter().flat_map(|(cert, key)| [cert.as_path(), key.as_path()]));
        }
        files.extend(self.credentials.iter().filter_map(|credentials| credentials.file.as_deref()));
        files
    }

    /// The endpoints, for messages: `http://10.0.0.1:2379, http://10.0.0.2:2379`, `unix:///run/x.sock`.
    pub fn location(&self) -> String {
        self.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    pub(crate) fn tls(&self) -> Option<&TlsFiles> {
        self.tls.as_ref()
    }

    pub(crate) fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }
}

/// Reads a PEM file that must hold a `label` block (`CERTIFICATE`, `PRIVATE KEY`).
///
/// # Errors
/// [`Error::Settings`] names the variable and the file; the content is not shown.
pub(crate) fn read_pem(variable: &str, path: &Path, label: &str) -> Result<Vec<u8>, Error> {
    let bytes = fs::read(path).map_err(|error| unreadable(variable, path, &error))?;
    let marker = format!("{label}-----");
    let found = String::from_utf8_lossy(&bytes)
        .lines()
        .any(|line| line.trim_end().strip_suffix(&marker).is_some_and(|rest| rest.starts_with("-----BEGIN ")));
    if found {
        return Ok(bytes);
    }
    Err(settings(variable, format!("{} holds no {} in PEM form", path.display(), label.to_lowercase())))
}

/// Nothing says where etcd is; then what would say how to speak to it is a mistake, most likely a misspelt variable.
fn nowhere(get: &dyn Fn(&str) -> Option<String>) -> Result<(), Error> {
    let stray =
        [CA_FILE, CERT_FILE, KEY_FILE, USERNAME, PASSWORD, PASSWORD_FILE].into_iter().find(|name| get(name).is_some());
    match stray {
        None => Ok(()),
        Some(name) => Err(settings(
            name,
            format!("it is set, but {ENDPOINTS} is not, which says where etcd is; set both or neither"),
        )),
    }
}

fn credentials(
    user: Option<String>,
    password: Option<String>,
    file: Option<String>,
) -> Result<Option<Credentials>, Error> {
    let needed = |missing, by| Err(settings(missing, format!("{by} is set, so this is needed too")));
    let (password, file) = match (password, file) {
        (Some(_), Some(_)) => {
            return Err(settings(PASSWORD_FILE, format!("{PASSWORD} is set too; set only one of them")));
        }
        (Some(password), None) => (password, None),
        (None, Some(file)) if user.is_some() => (read_password(Path::new(&file))?, Some(PathBuf::from(file))),
        (None, Some(_)) => return needed(USERNAME, PASSWORD_FILE),
        (None, None) if user.is_some() => return needed(PASSWORD, USERNAME),
        (None, None) => return Ok(None),
    };
    match user {
        Some(user) => Ok(Some(Credentials { user, password, file })),
        None => needed(USERNAME, PASSWORD),
    }
}

/// Reads the file with the password: a regular file that nobody but its owner may read. The checks are made on the
/// open file, so that it cannot be exchanged between check and reading.
fn read_password(path: &Path) -> Result<String, Error> {
    const MOST: u64 = 4096;
    let refuse = |cause: String| Err(settings(PASSWORD_FILE, format!("{} {cause}", path.display())));
    let file = fs::File::open(path).map_err(|error| unreadable(PASSWORD_FILE, path, &error))?;
    let found = file.metadata().map_err(|error| unreadable(PASSWORD_FILE, path, &error))?;
    if !found.is_file() {
        return refuse("is not a regular file".to_owned());
    }
    if found.mode() & 0o077 != 0 {
        return refuse(format!("is open to others (mode {:04o}); chmod 600 it", found.mode() & 0o7777));
    }
    let mut text = String::new();
    file.take(MOST).read_to_string(&mut text).map_err(|error| unreadable(PASSWORD_FILE, path, &error))?;
    // One line end is what an editor or `echo` adds.
    let password = text.strip_suffix('\n').unwrap_or(&text);
    if password.is_empty() {
        return refuse("is empty".to_owned());
    }
    Ok(password.to_owned())
}

pub(crate) fn settings(setting: &str, cause: impl Into<String>) -> Error {
    Error::Settings { setting: setting.to_owned(), cause: cause.into() }
}

fn unreadable(variable: &str, path: &Path, error: &io::Error) -> Error {
    settings(variable, format!("{} cannot be read: {error}", path.display()))
}

fn tls_files(ca: Option<String>, cert: Option<String>, key: Option<String>) -> Result<TlsFiles, Error> {
    let Some(ca) = ca.map(PathBuf::from) else {
        let cause = "it is needed with https: the file of the authority that signed etcd's certificate, in PEM form";
        return Err(settings(CA_FILE, cause));
    };
    let identity = match (cert, key) {
        (None, None) => None,
        (Some(cert), Some(key)) => Some((PathBuf::from(cert), PathBuf::from(key))),
        (Some(cert), None) => {
            return Err(settings(
                KEY_FILE,
                format!("{CERT_FILE} is {cert:?}, so its key is needed; set both or neither"),
            ));
        }
        (None, Some(key)) => {
            return Err(settings(
                CERT_FILE,
                format!("{KEY_FILE} is {key:?}, so its certificate is needed; set both or neither"),
            ));
        }
    };
    read_pem(CA_FILE, &ca, "CERTIFICATE")?;
    if let Some((cert, key)) = &identity {
        read_pem(CERT_FILE, cert, "CERTIFICATE")?;
        read_pem(KEY_FILE, key, "PRIVATE KEY")?;
    }
    Ok(TlsFiles { ca, identity })
}

#[cfg(test)]
mod tests;
