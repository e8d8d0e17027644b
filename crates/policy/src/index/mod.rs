//! Which labelled items each selector selects, kept up to date change by change, and the address sets that follow.
//!
//! Upstream evaluates selectors per endpoint. Here items with the same own labels and the same profiles form one
//! *class*: selectors are matched against classes, and an item that moves between known classes costs two look-ups.
//! Which selectors could match a class, and which classes a selector, is found by the labels that a match must have
//! ([`Cover`](calico_selector::Cover)); nothing ever scans all items or all selectors, except for selectors that
//! any label set may match (`!has(a)`, `all()`).
//!
//! Members of sets are not stored: an address is in a set while any item that has the address is of a class that
//! the selector matches. What changed since the last [`flush`](Index::flush) is found by noting, the first time a
//! change may affect an address's place in a set, whether it was in the set before.
//!
//! Invariants:
//! - a class has at least one item, except while one is moved into it;
//! - `class.matches` holds a set's number exactly if `set.classes` holds the class's;
//! - every change of an address's place in a set that was sent before is preceded by [`Index::touch`].

mod classes;
mod clues;
mod items;
mod sets;
mod symbols;

use std::collections::{BTreeMap, BTreeSet};

use calico_selector::Selector;
use ipnet::IpNet;

use self::{
    classes::{Classes, Matches},
    clues::Clues,
    items::{Items, Place},
    sets::Sets,
    symbols::Symbols,
};
use crate::instruction::{Instruction, Members, SetId};

/// A set in use; given back by [`Index::release`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SetHandle(u32);

/// What a flush asks of the dataplane.
#[derive(Debug, Default)]
pub(crate) struct SetChanges {
    /// New sets and changed members, to be done before anything uses them.
    pub(crate) updates: Vec<Instruction>,
    /// Sets that nothing uses any more, to be removed after what used them.
    pub(crate) removals: Vec<Instruction>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Index {
    symbols: Symbols,
    classes: Classes,
    items: Items,
    sets: Sets,
}

impl Index {
    /// Creates or replaces an item. `key` is any text that names it. Of repeated label keys the last counts.
    pub(crate) fn put<'a>(
        &mut self,
        key: &str,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        parents: &[String],
        nets: &[IpNet],
    ) {
        let labels: BTreeMap<&str, &str> = labels.into_iter().collect();
        let nets: BTreeSet<IpNet> = nets.iter().copied().collect();
        let nets: Box<[IpNet]> = nets.into_iter().collect();
        let to = self.class(&labels, parents);
        let after = self.classes.matches(to).clone();
        let Some(item) = self.items.find(key) else {
            self.touch(&after, &nets);
            let item = self.items.insert(key, nets);
            self.enter_class(item, to);
            return;
        };
        let from = self.items.place(item).class;
        if from == to && *self.items.nets(item) == *nets {
            return;
        }
        let before = self.classes.matches(from).clone();
        let old: Box<[IpNet]> = self.items.nets(item).into();
        let changed: Vec<IpNet> = difference(&old, &nets).chain(difference(&nets, &old)).collect();
        self.touch(&before.without(&after), &old);
        self.touch(&after.without(&before), &nets);
        self.touch(&before.and(&after), &changed);
        self.items.replace_nets(item, nets);
        if from != to {
            self.leave_class(item);
            self.enter_class(item, to);
        }
    }

    /// Removes an item, if it is there.
    pub(crate) fn remove(&mut self, key: &str) {
        let Some(item) = self.items.find(key) else { return };
        let nets: Box<[IpNet]> = self.items.nets(item).into();
        let before = self.classes.matches(self.items.place(item).class).clone();
        self.touch(&before, &nets);
        self.leave_class(item);
        self.items.remove(item);
    }

    /// Sets the labels that items inherit from a parent (a profile) of this name; none if there is no such parent.
    pub(crate) fn set_parent_labels(&mut self, name: &str, labels: &BTreeMap<String, String>) {
        for class in self.classes.set_parent_labels(name, labels, &mut self.symbols) {
            self.classes.inherit(class, &mut self.symbols);
            let before = self.classes.matches(class).clone();
            let after = self.evaluate(class);
            let (gone, new) = (before.without(&after), after.without(&before));
            for at in 0..self.classes.members(class).len() {
                let nets: Box<[IpNet]> = self.items.nets(self.classes.members(class)[at]).into();
                self.touch(&gone, &nets);
                self.touch(&new, &nets);
            }
            for set in gone.iter() {
                self.sets.get_mut(set).classes.remove(&class);
            }
            for set in new.iter() {
                self.sets.get_mut(set).classes.insert(class);
            }
            self.classes.set_matches(class, after);
        }
    }

