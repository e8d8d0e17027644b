//! The engine: from changes of resources to changes of what the kernel must hold.
//!
//! Data flows one way. A change of an endpoint or network set reaches the [`Index`] (labels and addresses, of every
//! host); one of an endpoint of this host also [`Reach`](reach::Reach), which says which policies select it, and
//! [`Workloads`] or [`HostEndpoints`]. A flush completes the endpoints that may have changed, which says which policies
//! and profiles are in use; links the rules of those that changed or came into use, which says which sets are in use;
//! and then collects what has changed in an order that is safe to apply: sets, policies and profiles, endpoints, and
//! what nothing refers to any more.
//!
//! What cannot be followed is closed, never skipped ([`Change::Unusable`] and everything below it). What it closes
//! depends on what is stored now, not on what was stored before: a restart must not change a verdict.
//!
//! | unusable | what of it can be read | nothing can be read |
//! |---|---|---|
//! | policy | denies in its place, for what the readable parts of its selectors reach; before all others if its place may be among what cannot be read | denies before all others, for its namespace or everything |
//! | tier | stands in its place, denies at its end | its policies deny, before all others |
//! | profile | denies; its labels hold | denies, and no policy opens anything for endpoints that name it |
//! | network set | no members; a rule that an empty set would open closes its policy | the same, of every selector |
//! | workload endpoint | not programmed, so nothing passes; in no set | the same |
//! | host endpoint | the host's own traffic is closed | reported: nobody knows whose it is |
//! | Felix configuration | each bad word closes | what a setting could open is closed |
//! | pool, node, BGP configuration | holds as far as it goes | as if it were not there |

mod cluster;
mod codes;
mod doubts;
mod few;
mod hosts;
mod policies;
mod profiles;
mod reach;
mod settings;
mod stored;
mod tiers;
mod workloads;

use std::{collections::BTreeMap, net::IpAddr};

use calico_model::{
    AnyResource, Change, HostEndpoint, KindName, Metadata, NetSetSpec, PolicySpec, Profile, ResourceKey, Tier,
    WorkloadEndpoint,
};
use calico_selector::scope::NAMESPACE_LABEL;
use ipnet::IpNet;

use self::{
    cluster::Cluster,
    codes::Codes,
    doubts::{Doubts, Labelled, NAMESPACE_PROFILE},
    hosts::HostEndpoints,
    policies::{Policies, policy_id},
    profiles::Profiles,
    settings::{Effective, FelixSettings},
    workloads::{Workloads, endpoint_id},
};
use crate::{
    Problem,
    compile::{self, Code, Selectors},
    endpoint::{host_interfaces, identity_with, interface, labels, named_ports, nats, network, qos, sentence},
    index::{Index, NamedPort},
    instruction::{Endpoint, Instruction, Pool, ProfileId, Settings},
};

/// What this host's kernel must hold, calculated from the resources of the whole cluster.
///
/// Deterministic: the instructions of all flushes together depend only on the changes, not on their order or on
/// where the flushes fall (see `tests/equivalence.rs`).
pub struct Engine {
    node: String,
    index: Index,
    codes: Codes,
    selectors: Selectors,
    policies: Policies,
    profiles: Profiles,
    workloads: Workloads,
    hosts: HostEndpoints,
    doubts: Doubts,
    cluster: Cluster,
    felix: FelixSettings,
    effective: Effective,
    /// Settings and lists may not be those that follow from configurations, pools and nodes.
    unsettled: bool,
    /// Endpoints of all hosts that ask for foreign sources: whether they take part depends on the settings.
    spoofers: BTreeMap<ResourceKey, Box<WorkloadEndpoint>>,
    /// Stored objects that cannot be used, and why.
    unusable: BTreeMap<ResourceKey, String>,
    sent: Sent,
}

/// A policy that cannot be used as it stands.
#[derive(Clone, Copy)]
struct Spoilt<'a> {
    reason: &'a str,
    /// Where it stands could not be read either.
    displaced: bool,
}

impl<'a> Spoilt<'a> {
    fn of(reason: &'a str) -> Self {
        Self { reason, displaced: false }
    }
}

/// What the dataplane has of lists and settings.
#[derive(Default)]
struct Sent {
    settings: Option<Settings>,
    /// Empty before the first instruction, which is what a dataplane starts with.
    hosts: Vec<IpAddr>,
    pools: Option<Vec<Pool>>,
}

