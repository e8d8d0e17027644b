//! One family's table: what it is to hold, what it holds, and the steps between.

mod types;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::Hash,
};

use calico_policy::instruction::{PortMember, PublishedPort};

pub(crate) use types::{
    ChainSource, ChainWant, Content, MemberOrder, ReadBase, ReadChain, ReadElements, ReadSet, ReadTable, SetSource,
    SetWant, TargetWant,
};

use crate::{
    family::{Family, Range, address_key},
    ifname::IfName,
    op::{ChainHead, Op, OpKind, Plan, Target},
    render::Map,
    ruleset::{Chain, Data, Key, SetSpec},
    tracker::{Fingerprint, Step, Tracker, fingerprint},
};

/// Above this many new elements a plan is split even if it need not be, so that no message gets huge.
const MANY_ELEMENTS: usize = 4096;
/// Operations are cut to this many elements, and transactions between operations.
const ELEMENTS_PER_OPERATION: usize = 100_000;

/// Changes of a set's elements that the kernel does not have yet.
#[derive(Debug)]
struct Pending<T> {
    added: HashSet<T>,
    removed: HashSet<T>,
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self { added: HashSet::new(), removed: HashSet::new() }
    }
}

impl<T: Copy + Eq + Hash + Ord> Pending<T> {
    /// What leads from one list to another.
    fn between(there: Vec<T>, want: Vec<T>) -> Self {
        let there: HashSet<T> = there.into_iter().collect();
        let want: HashSet<T> = want.into_iter().collect();
        let added = want.difference(&there).copied().collect();
        Self { added, removed: there.difference(&want).copied().collect() }
    }

    fn note(&mut self, added: &[T], removed: &[T]) {
        for element in removed {
            if !self.added.remove(element) {
                self.removed.insert(*element);
            }
        }
        for element in added {
            if !self.removed.remove(element) {
                self.added.insert(*element);
            }
        }
    }

    /// Added and removed, in order.
    fn sorted(&self) -> (Vec<T>, Vec<T>) {
        let sorted = |elements: &HashSet<T>| {
            let mut elements: Vec<T> = elements.iter().copied().collect();
            elements.sort_unstable();
            elements
        };
        (sorted(&self.added), sorted(&self.removed))
    }
}

/// One family's table.
#[derive(Debug)]
pub(crate) struct Table {
    family: Family,
    /// The table is there and awake.
    present: bool,
    /// What is there cannot be mended piece by piece.
    broken: bool,
    /// What is believed to be there may not be.
    pub(crate) stale: bool,
    pub(crate) chains: Tracker<String, ChainWant>,
    bases: HashMap<String, ReadBase>,
    pub(crate) sets: Tracker<String, SetWant>,
    pending: BTreeMap<String, Pending<Range>>,
    pending_ports: BTreeMap<String, Pending<PortMember>>,
    pending_published: BTreeMap<String, Pending<PublishedPort>>,
    maps: [Tracker<IfName, TargetWant>; Map::COUNT],
}

impl Table {
    /// A table of which nothing is known to be there.
    pub(crate) fn new(family: Family) -> Self {
        let mut sets = Tracker::default();
        for map in [Map::FromWorkload, Map::ToWorkload] {
            sets.want(map.name().to_owned(), SetWant { spec: SetSpec::DISPATCH, source: SetSource::Dispatch });
        }
        Self {
            family,
            present: false,
            broken: false,
            stale: true,
            chains: Tracker::default(),
            bases: HashMap::new(),
            sets,
            pending: BTreeMap::new(),
            pending_ports: BTreeMap::new(),
            pending_published: BTreeMap::new(),
            maps: std::array::from_fn(|_| Tracker::default()),
        }
    }

    /// The elements of a map.
    pub(crate) fn targets(&mut self, map: Map) -> &mut Tracker<IfName, TargetWant> {
        &mut self.maps[map.index()]
    }

    /// Notes that elements of a set changed. A set that is not there yet is created with all its elements.
    pub(crate) fn set_changed(&mut self, name: &str, added: &[Range], removed: &[Range]) {
        if self.sets.present(&name.to_owned()).is_none() {
            return;
        }
        if !added.is_empty() || !removed.is_empty() {
            self.pending.entry(name.to_owned()).or_default().note(added, removed);
        }
    }

