//! The labelled items, their addresses and named ports.

use std::{
    hash::{BuildHasher, Hash},
    net::IpAddr,
};

use hashbrown::HashTable;
use ipnet::IpNet;

use super::{
    NamedPort,
    arena::{Arena, number_of},
    hashing::{HashMap, Hashing, ShortHash},
    packed::Packed,
};

/// No item, or no class.
const NONE: u32 = u32::MAX;

/// What is known of an item: everything but its place. Large clusters have hundreds of thousands of them.
pub(super) struct Traits {
    pub(super) labels: Packed,
    /// Numbers of the parents, in order.
    pub(super) parents: Parents,
    pub(super) nets: Nets,
    /// Kept apart from the item, as few have any.
    pub(super) ports: Box<[Port]>,
}

/// One parent in place, as most items have.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parents {
    One(u32),
    Others(Box<[u32]>),
}

/// One network in place, as most items have; sorted, without repeats.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Nets {
    One(IpNet),
    Others(Box<[IpNet]>),
}

/// A port that an item has a name for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    pub(super) name: Box<str>,
    pub(super) protocol: u8,
    pub(super) port: u16,
}

struct Item {
    key: Box<str>,
    labels: Packed,
    parents: Parents,
    nets: Nets,
    class: u32,
    /// Neighbours in the class.
    before: u32,
    behind: u32,
}

/// An item by what a table finds it by.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Filed {
    hash: ShortHash,
    item: u32,
}

#[derive(Default)]
pub(super) struct Items {
    slab: Arena<Item>,
    by_key: HashTable<Filed>,
    /// Once for each address of an item; addresses that several items have stand there as often.
    by_net: HashTable<Filed>,
    ports: HashMap<u32, Box<[Port]>>,
    hasher: Hashing,
}

impl Items {
    pub(super) fn find(&self, key: &str) -> Option<u32> {
        let hash = self.hash(key);
        let same = |filed: &Filed| filed.hash == hash && *self.slab[filed.item as usize].key == *key;
        self.by_key.find(hash.spread(), same).map(|filed| filed.item)
    }

    fn hash(&self, what: impl Hash) -> ShortHash {
        ShortHash::of(self.hasher.hash_one(what))
    }

    /// Adds an item whose key is not there yet; the caller puts it into a class.
    pub(super) fn insert(&mut self, key: Box<str>, traits: Traits) -> u32 {
        let hash = self.hash(&*key);
        let Traits { labels, parents, nets, ports } = traits;
        let item = Item { key, labels, parents, nets, class: NONE, before: NONE, behind: NONE };
        let item = number_of(self.slab.insert(item));
        self.by_key.insert_unique(hash.spread(), Filed { hash, item }, |filed| filed.hash.spread());
        self.hold(item);
        self.set_ports(item, ports);
        item
    }

    /// Removes an item that is in no class and returns its labels and parents.
    pub(super) fn remove(&mut self, item: u32) -> (Packed, Parents) {
        self.let_go(item);
        let hash = self.hash(&*self.slab[item as usize].key);
        if let Ok(found) = self.by_key.find_entry(hash.spread(), |filed| filed.item == item) {
            found.remove();
        }
        self.ports.remove(&item);
        let Item { labels, parents, .. } = self.slab.remove(item as usize);
        (labels, parents)
    }

    /// Replaces all traits and returns the labels and parents before.
    pub(super) fn replace(&mut self, item: u32, traits: Traits) -> (Packed, Parents) {
        let Traits { labels, parents, nets, ports } = traits;
        if *self.nets(item) != *nets {
            self.let_go(item);
            self.slab[item as usize].nets = nets;
            self.hold(item);
        }
        self.set_ports(item, ports);
        let state = &mut self.slab[item as usize];
        (std::mem::replace(&mut state.labels, labels), std::mem::replace(&mut state.parents, parents))
    }

    fn set_ports(&mut self, item: u32, ports: Box<[Port]>) {
        if ports.is_empty() {
            self.ports.remove(&item);
        } else {
            self.ports.insert(item, ports);
        }
    }

    pub(super) fn labels(&self, item: u32) -> &Packed {
        &self.slab[item as usize].labels
    }

    pub(super) fn parents(&self, item: u32) -> &Parents {
        &self.slab[item as usize].parents
    }