impl Engine {
    /// An engine that knows nothing yet, for the host of this name.
    pub fn new(node: impl Into<String>) -> Self {
        let (node, cluster, felix) = (node.into(), Cluster::default(), FelixSettings::default());
        let effective = felix.effective(&node, &cluster);
        Self {
            node,
            index: Index::default(),
            codes: Codes::default(),
            selectors: Selectors::default(),
            policies: Policies::default(),
            profiles: Profiles::default(),
            workloads: Workloads::default(),
            hosts: HostEndpoints::default(),
            doubts: Doubts::default(),
            cluster,
            felix,
            effective,
            unsettled: true,
            spoofers: BTreeMap::new(),
            unusable: BTreeMap::new(),
            sent: Sent::default(),
        }
    }

    /// Takes a change in. Changes of kinds that do not matter here are ignored; a repeated value changes nothing.
    pub fn absorb(&mut self, change: Change) {
        match change {
            Change::Set { key, resource } => {
                self.unusable.remove(&key);
                self.set(key, *resource, None);
            }
            change @ Change::Unusable { .. } => self.set_unusable(change),
            Change::Remove { key } => {
                self.unusable.remove(&key);
                self.remove(&key);
            }
        }
    }

    /// What has changed since the last flush, to be applied in this order; the first one carries the pools and the
    /// settings even if there are none. Empty if nothing has changed.
    pub fn flush(&mut self) -> Vec<Instruction> {
        let mut out = if self.settle() { self.flush_lists() } else { Vec::new() };
        for key in self.policies.reach.take_changed() {
            match key.kind {
                KindName::HostEndpoint => self.hosts.touch(key.name),
                _ => self.workloads.touch(endpoint_id(&key)),
            }
        }
        let floating = self.effective.floating;
        let mut endpoints = self.workloads.flush(&mut self.policies, &mut self.profiles, floating);
        endpoints.extend(self.hosts.flush(&mut self.policies, &mut self.profiles));
        let policies = self.policies.flush(&mut self.codes, &mut self.index, &self.doubts);
        let profiles = self.profiles.flush(&mut self.codes, &mut self.index, &self.doubts);
        let sets = self.index.flush();
        out.extend(sets.updates);
        out.extend(policies.updates);
        out.extend(profiles.updates);
        out.extend(endpoints);
        out.extend(profiles.removals);
        out.extend(policies.removals);
        out.extend(sets.removals);
        out
    }

    /// The objects that are governed closed on this host, and those that cannot be used, sorted, each once; of policies
    /// and profiles, those in use as of the last flush.
    pub fn problems(&self) -> Vec<Problem> {
        let unusable = self.unusable.iter();
        let mut problems: Vec<Problem> =
            unusable.map(|(object, reason)| Problem { object: object.clone(), reason: reason.clone() }).collect();
        let found = self.workloads.problems().chain(self.hosts.problems()).chain(self.policies.problems());
        let found = found.chain(self.profiles.problems()).chain(self.effective.problems.iter().cloned());
        problems.extend(found.filter(|problem| !self.unusable.contains_key(&problem.object)));
        problems.sort();
        problems
    }

    fn set_unusable(&mut self, change: Change) {
        let partial = change.is_partial();
        let Change::Unusable { key, reason, resource } = change else { return };
        match resource.map(|resource| *resource) {
            None => self.set_unreadable(&key, &reason),
            // What could not be read of these may be what decides where they stand or whom they concern.
            Some(AnyResource::GlobalNetworkPolicy(policy)) if partial => {
                self.set_policy(&key, &policy.spec, Some(Spoilt { reason: &reason, displaced: true }));
            }
            Some(AnyResource::NetworkPolicy(policy)) if partial => {
                self.set_policy(&key, &policy.spec, Some(Spoilt { reason: &reason, displaced: true }));
            }
            Some(AnyResource::Tier(tier)) if partial && tier.spec.order.is_none() => {
                self.set_unreadable(&key, &reason);
            }
            Some(AnyResource::Profile(profile)) if partial && profile.spec.labels_to_apply.is_empty() => {
                self.set_unreadable(&key, &reason);
            }
            Some(resource) => self.set(key.clone(), resource, Some(&reason)),
        }
        self.note_unusable(key, reason);
    }

