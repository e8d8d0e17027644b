//! Policies: what is stored, which endpoints of this host they apply to, and what the dataplane has of them.
//!
//! A policy is *in use* while an endpoint that is programmed has it in a list. Only then do its rules reach the
//! dataplane and its sets exist.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use calico_model::{KindName, ResourceKey};

use super::{
    codes::{CodeId, Codes, Link},
    doubts::Doubts,
    reach::Reach,
    stored::{State, Stored},
    tiers::{Place, Tier, Tiers},
};
use crate::{
    Problem,
    compile::{Code, Lists, Policy},
    index::{HashMap, Index},
    instruction::{Instruction, PolicyId, RuleSet, TierPolicies},
};

/// A policy that the dataplane has, or that a list refers to.
#[derive(Default)]
struct Active {
    /// How many lists that programmed endpoints have refer to it.
    uses: usize,
    sent: Option<Sent>,
}

/// What the dataplane has of a policy.
struct Sent {
    /// Linked.
    code: CodeId,
    rules: Arc<RuleSet>,
    /// Why the rules are closed, if they are.
    fault: Option<Box<str>>,
}

/// The lists of an endpoint, and the policies in them.
#[derive(Debug)]
pub(super) struct EndpointLists {
    pub(super) normal: Arc<[TierPolicies]>,
    pub(super) forward: Vec<TierPolicies>,
    pub(super) untracked: Vec<TierPolicies>,
    pub(super) pre_dnat: Vec<TierPolicies>,
    /// All policies in them; sorted, without repeats.
    members: Vec<PolicyId>,
    /// How many programmed endpoints have these lists.
    uses: AtomicUsize,
}

#[derive(Default)]
pub(super) struct Policies {
    stored: Stored,
    pub(super) reach: Reach,
    tiers: Tiers,
    /// Names of tiers, shared by their policies.
    tier_names: BTreeSet<Arc<str>>,
    active: BTreeMap<PolicyId, Active>,
    /// Policies that may differ from what the dataplane has.
    dirty: BTreeSet<PolicyId>,
    /// Lists by the selectors that they follow from; holds between two changes of policies and tiers.
    memo: HashMap<(Vec<u32>, bool), Arc<EndpointLists>>,
    /// How many of them were in use when that was looked at last.
    memo_in_use: usize,
}

/// What a flush asks of the dataplane.
#[derive(Default)]
pub(super) struct PolicyChanges {
    pub(super) updates: Vec<Instruction>,
    /// To be done after the endpoints.
    pub(super) removals: Vec<Instruction>,
}

impl Policies {
    /// Creates or replaces a policy.
    pub(super) fn set(&mut self, id: &PolicyId, policy: Policy, codes: &mut Codes) {
        let code = codes.keep(&policy.code);
        let tier = policy.tier.map(|name| self.tier_name(&name));
        // One that is new here may be in use all the same: as it was before it was removed, since the last flush.
        self.mark(id);
        let number = if let Some(number) = self.stored.find(id) {
            let state = self.stored.get(number);
            let place = |lists, ingress, egress, order: f64| (lists, ingress, egress, order.to_bits());
            let stays = state.tier == tier
                && place(state.lists, state.ingress, state.egress, state.order)
                    == place(policy.lists, policy.ingress, policy.egress, policy.order)
                && self.reach.is(state.selector, &policy.selector);
            let selector = state.selector;
            self.recode(number, code, policy.fault, codes);
            if stays {
                return;
            }
            self.reach.unfile(selector, number);
            number
        } else {
            self.stored.insert(State::new(id, code, policy.fault))
        };
        self.memo.clear();
        let selector = self.reach.file(&policy.selector, number);
        let state = self.stored.get_mut(number);
        state.tier = tier;
        state.order = policy.order;
        (state.lists, state.ingress, state.egress) = (policy.lists, policy.ingress, policy.egress);
        state.selector = selector;
    }

    /// Removes a policy, if it is there.
    pub(super) fn remove(&mut self, id: &PolicyId, codes: &mut Codes) {
        let Some(number) = self.stored.find(id) else { return };
        self.memo.clear();
        let state = self.stored.remove(number);
        self.reach.unfile(state.selector, number);
        codes.release(state.code);
    }

