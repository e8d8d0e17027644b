//! Label keys: who has them and which selectors ask for them.
//!
//! A key is *hot* while selectors mention it. Only hot labels tell classes apart; of cold ones it is known who has
//! them, so that a key that becomes hot costs only what has it. Of a hot key only the values that selectors compare
//! with are told apart, unless one looks at parts of the value: all others count as one, [`OTHER`].

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

use hashbrown::HashTable;

use super::{
    arena::{Arena, number_of},
    id_set::IdSet,
};

/// Stands in a class for every value that no selector compares with. No selector can: the language has no escapes, so
/// nothing in it has quotes of both sorts.
pub(super) const OTHER: &str = "'\"";

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
    /// All values are told apart. Outlives [`texts`](Self::texts) as `hot` does `mentions`.
    pub(super) all_values: bool,
    /// Sets whose selectors look at parts of the value, each as often as it does.
    pub(super) texts: u32,
    /// Values that are told apart, and how often selectors compare with them. Some outlive their last selector.
    pub(super) asked: HashMap<Box<str>, u32>,
    /// Some value is or was among those: it is known who has which, so that one more costs what has it.
    pub(super) compared: bool,
    holders: HashTable<Holding>,
    /// Items that have the key themselves.
    pub(super) items: IdSet,
    /// Parents that give it.
    pub(super) parents: IdSet,
    /// Classes with the key, while it is hot.
    pub(super) classes: IdSet,
    /// Sets to look at for a class that has the key, whatever the value.
    pub(super) sets: IdSet,
}

/// Something that has the label itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Item(u32),
    Parent(u32),
}

/// A holder by the hash of its value.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Holding {
    hash: u32,
    /// The holder's number twice, and one more for a parent.
    holder: u32,
}

impl Holding {
    fn holder(self) -> Holder {
        if self.holder & 1 == 0 { Holder::Item(self.holder / 2) } else { Holder::Parent(self.holder / 2) }
    }

    fn spread(self) -> u64 {
        u64::from(self.hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

impl KeyState {
    /// The value as classes have it.
    pub(super) fn told_apart<'a>(&self, value: &'a str) -> &'a str {
        if self.all_values || self.asked.contains_key(value) { value } else { OTHER }
    }

    /// Makes the key cold.
    pub(super) fn cool(&mut self) {
        (self.hot, self.all_values, self.compared) = (false, false, false);
        self.asked = HashMap::new();
        self.holders = HashTable::new();
    }
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
            all_values: false,
            texts: 0,
            asked: HashMap::new(),
            compared: false,
            holders: HashTable::new(),
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

    /// Notes who has a value of a key that selectors compare with values.
    pub(super) fn hold(&mut self, key: Key, value: &str, holder: Holder) {
        let holding = self.holding(value, holder);
        let state = &mut self.slab[key.0 as usize];
        state.holders.insert_unique(holding.spread(), holding, |held| held.spread());
    }

    /// Undoes [`hold`](Self::hold).
    pub(super) fn let_go(&mut self, key: Key, value: &str, holder: Holder) {
        let holding = self.holding(value, holder);
        let state = &mut self.slab[key.0 as usize];
        if let Ok(found) = state.holders.find_entry(holding.spread(), |held| *held == holding) {
            found.remove();
        }
    }

    /// Who has a value of such a key, and perhaps a few others.
    pub(super) fn holders(&self, key: Key, value: &str) -> Vec<Holder> {
        let wanted = self.holding(value, Holder::Item(0));
        let held = self.slab[key.0 as usize].holders.iter_hash(wanted.spread());
        held.filter(|held| held.hash == wanted.hash).map(|held| held.holder()).collect()
    }

    fn holding(&self, value: &str, holder: Holder) -> Holding {
        let holder = match holder {
            Holder::Item(number) => number * 2,
            Holder::Parent(number) => number * 2 + 1,
        };
        Holding { hash: self.hasher.hash_one(value) as u32, holder }
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
