//! Parsing, printing and evaluating selectors. One JSON object per measurement on standard output.

use std::{collections::BTreeMap, hint::black_box, time::Instant};

use calico_selector::parse;

const ROUNDS: usize = 2_000;
/// Calls per round, so that the clock's own time does not count.
const CALLS: usize = 100;

fn measure(name: &str, detail: &str, mut call: impl FnMut()) {
    let mut nanoseconds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..CALLS {
                call();
            }
            start.elapsed().as_nanos() as f64 / CALLS as f64
        })
        .collect();
    nanoseconds.sort_by(f64::total_cmp);
    let value = nanoseconds[ROUNDS / 2];
    println!(r#"{{"name":"{name}","value":{value:.1},"unit":"ns","n":{},"detail":"{detail}"}}"#, ROUNDS * CALLS);
}

fn main() {
    let small = "role == 'web' && env in {'prod', 'staging'}";
    let large =
        "(role == 'web' || role == 'db') && (env == 'prod' || env == 'staging') && !has(quarantine) && a != 'b'";
    let labels: BTreeMap<String, String> = [("role", "web"), ("env", "prod"), ("tier", "front"), ("team", "blue")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    measure("selector/parse/p50", small, || drop(black_box(parse(black_box(small)))));
    measure("selector/parse_large/p50", large, || drop(black_box(parse(black_box(large)))));
    let selector = parse(small).expect("the selector is valid");
    measure("selector/matches/p50", small, || _ = black_box(selector.matches(black_box(&labels))));
    measure("selector/unique_id/p50", small, || drop(black_box(selector.unique_id())));
}