    /// Replaces what is known of a tier.
    pub(super) fn set_tier(&mut self, name: &str, tier: Option<Tier>) {
        let was_unreadable = self.tiers.place(Some(name)).is_unreadable();
        if !self.tiers.set(name, tier) {
            return;
        }
        self.memo.clear();
        let of_tier = self.stored.iter().filter(|state| state.tier.as_deref() == Some(name));
        let selectors: BTreeSet<u32> = of_tier.map(|state| state.selector).collect();
        selectors.into_iter().for_each(|selector| self.reach.touch(selector));
        // The policies' rules depend on whether the tier can be read.
        if was_unreadable != self.tiers.place(Some(name)).is_unreadable() {
            self.doubt();
        }
    }

    /// Notes a policy that may differ from what the dataplane has of it.
    fn mark(&mut self, id: &PolicyId) {
        if self.active.contains_key(id) {
            self.dirty.insert(id.clone());
        }
    }

    /// Looks at all policies in use again.
    pub(super) fn doubt(&mut self) {
        self.dirty.extend(self.active.keys().cloned());
    }

    /// The policies of an endpoint, in order of evaluation. Of a workload only those of its one list.
    pub(super) fn lists(&mut self, key: &ResourceKey) -> Arc<EndpointLists> {
        let of_host = key.kind == KindName::HostEndpoint;
        let memo = (self.reach.matches(key).to_vec(), of_host);
        if let Some(known) = self.memo.get(&memo) {
            return known.clone();
        }
        if self.memo.len() > 2 * self.memo_in_use + 16 {
            self.memo.retain(|_, lists| Arc::strong_count(lists) > 1);
            self.memo_in_use = self.memo.len();
        }
        let lists = Arc::new(self.sorted(&memo.0, of_host));
        self.memo.insert(memo, lists.clone());
        lists
    }

    /// One more programmed endpoint has these lists.
    pub(super) fn acquire(&mut self, lists: &EndpointLists) {
        if lists.uses.fetch_add(1, Relaxed) > 0 {
            return;
        }
        for id in &lists.members {
            let active = self.active.entry(id.clone()).or_default();
            active.uses += 1;
            if active.uses == 1 {
                self.dirty.insert(id.clone());
            }
        }
    }

    /// An endpoint that was programmed with these is not so any more.
    pub(super) fn release(&mut self, lists: &EndpointLists) {
        if lists.uses.fetch_sub(1, Relaxed) > 1 {
            return;
        }
        for id in &lists.members {
            let active = self.active.get_mut(id).expect("a policy in a list is active");
            active.uses -= 1;
            if active.uses == 0 {
                self.dirty.insert(id.clone());
            }
        }
    }

    /// Brings what changed to the dataplane. The sets that it needs are acquired here and flushed by the caller.
    pub(super) fn flush(&mut self, codes: &mut Codes, index: &mut Index, doubts: &Doubts) -> PolicyChanges {
        let mut changes = PolicyChanges::default();
        for id in std::mem::take(&mut self.dirty) {
            let Some(mut active) = self.active.remove(&id) else { continue };
            if active.uses == 0 {
                if let Some(sent) = active.sent {
                    codes.unlink(sent.code, index);
                    changes.removals.push(Instruction::PolicyRemove { id });
                }
                continue;
            }
            let (code, fault) = self.wanted(&id, codes);
            let Link { rules, doubt } = codes.link(code, index, doubts);
            codes.release(code);
            let fault = fault.or_else(|| doubt.as_deref().map(Into::into));
            let before = active.sent.replace(Sent { code, rules: rules.clone(), fault });
            if before.as_ref().is_none_or(|before| before.rules != rules) {
                changes.updates.push(Instruction::PolicyUpdate { id: id.clone(), rules });
            }
            before.into_iter().for_each(|before| codes.unlink(before.code, index));
            self.active.insert(id, active);
        }
        changes
    }

    /// How many policies are in use, as of the last flush.
    pub(super) fn in_use(&self) -> usize {
        self.active.len()
    }

