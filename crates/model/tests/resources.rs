//! The resources as upstream's own client stores and refuses them: `vectors/resources.json`, by way of the strict
//! input, the defaults and the validation. Cases whose outcome depends on what is in the datastore already are left
//! to the tests of the commands.

#![allow(clippy::unwrap_used)]

use std::{env, fs, path::PathBuf};

use calico_model::{
    AnyResource, Invalid, ResourceKey, Revision,
    input::{self, InputError},
};
use serde_json::{Map, Value};

fn cases() -> Vec<Value> {
    let ours = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors"));
    let file = env::var_os("VECTORS").map_or_else(ours, PathBuf::from).join("resources.json");
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{} cannot be read: {error}", file.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{} is not JSON: {error}", file.display()))
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// What became of an input.
enum Outcome {
    Accepted(Vec<AnyResource>),
    /// With the paths of all faults, if they have any.
    Rejected(Vec<String>),
}

/// What a write does with its resources, short of writing them: all are read before anything is done with the first.
fn run(text: &str) -> Outcome {
    let Ok(documents) = input::documents(text) else { return Outcome::Rejected(Vec::new()) };
    let paths = |invalid: Invalid| invalid.faults.into_iter().map(|fault| fault.path).collect();
    let mut resources = Vec::new();
    for document in documents {
        match input::parse(document) {
            Ok(resource) => resources.push(resource),
            Err(InputError::Invalid(invalid)) => return Outcome::Rejected(paths(invalid)),
            Err(InputError::NoKind) => return Outcome::Rejected(vec!["kind".to_owned()]),
            Err(_) => return Outcome::Rejected(vec!["kind".to_owned(), "apiVersion".to_owned()]),
        }
    }
    for resource in &mut resources {
        if resource.key().kind.is_namespaced() {
            resource.metadata_mut().namespace.get_or_insert_with(|| "default".to_owned());
        }
        if let Err(invalid) = resource.prepare() {
            return Outcome::Rejected(paths(invalid));
        }
        resource.metadata_mut().stamp(time::OffsetDateTime::UNIX_EPOCH);
    }
    Outcome::Accepted(resources)
}

/// `spec.ingress[0].source.nets[1]` is `spec.ingress.source.nets`, as the vectors write paths.
fn without_indices(path: &str) -> String {
    let mut inside = false;
    let outside = |c: &char| {
        let skip = inside || *c == '[';
        inside = (inside || *c == '[') && *c != ']';
        !skip
    };
    path.chars().filter(outside).collect()
}

fn is_end_or_member(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('.')
}

/// True if the case is about something else than the resource itself: what exists, what may be changed, who may write.
fn depends_on_more_than_the_input(case: &Value) -> bool {
    let path = text(case, "/fault/path");
    let elsewhere = matches!(path, "spec.filters" | "spec.tier" | "metadata.resourceVersion");
    let of_kubernetes = text(case, "/input").contains("name: knp.default.");
    path.is_empty() || elsewhere || of_kubernetes || case.get("setup").is_some()
}

/// Compares with placeholders and with numbers by value.
fn same(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::String(expected), Value::String(found)) if expected.starts_with("<uid") => is_uuid(found),
        (Value::String(expected), Value::String(found)) if expected == "<time>" => is_time(found),
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

/// A placeholder is as good as what it stands for: stored objects are compared with themselves too.
fn is_uuid(text: &str) -> bool {
    text.starts_with("<uid") || text.split('-').map(str::len).eq([8, 4, 4, 4, 12])
}

fn is_time(text: &str) -> bool {
    text == "<time>" || (text.len() == 20 && text.ends_with('Z') && text.as_bytes()[10] == b'T')
}

