//! What the operations so far add up to: one family's chains, sets and dispatch maps, as they are wanted.
//!
//! The planner believes that its operations change a table of the kernel. Here they change this model, at once and
//! always, and what iptables and ipset hold is brought to it afterwards. So what is "read back" of the table is the
//! model itself, while the comparison with the kernel, after a restart or when somebody interfered, is made further
//! down, between texts.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use calico_policy::instruction::{PortMember, PublishedPort};

use crate::{
    error::Error,
    family::{Family, Range},
    ifname::IfName,
    op::{Op, OpKind, Target},
    program::chain_fingerprint,
    ruleset::{Action, Base, Chain, Data, Key, Match, Rule, SetSpec},
    table::{ReadBase, ReadChain, ReadElements, ReadSet, ReadTable},
    tracker::fingerprint,
};

/// What a set or map holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Elements {
    /// Addresses, ports or protocols.
    Ranges(BTreeSet<Range>),
    /// Addresses with protocol and port.
    Ports(BTreeSet<PortMember>),
    /// Where published ports lead.
    Published(BTreeSet<PublishedPort>),
    /// Where interfaces lead.
    Targets(BTreeMap<IfName, Target>),
}

/// A set or map.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ModelSet {
    /// Its kind.
    pub spec: SetSpec,
    /// Its content.
    pub elements: Elements,
}

/// One family's table as it is wanted.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// There is a table.
    present: bool,
    /// Chains by the dataplane's names.
    pub chains: BTreeMap<String, Chain>,
    /// Sets and maps by the dataplane's names.
    pub sets: BTreeMap<String, ModelSet>,
    /// Chains whose text says what is in a map or set.
    askers: HashMap<String, BTreeSet<String>>,
    /// Chains whose text names a set.
    users: HashMap<String, BTreeSet<String>>,
    /// Chains whose text may have changed since [`take_changed`](Self::take_changed).
    changed_chains: BTreeSet<String>,
    /// Sets likewise, with what changed.
    changed_sets: BTreeMap<String, SetChange>,
}

/// What changed in a set.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum SetChange {
    /// The set came, went, or was emptied.
    Whole,
    /// These elements came and these went.
    Part {
        /// None of them was there.
        added: Elements,
        /// None of them is there.
        removed: Elements,
    },
}

impl Elements {
    fn like(other: &Self) -> Self {
        match other {
            Self::Ranges(_) => Self::Ranges(BTreeSet::new()),
            Self::Ports(_) => Self::Ports(BTreeSet::new()),
            Self::Published(_) => Self::Published(BTreeSet::new()),
            Self::Targets(_) => Self::Targets(BTreeMap::new()),
        }
    }

    /// Adds elements; `None` if they are not of this kind.
    fn extend(&mut self, more: Self) -> Option<()> {
        match (self, more) {
            (Self::Ranges(there), Self::Ranges(more)) => there.extend(more),
            (Self::Ports(there), Self::Ports(more)) => there.extend(more),
            (Self::Published(there), Self::Published(more)) => there.extend(more),
            (Self::Targets(there), Self::Targets(more)) => there.extend(more),
            _ => return None,
        }
        Some(())
    }

    /// Takes elements away and gives those that were not there; `None` if they are not of this kind.
    fn subtract(&mut self, fewer: Self) -> Option<Self> {
        Some(match (self, fewer) {
            (Self::Ranges(there), Self::Ranges(mut fewer)) => {
                fewer.retain(|range| !there.remove(range));
                Self::Ranges(fewer)
            }
            (Self::Ports(there), Self::Ports(mut fewer)) => {
                fewer.retain(|port| !there.remove(port));
                Self::Ports(fewer)
            }
            (Self::Published(there), Self::Published(mut fewer)) => {
                fewer.retain(|port| !there.remove(port));
                Self::Published(fewer)
            }
            _ => return None,
        })
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Ranges(ranges) => ranges.is_empty(),
            Self::Ports(ports) => ports.is_empty(),
            Self::Published(ports) => ports.is_empty(),
            Self::Targets(targets) => targets.is_empty(),
        }
    }
}

