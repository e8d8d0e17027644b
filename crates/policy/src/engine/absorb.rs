//! Taking changes in.

use std::collections::BTreeMap;

use calico_model::{
    AnyResource, Change, HostEndpoint, KindName, Metadata, NetSetSpec, PolicySpec, Profile, ResourceKey, Tier,
    WorkloadEndpoint,
};
use calico_selector::scope::NAMESPACE_LABEL;
use ipnet::IpNet;

use super::{
    Engine,
    doubts::{Labelled, NAMESPACE_PROFILE},
    hosts, tiers,
};
use crate::{
    compile::{self, Code},
    endpoint::{
        host_interfaces, identity_with, interface, labels, named_ports, nats, network, published, qos, sentence,
    },
    index::NamedPort,
    instruction::{Endpoint, PolicyId, ProfileId},
};

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

impl Engine {
    /// Takes a change in. Changes of kinds that do not matter here are ignored; a repeated value changes nothing.
    pub fn absorb(&mut self, change: Change) {
        match change {
            Change::Set { key, mut resource } => {
                self.now_usable(&key);
                self.set(&key, &mut resource, None);
            }
            change @ Change::Unusable { .. } => self.set_unusable(change),
            Change::Remove { key } => {
                self.now_usable(&key);
                self.remove(&key);
            }
        }
    }

    /// Workload endpoints are the many of a cluster, and those of other hosts are no problem unless they are unusable.
    fn now_usable(&mut self, key: &ResourceKey) {
        if self.unusable.remove(key).is_some() || key.kind != KindName::WorkloadEndpoint {
            self.doubt_problems();
        }
    }

    fn set_unusable(&mut self, change: Change) {
        let partial = change.is_partial();
        let Change::Unusable { key, reason, resource } = change else { return };
        let Some(mut resource) = resource else {
            self.set_unreadable(&key, &reason);
            return self.note_unusable(key, reason);
        };
        match &mut *resource {
            // What could not be read of these may be what decides where they stand or whom they concern.
            AnyResource::GlobalNetworkPolicy(policy) if partial => {
                self.set_policy(&key, &policy.spec, Some(Spoilt { reason: &reason, displaced: true }));
            }
            AnyResource::NetworkPolicy(policy) if partial => {
                self.set_policy(&key, &policy.spec, Some(Spoilt { reason: &reason, displaced: true }));
            }
            AnyResource::Tier(tier) if partial && tier.spec.order.is_none() => {
                self.set_unreadable(&key, &reason);
            }
            AnyResource::Profile(profile) if partial && profile.spec.labels_to_apply.is_empty() => {
                self.set_unreadable(&key, &reason);
            }
            resource => self.set(&key, resource, Some(&reason)),
        }
        self.note_unusable(key, reason);
    }

    fn note_unusable(&mut self, key: ResourceKey, reason: String) {
        self.unusable.insert(key, reason);
        self.doubt_problems();
    }

    /// `fault`: why the record cannot be used as it stands, if it cannot. What is kept of the resource is taken out of
    /// it.
    fn set(&mut self, key: &ResourceKey, resource: &mut AnyResource, fault: Option<&str>) {
        match resource {
            AnyResource::WorkloadEndpoint(endpoint) => self.set_workload(key, endpoint, fault),
            AnyResource::HostEndpoint(endpoint) => self.set_host_endpoint(key, endpoint, fault),
            AnyResource::Profile(profile) => self.set_profile(key, profile, fault),
            AnyResource::GlobalNetworkPolicy(policy) => self.set_policy(key, &policy.spec, fault.map(Spoilt::of)),
            AnyResource::NetworkPolicy(policy) => self.set_policy(key, &policy.spec, fault.map(Spoilt::of)),
            AnyResource::Tier(tier) => self.set_tier(key, tier, fault),
            AnyResource::GlobalNetworkSet(set) => self.set_network_set(key, &mut set.metadata, &set.spec, fault),
            AnyResource::NetworkSet(set) => self.set_network_set(key, &mut set.metadata, &set.spec, fault),
            AnyResource::FelixConfiguration(configuration) => {
                self.unsettled |= self.felix.set(&self.node, &key.name, configuration);
            }
            AnyResource::IPPool(pool) => {
                self.cluster.set_pool(&key.name, Some(&pool.spec));
                self.overlay.set_pool(&key.name, Some(&pool.spec));
                self.unsettled = true;
            }
            AnyResource::BGPConfiguration(configuration) => {
                self.cluster.set_bgp(&key.name, Some(&configuration.spec));
                self.unsettled = true;
            }
            AnyResource::Node(node) => {
                self.cluster.set_node(&key.name, Some(&node.spec));
                self.overlay.set_node(&key.name, Some(&node.spec));
                self.unsettled = true;
                if key.name == self.node {
                    self.felix.set_labels(std::mem::take(&mut node.metadata.labels));
                }
            }
            _ => {}
        }
    }

