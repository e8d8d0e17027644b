//! The workload endpoints of this host: who has which interface, and what the dataplane has of each.
//!
//! An interface belongs to the first, by namespace and name, of the endpoints that claim it; the others are not
//! programmed. Only endpoints with an interface use policies and profiles.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use calico_model::ResourceKey;

use super::{
    policies::{EndpointLists, Policies},
    profiles::Profiles,
    settings::Effective,
};
use crate::{
    Problem,
    index::{HashMap, HashSet},
    instruction::{Endpoint, EndpointId, Instruction, PublishedAt, PublishedPort, Settings},
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

    /// True if an endpoint is one of this host, usable or not.
    pub(super) fn knows(&self, key: &ResourceKey) -> bool {
        self.known.contains(key)
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
        effective: &Effective,
    ) -> Vec<Instruction> {
        let (mut removals, mut updates) = (Vec::new(), Vec::new());
        for id in std::mem::take(&mut self.dirty) {
            let wanted = self.wanted(&id).map(|endpoint| complete(&id, endpoint, policies, profiles, effective));
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

    /// Endpoints that are not programmed, and those of which a published port is not.
    pub(super) fn problems(&self, settings: &Settings) -> impl Iterator<Item = Problem> {
        self.unprogrammed().chain(self.unpublished(settings))
    }

    fn unprogrammed(&self) -> impl Iterator<Item = Problem> {
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

    /// Endpoints that publish a port of the host which they do not get.
    fn unpublished(&self, settings: &Settings) -> impl Iterator<Item = Problem> {
        let publishing = self.claims.keys().filter_map(|id| Some((id, self.wanted(id)?)));
        let mut owners: HashMap<PublishedAt, (&EndpointId, &PublishedPort)> = HashMap::default();
        let mut problems = Vec::new();
        for (id, endpoint) in publishing.filter(|(_, endpoint)| !endpoint.published.is_empty()) {
            let mut reasons: Vec<String> = Vec::new();
            for port in &endpoint.published {
                let at = port.claim();
                let why = match settings.reserves(at.protocol, at.port) {
                    Some(reason) => reason.to_owned(),
                    None => match owners.entry(at).or_insert((id, port)) {
                        (_, owner) if *owner == port => continue,
                        (owner, to) if *owner == id => format!("it leads to port {} of this endpoint already", to.port),
                        (owner, _) => format!("{owner} has it"),
                    },
                };
                // Of both families the same.
                let reason = format!("the host's port {at} does not lead here: {why}");
                if !reasons.contains(&reason) {
                    reasons.push(reason);
                }
            }
            problems.extend((!reasons.is_empty()).then(|| Problem { object: id.key(), reason: reasons.join("; ") }));
        }
        problems.into_iter()
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
    effective: &Effective,
) -> Sent {
    let mut endpoint = endpoint.clone();
    if !effective.floating {
        endpoint.nats.clear();
    }
    endpoint.published.retain(|port| effective.settings.reserves(port.protocol, port.host_port).is_none());
    if let Some(unreadable) = endpoint.profiles.iter().find(|profile| profiles.is_unreadable(&profile.0)) {
        endpoint.profiles = vec![unreadable.clone()];
        return Sent { endpoint, lists: None };
    }
    let lists = policies.lists(&id.key());
    endpoint.tiers = lists.normal.clone();
    Sent { endpoint, lists: Some(lists) }
}
