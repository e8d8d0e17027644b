//! The cases of `vectors/resources.json`, and comparing what ours left and said with what a case holds. Used by the
//! commands' own tests on the in-memory datastore and by the test of the program on etcd.

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs, dead_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;

const PREFIX: &str = "/calico/resources/v3/projectcalico.org/";

/// One case of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub id: String,
    pub kind: String,
    pub category: String,
    #[serde(default)]
    pub fresh: bool,
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    #[serde(default)]
    pub setup: Vec<Value>,
    pub args: Vec<String>,
    #[serde(default)]
    pub input: String,
    pub exit: i32,
    pub outcome: String,
    #[serde(default)]
    pub fault: Option<Fault>,
    #[serde(default)]
    pub note: Option<String>,
    pub etcd: BTreeMap<String, Value>,
    #[serde(default)]
    pub stdout_form: Option<String>,
    #[serde(default)]
    pub stdout: Value,
    #[serde(default)]
    pub says: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Fault {
    #[serde(default)]
    pub path: String,
    pub why: String,
    #[serde(default)]
    pub named: Vec<String>,
}

/// What a command did.
pub struct Answer {
    pub failed: bool,
    pub stdout: String,
    pub stderr: String,
}

fn folder() -> PathBuf {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors");
    std::env::var_os("VECTORS").map_or_else(|| PathBuf::from(own), PathBuf::from)
}

/// All cases of the folder that `VECTORS` names, or of the repository's own; those whose names hold `VECTOR`, if it is
/// set.
pub fn cases() -> Vec<Case> {
    let path = folder().join("resources.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut cases: Vec<Case> =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if let Ok(only) = std::env::var("VECTOR") {
        cases.retain(|case| case.id.contains(&only));
    }
    assert!(!cases.is_empty(), "{} holds no case", path.display());
    cases
}

/// A command line, with files in `directory`.
pub fn command_line(words: &[String], directory: &Path) -> Vec<OsString> {
    let mut file_follows = false;
    let word = |word: &String| {
        let is_file = std::mem::replace(&mut file_follows, word == "-f") && word != "-";
        if is_file { directory.join(word).into() } else { word.into() }
    };
    words.iter().map(word).collect()
}

/// Writes the files of a case.
pub fn write_files(case: &Case, directory: &Path) {
    for (name, text) in &case.files {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

/// What etcd holds, as JSON; what is none as a text.
pub fn contents(entries: impl IntoIterator<Item = (String, Vec<u8>)>) -> BTreeMap<String, Value> {
    let value = |bytes: &[u8]| {
        serde_json::from_slice(bytes).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(bytes).into_owned()))
    };
    entries.into_iter().map(|(key, bytes)| (key, value(&bytes))).collect()
}

/// The keys whose revisions a text asks for: `<rv plural/name>`, and where in the text.
pub fn revision_wanted(text: &str) -> Option<(std::ops::RangeInclusive<usize>, String)> {
    let start = text.find("<rv ")?;
    let end = start + text[start..].find('>').unwrap();
    Some((start..=end, format!("{PREFIX}{}", &text[start + 4..end])))
}

/// How what ours did differs from a case.
pub fn differences(
    case: &Case,
    before: &BTreeMap<String, Value>,
    after: &BTreeMap<String, Value>,
    answer: &Answer,
) -> Vec<String> {
    if refused_as_a_whole(case, before, after, answer) {
        return Vec::new();
    }
    let mut found = Vec::new();
    if answer.failed != (case.exit != 0) {
        found.push(format!("failed: {}, not {}: {}{}", answer.failed, case.exit != 0, answer.stdout, answer.stderr));
    }
    if answer.failed && answer.stderr.trim().is_empty() {
        found.push("it failed without a word".to_owned());
    }
    compare_etcd(case, before, after, &mut found);
    compare_stdout(case, answer, &mut found);
    compare_fault(case, answer, &mut found);
    found
}

