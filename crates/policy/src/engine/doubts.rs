//! Network sets that are stored but cannot be read: nobody knows which addresses they hold.
//!
//! Without members they are safe where a rule opens for the set's members (`Allow`), and where it closes for all
//! others (`Deny` with a negated selector). In every other use an empty set would open what it was meant to close, so
//! a policy or profile with such a rule cannot be followed while the set may be meant.

use std::collections::BTreeMap;

use calico_model::{KindName, ResourceKey};
use calico_selector::parse;

use crate::{
    compile::{Code, CodeEnd},
    index::Index,
    instruction::RuleAction,
};

/// What the names of profiles start with that namespaces have.
pub(super) const NAMESPACE_PROFILE: &str = "kns.";

/// What is known of an unusable set's labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Labelled {
    pub(super) own: BTreeMap<String, String>,
    /// Profiles that it inherits from.
    pub(super) parents: Vec<String>,
}

/// The unusable network sets; `None` for one whose labels cannot be read either.
#[derive(Default)]
pub(super) struct Doubts {
    sets: BTreeMap<ResourceKey, Option<Labelled>>,
}

impl Doubts {
    /// Notes an unusable set. True if that is news.
    pub(super) fn insert(&mut self, key: &ResourceKey, labels: Option<Labelled>) -> bool {
        if self.sets.get(key) == Some(&labels) {
            return false;
        }
        self.sets.insert(key.clone(), labels);
        true
    }

    /// The set is usable, or gone. True if that is news.
    pub(super) fn remove(&mut self, key: &ResourceKey) -> bool {
        self.sets.remove(key).is_some()
    }

    /// True if unusable sets inherit from a profile.
    pub(super) fn inherit_from(&self, profile: &str) -> bool {
        self.sets.values().flatten().any(|labelled| labelled.parents.iter().any(|parent| parent == profile))
    }

    /// Why a rule list cannot be followed, if it has a rule for which an unusable set matters.
    pub(super) fn about(&self, code: &Code, index: &Index) -> Option<String> {
        if self.sets.is_empty() {
            return None;
        }
        let key = code.rules().find_map(|rule| rule.ends().find_map(|end| self.about_end(end, rule.action, index)))?;
        let namespace = key.namespace.as_deref().map(|name| format!("{name}/")).unwrap_or_default();
        let kind = if key.kind == KindName::NetworkSet { "NetworkSet" } else { "GlobalNetworkSet" };
        Some(format!("{kind} {namespace}{} cannot be used, and a rule may mean its members", key.name))
    }

    fn about_end(&self, end: &CodeEnd, action: RuleAction, index: &Index) -> Option<&ResourceKey> {
        let (positive, negative) = match action {
            RuleAction::Allow => (None, end.negative.as_deref()),
            RuleAction::Deny => (end.positive.as_deref(), None),
            RuleAction::Pass => (end.positive.as_deref(), end.negative.as_deref()),
            RuleAction::Log => (None, None),
        };
        [positive, negative].into_iter().flatten().find_map(|selector| self.maybe_selected(selector, index))
    }

    fn maybe_selected(&self, selector: &str, index: &Index) -> Option<&ResourceKey> {
        let selector = parse(selector).ok()?;
        let maybe =
            |labels: &Option<Labelled>| labels.as_ref().is_none_or(|labels| selector.matches(&labels.effective(index)));
        self.sets.iter().find(|(_, labels)| maybe(labels)).map(|(key, _)| key)
    }
}

impl Labelled {
    fn effective(&self, index: &Index) -> BTreeMap<String, String> {
        let mut effective = self.own.clone();
        for (key, value) in self.parents.iter().flat_map(|parent| index.parent_labels(parent)) {
            effective.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        }
        effective
    }
}
