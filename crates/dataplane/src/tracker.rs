//! What is wanted against what is there, and which keys may differ.
//!
//! Content is compared by fingerprint, so neither side keeps the objects themselves. Only keys that were touched are
//! looked at when a difference is asked for: its cost follows the change, not the size of the host.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, Hash, RandomState},
    sync::LazyLock,
};

/// A fingerprint of content, good within this process.
pub(crate) type Fingerprint = u64;

/// Fingerprints with a key of this process: content comes from people who may want two of the same.
pub(crate) fn fingerprint(content: &impl Hash) -> Fingerprint {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEY.hash_one(content)
}

/// Wanted objects of one kind, with what it takes to make them.
pub(crate) trait Want {
    /// Of the content that the kernel is to hold.
    fn fingerprint(&self) -> Fingerprint;
}

impl Want for Fingerprint {
    fn fingerprint(&self) -> Fingerprint {
        *self
    }
}

/// What must happen to one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is not there.
    Create,
    /// It is there with other content.
    Update,
    /// It is not wanted.
    Delete,
}

/// The wanted and the present objects of one kind.
#[derive(Debug)]
pub(crate) struct Tracker<K, W> {
    wanted: HashMap<K, W>,
    present: HashMap<K, Fingerprint>,
    dirty: HashSet<K>,
}

impl<K, W> Default for Tracker<K, W> {
    fn default() -> Self {
        Self { wanted: HashMap::new(), present: HashMap::new(), dirty: HashSet::new() }
    }
}

impl<K: Clone + Eq + Hash + Ord, W: Want> Tracker<K, W> {
    /// Wants an object.
    pub(crate) fn want(&mut self, key: K, want: W) {
        if self.present.get(&key) == Some(&want.fingerprint()) {
            self.dirty.remove(&key);
        } else {
            self.dirty.insert(key.clone());
        }
        self.wanted.insert(key, want);
    }

    /// Wants it no more.
    pub(crate) fn unwant(&mut self, key: &K) {
        self.wanted.remove(key);
        if self.present.contains_key(key) {
            self.dirty.insert(key.clone());
        } else {
            self.dirty.remove(key);
        }
    }

    /// What is wanted under a key.
    pub(crate) fn wanted(&self, key: &K) -> Option<&W> {
        self.wanted.get(key)
    }

    /// Everything wanted.
    pub(crate) fn all_wanted(&self) -> impl Iterator<Item = (&K, &W)> {
        self.wanted.iter()
    }

    /// What is believed to be there under a key.
    pub(crate) fn present(&self, key: &K) -> Option<Fingerprint> {
        self.present.get(key).copied()
    }

    /// Everything believed to be there.
    pub(crate) fn all_present(&self) -> impl Iterator<Item = &K> {
        self.present.keys()
    }

    /// Takes what was read from the kernel for what is there.
    pub(crate) fn read_back(&mut self, present: HashMap<K, Fingerprint>) {
        self.present = present;
        self.dirty = self.wanted.keys().chain(self.present.keys()).cloned().collect();
        self.dirty.retain(|key| self.wanted.get(key).map(Want::fingerprint) != self.present.get(key).copied());
    }

    /// Whether what was read lacks anything that is believed to be there, or has it with other content.
    pub(crate) fn was_changed(&self, read: &HashMap<K, Fingerprint>) -> bool {
        self.present.iter().any(|(key, there)| read.get(key) != Some(there))
    }

    /// What must happen, ordered by key.
    pub(crate) fn steps(&self) -> Vec<(K, Step)> {
        let mut steps: Vec<(K, Step)> = self
            .dirty
            .iter()
            .filter_map(|key| match (self.wanted.get(key), self.present.get(key)) {
                (Some(_), None) => Some((key.clone(), Step::Create)),
                (Some(want), Some(there)) if want.fingerprint() != *there => Some((key.clone(), Step::Update)),
                (None, Some(_)) => Some((key.clone(), Step::Delete)),
                _ => None,
            })
            .collect();
        steps.sort_by(|a, b| a.0.cmp(&b.0));
        steps
    }

    /// One step was done.
    pub(crate) fn done(&mut self, key: &K) {
        match self.wanted.get(key) {
            Some(want) => self.present.insert(key.clone(), want.fingerprint()),
            None => self.present.remove(key),
        };
        self.dirty.remove(key);
    }

    /// All steps were done.
    pub(crate) fn settle(&mut self) {
        for key in std::mem::take(&mut self.dirty) {
            self.done(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_to_do_when_it_is_there_already() {
        let mut tracker: Tracker<&str, Fingerprint> = Tracker::default();
        tracker.read_back(HashMap::from([("a", 1), ("b", 2), ("c", 3)]));
        tracker.want("a", 1);
        tracker.want("b", 9);
        tracker.want("d", 4);
        assert_eq!(tracker.steps(), vec![("b", Step::Update), ("c", Step::Delete), ("d", Step::Create)]);
        tracker.settle();
        assert!(tracker.steps().is_empty());
    }

    proptest! {
        #[test]
        fn doing_the_steps_makes_present_equal_wanted(
            present in prop::collection::hash_map(0u8..12, 0u64..3, 0..8),
            changes in prop::collection::vec((0u8..12, prop::option::of(0u64..3)), 0..20),
        ) {
            let mut tracker: Tracker<u8, Fingerprint> = Tracker::default();
            let mut kernel = present.clone();
            tracker.read_back(present);
            for (key, value) in changes {
                match value {
                    Some(value) => tracker.want(key, value),
                    None => tracker.unwant(&key),
                }
            }
            for (key, step) in tracker.steps() {
                match step {
                    Step::Create => prop_assert!(!kernel.contains_key(&key)),
                    Step::Update | Step::Delete => prop_assert!(kernel.contains_key(&key)),
                }
                match tracker.wanted(&key) {
                    Some(value) => kernel.insert(key, *value),
                    None => kernel.remove(&key),
                };
            }
            tracker.settle();
            let wanted: HashMap<u8, u64> = tracker.all_wanted().map(|(k, v)| (*k, *v)).collect();
            prop_assert_eq!(kernel, wanted);
            prop_assert!(tracker.steps().is_empty());
        }
    }
}
