//! Sets of selectors and of named ports, pools, hosts: members in, changed elements and renamed sets out.
//!
//! A selector's set has one name while its members are single addresses and another with networks among them, per
//! family; when that changes, the rules that name the set are rendered again.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
};

use calico_policy::instruction::{Members as NewMembers, Pool, PortMember, SetId};
use ipnet::IpNet;

use super::State;
use crate::{
    family::{Family, Range},
    members::Members,
    name,
    render::{HOSTS_SET, MASQUERADE_SET, POOLS_SET, SetNames},
    ruleset::{Key, SetSpec},
    table::{SetSource, SetWant},
};

/// What is in a set.
#[derive(Debug)]
pub(super) enum SetMembers {
    /// Networks.
    Nets(Members),
    /// Addresses with protocol and port.
    Ports(BTreeSet<PortMember>),
}

/// Those of one family.
pub(super) fn of_family<'a>(members: impl Iterator<Item = &'a PortMember>, family: Family) -> Vec<PortMember> {
    members.filter(|member| Family::of_address(&member.address) == family).copied().collect()
}

/// What a list has that another has not, both ways: added, removed.
fn differences(old: Vec<Range>, new: Vec<Range>) -> (Vec<Range>, Vec<Range>) {
    let old: HashSet<Range> = old.into_iter().collect();
    let new: HashSet<Range> = new.into_iter().collect();
    (new.difference(&old).copied().collect(), old.difference(&new).copied().collect())
}

impl State {
    pub(super) fn replace_set(&mut self, id: SetId, members: &NewMembers) {
        match members {
            NewMembers::Nets(nets) => self.replace_nets(id, nets),
            NewMembers::Ports(ports) => self.replace_ports(id, ports),
        }
    }

    fn replace_nets(&mut self, id: SetId, nets: &[IpNet]) {
        let before = match self.sets.remove(&id) {
            Some(SetMembers::Nets(members)) => Some(members),
            other => {
                self.unname_set(&id, other.is_some());
                None
            }
        };
        let existed = before.is_some();
        let (before, after) = (before.unwrap_or_default(), Members::collect(nets));
        let mut renamed = !existed;
        let mut changes = Vec::new();
        for family in Family::ALL {
            renamed |= before.has_networks(family) != after.has_networks(family);
            changes.push((family, differences(before.elements(family), after.elements(family))));
        }
        self.sets.insert(id.clone(), SetMembers::Nets(after));
        if renamed {
            self.name_set(&id);
        }
        for (family, (added, removed)) in changes {
            self.set_changed(&id, family, &added, &removed);
        }
    }

    fn replace_ports(&mut self, id: SetId, ports: &[PortMember]) {
        let after: BTreeSet<PortMember> = ports.iter().copied().collect();
        let before = match self.sets.remove(&id) {
            Some(SetMembers::Ports(members)) => members,
            other => {
                self.unname_set(&id, other.is_some());
                BTreeSet::new()
            }
        };
        let added: Vec<PortMember> = after.difference(&before).copied().collect();
        let removed: Vec<PortMember> = before.difference(&after).copied().collect();
        self.sets.insert(id.clone(), SetMembers::Ports(after));
        self.name_port_set(&id);
        self.ports_changed(&id, &added, &removed);
    }

    pub(super) fn change_set(&mut self, id: &SetId, added: &NewMembers, removed: &NewMembers) {
        match (self.sets.get_mut(id), added, removed) {
            (Some(SetMembers::Nets(_)), NewMembers::Nets(added), NewMembers::Nets(removed)) => {
                self.change_nets(id, added, removed);
            }
            (Some(SetMembers::Ports(members)), NewMembers::Ports(added), NewMembers::Ports(removed)) => {
                let removed: Vec<PortMember> =
                    removed.iter().filter(|member| members.remove(member)).copied().collect();
                let added: Vec<PortMember> = added.iter().filter(|member| members.insert(**member)).copied().collect();
                self.ports_changed(id, &added, &removed);
            }
            // The engine promises that this does not happen; an unknown set stays one that holds nothing.
            _ => tracing::warn!(set = id.0, "a change of another sort than the set is left out"),
        }
    }

