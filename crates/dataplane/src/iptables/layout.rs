//! Which iptables tables and chains a family's rules are in.
//!
//! The dataplane's base chains hang on hooks with priorities, iptables' own chains are hooks with fixed priorities, in
//! four tables. From each of these own chains one jump leads to one chain of ours, which calls the base chains of
//! that hook and table in order:
//!
//! ```text
//! raw     PREROUTING, OUTPUT                           before connection tracking
//! mangle  PREROUTING, OUTPUT, POSTROUTING              before destination NAT; on the way out
//! nat     PREROUTING, OUTPUT, POSTROUTING
//! filter  INPUT, FORWARD, OUTPUT                       where workloads and host endpoints are judged
//! ```
//!
//! A regular chain is in every table from which it is reached, and in no other.
//!
//! What policy allowed is accepted at the end of our chain in the filter table, for good: this is what lets workloads'
//! packets pass a FORWARD policy of drop, Docker's for one. Packets from a workload to its host are the exception:
//! whether they are accepted is the host action's to say, which has said so before.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use calico_policy::instruction::PublishedPort;

use super::{
    dispatch,
    lower::{Lowered, Surroundings, lower},
    model::Model,
    name,
};
use crate::{
    Options,
    family::{Family, Range},
    name::comment,
    ruleset::{Action, Base, Chain, Hook, Interface},
};

/// A table of iptables, in the order in which they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Table {
    Raw,
    Mangle,
    Nat,
    Filter,
}

impl Table {
    /// All of them.
    pub(super) const ALL: [Self; 4] = [Self::Raw, Self::Mangle, Self::Nat, Self::Filter];

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Mangle => "mangle",
            Self::Nat => "nat",
            Self::Filter => "filter",
        }
    }

    /// The table of this name.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }
}

/// One of iptables' own chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct KernelChain {
    /// Its table.
    pub table: Table,
    /// Its name.
    pub name: &'static str,
}

impl KernelChain {
    /// Where a base chain belongs.
    fn of(base: Base) -> Self {
        /// Connection tracking, and half-way between mangle and filter.
        const TRACKING: i32 = -200;
        const FILTER: i32 = -75;
        let table = match base {
            Base { nat: true, .. } => Table::Nat,
            Base { hook: Hook::Postrouting, .. } => Table::Mangle,
            Base { hook: Hook::Prerouting | Hook::Output, priority: i32::MIN..TRACKING, .. } => Table::Raw,
            Base { hook: Hook::Prerouting, .. } => Table::Mangle,
            Base { priority: i32::MIN..FILTER, .. } => Table::Mangle,
            _ => Table::Filter,
        };
        let name = match base.hook {
            Hook::Prerouting => "PREROUTING",
            Hook::Input => "INPUT",
            Hook::Forward => "FORWARD",
            Hook::Output => "OUTPUT",
            Hook::Postrouting => "POSTROUTING",
        };
        Self { table, name }
    }

    /// The chain of ours that it jumps to.
    pub(super) fn ours(self) -> String {
        name::chain(self.name)
    }

    /// The jump is the last rule, not the first: others' source NAT is more specific.
    pub(super) fn jump_is_last(self) -> bool {
        self.table == Table::Nat && self.name == "POSTROUTING"
    }
}

/// One rule as iptables gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Tells it from every other rule.
    pub hash: String,
    /// All of it behind `-A chain `.
    pub text: String,
}

impl Line {
    /// A rule with its comment.
    pub(super) fn new(conditions: &str, target: &str, human: Option<&str>) -> Self {
        Self::with(conditions, target, human.map(comment).unwrap_or_default())
    }

    /// A rule that only helps another one of the same comment: whoever adds up the packets of that leaves it out.
    pub(super) fn aside(conditions: &str, target: &str, human: Option<&str>) -> Self {
        let human = human.map(|human| comment(human) + ASIDE);
        Self::with(conditions, target, human.unwrap_or_default())
    }

    fn with(conditions: &str, target: &str, human: String) -> Self {
        let hash = name::hash(&[conditions, target, &human]);
        let space = if human.is_empty() { "" } else { " " };
        let comment = format!("-m comment --comment \"{COMMENT_PREFIX}{hash}{space}{human}\"");
        let words = [conditions, &comment, target];
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        Self { text: words.join(" "), hash }
    }
}

/// What the comment of each of our rules starts with; a hash follows.
pub(super) const COMMENT_PREFIX: &str = "cali:";

/// What the words for people end with in a rule that only helps another one.
pub(super) const ASIDE: &str = " (part of it)";

/// What a family's rules depend on beside the model.
pub(super) struct Context {
    /// Which.
    pub family: Family,
    /// Marks and prefixes.
    pub options: Arc<Options>,
    /// Packets that policy allowed are left to others' rules too.
    pub return_allowed: bool,
    /// How often a set's first names were taken by others' sets.
    pub evasions: BTreeMap<String, u32>,
}

/// Where one chain of iptables comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The chain that calls the base chains of one of iptables' own.
    Top(KernelChain),
    /// A chain of the dataplane.
    Chain(String),
    /// A dispatch map's chains, all of them; this one is the root.
    Map(Interface, String),
}

/// The chains that a family needs in each table, and the jumps to them.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// Chain by iptables' name → where it comes from. A map's inner chains are not listed.
    pub chains: BTreeMap<(Table, String), Source>,
    /// Where a jump is needed.
    pub hooks: BTreeSet<KernelChain>,
}

