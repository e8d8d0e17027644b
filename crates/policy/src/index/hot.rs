//! Classes and sets coming and going, and keys that become hot and cold with them.

use calico_selector::{Ask, Labels, Selector};

use super::{
    Index,
    classes::Hot,
    clues::{Clues, Pair},
    hashing::HashMap,
    keys::{Holder, Key, Keys},
    matches::{MatchLists, Matches, difference},
    packed::Packed,
    parents::ParentTable,
    sets::Filter,
    symbols::Symbols,
};
use crate::instruction::SetId;

/// A key that nothing asks for any more stays hot while it splits the items into no more classes than this: a selector
/// that comes and goes then costs little each time. Tests have few classes.
const CHEAP: usize = if cfg!(test) { 1 } else { 256 };

/// The labels that tell classes apart, by key, with one more use of each value.
fn hot_labels(own: &Packed, parents: &[u32], table: &ParentTable, keys: &Keys, symbols: &mut Symbols) -> Vec<Pair> {
    let mut hot: Vec<Pair> = Vec::new();
    let layers = std::iter::once(own).chain(parents.iter().map(|&parent| &table.get(parent).labels));
    for (key, value) in layers.flat_map(Packed::raw) {
        let state = keys.get(key);
        // The first that has a key decides: own labels before inherited ones.
        if state.hot && hot.iter().all(|pair| pair.key != key) {
            hot.push(Pair { key, value: symbols.acquire(state.told_apart(value.text())) });
        }
    }
    hot.sort_unstable_by_key(|pair| pair.key);
    hot
}

impl Index {
    /// The class of items with these labels and parents, made if need be.
    pub(super) fn class_of(&mut self, labels: &Packed, parents: &[u32]) -> u32 {
        let hot = hot_labels(labels, parents, &self.parents, &self.keys, &mut self.symbols);
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
        let (labels, parents) = (self.items.labels(item), self.items.parents(item));
        let hot = hot_labels(labels, parents, &self.parents, &self.keys, &mut self.symbols);
        let to = self.class(&hot);
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

    /// The same of many items, each once.
    fn reclassify_all(&mut self, mut items: Vec<u32>) {
        items.sort_unstable();
        items.dedup();
        items.into_iter().for_each(|item| self.reclassify(item));
    }

    /// Adds a set that nothing uses yet.
    pub(super) fn add_set(&mut self, id: SetId, selector: Selector, filter: Option<Filter>) -> u32 {
        self.ask(&selector);
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
        self.stop_asking(&state.selector);
    }

    /// Puts classes on other lists. Classes on one list stay on one, which is made once.
    fn relist(&mut self, classes: &[u32], change: impl Fn(&mut MatchLists, Matches) -> Matches) {
        let mut known: HashMap<Matches, Matches> = HashMap::default();
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

    /// Tells apart what a selector looks at. Holds a use of each of its keys.
    fn ask(&mut self, selector: &Selector) {
        let mut items = Vec::new();
        for (text, ask) in selector.asks() {
            let key = self.keys.acquire(text);
            let state = self.keys.get_mut(key);
            state.mentions += 1;
            let was_hot = std::mem::replace(&mut state.hot, true);
            let mut all = !was_hot;
            if ask == Ask::Text {
                state.texts += 1;
                all |= !std::mem::replace(&mut state.all_values, true);
            }
            let mut new = Vec::new();
            for &value in ask.values() {
                if let Some(count) = state.asked.get_mut(value) {
                    *count += 1;
                } else {
                    state.asked.insert(value.into(), 1);
                    new.push(value);
                }
            }
            if !new.is_empty() && !std::mem::replace(&mut state.compared, true) {
                self.find_holders(key);
            }
            if all {
                items.extend(self.users(key));
            } else {
                new.into_iter().for_each(|value| items.extend(self.users_of_value(key, value)));
            }
        }
        self.reclassify_all(items);
    }

    /// Undoes [`ask`](Self::ask), but for what costs little to keep.
    fn stop_asking(&mut self, selector: &Selector) {
        let mut items = Vec::new();
        for (text, ask) in selector.asks() {
            let key = self.keys.find(text).expect("the set has a use of each key that it mentions");
            let state = self.keys.get_mut(key);
            state.mentions -= 1;
            let cheap = state.classes.len() <= CHEAP;
            let mut all = false;
            if ask == Ask::Text {
                state.texts -= 1;
                if state.texts == 0 && !cheap {
                    state.all_values = false;
                    all = true;
                }
            }
            let mut gone = Vec::new();
            for &value in ask.values() {
                let count = state.asked.get_mut(value).expect("it is counted while a selector compares with it");
                *count -= 1;
                if *count == 0 && (!cheap || !self.classes.any_has(key, value, &self.symbols)) {
                    state.asked.remove(value);
                    gone.push(value);
                }
            }
            // Before the key is cooled, which forgets who has what.
            gone.into_iter().for_each(|value| items.extend(self.users_of_value(key, value)));
            let state = self.keys.get_mut(key);
            if state.mentions == 0 && !cheap {
                state.cool();
                all = true;
            }
            if all {
                items.extend(self.users(key));
            }
        }
        self.reclassify_all(items);
        for text in selector.keys() {
            let key = self.keys.find(text).expect("the use is given back here");
            self.keys.release(key);
        }
    }

    /// Notes who has which value of a key.
    fn find_holders(&mut self, key: Key) {
        let state = self.keys.get(key);
        let (items, parents): (Vec<u32>, Vec<u32>) = (state.items.iter().collect(), state.parents.iter().collect());
        for item in items {
            if let Some(value) = self.items.labels(item).get(key) {
                self.keys.hold(key, value, Holder::Item(item));
            }
        }
        for parent in parents {
            if let Some(value) = self.parents.get(parent).labels.get(key) {
                self.keys.hold(key, value, Holder::Parent(parent));
            }
        }
    }

    /// All items that have a key or inherit it.
    fn users(&self, key: Key) -> Vec<u32> {
        let state = self.keys.get(key);
        let heirs = state.parents.iter().flat_map(|parent| self.parents.get(parent).items.iter());
        state.items.iter().chain(heirs).collect()
    }

    /// All items that have a value of a compared key or inherit it, and perhaps a few others.
    fn users_of_value(&self, key: Key, value: &str) -> Vec<u32> {
        let mut items = Vec::new();
        for holder in self.keys.holders(key, value) {
            match holder {
                Holder::Item(item) => items.push(item),
                Holder::Parent(parent) => items.extend(self.parents.get(parent).items.iter()),
            }
        }
        items
    }
}
