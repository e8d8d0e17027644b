//! Labels as people type them, and as Docker keeps them.

use std::collections::BTreeMap;

use calico_workload::docker::Container;

use crate::failure::Failure;

/// A label of a container whose name begins so is one of its endpoint, as it was for upstream's Docker plugin.
const OF_DOCKER: &str = "org.projectcalico.label.";

/// Every write sets these to what is true.
const RESERVED: [&str; 2] = ["projectcalico.org/namespace", "projectcalico.org/orchestrator"];

const HINT: &str = "a label is KEY=VALUE, each up to 63 letters, digits, '-', '_' and '.', with a letter or digit at \
                    both ends; a key may have a DNS name and '/' before it, a value may be empty";

/// Reads `KEY=VALUE` words.
///
/// # Errors
/// Every word that is none, and keys that are given twice or belong to Calico.
pub(crate) fn parse(words: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let (mut labels, mut faults) = (BTreeMap::new(), Vec::new());
    for word in words {
        match word.split_once('=') {
            Some((key, value)) if !key.is_empty() => match labels.insert(key.to_owned(), value.to_owned()) {
                Some(_) => faults.push(format!("Label {key} was specified more than once.")),
                None => faults.extend(reserved(key)),
            },
            _ => faults.push(format!("Label {word:?} is not valid: it is not KEY=VALUE.")),
        }
    }
    if faults.is_empty() { Ok(labels) } else { Err(Failure::all(faults).hint(HINT)) }
}

/// Why a key must be left alone.
pub(crate) fn reserved(key: &str) -> Option<String> {
    RESERVED.contains(&key).then(|| format!("Label {key} belongs to Calico itself."))
}

/// The labels that a container's own labels say its endpoint has.
pub(crate) fn of_container(container: &Container) -> BTreeMap<String, String> {
    let own = container.labels.iter().filter_map(|(name, value)| {
        let key = name.strip_prefix(OF_DOCKER).filter(|key| !key.is_empty())?;
        Some((key.to_owned(), value.clone()))
    });
    own.collect()
}

/// The refusal of labels that cannot be stored.
///
/// # Errors
/// Each fault of the labels of an endpoint that is to be written.
pub(crate) fn check(faults: &[calico_model::Fault]) -> Result<(), Failure> {
    let bad: Vec<String> = faults
        .iter()
        .filter(|fault| fault.path.starts_with("metadata.labels"))
        .map(|fault| format!("Label {} is not valid: {}.", fault.value, fault.reason))
        .collect();
    if bad.is_empty() { Ok(()) } else { Err(Failure::all(bad).hint(HINT)) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn labels_are_keys_and_values() {
        let labels = parse(&words(&["role=web", "example.org/tier=", "a=b=c"])).unwrap();
        let pairs: Vec<_> = labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        assert_eq!(pairs, [("a", "b=c"), ("example.org/tier", ""), ("role", "web")]);
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let words = words(&["role", "=x", "a=1", "a=2", "projectcalico.org/namespace=x"]);
        let text = parse(&words).unwrap_err().to_string();
        for wrong in ["\"role\" is not", "\"=x\" is not", "Label a was specified more", "belongs to Calico"] {
            assert!(text.contains(wrong), "{wrong}: {text}");
        }
    }
}
