//! The selectors in use, each with the classes that it matches and what its set looked like at the last flush.

use std::collections::{BTreeMap, BTreeSet};

use calico_selector::Selector;
use ipnet::IpNet;

use super::{
    PortFilter,
    arena::{Arena, number_of},
    clues::Clues,
    hashing::HashMap,
    id_set::IdSet,
    items::Port,
};
use crate::instruction::{PortMember, SetId};

pub(super) struct SetState {
    pub(super) id: SetId,
    pub(super) selector: Selector,
    /// For sets of ports: which.
    pub(super) filter: Option<Filter>,
    pub(super) uses: u32,
    pub(super) classes: IdSet,
    /// The dataplane has the set.
    pub(super) sent: bool,
    /// Members that may have come or gone since the last flush, and whether they were members then.
    pub(super) touched: BTreeMap<Member, bool>,
    pub(super) clues: Clues,
    /// The texts under which it was asked for.
    texts: Vec<Box<str>>,
}

/// A member of a set of either sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Member {
    Net(IpNet),
    Port(PortMember),
}

/// A [`PortFilter`] that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Filter {
    name: Box<str>,
    protocol: Option<u8>,
}

impl Filter {
    pub(super) fn passes(&self, port: &Port) -> bool {
        port.name == self.name && self.protocol.is_none_or(|protocol| protocol == port.protocol)
    }

    fn is(&self, filter: &PortFilter<'_>) -> bool {
        *self.name == *filter.name && self.protocol == filter.protocol
    }
}

impl From<PortFilter<'_>> for Filter {
    fn from(filter: PortFilter<'_>) -> Self {
        Self { name: filter.name.into(), protocol: filter.protocol }
    }
}

#[derive(Default)]
pub(super) struct Sets {
    slab: Arena<SetState>,
    by_id: HashMap<SetId, u32>,
    /// The sets that were asked for under a text, so that no text is parsed twice.
    by_text: HashMap<Box<str>, Vec<u32>>,
    /// Sets to look at for every class.
    pub(super) unbounded: BTreeSet<u32>,
    dirty: BTreeSet<u32>,
}

impl Sets {
    /// A set that was asked for in these words before.
    pub(super) fn find_text(&self, text: &str, filter: Option<&PortFilter<'_>>) -> Option<u32> {
        let same = |set: &&u32| match (&self.get(**set).filter, filter) {
            (None, None) => true,
            (Some(filter), Some(wanted)) => filter.is(wanted),
            _ => false,
        };
        self.by_text.get(text)?.iter().find(same).copied()
    }

    pub(super) fn find(&self, id: &SetId) -> Option<u32> {
        self.by_id.get(id).copied()
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn get(&self, set: u32) -> &SetState {
        &self.slab[set as usize]
    }

    pub(super) fn get_mut(&mut self, set: u32) -> &mut SetState {
        &mut self.slab[set as usize]
    }

    /// Adds a set without uses; the caller fills in its classes and files it under its clues.
    pub(super) fn insert(&mut self, id: SetId, selector: Selector, filter: Option<Filter>, clues: Clues) -> u32 {
        let set = number_of(self.slab.vacant_key());
        if matches!(clues, Clues::Everything) {
            self.unbounded.insert(set);
        }
        self.by_id.insert(id.clone(), set);
        self.slab.insert(SetState {
            id,
            selector,
            filter,
            uses: 0,
            classes: IdSet::default(),
            sent: false,
            touched: BTreeMap::new(),
            clues,
            texts: Vec::new(),
        });
        self.dirty.insert(set);
        set
    }

    /// Notes one more text for a set.
    pub(super) fn name(&mut self, set: u32, text: &str) {
        self.by_text.entry(text.into()).or_default().push(set);
        self.slab[set as usize].texts.push(text.into());
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

    /// Removes a set that is filed nowhere any more and returns what it was.
    pub(super) fn remove(&mut self, set: u32) -> SetState {
        let state = self.slab.remove(set as usize);
        self.by_id.remove(&state.id);
        self.unbounded.remove(&set);
        for text in &state.texts {
            if let Some(sets) = self.by_text.get_mut(text) {
                sets.retain(|&other| other != set);
                if sets.is_empty() {
                    self.by_text.remove(text);
                }
            }
        }
        state
    }

    /// Notes whether something was a member before a change that may move it.
    pub(super) fn touch(&mut self, set: u32, member: Member, is_in: bool) {
        self.slab[set as usize].touched.insert(member, is_in);
        self.dirty.insert(set);
    }

    /// The sets with changes, in the order of their names.
    pub(super) fn take_dirty(&mut self) -> Vec<u32> {
        let mut dirty: Vec<u32> = std::mem::take(&mut self.dirty).into_iter().collect();
        dirty.sort_by(|a, b| self.get(*a).id.cmp(&self.get(*b).id));
        dirty
    }

    /// How many sets there are, and how many entries lead to them.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        (self.slab.len(), self.by_id.len(), self.by_text.len() + self.unbounded.len())
    }
}
