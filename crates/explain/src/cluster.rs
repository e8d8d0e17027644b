//! Everything that is stored.

use std::collections::{BTreeMap, BTreeSet};

use calico_model::{AnyResource, Change, KindName, PolicySpec, ResourceKey};
use calico_policy::{
    Engine, Problem,
    instruction::{Instruction, PolicyId},
    interpret::Programmed,
    oracle,
};

/// The resources of a cluster, as a syncer gave them.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    changes: BTreeMap<ResourceKey, Change>,
}

impl FromIterator<Change> for Cluster {
    fn from_iter<I: IntoIterator<Item = Change>>(changes: I) -> Self {
        let mut cluster = Self::default();
        changes.into_iter().for_each(|change| cluster.absorb(change));
        cluster
    }
}

impl Cluster {
    /// Takes a change in.
    pub fn absorb(&mut self, change: Change) {
        match &change {
            Change::Remove { key } => {
                self.changes.remove(key);
            }
            Change::Set { key, .. } | Change::Unusable { key, .. } => {
                self.changes.insert(key.clone(), change);
            }
        }
    }

    /// A resource, as much as can be read of it.
    pub fn get(&self, key: &ResourceKey) -> Option<&AnyResource> {
        match self.changes.get(key)? {
            Change::Set { resource, .. } | Change::Unusable { resource: Some(resource), .. } => Some(resource),
            _ => None,
        }
    }

    /// All resources that can be read, by key.
    pub fn resources(&self) -> impl Iterator<Item = (&ResourceKey, &AnyResource)> {
        self.changes.keys().filter_map(|key| Some((key, self.get(key)?)))
    }

    /// The resources of a kind.
    pub fn of_kind(&self, kind: KindName) -> impl Iterator<Item = (&ResourceKey, &AnyResource)> {
        self.resources().filter(move |(key, _)| key.kind == kind)
    }

    /// The names of all hosts that have an endpoint or a record.
    pub fn nodes(&self) -> BTreeSet<String> {
        let names = self.resources().filter_map(|(key, resource)| match resource {
            AnyResource::WorkloadEndpoint(endpoint) => Some(endpoint.spec.node.clone()),
            AnyResource::HostEndpoint(endpoint) => Some(endpoint.spec.node.clone()),
            AnyResource::Node(_) => Some(key.name.clone()),
            _ => None,
        });
        names.filter(|name| !name.is_empty()).collect()
    }

    /// A policy as it is written.
    pub fn policy(&self, id: &PolicyId) -> Option<&PolicySpec> {
        match self.get(&id.key())? {
            AnyResource::GlobalNetworkPolicy(policy) => Some(&policy.spec),
            AnyResource::NetworkPolicy(policy) => Some(&policy.spec),
            _ => None,
        }
    }

    /// What a host's kernel must hold, and what is governed closed there.
    pub fn programmed(&self, node: &str) -> (Programmed, Vec<Problem>) {
        let (instructions, problems) = self.instructions(node);
        let mut programmed = Programmed::default();
        for instruction in &instructions {
            programmed.apply(instruction).expect("the engine keeps its promises, its tests hold it to them");
        }
        (programmed, problems)
    }

    /// The same as instructions for its dataplane.
    pub fn instructions(&self, node: &str) -> (Vec<Instruction>, Vec<Problem>) {
        let mut engine = Engine::new(node);
        self.changes.values().for_each(|change| engine.absorb(change.clone()));
        (engine.flush(), engine.problems())
    }

    /// The oracle's view from a host.
    pub fn seen_from(&self, node: &str) -> oracle::State {
        let mut state = oracle::State::new(node);
        self.changes.values().for_each(|change| state.apply(change));
        state
    }
}
