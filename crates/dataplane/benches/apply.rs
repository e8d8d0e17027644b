//! Applies of single changes on hosts with few and many endpoints, in a network namespace of its own. Needs root. One
//! JSON object per measurement on standard output.

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use calico_dataplane::Dataplane;
use calico_policy::instruction::{EndpointId, Instruction, Members, SetId};
use support::{absorb, allow, allow_from, dataplane, endpoint, on_a_host, profile, run, set};

const ROUNDS: u32 = 200;

fn report(name: &str, value: f64, unit: &str, n: u32, detail: &str) {
    println!(r#"{{"name":"{name}","value":{value:.3},"unit":"{unit}","n":{n},"detail":"{detail}"}}"#);
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn percentiles(name: &str, mut times: Vec<Duration>, detail: &str) {
    times.sort_unstable();
    for (word, share) in [("p50", 50), ("p99", 99)] {
        let place = (times.len() * share / 100).min(times.len() - 1);
        report(&format!("{name}/{word}"), milliseconds(times[place]), "ms", times.len() as u32, detail);
    }
}

fn resident_megabytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc is mounted");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel says it");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}

/// Endpoints on ten kinds of profile lists, in one set of members.
fn population(size: u32) -> Vec<Instruction> {
    let members: Vec<String> = (0..size).map(|n| format!("10.65.{}.{}/32", n / 250, n % 250)).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let mut instructions = vec![set("s:all", &members)];
    for number in 0..10 {
        let rules = vec![allow_from("s:all"); 3];
        instructions.push(profile(&format!("p{number}"), rules, vec![allow()]));
    }
    instructions.extend((0..size).map(|number| numbered(number, &format!("cali{number:x}"))));
    instructions
}

fn numbered(number: u32, interface: &str) -> Instruction {
    let address = format!("10.65.{}.{}", number / 250, number % 250).parse().expect("an address");
    endpoint(&format!("e{number}"), interface, &[address], &["base", &format!("p{}", number % 10)])
}

async fn timed(dataplane: &mut Dataplane, instructions: Vec<Instruction>) -> Duration {
    let start = Instant::now();
    absorb(dataplane, instructions);
    dataplane.apply().await.expect("accepted");
    start.elapsed()
}

async fn measure(size: u32) {
    let mut dataplane = dataplane().await;
    let base = profile("base", vec![], vec![]);
    let load = timed(&mut dataplane, [vec![base.clone()], population(size)].concat()).await;
    report(&format!("dataplane/load/{size}"), milliseconds(load), "ms", 1, "all endpoints, empty kernel");
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        times.push(timed(&mut dataplane, vec![numbered(size + round, &format!("calix{round:x}"))]).await);
    }
    percentiles(&format!("dataplane/endpoint/{size}"), times, "one more endpoint of a known kind");
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let rules = vec![allow_from("s:all"); 1 + round as usize % 4];
        times.push(timed(&mut dataplane, vec![profile("p3", rules, vec![allow()])]).await);
    }
    percentiles(&format!("dataplane/profile/{size}"), times, "rules of a profile that a tenth of the endpoints has");
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let net = format!("10.99.{}.{}/32", round / 250, round % 250).parse().expect("a network");
        let added = Members::Nets(vec![net]);
        let id = SetId("s:all".to_owned());
        times.push(
            timed(&mut dataplane, vec![Instruction::SetDelta { id, added, removed: Members::Nets(Vec::new()) }]).await,
        );
    }
    percentiles(&format!("dataplane/member/{size}"), times, "one more member of a set");
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let id = EndpointId { namespace: "test".to_owned(), name: format!("e{}", size + round) };
        times.push(timed(&mut dataplane, vec![Instruction::EndpointRemove { id }]).await);
    }
    percentiles(&format!("dataplane/endpoint_remove/{size}"), times, "one endpoint less");
    let mut times = Vec::new();
    for round in 0..20 {
        run(&format!("ip link add calir{round} type veth peer name peer{round}"));
        run(&format!("ip link set peer{round} up && ip link set calir{round} up"));
        dataplane.apply().await.expect("accepted");
        times.push(timed(&mut dataplane, vec![numbered(size + round, &format!("calir{round}"))]).await);
    }
    percentiles(&format!("dataplane/endpoint_with_route/{size}"), times, "rules, settings, neighbour and route");
    let memory = format!("dataplane/memory/{size}");
    report(&memory, resident_megabytes(), "MB", 1, "resident, whole process, after all of the above");
    drop(dataplane);
    let mut dataplane = support::dataplane().await;
    let restart = timed(&mut dataplane, [vec![base], population(size)].concat()).await;
    report(
        &format!("dataplane/restart/{size}"),
        milliseconds(restart),
        "ms",
        1,
        "read back, compare, write differences",
    );
}

fn main() {
    for size in [10, 1000] {
        on_a_host(move |_| measure(size));
    }
}
