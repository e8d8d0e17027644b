//! Sets that change together with something else get a new edition.
//!
//! Rules of one table change in one moment, and members of a set one by one, but rules and members never together. A
//! packet that the old and the new state both deny, one for its rules and the other for its members, would pass in
//! between; and one that both allow would be lost. So:
//!
//! - A change of members **in place** is one that only opens or only closes, and that no change of rules goes with:
//!   whatever a packet meets in between, it gets the old verdict or the new one, also if it meets a set twice.
//! - Everything else makes a set **anew**, under a further name and complete, and the rules that name it lead to the new
//!   edition at once, with all their other changes. The old edition goes when no rule names it.
//!
//! Sets of very many members are not copied for that. Of those, what closes comes before the rules and what opens after
//! them, so that for a moment something allowed may be lost, but nothing denied passes.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Iptables,
    diff::{self, SetWant},
    layout::Table,
    model::{Model, SetChange},
    name,
    save::SavedSet,
    sets,
};
use crate::{
    family::Family,
    ruleset::{Action, Rule},
};

/// How many members are copied at most in one write and family. `ipset` takes some 30 ms of a processor for so many.
const MOST_COPIED: usize = 10_000;
/// Under so many further names a set is looked for that an earlier process has left.
const MOST_EDITIONS: u32 = 8;

/// The sets of a family that are to change, by ipset's names.
#[derive(Debug, Default)]
pub(super) struct WantedSets {
    /// What is wanted of them.
    pub wants: BTreeMap<String, SetWant>,
    /// Which of the model's sets they are.
    pub names: BTreeMap<String, String>,
}

/// What more members of a set do to packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// No verdict depends on it.
    Nothing,
    /// Some are allowed that were not, and none the other way round.
    Opens,
    /// Some are denied that were not, and none the other way round.
    Closes,
    /// It depends.
    Unclear,
}

impl Effect {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, effect) | (effect, Self::Nothing) => effect,
            (one, other) if one == other => one,
            _ => Self::Unclear,
        }
    }

    fn inverse(self) -> Self {
        match self {
            Self::Opens => Self::Closes,
            Self::Closes => Self::Opens,
            same => same,
        }
    }

    /// What it means that more packets match a rule. The first rule that matches decides, so that a packet which does
    /// not get to a later rule any more gets from this one at least, or at most, what it would get there.
    fn of_rule(rule: &Rule, mark_accept: u32) -> Self {
        match rule.actions.as_slice() {
            [Action::Log(_)] => Self::Nothing,
            [Action::Accept] => Self::Opens,
            [Action::SetMark(bits), Action::Return] if *bits == mark_accept => Self::Opens,
            [Action::Drop] | [Action::Reject(_)] | [Action::ResetTcp] => Self::Closes,
            _ => Self::Unclear,
        }
    }
}

/// How one set that is there differs from what is wanted of it.
struct Difference {
    name: String,
    set: String,
    added: usize,
    removed: usize,
    /// Of more members.
    effect: Effect,
}

impl Difference {
    /// Of the whole change.
    fn of_change(&self) -> Effect {
        let grows = if self.added > 0 { self.effect } else { Effect::Nothing };
        let shrinks = if self.removed > 0 { self.effect.inverse() } else { Effect::Nothing };
        grows.and(shrinks)
    }
}

impl Iptables {
    /// What is wanted of sets: of all if they were just read, else of those that changed. May choose another name for
    /// one, and then the rules that name it are looked at again.
    pub(super) fn wanted_sets(&mut self, family: Family, all: bool) -> WantedSets {
        let Some(there) = &self.sets else { return WantedSets::default() };
        let mut wanted = WantedSets::default();
        let state = &mut self.families[family.index()];
        let mut changes = state.model.take_changed_sets();
        let mut renamed = Vec::new();
        let mut names = BTreeSet::new();
        for (set, content) in &state.model.sets {
            let Some(kind) = sets::kind(family, content) else { continue };
            let there = |number: u32| there.get(&name::set(family, set, number));
            let is_other = |number: &u32| there(*number).is_some_and(|other| other.kind != kind);
            let known = state.evasions.get(set).copied();
            let left = || (0..MOST_EDITIONS).find(|number| there(*number).is_some_and(|left| left.kind == kind));
            let edition = known.or_else(|| left().filter(|_| all)).unwrap_or_default();
            let free = (edition..).find(|number| !is_other(number)).unwrap_or(edition);
            if free != edition {
                tracing::warn!(set, "a set of another type has the name of this one, which gets a further one");
            }
            if free != known.unwrap_or_default() {
                renamed.push((set.clone(), free));
            }
            let name = name::set(family, set, free);
            let known = !all && free == edition;
            let members = |elements| sets::members(family, elements);
            let want = match changes.remove(set) {
                None if known => None,
                Some(SetChange::Part { added, removed }) if known => {
                    Some(SetWant::Part { added: members(&added), removed: members(&removed), shrinks_first: false })
                }
                _ => Some(SetWant::Whole(SavedSet { kind, members: members(&content.elements) })),
            };
            if let Some(want) = want {
                wanted.wants.insert(name.clone(), want);
                wanted.names.insert(name.clone(), set.clone());
            }
            names.insert(name);
        }
        let ours = there.keys().filter(|name| name.starts_with(name::set_prefix(family)));
        let unused = ours.filter(|name| !names.contains(*name) && !self.stubborn.contains(*name));
        wanted.wants.extend(unused.map(|name| (name.clone(), SetWant::Gone)));
        for (set, edition) in renamed {
            state.model.set_renamed(&set);
            state.evasions.insert(set, edition);
        }
        wanted
    }