    pub(super) fn nets(&self, item: u32) -> &[IpNet] {
        &self.slab[item as usize].nets
    }

    pub(super) fn ports(&self, item: u32) -> &[Port] {
        self.ports.get(&item).map_or(&[], |ports| ports)
    }

    pub(super) fn class(&self, item: u32) -> u32 {
        self.slab[item as usize].class
    }

    /// Puts an item before the one that was its new class's first.
    pub(super) fn link(&mut self, item: u32, class: u32, first: Option<u32>) {
        let state = &mut self.slab[item as usize];
        (state.class, state.before, state.behind) = (class, NONE, first.unwrap_or(NONE));
        if let Some(first) = first {
            self.slab[first as usize].before = item;
        }
    }

    /// Takes an item from between its neighbours. If it was the first of its class, returns who is that now.
    pub(super) fn unlink(&mut self, item: u32) -> Option<Option<u32>> {
        let Item { before, behind, .. } = self.slab[item as usize];
        if behind != NONE {
            self.slab[behind as usize].before = before;
        }
        if before == NONE {
            return Some((behind != NONE).then_some(behind));
        }
        self.slab[before as usize].behind = behind;
        None
    }

    /// The items from `first` to the end of its class.
    pub(super) fn from(&self, first: Option<u32>) -> impl Iterator<Item = u32> {
        let behind = |&item: &u32| Some(self.slab[item as usize].behind).filter(|&behind| behind != NONE);
        std::iter::successors(first, behind)
    }

    /// All items with exactly this address or network, some perhaps twice.
    pub(super) fn holders<'a>(&'a self, net: &'a IpNet) -> impl Iterator<Item = u32> + 'a {
        let hash = self.hash(net);
        let held = self.by_net.iter_hash(hash.spread()).filter(move |filed| filed.hash == hash);
        held.map(|filed| filed.item).filter(move |&item| self.nets(item).binary_search(net).is_ok())
    }

    /// How many items there are, and how many entries lead to them.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        (self.slab.len(), self.by_key.len(), self.by_net.len() + self.ports.len())
    }

    fn hold(&mut self, item: u32) {
        for at in 0..self.nets(item).len() {
            let hash = self.hash(self.nets(item)[at]);
            self.by_net.insert_unique(hash.spread(), Filed { hash, item }, |filed| filed.hash.spread());
        }
    }

    fn let_go(&mut self, item: u32) {
        for at in 0..self.nets(item).len() {
            let hash = self.hash(self.nets(item)[at]);
            if let Ok(found) = self.by_net.find_entry(hash.spread(), |filed| *filed == (Filed { hash, item })) {
                found.remove();
            }
        }
    }
}

impl FromIterator<u32> for Parents {
    fn from_iter<I: IntoIterator<Item = u32>>(parents: I) -> Self {
        let mut parents = parents.into_iter();
        match (parents.next(), parents.next()) {
            (Some(parent), None) => Self::One(parent),
            (first, second) => Self::Others(first.into_iter().chain(second).chain(parents).collect()),
        }
    }
}

impl std::ops::Deref for Parents {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        match self {
            Self::One(parent) => std::slice::from_ref(parent),
            Self::Others(parents) => parents,
        }
    }
}

impl FromIterator<IpNet> for Nets {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        let mut nets = nets.into_iter();
        match (nets.next(), nets.next()) {
            (Some(net), None) => Self::One(net),
            (first, second) => {
                let mut nets: Vec<IpNet> = first.into_iter().chain(second).chain(nets).collect();
                nets.sort_unstable();
                nets.dedup();
                Self::Others(nets.into())
            }
        }
    }
}

impl std::ops::Deref for Nets {
    type Target = [IpNet];

    fn deref(&self) -> &[IpNet] {
        match self {
            Self::One(net) => std::slice::from_ref(net),
            Self::Others(nets) => nets,
        }
    }
}

impl From<&NamedPort<'_>> for Port {
    fn from(port: &NamedPort<'_>) -> Self {
        Self { name: port.name.into(), protocol: port.protocol, port: port.port }
    }
}

/// The address of a network of one address.
pub(super) fn single(net: &IpNet) -> Option<IpAddr> {
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}
