//! Which labelled items each selector selects, kept up to date change by change, and the address sets that follow.
//!
//! Upstream evaluates selectors per endpoint. Here selectors are matched against *classes*: all items that no
//! selector in use can tell apart. Only the labels whose keys some selector mentions count for that (*hot* keys, own
//! and inherited labels alike); of a cluster's many labels few are ever asked for, so a quarter of a million
//! endpoints may be thirty classes. Cold labels are kept packed, with a note of who has the key, so that a key that
//! becomes hot costs what has it and no more.
//!
//! Of a hot key's values only those that some selector compares with are told apart; a hundred thousand namespaces of
//! which a hundred matter here are a hundred and one classes.
//!
//! Which selectors could match a class, and which classes a selector, is found by the labels that a match must have
//! ([`Cover`](calico_selector::Cover)); nothing ever scans all items or all selectors, except for selectors that
//! any label set may match (`!has(a)`, `all()`), which scan the classes.
//!
//! Members of sets are not stored: an address is in a set while any item that has the address is of a class that
//! the selector matches. What changed since the last [`flush`](Index::flush) is found by noting, the first time a
//! change may affect an address's place in a set, whether it was in the set before.
//!
//! Invariants:
//! - a class has at least one item, except while one is moved into it;
//! - an item's class has exactly the item's hot labels, with the values that are told apart;
//! - the list of a class's sets holds a set's number exactly if `set.classes` holds the class's;
//! - every change of an address's place in a set that was sent before is preceded by [`Index::touch`].

mod arena;
mod classes;
mod clues;
mod flush;
mod hashing;
mod hot;
mod id_set;
mod items;
mod keys;
mod matches;
mod names;
mod packed;
mod parents;
mod sets;
mod symbols;

use std::collections::BTreeMap;

use calico_selector::{parse, set_id};
use ipnet::IpNet;

pub(crate) use self::{
    arena::{Arena, number_of},
    hashing::{HashMap, HashSet, Hashing},
};
use self::{
    classes::Classes,
    items::{Items, Parents, Port, Traits, single},
    keys::{Holder, Keys},
    matches::{MatchLists, difference, intersection},
    packed::Packed,
    parents::ParentTable,
    sets::{Filter, Member, Sets},
    symbols::Symbols,
};
use crate::instruction::{Instruction, PortMember, SetId};

/// A set in use; given back by [`Index::release`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SetHandle(u32);

/// A port that an item has a name for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NamedPort<'a> {
    /// The name.
    pub(crate) name: &'a str,
    /// IP protocol number.
    pub(crate) protocol: u8,
    /// The port.
    pub(crate) port: u16,
}

/// Which named ports of the selected items make the members of a set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortFilter<'a> {
    /// The name.
    pub(crate) name: &'a str,
    /// IP protocol number; any if `None`.
    pub(crate) protocol: Option<u8>,
}

/// What a flush asks of the dataplane.
#[derive(Debug, Default)]
pub(crate) struct SetChanges {
    /// New sets and changed members, to be done before anything uses them.
    pub(crate) updates: Vec<Instruction>,
    /// Sets that nothing uses any more, to be removed after what used them.
    pub(crate) removals: Vec<Instruction>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Index {
    keys: Keys,
    /// Values of hot labels.
    symbols: Symbols,
    parents: ParentTable,
    items: Items,
    classes: Classes,
    lists: MatchLists,
    sets: Sets,
}

impl Index {
    /// Creates or replaces an item. `key` is any text that names it. Labels come in the order of their keys, each key
    /// once.
    pub(crate) fn put<'a>(
        &mut self,
        key: String,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        parents: &[String],
        nets: impl IntoIterator<Item = IpNet>,
        ports: &[NamedPort<'_>],
    ) {
        let labels = Packed::new(labels, &mut self.keys);
        let parents: Parents = parents.iter().map(|name| self.parents.acquire(name)).collect();
        let mut ports: Box<[Port]> = ports.iter().map(Port::from).collect();
        ports.sort_unstable();
        let traits = Traits { labels, parents, nets: nets.into_iter().collect(), ports };
        match self.items.find(&key) {
            None => self.insert(key.into(), traits),
            Some(item) => self.replace(item, traits),
        }
    }

    fn insert(&mut self, key: Box<str>, traits: Traits) {
        let class = self.class_of(&traits.labels, &traits.parents);
        let sets = self.lists.get(self.classes.matches(class));
        self.touch(&sets, &traits.nets, &traits.ports);
        let item = self.items.insert(key, traits);
        self.note_item(item);
        self.enter_class(item, class);
    }

