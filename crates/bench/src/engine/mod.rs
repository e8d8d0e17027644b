//! The policy engine alone: whole clusters from nothing, and one change in a large one.
//!
//! Resources are fed typed, as upstream's benchmark feeds its engine; that is the headline. Beside it stands the same
//! with each resource read from its stored JSON, as an agent gets it. They are made in batches outside of what is
//! timed, and the heap counts beyond what was there before, so that generators cost neither time nor memory.

mod change;
mod population;
mod selectors;

use std::time::{Duration, Instant};

use calico_model::{AnyResource, Change, Revision};
use calico_policy::{Engine, instruction::Instruction};
use miette::{Result, miette};

use crate::{cpu, heap::Heap, report::Report};
use population::{LOCAL, LOCAL_ENDPOINTS, Resources};

/// Resources that are made at a time: as many as a syncer hands over at once.
const BATCH: usize = 256;
/// Endpoints of the measured host in the tenants' clusters.
const LOCAL_TENANTS: usize = 100;
/// The largest cluster: endpoints and tag policies.
const LARGE: (usize, usize) = (250_000, 10_000);

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    let (endpoints, policies) = LARGE;
    let large = || population::snapshot(endpoints, policies, 0);
    let engine = whole(report, "engine/snapshot_250k_10k", endpoints, LOCAL_ENDPOINTS, large)?;
    change::measure(report, engine, endpoints)?;
    for (name, sets) in [("engine/snapshot_10k_netset1k", 1000), ("engine/snapshot_10k_netset10k", 10_000)] {
        whole(report, name, 10_000, LOCAL_ENDPOINTS, || population::snapshot(10_000, 0, sets))?;
    }
    for (name, tenants) in [("1k", 1000), ("10k", 10_000), ("100k", 100_000)] {
        let name = format!("engine/tenants_{name}");
        whole(report, &name, tenants, LOCAL_TENANTS, || population::tenants(tenants, LOCAL_TENANTS))?;
    }
    selectors::measure(report)
}

/// A cluster from nothing: once typed, with its memory, and once from JSON.
fn whole(
    report: &mut Report,
    name: &str,
    endpoints: usize,
    local: usize,
    cluster: impl Fn() -> Resources,
) -> Result<Engine> {
    let heap = Heap::start();
    let mut engine = Engine::new(LOCAL);
    let mut fed = 0;
    let mut spent = feed(&mut engine, cluster(), &mut fed, set);
    let watch = Watch::start();
    let instructions = engine.flush();
    spent.add(&watch);
    let peak = heap.peak();
    let found = Tally::of(&instructions);
    let messages = instructions.len();
    drop(instructions);
    let kept = heap.now();
    check(&engine, &found, local)?;
    let detail = format!("{fed} typed resources; {found}");
    report.add(format!("{name}/seconds"), spent.wall.as_secs_f64(), "s", 1, &detail);
    report.add(
        format!("{name}/cpu_seconds"),
        spent.cpu.as_secs_f64(),
        "s",
        1,
        "the same without what others ran meanwhile",
    );
    report.add(format!("{name}/peak_mb"), megabytes(peak), "MB", 1, "most heap at a time, instructions included");
    report.add(format!("{name}/kept_mb"), megabytes(kept), "MB", 1, "heap of the engine alone, afterwards");
    let each = kept as f64 / (endpoints + local) as f64;
    report.add(format!("{name}/bytes_per_endpoint"), each, "B", 1, "heap of the engine by endpoints of the cluster");
    report.add(format!("{name}/messages"), messages as f64, "", 1, "instructions of the first flush");
    let json = from_json(cluster());
    report.add(format!("{name}/json_seconds"), json.wall.as_secs_f64(), "s", 1, "the same, read from the stored JSON");
    Ok(engine)
}

/// Feeds a cluster and returns the time that the engine took, and what `change` did to each resource with it.
fn feed<T>(
    engine: &mut Engine,
    mut resources: impl Iterator<Item = T>,
    fed: &mut usize,
    change: impl Fn(T) -> Change,
) -> Spent {
    let mut spent = Spent::default();
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        batch.extend(resources.by_ref().take(BATCH));
        if batch.is_empty() {
            return spent;
        }
        *fed += batch.len();
        let watch = Watch::start();
        for resource in batch.drain(..) {
            engine.absorb(change(resource));
        }
        spent.add(&watch);
    }
}

fn set(resource: AnyResource) -> Change {
    Change::Set { key: resource.key(), resource: Box::new(resource) }
}

fn from_json(cluster: Resources) -> Spent {
    let mut engine = Engine::new(LOCAL);
    let stored = cluster.map(|resource| (resource.key(), resource.to_json()));
    let mut spent = feed(&mut engine, stored, &mut 0, |(key, json)| {
        AnyResource::decode_valid(&key, &json, Revision(1))
            .map_or_else(Change::from, |resource| Change::Set { key, resource: Box::new(resource) })
    });
    let watch = Watch::start();
    let instructions = engine.flush();
    spent.add(&watch);
    drop(instructions);
    spent
}

/// Time by the clock, and of this thread alone.
#[derive(Default)]
struct Spent {
    wall: Duration,
    cpu: Duration,
}

impl Spent {
    fn add(&mut self, watch: &Watch) {
        self.wall += watch.wall.elapsed();
        self.cpu += cpu::of_this_thread().saturating_sub(watch.cpu);
    }
}

struct Watch {
    wall: Instant,
    cpu: Duration,
}

impl Watch {
    fn start() -> Self {
        Self { cpu: cpu::of_this_thread(), wall: Instant::now() }
    }
}

/// A number is worth nothing if the engine did not do the work.
fn check(engine: &Engine, found: &Tally, local: usize) -> Result<()> {
    if let Some(problem) = engine.problems().first() {
        return Err(miette!("the engine cannot follow {problem:?}"));
    }
    if found.endpoints != local || found.policies == 0 || found.members == 0 {
        return Err(miette!("the engine should program {local} endpoints with policies and sets, but: {found}"));
    }
    Ok(())
}

/// What a flush consists of.
#[derive(Default)]
struct Tally {
    endpoints: usize,
    policies: usize,
    sets: usize,
    members: usize,
}

impl Tally {
    fn of(instructions: &[Instruction]) -> Self {
        let mut tally = Self::default();
        for instruction in instructions {
            match instruction {
                Instruction::EndpointUpdate { .. } => tally.endpoints += 1,
                Instruction::PolicyUpdate { .. } => tally.policies += 1,
                Instruction::SetReplace { members, .. } => {
                    tally.sets += 1;
                    tally.members += members.len();
                }
                _ => {}
            }
        }
        tally
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { endpoints, policies, sets, members } = self;
        write!(f, "{endpoints} endpoints, {policies} policies, {sets} sets with {members} members programmed")
    }
}

fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The time until a change is absorbed and its instructions are there, and how many those are.
fn timed(engine: &mut Engine, change: Change) -> (Duration, usize) {
    let start = Instant::now();
    engine.absorb(change);
    let instructions = engine.flush();
    (start.elapsed(), instructions.len())
}
