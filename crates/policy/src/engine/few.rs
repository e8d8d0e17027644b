//! Lists that mostly hold one number.

/// Numbers without an order. One takes no memory of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(clippy::box_collection, reason = "many are rare, and a vector would make all the others larger")]
pub(super) enum Few<T> {
    #[default]
    None,
    One(T),
    Many(Box<Vec<T>>),
}

impl<T: Copy + PartialEq> Few<T> {
    /// Adds one that is not there.
    pub(super) fn push(&mut self, number: T) {
        match self {
            Self::None => *self = Self::One(number),
            Self::One(first) => *self = Self::Many(Box::new(vec![*first, number])),
            Self::Many(many) => many.push(number),
        }
    }

    /// Takes one out, if it is there.
    pub(super) fn remove(&mut self, number: T) {
        match self {
            Self::One(one) if *one == number => *self = Self::None,
            Self::None | Self::One(_) => {}
            Self::Many(many) => {
                if let Some(place) = many.iter().position(|other| *other == number) {
                    many.swap_remove(place);
                }
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.as_slice().len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = T> {
        self.as_slice().iter().copied()
    }

    fn as_slice(&self) -> &[T] {
        match self {
            Self::None => &[],
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

impl<T: Copy + PartialEq> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(numbers: I) -> Self {
        let mut few = Self::default();
        numbers.into_iter().for_each(|number| few.push(number));
        few
    }
}
