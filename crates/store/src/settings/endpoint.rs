//! Endpoints: what is written in `ETCD_ENDPOINTS`, `ETCD_SCHEME` and `ETCD_AUTHORITY`.

use std::{fmt, mem, net::Ipv6Addr, path::PathBuf};

use super::{AUTHORITY, ENDPOINTS, SCHEME, settings};
use crate::Error;

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// By TCP.
    Tcp {
        /// With TLS.
        https: bool,
        /// Name or address; an IPv6 address without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// By a socket of this host; who may connect to it, its file's mode says.
    Unix {
        /// Absolute.
        path: PathBuf,
    },
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { path } => write!(f, "unix://{}", path.display()),
            Self::Tcp { https, host, port } => {
                let scheme = if *https { "https" } else { "http" };
                let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
                write!(f, "{scheme}://{open}{host}{close}:{port}")
            }
        }
    }
}

impl Endpoint {
    pub(crate) fn is_https(&self) -> bool {
        matches!(self, Self::Tcp { https: true, .. })
    }
}

/// A list of at least one, all of one kind.
pub(super) fn parse_list(list: &str) -> Result<Vec<Endpoint>, Error> {
    let refuse = |cause: String| settings(ENDPOINTS, cause);
    let mut endpoints = Vec::new();
    for item in list.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let Some((scheme, rest)) = item.split_once("://") else {
            return Err(refuse(format!("{item:?} has no scheme; it must look like http://10.0.0.1:2379")));
        };
        if scheme.eq_ignore_ascii_case("unix") {
            endpoints.push(parse_path(rest).map_err(|why| refuse(format!("{item:?}: {why}")))?);
            continue;
        }
        let https = parse_scheme(scheme)
            .ok_or_else(|| refuse(format!("{item:?} has scheme {scheme:?}; it must be http, https or unix")))?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = parse_authority(rest).map_err(|why| refuse(format!("{}: {why}", shown(item))))?;
        endpoints.push(Endpoint::Tcp { https, host, port });
    }
    let Some(first) = endpoints.first() else {
        return Err(refuse(format!("{list:?} names no endpoint; it must look like http://10.0.0.1:2379")));
    };
    let kind = |endpoint: &Endpoint| (mem::discriminant(endpoint), endpoint.is_https());
    if endpoints.iter().any(|endpoint| kind(endpoint) != kind(first)) {
        return Err(refuse(format!("{list:?} mixes http, https and unix; all endpoints must have the same scheme")));
    }
    Ok(endpoints)
}

fn parse_path(path: &str) -> Result<Endpoint, String> {
    // The kernel's limit, with the zero byte at the end.
    const MOST: usize = 107;
    if !path.starts_with('/') {
        return Err("the path of a socket must be absolute, as in unix:///run/x.sock".to_owned());
    }
    if path.len() > MOST {
        return Err(format!("the path of a socket has at most {MOST} bytes"));
    }
    Ok(Endpoint::Unix { path: path.into() })
}

/// An endpoint for a message; what stands before an `@` may be a password.
fn shown(item: &str) -> String {
    match item.rsplit_once('@') {
        Some((_, host)) => format!("\"…@{host}\""),
        None => format!("{item:?}"),
    }
}

/// The endpoint of the two older variables.
pub(super) fn single(scheme: Option<&str>, authority: Option<&str>) -> Result<Endpoint, Error> {
    let scheme = scheme.unwrap_or("http");
    let https = parse_scheme(scheme).ok_or_else(|| settings(SCHEME, format!("{scheme:?} must be http or https")))?;
    let authority = authority.unwrap_or("127.0.0.1:2379");
    let (host, port) =
        parse_authority(authority).map_err(|why| settings(AUTHORITY, format!("{}: {why}", shown(authority))))?;
    Ok(Endpoint::Tcp { https, host, port })
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