impl Model {
    /// Carries out an operation.
    ///
    /// # Errors
    /// Those of the kernel for the same operation: the object is not there, or it is there already. The planner then
    /// reads back and plans anew.
    pub(super) fn carry_out(&mut self, op: &Op) -> Result<(), Error> {
        self.apply(op.family, &op.kind).ok_or_else(|| Error::Program {
            program: "the model of iptables".to_owned(),
            reason: format!("cannot {op}: it does not fit what is there"),
        })
    }

    /// What the planner is to believe of the table.
    pub(super) fn read(&self, family: Family) -> Option<ReadTable> {
        if !self.present {
            return None;
        }
        let chains = self.chains.iter().map(|(name, chain)| {
            let base = chain.base.map_or(ReadBase::Regular, ReadBase::Ours);
            (name.clone(), ReadChain { content: chain_fingerprint(chain, family), base })
        });
        let sets = self.sets.iter().map(|(name, set)| {
            let elements = match &set.elements {
                Elements::Ranges(ranges) => ReadElements::Ranges(ranges.iter().copied().collect()),
                Elements::Ports(ports) => ReadElements::Ports(ports.iter().copied().collect()),
                Elements::Published(ports) => ReadElements::Published(ports.iter().copied().collect()),
                Elements::Targets(targets) => {
                    ReadElements::Targets(targets.iter().map(|(key, target)| (*key, fingerprint(target))).collect())
                }
            };
            (name.clone(), ReadSet { spec: Some(set.spec), elements })
        });
        Some(ReadTable { chains: chains.collect(), sets: sets.collect(), dormant: false })
    }

    /// Base chains, in the order in which packets meet them.
    pub(super) fn base_chains(&self) -> Vec<(&str, Base)> {
        let mut bases: Vec<(&str, Base)> =
            self.chains.values().filter_map(|chain| Some((chain.name.as_str(), chain.base?))).collect();
        bases.sort_by_key(|(name, base)| (base.priority, *name));
        bases
    }

    /// A dispatch map's elements.
    pub(super) fn targets(&self, map: &str) -> Option<&BTreeMap<IfName, Target>> {
        match &self.sets.get(map)?.elements {
            Elements::Targets(targets) => Some(targets),
            _ => None,
        }
    }

    /// What a map of published ports holds.
    pub(super) fn published(&self, map: &str) -> Option<&BTreeSet<PublishedPort>> {
        match &self.sets.get(map)?.elements {
            Elements::Published(ports) => Some(ports),
            _ => None,
        }
    }

    /// What a set of ports or protocols holds.
    pub(super) fn ranges(&self, set: &str) -> Option<&BTreeSet<Range>> {
        match &self.sets.get(set)?.elements {
            Elements::Ranges(ranges) => Some(ranges),
            _ => None,
        }
    }

    /// The rules that name a set, with their chains, and whether they ask for what is not in it.
    pub(super) fn uses(&self, set: &str) -> impl Iterator<Item = (&str, &Rule, bool)> {
        let chains = self.users.get(set).into_iter().flatten().filter_map(|chain| self.chains.get(chain));
        let rules = chains.flat_map(|chain| chain.rules.iter().map(|rule| (chain.name.as_str(), rule)));
        rules.flat_map(move |(chain, rule)| {
            let asked = named(rule).filter(move |(name, _)| *name == set);
            asked.map(move |(_, negated)| (chain, rule, negated))
        })
    }

    /// Notes that a set has another name in ipset, so that all text that names it is another one.
    pub(super) fn set_renamed(&mut self, set: &str) {
        self.changed_chains.extend(self.users.get(set).into_iter().flatten().cloned());
    }

