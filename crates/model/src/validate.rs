//! Validation: every fault of a resource at once, each with the path of the field, the value and the reason.
//!
//! The rules are upstream's: what its client refuses when it writes, and nothing more, since what one of the two
//! programs stores the other must be able to read. A field that a write fills in may be empty, so that objects of
//! older versions pass.
//!
//! Shared checks take the collector first: [`Faults`] gathers, so that a person sees everything at once.

mod address;
mod bgp;
mod bgp_filter;
mod endpoint;
mod felix;
mod network_set;
mod node;
mod others;
mod policy;
mod policy_rule;
mod pool;
mod rule;
mod selector;
mod staged_kubernetes;

use std::{collections::BTreeMap, fmt};

use serde_json::{Map, Value};

use crate::{KindName, Metadata};

pub(crate) use bgp::{bgp_configuration, bgp_peer};
pub(crate) use bgp_filter::bgp_filter;
pub(crate) use endpoint::{host_endpoint, workload_endpoint};
pub(crate) use felix::felix_configuration;
pub(crate) use network_set::network_set;
pub(crate) use node::node;
pub(crate) use others::{block_affinity, ipam_configuration, node_status};
pub(crate) use policy::policy;
pub(crate) use pool::{pool, reservation, tier};
pub(crate) use rule::{Holder, rules};
pub(crate) use staged_kubernetes::staged_kubernetes;

/// One reason why a resource is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The field, as a path: `spec.ingress[2].source.ports[0]`.
    pub path: String,
    /// The value found.
    pub value: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Fault {
    /// A fault of `path`.
    pub fn new(path: impl Into<String>, value: impl fmt::Display, reason: impl Into<String>) -> Self {
        Self { path: path.into(), value: value.to_string(), reason: reason.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {:?}: {}", self.path, self.value, self.reason)
    }
}

/// A resource with faults; it must not be stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {name:?} is not valid: {}", self.reasons())]
pub struct Invalid {
    /// Its kind.
    pub kind: KindName,
    /// Its name.
    pub name: String,
    /// All that is wrong.
    pub faults: Vec<Fault>,
}

impl Invalid {
    /// All faults in one line.
    pub fn reasons(&self) -> String {
        self.faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    /// `Ok` if there is no fault.
    pub(crate) fn unless_empty(kind: KindName, name: &str, faults: Vec<Fault>) -> Result<(), Self> {
        if faults.is_empty() { Ok(()) } else { Err(Self { kind, name: name.to_owned(), faults }) }
    }
}

/// The faults found so far.
#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, path: impl Into<String>, value: impl fmt::Display, reason: impl Into<String>) {
        self.0.push(Fault::new(path, value, reason));
    }

    /// Adds a fault of `value` unless `good`.
    fn check(&mut self, good: bool, path: &str, value: impl fmt::Display, reason: &str) {
        if !good {
            self.add(path, value, reason);
        }
    }

    /// As [`check`](Self::check), for a text that may be empty.
    fn check_text(&mut self, path: &str, value: &str, good: impl Fn(&str) -> bool, reason: &str) {
        self.check(value.is_empty() || good(value), path, value, reason);
    }

    /// As [`check_text`](Self::check_text), for each member of a list.
    fn check_each(&mut self, path: &str, values: &[String], good: impl Fn(&str) -> bool, reason: &str) {
        for (index, value) in values.iter().enumerate() {
            self.check(good(value), &format!("{path}[{index}]"), value, reason);
        }
    }

    fn check_optional(&mut self, path: &str, value: Option<&String>, good: impl Fn(&str) -> bool, reason: &str) {
        self.check_text(path, value.map_or("", String::as_str), good, reason);
    }

    /// A selector of a kind that has a CRD.
    fn selector(&mut self, path: &str, selector: &str) {
        if let Err(error) = calico_selector::parse(selector) {
            self.add(path, selector, error.to_string());
        }
        policy_rule::length(self, path, selector);
    }

    /// One of `words`, by a text member that has no field of its own.
    fn one_of_extra(&mut self, extra: &Map<String, Value>, name: &str, words: &[&str]) {
        if let Some(value) = extra.get(name) {
            let good = value.as_str().is_some_and(|text| words.contains(&text));
            self.check(good, &format!("spec.{name}"), shown(value), &format!("it is one of {}", words.join(", ")));
        }
    }
}

/// A JSON value as a person typed it: text without quotes.
fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

const NAME_RULE: &str = "it must be lower-case letters, digits, '-' and '.', each part starting and ending with a \
                         letter or digit";

