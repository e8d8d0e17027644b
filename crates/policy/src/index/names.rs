//! Things that are found by a text, counted, and known by a number meanwhile.

use std::hash::BuildHasher;

use hashbrown::HashTable;

use super::{
    arena::{Arena, number_of},
    hashing::Hashing,
};

struct Entry<T> {
    text: Box<str>,
    uses: u32,
    value: T,
}

/// Values by text. One that nobody uses any more is forgotten; equal texts have one number until then.
pub(super) struct Names<T> {
    entries: Arena<Entry<T>>,
    by_text: HashTable<u32>,
    hasher: Hashing,
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { entries: Arena::default(), by_text: HashTable::new(), hasher: Hashing::default() }
    }
}

impl<T> Names<T> {
    /// The number of a text, with one more use; a new one has the value that is made for it.
    pub(super) fn acquire(&mut self, text: &str, make: impl FnOnce() -> T) -> u32 {
        let hash = self.hasher.hash_one(text);
        if let Some(&number) = self.by_text.find(hash, |&number| *self.entries[number as usize].text == *text) {
            self.share(number);
            return number;
        }
        let number = number_of(self.entries.insert(Entry { text: text.into(), uses: 1, value: make() }));
        let rehash = |&number: &u32| self.hasher.hash_one(&*self.entries[number as usize].text);
        self.by_text.insert_unique(hash, number, rehash);
        number
    }

    /// One more use of a number that is in use.
    pub(super) fn share(&mut self, number: u32) {
        self.entries[number as usize].uses += 1;
    }

    /// Gives a use back.
    pub(super) fn release(&mut self, number: u32) {
        let entry = &mut self.entries[number as usize];
        entry.uses -= 1;
        if entry.uses > 0 {
            return;
        }
        let hash = self.hasher.hash_one(&*entry.text);
        if let Ok(found) = self.by_text.find_entry(hash, |&other| other == number) {
            found.remove();
        }
        self.entries.remove(number as usize);
    }

    /// The number of a text that is in use.
    pub(super) fn find(&self, text: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(text);
        self.by_text.find(hash, |&number| *self.entries[number as usize].text == *text).copied()
    }

    /// The text of a number that is in use.
    pub(super) fn text(&self, number: u32) -> &str {
        &self.entries[number as usize].text
    }

    pub(super) fn get(&self, number: u32) -> &T {
        &self.entries[number as usize].value
    }

    pub(super) fn get_mut(&mut self, number: u32) -> &mut T {
        &mut self.entries[number as usize].value
    }

    /// How many texts are in use.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
