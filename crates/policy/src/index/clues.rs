//! Covers of selectors in interned form.

use calico_selector::{Clue, Cover};

use super::symbols::{Sym, Symbols};

/// A label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pair {
    pub(super) key: Sym,
    pub(super) value: Sym,
}

/// A label that a match has: with this value, or with any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SymClue {
    pub(super) key: Sym,
    pub(super) value: Option<Sym>,
}

/// A selector's cover. Holds a use of each of its symbols until [`release`](Self::release).
#[derive(Debug)]
pub(super) enum Clues {
    Everything,
    AnyOf(Box<[SymClue]>),
}

impl Clues {
    pub(super) fn intern(cover: &Cover<'_>, symbols: &mut Symbols) -> Self {
        let Cover::AnyOf(clues) = cover else { return Self::Everything };
        let intern = |clue: &Clue<'_>| match *clue {
            Clue::Has(key) => SymClue { key: symbols.acquire(key), value: None },
            Clue::Is(key, value) => SymClue { key: symbols.acquire(key), value: Some(symbols.acquire(value)) },
        };
        Self::AnyOf(clues.iter().map(intern).collect())
    }

    pub(super) fn release(&self, symbols: &mut Symbols) {
        let Self::AnyOf(clues) = self else { return };
        for clue in clues {
            symbols.release(clue.key);
            if let Some(value) = clue.value {
                symbols.release(value);
            }
        }
    }
}