    /// Names of chains whose text may have changed since the last call.
    pub(super) fn take_changed_chains(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.changed_chains)
    }

    /// Sets whose content changed since the last call.
    pub(super) fn take_changed_sets(&mut self) -> BTreeMap<String, SetChange> {
        std::mem::take(&mut self.changed_sets)
    }

    /// Sets that are wanted, and that came or were emptied since [`take_changed_sets`](Self::take_changed_sets).
    pub(super) fn remade_sets(&self) -> impl Iterator<Item = &str> {
        let remade = self.changed_sets.iter().filter(|(_, change)| **change == SetChange::Whole);
        remade.map(|(name, _)| name.as_str()).filter(|name| self.sets.contains_key(*name))
    }

    /// Whether one of these would give anything.
    pub(super) fn has_changed(&self) -> bool {
        !(self.changed_chains.is_empty() && self.changed_sets.is_empty())
    }

    fn apply(&mut self, family: Family, kind: &OpKind) -> Option<()> {
        match kind {
            OpKind::AddTable => self.present = true,
            OpKind::DeleteTable => self.clear(),
            OpKind::AddSet { name, spec } => self.add_set(family, name, *spec),
            OpKind::DeleteSet { name } => {
                self.sets.remove(name)?;
                self.set_changed(name, SetChange::Whole);
            }
            OpKind::FlushSet { name } => {
                let set = self.sets.get_mut(name)?;
                set.elements = Elements::like(&set.elements);
                self.set_changed(name, SetChange::Whole);
            }
            OpKind::AddElements { set, ranges, .. } => {
                self.add(set, Elements::Ranges(ranges.iter().copied().collect()))?;
            }
            OpKind::DeleteElements { set, ranges, .. } => {
                self.remove(set, Elements::Ranges(ranges.iter().copied().collect()))?;
            }
            OpKind::AddPorts { set, ports } => self.add(set, Elements::Ports(ports.iter().copied().collect()))?,
            OpKind::DeletePorts { set, ports } => {
                self.remove(set, Elements::Ports(ports.iter().copied().collect()))?;
            }
            OpKind::AddPublished { map, ports, .. } => {
                self.add(map, Elements::Published(ports.iter().copied().collect()))?;
            }
            OpKind::DeletePublished { map, ports, .. } => {
                self.remove(map, Elements::Published(ports.iter().copied().collect()))?;
            }
            OpKind::AddTargets { map, targets } => {
                let Elements::Targets(there) = &mut self.sets.get_mut(*map)?.elements else { return None };
                there.extend(targets.iter().cloned());
                self.set_changed(map, SetChange::Whole);
            }
            OpKind::DeleteTargets { map, interfaces } => {
                let Elements::Targets(there) = &mut self.sets.get_mut(*map)?.elements else { return None };
                interfaces.iter().try_for_each(|interface| there.remove(interface).map(drop))?;
                self.set_changed(map, SetChange::Whole);
            }
            OpKind::AddChain(head) => {
                let chain = Chain {
                    name: head.name.clone(),
                    base: head.base,
                    comment: head.comment.clone(),
                    rules: Vec::new(),
                };
                self.changed_chains.insert(head.name.clone());
                self.chains.insert(head.name.clone(), chain);
            }
            OpKind::DeleteChain { name } => {
                let chain = self.chains.remove(name)?;
                self.forget(name, &chain.rules);
                self.changed_chains.insert(name.clone());
            }
            OpKind::FlushChain { name } => {
                let rules = std::mem::take(&mut self.chains.get_mut(name)?.rules);
                self.forget(name, &rules);
                self.changed_chains.insert(name.clone());
            }
            OpKind::AddRule { chain, rule } => {
                self.chains.get_mut(chain)?.rules.push(rule.clone());
                for set in spelled_out(rule) {
                    self.askers.entry(set.to_owned()).or_default().insert(chain.clone());
                }
                for (set, _) in named(rule) {
                    self.users.entry(set.to_owned()).or_default().insert(chain.clone());
                }
                self.changed_chains.insert(chain.clone());
            }
        }
        Some(())
    }

    fn clear(&mut self) {
        self.present = false;
        let chains = std::mem::take(&mut self.chains);
        self.changed_chains.extend(chains.into_keys());
        let sets = std::mem::take(&mut self.sets);
        self.changed_sets.extend(sets.into_keys().map(|name| (name, SetChange::Whole)));
        self.askers.clear();
        self.users.clear();
    }

    fn add_set(&mut self, family: Family, name: &str, spec: SetSpec) {
        let elements = match (spec.data, spec.key) {
            (Data::Verdict, _) => Elements::Targets(BTreeMap::new()),
            (Data::Destination(_), _) => Elements::Published(BTreeSet::new()),
            (Data::None, Key::PortMember(_)) => Elements::Ports(BTreeSet::new()),
            (Data::None, _) => Elements::Ranges(BTreeSet::new()),
        };
        tracing::trace!(%family, name, "set wanted");
        // The kernel keeps a set that is there already.
        self.sets.entry(name.to_owned()).or_insert(ModelSet { spec, elements });
        self.set_changed(name, SetChange::Whole);
    }

    fn add(&mut self, name: &str, more: Elements) -> Option<()> {
        let set = self.sets.get_mut(name)?;
        let mut change =
            SetChange::Part { added: Elements::like(&set.elements), removed: Elements::like(&set.elements) };
        if let SetChange::Part { added, .. } = &mut change {
            added.extend(more.clone())?;
        }
        set.elements.extend(more)?;
        self.set_changed(name, change);
        Some(())
    }

    fn remove(&mut self, name: &str, fewer: Elements) -> Option<()> {
        let set = self.sets.get_mut(name)?;
        let missing = set.elements.subtract(fewer.clone())?;
        let change = SetChange::Part { added: Elements::like(&set.elements), removed: fewer };
        self.set_changed(name, change);
        missing.is_empty().then_some(())
    }

    fn set_changed(&mut self, name: &str, change: SetChange) {
        if let Some(askers) = self.askers.get(name) {
            self.changed_chains.extend(askers.iter().cloned());
        }
        match self.changed_sets.get_mut(name) {
            None => drop(self.changed_sets.insert(name.to_owned(), change)),
            Some(before) => before.then(change),
        }
    }

    /// These rules of a chain are gone.
    fn forget(&mut self, chain: &str, rules: &[Rule]) {
        let forget = |sets: &mut HashMap<String, BTreeSet<String>>, set: &str| {
            if let Some(chains) = sets.get_mut(set) {
                chains.remove(chain);
                if chains.is_empty() {
                    sets.remove(set);
                }
            }
        };
        for rule in rules {
            spelled_out(rule).for_each(|set| forget(&mut self.askers, set));
            named(rule).for_each(|(set, _)| forget(&mut self.users, set));
        }
    }
}

