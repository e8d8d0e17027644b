//! What is wrong with a text that is not a selector, and where.

use std::ops::Range;

/// A text that is not a selector. The message says what was found and what is possible; the span is the place, in
/// bytes of the text, for underlining.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} (at byte {})", span.start)]
pub struct ParseError {
    message: String,
    span: Range<usize>,
}

impl ParseError {
    pub(crate) fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { message: message.into(), span }
    }

    /// What is wrong, without the place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The bytes at fault. Both ends are character boundaries; empty at the end of the text.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }
}