    /// Policies in use that are governed closed.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        self.active.iter().filter_map(|(id, active)| {
            let reason = active.sent.as_ref()?.fault.as_deref()?.to_owned();
            Some(Problem { object: id.key(), reason })
        })
    }

    /// The rules of a policy in use, held once more, and why they are closed if they are.
    fn wanted(&self, id: &PolicyId, codes: &mut Codes) -> (CodeId, Option<Box<str>>) {
        let state = self.stored.find(id).map(|number| self.stored.get(number));
        let state = state.expect("endpoints drop a policy that is gone before the policies are flushed");
        let tier = self.tiers.place(state.tier.as_deref());
        if state.fault().is_none() && tier.is_unreadable() {
            let fault = format!("its tier {} cannot be read", tier.name);
            return (codes.keep(&Code::closed()), Some(fault.into()));
        }
        (codes.hold(state.code), state.fault().map(Into::into))
    }

    /// How many lists of endpoints are remembered.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.memo.len()
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> [(&'static str, usize); 4] {
        [
            ("policies", self.stored.iter().count()),
            ("active", self.active.len()),
            ("dirty policies", self.dirty.len()),
            ("reach", self.reach.len()),
        ]
    }

    fn recode(&mut self, number: u32, code: CodeId, fault: Option<Box<str>>, codes: &mut Codes) {
        let state = self.stored.get_mut(number);
        codes.release(std::mem::replace(&mut state.code, code));
        state.set_fault(fault);
    }

    fn tier_name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.tier_names.get(name) {
            return known.clone();
        }
        // Names that no policy has any more go when another one comes.
        self.tier_names.retain(|name| Arc::strong_count(name) > 1);
        let name: Arc<str> = name.into();
        self.tier_names.insert(name.clone());
        name
    }

    fn sorted(&self, selectors: &[u32], of_host: bool) -> EndpointLists {
        let of_workloads = |lists| matches!(lists, Lists::Normal | Lists::NormalAndForward);
        let states = selectors.iter().flat_map(|&selector| self.reach.policies(selector));
        let states = states.map(|number| self.stored.get(number));
        let mut by_tier: BTreeMap<Option<&str>, Vec<&State>> = BTreeMap::new();
        for state in states.filter(|state| of_host || of_workloads(state.lists)) {
            by_tier.entry(state.tier.as_deref()).or_default().push(state);
        }
        let mut tiers: Vec<(Place<'_>, Vec<&State>)> =
            by_tier.into_iter().map(|(name, states)| (self.tiers.place(name), states)).collect();
        tiers.sort_by(|(a, _), (b, _)| a.compare(b));
        for (_, states) in &mut tiers {
            states.sort_by(|a, b| a.compare(b));
        }
        let list = |of_list: fn(Lists) -> bool| -> Vec<TierPolicies> {
            tiers.iter().filter_map(|(place, states)| tier_policies(place, states, of_list)).collect()
        };
        let normal = list(|lists| matches!(lists, Lists::Normal | Lists::NormalAndForward));
        let forward = list(|lists| lists == Lists::NormalAndForward);
        let untracked = list(|lists| lists == Lists::Untracked);
        let pre_dnat = list(|lists| lists == Lists::PreDnat);
        let all = [&normal, &forward, &untracked, &pre_dnat].into_iter().flatten();
        let members: BTreeSet<&PolicyId> = all.flat_map(|tier| tier.ingress.iter().chain(&tier.egress)).collect();
        let members = members.into_iter().cloned().collect();
        EndpointLists { normal: normal.into(), forward, untracked, pre_dnat, members, uses: AtomicUsize::new(0) }
    }
}

/// A tier's policies in one list; `None` if there are none.
fn tier_policies(place: &Place<'_>, states: &[&State], of_list: fn(Lists) -> bool) -> Option<TierPolicies> {
    let ids = |way: fn(&State) -> bool| {
        states.iter().filter(|state| of_list(state.lists) && way(state)).map(|state| state.id()).collect()
    };
    let (ingress, egress): (Vec<PolicyId>, Vec<PolicyId>) = (ids(|state| state.ingress), ids(|state| state.egress));
    if ingress.is_empty() && egress.is_empty() {
        return None;
    }
    Some(TierPolicies { tier: place.name.to_owned(), pass_at_end: place.passes, ingress, egress })
}
