//! What has been delivered of one prefix, and what a listing or an event adds to it. Pure.

use std::collections::BTreeMap;

use calico_model::{AnyResource, Change, KeyError, RESOURCE_ROOT, ResourceKey, Revision};
use tracing::warn;

use super::Event;
use crate::{Entry, KvEvent, Listing};

/// The revision of the value seen last, and whether it was delivered as good.
#[derive(Clone, Copy)]
struct Seen {
    revision: Revision,
    good: bool,
}

pub(super) struct Tracker {
    prefix: String,
    /// By the part of the key below the prefix.
    seen: BTreeMap<Box<str>, Seen>,
}

impl Tracker {
    pub(super) fn new(prefix: String) -> Self {
        Self { prefix, seen: BTreeMap::new() }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn len(&self) -> usize {
        self.seen.len()
    }

    /// The differences between what was delivered and the whole present state, deletions first: what takes over an
    /// address or an interface must not meet its former owner.
    pub(super) fn absorb_listing(&mut self, listing: Listing) -> Vec<Event> {
        let mut events = Vec::new();
        let mut present = listing.entries.iter().map(|entry| entry.key.as_str()).peekable();
        let gone: Vec<String> = self
            .seen
            .keys()
            .map(|rest| format!("{}{rest}", self.prefix))
            .filter(|key| {
                while present.next_if(|next| *next < key.as_str()).is_some() {}
                present.peek() != Some(&key.as_str())
            })
            .collect();
        for key in gone {
            self.remove(key, listing.revision, &mut events);
        }
        for entry in listing.entries {
            let seen = self.seen.get(self.rest(&entry.key));
            if seen.is_none_or(|seen| seen.revision != entry.revision) {
                self.put(entry, &mut events);
            }
        }
        events
    }

    /// One event of the watch.
    pub(super) fn absorb_event(&mut self, event: KvEvent, events: &mut Vec<Event>) {
        match event {
            KvEvent::Put(entry) => self.put(entry, events),
            KvEvent::Delete { key, revision } => self.remove(key, revision, events),
        }
    }

    fn rest<'a>(&self, key: &'a str) -> &'a str {
        key.strip_prefix(self.prefix.as_str()).unwrap_or(key)
    }

    fn put(&mut self, entry: Entry, events: &mut Vec<Event>) {
        let rest: Box<str> = self.rest(&entry.key).into();
        let revision = entry.revision;
        if !entry.key.starts_with(RESOURCE_ROOT) {
            self.seen.insert(rest, Seen { revision, good: true });
            events.push(Event::Raw(KvEvent::Put(entry)));
            return;
        }
        let key: ResourceKey = match entry.key.parse() {
            Ok(key) => key,
            Err(KeyError::OtherKind(_)) => return,
            Err(error) => {
                // Remembered, so that it is said once.
                self.seen.insert(rest, Seen { revision, good: false });
                warn!(%error, "a key is skipped");
                return;
            }
        };
        let decoded = AnyResource::decode_valid(&key, &entry.value, revision);
        let before = self.seen.insert(rest, Seen { revision, good: decoded.is_ok() });
        match decoded {
            Ok(resource) => events.push(Event::Change(Change::Set { key, resource: Box::new(resource) })),
            Err(error) => {
                if before.is_some_and(|seen| seen.good) {
                    events.push(Event::Change(Change::Remove { key }));
                }
                events.push(Event::Unreadable(error));
            }
        }
    }

    fn remove(&mut self, key: String, revision: Revision, events: &mut Vec<Event>) {
        // A key that was never delivered (another kind, or created and deleted between two listings) is no news.
        let Some(seen) = self.seen.remove(self.rest(&key)) else { return };
        match key.parse() {
            // Also for a value that could not be read: whoever was told so must learn that it is over.
            Ok(key) => events.push(Event::Change(Change::Remove { key })),
            Err(_) if seen.good => events.push(Event::Raw(KvEvent::Delete { key, revision })),
            Err(_) => {}
        }
    }
}
