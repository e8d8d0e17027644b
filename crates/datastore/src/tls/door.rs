//! The TCP port: closed until somebody is expected.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 128;

/// A port that can be opened and closed.
#[derive(Debug)]
pub(crate) struct Door {
    bind: Option<IpAddr>,
    port: u16,
    open: watch::Sender<Option<Arc<TcpListener>>>,
    /// One at a time opens or closes.
    turn: Mutex<()>,
}

impl Door {
    /// A closed one.
    pub(crate) fn new(bind: Option<IpAddr>, port: u16) -> Self {
        Self { bind, port, open: watch::Sender::new(None), turn: Mutex::default() }
    }

    /// Opens it; `false` if it was open. Must be called within a Tokio runtime.
    pub(crate) fn open(&self) -> io::Result<bool> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if self.open.borrow().is_some() {
            return Ok(false);
        }
        let listener = match self.bind {
            Some(address) => listen(address, self.port)?,
            // One socket for both families; only a host without IPv6 cannot have it.
            None => match listen(Ipv6Addr::UNSPECIFIED.into(), self.port) {
                Ok(listener) => listener,
                Err(error) if is_no_ipv6(&error) => listen(Ipv4Addr::UNSPECIFIED.into(), self.port)?,
                Err(error) => return Err(error),
            },
        };
        if let Ok(address) = listener.local_addr() {
            tracing::info!(%address, "the datastore is open for other hosts");
        }
        self.open.send_replace(Some(Arc::new(listener)));
        Ok(true)
    }

    /// Closes it.
    pub(crate) fn close(&self) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if self.open.send_replace(None).is_some() {
            tracing::info!("the datastore is closed for other hosts: nobody is expected");
        }
    }

    /// Where it is open.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.open.borrow().as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// What is listened on, as it changes.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<Arc<TcpListener>>> {
        self.open.subscribe()
    }
}

fn listen(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    let socket = match address {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => {
            let socket = TcpSocket::new_v6()?;
            // A setting of the host may say otherwise.
            rustix::net::sockopt::set_ipv6_v6only(&socket, !address.is_unspecified())?;
            socket
        }
    };
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(address, port))?;
    socket.listen(BACKLOG)
}

fn is_no_ipv6(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let numbers = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|number| numbers.contains(&number))
}
