//! The verdict on a packet, from the resources themselves.
//!
//! Everything else in this crate is an optimisation of this module. It shares with the engine what a resource says
//! (which addresses an endpoint has, how selectors combine) and nothing of how that is indexed or compiled; where
//! the two disagree, this one is right. It takes time in proportion to the whole cluster.
//!
//! A packet is followed through the host, hook by hook ([`path`](self)): before connection tracking (forged sources,
//! untracked policy), before destinations are translated (pre-DNAT policy), then to the host, through it, or out of
//! it. Each station asks an endpoint's list of policies, tier by tier, and its profiles. [`Why`] says what each
//! station answered.
//!
//! ```
//! use calico_policy::{oracle::{self, State}, packet::{Hop, Packet, Transport, Verdict}};
//!
//! let state = State::new("host1");
//! let packet = Packet::new(
//!     Hop::Interface("cali1".into()), Hop::Interface("eth0".into()),
//!     "10.0.0.1".parse()?, "192.0.2.1".parse()?,
//!     Transport::Ports { protocol: 6, source: 40_000, destination: 80 },
//! );
//! let (verdict, why) = oracle::verdict(&state, &packet);
//! assert_eq!(verdict, Verdict::Drop);
//! assert_eq!(why.to_string(), "source check: denied: no endpoint of this host has the interface cali1");
//! # Ok::<(), std::net::AddrParseError>(())
//! ```

mod decide;
mod hints;
mod host;
mod matching;
mod path;
mod settings;
mod why;

use std::{collections::BTreeMap, net::IpAddr};

use calico_model::{
    AnyResource, BGPConfiguration, Change, FelixConfiguration, HostEndpoint, IPPool, KindName, Node, PolicySpec,
    Profile, Resource, ResourceKey, Tier, WorkloadEndpoint,
};
use calico_selector::scope::{NAMESPACE_LABEL, NAMESPACE_PREFIX, SERVICE_ACCOUNT_LABEL, SERVICE_ACCOUNT_PREFIX};

pub use self::{
    hints::{Hint, Remedy, what_would_change},
    path::{Flow, flow, verdict},
    why::{Asked, List, Outcome, Owner, Place, Reason, Stage, Step, Subject, Why},
};
pub(crate) use self::{
    host::is_workload,
    path::{Led, View, judge, judge_flow, seen_source, step},
};
use crate::{
    endpoint::interface,
    instruction::{EndpointId, HostEndpointId, PolicyId},
};

/// Labels as selectors see them.
pub type Labels = BTreeMap<String, String>;

/// A stored object, and what is wrong with it if it cannot be used: what it governs is then closed.
#[derive(Clone, Debug, PartialEq)]
pub struct Held<T> {
    /// As much of it as could be read.
    pub value: T,
    /// Why it cannot be used.
    pub fault: Option<String>,
    /// Members of it could not be read, or nothing at all: what is absent may have meant anything.
    pub partial: bool,
}

/// A network set.
#[derive(Clone, Debug, PartialEq)]
pub struct NetSet {
    /// Its own labels; `None` if they cannot be read.
    pub labels: Option<Labels>,
    /// Its networks as written.
    pub nets: Vec<String>,
}

/// The resources that decide on packets, and the host whose eyes they are seen with.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The host's name.
    pub node: String,
    /// The host's own interfaces and their addresses; no resource says that. Host endpoints are found by them.
    pub interfaces: BTreeMap<String, Vec<IpAddr>>,
    /// Workload endpoints of all hosts. One that cannot be used is none: its interface is unknown, its addresses are
    /// in no set.
    pub endpoints: BTreeMap<EndpointId, WorkloadEndpoint>,
    /// Host endpoints of all hosts.
    pub hosts: BTreeMap<HostEndpointId, Held<HostEndpoint>>,
    /// Profiles by name.
    pub profiles: BTreeMap<String, Held<Profile>>,
    /// Tiers by name, those that are stored.
    pub tiers: BTreeMap<String, Held<Tier>>,
    /// Policies that are enforced; staged ones decide nothing.
    pub policies: BTreeMap<PolicyId, Held<PolicySpec>>,
    /// Network sets by namespace (empty for global ones) and name.
    pub sets: BTreeMap<(String, String), Held<NetSet>>,
    /// Felix configurations by name; `None` for one of which nothing can be read.
    pub felix: BTreeMap<String, Option<FelixConfiguration>>,
    /// Hosts by name.
    pub nodes: BTreeMap<String, Node>,
    /// Pools by name.
    pub pools: BTreeMap<String, IPPool>,
    /// BGP configurations by name: they name the addresses of services.
    pub bgp: BTreeMap<String, BGPConfiguration>,
}

