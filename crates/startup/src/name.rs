//! The node's name.
//!
//! v3 wants a DNS-1123 subdomain (RFC 1123 section 2.1, in lower case): the name is a segment of keys and half of
//! every endpoint's name.

use crate::{StartupError, Warning};

/// The longest name that Kubernetes' rules, which v3 follows, allow.
const LONGEST: usize = 253;

/// The name of this host as a node: as given, else the operating system's host name; in lower case.
///
/// # Errors
/// [`StartupError::Name`] says which rule the name breaks.
pub fn node_name(given: Option<&str>) -> Result<String, StartupError> {
    settle(given).map(|(name, _)| name)
}

pub(crate) fn settle(given: Option<&str>) -> Result<(String, Vec<Warning>), StartupError> {
    let system = rustix::system::uname();
    let name = match given.filter(|given| !given.is_empty()) {
        Some(given) => given.to_ascii_lowercase(),
        None => system.nodename().to_string_lossy().to_ascii_lowercase(),
    };
    if let Some(cause) = fault(&name) {
        return Err(StartupError::Name { name, cause: cause.to_owned() });
    }
    let mut warnings = Vec::new();
    if name == "localhost" || name.starts_with("localhost.") {
        let message = format!("the node is called {name}, as other hosts may be that were never given a name");
        warnings.push(Warning::new(message, "give the host a name of its own, or the node one with --name"));
    }
    Ok((name, warnings))
}

/// The rule that a name breaks.
fn fault(name: &str) -> Option<&'static str> {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if name.is_empty() {
        Some("it is empty")
    } else if name.len() > LONGEST {
        Some("it is longer than 253 characters")
    } else if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte)) {
        Some("only letters, digits, dashes and dots are allowed")
    } else if !name.split('.').all(|label| edge(label.bytes().next()) && edge(label.bytes().last())) {
        Some("it and each part between dots must begin and end with a letter or a digit")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_become_lower_case() {
        assert_eq!(node_name(Some("Rack1-H1.Example")).unwrap(), "rack1-h1.example");
    }

    #[test]
    fn without_a_name_it_is_the_systems() {
        let system = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_ascii_lowercase();
        for none in [None, Some("")] {
            match node_name(none) {
                Ok(name) => assert_eq!(name, system),
                // The machine that runs the tests may be called something that is no node's name.
                Err(StartupError::Name { name, .. }) => assert_eq!(name, system),
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn bad_names_are_refused() {
        let long = "x".repeat(254);
        for bad in ["a_b", "a b", "-a", "a-", ".a", "a.", "a..b", "a.-b", "ä", "a/b", long.as_str()] {
            assert!(matches!(node_name(Some(bad)), Err(StartupError::Name { .. })), "{bad}");
        }
        for good in ["a", "1", "a-b.c-d", &"x".repeat(253)] {
            assert!(node_name(Some(good)).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_name_that_many_have_is_told() {
        assert_eq!(settle(Some("localhost")).unwrap().1.len(), 1);
        assert!(settle(Some("h1")).unwrap().1.is_empty());
    }
}
