//! Classes of items that selectors cannot tell apart, and the labels by which they are found.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasher, RandomState},
};

use calico_selector::{Clue, Labels};
use hashbrown::HashTable;
use slab::Slab;

use super::{
    clues::{Clues, Pair, SymClue},
    symbols::{Sym, Symbols, number_of},
};

struct Class {
    /// Labels of the items themselves, by key text. With the parents, the class's identity.
    own: Box<[Pair]>,
    /// Names of the parents, in order.
    parents: Box<[Sym]>,
    /// Own labels and those inherited, by key text; each with its position among the classes that have it.
    effective: Box<[Posted]>,
    /// Numbers of the sets whose selectors match the effective labels.
    matches: Matches,
    /// Numbers of the items.
    members: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Posted {
    pair: Pair,
    position: u32,
}

/// Labels that items inherit.
#[derive(Default)]
struct Parent {
    labels: Box<[Pair]>,
    /// Classes that name the parent.
    classes: BTreeSet<u32>,
}

/// Classes by a label key.
#[derive(Default)]
struct KeyUse {
    /// The values in use, each as often as classes have it.
    values: HashMap<Sym, u32>,
    /// Classes with the key.
    classes: usize,
}

/// Numbers of sets, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Matches(Vec<u32>);

#[derive(Default)]
pub(super) struct Classes {
    slab: Slab<Class>,
    by_identity: HashTable<u32>,
    by_label: HashMap<Pair, Vec<u32>>,
    by_key: HashMap<Sym, KeyUse>,
    parents: HashMap<Sym, Parent>,
    hasher: RandomState,
}

impl Classes {
    /// The class of these labels and parents, and whether it is new: then it has its labels but matches nothing yet.
    pub(super) fn intern(
        &mut self,
        labels: &BTreeMap<&str, &str>,
        parents: &[String],
        symbols: &mut Symbols,
    ) -> (u32, bool) {
        let own: Box<[Pair]> = labels
            .iter()
            .map(|(key, value)| Pair { key: symbols.acquire(key), value: symbols.acquire(value) })
            .collect();
        let parents: Box<[Sym]> = parents.iter().map(|name| symbols.acquire(name)).collect();
        let hash = self.hasher.hash_one((&own, &parents));
        let found = self.by_identity.find(hash, |&class| {
            let class = &self.slab[class as usize];
            class.own == own && class.parents == parents
        });
        if let Some(&class) = found {
            release_identity(&own, &parents, symbols);
            return (class, false);
        }
        let class = number_of(self.slab.vacant_key());
        for &parent in &parents {
            self.parents.entry(parent).or_default().classes.insert(class);
        }
        self.slab.insert(Class {
            own,
            parents,
            effective: Box::default(),
            matches: Matches::default(),
            members: Vec::new(),
        });
        let rehash = |&class: &u32| {
            let class = &self.slab[class as usize];
            self.hasher.hash_one((&class.own, &class.parents))
        };
        self.by_identity.insert_unique(hash, class, rehash);
        self.inherit(class, symbols);
        (class, true)
    }

    /// Removes a class that has no items and that no set counts any more.
    pub(super) fn remove(&mut self, class: u32, symbols: &mut Symbols) {
        self.unpost(class, symbols);
        let identity = &self.slab[class as usize];
        let hash = self.hasher.hash_one((&identity.own, &identity.parents));
        if let Ok(found) = self.by_identity.find_entry(hash, |&number| number == class) {
            found.remove();
        }
        let Class { own, parents, .. } = self.slab.remove(class as usize);
        for name in &parents {
            if let Some(parent) = self.parents.get_mut(name) {
                parent.classes.remove(&class);
                self.drop_parent_without_use(*name);
            }
        }
        release_identity(&own, &parents, symbols);
    }