/// The metadata's rules that decide whether a resource can be used: its name and labels.
pub(crate) fn identity(kind: KindName, metadata: &Metadata) -> Vec<Fault> {
    let mut faults = Faults::default();
    name(&mut faults, kind, &metadata.name);
    match (&metadata.namespace, kind.is_namespaced()) {
        (None, true) => faults.add("metadata.namespace", "", format!("a {kind} needs a namespace")),
        // Upstream asks no more of a namespace; a slash would hide the endpoint from every listing.
        (Some(namespace), true) => {
            let good = !namespace.is_empty() && !namespace.contains('/');
            faults.check(good, "metadata.namespace", namespace, "it must not be empty or have a slash");
        }
        (Some(namespace), false) => faults.add("metadata.namespace", namespace, format!("a {kind} has no namespace")),
        (None, false) => {}
    }
    faults.0.extend(labels("metadata.labels", &metadata.labels));
    faults.0
}

/// All of the metadata's rules.
pub(crate) fn metadata(kind: KindName, metadata: &Metadata) -> Vec<Fault> {
    let mut faults = Faults(identity(kind, metadata));
    annotations(&mut faults, "metadata.annotations", &metadata.annotations);
    faults.0
}

fn annotations<'a>(faults: &mut Faults, path: &str, all: impl IntoIterator<Item = (&'a String, &'a String)>) {
    let mut size = 0;
    for (key, value) in all {
        size += key.len() + value.len();
        // Upstream looks at annotation keys in lower case.
        faults.check(is_qualified(&key.to_ascii_lowercase()), path, key, KEY_RULE);
    }
    faults.check(size <= 256 * 1024, path, size, "all annotations together exceed 256 KiB");
}

fn name(faults: &mut Faults, kind: KindName, name: &str) {
    const PATH: &str = "metadata.name";
    if name.is_empty() {
        // A workload endpoint's name is computed; what is missing for that is said there.
        faults.check(kind == KindName::WorkloadEndpoint, PATH, name, "it is missing");
        return;
    }
    faults.check(name.len() <= 253, PATH, name, "it is longer than 253 characters");
    match kind {
        KindName::Tier => {
            faults.check(
                !name.contains('.') && is_subdomain(name),
                PATH,
                name,
                "a tier's name has no dots and is in lower case",
            );
            faults.check(name.len() <= 63, PATH, name, "it is longer than 63 characters");
        }
        KindName::ClusterInformation => {
            faults.check(name == "default", PATH, name, "there is one cluster information, named default");
        }
        KindName::IPAMConfiguration => {
            faults.check(name == "default", PATH, name, "there is one IPAM configuration, named default");
        }
        KindName::GlobalNetworkPolicy | KindName::StagedGlobalNetworkPolicy => {
            faults.check(is_policy_name(name), PATH, name, POLICY_NAME_RULE);
        }
        KindName::NetworkPolicy | KindName::StagedNetworkPolicy => {
            faults.check(is_policy_name(name) || is_foreign_policy_name(name), PATH, name, POLICY_NAME_RULE);
        }
        _ => faults.check(is_subdomain(name), PATH, name, NAME_RULE),
    }
    if kind == KindName::Profile {
        faults.check(name != "projectcalico-default-allow", PATH, name, "this profile is built in");
    }
}

const KEY_RULE: &str = "a key is up to 63 letters, digits, '-', '_' and '.', starting and ending with a letter or \
                        digit, and may have a DNS name and '/' before it";

/// Labels by Kubernetes' syntax. The path is that of the map.
pub(crate) fn labels(path: &str, labels: &BTreeMap<String, String>) -> Vec<Fault> {
    let mut faults = Faults::default();
    for (key, value) in labels {
        faults.check(is_qualified(key), path, key, KEY_RULE);
        let rule = "a value is up to 63 letters, digits, '-', '_' and '.', starting and ending with a letter or digit";
        faults.check(value.is_empty() || is_label_part(value), path, format_args!("{key}={value}"), rule);
    }
    faults.0
}

const POLICY_NAME_RULE: &str = "it must be lower-case letters, digits and '-', with one '.' in it at most, each part \
                                starting and ending with a letter or digit";

/// One label, or a tier's name and one label. Upstream lets a label be as long as the whole name.
fn is_policy_name(name: &str) -> bool {
    is_subdomain(name) && name.split('.').count() <= 2
}

/// Names that upstream's translations of Kubernetes' and OpenStack's policies have.
fn is_foreign_policy_name(name: &str) -> bool {
    ["knp.default.", "ossg.default."].iter().any(|prefix| name.strip_prefix(prefix).is_some_and(is_subdomain))
}

/// A DNS-1123 subdomain, of any length.
fn is_subdomain(name: &str) -> bool {
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(inner)
    };
    name.split('.').all(label)
}

/// A label key: a name, and a DNS name with a slash before it if there is one.
fn is_qualified(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => prefix.len() <= 253 && is_subdomain(prefix) && is_label_part(name),
        None => is_label_part(key),
    }
}

fn is_label_part(part: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    part.len() <= 63 && part.bytes().all(inner) && edge(part.bytes().next()) && edge(part.bytes().last())
}

/// A Linux interface's name, or `*`.
fn is_interface(name: &str) -> bool {
    name == "*"
        || ((1..=15).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)))
}

/// An IANA service name (RFC 6335 §5.1).
fn is_port_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}

#[cfg(test)]
mod tests;
