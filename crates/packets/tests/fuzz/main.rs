//! The differential fuzzer: what the kernel does to real packets is what the oracle says, in random clusters.
//!
//! A host per thread goes from one random cluster to the next and sends random packets in each. Of the first
//! difference the smallest cluster that still shows it is printed, as documents, with the packet and the oracle's
//! reasons.
//!
//! FUZZ_SECONDS says for how long (a minute if absent, 0 for ever), FUZZ_SEED where it begins, BACKENDS over which back ends.

#![allow(clippy::unwrap_used)]

mod changes;
mod generate;
mod world;

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use calico_packets::{Backend, Rig, Scenarios, State};
use generate::{Documents, Shot};
use proptest::{
    collection::vec,
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use world::{differences, report, state};

/// How long a packet that should arrive is waited for when it did not at once.
const PATIENCE: [Duration; 2] = [Duration::from_millis(400), Duration::from_secs(1)];
/// How many packets go out in each cluster.
const SHOTS: std::ops::Range<usize> = 200..300;
/// How many smaller clusters are tried.
const SMALLER: usize = 400;

pub(crate) fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text}: it is a number")))
}

/// Where the random numbers begin.
pub(crate) fn seed() -> u64 {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    number("FUZZ_SEED").unwrap_or_else(now)
}

/// What is counted.
#[derive(Default)]
struct Tally {
    clusters: AtomicUsize,
    packets: AtomicUsize,
    /// Those of the packets that got through.
    allowed: AtomicUsize,
}

/// One host on its way through random clusters.
pub(crate) struct Walk<'a> {
    pub(crate) scenarios: &'a Scenarios,
    pub(crate) backend: Backend,
    /// What stands in a cluster without documents.
    pub(crate) usual: State,
    pub(crate) rig: Rig,
    pub(crate) runner: TestRunner,
    /// How many packets got through last.
    allowed: usize,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(scenarios: &'a Scenarios, backend: Backend, seed: u64, thread: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&thread.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let runner = TestRunner::new_with_rng(Config { failure_persistence: None, ..Config::default() }, rng);
        let usual = state(scenarios, &Documents::default(), backend).unwrap();
        Self { scenarios, backend, usual, rig: Rig::new(&scenarios.topology).unwrap(), runner, allowed: 0 }
    }

    /// A cluster and what differs in it.
    fn try_out(&mut self, documents: &Documents, shots: &[Shot]) -> Vec<Finding> {
        let topology = &self.scenarios.topology;
        let state = state(self.scenarios, documents, self.backend).unwrap();
        let refused = match self.rig.set(&state) {
            Ok(applied) if applied.problems.is_empty() => None,
            Ok(applied) => Some(applied.problems.join("\n")),
            Err(error) => Some(error.to_string()),
        };
        if let Some(refused) = refused {
            let text = format!("the kernel does not take it: {refused}\n{}", world::documents(&state, &self.usual));
            return vec![Finding { shot: None, text }];
        }
        self.rig.forget_connections().unwrap();
        let (found, allowed) = differences(&mut self.rig, topology, &state, shots, &PATIENCE).unwrap();
        self.allowed = allowed;
        let found = found.into_iter().map(|mismatch| {
            let text = report(topology, &state, &self.usual, &mismatch);
            Finding { shot: Some(mismatch.shot), text }
        });
        found.collect()
    }

    /// One random cluster; the report of a difference.
    fn step(&mut self, tally: &Tally) -> Option<String> {
        let shots = vec(generate::shot(&self.scenarios.topology), SHOTS).new_tree(&mut self.runner).unwrap().current();
        let mut tree = generate::documents().new_tree(&mut self.runner).unwrap();
        let before = self.rig.standing().clone();
        let found = self.try_out(&tree.current(), &shots);
        tally.clusters.fetch_add(1, Ordering::Relaxed);
        tally.packets.fetch_add(shots.len(), Ordering::Relaxed);
        tally.allowed.fetch_add(self.allowed, Ordering::Relaxed);
        let first = found.into_iter().next()?;
        // Alone, and on a host that comes from an empty cluster?
        let shot: Vec<Shot> = first.shot.into_iter().collect();
        self.try_out(&Documents::default(), &[]);
        let Some(mut smallest) = self.try_out(&tree.current(), &shot).pop() else {
            let before = world::documents(&before, &self.usual);
            return Some(format!("only after this cluster:\n{before}\nthis one differs:\n{}", first.text));
        };
        let mut simpler = tree.simplify();
        for _ in 0..SMALLER {
            if !simpler {
                break;
            }
            match self.try_out(&tree.current(), &shot).pop() {
                Some(finding) => {
                    smallest = finding;
                    simpler = tree.simplify();
                }
                None => simpler = tree.complicate(),
            }
        }
        Some(smallest.text)
    }
}

/// Something that is not as it should be.
struct Finding {
    /// The packet that shows it, if it takes one.
    shot: Option<Shot>,
    text: String,
}

#[test]
fn the_kernel_does_what_the_oracle_says() {
    let scenarios = Scenarios::read().unwrap();
    let seed = seed();
    let seconds = number("FUZZ_SECONDS").unwrap_or(60);
    println!("FUZZ_SEED={seed}");
    let backends = Backend::chosen();
    let (start, stop) = (Instant::now(), AtomicBool::new(false));
    let found = Mutex::new(Vec::new());
    let tallies: Vec<Tally> = backends.iter().map(|_| Tally::default()).collect();
    // Most of the time is waiting for silence, so twice as many hosts as back ends do no harm.
    let hosts = backends.iter().zip(&tallies).flat_map(|host| [host, host]);
    thread::scope(|scope| {
        for (thread, (backend, tally)) in (0..).zip(hosts) {
            let (scenarios, stop, found) = (&scenarios, &stop, &found);
            scope.spawn(move || {
                let mut walk = Walk::new(scenarios, *backend, seed, thread);
                while !stop.load(Ordering::Relaxed) && (seconds == 0 || start.elapsed().as_secs() < seconds) {
                    if let Some(report) = walk.step(tally) {
                        stop.store(true, Ordering::Relaxed);
                        found.lock().unwrap().push(format!("{backend}:\n{report}"));
                    }
                }
            });
        }
    });
    for (backend, tally) in backends.iter().zip(&tallies) {
        let [clusters, packets, allowed] =
            [&tally.clusters, &tally.packets, &tally.allowed].map(|count| count.load(Ordering::Relaxed));
        println!("{backend}: {packets} packets in {clusters} clusters, {allowed} of them got through");
    }
    let found = found.into_inner().unwrap();
    assert!(found.is_empty(), "FUZZ_SEED={seed}\n{}", found.join("\n"));
    assert!(tallies.iter().all(|tally| tally.allowed.load(Ordering::Relaxed) > 0), "nothing was tried");
}
