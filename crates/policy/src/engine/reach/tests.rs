#![allow(clippy::unwrap_used)]

use calico_model::KindName;
use proptest::{prelude::*, sample::select};

use super::*;

type LabelMap = BTreeMap<String, String>;

/// One call.
#[derive(Clone, Debug)]
enum Step {
    Put(&'static str, LabelMap, Vec<String>),
    Remove(&'static str),
    Parent(&'static str, LabelMap),
    File(&'static str, u32),
    Unfile(u32),
    Touch(u32),
    Take,
}

/// Selectors whose covers are of every form; some are one selector in two spellings.
const SELECTORS: &[&str] = &[
    "all()",
    "",
    "has(a)",
    "a == '1'",
    "a=='1'",
    "a in {'1', '2'} || b == '1'",
    "!has(a)",
    "a == '1' && has(b)",
    "b in {}",
    "a contains '' && b != '2'",
];
const ITEMS: &[&str] = &["i", "j", "k"];
const PARENTS: &[&str] = &["p", "q"];

fn labels() -> impl Strategy<Value = LabelMap> {
    let text = |choices: &'static [&'static str]| select(choices).prop_map(str::to_owned);
    prop::collection::btree_map(text(&["a", "b"]), text(&["", "1", "2"]), 0..3)
}

fn step() -> impl Strategy<Value = Step> {
    let parents = prop::collection::vec(select(PARENTS).prop_map(str::to_owned), 0..3);
    prop_oneof![
        5 => (select(ITEMS), labels(), parents).prop_map(|(item, labels, parents)| Step::Put(item, labels, parents)),
        1 => select(ITEMS).prop_map(Step::Remove),
        3 => (select(PARENTS), labels()).prop_map(|(parent, labels)| Step::Parent(parent, labels)),
        4 => (select(SELECTORS), 0..6_u32).prop_map(|(selector, policy)| Step::File(selector, policy)),
        2 => (0..6_u32).prop_map(Step::Unfile),
        1 => (0..6_u32).prop_map(Step::Touch),
        2 => Just(Step::Take),
    ]
}

fn key(name: &str) -> ResourceKey {
    ResourceKey::new(KindName::HostEndpoint, None, name)
}

/// The thing beside the plainest model of it.
#[derive(Default)]
struct Pair {
    reach: Reach,
    index: Index,
    items: BTreeMap<&'static str, (LabelMap, Vec<String>)>,
    parents: BTreeMap<String, LabelMap>,
    /// Each policy's selector and the number that it was filed under.
    policies: BTreeMap<u32, (&'static str, u32)>,
    /// Each item's policies when the changes were taken last.
    known: BTreeMap<&'static str, BTreeSet<u32>>,
}

impl Pair {
    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Put(item, labels, parents) => {
                let own: Vec<(&str, &str)> = labels.iter().map(|(key, value)| (&**key, &**value)).collect();
                self.reach.put(&key(item), &own, &parents, &self.index);
                self.items.insert(item, (labels, parents));
            }
            Step::Remove(item) => {
                self.reach.remove(&key(item));
                self.items.remove(item);
            }
            Step::Parent(parent, labels) => {
                self.index.set_parent_labels(parent, &labels);
                self.reach.relabel(parent, &self.index);
                self.parents.insert(parent.to_owned(), labels);
            }
            Step::File(selector, policy) => {
                if let Some((_, number)) = self.policies.remove(&policy) {
                    self.reach.unfile(number, policy);
                }
                let number = self.reach.file(selector, policy);
                prop_assert!(self.reach.is(number, selector));
                self.policies.insert(policy, (selector, number));
            }
            Step::Unfile(policy) => {
                if let Some((_, number)) = self.policies.remove(&policy) {
                    self.reach.unfile(number, policy);
                }
            }
            Step::Touch(policy) => {
                let Some(&(_, number)) = self.policies.get(&policy) else { return Ok(()) };
                self.changed()?;
                self.reach.touch(number);
                let touched = self.reach.take_changed();
                for &item in ITEMS {
                    let selected = self.expected(item).contains(&policy);
                    prop_assert_eq!(touched.contains(&key(item)), selected, "{}", item);
                }
            }
            Step::Take => self.changed()?,
        }
        for &item in ITEMS {
            prop_assert_eq!(self.found(item), self.expected(item), "{}", item);
        }
        Ok(())
    }

    /// Whatever has changed was noted.
    fn changed(&mut self) -> Result<(), TestCaseError> {
        let noted = self.reach.take_changed();
        for &item in ITEMS {
            let now = self.expected(item);
            let before = self.known.insert(item, now.clone()).unwrap_or_default();
            prop_assert!(before == now || noted.contains(&key(item)), "{}", item);
        }
        Ok(())
    }

    fn found(&self, item: &str) -> BTreeSet<u32> {
        let selectors = self.reach.matches(&key(item)).iter();
        selectors.flat_map(|&selector| self.reach.policies(selector)).collect()
    }

    fn expected(&self, item: &str) -> BTreeSet<u32> {
        let Some((own, parents)) = self.items.get(item) else { return BTreeSet::new() };
        let mut effective = own.clone();
        for (key, value) in parents.iter().filter_map(|parent| self.parents.get(parent)).flatten() {
            effective.entry(key.clone()).or_insert_with(|| value.clone());
        }
        let matching = self.policies.iter().filter(|(_, (selector, _))| parse(selector).unwrap().matches(&effective));
        matching.map(|(&policy, _)| policy).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn items_have_the_policies_whose_selectors_select_them(steps in prop::collection::vec(step(), 1..40)) {
        let mut pair = Pair::default();
        for step in steps {
            pair.take(step)?;
        }
        pair.changed()?;
    }

    /// When all is gone, so is the memory for it.
    #[test]
    fn nothing_is_left_behind(steps in prop::collection::vec(step(), 1..40)) {
        let mut pair = Pair::default();
        for step in steps {
            pair.take(step)?;
        }
        for &item in ITEMS {
            pair.take(Step::Remove(item))?;
        }
        for &parent in PARENTS {
            pair.take(Step::Parent(parent, LabelMap::new()))?;
        }
        for policy in 0..6 {
            pair.take(Step::Unfile(policy))?;
        }
        let Reach { items, by_key, by_label, by_parent, selectors, by_text, by_clue, unbounded, .. } = &pair.reach;
        prop_assert_eq!([items.len(), by_key.len(), by_label.len(), by_parent.len()], [0; 4]);
        prop_assert_eq!([selectors.len(), by_text.len(), by_clue.len(), unbounded.len()], [0; 4]);
    }
}
