//! Verdicts recorded from packets through upstream's Felix: all scenarios, all probes, with their steps. And scenarios that
//! were written by hand, of what no record shows.

#![allow(clippy::unwrap_used)]

mod common;

use std::{collections::BTreeSet, path::Path};

use calico_model::KindName;
use calico_policy::{
    Engine,
    interpret::Programmed,
    oracle::{self, Flow, State},
    packet::{Packet, Verdict},
};
use common::scenario::{self, HOST, Part, Probe, Scenario, Topology, word};

/// What a program says of a packet and, if asked, of its answer.
trait Judge {
    fn take(&mut self, part: &Part);
    fn question(&self, packet: &Packet) -> Verdict;
    fn seen(&self, packet: &Packet) -> std::net::IpAddr;
    fn judged(&self, packet: &Packet) -> Flow;

    fn why(&self, packet: &Packet) -> String {
        let flow = self.judged(packet);
        format!("{}\nanswer: {:?}", flow.request.1, flow.reply.map(|(_, why)| why.to_string()))
    }

    /// The question passes an untracked rule, and its answer is denied.
    fn lacks_an_answer(&self, packet: &Packet) -> bool {
        let Flow { request: (verdict, why), reply } = self.judged(packet);
        verdict.is_allow() && why.is_untracked() && reply.is_some_and(|(verdict, _)| !verdict.is_allow())
    }
}

impl Judge for State {
    fn take(&mut self, part: &Part) {
        for change in &part.changes {
            self.apply(change);
        }
    }

    fn question(&self, packet: &Packet) -> Verdict {
        oracle::verdict(self, packet).0
    }

    fn seen(&self, packet: &Packet) -> std::net::IpAddr {
        self.seen_source(packet)
    }

    fn judged(&self, packet: &Packet) -> Flow {
        oracle::flow(self, packet)
    }
}

/// The engine, and what its instructions amount to.
struct Compiled {
    engine: Engine,
    programmed: Programmed,
}

impl Judge for Compiled {
    fn take(&mut self, part: &Part) {
        for change in &part.changes {
            self.engine.absorb(change.clone());
        }
        for instruction in self.engine.flush() {
            self.programmed.apply(&instruction).unwrap();
        }
    }

    fn question(&self, packet: &Packet) -> Verdict {
        self.programmed.verdict(packet)
    }

    fn seen(&self, packet: &Packet) -> std::net::IpAddr {
        self.programmed.seen_source(packet)
    }

    fn judged(&self, packet: &Packet) -> Flow {
        self.programmed.flow(packet)
    }
}

/// What would have been recorded. `alive`: the flows that were kept and have not been cut.
fn outcome(judge: &impl Judge, probe: &Probe, alive: &mut BTreeSet<String>) -> String {
    if let Some(flow) = probe.flow.as_ref().filter(|flow| probe.is_send && !alive.contains(*flow)) {
        alive.remove(flow);
        return "closed".to_owned();
    }
    let verdict = match &probe.packet {
        None => Verdict::Drop,
        Some(packet) if probe.oneway => judge.question(packet),
        Some(packet) => judge.judged(packet).verdict(),
    };
    if let Some(flow) = &probe.flow {
        if verdict.is_allow() {
            alive.insert(flow.clone());
        } else {
            alive.remove(flow);
        }
    }
    match (&probe.packet, verdict) {
        (Some(packet), Verdict::Allow) if probe.seen => format!("allow {}", judge.seen(packet)),
        _ => word(probe, verdict).to_owned(),
    }
}

/// A probe of which ours is another verdict than the recorded one.
struct Difference {
    /// As `DIFFERENCES.md` has it: scenario, probe, recorded, ours.
    row: [String; 4],
    why: String,
    /// The row of its class in `DIFFERENCES.md`, if it is of one.
    class: Option<[String; 4]>,
}

