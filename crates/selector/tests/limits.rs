//! Depth, length, and the words of errors.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use calico_selector::{Clue, Cover, MAX_KEY_BYTES, parse};

/// Deep enough that anything recursive would overflow the stack of a test thread (2 MiB).
const DEEP: usize = 200_000;

#[test]
fn depth_costs_no_stack() {
    let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let parentheses = format!("{}has(a){}", "(".repeat(DEEP), ")".repeat(DEEP));
    let negations = format!("{}has(a){}", "!(".repeat(DEEP), ")".repeat(DEEP));
    let lists = format!("{}has(a){}", "has(a) && (has(b) || (".repeat(DEEP), "))".repeat(DEEP));
    for text in [&parentheses, &negations, &lists] {
        let selector = parse(text).unwrap();
        assert!(selector.matches(&labels));
        assert!(matches!(selector.cover(|_| 1), Cover::AnyOf(clues) if clues.len() == 1));
        let printed = selector.to_string();
        drop(selector);
        assert!(parse(&printed).unwrap().matches(&labels));
    }
    assert_eq!(parse(&parentheses).unwrap().to_string(), "has(a)");
}

#[test]
fn keys_end_at_512_bytes() {
    let key = "k".repeat(MAX_KEY_BYTES);
    assert!(parse(&format!("has({key}) && {key} == ''")).is_ok());
    for text in [format!("has({key}k)"), format!("{key}k in {{}}")] {
        assert!(parse(&text).unwrap_err().message().contains("513 bytes"), "{text}");
    }
}

#[test]
fn errors_name_the_place_and_the_way_out() {
    for (text, place, words) in [
        ("role = 'web'", "=", "\"equal\" is written =="),
        ("has(a) and has(b)", "and", "found \"and\" where &&, || or the end of the selector should stand"),
        ("has(a) & has(b)", "&", "\"and\" is written &&"),
        ("(has(a) || (has(b))", "(", "this parenthesis is never closed"),
        ("has(a))", ")", "this parenthesis closes nothing"),
        ("a == \"b", "\"", "this quote is never closed (there are no escapes)"),
        ("a in {'b'", "{", "this brace is never closed"),
        ("a == ", "", "the selector ends where a string in quotes should stand"),
        ("größe == ''", "ö", "found \"ö\" where ==, !=, in, not in, contains, starts with or ends with should stand"),
        ("has(a", "has(", "this call is never closed"),
        ("()", ")", "found \")\" where a label key, a function or ( should stand"),
    ] {
        let error = parse(text).unwrap_err();
        assert_eq!((&text[error.span()], error.message()), (place, words), "{text}");
    }
}

#[test]
fn covers_take_the_cheapest_side() {
    let cover = |text: &str| -> Vec<String> {
        match parse(text).unwrap().cover(|clue| if matches!(clue, Clue::Is(..)) { 1 } else { 10 }) {
            Cover::Everything => vec!["everything".into()],
            Cover::AnyOf(clues) => clues.iter().map(|clue| format!("{clue:?}")).collect(),
        }
    };
    assert_eq!(cover("has(a) && b == 'x' && c != 'y'"), ["Is(\"b\", \"x\")"]);
    assert_eq!(cover("a in {'x', 'y'} || has(b)"), ["Is(\"a\", \"x\")", "Is(\"a\", \"y\")", "Has(\"b\")"]);
    assert_eq!(cover("!(a != 'x' || !has(b))"), ["Is(\"a\", \"x\")"]);
    assert_eq!(cover("a in {}"), [""; 0]);
    assert_eq!(cover("!has(a)"), ["everything"]);
}

#[test]
fn parts_cannot_escape_their_parentheses() {
    use calico_selector::scope::{EntitySelectors, PolicySelectors};
    let escape = "has(a)) || (has(b)";
    assert!(EntitySelectors { selector: "all()", not_selector: escape, ..Default::default() }.combine().is_err());
    assert!(EntitySelectors { selector: escape, not_selector: "all()", ..Default::default() }.combine().is_err());
    assert!(PolicySelectors { namespace: Some("n"), selector: escape, ..Default::default() }.combine().is_err());
}

#[test]
fn parts_that_upstream_drops_are_refused() {
    use calico_selector::scope::EntitySelectors;
    let names = ["it's".to_owned()];
    let quoted = EntitySelectors { service_account_names: &names, ..Default::default() };
    assert!(quoted.combine().unwrap_err().to_string().contains("it's"));
    let unreadable = EntitySelectors { selector: "has(a)", namespace_selector: "has(", ..Default::default() };
    assert!(unreadable.combine().unwrap_err().to_string().starts_with("namespaceSelector: "));
}
