//! The selectors in use, each with the classes that it matches and what its set looked like at the last flush.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use calico_selector::Selector;
use ipnet::IpNet;
use slab::Slab;

use super::{
    clues::{Clues, Pair, SymClue},
    symbols::{Symbols, number_of},
};
use crate::instruction::SetId;

pub(super) struct SetState {
    pub(super) id: SetId,
    pub(super) selector: Selector,
    pub(super) uses: u32,
    pub(super) classes: BTreeSet<u32>,
    /// The dataplane has the set.
    pub(super) sent: bool,
    /// Addresses that may have come or gone since the last flush, and whether they were members then.
    pub(super) touched: BTreeMap<IpNet, bool>,
    clues: Clues,
}

#[derive(Default)]
pub(super) struct Sets {
    slab: Slab<SetState>,
    by_id: HashMap<SetId, u32>,
    /// Sets to look at for a class that has the label.
    by_clue: HashMap<SymClue, Vec<u32>>,
    /// Sets to look at for every class.
    unbounded: BTreeSet<u32>,
    dirty: BTreeSet<u32>,
}

impl Sets {
    pub(super) fn find(&self, id: &SetId) -> Option<u32> {
        self.by_id.get(id).copied()
    }

    pub(super) fn get(&self, set: u32) -> &SetState {
        &self.slab[set as usize]
    }

    pub(super) fn get_mut(&mut self, set: u32) -> &mut SetState {
        &mut self.slab[set as usize]
    }

    /// Adds a set with one use; the caller fills in its classes.
    pub(super) fn insert(&mut self, id: SetId, selector: Selector, clues: Clues) -> u32 {
        let set = number_of(self.slab.vacant_key());
        match &clues {
            Clues::Everything => {
                self.unbounded.insert(set);
            }
            Clues::AnyOf(clues) => {
                for clue in clues {
                    self.by_clue.entry(*clue).or_default().push(set);
                }
            }
        }
        self.by_id.insert(id.clone(), set);
        self.slab.insert(SetState {
            id,
            selector,
            uses: 1,
            classes: BTreeSet::new(),
            sent: false,
            touched: BTreeMap::new(),
            clues,
        });
        self.dirty.insert(set);
        set
    }

    pub(super) fn acquire(&mut self, set: u32) {
        self.slab[set as usize].uses += 1;
    }

    pub(super) fn release(&mut self, set: u32) {
        let state = &mut self.slab[set as usize];
        state.uses -= 1;
        if state.uses == 0 {
            self.dirty.insert(set);
        }
    }

    /// Removes a set and returns the classes that it matched.
    pub(super) fn remove(&mut self, set: u32, symbols: &mut Symbols) -> BTreeSet<u32> {
        let state = self.slab.remove(set as usize);
        self.by_id.remove(&state.id);
        match &state.clues {
            Clues::Everything => {
                self.unbounded.remove(&set);
            }
            Clues::AnyOf(clues) => {
                for clue in clues {
                    self.forget_clue(*clue, set);
                }
            }
        }
        state.clues.release(symbols);
        state.classes
    }

    fn forget_clue(&mut self, clue: SymClue, set: u32) {
        if let Some(sets) = self.by_clue.get_mut(&clue) {
            sets.retain(|&other| other != set);
            if sets.is_empty() {
                self.by_clue.remove(&clue);
            }
        }
    }

    /// The sets whose selectors may match a class with these labels, each once.
    pub(super) fn candidates(&self, labels: impl Iterator<Item = Pair>) -> Vec<u32> {
        let mut sets: Vec<u32> = self.unbounded.iter().copied().collect();
        for Pair { key, value } in labels {
            for clue in [SymClue { key, value: None }, SymClue { key, value: Some(value) }] {
                sets.extend(self.by_clue.get(&clue).into_iter().flatten());
            }
        }
        sets.sort_unstable();
        sets.dedup();
        sets
    }

    /// Notes whether an address was a member before a change that may move it.
    pub(super) fn touch(&mut self, set: u32, net: IpNet, is_in: bool) {
        self.slab[set as usize].touched.insert(net, is_in);
        self.dirty.insert(set);
    }

    /// How many sets there are, and how many entries lead to them.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        (self.slab.len(), self.by_id.len(), self.by_clue.len() + self.unbounded.len())
    }

    /// The sets with changes, in the order of their names.
    pub(super) fn take_dirty(&mut self) -> Vec<u32> {
        let mut dirty: Vec<u32> = std::mem::take(&mut self.dirty).into_iter().collect();
        dirty.sort_by(|a, b| self.get(*a).id.cmp(&self.get(*b).id));
        dirty
    }
}
