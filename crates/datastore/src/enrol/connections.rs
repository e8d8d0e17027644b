//! Who is connected, so that a host that is shut out is cut off at once, and one whose certificate has ended soon.
//!
//! A certificate is looked at in the handshake, and a connection may last for months. There is no timer for each: the
//! list is gone through every few seconds by the wall clock, which is what certificates are about, and which may be set
//! anew while a timer runs.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// The connections of hosts with a certificate.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    open: HashMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    host: String,
    from: IpAddr,
    /// The last second of its certificate, since 1970.
    not_after: i64,
    cut: oneshot::Sender<Cut>,
}

/// Why a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The host was shut out, or somebody else has its name now.
    Revoked,
    /// The certificate that it came with has ended.
    Expired,
    /// The book of hosts was removed.
    Forgotten,
}

impl Cut {
    /// In words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Revoked => "the host was shut out",
            Self::Expired => "its certificate has expired",
            Self::Forgotten => "the book of hosts was removed",
        }
    }
}

/// One connection; it leaves the list when this is dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    connections: Connections,
    id: u64,
}

impl Connections {
    /// Enters a connection with a certificate that holds until `not_after`, in seconds since 1970. The receiver fires
    /// when it is to end.
    pub(crate) fn enter(&self, host: &str, from: IpAddr, not_after: i64) -> (Entry, oneshot::Receiver<Cut>) {
        let (cut, is_cut) = oneshot::channel();
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        state.open.insert(id, Open { host: host.to_owned(), from: from.to_canonical(), not_after, cut });
        (Entry { connections: self.clone(), id }, is_cut)
    }

    /// Ends all connections of a host; how many there were.
    pub(super) fn cut(&self, host: &str) -> usize {
        self.cut_where(Cut::Revoked, |open| open.host == host)
    }

    /// Ends all connections; how many there were.
    pub(super) fn cut_all(&self) -> usize {
        self.cut_where(Cut::Forgotten, |_| true)
    }

    /// Ends all connections whose certificate has ended; how many there were.
    pub(super) fn cut_expired(&self, now: i64) -> usize {
        self.cut_where(Cut::Expired, |open| open.not_after < now)
    }

    fn cut_where(&self, why: Cut, is_meant: impl Fn(&Open) -> bool) -> usize {
        let cut: Vec<(u64, Open)> = self.state().open.extract_if(|_, open| is_meant(open)).collect();
        let count = cut.len();
        for (_, open) in cut {
            // Nobody waits for it: it has just ended by itself.
            let _ = open.cut.send(why);
        }
        count
    }

    /// From where a host is connected now, and by how many connections.
    pub(super) fn of(&self, host: &str) -> Option<(IpAddr, usize)> {
        let state = self.state();
        let mut open = state.open.values().filter(|open| open.host == host);
        let first = open.next()?;
        Some((first.from, 1 + open.count()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the map is one call, so it is whole also after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connections.state().open.remove(&self.id);
    }
}
