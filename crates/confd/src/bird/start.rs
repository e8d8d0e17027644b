//! How the daemon is started.
//!
//! The supervisor starts BIRD; what to say on its command line is decided here, beside the configuration it fits.
//! `-R` (graceful restart recovery) is right exactly when the kernel still holds routes that an earlier BIRD wrote:
//! they carry traffic and must stay until the peers have said everything again. On a first boot it would only delay
//! the first route by the whole `graceful restart wait`, should one peer be dead.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use nlink::{Connection, Route, netlink::types::route::RouteProtocol};
use tokio_stream::StreamExt;

/// The kernel's main routing table, the one that BIRD is given.
const MAIN_TABLE: u32 = 254;

/// What the command line depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The program, `bird`.
    pub binary: PathBuf,
    /// The configuration that this crate writes; the file must exist.
    pub config: PathBuf,
    /// Where BIRD shall make its control socket. Its folder must exist.
    pub socket: PathBuf,
    /// The answer of [`needs_recovery`].
    pub recover: bool,
}

/// The program and its arguments. It stays in the foreground and logs to stderr.
///
/// Should another BIRD live on the same socket, the new one ends at once with "I found another BIRD running".
pub fn command_line(start: &Start) -> (PathBuf, Vec<OsString>) {
    let path = |path: &Path| path.as_os_str().to_owned();
    let mut arguments = vec!["-f".into(), "-c".into(), path(&start.config), "-s".into(), path(&start.socket)];
    if start.recover {
        arguments.push("-R".into());
    }
    (start.binary.clone(), arguments)
}

/// The kernel's routes could not be read.
#[derive(Debug, thiserror::Error)]
#[error("reading the kernel's routes: {0}")]
pub struct RecoveryError(#[from] nlink::Error);

/// True if the kernel's main table holds a route of protocol `bird`, in either family, in the network namespace of
/// the calling thread. Ask while no BIRD runs.
///
/// # Errors
/// [`RecoveryError`]. Who cannot know should assume `true`: that costs time, the other loses packets.
pub async fn needs_recovery() -> Result<bool, RecoveryError> {
    let connection = Connection::<Route>::new()?;
    let mut routes = connection.stream_routes().await?;
    let mut found = false;
    // Read to the end even after a hit: a dump that is abandoned half-way would be all that the socket remembers.
    while let Some(route) = routes.next().await {
        let route = route?;
        found |= route.protocol() == RouteProtocol::Bird && route.table_id() == MAIN_TABLE;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_only_when_asked() {
        let mut start = Start {
            binary: "bird".into(),
            config: "/etc/calico/confd/config/bird.cfg".into(),
            socket: "/var/run/calico/bird.ctl".into(),
            recover: false,
        };
        let plain = ["-f", "-c", "/etc/calico/confd/config/bird.cfg", "-s", "/var/run/calico/bird.ctl"];
        assert_eq!(command_line(&start), (PathBuf::from("bird"), plain.map(OsString::from).to_vec()));
        start.recover = true;
        assert_eq!(command_line(&start).1.last(), Some(&OsString::from("-R")));
    }
}
