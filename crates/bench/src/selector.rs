//! Parsing and evaluating selectors.

use std::{collections::BTreeMap, hint::black_box, time::Instant};

use calico_selector::parse;
use miette::{IntoDiagnostic, Result};

use crate::report::Report;

const ROUNDS: usize = 2000;
/// Calls of a round, so that the clock's own time does not count.
const CALLS: usize = 100;
const SMALL: &str = "role == 'web' && env in {'prod', 'staging'}";
const LARGE: &str =
    "(role == 'web' || role == 'db') && (env == 'prod' || env == 'staging') && !has(quarantine) && a != 'b'";

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    time(report, "selector/parse", SMALL, || drop(black_box(parse(black_box(SMALL)))));
    time(report, "selector/parse_large", LARGE, || drop(black_box(parse(black_box(LARGE)))));
    let selector = parse(SMALL).into_diagnostic()?;
    let labels = [("role", "web"), ("env", "prod"), ("tier", "front"), ("team", "blue")];
    let labels: BTreeMap<String, String> = labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    time(report, "selector/matches", SMALL, || _ = black_box(selector.matches(black_box(&labels))));
    time(report, "selector/unique_id", SMALL, || drop(black_box(selector.unique_id())));
    Ok(())
}

fn time(report: &mut Report, name: &str, detail: &str, mut call: impl FnMut()) {
    let mut nanoseconds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..CALLS {
                call();
            }
            start.elapsed().as_nanos() as f64 / CALLS as f64
        })
        .collect();
    nanoseconds.sort_unstable_by(f64::total_cmp);
    for (word, share) in [("p50", 50), ("p99", 99)] {
        report.add(format!("{name}/{word}"), nanoseconds[ROUNDS * share / 100], "ns", ROUNDS * CALLS, detail);
    }
}
