//! The classic commands' rules and pools, with real packets, over each back end.
//!
//! `rules.yaml` and `pools.yaml` hold one document per case:
//!
//! - `inbound`, `outbound`: the rules of w1's profile P, in the words of `profile P rule add`; a list that is left out
//!   allows everything. `then`: further profiles of w1 behind it, each with its lists.
//! - `tags`: tags of workloads, each lent by a profile of its own that has no rules.
//! - `pools`: the only pools there are, in the words of `pool add`. `config`: members of the FelixConfiguration.
//! - `probes`: in the notation of the other cases, see `tests/cases/main.rs`.
//!
//! The sentences are read by the crate that reads them in calicoctl, so what is proven here is what people type.

#![allow(clippy::unwrap_used)]

#[path = "../cases/notation.rs"]
#[allow(dead_code)]
mod notation;

use std::{collections::BTreeSet, fmt::Write as _, io, sync::Mutex};

use calico_classic::{Tag, parse, say};
use calico_model::{Rule, input};
use calico_packets::{
    Answer, Backend, Probe, Rig, pair, rig,
    scenario::Cluster,
    topology::{list, text},
};
use notation::Line;
use serde_json::{Map, Value, json};

/// So many pairs of hosts work at a time: most of the time is waiting for silence.
const PAIRS: usize = 3;

/// Whose profile has the rules.
const SUBJECT: &str = "w1";

fn cases() -> Vec<Value> {
    let files = [include_str!("rules.yaml"), include_str!("pools.yaml")];
    let documents = files.iter().flat_map(|file| input::documents(file).unwrap());
    documents.filter(|document| document.is_object()).collect()
}

/// The ports that the probes ask for, of a protocol.
fn ports(cases: &[Value], protocol: &str) -> Vec<u16> {
    let probes = cases.iter().flat_map(|case| list(case, "probes")).filter_map(Value::as_str);
    let port = |line: &str| line.split(' ').skip_while(|word| *word != protocol).nth(1)?.parse().ok();
    let ports: BTreeSet<u16> = probes.filter_map(port).collect();
    ports.into_iter().collect()
}

fn sentence(words: &Value) -> Rule {
    let words: Vec<&str> = words.as_str().unwrap().split(' ').collect();
    parse(&words).unwrap_or_else(|bad| panic!("{words:?}: {bad}"))
}

/// The rules of one list; everything is allowed if it is left out.
fn rules(lists: &Value, name: &str) -> Vec<Rule> {
    match lists[name].as_array() {
        Some(sentences) => sentences.iter().map(sentence).collect(),
        None => vec![parse(&["allow"]).unwrap()],
    }
}

