//! Things by number, in memory that grows a piece at a time: a vector of a hundred thousand of them may have room for
//! twice as many, and needs both while it grows.

use std::ops::{Index, IndexMut};

/// Places of a piece.
const PIECE: usize = 512;

enum Place<T> {
    /// Free; the number of the next free place.
    Free(Option<u32>),
    Taken(T),
}

/// Numbered things. Numbers of things that were removed are given out again, the latest first.
pub(crate) struct Arena<T> {
    /// All full but the last.
    pieces: Vec<Vec<Place<T>>>,
    free: Option<u32>,
    len: usize,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self { pieces: Vec::new(), free: None, len: 0 }
    }
}

impl<T> Arena<T> {
    /// Adds a thing and returns its number.
    pub(crate) fn insert(&mut self, thing: T) -> usize {
        self.len += 1;
        if let Some(number) = self.free {
            let place = self.place_mut(number as usize);
            if let Place::Free(next) = std::mem::replace(place, Place::Taken(thing)) {
                self.free = next;
            }
            return number as usize;
        }
        if self.pieces.last().is_none_or(|piece| piece.len() == PIECE) {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        let before = (self.pieces.len() - 1) * PIECE;
        let piece = self.pieces.last_mut().expect("one was added if there was none");
        piece.push(Place::Taken(thing));
        before + piece.len() - 1
    }

    /// Takes out the thing of a number in use.
    pub(crate) fn remove(&mut self, number: usize) -> T {
        let next = self.free;
        let place = self.place_mut(number);
        let Place::Taken(thing) = std::mem::replace(place, Place::Free(next)) else { unused(number) };
        self.len -= 1;
        self.free = Some(number_of(number));
        if self.len == 0 {
            *self = Self::default();
        }
        thing
    }

    /// The number that the next thing gets.
    pub(crate) fn vacant_key(&self) -> usize {
        let behind = || self.pieces.last().map_or(0, |piece| (self.pieces.len() - 1) * PIECE + piece.len());
        self.free.map_or_else(behind, |number| number as usize)
    }

    /// How many things there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// All things with their numbers, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.pieces.iter().flatten().enumerate().filter_map(|(number, place)| match place {
            Place::Taken(thing) => Some((number, thing)),
            Place::Free(_) => None,
        })
    }

    /// As [`iter`](Self::iter), without the numbers, to change them.
    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.pieces.iter_mut().flatten().filter_map(|place| match place {
            Place::Taken(thing) => Some(thing),
            Place::Free(_) => None,
        })
    }

    fn place_mut(&mut self, number: usize) -> &mut Place<T> {
        &mut self.pieces[number / PIECE][number % PIECE]
    }
}

impl<T> Index<usize> for Arena<T> {
    type Output = T;

    fn index(&self, number: usize) -> &T {
        match &self.pieces[number / PIECE][number % PIECE] {
            Place::Taken(thing) => thing,
            Place::Free(_) => unused(number),
        }
    }
}

impl<T> IndexMut<usize> for Arena<T> {
    fn index_mut(&mut self, number: usize) -> &mut T {
        match self.place_mut(number) {
            Place::Taken(thing) => thing,
            Place::Free(_) => unused(number),
        }
    }
}

#[cold]
fn unused(number: usize) -> ! {
    panic!("nothing has the number {number}")
}

/// A number as the four bytes that are stored everywhere.
pub(crate) fn number_of(number: usize) -> u32 {
    u32::try_from(number).expect("four billion entries do not fit into memory")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Across pieces, beside the plainest model.
        #[test]
        fn it_keeps_things_by_number(steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..40)) {
            let (mut arena, mut model) = (Arena::default(), BTreeMap::new());
            let mut next = 0;
            for (add, which) in steps {
                for _ in 0..100 {
                    if add {
                        let key = arena.vacant_key();
                        prop_assert_eq!(arena.insert(next), key);
                        prop_assert!(model.insert(key, next).is_none());
                        next += 1;
                    } else if !model.is_empty() {
                        let key = *model.keys().nth(which.index(model.len())).unwrap();
                        prop_assert_eq!(Some(arena.remove(key)), model.remove(&key));
                    }
                }
                prop_assert_eq!(arena.len(), model.len());
                prop_assert!(arena.iter().map(|(key, &value)| (key, value)).eq(model.clone()));
            }
            for (key, value) in model {
                prop_assert_eq!(arena[key], value);
            }
        }
    }
}