#[test]
fn inputs_are_stored_or_refused_as_upstream_does() {
    let (mut accepted, mut rejected) = (0, 0);
    for case in cases() {
        let args: Vec<&str> = case["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        if !matches!(args[..], ["create" | "apply" | "replace" | "validate", "-f", "-"]) {
            continue;
        }
        let id = text(&case, "/id");
        let input = &with_a_revision(text(&case, "/input"));
        match (case["exit"].as_i64() == Some(0), run(input)) {
            (true, Outcome::Accepted(resources)) => {
                for resource in &resources {
                    check_stored(id, &case, resource);
                }
                accepted += 1;
            }
            (true, Outcome::Rejected(paths)) => panic!("{id}: refused because of {paths:?}:\n{input}"),
            (false, _) if depends_on_more_than_the_input(&case) => {}
            (false, Outcome::Accepted(_)) => panic!("{id}: accepted, but {}:\n{input}", case["fault"]),
            (false, Outcome::Rejected(paths)) => {
                let wanted = text(&case, "/fault/path");
                // Ours may point further down: at the member of the member.
                let at = |path: &String| without_indices(path).strip_prefix(wanted).is_some_and(is_end_or_member);
                let found = paths.iter().any(at);
                assert!(found, "{id}: the fault is {}, found {paths:?}", case["fault"]);
                rejected += 1;
            }
        }
    }
    println!("{accepted} inputs stored as upstream stores them, {rejected} refused for the right field");
    assert!(accepted >= 10 && rejected >= 10, "only {accepted} accepted and {rejected} rejected cases were run");
}

#[test]
fn what_upstream_applied_before_is_accepted() {
    let mut count = 0;
    for case in cases() {
        for step in case.get("setup").and_then(Value::as_array).into_iter().flatten() {
            let Some(input) = step.as_str() else { continue };
            if let Outcome::Rejected(paths) = run(input) {
                panic!("{}: refused because of {paths:?}:\n{input}", text(&case, "/id"));
            }
            count += 1;
        }
    }
    assert!(count >= 10, "only {count} inputs");
}

/// `<rv plural/name>` stands for a revision.
fn with_a_revision(input: &str) -> String {
    match input.split_once("<rv ").and_then(|(before, rest)| Some((before, rest.split_once('>')?.1))) {
        Some((before, after)) => format!("{before}7{after}"),
        None => input.to_owned(),
    }
}

fn check_stored(id: &str, case: &Value, resource: &AnyResource) {
    let key = resource.key().to_string();
    let found: Value = serde_json::from_slice(&resource.to_json()).unwrap();
    // What a write does to an object that is there already is decided by the commands, but for the spec.
    let stands_alone = case.get("setup").is_none();
    let Some(expected) = case["etcd"].get(&key) else {
        assert!(!stands_alone || text(case, "/args/0") == "validate", "{id}: upstream writes no {key}");
        return;
    };
    let equal = if stands_alone { same(expected, &found) } else { same(&expected["spec"], &found["spec"]) };
    assert!(equal, "{id}: {key}\nexpected {expected}\nfound    {found}");
}

/// All stored objects of the vectors whose kind the model knows.
fn stored() -> Vec<(ResourceKey, Value)> {
    let mut found = Vec::new();
    for case in cases() {
        let setup = case.get("setup").and_then(Value::as_array).into_iter().flatten();
        let puts = setup.filter_map(|step| step.get("put").cloned());
        for map in puts.chain([case["etcd"].clone()]) {
            for (key, value) in map.as_object().into_iter().flatten() {
                if let Ok(key) = key.parse::<ResourceKey>()
                    && value.is_object()
                {
                    found.push((key, value.clone()));
                }
            }
        }
    }
    found
}

fn rewritten(key: &ResourceKey, value: &Value) -> Value {
    let bytes = serde_json::to_vec(value).unwrap();
    let read = AnyResource::decode(key, &bytes, Revision(1)).unwrap_or_else(|error| panic!("{error}: {value}"));
    serde_json::from_slice(&read.to_json()).unwrap()
}