    fn note_unusable(&mut self, key: ResourceKey, reason: String) {
        self.unusable.insert(key, reason);
    }

    /// `fault`: why the record cannot be used as it stands, if it cannot.
    fn set(&mut self, key: ResourceKey, resource: AnyResource, fault: Option<&str>) {
        match resource {
            AnyResource::WorkloadEndpoint(endpoint) => self.set_workload(&key, endpoint, fault),
            AnyResource::HostEndpoint(endpoint) => self.set_host_endpoint(&key, endpoint, fault),
            AnyResource::Profile(profile) => self.set_profile(&key, &profile, fault),
            AnyResource::GlobalNetworkPolicy(policy) => self.set_policy(&key, &policy.spec, fault.map(Spoilt::of)),
            AnyResource::NetworkPolicy(policy) => self.set_policy(&key, &policy.spec, fault.map(Spoilt::of)),
            AnyResource::Tier(tier) => self.set_tier(&key, &tier, fault),
            AnyResource::GlobalNetworkSet(set) => self.set_network_set(&key, set.metadata, &set.spec, fault),
            AnyResource::NetworkSet(set) => self.set_network_set(&key, set.metadata, &set.spec, fault),
            AnyResource::FelixConfiguration(configuration) => {
                self.unsettled |= self.felix.set(&self.node, &key.name, &configuration);
            }
            AnyResource::IPPool(pool) => {
                self.cluster.set_pool(&key.name, Some(&pool.spec));
                self.unsettled = true;
            }
            AnyResource::BGPConfiguration(configuration) => {
                self.cluster.set_bgp(&key.name, Some(&configuration.spec));
                self.unsettled = true;
            }
            AnyResource::Node(node) => {
                self.cluster.set_node(&key.name, Some(&node.spec));
                self.unsettled = true;
                if key.name == self.node {
                    self.felix.set_labels(node.metadata.labels);
                }
            }
            _ => {}
        }
    }

    fn set_unreadable(&mut self, key: &ResourceKey, reason: &str) {
        match key.kind {
            KindName::GlobalNetworkPolicy | KindName::NetworkPolicy => {
                if let Some(id) = policy_id(key) {
                    self.policies.set(&id, compile::unreadable(key, reason), &mut self.codes);
                }
            }
            KindName::Profile => {
                self.set_parent_labels(&key.name, &BTreeMap::new());
                if self.profiles.set(&key.name, &Code::closed(), Some(reason.into()), true, &mut self.codes) {
                    self.policies.reach.touch_parent(&key.name);
                }
            }
            KindName::Tier => self.policies.set_tier(&key.name, Some(tiers::Tier::Unreadable)),
            KindName::GlobalNetworkSet | KindName::NetworkSet => {
                self.index.remove(&item_key(key));
                if self.doubts.insert(key, None) {
                    self.doubt();
                }
            }
            KindName::FelixConfiguration => self.unsettled |= self.felix.set_unreadable(&self.node, &key.name),
            _ => self.remove(key),
        }
    }

    fn remove(&mut self, key: &ResourceKey) {
        match key.kind {
            KindName::WorkloadEndpoint => {
                self.index.remove(&item_key(key));
                self.spoofers.remove(key);
                self.policies.reach.remove(key);
                self.workloads.set(&endpoint_id(key), None);
            }
            KindName::HostEndpoint => {
                self.index.remove(&item_key(key));
                self.policies.reach.remove(key);
                self.hosts.set(&key.name, None);
            }
            KindName::Profile => {
                self.set_parent_labels(&key.name, &BTreeMap::new());
                if self.profiles.remove(&key.name, &mut self.codes) {
                    self.policies.reach.touch_parent(&key.name);
                }
            }
            KindName::GlobalNetworkPolicy | KindName::NetworkPolicy => {
                if let Some(id) = policy_id(key) {
                    self.policies.remove(&id, &mut self.codes);
                }
            }
            KindName::Tier => self.policies.set_tier(&key.name, None),
            KindName::GlobalNetworkSet | KindName::NetworkSet => {
                self.index.remove(&item_key(key));
                if self.doubts.remove(key) {
                    self.doubt();
                }
            }
            KindName::FelixConfiguration => self.unsettled |= self.felix.remove(&key.name),
            KindName::IPPool => {
                self.cluster.set_pool(&key.name, None);
                self.unsettled = true;
            }
            KindName::BGPConfiguration => {
                self.cluster.set_bgp(&key.name, None);
                self.unsettled = true;
            }
            KindName::Node => {
                self.cluster.set_node(&key.name, None);
                self.unsettled = true;
                if key.name == self.node {
                    self.felix.set_labels(BTreeMap::new());
                }
            }
            _ => {}
        }
    }

