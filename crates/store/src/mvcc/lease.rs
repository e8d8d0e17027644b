//! Leases: keys that end together unless somebody keeps them alive.
//!
//! The clock is the caller's: every `now` is the time since some start of his choosing and never goes back. A lease
//! that is over is only reported ([`Core::expired`]); it ends when the caller revokes it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Core, Key, KeyRange, KeyValue, Refusal, txn::Writing};

/// The least time to live, in seconds; what asks for less gets this. It is etcd's with its default timing.
pub const MIN_TTL: i64 = 2;
/// The greatest time to live, in seconds.
pub const MAX_TTL: i64 = 9_000_000_000;

/// What is known of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// The granted time to live in seconds.
    pub ttl: i64,
    /// How long it still lives.
    pub remaining: Duration,
    /// The keys that end with it, in order.
    pub keys: Vec<Key>,
}

/// A change of the set of leases that has to be made durable, in the order of [`Core::lease_changes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    /// Granted for so many seconds.
    Granted {
        /// Its id.
        id: i64,
        /// The granted time to live in seconds.
        ttl: i64,
    },
    /// Revoked.
    Revoked {
        /// Its id.
        id: i64,
    },
}

#[derive(Clone, Debug)]
struct Lease {
    ttl: i64,
    expiry: Duration,
    keys: BTreeSet<Key>,
}

/// What [`Leases::roll_back`] needs.
#[derive(Clone, Debug)]
enum Staged {
    Granted(i64),
    Revoked(i64, Lease),
}

/// All leases, and what was done to them since the last [`Core::settle`].
#[derive(Clone, Debug, Default)]
pub(super) struct Leases {
    known: BTreeMap<i64, Lease>,
    staged: Vec<Staged>,
}

fn lifetime(ttl: i64) -> Duration {
    Duration::from_secs(ttl.unsigned_abs())
}

impl Leases {
    pub(super) fn contains(&self, id: i64) -> bool {
        self.known.contains_key(&id)
    }

    /// A key changes hands, or is written by the same lease again.
    pub(super) fn moved(&mut self, key: &Key, from: i64, to: i64) {
        if from == to {
            return;
        }
        if let Some(lease) = self.known.get_mut(&from) {
            lease.keys.remove(key);
        }
        if let Some(lease) = self.known.get_mut(&to) {
            lease.keys.insert(key.clone());
        }
    }

    pub(super) fn insert(&mut self, id: i64, ttl: i64, now: Duration) {
        self.known.insert(id, Lease { ttl, expiry: now.saturating_add(lifetime(ttl)), keys: BTreeSet::new() });
    }

    pub(super) fn settle(&mut self) {
        self.staged.clear();
    }

    /// Undoes grants and revocations, latest first; their keys are attached anew by who rolls the writes back.
    pub(super) fn roll_back(&mut self) {
        while let Some(staged) = self.staged.pop() {
            match staged {
                Staged::Granted(id) => {
                    self.known.remove(&id);
                }
                Staged::Revoked(id, lease) => {
                    self.known.insert(id, lease);
                }
            }
        }
    }
}

impl Core {
    /// Grants a lease of `ttl` seconds and returns the seconds it got, at least [`MIN_TTL`]. Takes no revision.
    ///
    /// # Errors
    /// [`Refusal::LeaseExists`], also for the id 0, which stands for no lease; [`Refusal::LeaseTtlTooLarge`].
    pub fn grant(&mut self, id: i64, ttl: i64, now: Duration) -> Result<i64, Refusal> {
        if ttl > MAX_TTL {
            return Err(Refusal::LeaseTtlTooLarge);
        }
        if id == 0 || self.leases.contains(id) {
            return Err(Refusal::LeaseExists);
        }
        let ttl = ttl.max(MIN_TTL);
        self.leases.insert(id, ttl, now);
        self.leases.staged.push(Staged::Granted(id));
        Ok(ttl)
    }

    /// Ends a lease and deletes its keys, all at one revision; without keys that takes none. Returns what it deleted.
    ///
    /// # Errors
    /// [`Refusal::LeaseNotFound`].
    pub fn revoke(&mut self, id: i64) -> Result<Vec<KeyValue>, Refusal> {
        let Some(lease) = self.leases.known.remove(&id) else { return Err(Refusal::LeaseNotFound) };
        let mut writing = Writing { revision: self.revision + 1, sub: 0 };
        let mut gone = Vec::new();
        for key in &lease.keys {
            gone.extend(self.remove(&KeyRange::one(key.as_ref()), &mut writing));
        }
        self.revision += i64::from(!gone.is_empty());
        self.leases.staged.push(Staged::Revoked(id, Lease { keys: BTreeSet::new(), ..lease }));
        Ok(gone)
    }

    /// Lets a lease live its whole time again, and returns that time in seconds. It has no effect on what is durable.
    ///
    /// # Errors
    /// [`Refusal::LeaseNotFound`].
    pub fn keep_alive(&mut self, id: i64, now: Duration) -> Result<i64, Refusal> {
        let lease = self.leases.known.get_mut(&id).ok_or(Refusal::LeaseNotFound)?;
        lease.expiry = now.saturating_add(lifetime(lease.ttl));
        Ok(lease.ttl)
    }

    /// What is known of a lease; `None` if there is none of this id.
    pub fn lease(&self, id: i64, now: Duration) -> Option<LeaseInfo> {
        let lease = self.leases.known.get(&id)?;
        let keys = lease.keys.iter().cloned().collect();
        Some(LeaseInfo { ttl: lease.ttl, remaining: lease.expiry.saturating_sub(now), keys })
    }

    /// The ids of all leases, the one that ends first before the others.
    pub fn leases(&self) -> Vec<i64> {
        let mut ids: Vec<(Duration, i64)> = self.leases.known.iter().map(|(id, lease)| (lease.expiry, *id)).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// The ids of the leases that are over.
    pub fn expired(&self, now: Duration) -> Vec<i64> {
        self.leases.known.iter().filter(|(_, lease)| lease.expiry <= now).map(|(id, _)| *id).collect()
    }

    /// When the next lease is over, by the caller's clock.
    pub fn next_expiry(&self) -> Option<Duration> {
        self.leases.known.values().map(|lease| lease.expiry).min()
    }

    /// The grants and revocations since the last [`settle`](Self::settle), in order.
    pub fn lease_changes(&self) -> impl Iterator<Item = LeaseChange> + '_ {
        self.leases.staged.iter().map(|staged| match staged {
            Staged::Granted(id) => {
                // Revoked meanwhile: any time to live will do, since the revocation follows.
                let ttl = self.leases.known.get(id).map_or(MIN_TTL, |lease| lease.ttl);
                LeaseChange::Granted { id: *id, ttl }
            }
            Staged::Revoked(id, _) => LeaseChange::Revoked { id: *id },
        })
    }
}
