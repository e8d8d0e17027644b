//! Label keys: who has them and which selectors ask for them.
//!
//! A key is *hot* while selectors mention it. Only hot labels tell classes apart; of cold ones it is known who has
//! them, so that a key that becomes hot costs only what has it.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::{
    arena::{Arena, number_of},
    id_set::IdSet,
};

/// A label key that something has or mentions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(pub(super) u32);

pub(super) struct KeyState {
    text: Box<str>,
    uses: u32,
    /// Told apart by classes. Outlives the last selector as long as it splits few classes.
    pub(super) hot: bool,
    /// Sets whose selectors mention the key, each as often as it does.
    pub(super) mentions: u32,
    /// Items that have the key themselves.
    pub(super) items: IdSet,
    /// Parents that give it.
    pub(super) parents: IdSet,
    /// Classes with the key, while it is hot.
    pub(super) classes: IdSet,
    /// Sets to look at for a class that has the key, whatever the value.
    pub(super) sets: IdSet,
}

#[derive(Default)]
pub(super) struct Keys {
    slab: Arena<KeyState>,
    by_text: HashTable<u32>,
    hasher: RandomState,
}

impl Keys {
    /// The key of a text, with one more use.
    pub(super) fn acquire(&mut self, text: &str) -> Key {
        let hash = self.hasher.hash_one(text);
        if let Some(&number) = self.by_text.find(hash, |&number| *self.slab[number as usize].text == *text) {
            self.slab[number as usize].uses += 1;
            return Key(number);
        }
        let number = number_of(self.slab.insert(KeyState {
            text: text.into(),
            uses: 1,
            hot: false,
            mentions: 0,
            items: IdSet::default(),
            parents: IdSet::default(),
            classes: IdSet::default(),
            sets: IdSet::default(),
        }));
        let rehash = |&number: &u32| self.hasher.hash_one(&*self.slab[number as usize].text);
        self.by_text.insert_unique(hash, number, rehash);
        Key(number)
    }

    /// One more use of a key that is in use.
    pub(super) fn share(&mut self, key: Key) {
        self.slab[key.0 as usize].uses += 1;
    }

    /// Gives a use back.
    pub(super) fn release(&mut self, key: Key) {
        let state = &mut self.slab[key.0 as usize];
        state.uses -= 1;
        if state.uses > 0 {
            return;
        }
        let hash = self.hasher.hash_one(&*state.text);
        if let Ok(found) = self.by_text.find_entry(hash, |&number| number == key.0) {
            found.remove();
        }
        self.slab.remove(key.0 as usize);
    }

    pub(super) fn find(&self, text: &str) -> Option<Key> {
        let hash = self.hasher.hash_one(text);
        self.by_text.find(hash, |&number| *self.slab[number as usize].text == *text).copied().map(Key)
    }

    pub(super) fn get(&self, key: Key) -> &KeyState {
        &self.slab[key.0 as usize]
    }

    pub(super) fn get_mut(&mut self, key: Key) -> &mut KeyState {
        &mut self.slab[key.0 as usize]
    }

    pub(super) fn text(&self, key: Key) -> &str {
        &self.slab[key.0 as usize].text
    }

    /// How many keys are in use.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }
}