    fn change_nets(&mut self, id: &SetId, added: &[IpNet], removed: &[IpNet]) {
        let Some(SetMembers::Nets(members)) = self.sets.get_mut(id) else { return };
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
        let existed = self.sets.remove(id).is_some();
        self.unname_set(id, existed);
    }

    /// No set has this identifier any more.
    fn unname_set(&mut self, id: &SetId, existed: bool) {
        if !existed {
            return;
        }
        for table in &mut self.tables {
            for interval in [false, true] {
                table.sets.unwant(&name::selector_set(id, interval));
            }
            table.sets.unwant(&name::port_set(id));
        }
        self.touch_users(id);
    }

    /// The set has another kind, and so another name, or is new: whoever names it must be rendered again.
    fn name_set(&mut self, id: &SetId) {
        let Some(SetMembers::Nets(members)) = self.sets.get(id) else { return };
        for family in Family::ALL {
            let interval = members.has_networks(family);
            let table = &mut self.tables[family.index()];
            table.sets.unwant(&name::selector_set(id, !interval));
            let spec = SetSpec::set(Key::Address(family), interval);
            let want = SetWant { spec, source: SetSource::Selector(id.clone()) };
            table.want_changing_set(name::selector_set(id, interval), want);
        }
        self.touch_users(id);
    }

    fn name_port_set(&mut self, id: &SetId) {
        for family in Family::ALL {
            let spec = SetSpec::set(Key::PortMember(family), false);
            let want = SetWant { spec, source: SetSource::Ports(id.clone()) };
            self.tables[family.index()].want_changing_set(name::port_set(id), want);
        }
        self.touch_users(id);
    }

    fn touch_users(&mut self, id: &SetId) {
        self.dirty.lists.extend(self.set_users.get(id).into_iter().flatten().cloned());
    }

    fn set_changed(&mut self, id: &SetId, family: Family, added: &[Range], removed: &[Range]) {
        if let Some(name) = self.set_name(id, family) {
            self.tables[family.index()].set_changed(&name, added, removed);
        }
    }

    fn ports_changed(&mut self, id: &SetId, added: &[PortMember], removed: &[PortMember]) {
        let name = name::port_set(id);
        for family in Family::ALL {
            let [added, removed] = [added, removed].map(|members| of_family(members.iter(), family));
            self.tables[family.index()].ports_changed(&name, &added, &removed);
        }
    }

    pub(super) fn replace_pools(&mut self, pools: &[Pool]) {
        let all = Members::collect(pools.iter().map(|pool| &pool.cidr));
        let masquerade = Members::collect(pools.iter().filter(|pool| pool.masquerade).map(|pool| &pool.cidr));
        let old = std::mem::replace(&mut self.pools, all);
        self.fixed_set_changed(POOLS_SET, &old, |state| &state.pools);
        let old = std::mem::replace(&mut self.masquerade, masquerade);
        self.fixed_set_changed(MASQUERADE_SET, &old, |state| &state.masquerade);
        self.dirty.base = true;
    }

    pub(super) fn replace_hosts(&mut self, addresses: &[IpAddr]) {
        let nets: Vec<IpNet> = addresses.iter().copied().map(IpNet::from).collect();
        let old = std::mem::replace(&mut self.all_hosts, Members::collect(&nets));
        self.fixed_set_changed(HOSTS_SET, &old, |state| &state.all_hosts);
    }

    fn fixed_set_changed(&mut self, name: &str, old: &Members, new: impl Fn(&Self) -> &Members) {
        for family in Family::ALL {
            let (added, removed) = differences(old.elements(family), new(self).elements(family));
            self.tables[family.index()].set_changed(name, &added, &removed);
        }
    }
}