    fn set_workload(&mut self, key: &ResourceKey, resource: WorkloadEndpoint, fault: Option<&str>) {
        if resource.spec.allow_spoofed_source_prefixes.is_empty() || fault.is_some() {
            self.spoofers.remove(key);
        } else {
            self.spoofers.insert(key.clone(), Box::new(resource.clone()));
        }
        let spec = &resource.spec;
        let identity = match fault {
            Some(fault) => Err(fault.to_owned()),
            None => identity_with(spec, self.effective.spoofing).map_err(|faults| sentence(&faults)),
        };
        let labels = labels(resource.metadata.labels, key.namespace.as_deref(), spec);
        match &identity {
            Ok(identity) => {
                let nets: Vec<IpNet> = identity.addresses.iter().copied().map(IpNet::from).collect();
                let ports: Vec<NamedPort<'_>> = ports(named_ports(&spec.ports));
                self.index.put(&item_key(key), pairs(&labels), &spec.profiles, &nets, &ports);
            }
            Err(_) => self.index.remove(&item_key(key)),
        }
        let claim = (spec.node == self.node).then(|| {
            let identity = identity?;
            interface(spec).map_err(|fault| fault.to_string())?;
            Ok(Endpoint {
                interface: spec.interface_name.clone(),
                mac: identity.mac,
                nats: nats(&spec.ip_nats, &identity.addresses),
                addresses: identity.addresses,
                spoofable: identity.spoofable,
                qos: qos(spec.qos_controls.as_ref()),
                profiles: spec.profiles.iter().cloned().map(ProfileId).collect(),
                tiers: [].into(),
            })
        });
        match &claim {
            Some(Ok(_)) => self.policies.reach.put(key, labels, &spec.profiles, &self.index),
            _ => self.policies.reach.remove(key),
        }
        self.workloads.set(&endpoint_id(key), claim);
    }

    fn set_host_endpoint(&mut self, key: &ResourceKey, resource: HostEndpoint, fault: Option<&str>) {
        let spec = &resource.spec;
        let place = host_interfaces(spec);
        let fault = fault.map(str::to_owned).or_else(|| place.fault());
        let labels = resource.metadata.labels;
        if fault.is_none() {
            let nets: Vec<IpNet> = place.addresses.iter().copied().map(IpNet::from).collect();
            let ports: Vec<NamedPort<'_>> = ports(named_ports(&spec.ports));
            self.index.put(&item_key(key), pairs(&labels), &spec.profiles, &nets, &ports);
        } else {
            self.index.remove(&item_key(key));
        }
        if spec.node != self.node {
            self.policies.reach.remove(key);
            self.hosts.set(&key.name, None);
            return;
        }
        let claim = hosts::Claim {
            interfaces: place.interfaces,
            profiles: spec.profiles.iter().cloned().map(ProfileId).collect(),
            fault,
        };
        self.policies.reach.put(key, labels, &spec.profiles, &self.index);
        self.hosts.set(&key.name, Some(claim));
    }

    fn set_profile(&mut self, key: &ResourceKey, profile: &Profile, fault: Option<&str>) {
        self.set_parent_labels(&key.name, &profile.spec.labels_to_apply);
        let (code, fault) = match (compile::profile(&profile.spec, &mut self.selectors), fault) {
            (_, Some(fault)) => (Code::closed(), Some(fault.into())),
            (Ok(code), None) => (code, None),
            (Err(faults), None) => (Code::closed(), Some(sentence(&faults).into())),
        };
        if self.profiles.set(&key.name, &code, fault, false, &mut self.codes) {
            self.policies.reach.touch_parent(&key.name);
        }
    }

