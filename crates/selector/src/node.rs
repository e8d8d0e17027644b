//! The flat form of a selector.
//!
//! Invariants: the nodes form one tree in prefix order; `And` and `Or` have at least two children; the *n*-th
//! `Test` node is the *n*-th element of the tests; a test's targets lie behind it or are [`ACCEPT`] or [`REJECT`].

/// Target of a test: the labels match.
pub(crate) const ACCEPT: u32 = u32::MAX;
/// Target of a test: the labels do not match.
pub(crate) const REJECT: u32 = u32::MAX - 1;
/// Texts must be shorter than this, so that no position is mistaken for a target.
pub(crate) const MAX_TEXT_BYTES: usize = (u32::MAX - 2) as usize;

/// A range: of bytes of the text, or of the selector's set members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Span {
    /// A range whose bounds were checked against [`MAX_TEXT_BYTES`] once, for the whole text.
    pub(crate) fn new(start: usize, end: usize) -> Self {
        let narrow = |at: usize| u32::try_from(at).expect("the parser refuses texts longer than MAX_TEXT_BYTES");
        Self { start: narrow(start), end: narrow(end) }
    }

    pub(crate) fn of(self, text: &str) -> &str {
        &text[self.start as usize..self.end as usize]
    }
}

/// One node of the tree; its children follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    /// All of so many children.
    And(u32),
    /// Any of so many children.
    Or(u32),
    /// Not the one child. Children that are `Not` stay as they are: they print, and hash, differently.
    Not,
    /// The next test.
    Test,
}

/// A leaf, with where evaluation goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Test {
    pub(crate) what: What,
    /// The next test if this one holds.
    pub(crate) yes: u32,
    /// The next test if it does not.
    pub(crate) no: u32,
}

/// The condition of a leaf: a key and what is asked of its value.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    All,
    Global,
    Has(Span),
    Equal(Span, Span),
    NotEqual(Span, Span),
    Contains(Span, Span),
    StartsWith(Span, Span),
    EndsWith(Span, Span),
    /// The second span is one of members.
    In(Span, Span),
    NotIn(Span, Span),
}

impl What {
    pub(crate) fn key(self) -> Option<Span> {
        match self {
            Self::All | Self::Global => None,
            Self::Has(key)
            | Self::Equal(key, _)
            | Self::NotEqual(key, _)
            | Self::Contains(key, _)
            | Self::StartsWith(key, _)
            | Self::EndsWith(key, _)
            | Self::In(key, _)
            | Self::NotIn(key, _) => Some(key),
        }
    }
}