    /// Uses the set of what `selector` selects, which exists from the next flush on.
    pub(crate) fn acquire(&mut self, selector: &Selector) -> SetHandle {
        let id = SetId(selector.unique_id());
        if let Some(set) = self.sets.find(&id) {
            self.sets.acquire(set);
            return SetHandle(set);
        }
        let cover = selector.cover(|clue| self.classes.cost(clue, &self.symbols));
        let clues = Clues::intern(&cover, &mut self.symbols);
        let candidates = self.classes.candidates(&clues).into_iter();
        let matching: BTreeSet<u32> =
            candidates.filter(|&class| selector.matches(&self.classes.labels(class, &self.symbols))).collect();
        let set = self.sets.insert(id, selector.clone(), clues);
        for &class in &matching {
            self.classes.add_match(class, set);
        }
        self.sets.get_mut(set).classes = matching;
        SetHandle(set)
    }

    /// Gives a use back. The set goes at the next flush unless it is acquired again before.
    pub(crate) fn release(&mut self, handle: SetHandle) {
        self.sets.release(handle.0);
    }

    /// What changed since the last flush, in the order of the sets' names.
    pub(crate) fn flush(&mut self) -> SetChanges {
        let mut changes = SetChanges::default();
        for set in self.sets.take_dirty() {
            let state = self.sets.get_mut(set);
            let id = state.id.clone();
            if state.uses == 0 {
                if state.sent {
                    changes.removals.push(Instruction::SetRemove { id });
                }
                self.drop_set(set);
            } else if state.sent {
                let touched = std::mem::take(&mut state.touched);
                changes.updates.extend(self.delta(set, id, touched));
            } else {
                state.sent = true;
                let members = self.members(set);
                changes.updates.push(Instruction::SetReplace { id, members });
            }
        }
        changes
    }

    fn delta(&self, set: u32, id: SetId, touched: BTreeMap<IpNet, bool>) -> Option<Instruction> {
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for (net, was_in) in touched {
            match (was_in, self.contains(set, &net)) {
                (false, true) => added.push(net),
                (true, false) => removed.push(net),
                _ => {}
            }
        }
        let (added, removed) = (Members::Nets(added), Members::Nets(removed));
        (!added.is_empty() || !removed.is_empty()).then_some(Instruction::SetDelta { id, added, removed })
    }

    fn members(&self, set: u32) -> Members {
        let items = self.sets.get(set).classes.iter().flat_map(|&class| self.classes.members(class));
        items.flat_map(|&item| self.items.nets(item)).copied().collect()
    }

    fn drop_set(&mut self, set: u32) {
        for class in self.sets.remove(set, &mut self.symbols) {
            self.classes.remove_match(class, set);
        }
    }

    /// The class of these labels and parents, made if need be.
    fn class(&mut self, labels: &BTreeMap<&str, &str>, parents: &[String]) -> u32 {
        let (class, new) = self.classes.intern(labels, parents, &mut self.symbols);
        if new {
            let matches = self.evaluate(class);
            for set in matches.iter() {
                self.sets.get_mut(set).classes.insert(class);
            }
            self.classes.set_matches(class, matches);
        }
        class
    }

    /// The sets whose selectors match a class's labels as they are now.
    fn evaluate(&self, class: u32) -> Matches {
        let labels = self.classes.labels(class, &self.symbols);
        let candidates = self.sets.candidates(self.classes.pairs(class));
        Matches::new(candidates.into_iter().filter(|&set| self.sets.get(set).selector.matches(&labels)).collect())
    }

    fn enter_class(&mut self, item: u32, class: u32) {
        let slot = self.classes.add_member(class, item);
        self.items.move_to(item, Place { class, slot });
    }

    /// Takes an item out of its class, and drops the class if that was its last.
    fn leave_class(&mut self, item: u32) {
        let place = self.items.place(item);
        if let Some(moved) = self.classes.remove_member(place.class, place.slot) {
            self.items.move_to(moved, place);
        }
        if self.classes.members(place.class).is_empty() {
            for set in self.classes.matches(place.class).iter() {
                self.sets.get_mut(set).classes.remove(&place.class);
            }
            self.classes.remove(place.class, &mut self.symbols);
        }
    }

    /// To be called before a change after which any of `nets` may be in one of `sets` or no longer.
    fn touch(&mut self, sets: &Matches, nets: &[IpNet]) {
        for set in sets.iter() {
            if !self.sets.get(set).sent {
                continue;
            }
            for net in nets {
                if !self.sets.get(set).touched.contains_key(net) {
                    let is_in = self.contains(set, net);
                    self.sets.touch(set, *net, is_in);
                }
            }
        }
    }

    fn contains(&self, set: u32, net: &IpNet) -> bool {
        self.items.holders(net).any(|item| self.classes.matches(self.items.place(item).class).contains(set))
    }
}

/// What of `these` is not in `those`; both sorted.
fn difference(these: &[IpNet], those: &[IpNet]) -> impl Iterator<Item = IpNet> {
    these.iter().filter(|net| those.binary_search(net).is_err()).copied()
}

#[cfg(test)]
mod tests;