impl Layout {
    /// Follows all jumps from the base chains.
    pub(super) fn of(model: &Model) -> Self {
        let mut layout = Self::default();
        for (chain, base) in model.base_chains() {
            let kernel = KernelChain::of(base);
            layout.hooks.insert(kernel);
            layout.chains.insert((kernel.table, kernel.ours()), Source::Top(kernel));
            layout.reach(model, kernel.table, chain);
        }
        layout
    }

    /// Whether one of iptables' chains is in this table and in no other.
    pub(super) fn is_only_in(&self, table: Table, chain: &str) -> bool {
        let is_in = |table: &Table| self.chains.contains_key(&(*table, chain.to_owned()));
        Table::ALL.iter().all(|other| is_in(other) == (*other == table))
    }

    fn reach(&mut self, model: &Model, table: Table, chain: &str) {
        let mut waiting = vec![chain];
        while let Some(chain) = waiting.pop() {
            let Some(Chain { rules, .. }) = model.chains.get(chain) else { continue };
            let known = self.chains.insert((table, name::chain(chain)), Source::Chain(chain.to_owned()));
            if known.is_some() {
                continue;
            }
            for action in rules.iter().flat_map(|rule| &rule.actions) {
                match action {
                    Action::Jump(target) | Action::Goto(target) => waiting.push(target),
                    Action::Dispatch(interface, map) => {
                        for (_, target) in model.targets(map).into_iter().flatten() {
                            waiting.push(&target.chain);
                            if !target.goto {
                                let root = (table, dispatch::root(map));
                                self.chains.entry(root).or_insert_with(|| Source::Map(*interface, map.clone()));
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

/// The rules of a chain. More than one chain if it is a map's.
pub(super) fn render(source: &Source, table: Table, model: &Model, context: &Context) -> BTreeMap<String, Vec<Line>> {
    match source {
        Source::Top(kernel) => BTreeMap::from([(kernel.ours(), top(*kernel, model, context))]),
        Source::Chain(chain) => {
            let around = Place { table, chain: model.chains.get(chain), model, context };
            let rules = around.chain.iter().flat_map(|chain| &chain.rules);
            let lines = rules.flat_map(|rule| {
                let comment = rule.comment.as_deref();
                lower(rule, &around).into_iter().map(move |Lowered { conditions, target, counts }| {
                    let line = if counts { Line::new } else { Line::aside };
                    line(&conditions, &target, comment)
                })
            });
            BTreeMap::from([(name::chain(chain), lines.collect())])
        }
        Source::Map(interface, map) => {
            let targets = model.targets(map).into_iter().flatten().filter(|(_, target)| !target.goto);
            let line = |branch: &dispatch::Branch| {
                Line::new(&branch.condition, &format!("-g {}", branch.chain), branch.comment.as_deref())
            };
            let tree = dispatch::tree(map, *interface, targets);
            tree.into_iter().map(|(name, branches)| (name, branches.iter().map(line).collect())).collect()
        }
    }
}

/// The base chains of one hook in one table, one after the other.
fn top(kernel: KernelChain, model: &Model, context: &Context) -> Vec<Line> {
    let bases = model.base_chains().into_iter().filter(|(_, base)| KernelChain::of(*base) == kernel);
    let mut lines: Vec<Line> =
        bases.map(|(chain, _)| Line::new("", &format!("-j {}", name::chain(chain)), None)).collect();
    if kernel.table == Table::Filter && !context.return_allowed {
        let accept = context.options.mark_accept;
        let mut conditions = format!("-m mark --mark {accept:#x}/{accept:#x}");
        if kernel.name == "INPUT" {
            let workload = dispatch::prefix_condition(Interface::Incoming, &context.options.interface_prefix);
            conditions = format!("! {workload} {conditions}");
        }
        lines.push(Line::new(&conditions, "-j ACCEPT", Some("allowed by policy")));
    }
    lines
}

/// A chain in a table, for its rules.
struct Place<'a> {
    table: Table,
    chain: Option<&'a Chain>,
    model: &'a Model,
    context: &'a Context,
}

impl Surroundings for Place<'_> {
    fn family(&self) -> Family {
        self.context.family
    }

    fn table(&self) -> Table {
        self.table
    }

    fn base(&self) -> Option<Base> {
        self.chain.and_then(|chain| chain.base)
    }

    fn return_allowed(&self) -> bool {
        self.context.return_allowed
    }

    fn options(&self) -> &Options {
        &self.context.options
    }

    fn ranges(&self, set: &str) -> Option<&BTreeSet<Range>> {
        self.model.ranges(set)
    }

    fn published(&self, map: &str) -> Option<&BTreeSet<PublishedPort>> {
        self.model.published(map)
    }

    fn set_name(&self, set: &str) -> Option<String> {
        self.model.sets.contains_key(set).then(|| {
            let evasion = self.context.evasions.get(set).copied().unwrap_or_default();
            name::set(self.context.family, set, evasion)
        })
    }

    /// Elements that return to the rule after the map are in chains of their own, of which there may be many; those
    /// that do not can only be here, and are those of host endpoints, of which there are few.
    fn dispatch(&self, interface: Interface, map: &str) -> Vec<(String, String)> {
        let targets = || self.model.targets(map).into_iter().flatten();
        let away = targets().filter(|(_, target)| target.goto).filter_map(|(key, target)| {
            Some((dispatch::condition(interface, key.as_str())?, format!("-g {}", name::chain(&target.chain))))
        });
        let mut rules: Vec<(String, String)> = away.collect();
        if targets().any(|(_, target)| !target.goto) {
            rules.push((String::new(), format!("-j {}", dispatch::root(map))));
        }
        rules
    }
}
