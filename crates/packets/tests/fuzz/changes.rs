//! While a state changes to another one, under load, no packet gets a verdict that neither of the two gives.
//!
//! One document, endpoint or setting changes at a time, as one event of the datastore would; the back end is one of the
//! settings. Hand-made packets of which both states say the same go out without a pause while the kernel gets from the
//! one to the other.
//!
//! With nftables that is all packets. The tables of iptables change one after another, each at once, so there it is
//! those of which also all tables before the last say the same ([`Expectation::early`]).

use std::{
    fmt::Write as _,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::TryRecvError,
    },
    thread,
    time::{Duration, Instant},
};

use calico_packets::{Answer, Backend, Content, Manner, Probe, Scenarios, State};
use proptest::{
    collection::vec,
    prelude::*,
    sample::Index,
    strategy::{Strategy, ValueTree},
};

use crate::{
    Walk,
    generate::{self, Documents, Shot},
    number, seed,
    world::{self, Expectation, Spoken, expect, state},
};

/// How long a burst of packets is listened for before the next.
const BURST: Duration = Duration::from_millis(1);
/// How long packets are waited for that were still under way at the end.
const REST: Duration = Duration::from_millis(300);
/// How often a cluster changes before the next one.
const CHANGES: usize = 6;
/// Which of the changes is one of the back end.
const SWITCH: usize = 3;

/// What becomes of packets during a change.
#[derive(Default)]
struct Tally {
    changes: usize,
    packets: usize,
    /// Those of them that both states let pass.
    allowed: usize,
}

impl Walk<'_> {
    /// A cluster that differs in one point from another.
    fn neighbour(&mut self, documents: &Documents) -> Documents {
        let mut changed = documents.clone();
        let other = generate::documents().new_tree(&mut self.runner).unwrap().current();
        let dice = (0..6_u8, any::<Index>(), any::<Index>());
        let (kind, here, there) = dice.new_tree(&mut self.runner).unwrap().current();
        match kind {
            0 if !changed.resources.is_empty() => drop(changed.resources.remove(here.index(documents.resources.len()))),
            1 => changed.config = other.config,
            2 | 3 if !other.endpoints.is_empty() => changed.endpoints.push(there.get(&other.endpoints).clone()),
            _ if !other.resources.is_empty() => changed.resources.push(there.get(&other.resources).clone()),
            _ => {}
        }
        changed
    }

    /// The shots of which two states say the same, with what they say. If not everything changes `at_once`, all tables
    /// must say the same.
    fn steady(&self, shots: &[Shot], states: [&State; 2], at_once: bool) -> Vec<(Probe, Answer)> {
        let topology = &self.scenarios.topology;
        let oracles = states.map(|state| world::oracle(topology, state));
        let mut spoken = Spoken::default();
        // What comes back to the host looks like what arrived there.
        let steady = shots.iter().filter(|shot| shot.from != shot.to).filter_map(|shot| {
            let shot = &Shot { manner: Manner::OneWay, ..shot.clone() };
            let source = shot.source.or_else(|| topology.parties[shot.from].address(family(shot)))?;
            // Rules that know of the source port know of all that are used without being asked for.
            let port = shot.source_port.unwrap_or(50_000);
            let [before, after] = oracles.each_ref().map(|oracle| expect(topology, oracle, shot, source, port));
            // What policy lets pass to where nobody is may become what it denies to where somebody is by two changes,
            // of a route and of rules, which are no single act of the kernel.
            let fate =
                |expectation: &Expectation| (expectation.verdict.is_allow(), expectation.answer == Answer::Allow);
            let same = fate(&before) == fate(&after)
                && before.packet.to == after.packet.to
                && before.led == after.led
                && (at_once || before.early() == after.early());
            let answer = if before.answer == Answer::Allow { Answer::Allow } else { Answer::Drop };
            let Shot { from, to, destination, source_port, content, .. } = *shot;
            let probe =
                Probe { from, to, source: Some(source), destination, source_port, content, manner: Manner::OneWay };
            (same && spoken.begins(&before, destination)).then_some((probe, answer))
        });
        steady.collect()
    }

    /// Gets from one state to another under load; what is wrong.
    fn change(
        &mut self,
        before: &State,
        after: &State,
        steady: &[(Probe, Answer)],
        tally: &mut Tally,
    ) -> Option<String> {
        let probes: Vec<Probe> = steady.iter().map(|(probe, _)| probe.clone()).collect();
        self.rig.forget_connections().unwrap();
        self.rig.prober.late();
        let mut under_way = self.rig.begin(after);
        let (mut lost, mut leaked) = (vec![0_i32; steady.len()], vec![0_i32; steady.len()]);
        let mut last = false;
        let mut refused = None;
        while !last {
            last = under_way.is_empty();
            let outcomes = self.rig.prober.round(&probes, BURST).unwrap();
            for (at, ((_, expected), outcome)) in steady.iter().zip(outcomes).enumerate() {
                tally.packets += 1;
                match (expected, outcome.answer) {
                    (Answer::Allow, Answer::Allow) => tally.allowed += 1,
                    (Answer::Allow, _) => lost[at] += 1,
                    (_, Answer::Allow) => leaked[at] += 1,
                    _ => {}
                }
            }
            under_way.retain(|host| match host.try_recv() {
                Err(TryRecvError::Empty) => true,
                Ok(Ok(applied)) if applied.problems.is_empty() => false,
                told => {
                    refused = Some(format!("{told:?}"));
                    false
                }
            });
        }
        self.rig.prober.round(&[], REST).unwrap();
        for probe in self.rig.prober.late() {
            let at = probes.iter().position(|sent| *sent == probe).expect("it is one of these");
            if steady[at].1 == Answer::Allow { lost[at] -= 1 } else { leaked[at] += 1 }
        }
        tally.changes += 1;
        let mut report = refused.map(|refused| format!("the change was refused: {refused}\n")).unwrap_or_default();
        for (at, (probe, answer)) in steady.iter().enumerate() {
            if lost[at] > 0 || leaked[at] > 0 {
                let _ = writeln!(report, "{answer:?} by both: {} lost, {} leaked: {probe:?}", lost[at], leaked[at]);
            }
        }
        (!report.is_empty()).then(|| {
            let (old, new) = (world::documents(before, &self.usual), world::documents(after, before));
            format!("{report}before:\n{old}\nwhat changes:\n{new}")
        })
    }

    fn changes(&mut self, tally: &mut Tally) -> Option<String> {
        let shots = vec(generate::shot(&self.scenarios.topology), 40).new_tree(&mut self.runner).unwrap().current();
        let shots: Vec<Shot> = shots.into_iter().filter(tells).collect();
        let mut documents = generate::documents().new_tree(&mut self.runner).unwrap().current();
        let mut before = state(self.scenarios, &documents, self.backend).unwrap();
        if let Err(error) = self.rig.set(&before) {
            return Some(format!("{error}\n{}", world::documents(&before, &self.usual)));
        }
        for at in 0..CHANGES {
            let last = self.backend;
            if at == SWITCH {
                self.backend = self.other_backend();
            } else {
                documents = self.neighbour(&documents);
            }
            let after = state(self.scenarios, &documents, self.backend).unwrap();
            let at_once = [last, self.backend] == [Backend::Nftables; 2];
            let steady = self.steady(&shots, [&before, &after], at_once);
            if let Some(report) = self.change(&before, &after, &steady, tally) {
                return Some(report);
            }
            if let Err(error) = self.rig.is_written_by(self.backend) {
                return Some(error.to_string());
            }
            before = after;
        }
        None
    }

    /// Another back end, if there is a choice.
    fn other_backend(&mut self) -> Backend {
        let mut others = Backend::chosen();
        others.retain(|backend| *backend != self.backend);
        let die = any::<Index>().new_tree(&mut self.runner).unwrap().current();
        if others.is_empty() { self.backend } else { *die.get(&others) }
    }
}

