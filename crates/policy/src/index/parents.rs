//! What items inherit labels from: profiles, by name.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::{
    arena::{Arena, number_of},
    id_set::IdSet,
    packed::Packed,
};

pub(super) struct Parent {
    name: Box<str>,
    /// Each time that an item names it, and once for its labels.
    uses: u32,
    pub(super) labels: Packed,
    /// Items that name it.
    pub(super) items: IdSet,
}

#[derive(Default)]
pub(super) struct ParentTable {
    slab: Arena<Parent>,
    by_name: HashTable<u32>,
    hasher: RandomState,
}

impl ParentTable {
    /// The parent of a name, with one more use; without labels if it is new.
    pub(super) fn acquire(&mut self, name: &str) -> u32 {
        let hash = self.hasher.hash_one(name);
        if let Some(&number) = self.by_name.find(hash, |&number| *self.slab[number as usize].name == *name) {
            self.slab[number as usize].uses += 1;
            return number;
        }
        let parent = Parent { name: name.into(), uses: 1, labels: Packed::default(), items: IdSet::default() };
        let number = number_of(self.slab.insert(parent));
        let rehash = |&number: &u32| self.hasher.hash_one(&*self.slab[number as usize].name);
        self.by_name.insert_unique(hash, number, rehash);
        number
    }

    /// The labels of a parent, if there is one of this name.
    pub(super) fn labels(&self, name: &str) -> Option<&Packed> {
        let hash = self.hasher.hash_one(name);
        let number = self.by_name.find(hash, |&number| *self.slab[number as usize].name == *name)?;
        Some(&self.slab[*number as usize].labels)
    }

    /// Gives a use back.
    pub(super) fn release(&mut self, parent: u32) {
        let state = &mut self.slab[parent as usize];
        state.uses -= 1;
        if state.uses > 0 {
            return;
        }
        let hash = self.hasher.hash_one(&*state.name);
        if let Ok(found) = self.by_name.find_entry(hash, |&number| number == parent) {
            found.remove();
        }
        self.slab.remove(parent as usize);
    }

    pub(super) fn get(&self, parent: u32) -> &Parent {
        &self.slab[parent as usize]
    }

    pub(super) fn get_mut(&mut self, parent: u32) -> &mut Parent {
        &mut self.slab[parent as usize]
    }

    /// How many parents there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }
}
