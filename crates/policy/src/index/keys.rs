//! Label keys: who has them and which selectors ask for them.
//!
//! A key is *hot* while selectors mention it. Only hot labels tell classes apart; of cold ones it is known who has
//! them, so that a key that becomes hot costs only what has it. Of a hot key only the values that selectors compare
//! with are told apart, unless one looks at parts of the value: all others count as one, [`OTHER`].

use std::hash::BuildHasher;

use hashbrown::HashTable;

use super::{
    hashing::{HashMap, Hashing, ShortHash},
    id_set::IdSet,
    names::Names,
};

/// Stands in a class for every value that no selector compares with. No selector can: the language has no escapes, so
/// nothing in it has quotes of both sorts.
pub(super) const OTHER: &str = "'\"";

/// A label key that something has or mentions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(pub(super) u32);

#[derive(Default)]
pub(super) struct KeyState {
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
    hash: ShortHash,
    /// The holder's number twice, and one more for a parent.
    holder: u32,
}

impl Holding {
    fn holder(self) -> Holder {
        if self.holder & 1 == 0 { Holder::Item(self.holder / 2) } else { Holder::Parent(self.holder / 2) }
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
        self.asked = HashMap::default();
        self.holders = HashTable::new();
    }
}

#[derive(Default)]
pub(super) struct Keys {
    names: Names<KeyState>,
    /// Reused by [`Packed`](super::packed::Packed), which asks for keys while it writes.
    pub(super) buffer: Vec<u8>,
    /// For the hashes of values.
    hasher: Hashing,
}

impl Keys {
    /// The key of a text, with one more use.
    pub(super) fn acquire(&mut self, text: &str) -> Key {
        Key(self.names.acquire(text, KeyState::default))
    }

    /// One more use of a key that is in use.
    pub(super) fn share(&mut self, key: Key) {
        self.names.share(key.0);
    }

    /// Gives a use back.
    pub(super) fn release(&mut self, key: Key) {
        self.names.release(key.0);
    }

    pub(super) fn find(&self, text: &str) -> Option<Key> {
        self.names.find(text).map(Key)
    }

    pub(super) fn get(&self, key: Key) -> &KeyState {
        self.names.get(key.0)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> &mut KeyState {
        self.names.get_mut(key.0)
    }

    /// Notes who has a value of a key that selectors compare with values.
    pub(super) fn hold(&mut self, key: Key, value: &str, holder: Holder) {
        let holding = self.holding(value, holder);
        let state = self.names.get_mut(key.0);
        state.holders.insert_unique(holding.hash.spread(), holding, |held| held.hash.spread());
    }

    /// Undoes [`hold`](Self::hold).
    pub(super) fn let_go(&mut self, key: Key, value: &str, holder: Holder) {
        let holding = self.holding(value, holder);
        let state = self.names.get_mut(key.0);
        if let Ok(found) = state.holders.find_entry(holding.hash.spread(), |held| *held == holding) {
            found.remove();
        }
    }

    /// Who has a value of such a key, and perhaps a few others.
    pub(super) fn holders(&self, key: Key, value: &str) -> Vec<Holder> {
        let wanted = self.holding(value, Holder::Item(0));
        let held = self.names.get(key.0).holders.iter_hash(wanted.hash.spread());
        held.filter(|held| held.hash == wanted.hash).map(|held| held.holder()).collect()
    }

    fn holding(&self, value: &str, holder: Holder) -> Holding {
        let holder = match holder {
            Holder::Item(number) => number * 2,
            Holder::Parent(number) => number * 2 + 1,
        };
        Holding { hash: ShortHash::of(self.hasher.hash_one(value)), holder }
    }

    pub(super) fn text(&self, key: Key) -> &str {
        self.names.text(key.0)
    }

    /// How many keys are in use.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }
}
