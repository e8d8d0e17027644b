//! Names that people type and names that v3 allows.
//!
//! The classic tools let a profile be called `PROF_A_B`; a v3 name must be a DNS-1123 subdomain, and upstream's
//! Felix treats a profile stored under anything else as missing. So a typed name has a *stored* form: lower case,
//! invalid runs turned to `-`, and, when anything had to change, `-` and 8 hex digits of the SHA-1 of the typed
//! name, which keeps `A_B` and `a-b` apart. The typed name itself rides along in an annotation.

use std::fmt;

use sha1::{Digest, Sha1};

/// Annotation on a resource whose name was normalised: the name as it was typed.
pub const ANNOTATION_TYPED_NAME: &str = "org.projectcalico/typed-name";

/// A name that cannot be a profile's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("profile name {name:?} is not valid: {reason}")]
pub struct NameError {
    /// What was typed.
    pub name: String,
    /// Which rule it breaks.
    pub reason: &'static str,
}

/// A profile's name in both forms: as typed (shown to people, used as label key) and as stored (used in keys and
/// in endpoints' profile lists).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileName {
    typed: String,
    stored: String,
}

impl ProfileName {
    /// Takes what a person typed: `[a-zA-Z0-9_.-]`, at least one letter or digit, at most 63 characters (the name
    /// is also a label key).
    ///
    /// # Errors
    /// The rule that the name breaks.
    pub fn typed(name: &str) -> Result<Self, NameError> {
        let refuse = |reason| Err(NameError { name: name.to_owned(), reason });
        if name.is_empty() {
            return refuse("it is empty");
        }
        if name.len() > 63 {
            return refuse("it is longer than 63 characters");
        }
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) {
            return refuse("only letters, digits, dots, dashes and underscores are allowed");
        }
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        if !edge(name.bytes().next()) || !edge(name.bytes().last()) {
            return refuse("it must start and end with a letter or a digit");
        }
        Ok(Self { typed: name.to_owned(), stored: normalise(name) })
    }

    /// A name read from the datastore, with the typed form from the annotation if there is one.
    pub fn stored(name: &str, annotation: Option<&str>) -> Self {
        let typed = annotation.filter(|typed| normalise(typed) == name).unwrap_or(name);
        Self { typed: typed.to_owned(), stored: name.to_owned() }
    }

    /// As people see it.
    pub fn as_typed(&self) -> &str {
        &self.typed
    }

    /// As v3 stores it.
    pub fn as_stored(&self) -> &str {
        &self.stored
    }

    /// True if the two forms differ, so that the annotation is needed.
    pub fn needs_annotation(&self) -> bool {
        self.typed != self.stored
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.typed)
    }
}

/// Upstream's v1 to v3 conversion of names: lower-case; `/` → `.`; each run of other invalid characters → `-`; each
/// run of `.` and `-` that contains a `.` → one `.`; no `.` or `-` at the ends; if anything changed, `-` and the
/// first 8 hex digits of the SHA-1 of the original.
pub fn normalise(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 9);
    let mut invalid_run = false;
    for c in name.chars() {
        let c = if c == '/' { '.' } else { c.to_ascii_lowercase() };
        if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-' {
            out.push(c);
            invalid_run = false;
        } else if !invalid_run {
            out.push('-');
            invalid_run = true;
        }
    }
    let mut collapsed = String::with_capacity(out.len());
    let mut rest = out.as_str();
    while let Some(start) = rest.find(['.', '-']) {
        collapsed.push_str(&rest[..start]);
        let run_len = rest[start..].bytes().take_while(|b| b".-".contains(b)).count();
        let run = &rest[start..start + run_len];
        collapsed.push_str(if run.contains('.') { "." } else { run });
        rest = &rest[start + run_len..];
    }
    collapsed.push_str(rest);
    let trimmed = collapsed.trim_matches(['.', '-']);
    if trimmed == name {
        return trimmed.to_owned();
    }
    let digest = Sha1::digest(name.as_bytes());
    let hash: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    if trimmed.is_empty() { hash } else { format!("{trimmed}-{hash}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalised_as_upstream_converts() {
        for (typed, stored) in [("web", "web"), ("WEB", "web-f1e29c6d"), ("a.b-c", "a.b-c")] {
            assert_eq!(normalise(typed), stored);
        }
        assert!(normalise("PROF_A_B").starts_with("prof-a-b-"));
        assert_ne!(normalise("A_B"), normalise("a-b"));
        assert!(normalise("x-.-y").starts_with("x.y-"));
    }

    #[test]
    fn the_annotation_is_believed_only_if_it_belongs_to_the_name() {
        let name = ProfileName::typed("PROF_A_B").expect("valid");
        assert_eq!(ProfileName::stored(name.as_stored(), Some("PROF_A_B")).as_typed(), "PROF_A_B");
        assert_eq!(ProfileName::stored("web", Some("admin")).as_typed(), "web");
    }

    #[test]
    fn bad_names_are_refused() {
        for bad in ["", "a b", "ü", "-a", "a_", "a/b", &"x".repeat(64)] {
            assert!(ProfileName::typed(bad).is_err(), "{bad:?}");
        }
    }
}
