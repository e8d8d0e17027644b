//! The language as upstream's library has it: every line of `selectors.json`.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs, path::PathBuf};

use calico_selector::{
    Selector, parse,
    scope::{EntitySelectors, PolicySelectors},
    set_id,
};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct File {
    labels: Vec<BTreeMap<String, String>>,
    vectors: Vec<Vector>,
    set_ids: Vec<SetIdCase>,
    combine: Vec<CombineCase>,
}

#[derive(Deserialize)]
struct Vector {
    expr: String,
    ok: bool,
    canonical: Option<String>,
    unique_id: Option<String>,
    matches: Option<Vec<usize>>,
    recanonical: Option<String>,
}

#[derive(Deserialize)]
struct SetIdCase {
    selector: Option<String>,
    canonical: Option<String>,
    id: Option<String>,
    protocol: Option<String>,
    port: Option<String>,
    service: Option<String>,
    service_ports: Option<bool>,
    sets: Option<BTreeMap<String, Vec<NamedSet>>>,
}

#[derive(Deserialize)]
struct NamedSet {
    id: String,
    canonical: String,
    protocol: Option<String>,
    port: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct CombineCase {
    namespace: Option<String>,
    part: String,
    selector: String,
    not_selector: String,
    namespace_selector: String,
    service_account_selector: String,
    service_accounts: Option<Accounts>,
    result: String,
    parses: bool,
    canonical: Option<String>,
    #[serde(rename = "unique_id")]
    unique_id: Option<String>,
    sets: Option<Vec<NamedSet>>,
    #[serde(rename = "not_sets")]
    not_sets: Option<Vec<NamedSet>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Accounts {
    names: Vec<String>,
    selector: String,
}

fn file() -> File {
    let folder = std::env::var_os("VECTORS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors")), PathBuf::from);
    let path = folder.join("selectors.json");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let value: Value = serde_json::from_str(&text).unwrap();
    serde_json::from_value(value).unwrap()
}

#[test]
fn parsing_printing_and_matching() {
    let File { labels, vectors, .. } = file();
    assert!(!vectors.is_empty());
    for vector in vectors {
        let expr = &vector.expr;
        let parsed = parse(expr);
        assert_eq!(parsed.is_ok(), vector.ok, "{expr:?}: {parsed:?}");
        let Ok(selector) = parsed else {
            let error = parsed.unwrap_err();
            assert!(expr.get(error.span()).is_some(), "{expr:?}: span {:?} is no part of it", error.span());
            continue;
        };
        let canonical = vector.canonical.unwrap();
        assert_eq!(selector.to_string(), canonical, "{expr:?}");
        assert_eq!(selector.unique_id(), vector.unique_id.unwrap(), "{expr:?}");
        let again = parse(&canonical).unwrap();
        assert_eq!(again.to_string(), vector.recanonical.unwrap_or(canonical), "{expr:?}");
        let matched = |selector: &Selector| -> Vec<usize> {
            labels.iter().enumerate().filter(|(_, labels)| selector.matches(labels)).map(|(at, _)| at).collect()
        };
        let expected = vector.matches.unwrap_or_default();
        assert_eq!(matched(&selector), expected, "{expr:?}");
        assert_eq!(matched(&again), expected, "{expr:?}, printed and parsed");
    }
}

#[test]
fn names_of_sets() {
    let named = |canonical: &str, protocol: Option<&str>, port: Option<&str>| match (protocol, port) {
        (Some(protocol), Some(port)) => set_id::of_named_port(&set_id::of_canonical(canonical), protocol, port),
        _ => set_id::of_canonical(canonical),
    };
    let cases = file().set_ids;
    assert!(!cases.is_empty());
    for case in cases {
        if let Some(selector) = &case.selector {
            let canonical = parse(selector).unwrap().to_string();
            assert_eq!(Some(&canonical), case.canonical.as_ref(), "{selector:?}");
            let id = named(&canonical, case.protocol.as_deref(), case.port.as_deref());
            assert_eq!(Some(id), case.id, "{selector:?}");
        } else if let Some((namespace, name)) = case.service.as_ref().and_then(|service| service.split_once('/')) {
            let id = set_id::of_service(namespace, name, case.service_ports.unwrap());
            assert_eq!(Some(id), case.id, "{namespace}/{name}");
        }
        for set in case.sets.into_iter().flat_map(BTreeMap::into_values).flatten() {
            assert_eq!(named(&set.canonical, set.protocol.as_deref(), set.port.as_deref()), set.id);
        }
    }
}

#[test]
fn selectors_of_resources() {
    let cases = file().combine;
    assert!(!cases.is_empty());
    for case in cases {
        if case.part == "policy" {
            check_policy(&case);
        } else {
            check_entity(&case);
        }
    }
}

fn check_policy(case: &CombineCase) {
    let combined = PolicySelectors {
        namespace: case.namespace.as_deref(),
        selector: &case.selector,
        namespace_selector: &case.namespace_selector,
        service_account_selector: &case.service_account_selector,
    }
    .combine()
    .unwrap();
    assert_eq!(combined, case.result);
    let parsed = parse(&combined);
    assert_eq!(parsed.is_ok(), case.parses, "{combined:?}");
    if let Ok(selector) = parsed {
        assert_eq!(Some(selector.to_string()), case.canonical);
        assert_eq!(Some(selector.unique_id()), case.unique_id);
    }
}

fn check_entity(case: &CombineCase) {
    let accounts = case.service_accounts.as_ref();
    let selectors = EntitySelectors {
        namespace: case.namespace.as_deref(),
        selector: &case.selector,
        not_selector: &case.not_selector,
        namespace_selector: &case.namespace_selector,
        service_account_names: accounts.map_or(&[], |accounts| &accounts.names),
        service_account_selector: accounts.map_or("", |accounts| &accounts.selector),
    };
    assert_eq!(selectors.combine_positive().unwrap(), case.result);
    let both = selectors.combine().unwrap();
    let parts = [(both.positive, &case.sets), (both.negative, &case.not_sets)];
    let parses = parts.iter().filter_map(|(text, _)| text.as_deref()).all(|text| parse(text).is_ok());
    assert_eq!(parses, case.parses, "{:?}", case.result);
    if !parses {
        return;
    }
    for (text, sets) in parts {
        let found: Vec<(String, String)> = text
            .map(|text| parse(&text).unwrap())
            .map(|selector| (selector.to_string(), selector.unique_id()))
            .into_iter()
            .collect();
        let expected: Vec<_> = sets.iter().flatten().map(|set| (set.canonical.clone(), set.id.clone())).collect();
        assert_eq!(found, expected, "{:?}", case.result);
    }
}
