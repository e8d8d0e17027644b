//! The second renderer: the same rules in iptables and ipset, for hosts whose other software is there, or whose kernel
//! has nothing newer.
//!
//! It takes the operations that are meant for nftables ([`Op`]), keeps what they add up to ([`model`]), works out which
//! chains that makes in which tables ([`layout`], [`lower`], [`dispatch`], [`sets`]), and writes what differs from what
//! the kernel holds ([`diff`]) by `ipset restore` and `iptables-restore --noflush`. This is the only place where the
//! dataplane starts programs, and it starts none when nothing changed.
//!
//! What must hold:
//!
//! - **Never half a policy.** A table changes at once or not at all, and the tables change in the order in which packets
//!   meet them; members of sets that cannot change by themselves change together with the rules ([`editions`]). So a
//!   packet of which raw, mangle and nat say the same before and after gets the old verdict or the new one, and never
//!   another.
//! - **Nothing goes while a packet may be in it.** First all rules lead past what is not wanted any more, then the packets
//!   that were under way pass ([`crate::passing`]), then it goes, chains before sets. Whoever is stopped in between leaves
//!   unused chains and sets, which the next one finds and removes. With iptables-legacy the kernel itself waits: it hands
//!   out a table as a whole, and gives the old one back only when no processor is in it any more. So there one text does
//!   for both, and a table is not written twice.
//! - **Known by its comment.** Each rule carries a hash of its own text. A restart compares hashes and touches nothing
//!   that is as wanted, counters included; a rule that somebody changed has lost its hash or has another one.
//! - **One jump** from each of iptables' own chains, first in it (last for source NAT), put back when it is gone.
//! - **Nothing else is touched**: chains whose name starts with `cali-`, sets with `cali40` or `cali60`, rules with our
//!   comment. An earlier Felix used the same names; what it left is taken over, and goes if it is not wanted.
//!
//! What cannot be as with nftables: a change of several tables is not one moment but a few. A packet that untracked or
//! pre-DNAT policy, or a floating address, treats in another way than before may for these milliseconds meet what is new
//! there and what is old behind it; and so may one that is forwarded with a destination that somebody else translated,
//! while the first egress policy of host endpoints comes or the last one goes (it is judged in mangle POSTROUTING, and
//! marked as forwarded in filter). Changes by others are noticed at once only with
//! iptables-nft, whose tables are nftables tables; those of iptables-legacy and of ipset tell nobody, so there it
//! takes until everything is read again. And iptables-legacy forgets the state of limits of connections and rates
//! whenever a table is written.

mod command;
mod compare;
mod detect;
mod diff;
mod dispatch;
mod editions;
mod layout;
mod list;
mod lower;
mod model;
mod name;
mod save;
mod sets;
#[cfg(test)]
mod tests;
mod words;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use command::{LOCK_SECONDS, run};
use detect::Programs;
pub(crate) use detect::{Variant, choose};
use diff::{SetWant, Wanted};
use layout::{Context, Layout, Line, Source, Table};
pub(crate) use list::of_interface as list_interface;
use model::Model;
pub(crate) use name::CHAIN_PREFIX;
use save::{Saved, SavedSet};

use crate::{Options, error::Error, family::Family, op::Op, passing::Passing, table::ReadTable};

/// How often the same jump is put back to its place before others are let have their way for a while.
const MOST_DISPLACEMENTS: usize = 5;
/// How long that while is.
const DISPLACEMENT_PERIOD: Duration = Duration::from_secs(10);
/// Tries to remove sets. The kernel lets go of what a deleted rule referred to a little later.
const DESTROY_ATTEMPTS: u32 = 6;
/// The first pause between them; doubled each time.
const DESTROY_BACK_OFF: Duration = Duration::from_millis(5);

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// Programs that were run to change something.
    pub runs: usize,
    /// Lines that they read.
    pub lines: usize,
    /// Per family: rules that were there had been changed or removed by somebody.
    pub interfered: [bool; 2],
}

/// What one family is to have and has.
#[derive(Debug, Default)]
struct FamilyState {
    model: Model,
    layout: Layout,
    wanted: Wanted,
    /// What the kernel holds; `None` if it has to be read.
    there: Option<Saved>,
    /// What was there when it was last known.
    before: Option<Saved>,
    /// Sets that are known under another than their first name: in a later edition, or because that name was taken.
    evasions: BTreeMap<String, u32>,
    /// When jumps were found displaced.
    displaced: VecDeque<Instant>,
}

/// The rules of one network namespace in iptables and ipset.
#[derive(Debug)]
pub(crate) struct Iptables {
    variant: Variant,
    programs: Programs,
    options: Arc<Options>,
    return_allowed: bool,
    families: [FamilyState; 2],
    /// Our sets in the kernel, their members only just after reading; `None` if they have to be read.
    sets: Option<HashMap<String, SavedSet>>,
    /// Sets that others use and that are not tried again until everything is read again.
    stubborn: BTreeSet<String>,
    /// Processes of ours that changed something since they were last asked for.
    processes: Vec<u32>,
    /// Who may be in rules that were changed last.
    passing: Passing,
}