    /// Replaces a parent's labels. Returns the classes whose effective labels are out of date now.
    pub(super) fn set_parent_labels(
        &mut self,
        name: &str,
        labels: &BTreeMap<String, String>,
        symbols: &mut Symbols,
    ) -> Vec<u32> {
        let name = symbols.acquire(name);
        let labels: Box<[Pair]> = labels
            .iter()
            .map(|(key, value)| Pair { key: symbols.acquire(key), value: symbols.acquire(value) })
            .collect();
        let parent = self.parents.entry(name).or_default();
        let old = std::mem::replace(&mut parent.labels, labels);
        let changed = old != parent.labels;
        let classes = if changed { parent.classes.iter().copied().collect() } else { Vec::new() };
        // The parent holds one use of its name per label, so that the name outlives the labels.
        for _ in 0..parent.labels.len() {
            symbols.share(name);
        }
        for pair in &old {
            symbols.release(pair.key);
            symbols.release(pair.value);
            symbols.release(name);
        }
        self.drop_parent_without_use(name);
        symbols.release(name);
        classes
    }

    fn drop_parent_without_use(&mut self, name: Sym) {
        if self.parents.get(&name).is_some_and(|parent| parent.labels.is_empty() && parent.classes.is_empty()) {
            self.parents.remove(&name);
        }
    }

    /// Computes the effective labels anew: own ones first, then each parent's, the first of a key wins.
    pub(super) fn inherit(&mut self, class: u32, symbols: &mut Symbols) {
        let identity = &self.slab[class as usize];
        let mut pairs: Vec<Pair> = identity.own.to_vec();
        for parent in &identity.parents {
            let labels = self.parents.get(parent).map_or(&[][..], |parent| &parent.labels);
            for label in labels {
                if let Err(place) = search(&pairs, symbols.text(label.key), symbols) {
                    pairs.insert(place, *label);
                }
            }
        }
        for pair in &pairs {
            symbols.share(pair.key);
            symbols.share(pair.value);
        }
        self.unpost(class, symbols);
        self.post(class, &pairs);
    }

    /// Files a class under its effective labels, whose uses it takes over.
    fn post(&mut self, class: u32, pairs: &[Pair]) {
        let file = |&pair: &Pair| {
            let classes = self.by_label.entry(pair).or_default();
            classes.push(class);
            let key = self.by_key.entry(pair.key).or_default();
            *key.values.entry(pair.value).or_default() += 1;
            key.classes += 1;
            Posted { pair, position: number_of(classes.len() - 1) }
        };
        self.slab[class as usize].effective = pairs.iter().map(file).collect();
    }

    fn unpost(&mut self, class: u32, symbols: &mut Symbols) {
        for Posted { pair, position } in std::mem::take(&mut self.slab[class as usize].effective) {
            let classes = self.by_label.get_mut(&pair).expect("a class is filed under each of its labels");
            classes.swap_remove(position as usize);
            if let Some(&moved) = classes.get(position as usize) {
                let labels = &mut self.slab[moved as usize].effective;
                let posted = labels.iter_mut().find(|posted| posted.pair == pair);
                posted.expect("the moved class is filed under this label").position = position;
            }
            if classes.is_empty() {
                self.by_label.remove(&pair);
            }
            self.unpost_key(pair);
            symbols.release(pair.key);
            symbols.release(pair.value);
        }
    }

    fn unpost_key(&mut self, pair: Pair) {
        let key = self.by_key.get_mut(&pair.key).expect("the key of a filed label is counted");
        key.classes -= 1;
        let uses = key.values.get_mut(&pair.value).expect("the value of a filed label is counted");
        *uses -= 1;
        if *uses == 0 {
            key.values.remove(&pair.value);
        }
        if key.classes == 0 {
            self.by_key.remove(&pair.key);
        }
    }

    /// How many classes have what a clue asks for; a little more for keys, so that values win while all is empty.
    pub(super) fn cost(&self, clue: &Clue<'_>, symbols: &Symbols) -> usize {
        match *clue {
            Clue::Has(key) => symbols.find(key).and_then(|key| self.by_key.get(&key)).map_or(0, |key| key.classes) + 1,
            Clue::Is(key, value) => {
                let pair = symbols.find(key).zip(symbols.find(value)).map(|(key, value)| Pair { key, value });
                pair.and_then(|pair| self.by_label.get(&pair)).map_or(0, Vec::len)
            }
        }
    }

