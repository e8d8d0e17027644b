//! Which namespace, and how it is entered.
//!
//! A namespace is opened once per operation and everything is done through the open handle: a process id that is
//! reused meanwhile cannot lead an operation into another namespace.

use std::{
    collections::HashSet,
    fmt, fs,
    path::{Path, PathBuf},
};

use nlink::netlink::{
    Connection, Route,
    namespace::{Netns, NetnsId},
};

use crate::{AttachError, error::kernel};

/// Where a workload's network namespace is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetnsRef {
    /// The namespace of a process.
    Pid(i32),
    /// A namespace file, such as `/run/netns/<name>` or `/proc/<pid>/ns/net`.
    Path(PathBuf),
}

impl fmt::Display for NetnsRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "the namespace of process {pid}"),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A workload's namespace, open, with a netlink connection inside.
pub(crate) struct Workload {
    netns: Netns,
    /// Route netlink inside the namespace.
    pub(crate) links: Connection<Route>,
}

impl Workload {
    /// Opens the namespace and refuses the host's own: what is done inside must never hit the host's interfaces.
    pub(crate) fn open(at: &NetnsRef) -> Result<Self, AttachError> {
        let refuse = |cause: String| AttachError::Namespace { netns: at.to_string(), cause };
        let netns = match at {
            // Process 0 is what a stopped container has, and negative ids mean groups elsewhere.
            NetnsRef::Pid(pid) if *pid <= 0 => return Err(refuse("there is no such process".into())),
            NetnsRef::Pid(pid) => Netns::from_path(format!("/proc/{pid}/ns/net")),
            NetnsRef::Path(path) => Netns::from_path(path),
        };
        let netns = netns.map_err(|error| match error.is_permission_denied() {
            true => AttachError::Permission { operation: format!("opening {at}") },
            false => refuse(crate::error::words(&error)),
        })?;
        let host = Netns::current().map_err(kernel(|| "opening the host's network namespace".into()))?;
        if netns == host {
            return Err(AttachError::HostNamespace { netns: at.to_string() });
        }
        Self::enter(netns, &at.to_string())
    }

    fn enter(netns: Netns, label: &str) -> Result<Self, AttachError> {
        let links = Connection::<Route>::new_in(&netns).map_err(kernel(|| format!("entering {label}")))?;
        Ok(Self { netns, links })
    }

    /// The open namespace.
    pub(crate) fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The namespace that the host knows by the id `nsid`, found through the processes and the namespace files of
    /// this host. `None` if no process is left in it and nothing else names it.
    pub(crate) async fn find(host: &Connection<Route>, nsid: u32) -> Result<Option<Self>, AttachError> {
        let mut seen = HashSet::<NetnsId>::new();
        for path in candidates() {
            // Processes end and files vanish while we look; those are not the one.
            let Ok(netns) = Netns::from_path(&path) else { continue };
            if seen.insert(netns.id()) && host.get_nsid(&netns).await.is_ok_and(|id| id == nsid) {
                return Self::enter(netns, &path.display().to_string()).map(Some);
            }
        }
        Ok(None)
    }
}

/// Every file that may name a network namespace: of processes, of `ip netns`, of Docker.
fn candidates() -> impl Iterator<Item = PathBuf> {
    let entries = |dir: &str| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_process = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()))
    };
    (entries("/proc").filter(is_process).map(|process| process.join("ns/net")))
        .chain(entries("/run/netns"))
        .chain(entries("/run/docker/netns"))
}

/// Writes a sysctl of the calling thread's namespace.
pub(crate) fn write_sysctl(path: &str, value: &str) -> Result<(), AttachError> {
    let file = Path::new("/proc/sys").join(path);
    fs::write(&file, value).map_err(|error| AttachError::Kernel {
        operation: format!("writing {value} to {}", file.display()),
        cause: error.to_string(),
    })
}
