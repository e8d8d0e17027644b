//! Who was invited and who belongs: the facts, without a clock or a disk.
//!
//! Times are seconds since 1970. The book is written as JSON; a book of a newer version is not touched.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::message::Refusal;

/// The version of the book's form that this program writes.
pub(super) const VERSION: u32 = 1;
/// How long a token that was used or has expired is remembered, so that it can be said what became of it. Seconds.
const TOKEN_MEMORY: i64 = 7 * 24 * 3600;
/// The certificates of a host that count beside the one that it renews with. Its processes take up the newest within a
/// minute, and it asks for one every few weeks; only one whose answers get lost has more, for a while.
const CERTIFICATES: usize = 4;
/// The most names of the server that are learned; those that were asked for are not counted.
const MOST_NAMES: usize = 64;

/// What the host that keeps the datastore knows of the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Book {
    pub(super) version: u32,
    /// Addresses and names by which the datastore is reached, for the server's certificate.
    #[serde(default)]
    names: BTreeSet<String>,
    /// Hash of the token → the invitation.
    #[serde(default)]
    invitations: BTreeMap<String, Invitation>,
    /// Node's name → what counts for it.
    #[serde(default)]
    hosts: BTreeMap<String, Member>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Invitation {
    expires: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    used: Option<Use>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Use {
    host: String,
    at: i64,
    /// Hash of the key that the certificate was made for; empty once the request is not to be answered again.
    key: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Member {
    joined: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked: Option<i64>,
    /// Serial → last second.
    certificates: BTreeMap<String, i64>,
}

/// One host in the book.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostState {
    /// The node's name.
    pub name: String,
    /// When it joined, in seconds since 1970.
    pub joined: i64,
    /// When it was shut out, in seconds since 1970.
    pub revoked: Option<i64>,
    /// The last second of its newest certificate, in seconds since 1970.
    pub valid_until: Option<i64>,
}

/// What an invitation is still good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It admits a host.
    Open,
    /// The very request that it was used by has come again: its answer was lost.
    Repeated,
}

/// Why a certificate does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Barred {
    /// Its host was shut out.
    Revoked,
    /// It is not in the book.
    Unknown,
}

impl Use {
    /// True if this is the request by which the token was used up.
    fn repeats(&self, host: &str, key: &str) -> bool {
        !self.key.is_empty() && self.host == host && self.key == key
    }
}

impl Default for Book {
    fn default() -> Self {
        Self { version: VERSION, names: BTreeSet::new(), invitations: BTreeMap::new(), hosts: BTreeMap::new() }
    }
}

impl Book {
    /// Notes an invitation by the hash of its token.
    pub(super) fn invite(&mut self, hash: String, expires: i64) {
        self.invitations.insert(hash, Invitation { expires, used: None });
    }

    /// What the token of this hash is good for, in the hands of who has `key` and wants to be `host`.
    ///
    /// # Errors
    /// [`Refusal::WrongToken`], [`Refusal::UsedToken`], [`Refusal::ExpiredToken`].
    pub(super) fn standing(&self, hash: &str, host: &str, key: &str, now: i64) -> Result<Standing, Refusal> {
        let invitation = self.invitations.get(hash).ok_or(Refusal::WrongToken)?;
        match &invitation.used {
            Some(used) if used.repeats(host, key) && now <= invitation.expires => Ok(Standing::Repeated),
            Some(used) => Err(Refusal::UsedToken { host: used.host.clone(), at: used.at }),
            None if now > invitation.expires => Err(Refusal::ExpiredToken { at: invitation.expires }),
            None => Ok(Standing::Open),
        }
    }

    /// The token of this hash has admitted `host`.
    pub(super) fn use_up(&mut self, hash: &str, host: &str, key: String, now: i64) {
        self.answer_no_more(host);
        if let Some(invitation) = self.invitations.get_mut(hash) {
            invitation.used = Some(Use { host: host.to_owned(), at: now, key });
        }
    }