    fn replace(&mut self, item: u32, traits: Traits) {
        let same_labels = *self.items.labels(item) == traits.labels && *self.items.parents(item) == traits.parents;
        let same_ports = *self.items.ports(item) == *traits.ports;
        if same_labels && same_ports && *self.items.nets(item) == *traits.nets {
            self.release_traits(&traits.labels, &traits.parents);
            return;
        }
        let from = self.items.class(item);
        let to = if same_labels { from } else { self.class_of(&traits.labels, &traits.parents) };
        let before = self.lists.get(self.classes.matches(from));
        let after = self.lists.get(self.classes.matches(to));
        let (old_nets, old_ports) = (self.items.nets(item).to_vec(), self.items.ports(item).to_vec());
        self.touch(&difference(&before, &after), &old_nets, &old_ports);
        self.touch(&difference(&after, &before), &traits.nets, &traits.ports);
        let both = intersection(&before, &after);
        if same_ports {
            let changed: Vec<IpNet> =
                missing(&old_nets, &traits.nets).chain(missing(&traits.nets, &old_nets)).collect();
            self.touch(&both, &changed, &old_ports);
        } else {
            self.touch(&both, &old_nets, &old_ports);
            self.touch(&both, &traits.nets, &traits.ports);
        }
        self.forget_item(item);
        let (labels, parents) = self.items.replace(item, traits);
        self.note_item(item);
        self.release_traits(&labels, &parents);
        if from != to {
            self.leave_class(item);
            self.enter_class(item, to);
        }
    }

    /// Removes an item, if it is there.
    pub(crate) fn remove(&mut self, key: &str) {
        let Some(item) = self.items.find(key) else { return };
        let sets = self.lists.get(self.classes.matches(self.items.class(item)));
        self.touch_item(&sets, item);
        self.leave_class(item);
        self.forget_item(item);
        let (labels, parents) = self.items.remove(item);
        self.release_traits(&labels, &parents);
    }

    /// Sets the labels that items inherit from a parent (a profile) of this name; none if there is no such parent.
    pub(crate) fn set_parent_labels(&mut self, name: &str, labels: &BTreeMap<String, String>) {
        let parent = self.parents.acquire(name);
        let labels = labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let new = Packed::new(labels, &mut self.keys);
        let state = self.parents.get_mut(parent);
        let (old_had_any, new_has_any) = (!state.labels.is_empty(), !new.is_empty());
        let old = std::mem::replace(&mut state.labels, new);
        for (key, value) in old.iter() {
            self.keys.get_mut(key).parents.remove(parent);
            if self.keys.get(key).compared {
                self.keys.let_go(key, value, Holder::Parent(parent));
            }
        }
        for (key, value) in self.parents.get(parent).labels.iter() {
            self.keys.get_mut(key).parents.insert(parent);
            if self.keys.get(key).compared {
                self.keys.hold(key, value, Holder::Parent(parent));
            }
        }
        let state = self.parents.get(parent);
        let differs = |(key, _): (_, &str)| self.keys.get(key).hot && old.get(key) != state.labels.get(key);
        if old.iter().any(differs) || state.labels.iter().any(differs) {
            let items: Vec<u32> = state.items.iter().collect();
            for item in items {
                self.reclassify(item);
            }
        }
        old.release(&mut self.keys);
        // The labels hold one use of the parent; the use of this call takes its place or goes.
        if old_had_any {
            self.parents.release(parent);
        }
        if !new_has_any {
            self.parents.release(parent);
        }
    }

    /// Uses the set of what a selector selects: of the addresses of the selected items, or of those of their named
    /// ports that pass the filter. It exists from the next flush on. The text must be a selector.
    pub(crate) fn acquire(&mut self, text: &str, ports: Option<PortFilter<'_>>) -> SetHandle {
        let set = self.sets.find_text(text, ports.as_ref()).unwrap_or_else(|| {
            let selector = parse(text).expect("the caller has parsed the text before");
            let id = SetId(set_id_of(&selector.unique_id(), ports.as_ref()));
            let set = self.sets.find(&id).unwrap_or_else(|| self.add_set(id, selector, ports.map(Filter::from)));
            self.sets.name(set, text);
            set
        });
        self.sets.acquire(set);
        SetHandle(set)
    }

    /// The labels that items inherit from a parent, by key; none if there is no such parent.
    pub(crate) fn parent_labels(&self, name: &str) -> impl Iterator<Item = (&str, &str)> {
        let labels = self.parents.labels(name).into_iter().flat_map(Packed::iter);
        labels.map(|(key, value)| (self.keys.text(key), value))
    }

    /// The name of a set in use.
    pub(crate) fn id(&self, handle: &SetHandle) -> &SetId {
        &self.sets.get(handle.0).id
    }

    /// Gives a use back. The set goes at the next flush unless it is acquired again before.
    pub(crate) fn release(&mut self, handle: SetHandle) {
        self.sets.release(handle.0);
    }

