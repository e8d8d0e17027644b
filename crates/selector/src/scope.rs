//! From the selectors of v3 resources to those that are evaluated.
//!
//! A v3 resource has several selectors that together say which endpoints are meant: `selector` over the endpoints'
//! own labels, others over the labels of their namespace and service account. Endpoints carry the latter with a
//! prefix, so all of it can be joined into one text. The rules are upstream's and partly odd: `all()` and `global()`
//! are replaced as text, also inside quotes, but set names depend on the result and must be equal.
//!
//! Where upstream drops a part that it cannot read, and so lets a rule reach further than written, these functions
//! fail: the caller must then close what the resource governs. The results of a blank `selector` or `notSelector`
//! beside other parts do not parse, which comes to the same.

use crate::{ParseError, parse, print::Quoted};

/// What the keys of namespaces' labels start with on endpoints.
pub const NAMESPACE_PREFIX: &str = "pcns.";
/// What the keys of service accounts' labels start with on endpoints.
pub const SERVICE_ACCOUNT_PREFIX: &str = "pcsa.";
/// The label with an endpoint's namespace.
pub const NAMESPACE_LABEL: &str = "projectcalico.org/namespace";
/// The label with an endpoint's service account.
pub const SERVICE_ACCOUNT_LABEL: &str = "projectcalico.org/serviceaccount";

/// A part of a resource's selectors that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScopeError {
    /// One of the selectors does not parse.
    #[error("{field}: {source}")]
    Selector {
        /// The v3 field.
        field: &'static str,
        /// What is wrong with it.
        source: ParseError,
    },
    /// A service account's name that no label can have.
    #[error("serviceAccounts.names: {0:?} is not the name of a service account")]
    ServiceAccount(String),
}

/// The selectors of a policy: which endpoints it applies to. Empty fields are absent ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct PolicySelectors<'a> {
    /// The namespace of a `NetworkPolicy`; `None` for a global one.
    pub namespace: Option<&'a str>,
    /// `selector`
    pub selector: &'a str,
    /// `namespaceSelector`; global policies only.
    pub namespace_selector: &'a str,
    /// `serviceAccountSelector`
    pub service_account_selector: &'a str,
}

impl PolicySelectors<'_> {
    /// The one selector that is evaluated.
    ///
    /// # Errors
    /// [`ScopeError`] if a part cannot be read: the policy must not apply to more than written.
    pub fn combine(&self) -> Result<String, ScopeError> {
        check("selector", self.selector)?;
        let mut combined = self.selector.to_owned();
        if let Some(namespace) = self.namespace {
            let term = format!("{NAMESPACE_LABEL} == '{namespace}'");
            combined = and(&combined, &term, Bare::Second);
        }
        if !self.namespace_selector.is_empty() {
            let term = prefixed("namespaceSelector", self.namespace_selector, NAMESPACE_PREFIX)?;
            combined = and(&combined, &term, Bare::Second).replace("all()", &format!("has({NAMESPACE_LABEL})"));
        }
        if !self.service_account_selector.is_empty() {
            let term = prefixed("serviceAccountSelector", self.service_account_selector, SERVICE_ACCOUNT_PREFIX)?;
            combined = and(&combined, &term, Bare::Second);
            if self.namespace.is_none() {
                combined = combined.replace("all()", &format!("has({SERVICE_ACCOUNT_LABEL})"));
            }
        }
        Ok(combined)
    }
}

/// The selectors of one end of a rule. Empty fields are absent ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct EntitySelectors<'a> {
    /// The namespace of the `NetworkPolicy` that holds the rule; `None` for global policies and profiles.
    pub namespace: Option<&'a str>,
    /// `selector`
    pub selector: &'a str,
    /// `notSelector`
    pub not_selector: &'a str,
    /// `namespaceSelector`
    pub namespace_selector: &'a str,
    /// `serviceAccounts.names`
    pub service_account_names: &'a [String],
    /// `serviceAccounts.selector`
    pub service_account_selector: &'a str,
}