/// Nulls are the same as absent members, and `resourceVersion` is never stored.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(key, value)| !value.is_null() && *key != "resourceVersion");
            Value::Object(kept.map(|(key, value)| (key.clone(), plain(value))).collect())
        }
        Value::Array(items) => items.iter().map(plain).collect(),
        other => other.clone(),
    }
}

#[test]
fn what_upstream_stored_is_read_and_written_back_unchanged() {
    let stored = stored();
    for (key, value) in &stored {
        let found = rewritten(key, value);
        // Policies of older releases are written under the name that they have now.
        if key.name != found["metadata"]["name"] {
            assert_eq!(key.name, format!("default.{}", text(&found, "/metadata/name")));
            continue;
        }
        assert!(same(&plain(value), &plain(&found)), "{key}\nstored  {value}\nwritten {found}");
    }
    assert!(stored.len() >= 20, "only {} stored objects", stored.len());
}

#[test]
fn what_upstream_stored_can_be_used() {
    for (key, value) in stored() {
        let bytes = serde_json::to_vec(&value).unwrap();
        if let Err(error) = AnyResource::decode_valid(&key, &bytes, Revision(1)) {
            panic!("{error}: {value}");
        }
    }
}

/// Puts a member that nobody knows into every object but the maps of labels and the like.
fn with_unknown_members(value: &mut Value, at: &str) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                with_unknown_members(value, key);
            }
            if !["labels", "annotations", "labelsToApply", "icmp", "notICMP"].contains(&at) {
                let unknown = Map::from_iter([("deep".to_owned(), Value::from(vec![1, 2]))]);
                map.insert("someday".to_owned(), Value::Object(unknown));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| with_unknown_members(item, at)),
        _ => {}
    }
}

#[test]
fn unknown_members_survive_reading_and_writing() {
    let mut kinds = Vec::new();
    for (key, mut value) in stored() {
        with_unknown_members(&mut value, "");
        let found = rewritten(&key, &value);
        if key.name != found["metadata"]["name"] {
            continue;
        }
        assert!(same(&plain(&value), &plain(&found)), "{key}\nstored  {value}\nwritten {found}");
        if !kinds.contains(&key.kind) {
            kinds.push(key.kind);
        }
    }
    assert!(kinds.len() >= 6, "only {kinds:?}");
}

#[test]
fn stored_objects_are_read_as_go_reads_them() {
    let key: ResourceKey = "/calico/resources/v3/projectcalico.org/ippools/p".parse().unwrap();
    let json = r#"{"Kind":"IPPool","apiversion":"projectcalico.org/v3","metadata":{"name":"p","creationTimestamp":null,
        "labels":null},"spec":{"CIDR":"10.0.0.0/8","natOutgoing":null,"nodeSelector":null,"allowedUses":null,"new":1}}"#;
    let AnyResource::IPPool(pool) = AnyResource::decode_valid(&key, json.as_bytes(), Revision(5)).unwrap() else {
        panic!("a pool was stored")
    };
    assert_eq!(pool.spec.cidr.to_string(), "10.0.0.0/8");
    assert_eq!(pool.spec.extra["new"], 1);
    assert_eq!(pool.revision, Some(Revision(5)));
    // A policy whose selector were overlooked would be one for everything.
    let key: ResourceKey = "/calico/resources/v3/projectcalico.org/globalnetworkpolicies/p".parse().unwrap();
    let json = r#"{"metadata":{"name":"p"},"spec":{"Selector":"a == 'b'","ingress":[{"Action":"Deny"}],"new":1}}"#;
    let AnyResource::GlobalNetworkPolicy(policy) =
        AnyResource::decode_valid(&key, json.as_bytes(), Revision(5)).unwrap()
    else {
        panic!("a policy was stored")
    };
    assert_eq!((policy.spec.selector.as_str(), policy.spec.ingress[0].action.as_str()), ("a == 'b'", "Deny"));
    assert_eq!(policy.spec.extra["new"], 1);
}
