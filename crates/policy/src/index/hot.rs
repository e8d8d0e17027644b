//! Classes and sets coming and going, and keys that become hot and cold with them.

use std::collections::{BTreeSet, HashMap};

use calico_selector::{Labels, Selector};

use super::{
    Index,
    classes::Hot,
    clues::{Clues, Pair},
    keys::Key,
    matches::{MatchLists, Matches, difference},
    packed::Packed,
    sets::Filter,
};
use crate::instruction::SetId;

/// A key that nothing asks for any more stays hot while it splits the items into no more classes than this: a selector
/// that comes and goes then costs little each time. Tests have few classes.
const CHEAP: usize = if cfg!(test) { 1 } else { 256 };

impl Index {
    /// The class of items with these labels and parents, made if need be.
    pub(super) fn class_of(&mut self, labels: &Packed, parents: &[u32]) -> u32 {
        let mut hot: Vec<Pair> = Vec::new();
        let layers = std::iter::once(labels).chain(parents.iter().map(|&parent| &self.parents.get(parent).labels));
        for (key, value) in layers.flat_map(Packed::iter) {
            // The first that has a key decides: own labels before inherited ones.
            if self.keys.get(key).hot && hot.iter().all(|pair| pair.key != key) {
                hot.push(Pair { key, value: self.symbols.acquire(value) });
            }
        }
        hot.sort_unstable_by_key(|pair| pair.key);
        self.class(&hot)
    }

    /// The class of these hot labels, whose values' uses it takes over.
    fn class(&mut self, hot: &[Pair]) -> u32 {
        if let Some(class) = self.classes.find(hot) {
            for pair in hot {
                self.symbols.release(pair.value);
            }
            return class;
        }
        let sets = self.evaluate(hot);
        let list = self.lists.acquire(&sets);
        let class = self.classes.insert(hot, list, &mut self.keys);
        for set in sets {
            self.sets.get_mut(set).classes.insert(class);
        }
        class
    }

    /// The sets whose selectors match these hot labels, ascending.
    fn evaluate(&self, hot: &[Pair]) -> Vec<u32> {
        let labels = Hot { labels: hot, keys: &self.keys, symbols: &self.symbols };
        let mut sets = self.classes.filed(hot, &self.keys);
        sets.extend(&self.sets.unbounded);
        sets.sort_unstable();
        sets.dedup();
        sets.retain(|&set| self.sets.get(set).selector.matches(&labels));
        sets
    }

    /// Moves an item to where it belongs after what it inherits, or what counts of its labels, has changed.
    pub(super) fn reclassify(&mut self, item: u32) {
        // Out of the table for the moment, since making a class changes everything else.
        let to = {
            let labels = self.items.take_labels(item);
            let parents = self.items.parents(item).to_vec();
            let to = self.class_of(&labels, &parents);
            self.items.put_labels(item, labels);
            to
        };
        let from = self.items.class(item);
        if from == to {
            return;
        }
        let (from_list, to_list) = (self.classes.matches(from), self.classes.matches(to));
        if from_list != to_list {
            let (before, after) = (self.lists.get(from_list), self.lists.get(to_list));
            self.touch_item(&difference(&before, &after), item);
            self.touch_item(&difference(&after, &before), item);
        }
        self.leave_class(item);
        self.enter_class(item, to);
    }

    /// Adds a set that nothing uses yet.
    pub(super) fn add_set(&mut self, id: SetId, selector: Selector, filter: Option<Filter>) -> u32 {
        let mut cold = Vec::new();
        for text in selector.keys() {
            let key = self.keys.acquire(text);
            let state = self.keys.get_mut(key);
            state.mentions += 1;
            if !state.hot {
                state.hot = true;
                cold.push(key);
            }
        }
        self.reclassify_users(&cold);
        let cover = selector.cover(|clue| self.classes.cost(clue, &self.keys, &self.symbols));
        let clues = Clues::intern(&cover, &mut self.keys, &mut self.symbols);
        let matching = self.matching(&selector, &clues);
        let set = self.sets.insert(id, selector, filter, clues);
        if let Clues::AnyOf(clues) = &self.sets.get(set).clues {
            for &clue in clues {
                self.classes.file(clue, set, &mut self.keys);
            }
        }
        self.relist(&matching, |lists, list| lists.with(list, set));
        for class in matching {
            self.sets.get_mut(set).classes.insert(class);
        }
        set
    }

    fn matching(&self, selector: &Selector, clues: &Clues) -> Vec<u32> {
        let mut classes = self.classes.candidates(clues, &self.keys);
        classes.retain(|&class| selector.matches(&self.hot(class)));
        classes
    }

    fn hot(&self, class: u32) -> impl Labels + '_ {
        Hot { labels: self.classes.labels(class), keys: &self.keys, symbols: &self.symbols }
    }

    /// Removes a set that nothing uses.
    pub(super) fn drop_set(&mut self, set: u32) {
        if let Clues::AnyOf(clues) = &self.sets.get(set).clues {
            for &clue in clues {
                self.classes.unfile(clue, set, &mut self.keys);
            }
        }
        let state = self.sets.remove(set);
        let classes: Vec<u32> = state.classes.iter().collect();
        self.relist(&classes, |lists, list| lists.without(list, set));
        state.clues.release(&mut self.keys, &mut self.symbols);
        let mut unasked = BTreeSet::new();
        for text in state.selector.keys() {
            let key = self.keys.find(text).expect("the set has a use of each key that it mentions");
            let state = self.keys.get_mut(key);
            state.mentions -= 1;
            if state.mentions == 0 && state.classes.len() > CHEAP {
                state.hot = false;
                unasked.insert(key);
            }
        }
        let unasked: Vec<Key> = unasked.into_iter().collect();
        self.reclassify_users(&unasked);
        for text in state.selector.keys() {
            let key = self.keys.find(text).expect("the use is given back here");
            self.keys.release(key);
        }
    }

    /// Puts classes on other lists. Classes on one list stay on one, which is made once.
    fn relist(&mut self, classes: &[u32], change: impl Fn(&mut MatchLists, Matches) -> Matches) {
        let mut known: HashMap<Matches, Matches> = HashMap::new();
        for &class in classes {
            let old = self.classes.matches(class);
            let new = match known.get(&old) {
                Some(&new) => self.lists.share(new),
                None => {
                    let new = change(&mut self.lists, old);
                    known.insert(old, new);
                    new
                }
            };
            self.classes.set_matches(class, new);
            self.lists.release(old);
        }
    }

    /// Finds the classes of all items that have one of these keys, whose being hot has changed.
    fn reclassify_users(&mut self, keys: &[Key]) {
        let mut items = BTreeSet::new();
        for &key in keys {
            let state = self.keys.get(key);
            items.extend(state.items.iter());
            items.extend(state.parents.iter().flat_map(|parent| self.parents.get(parent).items.iter()));
        }
        for item in items {
            self.reclassify(item);
        }
    }
}
