#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use calico_selector::{Labels, parse};
use proptest::{prelude::*, sample::select};

use super::*;
use crate::instruction::Members;

type LabelMap = BTreeMap<String, String>;
type OwnedPort = (&'static str, u8, u16);
type OwnedFilter = Option<(&'static str, Option<u8>)>;
type Asked = (&'static str, OwnedFilter);

/// What an item is put with.
#[derive(Clone, Debug)]
struct Put {
    labels: LabelMap,
    parents: Vec<String>,
    nets: Vec<IpNet>,
    ports: Vec<OwnedPort>,
}

/// One call of the index.
#[derive(Clone, Debug)]
enum Step {
    Put(&'static str, Put),
    Remove(&'static str),
    Parent(&'static str, LabelMap),
    Acquire(Asked),
    Release(Asked),
    Flush,
}

/// Selectors whose covers are of every form; the last two are one selector in two spellings.
const SELECTORS: &[&str] = &[
    "all()",
    "has(a)",
    "a == '1'",
    "a in {'1', '2'} || b == '1'",
    "!has(a)",
    "a == '1' && has(b)",
    "b in {}",
    "a contains ''",
    "has(c) || c == 'x'",
    "c != '1' && a not in {'2', ''}",
    "c ends with '2'",
    "has(b)&&has(a)",
    "(has(b) && has(a))",
];
const FILTERS: &[OwnedFilter] =
    &[None, None, None, Some(("http", Some(6))), Some(("http", None)), Some(("dns", Some(17)))];
const PORTS: &[OwnedPort] = &[("http", 6, 80), ("http", 6, 8080), ("http", 17, 80), ("dns", 17, 53)];
const ITEMS: &[&str] = &["i", "j", "k"];
const PARENTS: &[&str] = &["p", "q"];
const NETS: &[&str] = &["10.0.0.1/32", "10.0.0.2/32", "fd00::1/128", "10.0.0.0/24"];

fn labels() -> impl Strategy<Value = LabelMap> {
    let text = |choices: &'static [&'static str]| select(choices).prop_map(str::to_owned);
    prop::collection::btree_map(text(&["a", "b", "c"]), text(&["", "1", "2"]), 0..3)
}

fn put() -> impl Strategy<Value = Put> {
    let nets = prop::collection::vec(select(NETS).prop_map(|net| net.parse().unwrap()), 0..3);
    let parents = prop::collection::vec(select(PARENTS).prop_map(str::to_owned), 0..3);
    let ports = prop::collection::vec(select(PORTS), 0..3);
    (labels(), parents, nets, ports).prop_map(|(labels, parents, nets, ports)| Put { labels, parents, nets, ports })
}

fn step() -> impl Strategy<Value = Step> {
    let asked = || (select(SELECTORS), select(FILTERS));
    prop_oneof![
        6 => (select(ITEMS), put()).prop_map(|(item, put)| Step::Put(item, put)),
        1 => select(ITEMS).prop_map(Step::Remove),
        3 => (select(PARENTS), labels()).prop_map(|(parent, labels)| Step::Parent(parent, labels)),
        3 => asked().prop_map(Step::Acquire),
        2 => asked().prop_map(Step::Release),
        3 => Just(Step::Flush),
    ]
}

/// The index beside the plainest model of it.
#[derive(Default)]
struct Pair {
    index: Index,
    items: BTreeMap<&'static str, Put>,
    parents: BTreeMap<String, LabelMap>,
    handles: BTreeMap<Asked, Vec<SetHandle>>,
    sent: BTreeMap<SetId, BTreeSet<Member>>,
}

fn filter(filter: OwnedFilter) -> Option<PortFilter<'static>> {
    filter.map(|(name, protocol)| PortFilter { name, protocol })
}

impl Pair {
    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Put(item, put) => {
                let pairs = put.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
                let ports: Vec<NamedPort<'_>> =
                    put.ports.iter().map(|&(name, protocol, port)| NamedPort { name, protocol, port }).collect();
                self.index.put(item.to_owned(), pairs, &put.parents, put.nets.iter().copied(), &ports);
                self.items.insert(item, put);
            }
            Step::Remove(item) => {
                self.index.remove(item);
                self.items.remove(item);
            }
            Step::Parent(parent, labels) => {
                self.index.set_parent_labels(parent, &labels);
                self.parents.insert(parent.to_owned(), labels);
            }
            Step::Acquire(asked) => {
                let handle = self.index.acquire(asked.0, filter(asked.1));
                self.handles.entry(asked).or_default().push(handle);
            }
            Step::Release(asked) => {
                if let Some(handle) = self.handles.get_mut(&asked).and_then(Vec::pop) {
                    self.index.release(handle);
                }
            }
            Step::Flush => self.flush()?,
        }
        self.check_classes()
    }

    fn flush(&mut self) -> Result<(), TestCaseError> {
        let changes = self.index.flush();
        for instruction in changes.updates.into_iter().chain(changes.removals) {
            match instruction {
                Instruction::SetReplace { id, members } => {
                    let len = members.len();
                    let members: BTreeSet<Member> = plain(members).into_iter().collect();
                    prop_assert_eq!(members.len(), len, "without repeats");
                    prop_assert!(self.sent.insert(id, members).is_none(), "a set is made once");
                }
                Instruction::SetDelta { id, added, removed } => {
                    let members = self.sent.get_mut(&id).unwrap();
                    for member in plain(removed) {
                        prop_assert!(members.remove(&member));
                    }
                    for member in plain(added) {
                        prop_assert!(members.insert(member));
                    }
                }
                Instruction::SetRemove { id } => prop_assert!(self.sent.remove(&id).is_some()),
                other => return Err(TestCaseError::fail(format!("{other:?}"))),
            }
        }
        prop_assert_eq!(&self.sent, &self.expected());
        Ok(())
    }

    /// The members of every set in use, by looking at everything.
    fn expected(&self) -> BTreeMap<SetId, BTreeSet<Member>> {
        let mut expected = BTreeMap::new();
        for ((text, filter), _) in self.handles.iter().filter(|(_, handles)| !handles.is_empty()) {
            let selector = parse(text).unwrap();
            let id = match filter {
                None => selector.unique_id(),
                Some((name, protocol)) => {
                    let protocol = protocol.map_or("any", |protocol| if protocol == 6 { "tcp" } else { "udp" });
                    set_id::of_named_port(&selector.unique_id(), protocol, name)
                }
            };
            let selected = self.items.values().filter(|put| selector.matches(&self.effective(put)));
            let members: BTreeSet<Member> = selected.flat_map(|put| expected_of(put, *filter)).collect();
            expected.insert(SetId(id), members);
        }
        expected
    }

    fn effective(&self, put: &Put) -> LabelMap {
        let mut effective = put.labels.clone();
        for (key, value) in put.parents.iter().filter_map(|parent| self.parents.get(parent)).flatten() {
            effective.entry(key.clone()).or_insert_with(|| value.clone());
        }
        effective
    }

    /// Every item stands in the class of its hot labels, and the class knows its sets.
    fn check_classes(&self) -> Result<(), TestCaseError> {
        for (name, put) in &self.items {
            let item = self.index.items.find(name).unwrap();
            let class = self.index.items.class(item);
            prop_assert!(self.index.items.from(self.index.classes.first(class)).any(|other| other == item));
            let effective = self.effective(put);
            let hot = classes::Hot {
                labels: self.index.classes.labels(class),
                keys: &self.index.keys,
                symbols: &self.index.symbols,
            };
            for key in ["a", "b", "c"] {
                let state = self.index.keys.find(key).map(|key| self.index.keys.get(key)).filter(|state| state.hot);
                let expected = state.and_then(|state| Some(state.told_apart(effective.get(key)?)));
                prop_assert_eq!(Labels::get(&hot, key), expected);
            }
            for &set in &*self.index.lists.get(self.index.classes.matches(class)) {
                let state = self.index.sets.get(set);
                prop_assert!(state.classes.iter().any(|other| other == class));
                prop_assert!(state.selector.matches(&effective));
            }
        }
        Ok(())
    }

    /// How much memory is in use, as numbers of entries.
    fn sizes(&self) -> Vec<usize> {
        let index = &self.index;
        let (classes, items, sets) = (index.classes.sizes(), index.items.sizes(), index.sets.sizes());
        let mut sizes = vec![index.symbols.len(), index.keys.len(), index.parents.len(), index.lists.len()];
        sizes.extend([classes.0, classes.1, classes.2, items.0, items.1, items.2, sets.0, sets.1, sets.2]);
        sizes
    }
}

fn plain(members: Members) -> Vec<Member> {
    match members {
        Members::Nets(nets) => nets.into_iter().map(Member::Net).collect(),
        Members::Ports(ports) => ports.into_iter().map(Member::Port).collect(),
    }
}

fn expected_of(put: &Put, filter: OwnedFilter) -> Vec<Member> {
    let Some((name, protocol)) = filter else { return put.nets.iter().copied().map(Member::Net).collect() };
    let mut members = Vec::new();
    for net in put.nets.iter().filter(|net| net.prefix_len() == net.max_prefix_len()) {
        for port in put.ports.iter().filter(|port| port.0 == name && protocol.is_none_or(|protocol| protocol == port.1))
        {
            members.push(Member::Port(PortMember { address: net.addr(), protocol: port.1, port: port.2 }));
        }
    }
    members
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

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
        prop_assert!(pair.sizes().iter().all(|&size| size == 0), "{:?}", pair.sizes());
    }
}

fn numbered(index: &mut Index, number: u8, labels: &[(&str, &str)]) {
    let net = IpNet::from(std::net::IpAddr::from([10, 0, 0, number]));
    let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
    index.put(number.to_string(), labels, &["p".to_owned()], [net], &[]);
}

/// Items that selectors cannot tell apart share one class, however many there are and whatever else they have.
#[test]
fn only_labels_that_are_asked_for_make_classes() {
    let mut index = Index::default();
    for number in 0..100 {
        numbered(&mut index, number, &[("role", if number < 50 { "web" } else { "db" }), ("id", &number.to_string())]);
    }
    assert_eq!(index.classes.sizes().0, 1);
    let handle = index.acquire("role == 'web'", None);
    assert_eq!(index.classes.sizes().0, 2);
    assert!(matches!(&index.flush().updates[..], [Instruction::SetReplace { members, .. }] if members.len() == 50));
    index.release(handle);
}

/// A key splits the items into very many classes only while somebody looks at all of its values.
#[test]
fn a_key_cools_down() {
    let mut index = Index::default();
    for number in 0..=255 {
        numbered(&mut index, number, &[("id", &number.to_string())]);
    }
    let one = index.acquire("id == '7'", None);
    assert_eq!(index.classes.sizes().0, 2);
    let all = index.acquire("id starts with '25'", None);
    assert_eq!(index.classes.sizes().0, 256);
    assert_eq!(index.flush().updates.len(), 2);
    index.release(all);
    assert_eq!(index.flush().removals.len(), 1);
    assert_eq!(index.classes.sizes().0, 2);
    index.release(one);
    assert_eq!(index.flush().removals.len(), 1);
    assert_eq!(index.classes.sizes().0, 1);
}

/// Two spellings are one set, and a text in use is not parsed again.
#[test]
fn spellings_share_a_set() {
    let mut index = Index::default();
    let (one, two) = (index.acquire("has(b)&&has(a)", None), index.acquire("(has(b) && has(a))", None));
    assert_eq!(index.id(&one), index.id(&two));
    index.release(one);
    assert_eq!(index.flush().updates.len(), 1);
    index.release(two);
    assert_eq!(index.flush().removals.len(), 1);
}
