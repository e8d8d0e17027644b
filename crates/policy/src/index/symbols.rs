//! Interned texts: the values of hot labels.
//!
//! Counted, because values come and go (a container's id as a label) while the agent lives on.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::arena::{Arena, number_of};

/// An interned text. Equal texts have equal symbols while any use of them lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Sym(u32);

struct Entry {
    text: Box<str>,
    uses: u32,
}

#[derive(Default)]
pub(super) struct Symbols {
    entries: Arena<Entry>,
    by_text: HashTable<u32>,
    hasher: RandomState,
}

impl Symbols {
    /// The symbol of a text, with one more use.
    pub(super) fn acquire(&mut self, text: &str) -> Sym {
        let hash = self.hasher.hash_one(text);
        if let Some(&number) = self.by_text.find(hash, |&number| *self.entries[number as usize].text == *text) {
            self.entries[number as usize].uses += 1;
            return Sym(number);
        }
        let number = number_of(self.entries.insert(Entry { text: text.into(), uses: 1 }));
        let rehash = |&number: &u32| self.hasher.hash_one(&*self.entries[number as usize].text);
        self.by_text.insert_unique(hash, number, rehash);
        Sym(number)
    }

    /// Gives a use back.
    pub(super) fn release(&mut self, sym: Sym) {
        let entry = &mut self.entries[sym.0 as usize];
        entry.uses -= 1;
        if entry.uses > 0 {
            return;
        }
        let hash = self.hasher.hash_one(&*entry.text);
        if let Ok(found) = self.by_text.find_entry(hash, |&number| number == sym.0) {
            found.remove();
        }
        self.entries.remove(sym.0 as usize);
    }

    /// The symbol of a text if it has one.
    pub(super) fn find(&self, text: &str) -> Option<Sym> {
        let hash = self.hasher.hash_one(text);
        self.by_text.find(hash, |&number| *self.entries[number as usize].text == *text).copied().map(Sym)
    }

    /// The text of a symbol that is in use.
    pub(super) fn text(&self, sym: Sym) -> &str {
        &self.entries[sym.0 as usize].text
    }

    /// How many texts are in use.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