fn resource(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// A pool as `pool add` makes it of its words.
fn pool(index: usize, words: &Value) -> Value {
    let mut words = words.as_str().unwrap().split(' ');
    let mut spec = json!({"cidr": words.next().unwrap()});
    for option in words {
        match option {
            "--nat-outgoing" => spec["natOutgoing"] = true.into(),
            "--disabled" => spec["disabled"] = true.into(),
            _ => panic!("{option}"),
        }
    }
    resource("IPPool", &format!("pool-{index}"), spec)
}

/// The datastore that a case is about.
fn cluster(case: &Value, backend: Backend) -> io::Result<Cluster> {
    let mut standing = pair::resources();
    if case["pools"].is_array() {
        standing.retain(|resource| resource["kind"] != "IPPool");
    }
    let mut cluster = Cluster::new(pair::endpoints(), standing, backend)?;
    for (index, words) in list(case, "pools").iter().enumerate() {
        cluster.add(pool(index, words))?;
    }
    for (field, value) in case["config"].as_object().into_iter().flatten() {
        cluster.configure(field, value.clone());
    }
    let mut subject = Vec::new();
    if ["inbound", "outbound"].iter().any(|list| case[*list].is_array()) {
        for (index, lists) in std::iter::once(case).chain(list(case, "then")).enumerate() {
            let name = format!("p{index}");
            let spec = json!({"ingress": rules(lists, "inbound"), "egress": rules(lists, "outbound")});
            cluster.add(resource("Profile", &name, spec))?;
            subject.push(name);
        }
    } else {
        subject.push("default".to_owned());
    }
    let mut tagged: Map<String, Value> = case["tags"].as_object().cloned().unwrap_or_default();
    tagged.entry(SUBJECT).or_insert_with(|| json!([]));
    for (place, tags) in &tagged {
        let mut profiles = if place == SUBJECT { subject.clone() } else { vec!["default".to_owned()] };
        for tag in tags.as_array().unwrap() {
            let tag = Tag::parse(tag.as_str().unwrap()).unwrap();
            let name = format!("tag-{}", tag.as_str().to_lowercase().replace('_', "-"));
            cluster.add(resource("Profile", &name, json!({"labelsToApply": {tag.as_str(): ""}})))?;
            profiles.push(name);
        }
        cluster.endpoint(json!({"name": place, "profiles": profiles}));
    }
    Ok(cluster)
}

/// Plays a case; what is wrong.
fn play(rig: &mut Rig, case: &Value, backend: Backend) -> io::Result<Vec<String>> {
    let applied = rig.set(&cluster(case, backend)?.state()?)?;
    let mut faults: Vec<String> = applied.problems.iter().map(|problem| format!("problem: {problem}")).collect();
    faults.extend(applied.closed.iter().map(|closed| format!("closed: {closed}")));
    rig.is_written_by(backend)?;
    rig.forget_connections()?;
    let lines: Vec<Line> =
        list(case, "probes").iter().flat_map(|line| notation::parse(line.as_str().unwrap())).collect();
    let probes: Vec<Probe> = lines.iter().map(|line| line.probe.clone()).collect();
    let hoped: Vec<Answer> = lines.iter().map(|line| line.expected.answer()).collect();
    let outcomes = rig.probe_expecting(&probes, &hoped)?;
    faults.extend(lines.iter().zip(&outcomes).filter_map(|(line, outcome)| line.fault(outcome)));
    // What is let through in the end was only late for the first look; what is denied must never come.
    let late = rig.prober.late();
    let denied = probes.iter().zip(&hoped).filter(|(probe, hoped)| **hoped == Answer::Drop && late.contains(probe));
    faults.extend(denied.map(|(probe, _)| format!("{probe:?} arrived late")));
    Ok(faults)
}

fn run(backend: Backend) {
    let cases = cases();
    let (tcp, udp) = (ports(&cases, "tcp"), ports(&cases, "udp"));
    let faults = Mutex::new(String::new());
    rig::spread(
        PAIRS,
        &cases,
        || pair::build(&tcp, &udp).unwrap(),
        |rig, case| {
            for fault in play(rig, case, backend).unwrap_or_else(|error| vec![error.to_string()]) {
                let _ = writeln!(faults.lock().unwrap(), "{}: {fault}", text(case, "about"));
            }
        },
    );
    let faults = faults.into_inner().unwrap();
    assert!(faults.is_empty(), "{backend}:\n{faults}");
    println!("{backend}: {} cases played", cases.len());
}

/// No kind of match is left out, and every sentence is said as it is typed: `rule show` shows what the packets meet.
#[test]
fn every_word_of_the_language_is_proven() {
    let mut words = BTreeSet::new();
    for case in cases() {
        let lists = std::iter::once(&case).chain(list(&case, "then"));
        for typed in lists.flat_map(|lists| [list(lists, "inbound"), list(lists, "outbound")]).flatten() {
            let said = say(&sentence(typed));
            assert!(said.is_classic, "{typed}");
            words.extend(said.text.split(' ').map(str::to_owned));
        }
        assert!(!list(&case, "probes").is_empty(), "{case}");
    }
    for word in calico_classic::VOCABULARY {
        assert!(words.contains(word), "no case has the word {word}");
    }
}

#[test]
fn classic_cases_over_nftables() {
    run(Backend::Nftables);
}

#[test]
fn classic_cases_over_iptables_nft() {
    run(Backend::IptablesNft);
}

#[test]
fn classic_cases_over_iptables_legacy() {
    run(Backend::IptablesLegacy);
}