    /// The same of a set of named ports.
    pub(crate) fn ports_changed(&mut self, name: &str, added: &[PortMember], removed: &[PortMember]) {
        let unchanged = added.is_empty() && removed.is_empty();
        if !unchanged && self.sets.present(&name.to_owned()).is_some() {
            self.pending_ports.entry(name.to_owned()).or_default().note(added, removed);
        }
    }

    /// The same of a map of published ports.
    pub(crate) fn published_changed(&mut self, name: &str, added: &[PublishedPort], removed: &[PublishedPort]) {
        let unchanged = added.is_empty() && removed.is_empty();
        if !unchanged && self.sets.present(&name.to_owned()).is_some() {
            self.pending_published.entry(name.to_owned()).or_default().note(added, removed);
        }
    }

    /// Wants a set whose elements change. If it is there already, left over from before it was last wanted, its
    /// elements are not known any more.
    pub(crate) fn want_changing_set(&mut self, name: String, want: SetWant) {
        if self.sets.wanted(&name).is_none() && self.sets.present(&name).is_some() {
            self.stale = true;
        }
        self.sets.want(name, want);
    }

    /// Takes what was read for what is there; `None` if there is no table. Returns whether chains or dispatch elements
    /// that were known to be there are gone or have other content: then packets may have passed unjudged.
    pub(crate) fn read_back(&mut self, read: Option<ReadTable>, content: &dyn Content) -> bool {
        let was_present = std::mem::replace(&mut self.present, read.as_ref().is_some_and(|table| !table.dormant));
        (self.broken, self.stale) = (false, false);
        self.pending.clear();
        self.pending_ports.clear();
        self.pending_published.clear();
        let ReadTable { chains, sets, dormant: _ } = read.unwrap_or_default();
        self.bases = chains.iter().map(|(name, chain)| (name.clone(), chain.base)).collect();
        let contents = chains.into_iter().map(|(name, chain)| (name, fingerprint(&(chain.base, chain.content))));
        let contents = contents.collect();
        let chains_changed = self.chains.was_changed(&contents);
        self.chains.read_back(contents);
        let mut specs = HashMap::new();
        let mut maps: [HashMap<IfName, Fingerprint>; Map::COUNT] = std::array::from_fn(|_| HashMap::new());
        for (name, ReadSet { spec, elements }) in sets {
            specs.insert(name.clone(), fingerprint(&spec));
            let want = self.sets.wanted(&name);
            match elements {
                ReadElements::Targets(targets) if Map::all().any(|map| map.name() == name) => {
                    let map = Map::all().find(|map| map.name() == name).expect("just found");
                    maps[map.index()] = targets;
                }
                ReadElements::Ranges(there) if want.is_some_and(|want| Some(want.spec) == spec) => {
                    let want = want.map(|want| content.elements(self.family, &want.source)).unwrap_or_default();
                    self.pending.insert(name, Pending::between(there, want));
                }
                ReadElements::Ports(there) if want.is_some_and(|want| Some(want.spec) == spec) => {
                    let want = want.map(|want| content.ports(self.family, &want.source)).unwrap_or_default();
                    self.pending_ports.insert(name, Pending::between(there, want));
                }
                ReadElements::Published(there) if want.is_some_and(|want| Some(want.spec) == spec) => {
                    let want = want.map(|want| content.published(self.family, &want.source)).unwrap_or_default();
                    self.pending_published.insert(name, Pending::between(there, want));
                }
                _ if want.is_some() => self.broken = true,
                _ => {}
            }
        }
        self.sets.read_back(specs);
        let mut changed = chains_changed;
        for (tracker, there) in self.maps.iter_mut().zip(maps) {
            changed |= tracker.was_changed(&there);
            tracker.read_back(there);
        }
        was_present && (changed || !self.present)
    }

