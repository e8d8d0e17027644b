//! What selectors are evaluated over.

use std::{
    collections::{BTreeMap, HashMap},
    hash::BuildHasher,
};

/// A set of labels: at most one value per key.
pub trait Labels {
    /// The value of a key; `None` if the label is absent, which differs from an empty value.
    fn get(&self, key: &str) -> Option<&str>;
}

impl<L: Labels + ?Sized> Labels for &L {
    fn get(&self, key: &str) -> Option<&str> {
        (**self).get(key)
    }
}

impl<V: AsRef<str>> Labels for BTreeMap<String, V> {
    fn get(&self, key: &str) -> Option<&str> {
        BTreeMap::get(self, key).map(AsRef::as_ref)
    }
}

impl<V: AsRef<str>, S: BuildHasher> Labels for HashMap<String, V, S> {
    fn get(&self, key: &str) -> Option<&str> {
        HashMap::get(self, key).map(AsRef::as_ref)
    }
}

/// Pairs in any order; of repeated keys the first counts.
impl<K: AsRef<str>, V: AsRef<str>> Labels for [(K, V)] {
    fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(k, _)| k.as_ref() == key).map(|(_, value)| value.as_ref())
    }
}

/// Label sets one behind the other: the first that has a key decides. An endpoint's own labels followed by those of
/// its profiles, without copying.
#[derive(Clone, Copy, Debug)]
pub struct Layered<'a, L>(pub &'a [L]);

impl<L: Labels> Labels for Layered<'_, L> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find_map(|layer| layer.get(key))
    }
}
