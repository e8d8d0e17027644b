//! Who is connected, so that a host that is shut out is cut off at once.

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
    cut: oneshot::Sender<()>,
}

/// One connection; it leaves the list when this is dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    connections: Connections,
    id: u64,
}

impl Connections {
    /// Enters a connection. The receiver fires when it is to end.
    pub(crate) fn enter(&self, host: &str, from: IpAddr) -> (Entry, oneshot::Receiver<()>) {
        let (cut, is_cut) = oneshot::channel();
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        state.open.insert(id, Open { host: host.to_owned(), from: from.to_canonical(), cut });
        (Entry { connections: self.clone(), id }, is_cut)
    }

    /// Ends all connections of a host; how many there were.
    pub(super) fn cut(&self, host: &str) -> usize {
        let mut state = self.state();
        let ids: Vec<u64> = state.open.iter().filter(|(_, open)| open.host == host).map(|(id, _)| *id).collect();
        for id in &ids {
            if let Some(open) = state.open.remove(id) {
                // Nobody waits for it: it has just ended by itself.
                let _ = open.cut.send(());
            }
        }
        ids.len()
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