    /// Adds this table's part to a plan.
    pub(crate) fn plan(&self, content: &dyn Content, plan: &mut Plan) {
        if self.broken || !self.mendable() {
            return self.rebuild(content, plan);
        }
        let (mut prepare, mut switch, mut cleanup) = (Vec::new(), Vec::new(), Vec::new());
        if !self.present {
            prepare.push(OpKind::AddTable);
        }
        self.plan_sets(content, &mut prepare, &mut switch);
        self.plan_port_sets(&mut switch);
        self.plan_published(&mut switch);
        let created = self.plan_chains(content, &mut prepare, &mut switch);
        self.plan_targets(&mut switch);
        self.plan_base_chains(content, &mut switch);
        self.plan_cleanup(&mut cleanup);
        let leads_to_new = |tracker: &Tracker<IfName, TargetWant>| {
            tracker
                .steps()
                .iter()
                .any(|(key, _)| tracker.wanted(key).is_some_and(|want| created.contains(&*want.target.chain)))
        };
        let elements: usize = prepare.iter().map(OpKind::elements).sum();
        if self.maps.iter().any(leads_to_new) || elements > MANY_ELEMENTS {
            plan.prepare.extend(self.ops(prepare));
        } else {
            plan.switch.extend(self.ops(prepare));
        }
        if cleanup.is_empty()
            && let Some((first, last)) = self.moves(&mut switch, content)
        {
            plan.switch.extend(self.ops(first));
            plan.cleanup.extend(self.ops(last));
        }
        plan.switch.extend(self.ops(switch));
        plan.cleanup.extend(self.ops(cleanup));
    }

    /// If members only move between sets, what comes first and what in a transaction of its own after that. Taken out
    /// of the operations.
    fn moves(&self, switch: &mut Vec<OpKind>, content: &dyn Content) -> Option<(Vec<OpKind>, Vec<OpKind>)> {
        let mut added = HashSet::new();
        let mut removed = HashSet::new();
        // Of one address: a packet has another one at its other end, and a second mover there would be a second change.
        let mut moving = HashSet::new();
        for op in switch.iter() {
            match op {
                OpKind::AddElements { set, .. } | OpKind::AddPorts { set, .. } => added.insert(set.as_str()),
                OpKind::DeleteElements { set, .. } | OpKind::DeletePorts { set, .. } => removed.insert(set.as_str()),
                _ => return None,
            };
            match op {
                OpKind::AddElements { ranges, .. } | OpKind::DeleteElements { ranges, .. } => moving.extend(ranges),
                OpKind::AddPorts { ports, .. } | OpKind::DeletePorts { ports, .. } => {
                    moving.extend(ports.iter().map(|member| {
                        let key = address_key(&member.address);
                        (key, key)
                    }));
                }
                _ => {}
            }
        }
        if moving.len() != 1 || moving.iter().any(|(first, last)| first != last) {
            return None;
        }
        // What comes may overlap what goes, which an interval set refuses.
        let interval = |set: &&str| self.sets.wanted(&(*set).to_owned()).is_some_and(|want| want.spec.interval);
        let in_conflict = added.intersection(&removed).any(interval);
        if added.is_empty() || removed.is_empty() || in_conflict {
            return None;
        }
        let wants = added.union(&removed).filter_map(|set| self.sets.wanted(&(*set).to_owned()));
        let sources: Vec<&SetSource> = wants.map(|want| &want.source).collect();
        let order = content.member_order(&sources);
        let adds = |op: &OpKind| matches!(op, OpKind::AddElements { .. } | OpKind::AddPorts { .. });
        if order == MemberOrder::AtOnce {
            return None;
        }
        let (added, removed) = std::mem::take(switch).into_iter().partition(adds);
        Some(if order == MemberOrder::GrowFirst { (added, removed) } else { (removed, added) })
    }

    /// The plan was carried out.
    pub(crate) fn settle(&mut self) {
        self.present = true;
        (self.broken, self.stale) = (false, false);
        self.pending.clear();
        self.pending_ports.clear();
        self.pending_published.clear();
        for (name, step) in self.chains.steps() {
            match (step, self.chains.wanted(&name)) {
                (Step::Create | Step::Update, Some(want)) => {
                    self.bases.insert(name, want.base);
                }
                _ => {
                    self.bases.remove(&name);
                }
            }
        }
        self.chains.settle();
        self.sets.settle();
        self.maps.iter_mut().for_each(Tracker::settle);
    }