impl State {
    /// A cluster without resources, seen from a host without interfaces.
    pub fn new(node: impl Into<String>) -> Self {
        Self { node: node.into(), ..Self::default() }
    }

    /// Takes a change in.
    pub fn apply(&mut self, change: &Change) {
        self.forget(change.key());
        match change {
            Change::Set { key, resource } => self.take(key, resource, None, false),
            Change::Unusable { key, reason, resource: Some(resource) } => {
                self.take(key, resource, Some(reason), change.is_partial());
            }
            Change::Unusable { key, reason, resource: None } => self.close(key, reason),
            Change::Remove { .. } => {}
        }
    }

    fn forget(&mut self, key: &ResourceKey) {
        let name = &key.name;
        match key.kind {
            KindName::WorkloadEndpoint => drop(self.endpoints.remove(&EndpointId::of(key))),
            KindName::HostEndpoint => drop(self.hosts.remove(&HostEndpointId(name.clone()))),
            KindName::Profile => drop(self.profiles.remove(name)),
            KindName::Tier => drop(self.tiers.remove(name)),
            KindName::GlobalNetworkPolicy | KindName::NetworkPolicy => {
                drop(PolicyId::of(key).and_then(|id| self.policies.remove(&id)));
            }
            KindName::GlobalNetworkSet | KindName::NetworkSet => drop(self.sets.remove(&set_id(key))),
            KindName::FelixConfiguration => drop(self.felix.remove(name)),
            KindName::Node => drop(self.nodes.remove(name)),
            KindName::IPPool => drop(self.pools.remove(name)),
            KindName::BGPConfiguration => drop(self.bgp.remove(name)),
            _ => {}
        }
    }

    /// A resource, with what is wrong with it.
    fn take(&mut self, key: &ResourceKey, resource: &AnyResource, fault: Option<&String>, partial: bool) {
        let name = key.name.clone();
        let fault = fault.cloned();
        match resource.clone() {
            AnyResource::WorkloadEndpoint(endpoint) if fault.is_none() => {
                self.endpoints.insert(EndpointId::of(key), endpoint);
            }
            AnyResource::HostEndpoint(value) => {
                self.hosts.insert(HostEndpointId(name), Held { value, fault, partial });
            }
            AnyResource::Profile(value) => {
                self.profiles.insert(name, Held { value, fault, partial });
            }
            AnyResource::Tier(value) => {
                self.tiers.insert(name, Held { value, fault, partial });
            }
            AnyResource::GlobalNetworkPolicy(policy) => {
                self.take_policy(key, Held { value: policy.spec.0, fault, partial });
            }
            AnyResource::NetworkPolicy(policy) => {
                self.take_policy(key, Held { value: policy.spec.0, fault, partial });
            }
            AnyResource::GlobalNetworkSet(set) => {
                let value = NetSet { labels: Some(set.metadata.labels), nets: set.spec.0.nets };
                self.sets.insert(set_id(key), Held { value, fault, partial });
            }
            AnyResource::NetworkSet(set) => {
                let value = NetSet { labels: Some(set.metadata.labels), nets: set.spec.0.nets };
                self.sets.insert(set_id(key), Held { value, fault, partial });
            }
            AnyResource::FelixConfiguration(configuration) => {
                self.felix.insert(name, Some(configuration));
            }
            AnyResource::Node(node) => {
                self.nodes.insert(name, node);
            }
            AnyResource::IPPool(pool) => {
                self.pools.insert(name, pool);
            }
            AnyResource::BGPConfiguration(configuration) => {
                self.bgp.insert(name, configuration);
            }
            _ => {}
        }
    }