    fn set_unreadable(&mut self, key: &ResourceKey, reason: &str) {
        match key.kind {
            KindName::GlobalNetworkPolicy | KindName::NetworkPolicy => {
                if let Some(id) = PolicyId::of(key) {
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
                self.set_claim(key, None);
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
                if let Some(id) = PolicyId::of(key) {
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
                self.overlay.set_pool(&key.name, None);
                self.unsettled = true;
            }
            KindName::BGPConfiguration => {
                self.cluster.set_bgp(&key.name, None);
                self.unsettled = true;
            }
            KindName::Node => {
                self.cluster.set_node(&key.name, None);
                self.overlay.set_node(&key.name, None);
                self.unsettled = true;
                if key.name == self.node {
                    self.felix.set_labels(BTreeMap::new());
                }
            }
            _ => {}
        }
    }

    fn set_claim(&mut self, key: &ResourceKey, claim: Option<Result<Endpoint, String>>) {
        if self.workloads.set(key, claim) {
            self.doubt_problems();
        }
    }

    pub(super) fn set_workload(&mut self, key: &ResourceKey, resource: &WorkloadEndpoint, fault: Option<&str>) {
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
        let labels = labels(&resource.metadata.labels, key.namespace.as_deref(), spec);
        match &identity {
            Ok(identity) => {
                let nets = identity.addresses.iter().copied().map(IpNet::from);
                let ports: Vec<NamedPort<'_>> = ports(named_ports(&spec.ports));
                self.index.put(item_key(key), labels.iter().copied(), &spec.profiles, nets, &ports);
            }
            Err(_) => self.index.remove(&item_key(key)),
        }
        // Nearly all of a cluster's: what follows is about endpoints that are of this host, or were until now.
        if spec.node != self.node && !self.workloads.knows(key) {
            return;
        }
        let claim = (spec.node == self.node).then(|| {
            let identity = identity?;
            interface(spec).map_err(|fault| fault.to_string())?;
            Ok(Endpoint {
                interface: spec.interface_name.clone(),
                mac: identity.mac,
                nats: nats(&spec.ip_nats, &identity.addresses),
                published: published(&spec.ports, &identity.addresses),
                addresses: identity.addresses,
                spoofable: identity.spoofable,
                qos: qos(spec.qos_controls.as_ref()),
                profiles: spec.profiles.iter().cloned().map(ProfileId).collect(),
                tiers: [].into(),
            })
        });
        match &claim {
            Some(Ok(_)) => self.policies.reach.put(key, &labels, &spec.profiles, &self.index),
            _ => self.policies.reach.remove(key),
        }
        self.set_claim(key, claim);
    }

    fn set_host_endpoint(&mut self, key: &ResourceKey, resource: &HostEndpoint, fault: Option<&str>) {
        let spec = &resource.spec;
        let place = host_interfaces(spec);
        let fault = fault.map(str::to_owned).or_else(|| place.fault());
        let labels: Vec<(&str, &str)> = pairs(&resource.metadata.labels).collect();
        if fault.is_none() {
            let nets = place.addresses.iter().copied().map(IpNet::from);
            let ports: Vec<NamedPort<'_>> = ports(named_ports(&spec.ports));
            self.index.put(item_key(key), labels.iter().copied(), &spec.profiles, nets, &ports);
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
        self.policies.reach.put(key, &labels, &spec.profiles, &self.index);
        self.hosts.set(&key.name, Some(claim));
    }

    fn set_profile(&mut self, key: &ResourceKey, profile: &Profile, fault: Option<&str>) {
        self.set_parent_labels(&key.name, &profile.spec.labels_to_apply);
        let (code, fault) = match (compile::profile(&profile.spec, &mut self.selectors), fault) {
            (_, Some(fault)) => (Code::closed(), Some(fault.to_owned())),
            (Ok(code), None) => (code, None),
            (Err(faults), None) => (Code::closed(), Some(sentence(&faults))),
        };
        if self.profiles.set(&key.name, &code, fault, false, &mut self.codes) {
            self.policies.reach.touch_parent(&key.name);
        }
    }

    fn set_policy(&mut self, key: &ResourceKey, spec: &PolicySpec, spoilt: Option<Spoilt<'_>>) {
        let Some(id) = PolicyId::of(key) else { return };
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

    fn set_network_set(&mut self, key: &ResourceKey, metadata: &mut Metadata, spec: &NetSetSpec, fault: Option<&str>) {
        let mut labels = std::mem::take(&mut metadata.labels);
        let mut parents = Vec::new();
        if let Some(namespace) = &key.namespace {
            labels.insert(NAMESPACE_LABEL.to_owned(), namespace.clone());
            parents.push(format!("{NAMESPACE_PROFILE}{namespace}"));
        }
        let nets: Option<Vec<IpNet>> = spec.nets.iter().map(|net| network(net)).collect();
        let changed = match nets {
            Some(nets) if fault.is_none() => {
                self.index.put(item_key(key), pairs(&labels), &parents, nets, &[]);
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
        KindName::WorkloadEndpoint => "w",
        KindName::HostEndpoint => "h",
        KindName::NetworkSet => "n",
        _ => "g",
    };
    [kind, key.namespace.as_deref().unwrap_or_default(), &key.name].join("/")
}