/// On purpose (see `vectors/DIFFERENCES.md`): where upstream writes the good ones of several resources and refuses the
/// invalid ones, ours refuses all of them and says so.
fn refused_as_a_whole(
    case: &Case,
    before: &BTreeMap<String, Value>,
    after: &BTreeMap<String, Value>,
    answer: &Answer,
) -> bool {
    let is_initial = |key: &&String| key.contains("/tiers/") || key.contains("/clusterinformations/");
    let changed = after.keys().filter(|key| before.get(*key) != after.get(*key));
    let untouched = changed.filter(|key| !(case.fresh && is_initial(key))).count() == 0;
    case.outcome == "partial" && answer.failed && untouched && answer.stderr.contains("nothing has been changed")
}

fn compare_etcd(
    case: &Case,
    before: &BTreeMap<String, Value>,
    after: &BTreeMap<String, Value>,
    found: &mut Vec<String>,
) {
    for key in before.keys().chain(after.keys()).chain(case.etcd.keys()).collect::<BTreeSet<_>>() {
        let (was, is) = (before.get(key), after.get(key));
        match case.etcd.get(key) {
            None if was == is => {}
            None => found.push(format!("{key} was {was:?} and is {is:?}, but should not change")),
            Some(Value::Null) if is.is_none() => {}
            Some(expected) => {
                let seen = Seen { before: was, revision: false };
                match is {
                    Some(is) if same(expected, is, &seen) => {}
                    other => found.push(format!("{key}\n  is        {other:?}\n  should be {expected}")),
                }
            }
        }
    }
}

fn compare_stdout(case: &Case, answer: &Answer, found: &mut Vec<String>) {
    let parsed: Value = match case.stdout_form.as_deref() {
        None => return,
        // On purpose: upstream prints null for what it has not found.
        Some("json" | "yaml") if answer.stdout.is_empty() => Value::Null,
        Some("json") => serde_json::from_str(&answer.stdout).unwrap_or_else(|e| format!("no JSON: {e}").into()),
        Some("yaml") => serde_saphyr::from_str(&answer.stdout).unwrap_or_else(|e| format!("no YAML: {e}").into()),
        Some("table") => tables(&answer.stdout),
        Some(_) => answer.stdout.as_str().into(),
    };
    if !same(&case.stdout, &parsed, &Seen { before: None, revision: true }) {
        found.push(format!("stdout\n  is        {parsed}\n  should be {}", case.stdout));
    }
}

/// The message of a refusal names the field at fault, if the case names one.
fn compare_fault(case: &Case, answer: &Answer, found: &mut Vec<String>) {
    let Some(fault) = case.fault.as_ref().filter(|fault| !fault.path.is_empty() && case.outcome == "rejected") else {
        return;
    };
    // Objects that are not there, or twice, are told by their names.
    if fault.path == "metadata.name" || fault.path == "metadata.labels" {
        return;
    }
    if fault.path == "kind" || fault.path == "apiVersion" {
        let named = ["unknown resource type", "kind is missing"].iter().any(|words| answer.stderr.contains(words));
        return found.extend((!named).then(|| format!("{} is not named: {}", fault.path, answer.stderr)));
    }
    // The field by our name for it, or by upstream's.
    let last = |path: &str| {
        let last = path.rsplit('.').next().unwrap_or_default().to_lowercase();
        last.split('[').next().unwrap_or_default().to_owned()
    };
    let said = answer.stderr.to_lowercase();
    let mut names = std::iter::once(last(&fault.path)).chain(fault.named.iter().map(|path| last(path)));
    if !names.any(|name| said.contains(&name)) {
        found.push(format!("{} ({}) is not named: {}", fault.path, fault.why, answer.stderr));
    }
}

/// What placeholders are compared with.
pub struct Seen<'a> {
    /// The value of the same key before the command.
    pub before: Option<&'a Value>,
    /// True for what is shown: upstream's numbers of revisions are not ours.
    pub revision: bool,
}