    fn take_policy(&mut self, key: &ResourceKey, policy: Held<PolicySpec>) {
        if let Some(id) = PolicyId::of(key) {
            self.policies.insert(id, policy);
        }
    }

    /// An object of which nothing could be read but its key. Of an endpoint nobody knows whose it is.
    fn close(&mut self, key: &ResourceKey, reason: &str) {
        let name = key.name.clone();
        let fault = Some(reason.to_owned());
        let partial = true;
        match key.kind {
            KindName::Profile => {
                let value = Resource::new(name.clone(), Default::default());
                self.profiles.insert(name, Held { value, fault, partial });
            }
            KindName::Tier => {
                let value = Resource::new(name.clone(), Default::default());
                self.tiers.insert(name, Held { value, fault, partial });
            }
            KindName::GlobalNetworkPolicy | KindName::NetworkPolicy => {
                self.take_policy(key, Held { value: PolicySpec::default(), fault, partial });
            }
            KindName::GlobalNetworkSet | KindName::NetworkSet => {
                let value = NetSet { labels: None, nets: Vec::new() };
                self.sets.insert(set_id(key), Held { value, fault, partial });
            }
            KindName::FelixConfiguration => drop(self.felix.insert(name, None)),
            _ => {}
        }
    }

    /// The endpoint with an interface of this host: the first of those that claim it.
    fn behind(&self, name: &str) -> Option<(&EndpointId, &WorkloadEndpoint)> {
        self.endpoints.iter().find(|(_, endpoint)| {
            let spec = &endpoint.spec;
            spec.node == self.node
                && spec.interface_name == name
                && interface(spec).is_ok()
                && !self.addresses(endpoint).is_empty()
        })
    }

    /// The labels that selectors see of a workload endpoint: its own, then those that its profiles give it; the first
    /// of a key wins. Labels of namespaces and service accounts come from profiles only: nobody may give them to an
    /// endpoint of his own.
    pub fn labels(&self, endpoint: &WorkloadEndpoint) -> Labels {
        let mut labels = endpoint.metadata.labels.clone();
        labels.retain(|key, _| !key.starts_with(NAMESPACE_PREFIX) && !key.starts_with(SERVICE_ACCOUNT_PREFIX));
        if let Some(namespace) = &endpoint.metadata.namespace {
            labels.insert(NAMESPACE_LABEL.to_owned(), namespace.clone());
        }
        if !endpoint.spec.service_account_name.is_empty() {
            labels.insert(SERVICE_ACCOUNT_LABEL.to_owned(), endpoint.spec.service_account_name.clone());
        }
        self.inherit(labels, &endpoint.spec.profiles)
    }

    /// The same of a host endpoint.
    pub fn host_labels(&self, endpoint: &HostEndpoint) -> Labels {
        self.inherit(endpoint.metadata.labels.clone(), &endpoint.spec.profiles)
    }

    /// The same of a network set, if its own can be read; a namespaced one has its namespace's labels.
    fn set_labels(&self, namespace: &str, set: &NetSet) -> Option<Labels> {
        let mut labels = set.labels.clone()?;
        if namespace.is_empty() {
            return Some(labels);
        }
        labels.insert(NAMESPACE_LABEL.to_owned(), namespace.to_owned());
        Some(self.inherit(labels, &[format!("kns.{namespace}")]))
    }

    fn inherit(&self, mut labels: Labels, profiles: &[String]) -> Labels {
        for profile in profiles.iter().filter_map(|name| self.profiles.get(name)) {
            for (key, value) in &profile.value.spec.labels_to_apply {
                labels.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        labels
    }
}

fn set_id(key: &ResourceKey) -> (String, String) {
    (key.namespace.clone().unwrap_or_default(), key.name.clone())
}

#[cfg(test)]
mod tests;
