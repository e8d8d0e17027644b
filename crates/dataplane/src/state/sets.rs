//! Sets of selectors, and pools: members in, changed elements and renamed sets out.
//!
//! A set has one name while its members are single addresses and another with networks among them, per family; when
//! that changes, the profiles that name the set are rendered again.

use std::collections::HashSet;

use calico_policy::instruction::{Pool, Rule as PolicyRule, SetId};
use ipnet::IpNet;

use super::State;
use crate::{
    family::{Family, Range},
    members::Members,
    name,
    render::{MASQUERADE_SET, POOLS_SET, SetNames},
    ruleset::{Key, SetSpec},
    table::{SetSource, SetWant},
};

impl State {
    pub(super) fn replace_set(&mut self, id: SetId, members: &[IpNet]) {
        let before = self.sets.insert(id.clone(), Members::collect(members));
        let existed = before.is_some();
        let (before, after) = (before.unwrap_or_default(), &self.sets[&id]);
        let mut renamed = false;
        let mut changes = Vec::new();
        for family in Family::ALL {
            renamed |= !existed || before.has_networks(family) != after.has_networks(family);
            let old: HashSet<Range> = before.elements(family).into_iter().collect();
            let new: HashSet<Range> = after.elements(family).into_iter().collect();
            let added: Vec<Range> = new.difference(&old).copied().collect();
            let removed: Vec<Range> = old.difference(&new).copied().collect();
            changes.push((family, added, removed));
        }
        if renamed {
            self.name_set(&id);
        }
        for (family, added, removed) in changes {
            self.set_changed(&id, family, &added, &removed);
        }
    }

    pub(super) fn change_set(&mut self, id: &SetId, added: &[IpNet], removed: &[IpNet]) {
        let Some(members) = self.sets.get_mut(id) else { return };
        let kind = |members: &Members| Family::ALL.map(|family| members.has_networks(family));
        let before = kind(members);
        let mut deltas = Vec::new();
        // Removals first, so that a member that only changes its form is never both there and not.
        deltas.extend(removed.iter().filter_map(|net| Some((Family::of(net), members.remove(net)?))));
        deltas.extend(added.iter().filter_map(|net| Some((Family::of(net), members.insert(net)?))));
        if kind(members) != before {
            self.name_set(id);
        }
        for (family, delta) in deltas {
            self.set_changed(id, family, &delta.added, &delta.removed);
        }
    }

    pub(super) fn remove_set(&mut self, id: &SetId) {
        if self.sets.remove(id).is_none() {
            return;
        }
        for table in &mut self.tables {
            for interval in [false, true] {
                table.sets.unwant(&name::selector_set(id, interval));
            }
        }
        self.touch_users(id);
    }

    /// The set has another kind, and so another name, or is new: whoever names it must be rendered again.
    fn name_set(&mut self, id: &SetId) {
        for family in Family::ALL {
            let interval = self.sets.get(id).is_some_and(|members| members.has_networks(family));
            let table = &mut self.tables[family.index()];
            table.sets.unwant(&name::selector_set(id, !interval));
            let spec = SetSpec::set(Key::Address(family), interval);
            let want = SetWant { spec, source: SetSource::Selector(id.clone()) };
            table.want_changing_set(name::selector_set(id, interval), want);
        }
        self.touch_users(id);
    }

    fn touch_users(&mut self, id: &SetId) {
        let names_it = |rule: &PolicyRule| {
            [&rule.source, &rule.destination].iter().any(|end| end.sets.contains(id) || end.not_sets.contains(id))
        };
        for (profile, state) in &self.profiles {
            let Some(rules) = &state.rules else { continue };
            if rules.ingress.iter().chain(&rules.egress).any(names_it) {
                self.dirty.profiles.insert(profile.clone());
            }
        }
    }

    fn set_changed(&mut self, id: &SetId, family: Family, added: &[Range], removed: &[Range]) {
        if let Some(name) = self.set_name(id, family) {
            self.tables[family.index()].set_changed(&name, added, removed);
        }
    }

    pub(super) fn replace_pools(&mut self, pools: &[Pool]) {
        let all = Members::collect(pools.iter().map(|pool| &pool.cidr));
        let masquerade = Members::collect(pools.iter().filter(|pool| pool.masquerade).map(|pool| &pool.cidr));
        for family in Family::ALL {
            let table = &mut self.tables[family.index()];
            for (name, old, new) in [(POOLS_SET, &self.pools, &all), (MASQUERADE_SET, &self.masquerade, &masquerade)] {
                let old: HashSet<Range> = old.elements(family).into_iter().collect();
                let new: HashSet<Range> = new.elements(family).into_iter().collect();
                let added: Vec<Range> = new.difference(&old).copied().collect();
                let removed: Vec<Range> = old.difference(&new).copied().collect();
                table.set_changed(name, &added, &removed);
            }
        }
        (self.pools, self.masquerade) = (all, masquerade);
        self.dirty.base = true;
    }
}
