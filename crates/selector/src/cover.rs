//! Which labels a match must have, for indexes over many selectors or many label sets.

use crate::{
    Selector,
    node::{Node, What},
};

/// One thing that a label set may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Clue<'a> {
    /// A label with this key.
    Has(&'a str),
    /// A label with this key and value.
    Is(&'a str, &'a str),
}

/// What all label sets that a selector matches have in common. Necessary, not sufficient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cover<'a> {
    /// Nothing: any label set may match.
    Everything,
    /// Each match has at least one of these. None at all: the selector never matches.
    AnyOf(Vec<Clue<'a>>),
}

impl<'a> Cover<'a> {
    const NEVER: Self = Cover::AnyOf(Vec::new());

    fn clue(clue: Clue<'a>) -> Self {
        Cover::AnyOf(vec![clue])
    }

    /// For a condition of which any part suffices.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Cover::AnyOf(mut clues), Cover::AnyOf(more)) => {
                clues.extend(more);
                Cover::AnyOf(clues)
            }
            _ => Cover::Everything,
        }
    }

    /// For a condition that needs both parts: either one covers it.
    fn and(self, other: Self, cost: &impl Fn(&Clue<'a>) -> usize) -> Self {
        let price = |cover: &Self| match cover {
            Cover::Everything => usize::MAX,
            Cover::AnyOf(clues) => clues.iter().map(cost).fold(0, usize::saturating_add),
        };
        if price(&self) <= price(&other) { self } else { other }
    }
}

impl Selector {
    /// A cover, the cheapest where there is a choice (`a && b` is covered by either side). `cost` says how many
    /// label sets have what a clue asks for, or anything that grows with it.
    pub fn cover<'a>(&'a self, cost: impl Fn(&Clue<'a>) -> usize) -> Cover<'a> {
        let mut tests = self.tests.iter().rev();
        // Subtrees to the right that have no parent yet, the nearest on top: the cover of each and of its negation.
        let mut right: Vec<(Cover<'a>, Cover<'a>)> = Vec::new();
        for node in self.nodes.iter().rev() {
            let covers = match *node {
                Node::Test => self.cover_test(tests.next().expect("there are as many tests as test nodes").what),
                Node::Not => {
                    let (cover, negation) = right.pop().expect("a Not has one child");
                    (negation, cover)
                }
                Node::And(children) => {
                    join(&mut right, children, |(a, not_a), (b, not_b)| (a.and(b, &cost), not_a.or(not_b)))
                }
                Node::Or(children) => {
                    join(&mut right, children, |(a, not_a), (b, not_b)| (a.or(b), not_a.and(not_b, &cost)))
                }
            };
            right.push(covers);
        }
        right.pop().expect("the tree has a root").0
    }

    fn cover_test(&self, what: What) -> (Cover<'_>, Cover<'_>) {
        let any_member = |key, set| {
            Cover::AnyOf(self.set(set).iter().map(|&member| Clue::Is(self.slice(key), self.slice(member))).collect())
        };
        match what {
            What::All | What::Global => (Cover::Everything, Cover::NEVER),
            What::Has(key) | What::Contains(key, _) | What::StartsWith(key, _) | What::EndsWith(key, _) => {
                (Cover::clue(Clue::Has(self.slice(key))), Cover::Everything)
            }
            What::Equal(key, value) => (Cover::clue(Clue::Is(self.slice(key), self.slice(value))), Cover::Everything),
            What::NotEqual(key, value) => {
                (Cover::Everything, Cover::clue(Clue::Is(self.slice(key), self.slice(value))))
            }
            What::In(key, set) => (any_member(key, set), Cover::Everything),
            What::NotIn(key, set) => (Cover::Everything, any_member(key, set)),
        }
    }
}

/// Joins the topmost subtrees, which are the children of one list, into one.
fn join<T>(right: &mut Vec<T>, children: u32, mut pair: impl FnMut(T, T) -> T) -> T {
    let mut joined = right.pop().expect("a list has children");
    for _ in 1..children {
        let next = right.pop().expect("a list has as many children as it says");
        joined = pair(joined, next);
    }
    joined
}