/// True if `is` is what `expected` says; see `vectors/resources.md` for the placeholders.
pub fn same(expected: &Value, is: &Value, seen: &Seen<'_>) -> bool {
    match (expected, is) {
        (Value::String(expected), is) if expected.starts_with('<') && expected.ends_with('>') => {
            placeholder(expected, is, seen)
        }
        (Value::Object(expected), Value::Object(is)) => {
            expected.len() == is.len()
                && expected.iter().all(|(name, value)| is.get(name).is_some_and(|is| same(value, is, seen)))
        }
        (Value::Array(expected), Value::Array(is)) => {
            expected.len() == is.len() && expected.iter().zip(is).all(|(expected, is)| same(expected, is, seen))
        }
        (Value::Number(expected), Value::Number(is)) => expected.as_f64() == is.as_f64(),
        // Upstream's tables print 1000000 as 1e+06; see vectors/DIFFERENCES.md.
        (Value::String(expected), Value::String(is)) if seen.revision && expected.contains("e+") => {
            expected.parse::<f64>().ok() == is.parse::<f64>().ok()
        }
        _ => expected == is,
    }
}

fn placeholder(expected: &str, is: &Value, seen: &Seen<'_>) -> bool {
    let text = is.as_str().unwrap_or_default();
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    match expected {
        "<uid>" => {
            let parts: Vec<usize> = text.split('-').map(str::len).collect();
            parts == [8, 4, 4, 4, 12] && hex(&text.replace('-', ""))
        }
        "<uid kept>" => seen.before.is_some_and(|before| before["metadata"]["uid"] == *is),
        "<time>" => is_time(text),
        "<guid>" => text.len() == 32 && hex(text),
        "<rv>" => seen.revision && text.parse::<u64>().is_ok(),
        // Upstream's way to print that there is nothing; ours has a dash, see vectors/DIFFERENCES.md.
        "<nil>" => text == "-",
        _ => false,
    }
}

/// RFC 3339, UTC, whole seconds.
fn is_time(text: &str) -> bool {
    let pattern = "0000-00-00T00:00:00Z";
    text.len() == pattern.len()
        && text.bytes().zip(pattern.bytes()).all(|(is, wanted)| match wanted {
            b'0' => is.is_ascii_digit(),
            other => is == other,
        })
}

/// Tables as lists of rows of cells. A column begins where its heading does.
pub fn tables(text: &str) -> Value {
    let mut tables: Vec<Value> = Vec::new();
    for table in text.split("\n\n").filter(|table| !table.trim().is_empty()) {
        let lines: Vec<&str> = table.lines().filter(|line| !line.is_empty()).collect();
        let begins: Vec<usize> = lines[0]
            .char_indices()
            .filter(|(at, letter)| *letter != ' ' && (*at == 0 || lines[0].as_bytes()[at - 1] == b' '))
            .map(|(at, _)| at)
            .collect();
        let row = |line: &&str| {
            let cells = begins.iter().enumerate().map(|(column, begin)| {
                let end = begins.get(column + 1).copied().unwrap_or(line.len()).min(line.len());
                Value::from(line.get(*begin..end).unwrap_or_default().trim())
            });
            Value::Array(cells.collect())
        };
        tables.push(Value::Array(lines.iter().map(row).collect()));
    }
    Value::Array(tables)
}

#[test]
fn comparing_is_strict() {
    let seen = Seen { before: None, revision: false };
    let uid = "0b4a1d3e-93f7-4f6e-a6d0-52d9c27f1c55";
    assert!(same(&"<uid>".into(), &uid.into(), &seen));
    assert!(!same(&"<uid>".into(), &"0b4a1d3e".into(), &seen));
    assert!(!same(&"<uid kept>".into(), &uid.into(), &seen));
    assert!(same(&"<time>".into(), &"2026-01-02T03:04:05Z".into(), &seen));
    assert!(!same(&"<time>".into(), &"2026-01-02T03:04:05.1Z".into(), &seen));
    assert!(same(&serde_json::json!({"a": 1}), &serde_json::json!({"a": 1.0}), &seen));
    assert!(!same(&serde_json::json!({"a": 1}), &serde_json::json!({"a": 1, "b": 2}), &seen));
    assert!(!same(&serde_json::json!([1]), &serde_json::json!([1, 2]), &seen));
    let table = "NAME   IPS   C\nx            y\n\nNAME\n\n";
    assert_eq!(tables(table), serde_json::json!([[["NAME", "IPS", "C"], ["x", "", "y"]], [["NAME"]]]));
}
