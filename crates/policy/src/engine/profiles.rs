//! Profiles: what is stored, which are in use here, and what the dataplane has of them.
//!
//! Only profiles in use are compiled, and only at a flush, so that one that comes and goes in between costs nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use calico_model::{KindName, ProfileSpec, ResourceKey};

use crate::{
    BUILT_IN_PROFILE, Problem,
    compile::{Compiled, closed, compile, open},
    endpoint::sentence,
    index::{Index, SetHandle},
    instruction::{Instruction, ProfileId, RuleSet},
};

#[derive(Default)]
pub(super) struct Profiles {
    by_name: BTreeMap<String, State>,
    /// Profiles that may differ from what the dataplane has.
    dirty: BTreeSet<String>,
}

/// A profile that is stored, in use, or known to the dataplane.
#[derive(Default)]
struct State {
    stored: Option<Box<ProfileSpec>>,
    /// How often the programmed endpoints of this host name it.
    uses: usize,
    sent: Option<Sent>,
}

/// What the dataplane has of a profile.
struct Sent {
    rules: Arc<RuleSet>,
    sets: Vec<SetHandle>,
    /// Why the rules are closed, if they are.
    fault: Option<String>,
}

/// What a flush asks of the dataplane.
#[derive(Default)]
pub(super) struct ProfileChanges {
    pub(super) updates: Vec<Instruction>,
    /// To be done after the endpoints.
    pub(super) removals: Vec<Instruction>,
}

impl Profiles {
    pub(super) fn set(&mut self, name: &str, spec: ProfileSpec) {
        let state = self.by_name.entry(name.to_owned()).or_default();
        if state.stored.as_deref() != Some(&spec) {
            state.stored = Some(Box::new(spec));
            self.mark(name);
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Some(state) = self.by_name.get_mut(name) {
            state.stored = None;
            self.mark(name);
        }
    }

    /// One more endpoint is programmed with these.
    pub(super) fn acquire(&mut self, names: &[ProfileId]) {
        for ProfileId(name) in names {
            self.by_name.entry(name.clone()).or_default().uses += 1;
            self.mark(name);
        }
    }

    /// An endpoint that was programmed with these is not so any more.
    pub(super) fn release(&mut self, names: &[ProfileId]) {
        for ProfileId(name) in names {
            let state = self.by_name.get_mut(name).expect("a profile in use has a state");
            state.uses -= 1;
            self.mark(name);
        }
    }

    /// Notes a profile that the dataplane has or should have.
    fn mark(&mut self, name: &str) {
        self.dirty.insert(name.to_owned());
    }

    /// Brings what changed to the dataplane. The sets that it needs are acquired here and flushed by the caller.
    pub(super) fn flush(&mut self, index: &mut Index) -> ProfileChanges {
        let mut changes = ProfileChanges::default();
        for name in std::mem::take(&mut self.dirty) {
            let Some(state) = self.by_name.get_mut(&name) else { continue };
            if state.uses > 0 {
                let next = state.compiled(&name, index);
                let before = state.sent.replace(next);
                let rules = &state.sent.as_ref().expect("it was put there in the line above").rules;
                if before.as_ref().map(|before| &before.rules) != Some(rules) {
                    let rules = Arc::clone(rules);
                    changes.updates.push(Instruction::ProfileUpdate { id: ProfileId(name), rules });
                }
                release_sets(before, index);
            } else {
                if let Some(before) = state.sent.take() {
                    changes.removals.push(Instruction::ProfileRemove { id: ProfileId(name.clone()) });
                    release_sets(Some(before), index);
                }
                if state.stored.is_none() {
                    self.by_name.remove(&name);
                }
            }
        }
        changes
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        self.by_name.iter().filter_map(|(name, state)| {
            let reason = state.sent.as_ref()?.fault.clone()?;
            Some(Problem { object: ResourceKey::new(KindName::Profile, None, name), reason })
        })
    }
}

impl State {
    /// The rules to send, with their sets acquired.
    fn compiled(&self, name: &str, index: &mut Index) -> Sent {
        let without_sets = |rules: RuleSet, fault| Sent { rules: rules.into(), sets: Vec::new(), fault };
        let Some(stored) = &self.stored else {
            if name == BUILT_IN_PROFILE {
                return without_sets(open(), None);
            }
            return without_sets(closed(), Some("it does not exist, but endpoints of this host name it".to_owned()));
        };
        match compile(stored) {
            Ok(Compiled { rules, selectors }) => {
                let sets = selectors.iter().map(|selector| index.acquire(selector, None)).collect();
                Sent { rules: rules.into(), sets, fault: None }
            }
            Err(faults) => without_sets(closed(), Some(sentence(&faults))),
        }
    }
}

fn release_sets(sent: Option<Sent>, index: &mut Index) {
    for set in sent.into_iter().flat_map(|sent| sent.sets) {
        index.release(set);
    }
}