    /// How many sets are in use, as of the last flush.
    pub(crate) fn sets_in_use(&self) -> usize {
        self.sets.len()
    }

    /// Files an item under its label keys and parents.
    fn note_item(&mut self, item: u32) {
        for (key, value) in self.items.labels(item).raw() {
            self.keys.get_mut(key).items.insert(item);
            if self.keys.get(key).compared {
                self.keys.hold(key, value.text(), Holder::Item(item));
            }
        }
        for &parent in &**self.items.parents(item) {
            self.parents.get_mut(parent).items.insert(item);
        }
    }

    /// Undoes [`note_item`](Self::note_item).
    fn forget_item(&mut self, item: u32) {
        for (key, value) in self.items.labels(item).raw() {
            self.keys.get_mut(key).items.remove(item);
            if self.keys.get(key).compared {
                self.keys.let_go(key, value.text(), Holder::Item(item));
            }
        }
        for &parent in &**self.items.parents(item) {
            self.parents.get_mut(parent).items.remove(item);
        }
    }

    fn release_traits(&mut self, labels: &Packed, parents: &Parents) {
        labels.release(&mut self.keys);
        for &parent in &**parents {
            self.parents.release(parent);
        }
    }

    fn enter_class(&mut self, item: u32, class: u32) {
        let first = self.classes.set_first(class, Some(item));
        self.items.link(item, class, first);
    }

    /// Takes an item out of its class, and drops the class if that was its last.
    fn leave_class(&mut self, item: u32) {
        let class = self.items.class(item);
        let Some(first) = self.items.unlink(item) else { return };
        self.classes.set_first(class, first);
        if first.is_none() {
            for &set in &*self.lists.get(self.classes.matches(class)) {
                self.sets.get_mut(set).classes.remove(class);
            }
            let list = self.classes.remove(class, &mut self.keys, &mut self.symbols);
            self.lists.release(list);
        }
    }

    fn touch_item(&mut self, sets: &[u32], item: u32) {
        if sets.iter().any(|&set| self.sets.get(set).sent) {
            let (nets, ports) = (self.items.nets(item).to_vec(), self.items.ports(item).to_vec());
            self.touch(sets, &nets, &ports);
        }
    }

    /// To be called before a change after which an item with any of `nets` and all of `ports` may be in one of
    /// `sets` or no longer.
    fn touch(&mut self, sets: &[u32], nets: &[IpNet], ports: &[Port]) {
        for &set in sets {
            let state = self.sets.get(set);
            if !state.sent {
                continue;
            }
            let untouched = members(state.filter.as_ref(), nets, ports)
                .filter(|member| !state.touched.contains_key(member))
                .map(|member| (member, self.contains(set, &member)));
            for (member, is_in) in untouched.collect::<Vec<_>>() {
                self.sets.touch(set, member, is_in);
            }
        }
    }

    fn contains(&self, set: u32, member: &Member) -> bool {
        let is_in = |item: &u32| self.lists.contains(self.classes.matches(self.items.class(*item)), set);
        match member {
            Member::Net(net) => self.items.holders(net).any(|item| is_in(&item)),
            Member::Port(member) => {
                let Some(filter) = &self.sets.get(set).filter else { return false };
                let has =
                    |port: &Port| (port.protocol, port.port) == (member.protocol, member.port) && filter.passes(port);
                let net = IpNet::from(member.address);
                self.items.holders(&net).any(|item| self.items.ports(item).iter().any(has) && is_in(&item))
            }
        }
    }
}

/// What an item with these addresses and ports brings into a set.
fn members<'a>(filter: Option<&'a Filter>, nets: &'a [IpNet], ports: &'a [Port]) -> impl Iterator<Item = Member> + 'a {
    let plain = if filter.is_none() { nets } else { &[] };
    let ports = filter.into_iter().flat_map(move |filter| ports.iter().filter(|port| filter.passes(port)));
    let named = ports.flat_map(move |port| {
        nets.iter().filter_map(single).map(|address| PortMember { address, protocol: port.protocol, port: port.port })
    });
    plain.iter().copied().map(Member::Net).chain(named.map(Member::Port))
}

fn set_id_of(selector: &str, ports: Option<&PortFilter<'_>>) -> String {
    let Some(filter) = ports else { return selector.to_owned() };
    let protocol = match filter.protocol {
        Some(6) => "tcp",
        Some(17) => "udp",
        Some(132) => "sctp",
        _ => "any",
    };
    set_id::of_named_port(selector, protocol, filter.name)
}

/// What of `these` is not in `those`; both sorted.
fn missing(these: &[IpNet], those: &[IpNet]) -> impl Iterator<Item = IpNet> {
    these.iter().filter(|net| those.binary_search(net).is_err()).copied()
}

#[cfg(test)]
mod tests;
