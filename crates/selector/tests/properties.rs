//! The parser, the printer and the evaluator against a second, naive implementation over trees.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use calico_selector::{Clue, Cover, Layered, parse};
use proptest::prelude::*;

type LabelMap = BTreeMap<String, String>;

/// A selector as a tree, which prints itself with random blanks and parentheses and evaluates itself by recursion.
#[derive(Clone, Debug)]
enum Tree {
    All,
    Global,
    Has(String),
    Compare(String, &'static str, String),
    Member(String, bool, Vec<String>),
    Not(Box<Tree>),
    And(Vec<Tree>),
    Or(Vec<Tree>),
}

impl Tree {
    fn text(&self) -> String {
        match self {
            Tree::All => "all( )".into(),
            Tree::Global => "global()".into(),
            Tree::Has(key) => format!("has({key} )"),
            Tree::Compare(key, operator, value) => format!("{key} {operator} {}", quoted(value)),
            Tree::Member(key, wanted, set) => {
                let set: Vec<String> = set.iter().map(|value| quoted(value)).collect();
                format!("{key} {} {{ {} }}", if *wanted { "in" } else { "not  in" }, set.join(" ,"))
            }
            Tree::Not(tree) => format!("! ({})", tree.text()),
            Tree::And(trees) => joined(trees, "&&"),
            Tree::Or(trees) => joined(trees, "\t||"),
        }
    }

    fn holds(&self, labels: &LabelMap) -> bool {
        match self {
            Tree::All | Tree::Global => true,
            Tree::Has(key) => labels.contains_key(key),
            Tree::Compare(key, operator, wanted) => match (*operator, labels.get(key)) {
                ("==", value) => value == Some(wanted),
                ("!=", value) => value != Some(wanted),
                (_, None) => false,
                ("contains", Some(value)) => value.contains(wanted.as_str()),
                ("starts with", Some(value)) => value.starts_with(wanted.as_str()),
                ("ends with", Some(value)) => value.ends_with(wanted.as_str()),
                (other, _) => panic!("{other} is not generated"),
            },
            Tree::Member(key, wanted, set) => labels.get(key).is_some_and(|value| set.contains(value)) == *wanted,
            Tree::Not(tree) => !tree.holds(labels),
            Tree::And(trees) => trees.iter().all(|tree| tree.holds(labels)),
            Tree::Or(trees) => trees.iter().any(|tree| tree.holds(labels)),
        }
    }
}

fn joined(trees: &[Tree], operator: &str) -> String {
    trees.iter().map(|tree| format!("({})", tree.text())).collect::<Vec<_>>().join(operator)
}

fn quoted(value: &str) -> String {
    if value.contains('"') { format!("'{value}'") } else { format!("\"{value}\"") }
}

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "in", "has", "app.io/x-y_z"]).prop_map(str::to_owned)
}

fn value() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["", "x", "xy", "yx", "say \"hi\"", "it's", "größe", "a && b"]).prop_map(str::to_owned)
}

fn label_map() -> impl Strategy<Value = LabelMap> {
    prop::collection::btree_map(key(), value(), 0..5)
}

fn tree() -> impl Strategy<Value = Tree> {
    let operator = prop::sample::select(vec!["==", "!=", "contains", "starts with", "ends with"]);
    let leaf = prop_oneof![
        Just(Tree::All),
        Just(Tree::Global),
        key().prop_map(Tree::Has),
        (key(), operator, value()).prop_map(|(key, operator, value)| Tree::Compare(key, operator, value)),
        (key(), any::<bool>(), prop::collection::vec(value(), 0..4))
            .prop_map(|(key, wanted, set)| Tree::Member(key, wanted, set)),
    ];
    leaf.prop_recursive(5, 40, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|tree| Tree::Not(Box::new(tree))),
            prop::collection::vec(inner.clone(), 1..4).prop_map(Tree::And),
            prop::collection::vec(inner, 1..4).prop_map(Tree::Or),
        ]
    })
}

fn has_clue(labels: &LabelMap, clue: &Clue<'_>) -> bool {
    match clue {
        Clue::Has(key) => labels.contains_key(*key),
        Clue::Is(key, value) => labels.get(*key).is_some_and(|found| found == value),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn evaluation_equals_the_naive_one(tree in tree(), sets in prop::collection::vec(label_map(), 8)) {
        let selector = parse(&tree.text()).unwrap();
        let printed = parse(&selector.to_string()).unwrap();
        for labels in sets {
            let expected = tree.holds(&labels);
            prop_assert_eq!(selector.matches(&labels), expected, "{} over {:?}", selector, labels);
            prop_assert_eq!(printed.matches(&labels), expected, "{} over {:?}", printed, labels);
        }
    }

    /// Printing twice may still drop pairs of `!`; after that the text stands.
    #[test]
    fn printing_reaches_a_fixpoint(tree in tree()) {
        let mut text = parse(&tree.text()).unwrap().to_string();
        loop {
            let next = parse(&text).unwrap().to_string();
            if next == text {
                break;
            }
            prop_assert_eq!(next.replace('!', "").len(), text.replace('!', "").len(), "{} -> {}", text, next);
            prop_assert!(next.len() < text.len(), "{} -> {}", text, next);
            text = next;
        }
    }

    #[test]
    fn every_match_has_a_clue_of_the_cover(tree in tree(), labels in label_map(), dear in key()) {
        let selector = parse(&tree.text()).unwrap();
        let cost = |clue: &Clue<'_>| match clue {
            Clue::Has(key) | Clue::Is(key, _) if *key == dear => 1_000,
            Clue::Has(_) => 10,
            Clue::Is(..) => 1,
        };
        if let Cover::AnyOf(clues) = selector.cover(cost)
            && selector.matches(&labels)
        {
            prop_assert!(clues.iter().any(|clue| has_clue(&labels, clue)), "{selector}: {clues:?} over {labels:?}");
        }
    }

    #[test]
    fn layers_equal_their_merger(tree in tree(), own in label_map(), inherited in label_map()) {
        let selector = parse(&tree.text()).unwrap();
        let mut merged = inherited.clone();
        merged.extend(own.clone());
        prop_assert_eq!(selector.matches(&Layered(&[&own, &inherited])), selector.matches(&merged));
    }

    #[test]
    fn keys_are_those_of_the_text(tree in tree()) {
        let text = tree.text();
        for key in parse(&text).unwrap().keys() {
            prop_assert!(text.contains(key));
        }
    }

    /// Any text at all: no panic, and the span of an error can be underlined.
    #[test]
    fn garbage_is_refused_with_a_place(text in "[ab \\t!&|(){}='\"\u{e4}.,]*|.*") {
        if let Err(error) = parse(&text) {
            prop_assert!(text.get(error.span()).is_some(), "{:?}: {:?}", text, error);
            prop_assert!(!error.message().is_empty());
        }
    }
}