/// The family of its addresses.
fn family(shot: &Shot) -> u8 {
    calico_packets::wire::family(shot.destination)
}

/// Whether each of many such packets is the first of a flow and may be sent with a source that is known beforehand.
fn tells(shot: &Shot) -> bool {
    let first =
        matches!(shot.content, Content::Udp { .. } | Content::Sctp { .. } | Content::Icmp { icmp_type: 8 | 128, .. });
    first && shot.source_port.is_none()
}

#[test]
fn while_states_change_no_packet_gets_a_verdict_of_neither() {
    let scenarios = Scenarios::read().unwrap();
    let seed = seed();
    let seconds = number("FUZZ_SECONDS").unwrap_or(30);
    println!("FUZZ_SEED={seed}");
    let (start, stop) = (Instant::now(), AtomicBool::new(false));
    let found = Mutex::new(Vec::new());
    let backends = Backend::chosen();
    thread::scope(|scope| {
        for (thread, backend) in (100..).zip(&backends) {
            let (scenarios, stop, found) = (&scenarios, &stop, &found);
            scope.spawn(move || {
                let mut walk = Walk::new(scenarios, *backend, seed, thread);
                let mut tally = Tally::default();
                while !stop.load(Ordering::Relaxed) && (seconds == 0 || start.elapsed().as_secs() < seconds) {
                    if let Some(report) = walk.changes(&mut tally) {
                        stop.store(true, Ordering::Relaxed);
                        found.lock().unwrap().push(format!("{}:\n{report}", walk.backend));
                    }
                }
                let Tally { changes, packets, allowed } = tally;
                println!("host {thread}: {packets} packets during {changes} changes, {allowed} of them allowed");
                assert!(packets > 0, "nothing was tried");
            });
        }
    });
    let found = found.into_inner().unwrap();
    assert!(found.is_empty(), "FUZZ_SEED={seed}\n{}", found.join("\n"));
}