    /// Makes new editions of sets that cannot change in place. Rules must have been rendered, and are to be once more.
    pub(super) fn renew_sets(&mut self, family: Family, wanted: &mut WantedSets) {
        let differences = self.differences(family, wanted);
        let state = &self.families[family.index()];
        let rules_change = state.there.as_ref().is_some_and(|there| diff::differ(&state.wanted, there));
        let effect = differences.iter().map(Difference::of_change).fold(Effect::Nothing, Effect::and);
        if !rules_change && effect != Effect::Unclear {
            return;
        }
        // What no rule asks about makes no difference to anybody.
        let differences: Vec<Difference> =
            differences.into_iter().filter(|difference| difference.effect != Effect::Nothing).collect();
        let size = |difference: &Difference| {
            let set = state.model.sets.get(&difference.set);
            set.map_or(0, |set| sets::members(family, &set.elements).len())
        };
        let members: usize = differences.iter().map(size).sum();
        for difference in differences {
            if members > MOST_COPIED {
                self.close_first(&difference, wanted);
            } else {
                self.renew(family, difference, wanted);
            }
        }
    }

    fn differences(&self, family: Family, wanted: &WantedSets) -> Vec<Difference> {
        let (Some(there), state) = (&self.sets, &self.families[family.index()]) else { return Vec::new() };
        let accept = self.options.mark_accept;
        let known = wanted.wants.iter().filter_map(|(name, want)| Some((name, want, wanted.names.get(name)?)));
        let differences = known.filter_map(|(name, want, set)| {
            let there = there.get(name)?;
            let (added, removed) = match want {
                SetWant::Whole(want) => (&want.members - &there.members, &there.members - &want.members),
                SetWant::Part { added, removed, .. } => (added - removed, removed - added),
                SetWant::Gone => return None,
            };
            let effect =
                effect(family, &state.model, set, &|chain| state.layout.is_only_in(Table::Filter, chain), accept);
            let (added, removed) = (added.len(), removed.len());
            (added + removed > 0).then(|| Difference { name: name.clone(), set: set.clone(), added, removed, effect })
        });
        differences.collect()
    }

    /// The set under a further name, with all its members; the one of the old name goes.
    fn renew(&mut self, family: Family, difference: Difference, wanted: &mut WantedSets) {
        let Some(there) = &self.sets else { return };
        let Difference { name: old, set, .. } = difference;
        let state = &mut self.families[family.index()];
        let Some(content) = state.model.sets.get(&set) else { return };
        let Some(kind) = sets::kind(family, content) else { return };
        let free = (0..).find(|number| !there.contains_key(&name::set(family, &set, *number))).unwrap_or_default();
        let name = name::set(family, &set, free);
        let want = SavedSet { kind, members: sets::members(family, &content.elements) };
        tracing::debug!(set, name, "a new edition, as something else changes with its members");
        wanted.names.remove(&old);
        wanted.wants.insert(old, SetWant::Gone);
        wanted.wants.insert(name.clone(), SetWant::Whole(want));
        wanted.names.insert(name, set.clone());
        state.model.set_renamed(&set);
        state.evasions.insert(set, free);
    }

    /// In place, and in the order in which nothing opens that both states deny.
    fn close_first(&self, difference: &Difference, wanted: &mut WantedSets) {
        tracing::debug!(set = difference.set, "too many members for a new edition; it changes in place");
        let there = self.sets.as_ref().and_then(|sets| sets.get(&difference.name));
        let (Some(want), Some(there)) = (wanted.wants.get_mut(&difference.name), there) else { return };
        let (added, removed) = match &*want {
            SetWant::Whole(want) => (&want.members - &there.members, &there.members - &want.members),
            SetWant::Part { added, removed, .. } => (added - removed, removed - added),
            SetWant::Gone => return,
        };
        *want = SetWant::Part { added, removed, shrinks_first: difference.effect == Effect::Opens };
    }
}

