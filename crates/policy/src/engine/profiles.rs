//! Profiles: what is stored, which are in use here, and what the dataplane has of them.
//!
//! A profile is in use while an endpoint that is programmed names it. One that is named and not stored denies.

use std::{
    collections::{BTreeMap, BTreeSet},
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
    index::{HashMap, Index},
    instruction::{Instruction, ProfileId, RuleSet},
};

#[derive(Default)]
pub(super) struct Profiles {
    stored: HashMap<Box<str>, Stored>,
    /// Profiles that are in use, or known to the dataplane.
    used: BTreeMap<String, Used>,
    /// Those of them that may differ from what the dataplane has.
    dirty: BTreeSet<String>,
}

/// A profile that is stored; there are many, and few of them are in use.
struct Stored {
    code: CodeId,
    /// Not even its labels can be read.
    unreadable: bool,
    /// Why the code is closed, if it is for that.
    #[allow(clippy::box_collection, reason = "faults are rare")]
    fault: Option<Box<String>>,
}

#[derive(Default)]
struct Used {
    /// How often the programmed endpoints of this host name it.
    uses: usize,
    sent: Option<Sent>,
}

/// What the dataplane has of a profile.
struct Sent {
    /// Linked.
    code: CodeId,
    rules: Arc<RuleSet>,
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
    /// Replaces what is stored; `unreadable`: nothing of it is known. True if that has changed.
    pub(super) fn set(
        &mut self,
        name: &str,
        code: &Code,
        fault: Option<String>,
        unreadable: bool,
        codes: &mut Codes,
    ) -> bool {
        let new = Stored { code: codes.keep(code), unreadable, fault: fault.map(Box::new) };
        let before = match self.stored.get_mut(name) {
            Some(stored) => Some(std::mem::replace(stored, new)),
            None => self.stored.insert(name.into(), new),
        };
        self.mark(name);
        let was_unreadable = before.as_ref().is_some_and(|before| before.unreadable);
        before.into_iter().for_each(|before| codes.release(before.code));
        was_unreadable != unreadable
    }

    /// Forgets what is stored. True if it could not be read.
    pub(super) fn remove(&mut self, name: &str, codes: &mut Codes) -> bool {
        let Some(before) = self.stored.remove(name) else { return false };
        codes.release(before.code);
        self.mark(name);
        before.unreadable
    }

    /// True if a profile is stored of which nothing can be read.
    pub(super) fn is_unreadable(&self, name: &str) -> bool {
        self.stored.get(name).is_some_and(|stored| stored.unreadable)
    }

    /// One more endpoint is programmed with these.
    pub(super) fn acquire(&mut self, names: &[ProfileId]) {
        for ProfileId(name) in names {
            let used = self.used.entry(name.clone()).or_default();
            used.uses += 1;
            if used.uses == 1 {
                self.dirty.insert(name.clone());
            }
        }
    }

    /// An endpoint that was programmed with these is not so any more.
    pub(super) fn release(&mut self, names: &[ProfileId]) {
        for ProfileId(name) in names {
            let used = self.used.get_mut(name).expect("a profile in use is known");
            used.uses -= 1;
            if used.uses == 0 {
                self.dirty.insert(name.clone());
            }
        }
    }

    /// Looks at all profiles in use again.
    pub(super) fn doubt(&mut self) {
        self.dirty.extend(self.used.keys().cloned());
    }

    /// Brings what changed to the dataplane. The sets that it needs are acquired here and flushed by the caller.
    pub(super) fn flush(&mut self, codes: &mut Codes, index: &mut Index, doubts: &Doubts) -> ProfileChanges {
        let mut changes = ProfileChanges::default();
        for name in std::mem::take(&mut self.dirty) {
            let Some(mut used) = self.used.remove(&name) else { continue };
            if used.uses == 0 {
                if let Some(before) = used.sent {
                    codes.unlink(before.code, index);
                    changes.removals.push(Instruction::ProfileRemove { id: ProfileId(name) });
                }
                continue;
            }
            let (code, fault) = self.wanted(&name, codes);
            let Link { rules, doubt } = codes.link(code, index, doubts);
            codes.release(code);
            let fault = fault.or_else(|| doubt.as_deref().map(str::to_owned));
            let before = used.sent.replace(Sent { code, rules: rules.clone(), fault });
            if before.as_ref().is_none_or(|before| before.rules != rules) {
                changes.updates.push(Instruction::ProfileUpdate { id: ProfileId(name.clone()), rules });
            }
            before.into_iter().for_each(|before| codes.unlink(before.code, index));
            self.used.insert(name, used);
        }
        changes
    }

    /// How many profiles are in use, as of the last flush.
    pub(super) fn in_use(&self) -> usize {
        self.used.len()
    }

    /// Profiles in use that are governed closed.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        self.used.iter().filter_map(|(name, used)| {
            let reason = used.sent.as_ref()?.fault.clone()?;
            Some(Problem { object: ResourceKey::new(KindName::Profile, None, name), reason })
        })
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> [(&'static str, usize); 3] {
        [("profiles", self.stored.len()), ("used", self.used.len()), ("dirty profiles", self.dirty.len())]
    }

    /// Notes a profile that may differ from what the dataplane has of it.
    fn mark(&mut self, name: &str) {
        if self.used.contains_key(name) {
            self.dirty.insert(name.to_owned());
        }
    }

    /// The rules of a profile in use, held once more, and why they are closed if they are.
    fn wanted(&self, name: &str, codes: &mut Codes) -> (CodeId, Option<String>) {
        match self.stored.get(name) {
            Some(stored) => (codes.hold(stored.code), stored.fault.as_deref().cloned()),
            None if name == BUILT_IN_PROFILE => (codes.keep(&Code::open()), None),
            None => (codes.keep(&Code::closed()), Some("it does not exist, but endpoints of this host name it".into())),
        }
    }
}
