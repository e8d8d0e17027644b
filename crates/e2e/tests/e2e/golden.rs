//! What the datastore holds after the walk-through, byte for byte: keys, members, their order, defaults.
//!
//! It must be what upstream would have written, because upstream's `calicoctl` and Felix work on it. The golden files
//! were checked by hand against upstream's layout; `BLESS=1` writes them anew, and then somebody checks again.
//!
//! What is random is replaced by words, after its form has been checked.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, path::Path};

use calico_e2e::{Cluster, start_node, world::datastore};
use calico_lab::{Lab, LabOptions};
use serde_json::Value;

#[test]
fn what_upstream_would_have_written() {
    let cluster = Cluster { lab: Lab::up(&LabOptions::hosts(2).with_node_image()).unwrap() };
    let (host1, host2) = (cluster.lab.host(1), cluster.lab.host(2));
    // One after the other, so that nothing depends on who is faster.
    start_node(host1, "--ip6={ip6}");
    start_node(host2, "--as=64999");
    let (mut a, mut b) = (cluster.run(1, "workload_A"), cluster.run(2, "workload_B"));
    a.add("");
    b.add("192.168.7.7");
    host1.ok("calicoctl profile add PROF_A_B");
    host1.ok("calicoctl container workload_A profile set PROF_A_B");
    host2.ok("calicoctl container workload_B profile set PROF_A_B");
    let extra = a.ip_add("ipv6");
    host1.ok("calicoctl profile add web");
    host1.ok("calicoctl container workload_A profile append web");
    compare(&cluster, "walk_through.txt");

    host1.ok("calicoctl container workload_A profile remove web");
    host1.ok(&format!("calicoctl container workload_A ip remove {extra}"));
    host2.ok("calicoctl container remove workload_B");
    host1.ok("calicoctl profile remove web");
    host2.ok("calicoctl node stop");
    host2.ok("calicoctl node remove");
    compare(&cluster, "after_leaving.txt");
}

/// Compares the datastore with a golden file, or writes the file.
#[track_caller]
fn compare(cluster: &Cluster, name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/goldens").join(name);
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    // What a command wrote is there when it ends, and the service writes nothing after its start: no need to wait.
    let now = render(&datastore(&cluster.lab.etcd()));
    if std::env::var_os("BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, now).unwrap();
        return;
    }
    let only_in = |text: &str, other: &str, sign: &str| -> String {
        let lines = text.lines().filter(|line| !other.lines().any(|known| known == *line));
        lines.map(|line| format!("{sign} {line}\n")).collect()
    };
    let (gone, new) = (only_in(&golden, &now, "-"), only_in(&now, &golden, "+"));
    assert!(golden == now, "{name} differs; look at it, then BLESS=1:\n{gone}{new}");
}

/// Key, value, empty line, for each key in order, with all that is random replaced.
fn render(datastore: &BTreeMap<String, String>) -> String {
    let mut words = Words::default();
    for value in datastore.values() {
        let json = serde_json::from_str(value).unwrap_or_else(|error| panic!("{value}: {error}"));
        words.find(&json);
    }
    let replaced = datastore.iter().map(|(key, value)| {
        form(key, value);
        (words.replace(key), words.replace(&sequence_numbers(value)))
    });
    let sorted: BTreeMap<String, String> = replaced.collect();
    sorted.into_iter().map(|(key, value)| format!("{key}\n{value}\n\n")).collect()
}

/// What every value's text has in common, whatever is in it.
fn form(key: &str, value: &str) {
    assert!(!value.contains(['\n', '\t', '<', '>', '&']) && !value.contains("\": "), "as Go writes it: {key}: {value}");
    let Some(rest) = key.strip_prefix("/calico/resources/v3/projectcalico.org/") else { return };
    let json: Value = serde_json::from_str(value).unwrap();
    let kind = json["kind"].as_str().unwrap();
    let start = format!(r#"{{"kind":"{kind}","apiVersion":"projectcalico.org/v3","metadata":{{"name":"#);
    assert!(value.starts_with(&start), "{key}: {value}");
    let segments: Vec<&str> = rest.split('/').collect();
    assert_eq!(segments[0], plural(kind), "{key}");
    assert_eq!(json["metadata"]["name"].as_str(), segments.last().copied(), "{key}");
    let namespace = (segments.len() == 3).then(|| segments[1]);
    assert_eq!(json["metadata"]["namespace"].as_str(), namespace, "{key}");
    for absent in ["resourceVersion", "selfLink", "generation"] {
        assert!(json["metadata"].get(absent).is_none(), "{key} holds {absent}");
    }
}

fn plural(kind: &str) -> String {
    format!("{}s", kind.to_lowercase())
}

/// What is random, with the word that stands for it.
#[derive(Default)]
struct Words(Vec<(String, String)>);

impl Words {
    /// Takes note of everything random in a value.
    fn find(&mut self, json: &Value) {
        match json {
            Value::Object(members) => {
                for (name, value) in members {
                    if let Some(text) = value.as_str() {
                        self.member(name, text);
                    }
                    self.find(value);
                }
                if json["kind"] == "WorkloadEndpoint" {
                    self.endpoint(json);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.find(item)),
            _ => {}
        }
    }

    fn member(&mut self, name: &str, text: &str) {
        let hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let (word, has_form) = match name {
            "uid" => ("<uid>", text.len() == 36 && text.as_bytes()[14] == b'4' && hex(&text.replace('-', ""))),
            "clusterGUID" => ("<guid>", text.len() == 32 && hex(text)),
            // Whole seconds in UTC.
            "creationTimestamp" | "affinity_claim_time" => {
                ("<time>", text.len() == 20 && text.ends_with('Z') && &text[10..11] == "T")
            }
            "timestamp" => ("<moment>", text.len() > 20 && text.ends_with('Z')),
            // Locally administered, not a group's.
            "mac" => ("<mac>", text.len() == 17 && u8::from_str_radix(&text[..2], 16).unwrap() & 3 == 2),
            _ => return,
        };
        assert!(has_form, "{name} is {text:?}");
        self.0.push((text.to_owned(), word.to_owned()));
    }

    /// The container's id and what follows from it.
    fn endpoint(&mut self, json: &Value) {
        let text = |name: &str| json["spec"][name].as_str().unwrap().to_owned();
        let name = json["metadata"]["annotations"]["org.projectcalico/workload-name"].as_str().unwrap();
        let (id, endpoint, interface) = (text("workload"), text("endpoint"), text("interfaceName"));
        assert!(id.len() == 64 && endpoint.len() == 32, "{id} {endpoint}");
        assert_eq!(interface, format!("cali{}", &endpoint[..11]));
        for (random, word) in [(id, "id"), (endpoint, "endpoint"), (interface, "interface")] {
            self.0.push((random, format!("<{word} of {name}>")));
        }
    }

    fn replace(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (random, word)| text.replace(random, word))
    }
}

/// A block's sequence numbers begin with the nanoseconds of its creation: shown as what was added since.
fn sequence_numbers(value: &str) -> String {
    let is_one = |run: &&str| run.len() == 19 && run.bytes().all(|b| b.is_ascii_digit());
    let mut numbers: Vec<&str> = value.split(|c: char| !c.is_ascii_digit()).filter(is_one).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let start = numbers.first().map_or(0, |first| first.parse::<u64>().unwrap());
    numbers.iter().fold(value.to_owned(), |text, number| {
        text.replace(number, &format!("<start>+{}", number.parse::<u64>().unwrap() - start))
    })
}
