//! Every recorded verdict, with real packets through our own rules, over each back end.

#![allow(clippy::unwrap_used)]

use std::{
    fmt::Write as _,
    io,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use calico_packets::{
    Answer, Backend, Manner, Rig, Scenarios,
    differences::{CLASS, Differences},
    rig,
    scenario::{Recorded, Scenario},
};

/// So many hosts work at a time: most of the time is waiting for silence.
const HOSTS: usize = 4;

/// What differs from the record.
struct Mismatch {
    scenario: String,
    words: String,
    recorded: String,
    ours: String,
    more_open: bool,
    /// A policy of the scenario decides before connection tracking.
    untracked: bool,
}

fn verdict(answer: Answer, seen: Option<std::net::IpAddr>) -> String {
    let word = format!("{answer:?}").to_lowercase();
    seen.map_or_else(|| word.clone(), |seen| format!("{word} {seen}"))
}

/// How much a verdict lets through.
fn openness(answer: Answer) -> u8 {
    match answer {
        Answer::Closed | Answer::Drop => 0,
        Answer::Reject => 1,
        Answer::Allow => 2,
    }
}

fn compare(scenario: &Scenario, recorded: &Recorded, outcome: calico_packets::Outcome) -> Option<Mismatch> {
    let mut outcome = outcome;
    // Nobody looked for errors behind hand-made packets when they were recorded.
    if recorded.probe.manner == Manner::OneWay && outcome.answer == Answer::Reject {
        outcome.answer = Answer::Drop;
    }
    let seen = recorded.seen.and(outcome.seen).filter(|_| outcome.answer == Answer::Allow);
    let seen = seen.map(|seen| seen.source.ip());
    if outcome.answer == recorded.answer && seen == recorded.seen {
        return None;
    }
    Some(Mismatch {
        scenario: scenario.id.clone(),
        words: recorded.words.clone(),
        recorded: verdict(recorded.answer, recorded.seen),
        ours: verdict(outcome.answer, seen),
        more_open: openness(outcome.answer) > openness(recorded.answer),
        untracked: scenario.is_untracked(),
    })
}

/// Plays a scenario; the number of its probes.
fn play(
    rig: &mut Rig,
    scenarios: &Scenarios,
    scenario: &Scenario,
    backend: Backend,
    mismatches: &mut Vec<Mismatch>,
) -> io::Result<usize> {
    let mut cluster = scenarios.empty(backend)?;
    let mut count = 0;
    for (at, part) in scenario.parts().iter().enumerate() {
        cluster.step(part)?;
        let applied = rig.set(&cluster.state()?)?;
        if !applied.problems.is_empty() {
            return Err(io::Error::other(format!("problems: {:?}", applied.problems)));
        }
        if at == 0 {
            rig.forget_connections()?;
        }
        let probes: Vec<_> = part.probes.iter().map(|recorded| recorded.probe.clone()).collect();
        let expected: Vec<_> = part.probes.iter().map(|recorded| recorded.answer).collect();
        let outcomes = rig.probe_expecting(&probes, &expected)?;
        count += outcomes.len();
        mismatches.extend(
            part.probes.iter().zip(outcomes).filter_map(|(recorded, outcome)| compare(scenario, recorded, outcome)),
        );
    }
    // A probe that was sent again with more patience may have been late the first time.
    let late = rig.prober.late();
    let denied = scenario
        .parts()
        .iter()
        .flat_map(|part| &part.probes)
        .find(|recorded| recorded.answer == Answer::Drop && late.contains(&recorded.probe));
    assert!(denied.is_none(), "{}: {:?} arrived late", scenario.id, denied);
    Ok(count)
}

fn run(backend: Backend) {
    let scenarios = Scenarios::read().unwrap();
    let differences = Differences::read().unwrap();
    let only = std::env::var("ONLY").unwrap_or_default();
    let chosen: Vec<&Scenario> = scenarios.all.iter().filter(|scenario| scenario.id.starts_with(&only)).collect();
    let start = Instant::now();
    let probes = AtomicUsize::new(0);
    let (mismatches, failures) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let build = || {
        let mut rig = Rig::new(&scenarios.topology).unwrap();
        rig.set(&scenarios.empty(backend).unwrap().state().unwrap()).unwrap();
        rig.is_written_by(backend).unwrap();
        rig
    };
    rig::spread(HOSTS, &chosen, build, |rig, scenario| {
        let mut found = Vec::new();
        match play(rig, &scenarios, scenario, backend, &mut found) {
            Ok(count) => drop(probes.fetch_add(count, Ordering::Relaxed)),
            Err(error) => failures.lock().unwrap().push(format!("{}: {error}", scenario.id)),
        }
        mismatches.lock().unwrap().extend(found);
    });
    let mismatches = mismatches.into_inner().unwrap();
    let probes = probes.into_inner();
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{backend}: {} scenarios could not be played:\n{}",
        failures.len(),
        failures.join("\n")
    );
    println!("{backend}: {probes} probes of {} scenarios in {:?}", chosen.len(), start.elapsed());
    assert!(probes > 0, "there is nothing to play");
    let mut used = vec![false; differences.rows.len()];
    let mut wrong = String::new();
    let mut count = 0;
    for mismatch in &mismatches {
        let Mismatch { scenario, words, recorded, ours, more_open, untracked } = mismatch;
        let class = || differences.class("untracked answer", recorded, ours).filter(|_| *untracked);
        let row = differences.find(scenario, words, recorded, ours).or_else(class);
        if let Some(row) = row.filter(|_| !more_open) {
            used[row] = true;
        } else {
            count += 1;
            let open = if *more_open { "  MORE OPEN" } else { "" };
            let _ = writeln!(wrong, "{scenario} | {words} | {recorded} | {ours}{open}");
        }
    }
    assert!(wrong.is_empty(), "{backend}: {count} of {probes} differ:\n{wrong}");
    if std::env::var_os("VECTORS").is_none() && only.is_empty() {
        let stale = differences.rows.iter().zip(used).filter(|(row, used)| !used && row.scenario != CLASS);
        let stale: Vec<_> = stale.map(|(row, _)| &row.scenario).collect();
        assert!(stale.is_empty(), "{backend}: these rows of DIFFERENCES.md do not happen: {stale:?}");
    }
}

#[test]
fn recorded_verdicts_over_nftables() {
    run(Backend::Nftables);
}

#[test]
fn recorded_verdicts_over_iptables_nft() {
    run(Backend::IptablesNft);
}

#[test]
fn recorded_verdicts_over_iptables_legacy() {
    run(Backend::IptablesLegacy);
}
