//! The workload endpoints of this host: who has which interface, and what the dataplane has of each.
//!
//! An interface belongs to the first, by namespace and name, of the endpoints that claim it; the others are not
//! programmed. Only endpoints with an interface use policies and profiles.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use calico_model::ResourceKey;

use super::{
    policies::{EndpointLists, Policies},
    profiles::Profiles,
};
use crate::{
    Problem,
    instruction::{Endpoint, EndpointId, Instruction},
};

/// Every endpoint of this host: what to program but for its policies, or why that cannot be.
type Claims = BTreeMap<EndpointId, Result<Endpoint, String>>;

#[derive(Default)]
pub(super) struct Workloads {
    claims: Claims,
    /// Their keys, for the many endpoints of other hosts: whether they are unknown here costs one look.
    known: HashSet<ResourceKey>,
    /// Sorted. Nearly always one, so in as much memory as that needs.
    by_interface: BTreeMap<String, Vec<EndpointId>>,
    /// What the dataplane has.
    sent: BTreeMap<EndpointId, Sent>,
    /// Endpoints that may differ from what the dataplane has.
    dirty: BTreeSet<EndpointId>,
}

struct Sent {
    endpoint: Endpoint,
    /// The policies that it uses.
    lists: Option<Arc<EndpointLists>>,
}

impl Workloads {
    /// Replaces what is known of an endpoint; `None` if it is not of this host (any more). True if that has changed.
    pub(super) fn set(&mut self, key: &ResourceKey, claim: Option<Result<Endpoint, String>>) -> bool {
        match &claim {
            None if !self.known.remove(key) => return false,
            None => {}
            Some(_) => drop(self.known.insert(key.clone())),
        }
        let id = &EndpointId::of(key);
        if self.claims.get(id) == claim.as_ref() {
            return false;
        }
        if let Some(Ok(old)) = self.claims.remove(id) {
            let claimants = self.by_interface.get_mut(&old.interface).expect("claims are filed by interface");
            claimants.retain(|claimant| claimant != id);
            // Another one may have the interface now.
            self.dirty.extend(claimants.first().cloned());
            if claimants.is_empty() {
                self.by_interface.remove(&old.interface);
            }
        }
        if let Some(Ok(new)) = &claim {
            let claimants = self.by_interface.entry(new.interface.clone()).or_default();
            // Another one may lose it.
            self.dirty.extend(claimants.first().cloned());
            if let Err(place) = claimants.binary_search(id) {
                claimants.reserve_exact(1);
                claimants.insert(place, id.clone());
            }
        }
        self.dirty.insert(id.clone());
        self.claims.extend(claim.map(|claim| (id.clone(), claim)));
        true
    }

    /// How many the dataplane has.
    pub(super) fn programmed(&self) -> usize {
        self.sent.len()
    }

    /// Notes that an endpoint's policies may have changed.
    pub(super) fn touch(&mut self, id: EndpointId) {
        self.dirty.insert(id);
    }

    /// Notes the same of all endpoints.
    pub(super) fn touch_all(&mut self) {
        self.dirty.extend(self.claims.keys().cloned());
    }

    /// Removals first, so that no two endpoints have one interface at any time; one that changes its interface
    /// counts as removed and made anew.
    pub(super) fn flush(
        &mut self,
        policies: &mut Policies,
        profiles: &mut Profiles,
        floating: bool,
    ) -> Vec<Instruction> {
        let (mut removals, mut updates) = (Vec::new(), Vec::new());
        for id in std::mem::take(&mut self.dirty) {
            let wanted = self.wanted(&id).map(|endpoint| complete(&id, endpoint, policies, profiles, floating));
            let sent = self.sent.get(&id);
            if let (Some(wanted), Some(sent)) = (&wanted, sent)
                && wanted.endpoint == sent.endpoint
            {
                continue;
            }
            if let Some(wanted) = &wanted {
                profiles.acquire(&wanted.endpoint.profiles);
                wanted.lists.iter().for_each(|lists| policies.acquire(lists));
            }
            if let Some(sent) = self.sent.remove(&id) {
                profiles.release(&sent.endpoint.profiles);
                sent.lists.iter().for_each(|lists| policies.release(lists));
                let stays = |wanted: &Sent| wanted.endpoint.interface == sent.endpoint.interface;
                if !wanted.as_ref().is_some_and(stays) {
                    removals.push(Instruction::EndpointRemove { id: id.clone() });
                }
            }
            if let Some(wanted) = wanted {
                updates.push(Instruction::EndpointUpdate { id: id.clone(), endpoint: wanted.endpoint.clone() });
                self.sent.insert(id, wanted);
            }
        }
        removals.extend(updates);
        removals
    }

    /// Endpoints that are not programmed.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        self.claims.iter().filter_map(|(id, claim)| {
            let reason = match claim {
                Err(reason) => reason.clone(),
                Ok(endpoint) => {
                    let holder = self.by_interface.get(&endpoint.interface)?.first()?;
                    if holder == id {
                        return None;
                    }
                    format!("its interface {} belongs to {holder}", endpoint.interface)
                }
            };
            Some(Problem { object: id.key(), reason })
        })
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> [(&'static str, usize); 5] {
        let Self { claims, known, by_interface, sent, dirty } = self;
        [
            ("claims", claims.len()),
            ("known", known.len()),
            ("interfaces", by_interface.len()),
            ("sent", sent.len()),
            ("dirty", dirty.len()),
        ]
    }

    /// What to program for an endpoint, if anything.
    fn wanted(&self, id: &EndpointId) -> Option<&Endpoint> {
        let endpoint = self.claims.get(id)?.as_ref().ok()?;
        (self.by_interface.get(&endpoint.interface)?.first() == Some(id)).then_some(endpoint)
    }
}

/// Adds the policies. An endpoint that inherits from a profile of which nothing can be read might have any label, so
/// no policy opens anything for it.
fn complete(
    id: &EndpointId,
    endpoint: &Endpoint,
    policies: &mut Policies,
    profiles: &Profiles,
    floating: bool,
) -> Sent {
    let mut endpoint = endpoint.clone();
    if !floating {
        endpoint.nats.clear();
    }
    if let Some(unreadable) = endpoint.profiles.iter().find(|profile| profiles.is_unreadable(&profile.0)) {
        endpoint.profiles = vec![unreadable.clone()];
        return Sent { endpoint, lists: None };
    }
    let lists = policies.lists(&id.key());
    endpoint.tiers = lists.normal.clone();
    Sent { endpoint, lists: Some(lists) }
}
