//! The label selector language: parse, print canonically, evaluate.
//!
//! This crate decides what a selector *means*: which texts are selectors, which label sets each of them matches,
//! and the canonical text that gives two spellings of one selector the same address set. It follows upstream's
//! library byte for byte (`vectors/selectors.json`), since both agents must name the same sets alike. It never does
//! I/O, and no input makes it recurse: thousands of nested parentheses cost memory, not stack.
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! let selector = calico_selector::parse("role in {'web', \"db\"} && !has(quarantine)")?;
//! assert_eq!(selector.to_string(), r#"(role in {"db", "web"} && !has(quarantine))"#);
//!
//! let labels = BTreeMap::from([("role".to_owned(), "web".to_owned())]);
//! assert!(selector.matches(&labels));
//!
//! let error = calico_selector::parse("role = 'web'").unwrap_err();
//! assert_eq!(error.span(), 5..6);
//! # Ok::<(), calico_selector::ParseError>(())
//! ```
//!
//! Names to know: [`Selector`] is a parsed expression; [`Labels`] is what it is evaluated over; [`Cover`] says which
//! labels a match must have, for indexes; [`scope`] rewrites the selectors of v3 resources to what is evaluated;
//! [`set_id`] names the address sets.

mod cover;
mod error;
mod labels;
mod node;
mod parse;
mod print;
pub mod scope;
pub mod set_id;

use std::str::FromStr;

pub use cover::{Clue, Cover};
pub use error::ParseError;
pub use labels::{Labels, Layered};
use node::{ACCEPT, Node, REJECT, Span, Test, What};

/// The longest label key that parses, in bytes.
pub const MAX_KEY_BYTES: usize = 512;

/// A parsed selector: a condition on labels.
///
/// Held flat: keys and values are ranges of the source text, and the tests stand in the order in which they are
/// evaluated, each with the test that follows when it holds and when it does not.
#[derive(Clone)]
pub struct Selector {
    /// What was parsed. The language has no escapes, so every key and value is a part of it.
    text: Box<str>,
    /// The tree in prefix order; only printing and [`cover`](Self::cover) look at it.
    nodes: Box<[Node]>,
    /// The leaves of the tree, left to right.
    tests: Box<[Test]>,
    /// The members of all `in {…}`, sorted and without repeats within each.
    members: Box<[Span]>,
}

/// Parses a selector. An empty or blank text is `all()`.
///
/// # Errors
/// [`ParseError`] says what is wrong and where.
pub fn parse(text: &str) -> Result<Selector, ParseError> {
    parse::parse(text)
}

impl Selector {
    /// True if the labels satisfy the selector. Values are compared as bytes. `global()` is true: its meaning comes
    /// from rewriting ([`scope`]).
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        let mut at = 0;
        loop {
            let test = &self.tests[at as usize];
            at = if self.holds(test, labels) { test.yes } else { test.no };
            match at {
                ACCEPT => return true,
                REJECT => return false,
                // Both targets lie behind the test, so this ends.
                _ => {}
            }
        }
    }

    /// The name of the address set of the endpoints that this selects: the same for all spellings with one
    /// canonical form, and the same as upstream's.
    pub fn unique_id(&self) -> String {
        set_id::of_canonical(&self.to_string())
    }

    /// The keys that the selector mentions, in the order of the text, repeats included.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.tests.iter().filter_map(|test| test.what.key()).map(|key| self.slice(key))
    }

    /// True if `global()` stands anywhere in the selector, for those who only allow it in some places.
    pub fn mentions_global(&self) -> bool {
        self.tests.iter().any(|test| matches!(test.what, What::Global))
    }

    /// What the selector asks of each key that it mentions, in the order of the text, repeats included.
    pub fn asks(&self) -> impl Iterator<Item = (&str, Ask<'_>)> {
        self.tests.iter().filter_map(|test| {
            let ask = match test.what {
                What::All | What::Global => return None,
                What::Has(_) => Ask::Presence,
                What::Equal(_, value) | What::NotEqual(_, value) => Ask::Value(self.slice(value)),
                What::In(_, set) | What::NotIn(_, set) => {
                    Ask::Values(self.set(set).iter().map(|&member| self.slice(member)).collect())
                }
                What::Contains(..) | What::StartsWith(..) | What::EndsWith(..) => Ask::Text,
            };
            Some((self.slice(test.what.key()?), ask))
        })
    }

    fn holds(&self, test: &Test, labels: &(impl Labels + ?Sized)) -> bool {
        let value = |key| labels.get(self.slice(key));
        match test.what {
            What::All | What::Global => true,
            What::Has(key) => value(key).is_some(),
            What::Equal(key, wanted) => value(key) == Some(self.slice(wanted)),
            What::NotEqual(key, wanted) => value(key) != Some(self.slice(wanted)),
            What::Contains(key, part) => value(key).is_some_and(|value| value.contains(self.slice(part))),
            What::StartsWith(key, part) => value(key).is_some_and(|value| value.starts_with(self.slice(part))),
            What::EndsWith(key, part) => value(key).is_some_and(|value| value.ends_with(self.slice(part))),
            What::In(key, set) => value(key).is_some_and(|value| self.has_member(set, value)),
            What::NotIn(key, set) => !value(key).is_some_and(|value| self.has_member(set, value)),
        }
    }

    fn has_member(&self, set: Span, value: &str) -> bool {
        self.set(set).binary_search_by(|&member| self.slice(member).cmp(value)).is_ok()
    }

    fn slice(&self, span: Span) -> &str {
        span.of(&self.text)
    }

    fn set(&self, set: Span) -> &[Span] {
        &self.members[set.start as usize..set.end as usize]
    }
}

/// What a condition looks at in a label: labels that differ in nothing of it are all the same to the condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask<'a> {
    /// Whether the label is there.
    Presence,
    /// Whether its value is this one.
    Value(&'a str),
    /// Whether its value is one of these.
    Values(Vec<&'a str>),
    /// Parts of its value.
    Text,
}

impl Ask<'_> {
    /// The values that are told apart from all others.
    pub fn values(&self) -> &[&str] {
        match self {
            Self::Value(value) => std::slice::from_ref(value),
            Self::Values(values) => values,
            Self::Presence | Self::Text => &[],
        }
    }
}

impl FromStr for Selector {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse(text)
    }
}
