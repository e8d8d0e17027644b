//! Which policies' selectors select which endpoints of this host.
//!
//! The other way round than in [`Index`]: few endpoints and many selectors. Selectors are filed
//! under one label that a match must have ([`Cover`]), so an endpoint is tested against those only that its labels
//! lead to. Policies with one selector text share one entry.
//!
//! Invariant: `Item::matches` holds exactly the numbers of the selectors that match the item's effective labels, and
//! an item is noted in `changed` whenever that has changed since it was last asked for.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    hash::BuildHasher,
};

use calico_model::ResourceKey;
use calico_selector::{Clue, Cover, Layered, Selector, parse};
use hashbrown::HashTable;

use super::few::Few;
use crate::index::{Arena, HashMap, Hashing, Index, number_of};

/// Few labels, by key, in as much memory as they need.
type Labels = Box<[(Box<str>, Box<str>)]>;

/// An endpoint of this host.
struct Item {
    key: ResourceKey,
    own: Labels,
    parents: Box<[Box<str>]>,
    /// What the parents give it beyond its own labels.
    inherited: Labels,
    /// Numbers of selectors, ascending.
    matches: Vec<u32>,
}

impl Item {
    fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.own.iter().chain(&self.inherited).map(|(key, value)| (&**key, &**value))
    }
}

/// A selector in use.
struct Filed {
    text: Box<str>,
    /// Parsed when an endpoint is tested against it for the first time: most never are.
    selector: OnceCell<Box<Selector>>,
    /// Hashes of the labels that it is filed under; `None` for one that any endpoint may match.
    clues: Option<Few<u64>>,
    /// Numbers of the policies that have it.
    policies: Few<u32>,
}

impl Filed {
    fn matches(&self, item: &Item) -> bool {
        let selector = self.selector.get_or_init(|| Box::new(parsed(&self.text)));
        selector.matches(&Layered(&[&*item.own, &*item.inherited]))
    }
}

fn parsed(text: &str) -> Selector {
    parse(text).expect("policies are filed under selectors that parse")
}

#[derive(Default)]
pub(super) struct Reach {
    items: Arena<Item>,
    by_key: HashTable<u32>,
    /// Items by the hash of a label, with and without its value.
    by_label: HashMap<u64, BTreeSet<u32>>,
    /// Items by the parents that they name.
    by_parent: HashMap<Box<str>, BTreeSet<u32>>,
    selectors: Arena<Filed>,
    by_text: HashTable<u32>,
    /// Selectors by the hash of a label that each match has.
    by_clue: HashMap<u64, Few<u32>>,
    /// Selectors that any endpoint may match.
    unbounded: BTreeSet<u32>,
    /// Items whose matches may have changed.
    changed: BTreeSet<ResourceKey>,
    hasher: Hashing,
}

impl Reach {
    /// Creates or replaces an endpoint, with its labels in the order of their keys. `index` knows what its parents give it.
    pub(super) fn put(&mut self, key: &ResourceKey, own: &[(&str, &str)], parents: &[String], index: &Index) {
        let own: Labels = own.iter().map(|&(key, value)| (key.into(), value.into())).collect();
        let parents: Box<[Box<str>]> = parents.iter().map(|parent| parent.as_str().into()).collect();
        if let Some(number) = self.number(key) {
            let item = &self.items[number as usize];
            if item.own == own && item.parents == parents {
                return;
            }
            self.remove(key);
        }
        let number = number_of(self.items.vacant_key());
        for parent in &parents {
            self.by_parent.entry(parent.clone()).or_default().insert(number);
        }
        self.items.insert(Item { key: key.clone(), own, parents, inherited: Labels::default(), matches: Vec::new() });
        let rehash = |&item: &u32| self.hasher.hash_one(&self.items[item as usize].key);
        self.by_key.insert_unique(self.hasher.hash_one(key), number, rehash);
        self.label(number, index);
    }

