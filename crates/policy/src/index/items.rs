//! The labelled items, their addresses and named ports.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
};

use hashbrown::HashTable;
use ipnet::IpNet;

use super::{
    NamedPort,
    arena::{Arena, number_of},
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

/// One address of one item; addresses that several items have stand in the table as often.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Holding {
    item: u32,
    net: u32,
}

#[derive(Default)]
pub(super) struct Items {
    slab: Arena<Item>,
    by_key: HashTable<u32>,
    by_net: HashTable<Holding>,
    ports: HashMap<u32, Box<[Port]>>,
    hasher: RandomState,
}

impl Items {
    pub(super) fn find(&self, key: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        self.by_key.find(hash, |&item| *self.slab[item as usize].key == *key).copied()
    }

    /// Adds an item whose key is not there yet; the caller puts it into a class.
    pub(super) fn insert(&mut self, key: &str, traits: Traits) -> u32 {
        let hash = self.hasher.hash_one(key);
        let Traits { labels, parents, nets, ports } = traits;
        let item = Item { key: key.into(), labels, parents, nets, class: NONE, before: NONE, behind: NONE };
        let item = number_of(self.slab.insert(item));
        let rehash = |&item: &u32| self.hasher.hash_one(&*self.slab[item as usize].key);
        self.by_key.insert_unique(hash, item, rehash);
        self.hold(item);
        self.set_ports(item, ports);
        item
    }

    /// Removes an item that is in no class and returns its labels and parents.
    pub(super) fn remove(&mut self, item: u32) -> (Packed, Parents) {
        self.let_go(item);
        let hash = self.hasher.hash_one(&*self.slab[item as usize].key);
        if let Ok(found) = self.by_key.find_entry(hash, |&number| number == item) {
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

    /// Lends the labels out, until [`put_labels`](Self::put_labels).
    pub(super) fn take_labels(&mut self, item: u32) -> Packed {
        std::mem::take(&mut self.slab[item as usize].labels)
    }

    pub(super) fn put_labels(&mut self, item: u32, labels: Packed) {
        self.slab[item as usize].labels = labels;
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

    /// All items with exactly this address or network.
    pub(super) fn holders<'a>(&'a self, net: &'a IpNet) -> impl Iterator<Item = u32> + 'a {
        let held = self.by_net.iter_hash(self.hasher.hash_one(net));
        held.filter(move |holding| self.net(**holding) == net).map(|holding| holding.item)
    }

    /// How many items there are, and how many entries lead to them.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        (self.slab.len(), self.by_key.len(), self.by_net.len() + self.ports.len())
    }

    fn net(&self, holding: Holding) -> &IpNet {
        &self.nets(holding.item)[holding.net as usize]
    }

    fn hold(&mut self, item: u32) {
        for net in 0..self.nets(item).len() {
            let holding = Holding { item, net: number_of(net) };
            let hash = self.hasher.hash_one(self.net(holding));
            let rehash = |held: &Holding| self.hasher.hash_one(self.slab[held.item as usize].nets[held.net as usize]);
            self.by_net.insert_unique(hash, holding, rehash);
        }
    }

    fn let_go(&mut self, item: u32) {
        for net in 0..self.nets(item).len() {
            let holding = Holding { item, net: number_of(net) };
            let hash = self.hasher.hash_one(self.net(holding));
            if let Ok(found) = self.by_net.find_entry(hash, |held| *held == holding) {
                found.remove();
            }
        }
    }
}

impl FromIterator<u32> for Parents {
    fn from_iter<I: IntoIterator<Item = u32>>(parents: I) -> Self {
        let parents: Box<[u32]> = parents.into_iter().collect();
        match *parents {
            [parent] => Self::One(parent),
            _ => Self::Others(parents),
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

impl Nets {
    pub(super) fn new(nets: &[IpNet]) -> Self {
        if let [net] = nets {
            return Self::One(*net);
        }
        let mut nets = nets.to_vec();
        nets.sort_unstable();
        nets.dedup();
        Self::Others(nets.into())
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
