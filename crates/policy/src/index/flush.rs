//! What has changed since the last time.

use std::collections::BTreeMap;

use super::{Index, SetChanges, members, sets::Member};
use crate::instruction::{Instruction, Members, SetId};

impl Index {
    /// What changed since the last flush, in the order of the sets' names.
    pub(crate) fn flush(&mut self) -> SetChanges {
        let mut changes = SetChanges::default();
        for set in self.sets.take_dirty() {
            let state = self.sets.get_mut(set);
            if state.uses == 0 {
                if state.sent {
                    changes.removals.push(Instruction::SetRemove { id: state.id.clone() });
                }
                self.drop_set(set);
            } else if state.sent {
                let touched = std::mem::take(&mut state.touched);
                changes.updates.extend(self.delta(set, touched));
            } else {
                state.sent = true;
                let id = state.id.clone();
                let members = self.members(set);
                changes.updates.push(Instruction::SetReplace { id, members });
            }
        }
        changes
    }

    fn delta(&self, set: u32, touched: BTreeMap<Member, bool>) -> Option<Instruction> {
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for (member, was_in) in touched {
            match (was_in, self.contains(set, &member)) {
                (false, true) => added.push(member),
                (true, false) => removed.push(member),
                _ => {}
            }
        }
        if added.is_empty() && removed.is_empty() {
            return None;
        }
        let id: SetId = self.sets.get(set).id.clone();
        let (added, removed) = (self.sort(set, added), self.sort(set, removed));
        Some(Instruction::SetDelta { id, added, removed })
    }

    fn members(&self, set: u32) -> Members {
        let state = self.sets.get(set);
        let items = state.classes.iter().flat_map(|class| self.items.from(self.classes.first(class)));
        if state.filter.is_none() {
            let mut nets: Vec<_> = items.flat_map(|item| self.items.nets(item)).copied().collect();
            nets.sort_unstable();
            nets.dedup();
            nets.shrink_to_fit();
            return Members::Nets(nets);
        }
        let of = |item| members(state.filter.as_ref(), self.items.nets(item), self.items.ports(item));
        let mut found: Vec<Member> = items.flat_map(of).collect();
        found.sort_unstable();
        found.dedup();
        self.sort(set, found)
    }

    /// Members as the set's sort has them.
    fn sort(&self, set: u32, members: Vec<Member>) -> Members {
        let net = |member| if let Member::Net(net) = member { Some(net) } else { None };
        let port = |member| if let Member::Port(port) = member { Some(port) } else { None };
        if self.sets.get(set).filter.is_none() {
            Members::Nets(members.into_iter().filter_map(net).collect())
        } else {
            Members::Ports(members.into_iter().filter_map(port).collect())
        }
    }
}
