//! Endpoints against many selectors and selectors against many endpoints, as in upstream's benchmarks of its label
//! index. Ours are measured through the engine, from the resource to the instructions.

use std::time::Instant;

use calico_model::{AnyResource, Change, Kind, Rule, WorkloadEndpoint, WorkloadEndpointSpec};
use calico_policy::Engine;
use miette::Result;

use super::{
    change::Times,
    population::{LOCAL, REMOTE, allow_from, global_policy, profile},
    set, timed,
};
use crate::report::Report;

const SAMPLES: usize = 2000;
/// Selectors, or endpoints.
const MANY: usize = 10_000;
/// Rules of one policy.
const RULES: usize = 100;

pub(super) fn measure(report: &mut Report) -> Result<()> {
    let mut times = Times::default();
    let mut engine = with_selectors(|number| format!("alpha == 'beta' && has(ipset-{number})"));
    for number in 0..SAMPLES {
        times.take(timed(&mut engine, set(endpoint(REMOTE, number))));
    }
    times.report(
        report,
        "engine/selectors_10k/endpoint",
        "a new endpoint against 10,000 selectors, one of which has it",
    )?;

    let mut engine = with_selectors(|number| format!("projectcalico.org/name == 'namespace-{number}'"));
    for number in 0..MANY {
        engine.absorb(set(endpoint(REMOTE, number)));
    }
    engine.flush();
    for number in 0..SAMPLES {
        let name = format!("namespace-{number}");
        let labels = [("projectcalico.org/name", name.clone()), ("update-idx", number.to_string())]
            .map(|(key, value)| (key.to_owned(), value));
        times.take(timed(&mut engine, set(profile(&name, labels))));
    }
    times.report(report, "engine/selectors_10k/profile", "a profile with a member gets labels, 10,000 selectors")?;

    let mut engine = Engine::new(LOCAL);
    for number in 0..MANY {
        engine.absorb(set(endpoint(REMOTE, number)));
    }
    engine.absorb(set(endpoint(LOCAL, MANY)));
    engine.flush();
    for number in 0..SAMPLES {
        let rule = allow_from(format!("alpha == 'beta' && has(ipset-{})", number % 10));
        let policy = global_policy("policy".to_owned(), "all()".to_owned(), vec![rule]);
        let removal = Change::Remove { key: policy.key() };
        let policy = set(policy);
        let start = Instant::now();
        engine.absorb(policy);
        let mut instructions = engine.flush().len();
        engine.absorb(removal);
        instructions += engine.flush().len();
        times.take((start.elapsed(), instructions));
    }
    let detail = "a selector comes and goes over 10,000 endpoints, in a policy; every tenth selects all of them";
    times.report(report, "engine/endpoints_10k/selector", detail)
}

/// An engine with one endpoint of its own and policies that bring so many selectors into use.
fn with_selectors(selector: impl Fn(usize) -> String) -> Engine {
    let mut engine = Engine::new(LOCAL);
    engine.absorb(set(endpoint(LOCAL, MANY)));
    for policy in 0..MANY / RULES {
        let rules: Vec<Rule> = (0..RULES).map(|rule| allow_from(selector(policy * RULES + rule))).collect();
        engine.absorb(set(global_policy(format!("policy-{policy}"), "all()".to_owned(), rules)));
    }
    engine.flush();
    engine
}

/// An endpoint as in upstream's benchmark: two labels, and a namespace of its own.
fn endpoint(node: &str, number: usize) -> AnyResource {
    let spec = WorkloadEndpointSpec {
        orchestrator: "k8s".to_owned(),
        node: node.to_owned(),
        pod: format!("wep-{number}"),
        endpoint: "eth0".to_owned(),
        ip_networks: vec![format!("10.0.{}.{}/32", number >> 8, number & 255)],
        profiles: vec![format!("kns.namespace-{number}")],
        interface_name: "cali0".to_owned(),
        ..WorkloadEndpointSpec::default()
    };
    let mut endpoint = WorkloadEndpoint::namespaced("default", format!("{node}-k8s-wep--{number}-eth0"), spec);
    let labels = [("alpha", "beta"), ("ipset-1", "true")];
    endpoint.metadata.labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    Kind::into_any(endpoint)
}
