//! Profiles: what is stored, which are in use here, and what the dataplane has of them.
//!
//! A profile is in use while an endpoint that is programmed names it. One that is named and not stored denies.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use calico_model::{KindName, ResourceKey};

use super::{
    codes::{CodeId, Codes, Link},
    doubts::Doubts,
};
use crate::{
    BUILT_IN_PROFILE, Problem,
    compile::Code,
    index::Index,
    instruction::{Instruction, ProfileId, RuleSet},
};

#[derive(Default)]
pub(super) struct Profiles {
    by_name: HashMap<Box<str>, State>,
    /// Profiles that may differ from what the dataplane has.
    dirty: BTreeSet<String>,
}

/// A profile that is stored, in use, or known to the dataplane.
#[derive(Default)]
struct State {
    stored: Option<Stored>,
    /// How often the programmed endpoints of this host name it.
    uses: u32,
    sent: Option<Box<Sent>>,
}

struct Stored {
    code: CodeId,
    /// Why the code is closed, if it is for that.
    fault: Option<Box<str>>,
    /// Not even its labels can be read.
    unreadable: bool,
}

/// What the dataplane has of a profile.
struct Sent {
    /// Linked.
    code: CodeId,
    rules: Arc<RuleSet>,
    /// Why the rules are closed, if they are.
    fault: Option<Box<str>>,
}

/// What a flush asks of the dataplane.
#[derive(Default)]
pub(super) struct ProfileChanges {
    pub(super) updates: Vec<Instruction>,
    /// To be done after the endpoints.
    pub(super) removals: Vec<Instruction>,
}

impl Profiles {
    /// Replaces what is stored; `unreadable`: nothing of it is known. True if that has changed.
    pub(super) fn set(
        &mut self,
        name: &str,
        code: &Code,
        fault: Option<Box<str>>,
        unreadable: bool,
        codes: &mut Codes,
    ) -> bool {
        let code = codes.keep(code);
        if !self.by_name.contains_key(name) {
            self.by_name.insert(name.into(), State::default());
        }
        let state = self.by_name.get_mut(name).expect("it was put there in the line above");
        let before = state.stored.replace(Stored { code, fault, unreadable });
        let flipped = before.as_ref().is_some_and(|before| before.unreadable) != unreadable;
        before.into_iter().for_each(|before| codes.release(before.code));
        if state.uses > 0 {
            self.dirty.insert(name.to_owned());
        }
        flipped
    }

    /// Forgets what is stored. True if it could not be read.
    pub(super) fn remove(&mut self, name: &str, codes: &mut Codes) -> bool {
        let Some(before) = self.by_name.get_mut(name).and_then(|state| state.stored.take()) else { return false };
        codes.release(before.code);
        // The flush drops it if nobody uses it any more.
        self.dirty.insert(name.to_owned());
        before.unreadable
    }

    /// True if a profile is stored of which nothing can be read.
    pub(super) fn is_unreadable(&self, name: &str) -> bool {
        self.by_name.get(name).and_then(|state| state.stored.as_ref()).is_some_and(|stored| stored.unreadable)
    }

    /// One more endpoint is programmed with these.
    pub(super) fn acquire(&mut self, names: &[ProfileId]) {
        for ProfileId(name) in names {
            let state = self.by_name.entry(name.as_str().into()).or_default();
            state.uses += 1;
            if state.uses == 1 {
                self.dirty.insert(name.clone());
            }
        }
    }

    /// An endpoint that was programmed with these is not so any more.
    pub(super) fn release(&mut self, names: &[ProfileId]) {
        for ProfileId(name) in names {
            let state = self.by_name.get_mut(name.as_str()).expect("a profile in use has a state");
            state.uses -= 1;
            if state.uses == 0 {
                self.dirty.insert(name.clone());
            }
        }
    }

    /// Looks at all profiles in use again.
    pub(super) fn doubt(&mut self) {
        let used = self.by_name.iter().filter(|(_, state)| state.uses > 0);
        self.dirty.extend(used.map(|(name, _)| name.to_string()));
    }

    /// Brings what changed to the dataplane. The sets that it needs are acquired here and flushed by the caller.
    pub(super) fn flush(&mut self, codes: &mut Codes, index: &mut Index, doubts: &Doubts) -> ProfileChanges {
        let mut changes = ProfileChanges::default();
        for name in std::mem::take(&mut self.dirty) {
            let Some(state) = self.by_name.get_mut(name.as_str()) else { continue };
            if state.uses > 0 {
                let (code, fault) = state.wanted(&name, codes);
                let Link { rules, doubt } = codes.link(code, index, doubts);
                codes.release(code);
                let fault = fault.or_else(|| doubt.as_deref().map(Into::into));
                let before = state.sent.replace(Box::new(Sent { code, rules: rules.clone(), fault }));
                if before.as_ref().is_none_or(|before| before.rules != rules) {
                    changes.updates.push(Instruction::ProfileUpdate { id: ProfileId(name), rules });
                }
                before.into_iter().for_each(|before| codes.unlink(before.code, index));
            } else {
                if let Some(before) = state.sent.take() {
                    changes.removals.push(Instruction::ProfileRemove { id: ProfileId(name.clone()) });
                    codes.unlink(before.code, index);
                }
                if state.stored.is_none() {
                    self.by_name.remove(name.as_str());
                }
            }
        }
        changes
    }

    /// Profiles in use that are governed closed.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        self.by_name.iter().filter_map(|(name, state)| {
            let reason = state.sent.as_ref()?.fault.as_deref()?.to_owned();
            Some(Problem { object: ResourceKey::new(KindName::Profile, None, name), reason })
        })
    }
}

impl State {
    /// The rules of a profile in use, held once more, and why they are closed if they are.
    fn wanted(&self, name: &str, codes: &mut Codes) -> (CodeId, Option<Box<str>>) {
        match &self.stored {
            Some(stored) => (codes.hold(stored.code), stored.fault.clone()),
            None if name == BUILT_IN_PROFILE => (codes.keep(&Code::open()), None),
            None => (codes.keep(&Code::closed()), Some("it does not exist, but endpoints of this host name it".into())),
        }
    }
}
