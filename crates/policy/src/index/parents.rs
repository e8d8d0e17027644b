//! What items inherit labels from: profiles, by name. One is used each time that an item names it, and once for its
//! labels.

use super::{id_set::IdSet, names::Names, packed::Packed};

#[derive(Default)]
pub(super) struct Parent {
    pub(super) labels: Packed,
    /// Items that name it.
    pub(super) items: IdSet,
}

#[derive(Default)]
pub(super) struct ParentTable(Names<Parent>);

impl ParentTable {
    /// The parent of a name, with one more use; without labels if it is new.
    pub(super) fn acquire(&mut self, name: &str) -> u32 {
        self.0.acquire(name, Parent::default)
    }

    /// The labels of a parent, if there is one of this name.
    pub(super) fn labels(&self, name: &str) -> Option<&Packed> {
        Some(&self.0.get(self.0.find(name)?).labels)
    }

    /// Gives a use back.
    pub(super) fn release(&mut self, parent: u32) {
        self.0.release(parent);
    }

    pub(super) fn get(&self, parent: u32) -> &Parent {
        self.0.get(parent)
    }

    pub(super) fn get_mut(&mut self, parent: u32) -> &mut Parent {
        self.0.get_mut(parent)
    }

    /// How many parents there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
