//! The engine: from changes of resources to changes of what the kernel must hold.
//!
//! Data flows one way. A change of an endpoint reaches the [`Index`] (labels and addresses, of every host) and, on
//! its own host, the [`Locals`] (interfaces); these say which profiles are in use. A flush compiles the profiles
//! that changed or came into use, whose rules say which sets are in use, and then collects what has changed in an
//! order that is safe to apply: sets, profiles, endpoints, and what nothing refers to any more.
//!
//! Policies will enter as one more user of sets, between profiles and endpoints, found by a second [`Index`] over
//! the local endpoints.

mod locals;
mod profiles;
mod settings;

use std::collections::BTreeMap;

use calico_model::{AnyResource, Change, IPPool, KindName, ResourceKey, WorkloadEndpoint};
use calico_selector::scope::{NAMESPACE_PREFIX, SERVICE_ACCOUNT_LABEL, SERVICE_ACCOUNT_PREFIX};
use ipnet::IpNet;

use self::{locals::Locals, profiles::Profiles, settings::FelixSettings};
use crate::{
    Problem,
    endpoint::{Identity, identity, interface, sentence},
    index::Index,
    instruction::{Endpoint, EndpointId, Instruction, Pool, ProfileId, Settings},
};

/// What this host's kernel must hold, calculated from the resources of the whole cluster.
///
/// Deterministic: the instructions of all flushes together depend only on the changes, not on their order or on
/// where the flushes fall (see `tests/equivalence.rs`).
pub struct Engine {
    node: String,
    index: Index,
    profiles: Profiles,
    locals: Locals,
    /// By name.
    pools: BTreeMap<String, Pool>,
    settings: FelixSettings,
    sent_pools: Option<Vec<Pool>>,
    sent_settings: Option<Settings>,
}

impl Engine {
    /// An engine that knows nothing yet, for the host of this name.
    pub fn new(node: impl Into<String>) -> Self {
        Self {
            node: node.into(),
            index: Index::default(),
            profiles: Profiles::default(),
            locals: Locals::default(),
            pools: BTreeMap::new(),
            settings: FelixSettings::default(),
            sent_pools: None,
            sent_settings: None,
        }
    }

    /// Takes a change in. Changes of kinds that do not matter here are ignored; a repeated value changes nothing.
    pub fn absorb(&mut self, change: Change) {
        match change {
            Change::Remove { key } | Change::Unusable { key, .. } => self.remove(&key),
            Change::Set { key, resource } => match *resource {
                AnyResource::WorkloadEndpoint(endpoint) => self.set_endpoint(&key, &endpoint),
                AnyResource::Profile(profile) => {
                    self.index.set_parent_labels(&key.name, &profile.spec.labels_to_apply);
                    self.profiles.set(&key.name, profile.spec);
                }
                AnyResource::IPPool(pool) => {
                    self.pools.insert(key.name, pool_of(&pool));
                }
                AnyResource::FelixConfiguration(configuration) => {
                    self.settings.set(&self.node, &key.name, &configuration.spec);
                }
                _ => {}
            },
        }
    }

    /// What has changed since the last flush, to be applied in this order; the first one carries the pools and the
    /// settings even if there are none. Empty if nothing has changed.
    pub fn flush(&mut self) -> Vec<Instruction> {
        let mut out = Vec::new();
        let settings = self.settings.settings();
        if self.sent_settings.as_ref() != Some(&settings) {
            self.sent_settings = Some(settings.clone());
            out.push(Instruction::Settings(settings));
        }
        let pools = self.distinct_pools();
        if self.sent_pools.as_ref() != Some(&pools) {
            out.push(Instruction::Pools { pools: pools.clone() });
            self.sent_pools = Some(pools);
        }
        let profiles = self.profiles.flush(&mut self.index);
        let sets = self.index.flush();
        out.extend(sets.updates);
        out.extend(profiles.updates);
        out.extend(self.locals.flush());
        out.extend(profiles.removals);
        out.extend(sets.removals);
        out
    }

    /// The objects that are governed closed on this host, sorted; of profiles, those in use as of the last flush.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.locals.problems();
        problems.extend(self.profiles.problems());
        problems.extend(self.settings.problems(&self.node));
        problems.sort();
        problems
    }

    fn remove(&mut self, key: &ResourceKey) {
        match key.kind {
            KindName::WorkloadEndpoint => {
                let id = endpoint_id(key);
                self.index.remove(&item_key(&id));
                self.locals.set(&id, None, &mut self.profiles);
            }
            KindName::Profile => {
                self.index.set_parent_labels(&key.name, &BTreeMap::new());
                self.profiles.remove(&key.name);
            }
            KindName::IPPool => {
                self.pools.remove(&key.name);
            }
            KindName::FelixConfiguration => self.settings.remove(&self.node, &key.name),
            _ => {}
        }
    }

    fn set_endpoint(&mut self, key: &ResourceKey, resource: &WorkloadEndpoint) {
        let id = endpoint_id(key);
        let identity = identity(&resource.spec);
        match &identity {
            Ok(identity) => {
                let nets: Vec<IpNet> = identity.addresses.iter().copied().map(IpNet::from).collect();
                self.index.put(&item_key(&id), labels(resource), &resource.spec.profiles, &nets, &[]);
            }
            Err(_) => self.index.remove(&item_key(&id)),
        }
        let claim = (resource.spec.node == self.node).then(|| claim(resource, identity));
        self.locals.set(&id, claim, &mut self.profiles);
    }

    /// By range; of several pools with one range the first by name counts.
    fn distinct_pools(&self) -> Vec<Pool> {
        let mut by_cidr = BTreeMap::new();
        for pool in self.pools.values() {
            by_cidr.entry(pool.cidr).or_insert_with(|| pool.clone());
        }
        by_cidr.into_values().collect()
    }
}

/// The endpoint as the dataplane will get it, or why not.
fn claim(
    resource: &WorkloadEndpoint,
    identity: Result<Identity, Vec<calico_model::Fault>>,
) -> Result<Endpoint, String> {
    let spec = &resource.spec;
    match (identity, interface(spec)) {
        (Ok(identity), Ok(())) => Ok(Endpoint {
            interface: spec.interface_name.clone(),
            mac: identity.mac,
            addresses: identity.addresses,
            profiles: spec.profiles.iter().cloned().map(ProfileId).collect(),
            ..Endpoint::default()
        }),
        (identity, interface) => {
            let mut faults = identity.err().unwrap_or_default();
            faults.extend(interface.err());
            Err(sentence(&faults))
        }
    }
}

/// The labels that selectors see of an endpoint itself. Those of namespaces and service accounts come from profiles
/// only: nobody may give them to an endpoint of his own.
fn labels(resource: &WorkloadEndpoint) -> impl Iterator<Item = (&str, &str)> {
    let account = resource.spec.service_account_name.as_str();
    let own = resource.metadata.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    own.filter(|(key, _)| !key.starts_with(NAMESPACE_PREFIX) && !key.starts_with(SERVICE_ACCOUNT_PREFIX))
        .chain((!account.is_empty()).then_some((SERVICE_ACCOUNT_LABEL, account)))
}

fn endpoint_id(key: &ResourceKey) -> EndpointId {
    EndpointId { namespace: key.namespace.clone().unwrap_or_default(), name: key.name.clone() }
}

/// The endpoint's name among the items of the index. Neither part contains a slash.
fn item_key(id: &EndpointId) -> String {
    format!("workload/{id}")
}

fn pool_of(pool: &IPPool) -> Pool {
    Pool { cidr: pool.spec.cidr.trunc(), masquerade: pool.spec.nat_outgoing }
}
