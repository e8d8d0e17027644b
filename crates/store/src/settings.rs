//! How to reach etcd: what the `ETCD_*` variables say, checked before anything is tried.
//!
//! `ETCD_ENDPOINTS` is a comma-separated list of `http[s]://host:port`; without it `ETCD_SCHEME` and
//! `ETCD_AUTHORITY` give one endpoint (`http` and `127.0.0.1:2379`). With `https`, `ETCD_CA_CERT_FILE` is needed,
//! `ETCD_CERT_FILE` and `ETCD_KEY_FILE` are given both or neither; with `http` the three are ignored.
//! `ETCD_USERNAME` and a password are given both or neither; the password is in `ETCD_PASSWORD`, or, where an
//! environment is seen by too many, in a file of its owner alone that `ETCD_PASSWORD_FILE` names. A variable that is set
//! but blank counts as not set, and each may also be spelled with the prefix `CALICO_`, which wins.
//!
//! No error and no `Debug` output shows the password.

use std::{
    fmt, fs,
    io::{self, Read},
    net::Ipv6Addr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::Error;

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

/// Where etcd is and how to speak to it. Made by [`from_env`](Self::from_env); what it holds has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    endpoints: Vec<Endpoint>,
    tls: Option<TlsFiles>,
    credentials: Option<Credentials>,
}

/// One member of the etcd cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    https: bool,
    /// Name or address; an IPv6 address without brackets.
    pub(crate) host: String,
    port: u16,
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

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        let Self { host, port, .. } = self;
        if host.contains(':') { write!(f, "{scheme}://[{host}]:{port}") } else { write!(f, "{scheme}://{host}:{port}") }
    }
}

impl ConnectOptions {
    /// What the process's environment says.
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
        let get = |name: &str| {
            let filled = |name: &str| lookup(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
            filled(&format!("CALICO_{name}")).or_else(|| filled(name))
        };
        if let Some(value) = get(DISCOVERY) {
            let cause = format!("{value:?}: discovery by DNS is not supported; list the members in {ENDPOINTS}");
            return Err(settings(DISCOVERY, cause));
        }
        let endpoints = match get(ENDPOINTS) {
            Some(list) => parse_list(&list)?,
            None => vec![single(get(SCHEME).as_deref(), get(AUTHORITY).as_deref())?],
        };
        let tls = match endpoints.iter().any(|endpoint| endpoint.https) {
            true => Some(tls_files(get(CA_FILE), get(CERT_FILE), get(KEY_FILE))?),
            false => None,
        };
        let credentials = credentials(get(USERNAME), get(PASSWORD), get(PASSWORD_FILE))?;
        Ok(Self { endpoints, tls, credentials })
    }

    /// The same settings as environment variables, to hand to a child process or a container; `ETCD_PASSWORD` is
    /// among them if that is how the password was given.
    pub fn env_pairs(&self) -> Vec<(&'static str, String)> {
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

    /// The endpoints, for messages: `http://10.0.0.1:2379, http://10.0.0.2:2379`.
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

fn parse_list(list: &str) -> Result<Vec<Endpoint>, Error> {
    let refuse = |cause: String| settings(ENDPOINTS, cause);
    let mut endpoints = Vec::new();
    for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let Some((scheme, rest)) = item.split_once("://") else {
            return Err(refuse(format!("{item:?} has no scheme; it must look like http://10.0.0.1:2379")));
        };
        let https = parse_scheme(scheme)
            .ok_or_else(|| refuse(format!("{item:?} has scheme {scheme:?}; it must be http or https")))?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = parse_authority(rest).map_err(|why| refuse(format!("{}: {why}", shown(item))))?;
        endpoints.push(Endpoint { https, host, port });
    }
    let Some(first) = endpoints.first() else {
        return Err(refuse(format!("{list:?} names no endpoint; it must look like http://10.0.0.1:2379")));
    };
    if endpoints.iter().any(|endpoint| endpoint.https != first.https) {
        return Err(refuse(format!("{list:?} mixes http and https; all endpoints must have the same scheme")));
    }
    Ok(endpoints)
}

/// An endpoint for a message; what stands before an `@` may be a password.
fn shown(item: &str) -> String {
    match item.rsplit_once('@') {
        Some((_, host)) => format!("\"…@{host}\""),
        None => format!("{item:?}"),
    }
}

fn single(scheme: Option<&str>, authority: Option<&str>) -> Result<Endpoint, Error> {
    let scheme = scheme.unwrap_or("http");
    let https = parse_scheme(scheme).ok_or_else(|| settings(SCHEME, format!("{scheme:?} must be http or https")))?;
    let authority = authority.unwrap_or("127.0.0.1:2379");
    let (host, port) =
        parse_authority(authority).map_err(|why| settings(AUTHORITY, format!("{}: {why}", shown(authority))))?;
    Ok(Endpoint { https, host, port })
}

fn parse_scheme(scheme: &str) -> Option<bool> {
    match scheme.to_ascii_lowercase().as_str() {
        "http" => Some(false),
        "https" => Some(true),
        _ => None,
    }
}

/// `host:port`, `1.2.3.4:port` or `[v6]:port`.
fn parse_authority(authority: &str) -> Result<(String, u16), String> {
    let form = "it must have the form address:port, with an IPv6 address in brackets";
    if authority.contains('@') {
        return Err("user and password do not belong here; set ETCD_USERNAME and ETCD_PASSWORD".to_owned());
    }
    if authority.parse::<Ipv6Addr>().is_ok() {
        return Err(form.to_owned());
    }
    let (host, port) = authority.rsplit_once(':').ok_or(form)?;
    let port = port.parse().ok().filter(|port| *port > 0).ok_or(format!("port {port:?} is not 1 to 65535"))?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().map_err(|_| format!("{v6:?} is not an IPv6 address"))?.to_string(),
        None if is_host_name(host) => host.to_owned(),
        None => return Err(format!("{host:?} is not a host name or address; {form}")),
    };
    Ok((host, port))
}

