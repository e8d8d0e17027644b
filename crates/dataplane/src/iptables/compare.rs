//! How what iptables and ipset hold differs from what is wanted, in words: for people, and nothing is written.

use super::{
    Iptables,
    diff::{SetWant, jump},
    layout::{KernelChain, Source, Table},
    save::{Others, SavedTable},
};
use crate::{error::Error, family::Family};

impl Iptables {
    /// Each thing that a write would change.
    ///
    /// # Errors
    /// [`Error::Program`] if rules or sets cannot be read.
    pub(crate) async fn compared(&mut self) -> Result<Vec<String>, Error> {
        let mut differences = Vec::new();
        self.distrust_sets();
        let all = self.read_sets().await?;
        for family in Family::ALL {
            self.distrust_rules(family);
            self.read_rules(family).await?;
            let sets = self.wanted_sets(family, all).wants;
            self.render(family);
            differences.extend(sets.iter().filter_map(|(name, want)| self.of_set(name, want)));
            differences.extend(self.of_chains(family));
            differences.extend(self.of_jumps(family));
        }
        Ok(differences)
    }

    fn of_set(&self, name: &str, want: &SetWant) -> Option<String> {
        let there = self.sets.as_ref()?.get(name);
        match (want, there) {
            (SetWant::Gone, _) => Some(format!("left over: set {name}")),
            (SetWant::Whole(want), None) => Some(format!("missing: set {name} with {} members", want.members.len())),
            (SetWant::Whole(want), Some(there)) if want.members != there.members => {
                let missing = want.members.difference(&there.members).count();
                let others = there.members.difference(&want.members).count();
                Some(format!("other members in set {name}: {missing} missing, {others} left over"))
            }
            (SetWant::Whole(_) | SetWant::Part { .. }, _) => None,
        }
    }

    fn of_chains(&self, family: Family) -> Vec<String> {
        let state = &self.families[family.index()];
        let nothing = SavedTable::default();
        let table = |table: &Table| state.there.as_ref().and_then(|there| there.get(table)).unwrap_or(&nothing);
        let wanted = state.wanted.iter().filter_map(|((of, chain), hashes)| {
            let place = format!("chain {chain} of {family} {}", of.name());
            match table(of).chains.get(chain) {
                Some(there) if there == hashes => None,
                Some(_) => Some(format!("other rules in {place}{}", self.what_for(family, *of, chain))),
                None => Some(format!("missing: {place}{}", self.what_for(family, *of, chain))),
            }
        });
        let left = Table::ALL.into_iter().flat_map(|of| {
            let unwanted =
                table(&of).chains.keys().filter(move |chain| !state.wanted.contains_key(&(of, (*chain).clone())));
            unwanted.map(move |chain| format!("left over: chain {chain} of {family} {}", of.name()))
        });
        wanted.chain(left).collect()
    }

    /// What a chain is for, if it says so.
    fn what_for(&self, family: Family, table: Table, chain: &str) -> String {
        let state = &self.families[family.index()];
        let source = state.layout.chains.get(&(table, chain.to_owned()));
        let comment = match source {
            Some(Source::Chain(name)) => state.model.chains.get(name).and_then(|chain| chain.comment.as_deref()),
            _ => None,
        };
        comment.map(|comment| format!(" ({comment})")).unwrap_or_default()
    }

    fn of_jumps(&self, family: Family) -> Vec<String> {
        let state = &self.families[family.index()];
        let nothing = Others::default();
        let others = |table: Table, chain: &str| {
            let saved = state.there.as_ref().and_then(|there| there.get(&table));
            saved.and_then(|saved| saved.others.get(chain)).unwrap_or(&nothing)
        };
        let mut differences = Vec::new();
        for kernel in &state.layout.hooks {
            let KernelChain { table, name } = *kernel;
            let place = format!("chain {name} of {family} {}", table.name());
            let found = others(table, name).ours.iter().find(|(_, hash, _)| *hash == jump(*kernel).hash);
            match found {
                None => differences.push(format!("missing: the rule that leads from {place} to {}", kernel.ours())),
                Some((place_there, ..)) if *place_there > 0 && !kernel.jump_is_last() => {
                    differences.push(format!("not the first rule of {place}: the one that leads to {}", kernel.ours()));
                }
                Some(_) => {}
            }
        }
        for (table, saved) in state.there.iter().flatten() {
            for (chain, others) in &saved.others {
                let kernel = state.layout.hooks.iter().find(|kernel| kernel.table == *table && kernel.name == chain);
                let expected = kernel.map(|kernel| jump(*kernel).hash);
                let left = others.ours.iter().filter(|(_, hash, _)| Some(hash) != expected.as_ref());
                let place = format!("chain {chain} of {family} {}", table.name());
                differences.extend(left.map(|(.., rule)| format!("left over in {place}: {rule}")));
            }
        }
        differences
    }
}
