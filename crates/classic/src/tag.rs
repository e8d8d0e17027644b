//! Tags: what the classic model calls a group of endpoints.
//!
//! A profile *has* tags; an endpoint has those of all its profiles; a rule speaks of the endpoints that have one. In v3
//! that is a label with an empty value, lent by the profile. The test is equality with the empty text and not
//! presence, as upstream's converter writes it: an endpoint with a label of its own of that name and another value
//! does not have the tag.

use std::fmt;

use calico_model::ProfileName;

/// A tag: 1 to 63 letters, digits, dots, dashes and underscores, with a letter or digit at both ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag(String);

/// A word that is no tag, with the rule that it breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagError {
    /// The word.
    pub tag: String,
    /// The rule.
    pub reason: &'static str,
}

impl fmt::Display for TagError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tag {:?} is not valid: {}", self.tag, self.reason)
    }
}

impl std::error::Error for TagError {}

impl Tag {
    /// Takes a word. A new profile has the tag of its own name, so both follow one rule.
    ///
    /// # Errors
    /// The rule that the word breaks.
    pub fn parse(word: &str) -> Result<Self, TagError> {
        match ProfileName::typed(word) {
            Ok(_) => Ok(Self(word.to_owned())),
            Err(error) => Err(TagError { tag: word.to_owned(), reason: error.reason }),
        }
    }

    /// The tag that a selector asks for, if that is all it asks for.
    pub fn of_selector(selector: &str) -> Option<Self> {
        let (key, value) = selector.split_once("==")?;
        let blank = |letter: char| letter == ' ' || letter == '\t';
        if !matches!(value.trim_matches(blank), "''" | "\"\"") {
            return None;
        }
        Self::parse(key.trim_matches(blank)).ok()
    }

    /// The selector of the endpoints that have it.
    pub fn selector(&self) -> String {
        format!("{} == ''", self.0)
    }

    /// The word.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_tag_is_a_selector_also_where_it_is_a_word_of_their_language() {
        for word in ["WEB", "has", "all", "global", "in", "not", "contains", "a.b_c-d", "0", "9-9", "starts"] {
            let tag = Tag::parse(word).unwrap();
            let selector = calico_selector::parse(&tag.selector()).unwrap();
            assert!(selector.matches(&std::collections::BTreeMap::from([(word.to_owned(), String::new())])), "{word}");
            assert!(!selector.matches(&std::collections::BTreeMap::from([(word.to_owned(), "x".to_owned())])));
            assert_eq!(Tag::of_selector(&tag.selector()), Some(tag));
        }
    }

    #[test]
    fn a_selector_that_asks_for_more_is_no_tag() {
        for selector in ["", "a", "a == 'x'", "has(a)", "a == '' && b == ''", "(a == '')", "!a == ''", "a/b == ''"] {
            assert_eq!(Tag::of_selector(selector), None, "{selector}");
        }
        assert_eq!(Tag::of_selector("\ta==\"\" ").unwrap().as_str(), "a");
    }
}