/// What is left to do in a family when nobody is in its old rules any more.
struct Ending {
    family: Family,
    /// What takes away the chains that are not wanted.
    ends: String,
    /// What the kernel holds then.
    after: Saved,
}

impl Iptables {
    /// Finds the programs. Nothing is read or written yet.
    ///
    /// # Errors
    /// [`Error::ProgramMissing`] names the program that is not installed.
    pub(crate) fn open(variant: Variant, options: Arc<Options>) -> Result<Self, Error> {
        Ok(Self {
            variant,
            programs: Programs::find(variant)?,
            options,
            return_allowed: false,
            families: Default::default(),
            sets: None,
            stubborn: BTreeSet::new(),
            processes: Vec::new(),
            passing: Passing::default(),
        })
    }

    /// Which iptables it speaks to.
    pub(crate) fn variant(&self) -> Variant {
        self.variant
    }

    /// Whether packets that policy allowed are left to others' rules too, where there are any.
    pub(crate) fn set_return_allowed(&mut self, return_allowed: bool) {
        if std::mem::replace(&mut self.return_allowed, return_allowed) != return_allowed {
            for state in &mut self.families {
                state.wanted.clear();
            }
        }
    }

    /// Whether rules of ours are there, from an earlier run.
    ///
    /// # Errors
    /// [`Error::Program`] if they cannot be read.
    pub(crate) async fn is_installed(&mut self, family: Family) -> Result<bool, Error> {
        self.read_rules(family).await?;
        let filter = self.families[family.index()].there.as_ref().and_then(|saved| saved.get(&Table::Filter));
        Ok(filter.is_some_and(|table| !table.chains.is_empty()))
    }

    /// What the planner is to believe of a family's table: all that it asked for so far.
    pub(crate) fn read_table(&self, family: Family) -> Option<ReadTable> {
        self.families[family.index()].model.read(family)
    }

    /// Takes an operation into account; [`write`](Self::write) carries it out.
    ///
    /// # Errors
    /// [`Error::Program`] if it does not fit what was asked for before; reading back helps.
    pub(crate) fn absorb(&mut self, op: &Op) -> Result<(), Error> {
        self.families[op.family.index()].model.carry_out(op)
    }

    /// Believes nothing of a family's rules any more.
    pub(crate) fn distrust_rules(&mut self, family: Family) {
        let state = &mut self.families[family.index()];
        state.before = state.there.take().or(state.before.take());
    }

    /// Believes nothing of the sets any more.
    pub(crate) fn distrust_sets(&mut self) {
        self.sets = None;
    }