    /// Removes an endpoint, if it is there.
    pub(super) fn remove(&mut self, key: &ResourceKey) {
        let same = |&number: &u32| self.items[number as usize].key == *key;
        let Ok(found) = self.by_key.find_entry(self.hasher.hash_one(key), same) else { return };
        let (number, _) = found.remove();
        self.unlabel(number);
        let item = self.items.remove(number as usize);
        for parent in &item.parents {
            if let Some(items) = self.by_parent.get_mut(parent) {
                items.remove(&number);
                if items.is_empty() {
                    self.by_parent.remove(parent);
                }
            }
        }
        self.changed.insert(item.key);
    }

    /// To be called when the labels that endpoints inherit from a profile may have changed.
    pub(super) fn relabel(&mut self, name: &str, index: &Index) {
        for item in self.by_parent.get(name).cloned().unwrap_or_default() {
            self.unlabel(item);
            self.label(item, index);
        }
    }

    /// Files a policy under its selector, which parses. Returns the selector's number.
    pub(super) fn file(&mut self, text: &str, policy: u32) -> u32 {
        let number = self.find(text).unwrap_or_else(|| self.add(text));
        let filed = &mut self.selectors[number as usize];
        filed.policies.push(policy);
        self.touch(number);
        number
    }

    /// Takes a policy away from its selector.
    pub(super) fn unfile(&mut self, selector: u32, policy: u32) {
        self.touch(selector);
        let filed = &mut self.selectors[selector as usize];
        filed.policies.remove(policy);
        if filed.policies.is_empty() {
            self.drop_selector(selector);
        }
    }

    /// True if a selector is that of this text.
    pub(super) fn is(&self, selector: u32, text: &str) -> bool {
        *self.selectors[selector as usize].text == *text
    }

    /// Notes all endpoints that name a profile as changed.
    pub(super) fn touch_parent(&mut self, name: &str) {
        for &item in self.by_parent.get(name).into_iter().flatten() {
            self.changed.insert(self.items[item as usize].key.clone());
        }
    }

    /// Notes all endpoints that a selector selects as changed.
    pub(super) fn touch(&mut self, selector: u32) {
        for item in self.candidates(selector) {
            let item = &self.items[item as usize];
            if item.matches.binary_search(&selector).is_ok() {
                self.changed.insert(item.key.clone());
            }
        }
    }

    /// The endpoints whose policies may have changed since this was asked before.
    pub(super) fn take_changed(&mut self) -> BTreeSet<ResourceKey> {
        std::mem::take(&mut self.changed)
    }

    /// The numbers of the selectors that select an endpoint, ascending.
    pub(super) fn matches(&self, key: &ResourceKey) -> &[u32] {
        self.number(key).map_or(&[], |item| &self.items[item as usize].matches)
    }

    fn number(&self, key: &ResourceKey) -> Option<u32> {
        let same = |&number: &u32| self.items[number as usize].key == *key;
        self.by_key.find(self.hasher.hash_one(key), same).copied()
    }

    /// The policies with a selector.
    pub(super) fn policies(&self, selector: u32) -> impl Iterator<Item = u32> {
        self.selectors[selector as usize].policies.iter()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.items.len() + self.selectors.len() + self.changed.len()
    }

    fn find(&self, text: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(text);
        self.by_text.find(hash, |&number| *self.selectors[number as usize].text == *text).copied()
    }

    fn add(&mut self, text: &str) -> u32 {
        let selector = parsed(text);
        let clues = match selector.cover(|clue| self.cost(clue)) {
            Cover::Everything => None,
            Cover::AnyOf(clues) => {
                let hashes: BTreeSet<u64> = clues.iter().map(|clue| self.hash(clue)).collect();
                Some(hashes.into_iter().collect::<Few<u64>>())
            }
        };
        let number = number_of(self.selectors.vacant_key());
        match &clues {
            None => drop(self.unbounded.insert(number)),
            Some(clues) => clues.iter().for_each(|clue| self.by_clue.entry(clue).or_default().push(number)),
        }
        let filed = Filed { text: text.into(), selector: OnceCell::new(), clues, policies: Few::default() };
        self.selectors.insert(filed);
        let hash = self.hasher.hash_one(text);
        let rehash = |&number: &u32| self.hasher.hash_one(&*self.selectors[number as usize].text);
        self.by_text.insert_unique(hash, number, rehash);
        for item in self.candidates(number) {
            let item = &mut self.items[item as usize];
            if self.selectors[number as usize].matches(item)
                && let Err(place) = item.matches.binary_search(&number)
            {
                item.matches.insert(place, number);
            }
        }
        number
    }

