//! Classes: the items that no selector in use can tell apart, because they have the same hot labels.

use std::hash::BuildHasher;

use calico_selector::{Clue, Labels};
use hashbrown::HashTable;

use super::{
    arena::{Arena, number_of},
    clues::{Clues, Pair, SymClue},
    hashing::{HashMap, Hashing},
    id_set::IdSet,
    keys::{Key, Keys},
    matches::Matches,
    symbols::Symbols,
};

struct Class {
    /// The hot labels of the items, own and inherited, by key number. Its identity.
    labels: Box<[Pair]>,
    /// The sets whose selectors match them.
    matches: Matches,
    /// The first of the items, which lead on from one to the next.
    first: Option<u32>,
}

/// What has a hot label with a certain value.
#[derive(Default)]
struct PairUse {
    classes: IdSet,
    /// Sets to look at for such a class.
    sets: IdSet,
}

#[derive(Default)]
pub(super) struct Classes {
    slab: Arena<Class>,
    by_labels: HashTable<u32>,
    by_pair: HashMap<Pair, PairUse>,
    hasher: Hashing,
}

impl Classes {
    pub(super) fn find(&self, labels: &[Pair]) -> Option<u32> {
        let hash = self.hasher.hash_one(labels);
        self.by_labels.find(hash, |&class| *self.slab[class as usize].labels == *labels).copied()
    }

    /// Adds a class that is not there yet. Takes over the use of each value, and takes one of each key.
    pub(super) fn insert(&mut self, labels: &[Pair], matches: Matches, keys: &mut Keys) -> u32 {
        let hash = self.hasher.hash_one(labels);
        let class = number_of(self.slab.insert(Class { labels: labels.into(), matches, first: None }));
        let rehash = |&class: &u32| self.hasher.hash_one(&*self.slab[class as usize].labels);
        self.by_labels.insert_unique(hash, class, rehash);
        for &pair in labels {
            keys.share(pair.key);
            keys.get_mut(pair.key).classes.insert(class);
            self.by_pair.entry(pair).or_default().classes.insert(class);
        }
        class
    }

    /// Removes a class that has no items, and returns the list of its sets, whose use it had.
    pub(super) fn remove(&mut self, class: u32, keys: &mut Keys, symbols: &mut Symbols) -> Matches {
        let hash = self.hasher.hash_one(&*self.slab[class as usize].labels);
        if let Ok(found) = self.by_labels.find_entry(hash, |&number| number == class) {
            found.remove();
        }
        let Class { labels, matches, .. } = self.slab.remove(class as usize);
        for pair in labels {
            self.change_pair(pair, |uses| uses.classes.remove(class));
            keys.get_mut(pair.key).classes.remove(class);
            keys.release(pair.key);
            symbols.release(pair.value);
        }
        matches
    }

    fn change_pair(&mut self, pair: Pair, change: impl FnOnce(&mut PairUse) -> bool) {
        let uses = self.by_pair.entry(pair).or_default();
        change(uses);
        if uses.classes.is_empty() && uses.sets.is_empty() {
            self.by_pair.remove(&pair);
        }
    }

    /// Files a set under what all of its classes have.
    pub(super) fn file(&mut self, clue: SymClue, set: u32, keys: &mut Keys) {
        match clue {
            SymClue::Has(key) => _ = keys.get_mut(key).sets.insert(set),
            SymClue::Is(pair) => self.change_pair(pair, |uses| uses.sets.insert(set)),
        }
    }

    /// Undoes [`file`](Self::file).
    pub(super) fn unfile(&mut self, clue: SymClue, set: u32, keys: &mut Keys) {
        match clue {
            SymClue::Has(key) => _ = keys.get_mut(key).sets.remove(set),
            SymClue::Is(pair) => self.change_pair(pair, |uses| uses.sets.remove(set)),
        }
    }

    /// What it costs to have a selector wait for a label: the classes to look at now, and how many sets each class
    /// with the label has to look at. A little more for keys, so that values win while all is empty.
    pub(super) fn cost(&self, clue: &Clue<'_>, keys: &Keys, symbols: &Symbols) -> usize {
        match *clue {
            Clue::Has(key) => {
                keys.find(key).map_or(0, |key| {
                    let state = keys.get(key);
                    state.classes.len() + state.sets.len()
                }) + 1
            }
            Clue::Is(key, value) => {
                let pair = keys.find(key).zip(symbols.find(value)).map(|(key, value)| Pair { key, value });
                pair.and_then(|pair| self.by_pair.get(&pair)).map_or(0, |uses| uses.classes.len() + uses.sets.len())
            }
        }
    }

    /// True if any class has a hot label with this value.
    pub(super) fn any_has(&self, key: Key, value: &str, symbols: &Symbols) -> bool {
        let uses = symbols.find(value).and_then(|value| self.by_pair.get(&Pair { key, value }));
        uses.is_some_and(|uses| !uses.classes.is_empty())
    }

    /// The classes that have one of the clues, each once.
    pub(super) fn candidates(&self, clues: &Clues, keys: &Keys) -> Vec<u32> {
        let Clues::AnyOf(clues) = clues else {
            return self.slab.iter().map(|(class, _)| number_of(class)).collect();
        };
        let mut classes = Vec::new();
        for clue in clues {
            match clue {
                SymClue::Has(key) => classes.extend(keys.get(*key).classes.iter()),
                SymClue::Is(pair) => classes.extend(self.by_pair.get(pair).into_iter().flat_map(|u| u.classes.iter())),
            }
        }
        if clues.len() > 1 {
            classes.sort_unstable();
            classes.dedup();
        }
        classes
    }

    /// The sets that are filed under one of these labels, some perhaps twice.
    pub(super) fn filed(&self, labels: &[Pair], keys: &Keys) -> Vec<u32> {
        let mut sets = Vec::new();
        for pair in labels {
            sets.extend(keys.get(pair.key).sets.iter());
            sets.extend(self.by_pair.get(pair).into_iter().flat_map(|uses| uses.sets.iter()));
        }
        sets
    }

    pub(super) fn labels(&self, class: u32) -> &[Pair] {
        &self.slab[class as usize].labels
    }

    pub(super) fn matches(&self, class: u32) -> Matches {
        self.slab[class as usize].matches
    }

    /// Replaces the list of sets and returns the one before.
    pub(super) fn set_matches(&mut self, class: u32, matches: Matches) -> Matches {
        std::mem::replace(&mut self.slab[class as usize].matches, matches)
    }

    pub(super) fn first(&self, class: u32) -> Option<u32> {
        self.slab[class as usize].first
    }

    /// Replaces the first item and returns the one before.
    pub(super) fn set_first(&mut self, class: u32, item: Option<u32>) -> Option<u32> {
        std::mem::replace(&mut self.slab[class as usize].first, item)
    }

    /// How many classes there are, and how many labels they are filed under.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        (self.slab.len(), self.by_labels.len(), self.by_pair.len())
    }
}

/// Hot labels, for the evaluation of selectors that mention hot keys only.
pub(super) struct Hot<'a> {
    pub(super) labels: &'a [Pair],
    pub(super) keys: &'a Keys,
    pub(super) symbols: &'a Symbols,
}

impl Labels for Hot<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let found = self.labels.iter().find(|pair| self.keys.text(pair.key) == key)?;
        Some(self.symbols.text(found.value))
    }
}
