//! What the operations so far add up to: one family's chains, sets and dispatch maps, as they are wanted.
//!
//! The planner believes that its operations change a table of the kernel. Here they change this model, at once and
//! always, and what iptables and ipset hold is brought to it afterwards. So what is "read back" of the table is the
//! model itself, while the comparison with the kernel, after a restart or when somebody interfered, is made further
//! down, between texts.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use calico_policy::instruction::PortMember;

use crate::{
    error::Error,
    family::{Family, Range},
    ifname::IfName,
    op::{Op, OpKind, Target},
    program::chain_fingerprint,
    ruleset::{Action, Base, Chain, Key, Match, Rule, SetSpec},
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
    /// Chains whose text may have changed since [`take_changed`](Self::take_changed).
    changed_chains: BTreeSet<String>,
    /// Sets likewise.
    changed_sets: BTreeSet<String>,
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

    /// What a set of ports or protocols holds.
    pub(super) fn ranges(&self, set: &str) -> Option<&BTreeSet<Range>> {
        match &self.sets.get(set)?.elements {
            Elements::Ranges(ranges) => Some(ranges),
            _ => None,
        }
    }

    /// Names of chains whose text may have changed, and of sets whose content did, since the last call.
    pub(super) fn take_changed(&mut self) -> (BTreeSet<String>, BTreeSet<String>) {
        (std::mem::take(&mut self.changed_chains), std::mem::take(&mut self.changed_sets))
    }

    /// Whether [`take_changed`](Self::take_changed) would give anything.
    pub(super) fn has_changed(&self) -> bool {
        !(self.changed_chains.is_empty() && self.changed_sets.is_empty())
    }

    /// The sets that [`take_changed`](Self::take_changed) would give.
    pub(super) fn changed_sets(&self) -> &BTreeSet<String> {
        &self.changed_sets
    }

    fn apply(&mut self, family: Family, kind: &OpKind) -> Option<()> {
        match kind {
            OpKind::AddTable => self.present = true,
            OpKind::DeleteTable => self.clear(),
            OpKind::AddSet { name, spec } => self.add_set(family, name, *spec),
            OpKind::DeleteSet { name } => {
                self.sets.remove(name)?;
                self.set_changed(name);
            }
            OpKind::FlushSet { name } => match &mut self.changing(name)?.elements {
                Elements::Ranges(ranges) => ranges.clear(),
                Elements::Ports(ports) => ports.clear(),
                Elements::Targets(targets) => targets.clear(),
            },
            OpKind::AddElements { set, ranges, .. } => match &mut self.changing(set)?.elements {
                Elements::Ranges(there) => there.extend(ranges),
                _ => return None,
            },
            OpKind::DeleteElements { set, ranges, .. } => match &mut self.changing(set)?.elements {
                Elements::Ranges(there) => ranges.iter().try_for_each(|range| there.remove(range).then_some(()))?,
                _ => return None,
            },
            OpKind::AddPorts { set, ports } => match &mut self.changing(set)?.elements {
                Elements::Ports(there) => there.extend(ports),
                _ => return None,
            },
            OpKind::DeletePorts { set, ports } => match &mut self.changing(set)?.elements {
                Elements::Ports(there) => ports.iter().try_for_each(|port| there.remove(port).then_some(()))?,
                _ => return None,
            },
            OpKind::AddTargets { map, targets } => match &mut self.changing(map)?.elements {
                Elements::Targets(there) => there.extend(targets.iter().cloned()),
                _ => return None,
            },
            OpKind::DeleteTargets { map, interfaces } => match &mut self.changing(map)?.elements {
                Elements::Targets(there) => {
                    interfaces.iter().try_for_each(|interface| there.remove(interface).map(drop))?;
                }
                _ => return None,
            },
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
                self.chains.remove(name)?;
                self.forget_asker(name);
                self.changed_chains.insert(name.clone());
            }
            OpKind::FlushChain { name } => {
                self.chains.get_mut(name)?.rules.clear();
                self.forget_asker(name);
                self.changed_chains.insert(name.clone());
            }
            OpKind::AddRule { chain, rule } => {
                self.chains.get_mut(chain)?.rules.push(rule.clone());
                for set in spelled_out(rule) {
                    self.askers.entry(set.to_owned()).or_default().insert(chain.clone());
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
        self.changed_sets.extend(sets.into_keys());
        self.askers.clear();
    }

    fn add_set(&mut self, family: Family, name: &str, spec: SetSpec) {
        let elements = match spec.key {
            _ if spec.verdicts => Elements::Targets(BTreeMap::new()),
            Key::PortMember(_) => Elements::Ports(BTreeSet::new()),
            Key::Address(_) | Key::Port | Key::Protocol | Key::InterfaceName => Elements::Ranges(BTreeSet::new()),
        };
        tracing::trace!(%family, name, "set wanted");
        // The kernel keeps a set that is there already.
        self.sets.entry(name.to_owned()).or_insert(ModelSet { spec, elements });
        self.set_changed(name);
    }

    /// A set that is about to change.
    fn changing(&mut self, name: &str) -> Option<&mut ModelSet> {
        self.set_changed(name);
        self.sets.get_mut(name)
    }

    fn set_changed(&mut self, name: &str) {
        self.changed_sets.insert(name.to_owned());
        if let Some(askers) = self.askers.get(name) {
            self.changed_chains.extend(askers.iter().cloned());
        }
    }

    fn forget_asker(&mut self, chain: &str) {
        for askers in self.askers.values_mut() {
            askers.remove(chain);
        }
    }
}

/// The maps and sets whose content a rule's text spells out.
fn spelled_out(rule: &Rule) -> impl Iterator<Item = &str> {
    let sets = rule.matches.iter().filter_map(|condition| match condition {
        Match::PortSet { set, .. } | Match::ProtocolSet { set, .. } => Some(set.as_str()),
        _ => None,
    });
    let maps = rule.actions.iter().filter_map(|action| match action {
        Action::Dispatch(_, map) => Some(map.as_str()),
        _ => None,
    });
    sets.chain(maps)
}
