//! The host endpoints of this host.
//!
//! Which of several has an interface is for the dataplane to say, which sees addresses come and go.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use calico_model::{KindName, ResourceKey};

use super::{
    policies::{EndpointLists, Policies},
    profiles::Profiles,
};
use crate::{
    Problem,
    instruction::{HostEndpoint, HostEndpointId, HostInterfaces, Instruction, ProfileId},
};

/// A host endpoint but for its policies.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Claim {
    /// Where; `None` if that cannot be said, so that nothing can be programmed.
    pub(super) interfaces: Option<HostInterfaces>,
    pub(super) profiles: Vec<ProfileId>,
    /// Why the host's own traffic is closed whatever policy says, if it is.
    pub(super) fault: Option<String>,
}

#[derive(Default)]
pub(super) struct HostEndpoints {
    claims: BTreeMap<String, Claim>,
    /// What the dataplane has.
    sent: BTreeMap<String, Sent>,
    /// Endpoints that may differ from what the dataplane has.
    dirty: BTreeSet<String>,
}

struct Sent {
    endpoint: HostEndpoint,
    /// The policies that it uses.
    lists: Arc<EndpointLists>,
}

impl HostEndpoints {
    /// How many the dataplane has.
    pub(super) fn programmed(&self) -> usize {
        self.sent.len()
    }

    /// Replaces what is known of an endpoint; `None` if it is not of this host (any more).
    pub(super) fn set(&mut self, name: &str, claim: Option<Claim>) {
        if self.claims.get(name) == claim.as_ref() {
            return;
        }
        self.claims.remove(name);
        self.claims.extend(claim.map(|claim| (name.to_owned(), claim)));
        self.dirty.insert(name.to_owned());
    }

    /// Notes that an endpoint's policies may have changed.
    pub(super) fn touch(&mut self, name: String) {
        self.dirty.insert(name);
    }

    /// Removals first, so that an interface is not claimed twice for a moment.
    pub(super) fn flush(&mut self, policies: &mut Policies, profiles: &mut Profiles) -> Vec<Instruction> {
        let (mut removals, mut updates) = (Vec::new(), Vec::new());
        for name in std::mem::take(&mut self.dirty) {
            let wanted = self.claims.get(&name).and_then(|claim| complete(&name, claim, policies, profiles));
            let sent = self.sent.get(&name);
            if let (Some(wanted), Some(sent)) = (&wanted, sent)
                && wanted.endpoint == sent.endpoint
                && Arc::ptr_eq(&wanted.lists, &sent.lists)
            {
                continue;
            }
            if let Some(wanted) = &wanted {
                profiles.acquire(&wanted.endpoint.profiles);
                policies.acquire(&wanted.lists);
            }
            let sent = self.sent.remove(&name);
            if let Some(sent) = &sent {
                profiles.release(&sent.endpoint.profiles);
                policies.release(&sent.lists);
            }
            let id = HostEndpointId(name.clone());
            match wanted {
                Some(wanted) => {
                    if sent.is_none_or(|sent| sent.endpoint != wanted.endpoint) {
                        updates.push(Instruction::HostEndpointUpdate { id, endpoint: wanted.endpoint.clone() });
                    }
                    self.sent.insert(name, wanted);
                }
                None => removals.extend(sent.map(|_| Instruction::HostEndpointRemove { id })),
            }
        }
        removals.extend(updates);
        removals
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.claims.len() + self.sent.len() + self.dirty.len()
    }

    /// Endpoints that are closed or cannot be programmed.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        self.claims
            .iter()
            .filter_map(|(name, claim)| Some(Problem { object: key_of(name), reason: claim.fault.clone()? }))
    }
}

/// The key of an endpoint's resource.
pub(super) fn key_of(name: &str) -> ResourceKey {
    ResourceKey::new(KindName::HostEndpoint, None, name)
}

/// Adds the policies. One that cannot be followed, or might have any label, opens nothing for the host; what denies
/// elsewhere still does.
fn complete(name: &str, claim: &Claim, policies: &mut Policies, profiles: &Profiles) -> Option<Sent> {
    let interfaces = claim.interfaces.clone()?;
    let lists = policies.lists(&key_of(name));
    let (forward, pre_dnat) = (lists.forward.clone(), lists.pre_dnat.clone());
    let unreadable = claim.profiles.iter().find(|profile| profiles.is_unreadable(&profile.0));
    let endpoint = if claim.fault.is_some() || unreadable.is_some() {
        let profiles = unreadable.cloned().into_iter().collect();
        HostEndpoint { interfaces, normal: Vec::new(), forward, untracked: Vec::new(), pre_dnat, profiles }
    } else {
        let (normal, untracked) = (lists.normal.to_vec(), lists.untracked.clone());
        HostEndpoint { interfaces, normal, forward, untracked, pre_dnat, profiles: claim.profiles.clone() }
    };
    Some(Sent { endpoint, lists })
}