    fn drop_selector(&mut self, number: u32) {
        for item in self.candidates(number) {
            let matches = &mut self.items[item as usize].matches;
            if let Ok(place) = matches.binary_search(&number) {
                matches.remove(place);
            }
        }
        let filed = self.selectors.remove(number as usize);
        let hash = self.hasher.hash_one(&*filed.text);
        if let Ok(found) = self.by_text.find_entry(hash, |&other| other == number) {
            found.remove();
        }
        let Some(clues) = filed.clues else {
            self.unbounded.remove(&number);
            return;
        };
        for clue in clues.iter() {
            if let Some(selectors) = self.by_clue.get_mut(&clue) {
                selectors.remove(number);
                if selectors.is_empty() {
                    self.by_clue.remove(&clue);
                }
            }
        }
    }

    /// The items that a selector can match, each once.
    fn candidates(&self, selector: u32) -> Vec<u32> {
        let Some(clues) = &self.selectors[selector as usize].clues else {
            return self.items.iter().map(|(item, _)| number_of(item)).collect();
        };
        let mut items: Vec<u32> = clues.iter().filter_map(|clue| self.by_label.get(&clue)).flatten().copied().collect();
        items.sort_unstable();
        items.dedup();
        items
    }

    /// Computes an item's labels and matches.
    fn label(&mut self, number: u32, index: &Index) {
        let item = &mut self.items[number as usize];
        let mut inherited: BTreeMap<&str, &str> = BTreeMap::new();
        for (key, value) in item.parents.iter().flat_map(|parent| index.parent_labels(parent)) {
            if item.own.binary_search_by(|(own, _)| (**own).cmp(key)).is_err() {
                inherited.entry(key).or_insert(value);
            }
        }
        item.inherited = inherited.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        let item = &self.items[number as usize];
        let mut candidates: Vec<u32> = self.unbounded.iter().copied().collect();
        for hash in self.hashes(item) {
            self.by_label.entry(hash).or_default().insert(number);
            candidates.extend(self.by_clue.get(&hash).into_iter().flat_map(Few::iter));
        }
        candidates.sort_unstable();
        candidates.dedup();
        candidates.retain(|&selector| self.selectors[selector as usize].matches(item));
        // Most endpoints have few, and keep them for long.
        candidates.shrink_to_fit();
        let item = &mut self.items[number as usize];
        item.matches = candidates;
        self.changed.insert(item.key.clone());
    }

    fn unlabel(&mut self, number: u32) {
        let hashes = self.hashes(&self.items[number as usize]);
        let item = &mut self.items[number as usize];
        item.inherited = Labels::default();
        item.matches.clear();
        for hash in hashes {
            if let Some(items) = self.by_label.get_mut(&hash) {
                items.remove(&number);
                if items.is_empty() {
                    self.by_label.remove(&hash);
                }
            }
        }
    }

    /// What it takes to follow a clue: the items and selectors that are filed under it. A value goes before its key.
    fn cost(&self, clue: &Clue<'_>) -> usize {
        let hash = self.hash(clue);
        let items = self.by_label.get(&hash).map_or(0, BTreeSet::len);
        let selectors = self.by_clue.get(&hash).map_or(0, Few::len);
        2 * (items + selectors) + usize::from(matches!(clue, Clue::Has(_)))
    }

    fn hash(&self, clue: &Clue<'_>) -> u64 {
        match *clue {
            Clue::Has(key) => self.hasher.hash_one(key),
            Clue::Is(key, value) => self.hasher.hash_one((key, value)),
        }
    }

    fn hashes(&self, item: &Item) -> Vec<u64> {
        let both = |(key, value)| [self.hash(&Clue::Has(key)), self.hash(&Clue::Is(key, value))];
        item.labels().flat_map(both).collect()
    }
}

#[cfg(test)]
mod tests;