fn is_host_name(host: &str) -> bool {
    // The underscore is no part of host names by RFC 1123, but of the names that container engines give.
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    host.len() <= 255 && host.split('.').all(label)
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
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write;

    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Result<ConnectOptions, Error> {
        ConnectOptions::from_lookup(|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn endpoints_are_read() {
        for (pairs, location) in [
            (vec![], "http://127.0.0.1:2379"),
            (vec![(ENDPOINTS, "  ")], "http://127.0.0.1:2379"),
            (vec![(AUTHORITY, "etcd.local:4001")], "http://etcd.local:4001"),
            (vec![(AUTHORITY, "ignored:1"), (ENDPOINTS, "http://a:1")], "http://a:1"),
            (vec![(ENDPOINTS, "http://a:1 , http://etcd_2:2/,")], "http://a:1, http://etcd_2:2"),
            (vec![(ENDPOINTS, "HTTP://[fd00:0::1]:2379")], "http://[fd00::1]:2379"),
            (vec![(ENDPOINTS, "http://a:1"), ("CALICO_ETCD_ENDPOINTS", "http://b:2")], "http://b:2"),
        ] {
            assert_eq!(options(&pairs).unwrap().location(), location, "{pairs:?}");
        }
    }

    #[test]
    fn bad_settings_name_the_variable_and_the_way_out() {
        for (pairs, setting, word) in [
            (vec![(ENDPOINTS, "10.0.0.1:2379")], ENDPOINTS, "no scheme"),
            (vec![(ENDPOINTS, "ftp://10.0.0.1:2379")], ENDPOINTS, "http or https"),
            (vec![(ENDPOINTS, "http://a:1,https://b:2")], ENDPOINTS, "mixes"),
            (vec![(ENDPOINTS, "http://a")], ENDPOINTS, "address:port"),
            (vec![(ENDPOINTS, "http://a:0")], ENDPOINTS, "1 to 65535"),
            (vec![(ENDPOINTS, "http://a:65536")], ENDPOINTS, "1 to 65535"),
            (vec![(ENDPOINTS, "http://fd00::1")], ENDPOINTS, "brackets"),
            (vec![(ENDPOINTS, "http://[fd00:::1]:1")], ENDPOINTS, "IPv6"),
            (vec![(ENDPOINTS, "http://-a:1")], ENDPOINTS, "host name"),
            (vec![(ENDPOINTS, "http://a:1/path")], ENDPOINTS, "1 to 65535"),
            (vec![(ENDPOINTS, ",")], ENDPOINTS, "names no endpoint"),
            (vec![(ENDPOINTS, "http://me:s3cret@a:1")], ENDPOINTS, "ETCD_PASSWORD"),
            (vec![(SCHEME, "etcd")], SCHEME, "http or https"),
            (vec![(AUTHORITY, "a")], AUTHORITY, "address:port"),
            (vec![(DISCOVERY, "example.org")], DISCOVERY, ENDPOINTS),
            (vec![(USERNAME, "me")], PASSWORD, USERNAME),
            (vec![(PASSWORD, "s3cret")], USERNAME, PASSWORD),
            (vec![(PASSWORD_FILE, "/p")], USERNAME, PASSWORD_FILE),
            (vec![(USERNAME, "me"), (PASSWORD_FILE, "/no/such/file")], PASSWORD_FILE, "/no/such/file"),
            (vec![(USERNAME, "me"), (PASSWORD_FILE, "/dev/null")], PASSWORD_FILE, "not a regular file"),
            (vec![(USERNAME, "me"), (PASSWORD_FILE, "/p"), (PASSWORD, "s3cret")], PASSWORD_FILE, "only one"),
            (vec![(ENDPOINTS, "https://a:1")], CA_FILE, "needed with https"),
            (vec![(ENDPOINTS, "https://a:1"), (CA_FILE, "/no/such/ca")], CA_FILE, "/no/such/ca"),
            (vec![(ENDPOINTS, "https://a:1"), (CA_FILE, "/x"), (CERT_FILE, "/c")], KEY_FILE, "both or neither"),
            (vec![(ENDPOINTS, "https://a:1"), (CA_FILE, "/x"), (KEY_FILE, "/k")], CERT_FILE, "both or neither"),
        ] {
            let error = options(&pairs).expect_err("must be refused");
            let Error::Settings { setting: at, cause } = &error else { panic!("{pairs:?}: {error}") };
            assert_eq!(at, setting, "{pairs:?}: {error}");
            assert!(cause.contains(word), "{pairs:?}: {error}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn files_are_looked_into_only_with_https() {
        let mut junk = tempfile::NamedTempFile::new().unwrap();
        writeln!(junk, "junk").unwrap();
        let path = junk.path().to_str().unwrap();
        let error = options(&[(ENDPOINTS, "https://a:1"), (CA_FILE, path)]).unwrap_err().to_string();
        assert!(error.contains(path) && error.contains("no certificate"), "{error}");
        assert!(options(&[(ENDPOINTS, "http://a:1"), (CA_FILE, path), (KEY_FILE, "/no")]).unwrap().files().is_empty());
    }

    #[test]
    fn env_pairs_say_the_same_and_debug_hides_the_password() {
        let pem = |text: &str| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            writeln!(file, "{text}").unwrap();
            file
        };
        let (cert, key) = (pem("-----BEGIN CERTIFICATE-----"), pem("-----BEGIN EC PRIVATE KEY-----"));
        let (cert, key) = (cert.path().to_str().unwrap(), key.path().to_str().unwrap());
        let given = options(&[
            (ENDPOINTS, "https://[::1]:2379"),
            (CA_FILE, cert),
            (CERT_FILE, cert),
            (KEY_FILE, key),
            (USERNAME, "me"),
            (PASSWORD, "s3cret"),
        ])
        .unwrap();
        let pairs = given.env_pairs();
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(options(&pairs).unwrap(), given);
        assert_eq!(given.files().len(), 3);
        assert!(!format!("{given:?}").contains("s3cret"));
    }

    #[test]
    fn a_password_file_is_for_its_owner_alone_and_is_handed_on_as_a_file() {
        use std::os::unix::fs::PermissionsExt;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "s3cret word ").unwrap();
        let path = file.path().to_str().unwrap();
        let pairs = [(ENDPOINTS, "http://a:1"), (USERNAME, "me"), (PASSWORD_FILE, path)];
        let given = options(&pairs).unwrap();
        assert_eq!(given.credentials().unwrap().password, "s3cret word ");
        assert_eq!(given.files(), [file.path()]);
        let handed_on = given.env_pairs();
        let handed_on: Vec<_> = handed_on.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(handed_on, pairs, "the password itself is not among them");
        assert!(!format!("{given:?}").contains("s3cret"));

        for mode in [0o640, 0o604, 0o660, 0o602] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            let error = options(&pairs).unwrap_err().to_string();
            assert!(error.contains("chmod 600") && !error.contains("s3cret"), "{mode:o}: {error}");
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(path, "\n").unwrap();
        assert!(options(&pairs).unwrap_err().to_string().contains("is empty"));
    }
}