    /// The classes that have one of the clues, each once.
    pub(super) fn candidates(&self, clues: &Clues) -> Vec<u32> {
        let Clues::AnyOf(clues) = clues else {
            return self.slab.iter().map(|(class, _)| number_of(class)).collect();
        };
        let mut classes = Vec::new();
        for &SymClue { key, value } in clues {
            match value {
                Some(value) => classes.extend(self.by_label.get(&Pair { key, value }).into_iter().flatten()),
                None => {
                    let values = self.by_key.get(&key).into_iter().flat_map(|key| key.values.keys());
                    let pairs = values.map(|&value| Pair { key, value });
                    classes.extend(pairs.filter_map(|pair| self.by_label.get(&pair)).flatten());
                }
            }
        }
        classes.sort_unstable();
        classes.dedup();
        classes
    }

    /// The effective labels, for evaluation.
    pub(super) fn labels<'a>(&'a self, class: u32, symbols: &'a Symbols) -> impl Labels + 'a {
        Effective { labels: &self.slab[class as usize].effective, symbols }
    }

    /// The effective labels, for look-ups.
    pub(super) fn pairs(&self, class: u32) -> impl Iterator<Item = Pair> {
        self.slab[class as usize].effective.iter().map(|posted| posted.pair)
    }

    pub(super) fn matches(&self, class: u32) -> &Matches {
        &self.slab[class as usize].matches
    }

    pub(super) fn set_matches(&mut self, class: u32, matches: Matches) {
        self.slab[class as usize].matches = matches;
    }

    pub(super) fn add_match(&mut self, class: u32, set: u32) {
        self.slab[class as usize].matches.insert(set);
    }

    pub(super) fn remove_match(&mut self, class: u32, set: u32) {
        self.slab[class as usize].matches.remove(set);
    }

    pub(super) fn members(&self, class: u32) -> &[u32] {
        &self.slab[class as usize].members
    }

    /// Adds an item and returns its position.
    pub(super) fn add_member(&mut self, class: u32, item: u32) -> u32 {
        let members = &mut self.slab[class as usize].members;
        members.push(item);
        number_of(members.len() - 1)
    }

    /// Takes the item at a position out. Another item may stand there now, which is returned.
    pub(super) fn remove_member(&mut self, class: u32, slot: u32) -> Option<u32> {
        let members = &mut self.slab[class as usize].members;
        members.swap_remove(slot as usize);
        members.get(slot as usize).copied()
    }

    /// How many classes there are, and how many labels they are filed under.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        (self.slab.len(), self.by_label.len() + self.by_key.len(), self.parents.len())
    }
}

fn release_identity(own: &[Pair], parents: &[Sym], symbols: &mut Symbols) {
    for pair in own {
        symbols.release(pair.key);
        symbols.release(pair.value);
    }
    for name in parents {
        symbols.release(*name);
    }
}

/// The place of a key among labels that are sorted by key text.
fn search(labels: &[Pair], key: &str, symbols: &Symbols) -> Result<usize, usize> {
    labels.binary_search_by(|label| symbols.text(label.key).cmp(key))
}

struct Effective<'a> {
    labels: &'a [Posted],
    symbols: &'a Symbols,
}

impl Labels for Effective<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let found = self.labels.binary_search_by(|label| self.symbols.text(label.pair.key).cmp(key));
        found.ok().map(|at| self.symbols.text(self.labels[at].pair.value))
    }
}

impl Matches {
    pub(super) fn new(mut sets: Vec<u32>) -> Self {
        sets.sort_unstable();
        Self(sets)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().copied()
    }

    pub(super) fn contains(&self, set: u32) -> bool {
        self.0.binary_search(&set).is_ok()
    }

    /// What is here and not there.
    pub(super) fn without(&self, other: &Self) -> Self {
        Self(self.iter().filter(|&set| !other.contains(set)).collect())
    }

    /// What is here and there.
    pub(super) fn and(&self, other: &Self) -> Self {
        Self(self.iter().filter(|&set| other.contains(set)).collect())
    }

    fn insert(&mut self, set: u32) {
        if let Err(place) = self.0.binary_search(&set) {
            self.0.insert(place, set);
        }
    }

    fn remove(&mut self, set: u32) {
        if let Ok(place) = self.0.binary_search(&set) {
            self.0.remove(place);
        }
    }
}
