//! Comparing what a command answered with what upstream's did, with the differences of `vectors/DIFFERENCES.md` as
//! rules.

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs)]

use std::{collections::BTreeMap, net::IpAddr};

use calico_ipam::Attribute;
use serde::Deserialize;
use serde_json::{Value, json};

/// What a command did.
pub struct Answer {
    pub exit: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A recorded command.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    pub args: Vec<String>,
    pub exit: i32,
    #[serde(default)]
    pub stdout: String,
    #[serde(default)]
    pub stderr: String,
    #[serde(default)]
    pub files: BTreeMap<String, Value>,
    pub datastore_after: Option<BTreeMap<String, Value>>,
}

impl Expected {
    /// What a report of this command says of the cluster's users, which no state says.
    pub fn cluster_type(&self) -> Option<String> {
        self.files.values().find_map(|report| Some(report["clusterType"].as_str()?.to_owned()))
    }

    /// Upstream's `ipam check` does nothing without Kubernetes; ours needs none.
    pub fn wants_kubernetes(&self) -> bool {
        self.args.starts_with(&["ipam".into(), "check".into()]) && self.stderr.starts_with("KUBECONFIG")
    }

    /// The address that `ipam show --ip` called unassigned.
    pub fn unassigned_address(&self) -> Option<String> {
        let address = self.args.iter().find_map(|word| word.strip_prefix("--ip="))?;
        (self.args.starts_with(&["ipam".into(), "show".into()]) && self.stdout.trim().ends_with("is not assigned"))
            .then(|| address.to_owned())
    }

    /// A split that upstream refuses after it has disabled the pool.
    pub fn is_refused_split(&self) -> bool {
        self.stderr.starts_with("error splitting the CIDR")
    }

    /// A `check` that found something; upstream's ends with 0 all the same.
    fn finds_problems(&self) -> bool {
        let found = self.stdout.rsplit_once("Check complete; found ");
        found.is_some_and(|(_, rest)| !rest.starts_with("0 "))
    }

    /// A release of nothing; ours tells the user so on standard error.
    fn releases_nothing(&self) -> bool {
        self.args == ["ipam", "release"]
    }
}

/// Makes pools as enabled as they were.
pub fn enable(after: &mut BTreeMap<String, Value>, before: &BTreeMap<String, Value>) {
    for (key, spec) in after.iter_mut().filter(|(key, _)| key.starts_with("ippool ")) {
        if before.get(key).is_some_and(|before| before["disabled"].is_null()) {
            spec.as_object_mut().unwrap().remove("disabled");
        }
    }
}

/// A copy of a report that was changed as the words say.
pub fn changed(mut report: Value, words: &str) -> Value {
    if words == "other cluster GUID" {
        report["clusterGUID"] = json!("ffffffff-ffff-ffff-ffff-ffffffffffff");
    } else if let Some(version) = words.strip_prefix("version ") {
        report["version"] = json!(version);
    } else if let Some(revision) = words.strip_prefix("revision ") {
        report["clusterInformationRevision"] = json!(revision);
    } else if let Some(rest) = words.strip_prefix("only the allocation") {
        let addresses: Vec<&str> =
            rest.split(|c: char| c.is_whitespace() || c == ',').filter(|word| word.parse::<IpAddr>().is_ok()).collect();
        assert!(!addresses.is_empty(), "{words}");
        let allocations = report["allocations"].as_object_mut().unwrap();
        allocations.retain(|address, _| addresses.contains(&address.as_str()));
        if words.contains("no leaked handles") {
            report.as_object_mut().unwrap().remove("leakedHandles");
        }
    } else {
        panic!("a report is to be changed in a way that is not known here: {words}");
    }
    report
}

/// The words of ours for the holder of an address.
pub fn holder(address: &IpAddr, attribute: &Attribute) -> String {
    let mut text = format!("IP {address} is in use\n");
    text += &format!("Handle ID: {}\n", attribute.handle_id.as_deref().unwrap_or("<none>"));
    match attribute.secondary.as_ref().filter(|notes| !notes.is_empty()) {
        None => text += "No Active Owner attributes defined\n",
        Some(notes) => {
            text += "Active Owner Attributes:\n";
            notes.iter().for_each(|(key, value)| text += &format!("  {key}: {value}\n"));
        }
    }
    text
}

