//! The selectors of rules, joined into the texts that are evaluated.

use calico_model::EntityRule;
use calico_selector::parse;

use crate::{entity_selectors, index::HashMap};

/// What one end of a rule asks of an address; both texts parse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Combined {
    /// Something that this selects has the address.
    pub(crate) positive: Option<Box<str>>,
    /// Nothing that this selects has it.
    pub(crate) negative: Option<Box<str>>,
}

/// Joins the selectors of an end of a rule, and remembers what came of it: the rules of a cluster repeat themselves,
/// and parsing is what compiling them costs.
#[derive(Default)]
pub(crate) struct Selectors {
    known: HashMap<String, Combined>,
    /// Reused for keys.
    key: String,
}

/// How many answers are kept; above it all are forgotten.
const MAX_KNOWN: usize = 512;

impl Selectors {
    /// The texts to evaluate, or which part of them cannot be read and why.
    pub(super) fn of_entity(&mut self, namespace: Option<&str>, entity: &EntityRule) -> Result<Combined, String> {
        let parts = entity_selectors(namespace, entity);
        let texts = [parts.selector, parts.not_selector, parts.namespace_selector, parts.service_account_selector];
        let names = parts.service_account_names;
        if texts.iter().all(|text| text.is_empty()) && names.is_empty() {
            return Ok(Combined::default());
        }
        self.key.clear();
        // No selector that parses holds a zero outside quotes, and quotes do not cross the ends of the parts.
        for part in namespace.into_iter().chain(texts).chain(names.iter().map(String::as_str)) {
            self.key.push_str(part);
            self.key.push('\0');
        }
        self.key.push(if namespace.is_some() { 'n' } else { 'g' });
        if let Some(known) = self.known.get(&self.key) {
            return Ok(known.clone());
        }
        let combined = parts.combine().map_err(|error| error.to_string())?;
        // What stands alone has been parsed as a part.
        let alone = [parts.selector, parts.not_selector];
        let whole = |text: Option<String>| {
            text.map(|text| if alone.contains(&text.as_str()) { Ok(text.into()) } else { parses(text) }).transpose()
        };
        let combined = Combined { positive: whole(combined.positive)?, negative: whole(combined.negative)? };
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        self.known.insert(self.key.clone(), combined.clone());
        Ok(combined)
    }
}

/// What is joined need not parse although its parts do: one of blanks, a key that a prefix makes too long.
fn parses(text: String) -> Result<Box<str>, String> {
    match parse(&text) {
        Ok(_) => Ok(text.into()),
        Err(error) => Err(format!("{text:?} is no selector: {error}")),
    }
}
