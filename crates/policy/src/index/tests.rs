#![allow(clippy::unwrap_used)]

use calico_selector::parse;
use proptest::{prelude::*, sample::select};

use super::*;

type LabelMap = BTreeMap<String, String>;

/// One call of the index.
#[derive(Clone, Debug)]
enum Step {
    Put(&'static str, LabelMap, Vec<String>, Vec<IpNet>),
    Remove(&'static str),
    Parent(&'static str, LabelMap),
    Acquire(&'static str),
    Release(&'static str),
    Flush,
}

/// Selectors whose covers are of every form.
const SELECTORS: &[&str] = &[
    "all()",
    "has(a)",
    "a == '1'",
    "a in {'1', '2'} || b == '1'",
    "!has(a)",
    "a == '1' && has(b)",
    "b in {}",
    "a contains ''",
];
const ITEMS: &[&str] = &["i", "j", "k"];
const PARENTS: &[&str] = &["p", "q"];

fn labels() -> impl Strategy<Value = LabelMap> {
    let text = |choices: &'static [&'static str]| select(choices).prop_map(str::to_owned);
    prop::collection::btree_map(text(&["a", "b"]), text(&["", "1", "2"]), 0..3)
}

fn step() -> impl Strategy<Value = Step> {
    let nets = prop::collection::vec(select(&["10.0.0.1/32", "10.0.0.2/32", "fd00::1/128", "10.0.0.0/24"][..]), 0..3);
    let parents = prop::collection::vec(select(PARENTS).prop_map(str::to_owned), 0..3);
    prop_oneof![
        6 => (select(ITEMS), labels(), parents, nets).prop_map(|(item, labels, parents, nets)| {
            Step::Put(item, labels, parents, nets.iter().map(|net| net.parse().unwrap()).collect())
        }),
        1 => select(ITEMS).prop_map(Step::Remove),
        3 => (select(PARENTS), labels()).prop_map(|(parent, labels)| Step::Parent(parent, labels)),
        3 => select(SELECTORS).prop_map(Step::Acquire),
        2 => select(SELECTORS).prop_map(Step::Release),
        3 => Just(Step::Flush),
    ]
}

/// The index beside the plainest model of it.
#[derive(Default)]
struct Pair {
    index: Index,
    items: BTreeMap<&'static str, (LabelMap, Vec<String>, Vec<IpNet>)>,
    parents: BTreeMap<String, LabelMap>,
    handles: BTreeMap<&'static str, Vec<SetHandle>>,
    sent: BTreeMap<SetId, BTreeSet<IpNet>>,
}

impl Pair {
    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Put(item, labels, parents, nets) => {
                let pairs = labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
                self.index.put(item, pairs, &parents, &nets);
                self.items.insert(item, (labels, parents, nets));
            }
            Step::Remove(item) => {
                self.index.remove(item);
                self.items.remove(item);
            }
            Step::Parent(parent, labels) => {
                self.index.set_parent_labels(parent, &labels);
                self.parents.insert(parent.to_owned(), labels);
            }
            Step::Acquire(selector) => {
                let handle = self.index.acquire(&parse(selector).unwrap());
                self.handles.entry(selector).or_default().push(handle);
            }
            Step::Release(selector) => {
                if let Some(handle) = self.handles.get_mut(selector).and_then(Vec::pop) {
                    self.index.release(handle);
                }
            }
            Step::Flush => self.flush()?,
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), TestCaseError> {
        let changes = self.index.flush();
        for instruction in changes.updates.into_iter().chain(changes.removals) {
            match instruction {
                Instruction::SetReplace { id, members } => {
                    let Members::Nets(members) = members else { unreachable!() };
                    prop_assert!(self.sent.insert(id, members.into_iter().collect()).is_none(), "a set is made once");
                }
                Instruction::SetDelta { id, added: Members::Nets(added), removed: Members::Nets(removed) } => {
                    let members = self.sent.get_mut(&id).unwrap();
                    for net in removed {
                        prop_assert!(members.remove(&net));
                    }
                    for net in added {
                        prop_assert!(members.insert(net));
                    }
                }
                Instruction::SetRemove { id } => prop_assert!(self.sent.remove(&id).is_some()),
                other => return Err(TestCaseError::fail(format!("{other:?}"))),
            }
        }
        prop_assert_eq!(&self.sent, &self.expected());
        Ok(())
    }

    fn expected(&self) -> BTreeMap<SetId, BTreeSet<IpNet>> {
        let used = self
            .handles
            .iter()
            .filter(|(_, handles)| !handles.is_empty())
            .map(|(selector, _)| parse(selector).unwrap());
        let members = |selector: &Selector| {
            let selected =
                self.items.values().filter(|(labels, parents, _)| selector.matches(&self.effective(labels, parents)));
            selected.flat_map(|(_, _, nets)| nets).copied().collect()
        };
        used.map(|selector| (SetId(selector.unique_id()), members(&selector))).collect()
    }

    fn effective(&self, labels: &LabelMap, parents: &[String]) -> LabelMap {
        let mut effective = labels.clone();
        for (key, value) in parents.iter().filter_map(|parent| self.parents.get(parent)).flatten() {
            effective.entry(key.clone()).or_insert_with(|| value.clone());
        }
        effective
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sets_hold_what_their_selectors_select(steps in prop::collection::vec(step(), 1..40)) {
        let mut pair = Pair::default();
        for step in steps {
            pair.take(step)?;
        }
        pair.flush()?;
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
        for handle in std::mem::take(&mut pair.handles).into_values().flatten() {
            pair.index.release(handle);
        }
        pair.flush()?;
        prop_assert_eq!(pair.index.symbols.len(), 0);
        prop_assert_eq!(pair.index.classes.sizes(), (0, 0, 0));
        prop_assert_eq!(pair.index.items.sizes(), (0, 0, 0));
        prop_assert_eq!(pair.index.sets.sizes(), (0, 0, 0));
    }
}

/// Items that selectors cannot tell apart share one class, however many there are.
#[test]
fn equal_items_share_a_class() {
    let mut index = Index::default();
    for number in 0..100 {
        let net = IpNet::from(std::net::IpAddr::from([10, 0, 0, number]));
        index.put(&number.to_string(), [("role", "web")], &["p".to_owned()], &[net]);
    }
    assert_eq!(index.classes.sizes().0, 1);
    let handle = index.acquire(&parse("role == 'web'").unwrap());
    assert!(matches!(&index.flush().updates[..], [Instruction::SetReplace { members, .. }] if members.len() == 100));
    index.release(handle);
}