    fn set_policy(&mut self, key: &ResourceKey, spec: &PolicySpec, spoilt: Option<Spoilt<'_>>) {
        let Some(id) = policy_id(key) else { return };
        let mut policy = compile::policy(key, spec, &mut self.selectors);
        if let Some(spoilt) = spoilt {
            policy.spoil(spoilt.reason);
            if spoilt.displaced {
                policy.displace();
            }
        }
        self.policies.set(&id, policy, &mut self.codes);
    }

    fn set_tier(&mut self, key: &ResourceKey, tier: &Tier, fault: Option<&str>) {
        let passes = tier.spec.passes() && fault.is_none();
        self.policies.set_tier(&key.name, Some(tiers::Tier::Known { order: tier.spec.order(), passes }));
    }

    fn set_network_set(&mut self, key: &ResourceKey, metadata: Metadata, spec: &NetSetSpec, fault: Option<&str>) {
        let mut labels = metadata.labels;
        let mut parents = Vec::new();
        if let Some(namespace) = &key.namespace {
            labels.insert(NAMESPACE_LABEL.to_owned(), namespace.clone());
            parents.push(format!("{NAMESPACE_PROFILE}{namespace}"));
        }
        let nets: Option<Vec<IpNet>> = spec.nets.iter().map(|net| network(net)).collect();
        let changed = match nets {
            Some(nets) if fault.is_none() => {
                self.index.put(&item_key(key), pairs(&labels), &parents, &nets, &[]);
                self.doubts.remove(key)
            }
            nets => {
                if nets.is_none() && fault.is_none() {
                    self.note_unusable(key.clone(), "spec.nets: not all of them are networks".to_owned());
                }
                self.index.remove(&item_key(key));
                self.doubts.insert(key, Some(Labelled { own: labels, parents }))
            }
        };
        if changed {
            self.doubt();
        }
    }

    fn set_parent_labels(&mut self, name: &str, labels: &BTreeMap<String, String>) {
        self.index.set_parent_labels(name, labels);
        self.policies.reach.relabel(name, &self.index);
        if self.doubts.inherit_from(name) {
            self.doubt();
        }
    }

    /// Looks at all rules in use again, as one may mean a network set that has become usable or unusable.
    fn doubt(&mut self) {
        self.codes.doubt(&mut self.index, &self.doubts);
        self.policies.doubt();
        self.profiles.doubt();
    }

    /// Brings the settings up to date, and what depends on them. True if anything may have changed.
    fn settle(&mut self) -> bool {
        if !std::mem::take(&mut self.unsettled) {
            return false;
        }
        let before = std::mem::replace(&mut self.effective, self.felix.effective(&self.node, &self.cluster));
        if before.floating != self.effective.floating {
            self.workloads.touch_all();
        }
        if before.spoofing != self.effective.spoofing {
            for (key, endpoint) in std::mem::take(&mut self.spoofers) {
                self.set_workload(&key, *endpoint, None);
            }
        }
        true
    }

    fn flush_lists(&mut self) -> Vec<Instruction> {
        let mut out = Vec::new();
        if self.sent.settings.as_ref() != Some(&self.effective.settings) {
            self.sent.settings = Some(self.effective.settings.clone());
            out.push(Instruction::Settings(self.effective.settings.clone()));
        }
        let addresses = self.cluster.host_addresses();
        if self.sent.hosts != addresses {
            self.sent.hosts = addresses.clone();
            out.push(Instruction::Hosts { addresses });
        }
        let pools = self.cluster.distinct_pools();
        if self.sent.pools.as_ref() != Some(&pools) {
            self.sent.pools = Some(pools.clone());
            out.push(Instruction::Pools { pools });
        }
        out
    }
}

fn pairs(labels: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    labels.iter().map(|(key, value)| (key.as_str(), value.as_str()))
}

fn ports<'a>(named: impl Iterator<Item = (&'a str, u8, u16)>) -> Vec<NamedPort<'a>> {
    named.map(|(name, protocol, port)| NamedPort { name, protocol, port }).collect()
}

/// A resource's name among the items of the index. No part contains a slash.
fn item_key(key: &ResourceKey) -> String {
    let kind = match key.kind {
        KindName::WorkloadEndpoint => 'w',
        KindName::HostEndpoint => 'h',
        KindName::NetworkSet => 'n',
        _ => 'g',
    };
    match &key.namespace {
        Some(namespace) => format!("{kind}/{namespace}/{}", key.name),
        None => format!("{kind}/{}", key.name),
    }
}
