//! The policies that are stored, in little memory: a cluster has many, and few of them are in use on one host.

use std::{cmp::Ordering, hash::BuildHasher, sync::Arc};

use hashbrown::HashTable;

use super::codes::CodeId;
use crate::{
    compile::Lists,
    index::{Arena, Hashing, number_of},
    instruction::{PolicyId, PolicyKind},
};

/// A policy that is stored.
pub(super) struct State {
    /// `name/namespace/`; neither contains a slash.
    text: Box<str>,
    /// `None` stands before all tiers.
    pub(super) tier: Option<Arc<str>>,
    /// Lower first; infinite without one.
    pub(super) order: f64,
    pub(super) lists: Lists,
    pub(super) ingress: bool,
    pub(super) egress: bool,
    /// Number of its selector in [`Reach`](super::reach::Reach).
    pub(super) selector: u32,
    pub(super) code: CodeId,
    /// Rare, so that it costs the others little.
    fault: Option<Box<Box<str>>>,
}

#[derive(Default)]
pub(super) struct Stored {
    slab: Arena<State>,
    by_text: HashTable<u32>,
    hasher: Hashing,
}

impl State {
    /// One that is in no list yet.
    pub(super) fn new(id: &PolicyId, code: CodeId, fault: Option<Box<str>>) -> Self {
        Self {
            text: text(id).into(),
            tier: None,
            order: 0.0,
            lists: Lists::Normal,
            ingress: false,
            egress: false,
            selector: 0,
            code,
            fault: fault.map(Box::new),
        }
    }

    /// Why it denies everything, if it does for that.
    pub(super) fn fault(&self) -> Option<&str> {
        self.fault.as_deref().map(AsRef::as_ref)
    }

    pub(super) fn set_fault(&mut self, fault: Option<Box<str>>) {
        self.fault = fault.map(Box::new);
    }

    /// Where it stands among the policies of its tier. Equal orders are told apart by the text `name/namespace/kind`, of
    /// which the kind never matters: only one of the two has a namespace.
    pub(super) fn compare(&self, other: &Self) -> Ordering {
        self.order.total_cmp(&other.order).then_with(|| self.text.cmp(&other.text))
    }

    pub(super) fn id(&self) -> PolicyId {
        let mut parts = self.text.split('/').map(str::to_owned);
        let (name, namespace) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let kind = if namespace.is_empty() { PolicyKind::Global } else { PolicyKind::Namespaced };
        PolicyId { kind, namespace, name }
    }
}

fn text(id: &PolicyId) -> String {
    [&id.name, "/", &id.namespace, "/"].concat()
}

impl Stored {
    pub(super) fn find(&self, id: &PolicyId) -> Option<u32> {
        let text = text(id);
        let hash = self.hasher.hash_one(text.as_str());
        self.by_text.find(hash, |&number| *self.slab[number as usize].text == text).copied()
    }

    pub(super) fn get(&self, number: u32) -> &State {
        &self.slab[number as usize]
    }

    pub(super) fn get_mut(&mut self, number: u32) -> &mut State {
        &mut self.slab[number as usize]
    }

    /// Adds one that is not there.
    pub(super) fn insert(&mut self, state: State) -> u32 {
        let hash = self.hasher.hash_one(&*state.text);
        let number = number_of(self.slab.insert(state));
        let rehash = |&number: &u32| self.hasher.hash_one(&*self.slab[number as usize].text);
        self.by_text.insert_unique(hash, number, rehash);
        number
    }

    pub(super) fn remove(&mut self, number: u32) -> State {
        let hash = self.hasher.hash_one(&*self.slab[number as usize].text);
        if let Ok(found) = self.by_text.find_entry(hash, |&other| other == number) {
            found.remove();
        }
        self.slab.remove(number as usize)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &State> {
        self.slab.iter().map(|(_, state)| state)
    }
}