/// What one end of a rule asks of an address. At most one of the two is present, unless neither is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EntitySelector {
    /// An endpoint that this selects has the address.
    pub positive: Option<String>,
    /// No endpoint that this selects has the address.
    pub negative: Option<String>,
}

impl EntitySelectors<'_> {
    /// The positive part, without `notSelector`; empty if there is none.
    ///
    /// # Errors
    /// [`ScopeError`] if a part cannot be read: the rule must not match more than written.
    pub fn combine_positive(&self) -> Result<String, ScopeError> {
        check("selector", self.selector)?;
        let accounts = self.service_accounts()?;
        let namespace = if !self.namespace_selector.is_empty() {
            prefixed("namespaceSelector", self.namespace_selector, NAMESPACE_PREFIX)?
                .replace("all()", &format!("has({NAMESPACE_LABEL})"))
                .replace("global()", &format!("!has({NAMESPACE_LABEL})"))
        } else if let Some(namespace) = self.namespace
            && !(self.selector.is_empty() && self.not_selector.is_empty() && accounts.is_empty())
        {
            format!("{NAMESPACE_LABEL} == '{namespace}'")
        } else {
            String::new()
        };
        Ok(and(&namespace, &and(&accounts, self.selector, Bare::Neither), Bare::Neither))
    }

    /// Both parts, `notSelector` folded into the positive one if there is one.
    ///
    /// # Errors
    /// As [`combine_positive`](Self::combine_positive).
    pub fn combine(&self) -> Result<EntitySelector, ScopeError> {
        check("notSelector", self.not_selector)?;
        let positive = self.combine_positive()?;
        let negative = self.not_selector;
        Ok(match (positive.is_empty(), negative.is_empty()) {
            (true, true) => EntitySelector::default(),
            (false, true) => EntitySelector { positive: Some(positive), negative: None },
            (true, false) => EntitySelector { positive: None, negative: Some(negative.to_owned()) },
            (false, false) => {
                EntitySelector { positive: Some(format!("({positive}) && (!({negative}))")), negative: None }
            }
        })
    }

    fn service_accounts(&self) -> Result<String, ScopeError> {
        let names = if self.service_account_names.is_empty() {
            String::new()
        } else {
            let mut names: Vec<&str> = self.service_account_names.iter().map(String::as_str).collect();
            if let Some(bad) = names.iter().find(|name| name.contains(['"', '\''])) {
                return Err(ScopeError::ServiceAccount((*bad).to_owned()));
            }
            names.sort_unstable();
            names.dedup();
            let quoted: Vec<String> = names.iter().map(|name| Quoted(name).to_string()).collect();
            format!("{SERVICE_ACCOUNT_LABEL} in {{{}}}", quoted.join(", "))
        };
        let selector = if self.service_account_selector.is_empty() {
            String::new()
        } else {
            prefixed("serviceAccounts.selector", self.service_account_selector, SERVICE_ACCOUNT_PREFIX)?
        };
        Ok(and(&selector, &names, Bare::Neither))
    }
}

/// Which side of `&&` stands without parentheses of its own.
#[derive(PartialEq)]
enum Bare {
    Second,
    Neither,
}

/// Both texts joined, or the one that is not empty.
fn and(first: &str, second: &str, bare: Bare) -> String {
    match (first.is_empty(), second.is_empty()) {
        (true, _) => second.to_owned(),
        (_, true) => first.to_owned(),
        _ if bare == Bare::Second => format!("({first}) && {second}"),
        _ => format!("({first}) && ({second})"),
    }
}

/// Each part must be a selector by itself: `a) || (b` would escape from the parentheses that are put around it.
fn check(field: &'static str, selector: &str) -> Result<(), ScopeError> {
    parse(selector).map(drop).map_err(|source| ScopeError::Selector { field, source })
}

fn prefixed(field: &'static str, selector: &str, prefix: &str) -> Result<String, ScopeError> {
    let parsed = parse(selector).map_err(|source| ScopeError::Selector { field, source })?;
    Ok(parsed.with_key_prefix(prefix))
}
