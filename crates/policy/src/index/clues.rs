//! Covers of selectors in interned form.

use calico_selector::{Clue, Cover};

use super::{
    keys::{Key, Keys},
    symbols::{Sym, Symbols},
};

/// A label whose key is hot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pair {
    pub(super) key: Key,
    pub(super) value: Sym,
}

/// A label that a match has: with this value, or with any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum SymClue {
    Has(Key),
    Is(Pair),
}

/// A selector's cover. Holds a use of each of its keys and values until [`release`](Self::release).
#[derive(Debug)]
pub(super) enum Clues {
    Everything,
    AnyOf(Box<[SymClue]>),
}

impl Clues {
    pub(super) fn intern(cover: &Cover<'_>, keys: &mut Keys, symbols: &mut Symbols) -> Self {
        let Cover::AnyOf(clues) = cover else { return Self::Everything };
        let intern = |clue: &Clue<'_>| match *clue {
            Clue::Has(key) => SymClue::Has(keys.acquire(key)),
            Clue::Is(key, value) => SymClue::Is(Pair { key: keys.acquire(key), value: symbols.acquire(value) }),
        };
        Self::AnyOf(clues.iter().map(intern).collect())
    }

    pub(super) fn release(&self, keys: &mut Keys, symbols: &mut Symbols) {
        let Self::AnyOf(clues) = self else { return };
        for clue in clues {
            match *clue {
                SymClue::Has(key) => keys.release(key),
                SymClue::Is(Pair { key, value }) => {
                    keys.release(key);
                    symbols.release(value);
                }
            }
        }
    }
}