    /// The processes that changed something on our behalf since the last call: their notifications are no news.
    pub(crate) fn take_processes(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.processes)
    }

    /// Makes the kernel hold what was asked for, in these families, and nothing else of ours.
    ///
    /// # Errors
    /// [`Error::Program`] if a program failed; what is there is then read again with the next call.
    pub(crate) async fn write(&mut self, families: &[Family]) -> Result<Written, Error> {
        let result = self.try_write(families).await;
        if result.is_err() {
            families.iter().for_each(|family| self.distrust_rules(*family));
            self.distrust_sets();
        }
        result
    }

    async fn try_write(&mut self, families: &[Family]) -> Result<Written, Error> {
        let mut written = Written::default();
        if families.iter().all(|family| self.is_settled(*family)) {
            return Ok(written);
        }
        for family in families {
            self.read_rules(*family).await?;
            let state = &mut self.families[family.index()];
            if let (Some(before), Some(there)) = (state.before.take(), &state.there) {
                written.interfered[family.index()] = diff::was_changed(&before, there);
            }
        }
        if families.iter().any(|family| self.is_unsure_of_members(*family)) {
            self.sets = None;
        }
        let all = self.read_sets().await?;
        let mut sets = Vec::new();
        for family in families {
            let mut wanted = self.wanted_sets(*family, all);
            self.render(*family);
            self.renew_sets(*family, &mut wanted);
            sets.push((*family, wanted.wants));
        }
        // Until all is done it is not known what is there, also if this future is dropped half-way.
        let mut there = self.sets.take().unwrap_or_default();
        let changes: Vec<_> = sets.iter().map(|(family, sets)| (*family, diff::sets(sets, &there))).collect();
        let first: String = changes.iter().map(|(_, changes)| changes.first.as_str()).collect();
        self.restore_sets(&first, &mut written).await?;
        let (mut last, mut unused, mut endings, mut failed) = (String::new(), Vec::new(), Vec::new(), None);
        for (family, changes) in changes {
            // What is the matter with one family must not keep in the other's sets who has to go.
            match self.write_rules(family, &mut written).await {
                Ok(ending) => {
                    last.push_str(&changes.last);
                    unused.extend(changes.unused);
                    endings.push(ending);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        self.restore_sets(&last, &mut written).await?;
        self.end_chains(endings, &mut written).await?;
        self.destroy_sets(unused, &mut there, &mut written).await?;
        if let Some(error) = failed {
            return Err(error);
        }
        // Which members they have is known as long as nobody else changes them.
        there.values_mut().for_each(|set| set.members = HashSet::new());
        let sets = sets.into_iter().flat_map(|(_, sets)| sets);
        there.extend(sets.filter_map(|(name, want)| match want {
            SetWant::Whole(set) => Some((name, SavedSet { members: HashSet::new(), ..set })),
            _ => None,
        }));
        self.sets = Some(there);
        Ok(written)
    }

    /// A set is to be made anew, or emptied, while one of its name is there of which only the kernel knows the members.
    fn is_unsure_of_members(&self, family: Family) -> bool {
        let FamilyState { model, evasions, .. } = &self.families[family.index()];
        let is_there = |set: &str| {
            let evasion = evasions.get(set).copied().unwrap_or_default();
            self.sets.as_ref().is_some_and(|there| there.contains_key(&name::set(family, set, evasion)))
        };
        model.remade_sets().any(is_there)
    }

    /// Nothing was asked for since the last write, and nothing is in doubt.
    fn is_settled(&self, family: Family) -> bool {
        let FamilyState { model, there, wanted, .. } = &self.families[family.index()];
        let known = there.is_some() && self.sets.is_some();
        known && !model.has_changed() && (!wanted.is_empty() || model.chains.is_empty())
    }

    async fn read_rules(&mut self, family: Family) -> Result<(), Error> {
        let state = &mut self.families[family.index()];
        if state.there.is_none() {
            let output = run(self.programs.save(family), &[], "").await?;
            state.there = Some(save::parse_rules(&output.text));
        }
        Ok(())
    }

    /// Reads the sets, if they are not known. Returns whether it did.
    async fn read_sets(&mut self) -> Result<bool, Error> {
        if self.sets.is_some() {
            return Ok(false);
        }
        let output = run(&self.programs.ipset, &["save"], "").await?;
        self.sets = Some(save::parse_sets(&output.text, &Family::ALL.map(name::set_prefix)));
        self.stubborn.clear();
        Ok(true)
    }

    /// Writes the rules that are wanted. Chains that are not stay, with nothing that leads to them.
    async fn write_rules(&mut self, family: Family, written: &mut Written) -> Result<Ending, Error> {
        self.render(family);
        let context = self.context(family);
        let there = self.families[family.index()].there.take().unwrap_or_default();
        let state = &self.families[family.index()];
        let period = |time: &&Instant| time.elapsed() < DISPLACEMENT_PERIOD;
        let tolerant = state.displaced.iter().filter(period).count() >= MOST_DISPLACEMENTS;
        let mut texts = Texts { state, context: &context, maps: BTreeMap::new() };
        let hooks = &state.layout.hooks;
        let at_once = self.variant == Variant::Legacy;
        let changes =
            diff::rules(&state.wanted, hooks, &there, tolerant, at_once, &mut |table, chain| texts.lines(table, chain));
        let after = diff::settled(&state.wanted, hooks, there, tolerant);
        if !changes.text.is_empty() {
            self.passing.ended().await;
            self.restore_rules(family, &changes.text, written).await?;
        }
        let state = &mut self.families[family.index()];
        if changes.displaced && !tolerant {
            tracing::info!(%family, "our jump was not in its place any more");
            state.displaced.push_back(Instant::now());
            state.displaced.truncate(MOST_DISPLACEMENTS * 2);
        }
        state.displaced.retain(|time| time.elapsed() < DISPLACEMENT_PERIOD);
        Ok(Ending { family, ends: changes.ends, after })
    }

    /// Takes away the chains that are not wanted, once nobody is in them.
    async fn end_chains(&mut self, endings: Vec<Ending>, written: &mut Written) -> Result<(), Error> {
        if endings.iter().any(|ending| !ending.ends.is_empty()) {
            self.passing.ended().await;
        }
        for Ending { family, ends, after } in endings {
            if !ends.is_empty() {
                self.restore_rules(family, &ends, written).await?;
            }
            self.families[family.index()].there = Some(after);
        }
        Ok(())
    }

    async fn restore_rules(&mut self, family: Family, text: &str, written: &mut Written) -> Result<(), Error> {
        let arguments = ["--noflush", "--wait", LOCK_SECONDS];
        tracing::debug!(%family, lines = text.lines().count(), "writing rules by iptables");
        let output = run(self.programs.restore(family), &arguments, text).await?;
        if self.variant == Variant::Nft {
            self.passing.committed();
        }
        self.processes.push(output.process);
        written.runs += 1;
        written.lines += text.lines().count();
        Ok(())
    }

    /// Works out the hashes of all wanted rules; those of chains that did not change are kept.
    fn render(&mut self, family: Family) {
        let chains = self.families[family.index()].model.take_changed_chains();
        let context = self.context(family);
        let state = &mut self.families[family.index()];
        if chains.is_empty() && !state.wanted.is_empty() {
            return;
        }
        let layout = Layout::of(&state.model);
        let mut before = std::mem::take(&mut state.wanted);
        for (key, source) in &layout.chains {
            let kept = match source {
                Source::Chain(name) if !chains.contains(name) => before.remove(key),
                _ => None,
            };
            if let Some(hashes) = kept {
                state.wanted.insert(key.clone(), hashes);
                continue;
            }
            for (name, lines) in layout::render(source, key.0, &state.model, &context) {
                state.wanted.insert((key.0, name), lines.into_iter().map(|line| line.hash).collect());
            }
        }
        state.layout = layout;
    }

    fn context(&self, family: Family) -> Context {
        Context {
            family,
            options: self.options.clone(),
            return_allowed: self.return_allowed,
            evasions: self.families[family.index()].evasions.clone(),
        }
    }

    async fn restore_sets(&mut self, text: &str, written: &mut Written) -> Result<(), Error> {
        if text.is_empty() {
            return Ok(());
        }
        tracing::debug!(lines = text.lines().count(), "writing sets by ipset");
        run(&self.programs.ipset, &["restore", "-exist"], text).await?;
        written.runs += 1;
        written.lines += text.lines().count();
        Ok(())
    }

    /// Removes sets. One that others' rules use stays, empty or not, and is said.
    async fn destroy_sets(
        &mut self,
        mut names: Vec<String>,
        sets: &mut HashMap<String, SavedSet>,
        written: &mut Written,
    ) -> Result<(), Error> {
        for attempt in 0..DESTROY_ATTEMPTS {
            if names.is_empty() {
                return Ok(());
            }
            let text: String = names.iter().map(|name| format!("destroy {name}\n")).collect();
            let result = run(&self.programs.ipset, &["restore"], &text).await;
            written.runs += 1;
            written.lines += names.len();
            let left = match result {
                Ok(_) => BTreeSet::new(),
                Err(error) => {
                    tracing::debug!(attempt, %error, "sets could not be removed yet");
                    let there = run(&self.programs.ipset, &["list", "-n"], "").await?;
                    there.text.lines().map(str::to_owned).collect()
                }
            };
            for gone in names.iter().filter(|name| !left.contains(*name)) {
                sets.remove(gone);
            }
            names.retain(|name| left.contains(name));
            if !names.is_empty() {
                tokio::time::sleep(DESTROY_BACK_OFF * 2u32.pow(attempt)).await;
            }
        }
        tracing::warn!(?names, "sets that are not needed any more are in use by somebody and stay");
        self.stubborn.extend(names);
        Ok(())
    }
}

/// The text of chains; a map's chains are made together and kept while one text is written.
struct Texts<'a> {
    state: &'a FamilyState,
    context: &'a Context,
    maps: BTreeMap<(Table, String), Vec<Line>>,
}

impl Texts<'_> {
    fn lines(&mut self, table: Table, chain: &str) -> Vec<Line> {
        let key = (table, chain.to_owned());
        if let Some(lines) = self.maps.remove(&key) {
            return lines;
        }
        let render = |source: &Source| layout::render(source, table, &self.state.model, self.context);
        if let Some(source @ (Source::Top(_) | Source::Chain(_))) = self.state.layout.chains.get(&key) {
            return render(source).remove(chain).unwrap_or_default();
        }
        let maps = self
            .state
            .layout
            .chains
            .iter()
            .filter(|((of, _), source)| *of == table && matches!(source, Source::Map(..)));
        for chains in maps.map(|(_, source)| render(source)).collect::<Vec<_>>() {
            self.maps.extend(chains.into_iter().map(|(name, lines)| ((table, name), lines)));
        }
        self.maps.remove(&key).unwrap_or_default()
    }
}

/// Removes everything of ours from one kind of iptables, and all our sets that nothing else needs.
///
/// # Errors
/// [`Error::Program`] with the first thing that could not be removed; [`Error::ProgramMissing`].
pub(crate) async fn remove(variant: Variant, options: Arc<Options>, keep_sets: bool) -> Result<Written, Error> {
    let mut iptables = Iptables::open(variant, options)?;
    if keep_sets {
        iptables.sets = Some(HashMap::new());
    }
    iptables.write(&Family::ALL).await
}