    /// Makes the table anew in one transaction, the last resort. Here map elements do lead to chains of the same
    /// transaction: a packet under way may be dropped, which is why it is the last resort, but not let in.
    pub(crate) fn rebuild(&self, content: &dyn Content, plan: &mut Plan) {
        let mut ops = vec![OpKind::AddTable, OpKind::DeleteTable, OpKind::AddTable];
        let mut sets: Vec<(&String, &SetWant)> = self.sets.all_wanted().collect();
        sets.sort_by_key(|(name, _)| *name);
        for (name, want) in sets {
            ops.extend(self.new_set(name, want, content));
        }
        let mut chains: Vec<(&String, &ChainWant)> = self.chains.all_wanted().collect();
        chains.sort_by_key(|(name, _)| *name);
        let rendered: Vec<Chain> = chains.iter().map(|(_, want)| content.chain(self.family, &want.source)).collect();
        ops.extend(rendered.iter().map(|chain| OpKind::AddChain(ChainHead::from(chain))));
        ops.extend(rendered.into_iter().flat_map(OpKind::rules));
        for (map, tracker) in self.trackers() {
            let mut targets: Vec<(IfName, Target)> =
                tracker.all_wanted().map(|(key, want)| (*key, want.target.clone())).collect();
            targets.sort_by_key(|(key, _)| *key);
            ops.extend((!targets.is_empty()).then_some(OpKind::AddTargets { map, targets }));
        }
        plan.switch.extend(self.ops(ops));
    }

    /// The maps' names and elements.
    fn trackers(&self) -> impl Iterator<Item = (&'static str, &Tracker<IfName, TargetWant>)> {
        Map::all().map(|map| (map.name(), &self.maps[map.index()]))
    }

    fn ops(&self, kinds: Vec<OpKind>) -> impl Iterator<Item = Op> {
        let family = self.family;
        kinds.into_iter().map(move |kind| Op { family, kind })
    }

    /// A chain's hook and a set's kind cannot be changed, only made anew.
    fn mendable(&self) -> bool {
        let updates = |steps: Vec<(String, Step)>| steps.into_iter().filter(|(_, step)| *step == Step::Update);
        let base_differs = |(name, _): (String, Step)| {
            self.bases.get(&name) != self.chains.wanted(&name).map(|want| want.base).as_ref()
        };
        !updates(self.chains.steps()).any(base_differs) && updates(self.sets.steps()).next().is_none()
    }

    fn new_set(&self, name: &str, want: &SetWant, content: &dyn Content) -> Vec<OpKind> {
        let mut ops = vec![OpKind::AddSet { name: name.to_owned(), spec: want.spec }];
        if let Data::Destination(_) = want.spec.data {
            let ports = content.published(self.family, &want.source);
            let parts = ports.chunks(ELEMENTS_PER_OPERATION).map(<[PublishedPort]>::to_vec);
            let add = |ports| OpKind::AddPublished { map: name.to_owned(), spec: want.spec, ports };
            ops.extend(parts.map(add));
            return ops;
        }
        if matches!(want.spec.key, Key::PortMember(_)) {
            let ports = content.ports(self.family, &want.source);
            let parts = ports.chunks(ELEMENTS_PER_OPERATION).map(<[PortMember]>::to_vec);
            ops.extend(parts.map(|ports| OpKind::AddPorts { set: name.to_owned(), ports }));
            return ops;
        }
        let ranges = content.elements(self.family, &want.source);
        let parts = ranges.chunks(ELEMENTS_PER_OPERATION).map(<[Range]>::to_vec);
        ops.extend(parts.map(|ranges| OpKind::AddElements { set: name.to_owned(), spec: want.spec, ranges }));
        ops
    }

    fn plan_sets(&self, content: &dyn Content, prepare: &mut Vec<OpKind>, switch: &mut Vec<OpKind>) {
        for (name, step) in self.sets.steps() {
            if let (Step::Create, Some(want)) = (step, self.sets.wanted(&name)) {
                prepare.extend(self.new_set(&name, want, content));
            }
        }
        for (set, pending) in &self.pending {
            let Some(SetWant { spec, .. }) = self.sets.wanted(set) else { continue };
            // Removal first: what is added may overlap what is removed.
            let (added, removed) = pending.sorted();
            if !removed.is_empty() {
                switch.push(OpKind::DeleteElements { set: set.clone(), spec: *spec, ranges: removed });
            }
            if !added.is_empty() {
                switch.push(OpKind::AddElements { set: set.clone(), spec: *spec, ranges: added });
            }
        }
    }