    /// `host` has joined with a first certificate: none of an earlier life counts any more.
    pub(super) fn admit(&mut self, host: &str, serial: String, not_after: i64, now: i64) {
        let certificates = BTreeMap::from([(serial, not_after)]);
        self.hosts.insert(host.to_owned(), Member { joined: now, revoked: None, certificates });
    }

    /// A further certificate of a host that belongs, which it asked for with `own`. The earlier ones count until they
    /// end, since its processes change over one by one; but of many only the newest, and the one that it certainly has.
    pub(super) fn renew(&mut self, host: &str, own: &str, serial: String, not_after: i64) {
        let Some(member) = self.hosts.get_mut(host) else { return };
        let known = &member.certificates;
        let mut others: Vec<(i64, String)> =
            known.iter().filter(|(known, _)| *known != own).map(|(known, until)| (*until, known.clone())).collect();
        others.sort_unstable();
        // Room for the new one.
        let superfluous = (others.len() + 1).saturating_sub(CERTIFICATES);
        for (_, old) in &others[..superfluous] {
            member.certificates.remove(old);
        }
        member.certificates.insert(serial, not_after);
    }

    /// Whether a certificate counts. Its signature and its life have been checked.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check(&self, host: &str, serial: &str) -> Result<(), Barred> {
        let member = self.hosts.get(host).ok_or(Barred::Unknown)?;
        if member.revoked.is_some() {
            return Err(Barred::Revoked);
        }
        if member.certificates.contains_key(serial) { Ok(()) } else { Err(Barred::Unknown) }
    }

    /// Whoever came in as `host` before does not come in again by the same request, though the invitation may hold for
    /// days: he was shut out, or somebody else has the name now.
    fn answer_no_more(&mut self, host: &str) {
        let uses = self.invitations.values_mut().filter_map(|invitation| invitation.used.as_mut());
        uses.filter(|used| used.host == host).for_each(|used| used.key.clear());
    }

    /// Shuts a host out; `false` if there is none of the name.
    pub(super) fn revoke(&mut self, host: &str, now: i64) -> bool {
        self.answer_no_more(host);
        match self.hosts.get_mut(host) {
            Some(member) => {
                member.revoked.get_or_insert(now);
                true
            }
            None => false,
        }
    }

    /// Adds a name by which the datastore is reached; `false` if it was known, or if there are too many.
    pub(super) fn learn(&mut self, name: &str, asked_for: bool) -> bool {
        (asked_for || self.names.len() < MOST_NAMES) && self.names.insert(name.to_owned())
    }

    /// The names by which the datastore is reached.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Whether anybody may come from outside: an invitation is open, or a host belongs.
    pub(super) fn expects_anybody(&self, now: i64) -> bool {
        self.invitations.values().any(|invitation| invitation.used.is_none() && now <= invitation.expires)
            || self.hosts.values().any(|member| {
                member.revoked.is_none() && member.certificates.values().any(|not_after| now <= *not_after)
            })
    }

    /// The hosts, by name.
    pub(super) fn hosts(&self) -> impl Iterator<Item = HostState> + '_ {
        self.hosts.iter().map(|(name, member)| HostState {
            name: name.clone(),
            joined: member.joined,
            revoked: member.revoked,
            valid_until: member.certificates.values().max().copied(),
        })
    }

    /// How many invitations are open.
    pub(super) fn open_invitations(&self, now: i64) -> usize {
        self.invitations.values().filter(|invitation| invitation.used.is_none() && now <= invitation.expires).count()
    }

    /// Forgets what says nothing any more: old tokens, and certificates that have ended. Hosts stay, so that it can
    /// be said that one was shut out.
    pub(super) fn tidy(&mut self, now: i64) {
        self.invitations.retain(|_, invitation| now - invitation.expires < TOKEN_MEMORY);
        for member in self.hosts.values_mut() {
            let newest = member.certificates.values().max().copied();
            member.certificates.retain(|_, not_after| now <= *not_after || Some(*not_after) == newest);
        }
    }
}
