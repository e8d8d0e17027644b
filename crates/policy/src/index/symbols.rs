//! Interned texts: the values of hot labels.
//!
//! Counted, because values come and go (a container's id as a label) while the agent lives on.

use super::names::Names;

/// An interned text. Equal texts have equal symbols while any use of them lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Sym(u32);

#[derive(Default)]
pub(super) struct Symbols(Names<()>);

impl Symbols {
    /// The symbol of a text, with one more use.
    pub(super) fn acquire(&mut self, text: &str) -> Sym {
        Sym(self.0.acquire(text, || ()))
    }

    /// Gives a use back.
    pub(super) fn release(&mut self, sym: Sym) {
        self.0.release(sym.0);
    }

    /// The symbol of a text if it has one.
    pub(super) fn find(&self, text: &str) -> Option<Sym> {
        self.0.find(text).map(Sym)
    }

    /// The text of a symbol that is in use.
    pub(super) fn text(&self, sym: Sym) -> &str {
        self.0.text(sym.0)
    }

    /// How many texts are in use.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
