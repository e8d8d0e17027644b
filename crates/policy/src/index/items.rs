//! The labelled items and their addresses.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;
use ipnet::IpNet;
use slab::Slab;

use super::symbols::number_of;

/// Where an item stands: its class, and its position among the class's members.
#[derive(Clone, Copy, Default)]
pub(super) struct Place {
    pub(super) class: u32,
    pub(super) slot: u32,
}

struct Item {
    key: Box<str>,
    place: Place,
    /// Sorted, without repeats.
    nets: Box<[IpNet]>,
}

/// One address of one item; addresses that several items have stand in the table as often.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Holding {
    item: u32,
    net: u32,
}

#[derive(Default)]
pub(super) struct Items {
    slab: Slab<Item>,
    by_key: HashTable<u32>,
    by_net: HashTable<Holding>,
    hasher: RandomState,
}

impl Items {
    pub(super) fn find(&self, key: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        self.by_key.find(hash, |&item| *self.slab[item as usize].key == *key).copied()
    }

    /// Adds an item whose key is not there yet; the caller gives it its place.
    pub(super) fn insert(&mut self, key: &str, nets: Box<[IpNet]>) -> u32 {
        let hash = self.hasher.hash_one(key);
        let item = number_of(self.slab.insert(Item { key: key.into(), place: Place::default(), nets }));
        let rehash = |&item: &u32| self.hasher.hash_one(&*self.slab[item as usize].key);
        self.by_key.insert_unique(hash, item, rehash);
        self.hold(item);
        item
    }

    pub(super) fn remove(&mut self, item: u32) {
        self.let_go(item);
        let hash = self.hasher.hash_one(&*self.slab[item as usize].key);
        if let Ok(found) = self.by_key.find_entry(hash, |&number| number == item) {
            found.remove();
        }
        self.slab.remove(item as usize);
    }

    pub(super) fn nets(&self, item: u32) -> &[IpNet] {
        &self.slab[item as usize].nets
    }

    pub(super) fn replace_nets(&mut self, item: u32, nets: Box<[IpNet]>) {
        self.let_go(item);
        self.slab[item as usize].nets = nets;
        self.hold(item);
    }

    pub(super) fn place(&self, item: u32) -> Place {
        self.slab[item as usize].place
    }

    pub(super) fn move_to(&mut self, item: u32, place: Place) {
        self.slab[item as usize].place = place;
    }

    /// All items with exactly this address or network.
    pub(super) fn holders<'a>(&'a self, net: &'a IpNet) -> impl Iterator<Item = u32> + 'a {
        let held = self.by_net.iter_hash(self.hasher.hash_one(net));
        held.filter(move |holding| self.net(**holding) == net).map(|holding| holding.item)
    }

    /// How many items there are, and how many entries lead to them.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        (self.slab.len(), self.by_key.len(), self.by_net.len())
    }

    fn net(&self, holding: Holding) -> &IpNet {
        &self.slab[holding.item as usize].nets[holding.net as usize]
    }

    fn hold(&mut self, item: u32) {
        for net in 0..self.slab[item as usize].nets.len() {
            let holding = Holding { item, net: number_of(net) };
            let hash = self.hasher.hash_one(self.net(holding));
            let rehash = |held: &Holding| self.hasher.hash_one(self.slab[held.item as usize].nets[held.net as usize]);
            self.by_net.insert_unique(hash, holding, rehash);
        }
    }

    fn let_go(&mut self, item: u32) {
        for net in 0..self.slab[item as usize].nets.len() {
            let holding = Holding { item, net: number_of(net) };
            let hash = self.hasher.hash_one(self.net(holding));
            if let Ok(found) = self.by_net.find_entry(hash, |held| *held == holding) {
                found.remove();
            }
        }
    }
}