impl SetChange {
    /// The two one after the other.
    fn then(&mut self, next: Self) {
        let both = match (&mut *self, next) {
            (Self::Part { added, removed }, Self::Part { added: more, removed: fewer }) => {
                // What went and came again, or came and went again, has not changed.
                let came = removed.subtract(more).and_then(|more| added.extend(more));
                let went = added.subtract(fewer).and_then(|fewer| removed.extend(fewer));
                came.and(went)
            }
            _ => None,
        };
        if both.is_none() {
            *self = Self::Whole;
        }
    }
}

/// The maps and sets whose content a rule's text spells out.
fn spelled_out(rule: &Rule) -> impl Iterator<Item = &str> {
    let sets = rule.matches.iter().filter_map(|condition| match condition {
        Match::PortSet { set, .. } | Match::ProtocolSet { set, .. } | Match::ToItself { set, .. } => Some(set.as_str()),
        _ => None,
    });
    let maps = rule.actions.iter().filter_map(|action| match action {
        Action::Dispatch(_, map) | Action::DestinationNatBy { map, .. } => Some(map.as_str()),
        _ => None,
    });
    sets.chain(maps)
}

/// The sets of ipset that a rule's text names, and whether it asks for what is not in them.
fn named(rule: &Rule) -> impl Iterator<Item = (&str, bool)> {
    rule.matches.iter().filter_map(|condition| match condition {
        Match::AddressSet { set, negated, .. } | Match::PortMemberSet { set, negated, .. } => {
            Some((set.as_str(), *negated))
        }
        _ => None,
    })
}
