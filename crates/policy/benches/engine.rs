//! The engine at 250,000 endpoints, 200 of them local, with 1,000 selectors in use. One JSON object per measurement
//! on standard output.

use std::time::{Duration, Instant};

use calico_model::{Action, Change, Kind, ProfileSpec, Resource, Rule, WorkloadEndpointSpec};
use calico_policy::Engine;

const ENDPOINTS: u32 = 250_000;
const LOCAL: u32 = 200;
const NAMESPACES: u32 = 100;
const MARKERS: u32 = 31;
const SELECTORS: u32 = 1_000;
/// Profiles that hold the rules with the selectors.
const RULE_PROFILES: u32 = 50;
const UPDATES: u32 = 20_000;

fn report(name: &str, value: f64, unit: &str, n: u32, detail: &str) {
    println!(r#"{{"name":"{name}","value":{value:.3},"unit":"{unit}","n":{n},"detail":"{detail}"}}"#);
}

fn set<S: Kind>(resource: Resource<S>) -> Change {
    Change::Set { key: resource.key(), resource: Box::new(S::into_any(resource)) }
}

/// Labels as upstream's benchmark gives them: some that one endpoint in 10, 11, 20, 30, 40 has, and one of 31
/// markers. `turn` shifts the marker.
fn endpoint(number: u32, turn: u32) -> Change {
    let local = number < LOCAL;
    let mut profiles = vec![format!("namespace-{}", number % NAMESPACES)];
    if local {
        profiles.push(format!("rules-{}", number % RULE_PROFILES));
    }
    let [_, b, c, d] = number.to_be_bytes();
    let spec = WorkloadEndpointSpec {
        node: if local { "local".into() } else { format!("host-{}", number / 100) },
        interface_name: format!("cali{number:x}"),
        ip_networks: vec![format!("10.{b}.{c}.{d}/32")],
        profiles,
        ..Default::default()
    };
    let mut resource = Resource::namespaced("default", format!("host-{}-k8s-pod--{number}-eth0", number / 100), spec);
    for every in [10, 11, 20, 30, 40] {
        if number.is_multiple_of(every) {
            resource.metadata.labels.insert(format!("one-in-{every}"), "true".into());
        }
    }
    resource.metadata.labels.insert(format!("marker-{}", (number + turn) % MARKERS), "true".into());
    set(resource)
}

/// The profiles of namespaces give a label; those of rules hold the selectors.
fn profiles() -> impl Iterator<Item = Change> {
    let namespaces = (0..NAMESPACES).map(|number| {
        let labels_to_apply = [("namespace".to_owned(), format!("n{number}"))].into();
        set(Resource::new(format!("namespace-{number}"), ProfileSpec { labels_to_apply, ..Default::default() }))
    });
    let rules = (0..RULE_PROFILES).map(|profile| {
        let rule = |number: u32| {
            let mut rule = Rule::of(Action::Allow);
            let (marker, namespace) = (number % MARKERS, number / MARKERS);
            rule.source.selector = format!("has(marker-{marker}) && namespace == 'n{namespace}'");
            rule
        };
        let ingress = (0..SELECTORS).filter(|number| number % RULE_PROFILES == profile).map(rule).collect();
        set(Resource::new(format!("rules-{profile}"), ProfileSpec { ingress, ..Default::default() }))
    });
    namespaces.chain(rules)
}

/// Resident memory of this process in bytes, `None` where the kernel does not say.
fn resident() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<f64>().ok()? * 1024.0)
}

fn main() {
    let before = resident();
    let mut engine = Engine::new("local");
    let mut spent = Duration::ZERO;
    for change in profiles().chain((0..ENDPOINTS).map(|number| endpoint(number, 0))) {
        let start = Instant::now();
        engine.absorb(change);
        spent += start.elapsed();
    }
    let start = Instant::now();
    let instructions = engine.flush();
    spent += start.elapsed();
    let detail = format!("{LOCAL} local, {SELECTORS} selectors, {} instructions", instructions.len());
    report("engine/profiles_250k/seconds", spent.as_secs_f64(), "s", ENDPOINTS, &detail);
    drop(instructions);
    if let (Some(before), Some(after)) = (before, resident()) {
        report(
            "engine/profiles_250k/bytes_per_endpoint",
            (after - before) / f64::from(ENDPOINTS),
            "B",
            ENDPOINTS,
            "resident",
        );
    }
    let mut times: Vec<Duration> = Vec::new();
    for update in 0..UPDATES {
        let change = endpoint(update * 7 % ENDPOINTS, 1 + update / ENDPOINTS);
        let start = Instant::now();
        engine.absorb(change);
        drop(engine.flush());
        times.push(start.elapsed());
    }
    times.sort();
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let value = times[(f64::from(UPDATES) * share) as usize].as_nanos() as f64 / 1_000.0;
        report(&format!("engine/update_250k/{name}"), value, "us", UPDATES, "one label of one endpoint, and a flush");
    }
}