/// What more members of a set do. What is judged before the filter table is not looked into: what passes there goes
/// another way.
fn effect(family: Family, model: &Model, set: &str, is_in_filter: &dyn Fn(&str) -> bool, mark_accept: u32) -> Effect {
    let of_use = |(chain, rule, negated): (&str, &Rule, bool)| {
        let effect = match is_in_filter(&name::chain(chain)) {
            true => Effect::of_rule(rule, mark_accept),
            false => Effect::Unclear,
        };
        if negated { effect.inverse() } else { effect }
    };
    let effect = model.uses(set).map(of_use).fold(Effect::Nothing, Effect::and);
    tracing::trace!(%family, set, ?effect, "more members");
    effect
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]

    use std::sync::Arc;

    use super::*;
    use crate::{
        Options,
        family::Range,
        iptables::{Saved, SavedSet, Variant, diff::SetChanges},
        op::{ChainHead, Op, OpKind},
        ruleset::{Base, End, Hook, Key, Match, SetSpec},
    };

    const ACCEPT: u32 = 0x1_0000;

    fn asks(set: &str, negated: bool, actions: Vec<Action>) -> Rule {
        let asked = Match::AddressSet { family: Family::V4, end: End::Source, set: set.to_owned(), negated };
        Rule::new(vec![asked], actions)
    }

    fn allow() -> Vec<Action> {
        vec![Action::SetMark(ACCEPT), Action::Return]
    }

    fn range(address: u128) -> Range {
        (address, address)
    }

    /// Rules in a chain of the filter table, and the sets that they name, each with one member, as if all were written.
    fn written(rules: Vec<Rule>, sets: &[&str]) -> Iptables {
        let mut iptables = Iptables::open(Variant::Nft, Arc::new(Options::default())).unwrap();
        iptables.sets = Some(Default::default());
        let base = Some(Base { nat: false, hook: Hook::Forward, priority: 0 });
        let mut kinds = vec![OpKind::AddTable];
        for set in sets {
            let spec = SetSpec::set(Key::Address(Family::V4), false);
            kinds.push(OpKind::AddSet { name: (*set).to_owned(), spec });
            kinds.push(OpKind::AddElements { set: (*set).to_owned(), spec, ranges: vec![range(1)] });
        }
        kinds.push(OpKind::AddChain(ChainHead { name: "f".to_owned(), base, comment: None }));
        kinds.extend(rules.into_iter().map(|rule| OpKind::AddRule { chain: "f".to_owned(), rule }));
        change(&mut iptables, kinds);
        iptables.families[Family::V4.index()].there = Some(Saved::new());
        settle(&mut iptables);
        iptables
    }

    fn change(iptables: &mut Iptables, kinds: Vec<OpKind>) {
        kinds.into_iter().for_each(|kind| iptables.absorb(&Op { family: Family::V4, kind }).unwrap());
    }

    fn add(set: &str, address: u128) -> OpKind {
        let spec = SetSpec::set(Key::Address(Family::V4), false);
        OpKind::AddElements { set: set.to_owned(), spec, ranges: vec![range(address)] }
    }

    fn delete(set: &str, address: u128) -> OpKind {
        let spec = SetSpec::set(Key::Address(Family::V4), false);
        OpKind::DeleteElements { set: set.to_owned(), spec, ranges: vec![range(address)] }
    }

    /// The changes of sets, in the order in which they would be written; afterwards the kernel is as wanted.
    fn settle(iptables: &mut Iptables) -> SetChanges {
        let family = Family::V4;
        let mut wanted = iptables.wanted_sets(family, false);
        iptables.render(family);
        iptables.renew_sets(family, &mut wanted);
        iptables.render(family);
        let there = iptables.sets.as_mut().unwrap();
        let changes = diff::sets(&wanted.wants, there);
        for (name, want) in wanted.wants {
            match want {
                SetWant::Whole(set) => drop(there.insert(name, SavedSet { members: Default::default(), ..set })),
                SetWant::Gone => drop(there.remove(&name)),
                SetWant::Part { .. } => {}
            }
        }
        let state = &mut iptables.families[family.index()];
        let saved = state.there.take().unwrap();
        state.there = Some(diff::settled(&state.wanted, &state.layout.hooks, saved, false));
        changes
    }

    fn names(iptables: &Iptables) -> Vec<String> {
        let mut names: Vec<String> = iptables.sets.as_ref().unwrap().keys().cloned().collect();
        names.sort();
        names
    }

    #[test]
    fn what_only_opens_or_only_closes_changes_in_place() {
        let rules = vec![asks("a", false, allow()), asks("b", false, vec![Action::Drop]), asks("c", true, allow())];
        let mut iptables = written(rules, &["a", "b", "c", "idle"]);
        let before = names(&iptables);
        for (kinds, first, last) in [
            (vec![add("a", 7)], "add cali40a 0.0.0.7\n", ""),
            (vec![add("a", 8), delete("b", 1)], "add cali40a 0.0.0.8\n", "del cali40b 0.0.0.1\n"),
            (
                vec![delete("a", 8), add("b", 8), add("c", 8)],
                "add cali40b 0.0.0.8\nadd cali40c 0.0.0.8\n",
                "del cali40a 0.0.0.8\n",
            ),
            (vec![add("idle", 9), delete("idle", 1)], "add cali40idle 0.0.0.9\n", "del cali40idle 0.0.0.1\n"),
        ] {
            change(&mut iptables, kinds);
            let changes = settle(&mut iptables);
            assert_eq!((changes.first.as_str(), changes.last.as_str()), (first, last));
            assert!(changes.unused.is_empty());
        }
        assert_eq!(names(&iptables), before);
    }

    #[test]
    fn what_opens_and_closes_is_made_anew_and_the_rules_follow_at_once() {
        let rules = vec![
            asks("a", false, allow()),
            asks("b", false, vec![Action::Drop]),
            asks("c", false, vec![Action::SetMark(1)]),
        ];
        let mut iptables = written(rules, &["a", "b", "c"]);
        let rules = |iptables: &Iptables| iptables.families[Family::V4.index()].wanted.clone();
        for (kinds, gone) in [
            (vec![add("a", 7), delete("a", 1)], vec!["cali40a"]),
            (vec![add("a", 8), add("b", 8)], vec!["cali40a-1_", "cali40b"]),
            (vec![add("c", 8)], vec!["cali40c"]),
        ] {
            let before = rules(&iptables);
            change(&mut iptables, kinds);
            let changes = settle(&mut iptables);
            assert!(changes.last.is_empty(), "{changes:?}");
            assert_eq!(changes.unused.len(), gone.len(), "{changes:?}");
            for (unused, gone) in changes.unused.iter().zip(gone) {
                assert!(unused.starts_with(gone), "{changes:?}");
            }
            assert!(
                changes.first.contains("create ") && changes.first.contains("0.0.0.8")
                    || changes.first.contains("0.0.0.7")
            );
            assert_ne!(rules(&iptables), before, "the rules name the new edition");
        }
        change(&mut iptables, vec![add("b", 9)]);
        assert!(settle(&mut iptables).first.starts_with("add cali40b-1_"), "the new edition changes in place too");
    }

    #[test]
    fn members_that_change_with_rules_are_made_anew() {
        let mut iptables = written(vec![asks("a", false, allow())], &["a", "idle"]);
        let rule = OpKind::AddRule { chain: "f".to_owned(), rule: asks("a", false, vec![Action::Drop]) };
        change(&mut iptables, vec![add("a", 7), add("idle", 7), rule]);
        let changes = settle(&mut iptables);
        assert_eq!(changes.unused, ["cali40a"], "what no rule asks about stays");
        assert_eq!(changes.first.matches("0.0.0.7").count(), 2, "{changes:?}");
    }

    #[test]
    fn of_too_many_members_what_closes_comes_first() {
        let mut iptables = written(vec![asks("a", false, allow())], &["a"]);
        let spec = SetSpec::set(Key::Address(Family::V4), false);
        let ranges = (10..10 + MOST_COPIED as u128).map(range).collect();
        change(&mut iptables, vec![OpKind::AddElements { set: "a".to_owned(), spec, ranges }]);
        settle(&mut iptables);
        change(
            &mut iptables,
            vec![add("a", 7), delete("a", 1), OpKind::AddRule { chain: "f".to_owned(), rule: Rule::default() }],
        );
        let changes = settle(&mut iptables);
        assert_eq!((changes.first.as_str(), changes.last.as_str()), ("del cali40a 0.0.0.1\n", "add cali40a 0.0.0.7\n"));
    }

    #[test]
    fn a_new_process_takes_the_edition_that_is_there() {
        let rules = || vec![asks("a", false, allow())];
        let mut iptables = written(rules(), &["a"]);
        change(&mut iptables, vec![add("a", 7), delete("a", 1)]);
        settle(&mut iptables);
        let (there, wanted) = (iptables.sets.clone(), iptables.families[Family::V4.index()].wanted.clone());
        let mut second = written(rules(), &["a"]);
        second.sets = there.clone();
        let sets = second.wanted_sets(Family::V4, true);
        second.render(Family::V4);
        assert_eq!(sets.names.keys().collect::<Vec<_>>(), there.unwrap().keys().collect::<Vec<_>>());
        assert_eq!(second.families[Family::V4.index()].wanted, wanted);
    }
}
