//! The Unix socket: bound, closed to all but its owner, put in place in one step, and taken away at the end.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::{UnixListener as StdListener, UnixStream},
    },
    path::{Path, PathBuf},
    process,
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use tokio::net::UnixListener;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// A living process serves it.
    #[error("{} is served by {by}: end that process first, or give this one another socket", path.display())]
    Taken {
        /// The socket.
        path: PathBuf,
        /// The process, by name and id.
        by: String,
    },
    /// Something that is no socket has its name.
    #[error("{} is in the way: it is no socket; move it elsewhere", path.display())]
    NotASocket {
        /// What is in the way.
        path: PathBuf,
    },
    /// The system says no.
    #[error("cannot make the socket {}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl SocketError {
    fn io(path: &Path) -> impl Fn(io::Error) -> Self + '_ {
        |source| Self::Io { path: path.to_owned(), source }
    }
}

/// Makes sure that nobody serves `path`, and that nothing else is there.
pub(crate) fn check(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(SocketError::io(path)(error)),
        Ok(meta) if !meta.file_type().is_socket() => return Err(SocketError::NotASocket { path: path.to_owned() }),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(stream) => Err(SocketError::Taken { path: path.to_owned(), by: server_of(&stream) }),
        // Nobody listens: its process is gone.
        Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) => Ok(()),
        // Somebody does, and has no room for one more.
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Err(SocketError::Taken { path: path.to_owned(), by: "a process that does not answer".to_owned() })
        }
        Err(error) => Err(SocketError::io(path)(error)),
    }
}

/// The process at the other end, in words.
fn server_of(stream: &UnixStream) -> String {
    let Ok(peer) = sockopt::socket_peercred(stream) else { return "another process".to_owned() };
    let id = peer.pid.as_raw_nonzero();
    let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
    match name.trim() {
        "" => format!("process {id}"),
        name => format!("{name} (process {id})"),
    }
}

/// A socket in its place; it goes when this does.
pub(crate) struct Bound {
    path: PathBuf,
    listener: StdListener,
    /// Device and inode, to take away no socket but this.
    identity: (u64, u64),
}

/// Binds `path`; the caller has [checked](check) it and holds the database's lock, so that no second one of us does
/// the same.
pub(crate) fn bind(path: &Path) -> Result<Bound, SocketError> {
    let failed = SocketError::io(path);
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(&failed)?;
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", process::id()));
    let temporary = PathBuf::from(temporary);
    let bound = bind_closed(&temporary).and_then(|listener| {
        let meta = fs::symlink_metadata(&temporary)?;
        fs::rename(&temporary, path)?;
        Ok((listener, (meta.dev(), meta.ino())))
    });
    match bound {
        Ok((listener, identity)) => Ok(Bound { path: path.to_owned(), listener, identity }),
        Err(error) => {
            let _ = fs::remove_file(&temporary);
            Err(failed(error))
        }
    }
}

/// Nobody can connect before the permissions are right: it listens only then.
fn bind_closed(path: &Path) -> io::Result<StdListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

impl Bound {
    /// The listener, for the runtime.
    pub(crate) fn listen(&self) -> Result<UnixListener, SocketError> {
        let listener = self.listener.try_clone().and_then(UnixListener::from_std);
        listener.map_err(SocketError::io(&self.path))
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let here = fs::symlink_metadata(&self.path).map(|meta| (meta.dev(), meta.ino()));
        if here.is_ok_and(|here| here == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn a_socket_is_closed_to_others_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/socket");
        check(&path).unwrap();
        let bound = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left in the folder");
        let listener = bound.listen().unwrap();
        let (accepted, connected) = tokio::join!(listener.accept(), tokio::net::UnixStream::connect(&path));
        assert!(accepted.is_ok() && connected.is_ok());
        drop(bound);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_that_is_served_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let _bound = bind(&path).unwrap();
        let error = check(&path).unwrap_err().to_string();
        let name = fs::read_to_string("/proc/self/comm").unwrap();
        assert!(error.contains(&format!("is served by {} (process {})", name.trim(), process::id())), "{error}");
    }

    #[tokio::test]
    async fn a_socket_left_behind_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        drop(StdListener::bind(&path).unwrap());
        check(&path).unwrap();
        let bound = bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();

        // A successor's socket stays when this one's owner ends.
        let successor = bind(&path).unwrap();
        drop(bound);
        UnixStream::connect(&path).unwrap();
        drop(successor);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(check(&path), Err(SocketError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
