//! Sets of numbers, small ones in place and large ones dense: the lists behind an index must not cost more than what
//! they index.
//!
//! A number is split in two halves of sixteen bits; those with one upper half stand together, as a sorted list while
//! they are few (two bytes each) and as a bit map when they are many (an eighth of a byte to two bytes each).

/// Up to so many numbers stand in the set itself.
const IN_PLACE: usize = 3;
/// A list of more is larger than the bit map of all.
const LIST_LIMIT: usize = 4096;
/// Words of a bit map.
const WORDS: usize = (1 << 16) / 64;

/// A set of numbers.
#[derive(Clone, Debug)]
pub(super) enum IdSet {
    Few { len: u8, ids: [u32; IN_PLACE] },
    Many(Box<Chunks>),
}

/// By their upper halves.
type Chunks = Vec<Chunk>;

/// Numbers with one upper half; never empty.
#[derive(Clone, Debug)]
pub(super) struct Chunk {
    upper: u16,
    lower: Lower,
}

#[derive(Clone, Debug)]
enum Lower {
    /// Ascending.
    List(Vec<u16>),
    Bits {
        len: u32,
        words: Box<[u64; WORDS]>,
    },
}

impl Default for IdSet {
    fn default() -> Self {
        Self::Few { len: 0, ids: [0; IN_PLACE] }
    }
}

impl IdSet {
    pub(super) fn is_empty(&self) -> bool {
        // Many stays Many until nothing is left.
        matches!(self, Self::Few { len: 0, .. })
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few { len, .. } => usize::from(*len),
            Self::Many(chunks) => chunks.iter().map(|chunk| chunk.lower.len()).sum(),
        }
    }

    /// Adds a number. False if it was there.
    pub(super) fn insert(&mut self, id: u32) -> bool {
        match self {
            Self::Few { len, ids } => {
                let used = usize::from(*len);
                let Err(place) = ids[..used].binary_search(&id) else { return false };
                if used < IN_PLACE {
                    ids.copy_within(place..used, place + 1);
                    ids[place] = id;
                    *len += 1;
                } else {
                    let mut chunks = Vec::new();
                    for id in ids.iter().copied().chain([id]) {
                        insert(&mut chunks, id);
                    }
                    *self = Self::Many(Box::new(chunks));
                }
                true
            }
            Self::Many(chunks) => insert(chunks, id),
        }
    }

    /// Takes a number out. False if it was not there.
    pub(super) fn remove(&mut self, id: u32) -> bool {
        match self {
            Self::Few { len, ids } => {
                let used = usize::from(*len);
                let Ok(place) = ids[..used].binary_search(&id) else { return false };
                ids.copy_within(place + 1..used, place);
                *len -= 1;
                true
            }
            Self::Many(chunks) => {
                let (upper, lower) = halves(id);
                let Ok(at) = chunks.binary_search_by_key(&upper, |chunk| chunk.upper) else { return false };
                let removed = chunks[at].lower.remove(lower);
                if chunks[at].lower.len() == 0 {
                    chunks.remove(at);
                }
                if chunks.is_empty() {
                    *self = Self::default();
                }
                removed
            }
        }
    }

    /// All numbers, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let (few, many) = match self {
            Self::Few { len, ids } => (&ids[..usize::from(*len)], &[][..]),
            Self::Many(chunks) => (&[][..], &chunks[..]),
        };
        let join = |upper: u16| move |lower: u16| u32::from(upper) << 16 | u32::from(lower);
        few.iter().copied().chain(many.iter().flat_map(move |chunk| chunk.lower.iter().map(join(chunk.upper))))
    }
}

fn halves(id: u32) -> (u16, u16) {
    ((id >> 16) as u16, id as u16)
}

fn insert(chunks: &mut Vec<Chunk>, id: u32) -> bool {
    let (upper, lower) = halves(id);
    match chunks.binary_search_by_key(&upper, |chunk| chunk.upper) {
        Ok(at) => chunks[at].lower.insert(lower),
        Err(at) => {
            chunks.insert(at, Chunk { upper, lower: Lower::List(vec![lower]) });
            true
        }
    }
}

impl Lower {
    fn len(&self) -> usize {
        match self {
            Self::List(list) => list.len(),
            Self::Bits { len, .. } => *len as usize,
        }
    }

    fn insert(&mut self, id: u16) -> bool {
        match self {
            Self::List(list) => {
                // Numbers are mostly given out ascending.
                let place = match list.last() {
                    Some(&last) if last < id => list.len(),
                    _ => match list.binary_search(&id) {
                        Ok(_) => return false,
                        Err(place) => place,
                    },
                };
                if list.len() == LIST_LIMIT {
                    *self = Self::bits(list);
                    return self.insert(id);
                }
                list.insert(place, id);
                true
            }
            Self::Bits { len, words } => {
                let word = &mut words[usize::from(id / 64)];
                let bit = 1 << (id % 64);
                let new = *word & bit == 0;
                *word |= bit;
                *len += u32::from(new);
                new
            }
        }
    }

    fn remove(&mut self, id: u16) -> bool {
        match self {
            Self::List(list) => list.binary_search(&id).map(|place| list.remove(place)).is_ok(),
            Self::Bits { len, words } => {
                let word = &mut words[usize::from(id / 64)];
                let bit = 1 << (id % 64);
                let there = *word & bit != 0;
                *word &= !bit;
                *len -= u32::from(there);
                // Well below the limit, so that a set at the limit does not go to and fro.
                if (*len as usize) < LIST_LIMIT / 4 {
                    *self = Self::List(self.iter().collect());
                }
                there
            }
        }
    }

    fn bits(list: &[u16]) -> Self {
        let mut words = Box::new([0; WORDS]);
        for &id in list {
            words[usize::from(id / 64)] |= 1 << (id % 64);
        }
        Self::Bits { len: list.len() as u32, words }
    }

    fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        let (list, words) = match self {
            Self::List(list) => (&list[..], &[][..]),
            Self::Bits { words, .. } => (&[][..], &words[..]),
        };
        let bits = words.iter().enumerate().flat_map(|(at, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some((at * 64) as u16 + bit as u16)
            })
        });
        list.iter().copied().chain(bits)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Dense, sparse and spread numbers, beside the plainest model.
        #[test]
        fn it_is_a_set(steps in prop::collection::vec((any::<bool>(), prop_oneof![0u32..8, 65_530u32..65_540, any::<u32>()]), 0..60)) {
            let (mut set, mut model) = (IdSet::default(), BTreeSet::new());
            for (add, id) in steps {
                if add {
                    prop_assert_eq!(set.insert(id), model.insert(id));
                } else {
                    prop_assert_eq!(set.remove(id), model.remove(&id));
                }
                prop_assert_eq!(set.len(), model.len());
                prop_assert_eq!(set.is_empty(), model.is_empty());
                prop_assert!(set.iter().eq(model.iter().copied()));
            }
        }
    }

    /// From a list to a bit map and back, across the limits.
    #[test]
    fn it_grows_dense_and_shrinks() {
        let mut set = IdSet::default();
        for id in (0..20_000).step_by(3) {
            assert!(set.insert(id));
            assert!(!set.insert(id));
        }
        assert!(matches!(&set, IdSet::Many(chunks) if matches!(chunks[0].lower, Lower::Bits { .. })));
        assert!(set.iter().eq((0..20_000).step_by(3)));
        for id in (0..20_000).step_by(3).skip(5) {
            assert!(set.remove(id));
            assert!(!set.remove(id));
        }
        assert!(set.iter().eq([0, 3, 6, 9, 12]));
        assert_eq!(set.len(), 5);
    }
}
