//! What is wrong with a sentence, and where.

use std::{fmt, ops::Range};

/// More characters of a line are not shown.
const SHOWN: usize = 160;

/// A sentence that is no rule, with everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRule {
    faults: Vec<WordFault>,
}

impl BadRule {
    /// In the order of the words; there is at least one.
    pub(crate) fn new(mut faults: Vec<WordFault>) -> Self {
        faults.sort_by_key(|fault| (fault.span.start, fault.span.end));
        Self { faults }
    }

    /// All that is wrong, in the order of the words.
    pub fn faults(&self) -> &[WordFault] {
        &self.faults
    }

    /// True if a word stands where the grammar has no place for it, or one is missing; false if only values (a port,
    /// a CIDR …) are wrong.
    pub fn is_grammar(&self) -> bool {
        self.faults.iter().any(|fault| fault.grammar)
    }
}

impl fmt::Display for BadRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons: Vec<&str> = self.faults.iter().map(WordFault::reason).collect();
        f.write_str(&reasons.join("; "))
    }
}

impl std::error::Error for BadRule {}

/// One thing that is wrong. Its text is the reason and, on the next two lines, the sentence with the words at fault
/// underlined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WordFault {
    line: String,
    span: Range<usize>,
    reason: String,
    hint: Option<String>,
    grammar: bool,
}

impl WordFault {
    pub(crate) fn new(line: &str, span: Range<usize>, grammar: bool, reason: String) -> Self {
        Self { line: line.to_owned(), span, reason, hint: None, grammar }
    }

    pub(crate) fn with_hint(self, hint: Option<String>) -> Self {
        Self { hint, ..self }
    }

    /// The words at fault.
    pub fn words(&self) -> &str {
        &self.line[self.span.clone()]
    }

    /// What is wrong with them: a sentence.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The way out, if it is known.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for WordFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.reason, underlined(&self.line, self.span.clone()))
    }
}

/// A text on a line of its own, and below it marks for the bytes of `span`; begins with a line feed. Of a long text
/// only what is around them.
///
/// # Panics
/// If the span is not one of the text's.
pub fn underlined(text: &str, span: Range<usize>) -> String {
    // One line, so that the marks stand below what they mark.
    let letters: Vec<char> = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    let (start, end) = (text[..span.start].chars().count(), text[..span.end].chars().count());
    let first = if letters.len() > SHOWN { start.saturating_sub(SHOWN / 2) } else { 0 };
    let last = letters.len().min(first + SHOWN);
    let line: String = letters[first..last].iter().collect();
    let (before, after) = (if first > 0 { "…" } else { "" }, if last < letters.len() { "…" } else { "" });
    let marked = end.min(last).saturating_sub(start).max(1);
    let blanks = start - first + before.chars().count();
    format!("\n    {before}{line}{after}\n    {}{}", " ".repeat(blanks), "^".repeat(marked))
}