/// All differences, and how many probes there were.
fn differences<J: Judge>(
    (topology, scenarios): (Topology, Vec<Scenario>),
    new: impl Fn(&Topology) -> J,
) -> (usize, Vec<Difference>) {
    let (mut checked, mut different) = (0, Vec::new());
    for scenario in &scenarios {
        let mut judge = new(&topology);
        let mut alive = BTreeSet::new();
        for (at, part) in scenario.parts(&topology).iter().enumerate() {
            judge.take(part);
            for probe in &part.probes {
                checked += 1;
                let ours = outcome(&judge, probe, &mut alive);
                if ours == probe.recorded {
                    continue;
                }
                let step = if at > 0 { format!("step {at}: ") } else { String::new() };
                let why = probe.packet.as_ref().map(|packet| judge.why(packet)).unwrap_or_default();
                let words = format!("{step}{}", probe.words);
                let unanswered = probe.packet.as_ref().is_some_and(|packet| judge.lacks_an_answer(packet));
                let class = unanswered.then(|| {
                    let [scenario, probe_words] = ["*", "untracked answer"].map(str::to_owned);
                    [scenario, probe_words, probe.recorded.clone(), ours.clone()]
                });
                let row = [scenario.id().to_owned(), words, probe.recorded.clone(), ours];
                different.push(Difference { row, why, class });
            }
        }
    }
    assert!(checked > 0, "no probes");
    (checked, different)
}

/// Every difference is listed, none is more open, and none is listed that is not there.
fn check(checked: usize, different: &[Difference]) {
    let listed = scenario::listed_differences();
    let wrong = different.iter().filter(|difference| {
        let [_, _, recorded, ours] = &difference.row;
        let is_more_open = ours.starts_with("allow") && !recorded.starts_with("allow");
        let is_listed =
            [Some(&difference.row), difference.class.as_ref()].into_iter().flatten().any(|row| listed.contains(row));
        is_more_open || !is_listed
    });
    let wrong: Vec<String> = wrong.map(|difference| format!("{:?}: {}", difference.row, difference.why)).collect();
    assert!(wrong.is_empty(), "{} of {checked} differ:\n{}", wrong.len(), wrong[..wrong.len().min(30)].join("\n"));
    if std::env::var_os("VECTORS").is_none() {
        let found: BTreeSet<_> = different.iter().map(|difference| difference.row.clone()).collect();
        let stale: Vec<_> = listed.difference(&found).filter(|row| row[0] != "*").collect();
        assert!(stale.is_empty(), "listed, but not there: {stale:?}");
    }
}

#[test]
fn the_oracle_says_what_was_recorded() {
    let (checked, different) = differences(scenario::read(), oracle);
    check(checked, &different);
}

#[test]
fn the_engine_says_what_was_recorded() {
    let (checked, different) = differences(scenario::read(), engine);
    check(checked, &different);
}

/// What no record shows: `tests/written` says what follows from the rules of the policy language.
#[test]
fn oracle_and_engine_say_what_was_written_by_hand() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/written/verdicts.json"));
    let written = || scenario::read_file(path);
    for (checked, different) in [differences(written(), oracle), differences(written(), engine)] {
        let rows: Vec<String> = different.iter().map(|found| format!("{:?}: {}", found.row, found.why)).collect();
        assert!(rows.is_empty(), "{} of {checked} differ:\n{}", rows.len(), rows.join("\n"));
    }
}

fn oracle(topology: &Topology) -> State {
    State { interfaces: topology.interfaces(), ..State::new(HOST) }
}

fn engine(topology: &Topology) -> Compiled {
    let programmed = Programmed { interfaces: topology.interfaces(), ..Programmed::default() };
    Compiled { engine: Engine::new(HOST), programmed }
}

/// Of all that the scenarios hold, only profiles that do not exist and endpoints that ask for foreign sources are closed:
/// everything else must be understood.
#[test]
fn nothing_is_closed_by_mistake() {
    let (topology, scenarios) = scenario::read();
    for scenario in &scenarios {
        let mut engine = Engine::new(HOST);
        for part in scenario.parts(&topology) {
            part.changes.into_iter().for_each(|change| engine.absorb(change));
            engine.flush();
            for problem in engine.problems() {
                let intended = match problem.object.kind {
                    KindName::Profile => problem.reason.contains("does not exist"),
                    KindName::WorkloadEndpoint => problem.reason.contains("source spoofing is disabled"),
                    _ => false,
                };
                assert!(intended, "{}: {problem}", scenario.id());
            }
        }
    }
}
