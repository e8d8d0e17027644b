//! The endpoints of this host: who has which interface.
//!
//! An interface belongs to the first, by namespace and name, of the endpoints that claim it; the others are not
//! programmed. Only endpoints with an interface use profiles.

use std::collections::{BTreeMap, BTreeSet};

use calico_model::{KindName, ResourceKey};

use super::profiles::Profiles;
use crate::{
    Problem,
    instruction::{Endpoint, EndpointId, Instruction},
};

/// Every endpoint of this host: what to program, or why that cannot be.
type Claims = BTreeMap<EndpointId, Result<Endpoint, String>>;
type Interfaces = BTreeMap<String, BTreeSet<EndpointId>>;

#[derive(Default)]
pub(super) struct Locals {
    claims: Claims,
    by_interface: Interfaces,
    /// What the dataplane has.
    sent: BTreeMap<EndpointId, Endpoint>,
    /// Endpoints that may differ from what the dataplane has.
    dirty: BTreeSet<EndpointId>,
}

impl Locals {
    /// Replaces what is known of an endpoint; `None` if it is not of this host (any more).
    pub(super) fn set(&mut self, id: &EndpointId, claim: Option<Result<Endpoint, String>>, profiles: &mut Profiles) {
        if self.claims.get(id) == claim.as_ref() {
            return;
        }
        let interface = |claim: Option<&Result<Endpoint, String>>| Some(claim?.as_ref().ok()?.interface.clone());
        let affected: BTreeSet<String> =
            [interface(self.claims.get(id)), interface(claim.as_ref())].into_iter().flatten().collect();
        self.dirty.insert(id.clone());
        for (holder, endpoint) in holders(&self.claims, &self.by_interface, &affected) {
            profiles.release(&endpoint.profiles);
            self.dirty.insert(holder.clone());
        }
        if let Some(Ok(old)) = self.claims.remove(id)
            && let Some(claimants) = self.by_interface.get_mut(&old.interface)
        {
            claimants.remove(id);
            if claimants.is_empty() {
                self.by_interface.remove(&old.interface);
            }
        }
        if let Some(Ok(new)) = &claim {
            self.by_interface.entry(new.interface.clone()).or_default().insert(id.clone());
        }
        self.claims.extend(claim.map(|claim| (id.clone(), claim)));
        for (holder, endpoint) in holders(&self.claims, &self.by_interface, &affected) {
            profiles.acquire(&endpoint.profiles);
            self.dirty.insert(holder.clone());
        }
    }

    /// What to program for an endpoint, if anything.
    fn wanted(&self, id: &EndpointId) -> Option<&Endpoint> {
        let endpoint = self.claims.get(id)?.as_ref().ok()?;
        (self.by_interface.get(&endpoint.interface)?.first() == Some(id)).then_some(endpoint)
    }

    /// Removals first, so that no two endpoints have one interface at any time; one that changes its interface
    /// counts as removed and made anew.
    pub(super) fn flush(&mut self) -> Vec<Instruction> {
        let (mut removals, mut updates) = (Vec::new(), Vec::new());
        for id in std::mem::take(&mut self.dirty) {
            let wanted = self.wanted(&id).cloned();
            let sent = self.sent.get(&id);
            if wanted.as_ref() == sent {
                continue;
            }
            if let Some(sent) = sent
                && wanted.as_ref().is_none_or(|wanted| wanted.interface != sent.interface)
            {
                removals.push(Instruction::EndpointRemove { id: id.clone() });
                self.sent.remove(&id);
            }
            if let Some(endpoint) = wanted {
                self.sent.insert(id.clone(), endpoint.clone());
                updates.push(Instruction::EndpointUpdate { id, endpoint });
            }
        }
        removals.extend(updates);
        removals
    }

    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (id, claim) in &self.claims {
            let reason = match claim {
                Err(reason) => reason.clone(),
                Ok(endpoint) => match self.by_interface.get(&endpoint.interface).and_then(BTreeSet::first) {
                    Some(holder) if holder != id => {
                        format!("its interface {} belongs to {holder}", endpoint.interface)
                    }
                    _ => continue,
                },
            };
            let object = ResourceKey::new(KindName::WorkloadEndpoint, Some(&id.namespace), &id.name);
            problems.push(Problem { object, reason });
        }
        problems
    }
}

/// The endpoints that have these interfaces.
fn holders<'a>(
    claims: &'a Claims,
    by_interface: &'a Interfaces,
    interfaces: &'a BTreeSet<String>,
) -> impl Iterator<Item = (&'a EndpointId, &'a Endpoint)> {
    interfaces.iter().filter_map(|interface| {
        let holder = by_interface.get(interface)?.first()?;
        Some((holder, claims.get(holder)?.as_ref().ok()?))
    })
}