    fn plan_port_sets(&self, switch: &mut Vec<OpKind>) {
        for (set, pending) in &self.pending_ports {
            if self.sets.wanted(set).is_none() {
                continue;
            }
            let (added, removed) = pending.sorted();
            if !removed.is_empty() {
                switch.push(OpKind::DeletePorts { set: set.clone(), ports: removed });
            }
            if !added.is_empty() {
                switch.push(OpKind::AddPorts { set: set.clone(), ports: added });
            }
        }
    }

    fn plan_published(&self, switch: &mut Vec<OpKind>) {
        for (map, pending) in &self.pending_published {
            let Some(SetWant { spec, .. }) = self.sets.wanted(map) else { continue };
            // One that leads elsewhere now is removed and added.
            let (added, removed) = pending.sorted();
            if !removed.is_empty() {
                switch.push(OpKind::DeletePublished { map: map.clone(), spec: *spec, ports: removed });
            }
            if !added.is_empty() {
                switch.push(OpKind::AddPublished { map: map.clone(), spec: *spec, ports: added });
            }
        }
    }

    /// New regular chains are prepared, changed ones switched. Returns the names of the new ones.
    fn plan_chains(
        &self,
        content: &dyn Content,
        prepare: &mut Vec<OpKind>,
        switch: &mut Vec<OpKind>,
    ) -> HashSet<String> {
        let mut created = HashSet::new();
        let mut rules = Vec::new();
        for (name, step) in self.chains.steps() {
            let Some(want) = self.chains.wanted(&name) else { continue };
            match step {
                Step::Create if want.base != ReadBase::Regular => {}
                Step::Create => {
                    let chain = content.chain(self.family, &want.source);
                    prepare.push(OpKind::AddChain(ChainHead::from(&chain)));
                    rules.extend(OpKind::rules(chain));
                    created.insert(name);
                }
                Step::Update => {
                    switch.push(OpKind::FlushChain { name });
                    switch.extend(OpKind::rules(content.chain(self.family, &want.source)));
                }
                Step::Delete => {}
            }
        }
        // All new chains before any rule: rules name chains.
        prepare.extend(rules);
        created
    }

    fn plan_targets(&self, switch: &mut Vec<OpKind>) {
        for (map, tracker) in self.trackers() {
            let (mut gone, mut targets) = (Vec::new(), Vec::new());
            for (interface, step) in tracker.steps() {
                if step != Step::Create {
                    gone.push(interface);
                }
                if let (Step::Create | Step::Update, Some(want)) = (step, tracker.wanted(&interface)) {
                    targets.push((interface, want.target.clone()));
                }
            }
            if !gone.is_empty() {
                switch.push(OpKind::DeleteTargets { map, interfaces: gone });
            }
            if !targets.is_empty() {
                switch.push(OpKind::AddTargets { map, targets });
            }
        }
    }

    /// Base chains come last: with them the rest takes effect at once.
    fn plan_base_chains(&self, content: &dyn Content, switch: &mut Vec<OpKind>) {
        for (name, step) in self.chains.steps() {
            if let (Step::Create, Some(want)) = (step, self.chains.wanted(&name))
                && want.base != ReadBase::Regular
            {
                let chain = content.chain(self.family, &want.source);
                switch.push(OpKind::AddChain(ChainHead::from(&chain)));
                switch.extend(OpKind::rules(chain));
            }
        }
    }

    /// Rules first and map elements next, so that nothing refers to the chains and sets that then go.
    fn plan_cleanup(&self, cleanup: &mut Vec<OpKind>) {
        let deleted = |steps: Vec<(String, Step)>| -> Vec<String> {
            steps.into_iter().filter(|(_, step)| *step == Step::Delete).map(|(name, _)| name).collect()
        };
        let (chains, sets) = (deleted(self.chains.steps()), deleted(self.sets.steps()));
        cleanup.extend(chains.iter().map(|name| OpKind::FlushChain { name: name.clone() }));
        cleanup.extend(sets.iter().map(|name| OpKind::FlushSet { name: name.clone() }));
        cleanup.extend(chains.into_iter().map(|name| OpKind::DeleteChain { name }));
        cleanup.extend(sets.into_iter().map(|name| OpKind::DeleteSet { name }));
    }
}
