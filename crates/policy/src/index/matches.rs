//! Which sets a class is in: sorted lists of numbers, each kept once however many classes have it.

use std::{hash::BuildHasher, sync::Arc};

use hashbrown::HashTable;

use super::{
    arena::{Arena, number_of},
    hashing::Hashing,
};

/// A list of sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Matches(u32);

struct Entry {
    sets: Arc<[u32]>,
    uses: u32,
}

#[derive(Default)]
pub(super) struct MatchLists {
    slab: Arena<Entry>,
    by_sets: HashTable<u32>,
    hasher: Hashing,
}

impl MatchLists {
    /// The list of these sets, which are sorted, with one more use.
    pub(super) fn acquire(&mut self, sets: &[u32]) -> Matches {
        let hash = self.hasher.hash_one(sets);
        if let Some(&number) = self.by_sets.find(hash, |&number| *self.slab[number as usize].sets == *sets) {
            self.slab[number as usize].uses += 1;
            return Matches(number);
        }
        let number = number_of(self.slab.insert(Entry { sets: sets.into(), uses: 1 }));
        let rehash = |&number: &u32| self.hasher.hash_one(&*self.slab[number as usize].sets);
        self.by_sets.insert_unique(hash, number, rehash);
        Matches(number)
    }

    /// One more use of a list that is in use.
    pub(super) fn share(&mut self, list: Matches) -> Matches {
        self.slab[list.0 as usize].uses += 1;
        list
    }

    /// Gives a use back.
    pub(super) fn release(&mut self, list: Matches) {
        let entry = &mut self.slab[list.0 as usize];
        entry.uses -= 1;
        if entry.uses > 0 {
            return;
        }
        let hash = self.hasher.hash_one(&*entry.sets);
        if let Ok(found) = self.by_sets.find_entry(hash, |&number| number == list.0) {
            found.remove();
        }
        self.slab.remove(list.0 as usize);
    }

    /// The sets, ascending. Shared, so that it can be held while the index changes.
    pub(super) fn get(&self, list: Matches) -> Arc<[u32]> {
        Arc::clone(&self.slab[list.0 as usize].sets)
    }

    pub(super) fn contains(&self, list: Matches, set: u32) -> bool {
        self.slab[list.0 as usize].sets.binary_search(&set).is_ok()
    }

    /// The list with a set more.
    pub(super) fn with(&mut self, list: Matches, set: u32) -> Matches {
        let mut sets = self.get(list).to_vec();
        if let Err(place) = sets.binary_search(&set) {
            sets.insert(place, set);
        }
        self.acquire(&sets)
    }

    /// The list with a set less.
    pub(super) fn without(&mut self, list: Matches, set: u32) -> Matches {
        let mut sets = self.get(list).to_vec();
        if let Ok(place) = sets.binary_search(&set) {
            sets.remove(place);
        }
        self.acquire(&sets)
    }

    /// How many lists there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }
}

/// What of `these` is not in `those`; both sorted.
pub(super) fn difference(these: &[u32], those: &[u32]) -> Vec<u32> {
    these.iter().filter(|set| those.binary_search(set).is_err()).copied().collect()
}

/// What of `these` is in `those`; both sorted.
pub(super) fn intersection(these: &[u32], those: &[u32]) -> Vec<u32> {
    these.iter().filter(|set| those.binary_search(set).is_ok()).copied().collect()
}
