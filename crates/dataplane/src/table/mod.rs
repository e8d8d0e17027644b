//! One family's table: what it is to hold, what it holds, and the steps between.

mod types;

use std::collections::{BTreeMap, HashMap, HashSet};

pub(crate) use types::{
    ChainSource, ChainWant, Content, ReadBase, ReadChain, ReadElements, ReadSet, ReadTable, SetSource, SetWant,
    TargetWant,
};

use crate::{
    family::{Family, Range},
    ifname::IfName,
    name::Direction,
    op::{ChainHead, Op, OpKind, Plan, Target},
    render::{WL_FROM, WL_TO},
    ruleset::{Chain, SetSpec},
    tracker::{Step, Tracker, fingerprint},
};

/// Above this many new elements a plan is split even if it need not be, so that no message gets huge.
const MANY_ELEMENTS: usize = 4096;

/// Changes of a set's elements that the kernel does not have yet.
#[derive(Debug, Default)]
struct Pending {
    added: HashSet<Range>,
    removed: HashSet<Range>,
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
    pending: BTreeMap<String, Pending>,
    from: Tracker<IfName, TargetWant>,
    to: Tracker<IfName, TargetWant>,
}

impl Table {
    /// A table of which nothing is known to be there.
    pub(crate) fn new(family: Family) -> Self {
        let mut sets = Tracker::default();
        for map in [WL_FROM, WL_TO] {
            sets.want(map.to_owned(), SetWant { spec: SetSpec::DISPATCH, source: SetSource::Dispatch });
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
            from: Tracker::default(),
            to: Tracker::default(),
        }
    }

    /// The map that says where packets from, or to, an interface go.
    pub(crate) fn targets(&mut self, direction: Direction) -> &mut Tracker<IfName, TargetWant> {
        match direction {
            Direction::Egress => &mut self.from,
            Direction::Ingress => &mut self.to,
        }
    }

    /// Notes that elements of a set changed. A set that is not there yet is created with all its elements.
    pub(crate) fn set_changed(&mut self, name: &str, added: &[Range], removed: &[Range]) {
        if self.sets.present(&name.to_owned()).is_none() {
            return;
        }
        let pending = self.pending.entry(name.to_owned()).or_default();
        for range in removed {
            if !pending.added.remove(range) {
                pending.removed.insert(*range);
            }
        }
        for range in added {
            if !pending.removed.remove(range) {
                pending.added.insert(*range);
            }
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
        let ReadTable { chains, sets, dormant: _ } = read.unwrap_or_default();
        self.bases = chains.iter().map(|(name, chain)| (name.clone(), chain.base)).collect();
        let contents = chains.into_iter().map(|(name, chain)| (name, fingerprint(&(chain.base, chain.content))));
        let contents = contents.collect();
        let chains_changed = self.chains.was_changed(&contents);
        self.chains.read_back(contents);
        let (mut specs, mut from, mut to) = (HashMap::new(), HashMap::new(), HashMap::new());
        for (name, ReadSet { spec, elements }) in sets {
            specs.insert(name.clone(), fingerprint(&spec));
            let want = self.sets.wanted(&name);
            match elements {
                ReadElements::Targets(targets) if name == WL_FROM => from = targets,
                ReadElements::Targets(targets) if name == WL_TO => to = targets,
                ReadElements::Ranges(there) if want.is_some_and(|want| Some(want.spec) == spec) => {
                    let want = want.map(|want| content.elements(self.family, &want.source)).unwrap_or_default();
                    let want: HashSet<Range> = want.into_iter().collect();
                    let there: HashSet<Range> = there.into_iter().collect();
                    let added = want.difference(&there).copied().collect();
                    let removed = there.difference(&want).copied().collect();
                    self.pending.insert(name, Pending { added, removed });
                }
                ReadElements::Ports(_) => {}
                _ if want.is_some() => self.broken = true,
                _ => {}
            }
        }
        self.sets.read_back(specs);
        let changed = chains_changed || self.from.was_changed(&from) || self.to.was_changed(&to);
        self.from.read_back(from);
        self.to.read_back(to);
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
        let created = self.plan_chains(content, &mut prepare, &mut switch);
        self.plan_targets(&mut switch);
        self.plan_base_chains(content, &mut switch);
        self.plan_cleanup(&mut cleanup);
        let leads_to_new = |tracker: &Tracker<IfName, TargetWant>| {
            tracker
                .steps()
                .iter()
                .any(|(key, _)| tracker.wanted(key).is_some_and(|want| created.contains(want.target.chain.as_str())))
        };
        let elements: usize = prepare.iter().map(element_count).sum();
        if leads_to_new(&self.from) || leads_to_new(&self.to) || elements > MANY_ELEMENTS {
            plan.prepare.extend(self.ops(prepare));
        } else {
            plan.switch.extend(self.ops(prepare));
        }
        plan.switch.extend(self.ops(switch));
        plan.cleanup.extend(self.ops(cleanup));
    }

    /// The plan was carried out.
    pub(crate) fn settle(&mut self) {
        self.present = true;
        (self.broken, self.stale) = (false, false);
        self.pending.clear();
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
        self.from.settle();
        self.to.settle();
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
        for (map, tracker) in [(WL_FROM, &self.from), (WL_TO, &self.to)] {
            let mut targets: Vec<(IfName, Target)> =
                tracker.all_wanted().map(|(key, want)| (*key, want.target.clone())).collect();
            targets.sort_by_key(|(key, _)| *key);
            ops.extend((!targets.is_empty()).then_some(OpKind::AddTargets { map, targets }));
        }
        plan.switch.extend(self.ops(ops));
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
        let ranges = content.elements(self.family, &want.source);
        if !ranges.is_empty() {
            ops.push(OpKind::AddElements { set: name.to_owned(), spec: want.spec, ranges });
        }
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
            let sorted = |ranges: &HashSet<Range>| {
                let mut ranges: Vec<Range> = ranges.iter().copied().collect();
                ranges.sort_unstable();
                ranges
            };
            // Removal first: what is added may overlap what is removed.
            let (added, removed) = (sorted(&pending.added), sorted(&pending.removed));
            if !removed.is_empty() {
                switch.push(OpKind::DeleteElements { set: set.clone(), spec: *spec, ranges: removed });
            }
            if !added.is_empty() {
                switch.push(OpKind::AddElements { set: set.clone(), spec: *spec, ranges: added });
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
        for (map, tracker) in [(WL_FROM, &self.from), (WL_TO, &self.to)] {
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

fn element_count(op: &OpKind) -> usize {
    match op {
        OpKind::AddElements { ranges, .. } => ranges.len(),
        _ => 0,
    }
}