/// How exit code and streams differ.
pub fn answers(expected: &Expected, ours: &Answer) -> Vec<String> {
    let mut faults = Vec::new();
    let exit = if expected.finds_problems() { 1 } else { expected.exit };
    if exit != ours.exit {
        faults.push(format!("exit: {exit} expected, {} found", ours.exit));
    }
    if let Some(fault) = text("stdout", &stdout(&expected.stdout), &stdout(&ours.stdout)) {
        faults.push(fault);
    }
    let (theirs, found) = (message(&expected.stderr), message(&ours.stderr));
    let silent = expected.releases_nothing() && ours.stderr.starts_with("Nothing to release");
    if !silent && let Some(fault) = text("stderr", &theirs, &found) {
        faults.push(fault);
    }
    faults
}

/// Line by line, `ADDRESS` standing for any address.
fn text(what: &str, expected: &str, ours: &str) -> Option<String> {
    let (theirs, found): (Vec<_>, Vec<_>) = (expected.lines().collect(), ours.lines().collect());
    let same = theirs.len() == found.len() && theirs.iter().zip(&found).all(|(theirs, ours)| line(theirs, ours));
    (!same).then(|| format!("{what}: expected\n{expected}\nfound\n{ours}"))
}

fn line(expected: &str, ours: &str) -> bool {
    let Some((before, after)) = expected.split_once("ADDRESS") else { return expected == ours };
    let middle = ours.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
    middle.is_some_and(|address| address.parse::<IpAddr>().is_ok())
}

/// Standard output without the pointer that upstream prints in a cell, which decides how wide its table is.
fn stdout(text: &str) -> String {
    const CELL: &str = "KubeVirtVMAddressPersistence | ";
    let text = text.trim_end();
    if !text.contains(CELL) {
        return text.to_owned();
    }
    let words = text.lines().filter(|line| !line.starts_with('+'));
    let words = words.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    let words = words.map(|line| match line.split_once(CELL) {
        Some((before, value)) => {
            let known = ["(*ipam.VMAddressPersistence)(", "Enabled", "Disabled"];
            assert!(known.iter().any(|known| value.starts_with(known)), "{line}");
            format!("{before}{CELL}a value")
        }
        None => line,
    });
    words.collect::<Vec<_>>().join("\n")
}

/// The message of standard error, without the words that Go adds and without what is ours: `error: ` before it,
/// causes and hints behind it.
fn message(stderr: &str) -> String {
    let ours = |line: &&str| !line.starts_with("hint: ") && !line.starts_with("  cause: ");
    let text = stderr.trim_end().lines().filter(ours).collect::<Vec<_>>().join("\n");
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let end = [": strconv.", ": resource does not exist: "].iter().filter_map(|go| text.find(go)).min();
    text[..end.unwrap_or(text.len())].to_owned()
}

/// Where two documents differ: `SEQ` stands for any number, `REV` for any text, and the report's version is the
/// program's own.
pub fn json(place: &str, expected: &Value, ours: &Value) -> Vec<String> {
    let differ = || vec![format!("{place}: {expected} expected, {ours} found")];
    match (expected, ours) {
        (Value::String(text), Value::Number(_)) if text == "SEQ" => Vec::new(),
        (Value::String(text), Value::String(_)) if text == "REV" => Vec::new(),
        (Value::String(_), Value::String(ours)) if place.ends_with(".json/version") => {
            if ours == env!("CARGO_PKG_VERSION") { Vec::new() } else { differ() }
        }
        (Value::Object(theirs), Value::Object(found)) => {
            let mut faults = Vec::new();
            for key in theirs.keys().chain(found.keys().filter(|key| !theirs.contains_key(*key))) {
                let place = format!("{place}/{key}");
                match (theirs.get(key), found.get(key)) {
                    (Some(theirs), Some(found)) => faults.extend(json(&place, theirs, found)),
                    (Some(theirs), None) => faults.push(format!("{place}: {theirs} expected, nothing found")),
                    (None, found) => faults.push(format!("{place}: nothing expected, {found:?} found")),
                }
            }
            faults
        }
        (Value::Array(theirs), Value::Array(found)) if theirs.len() == found.len() => {
            let pairs = theirs.iter().zip(found).enumerate();
            pairs.flat_map(|(n, (theirs, found))| json(&format!("{place}/{n}"), theirs, found)).collect()
        }
        _ if expected == ours => Vec::new(),
        _ => differ(),
    }
}
