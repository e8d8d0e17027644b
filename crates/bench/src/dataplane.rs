//! Single changes of endpoints and profiles on hosts with few and many endpoints, from the instruction to the kernel; a
//! restart; and the heap that the engine and the dataplane keep for each endpoint of their host.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use calico_dataplane::Dataplane;
use calico_model::{Change, Kind, Profile, ProfileName, WorkloadEndpoint, WorkloadEndpointSpec};
use calico_policy::{
    Engine,
    instruction::{EndpointId, Instruction, ProfileId, Rule, RuleAction, RuleSet},
};
use miette::{IntoDiagnostic, Result, miette};

use crate::{felix, heap::Heap, report::Report, rig};

/// Numbers of endpoints on the host.
const SIZES: [usize; 2] = [10, 1000];
/// Changes of each sort; of those that need an interface, fewer.
const SAMPLES: usize = 200;
const LINKS: usize = 20;
/// A tenth of the endpoints has each of these.
const PROFILES: usize = 10;

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    for size in SIZES {
        let lab = rig::bare_lab(1)?;
        let found = felix::inside(lab.host(1), || sample(size))?;
        let name = |what: &str| format!("dataplane/{what}/{size}");
        let of = |what: &str| format!("of {size} endpoints on a host: {what}");
        for (what, time, detail) in [
            ("load", found.load, "all of them, into an empty kernel"),
            ("restart", found.restart, "everything read back and compared by a new process, nothing differs"),
        ] {
            report.add(name(what), time.as_secs_f64() * 1e3, "ms", 1, of(detail));
        }
        for (what, times, detail) in [
            ("endpoint", found.endpoint, "one more, of a known kind"),
            ("endpoint_remove", found.removal, "one less"),
            (
                "endpoint_with_route",
                found.route,
                "one more whose interface is there: rules, settings, neighbour, route",
            ),
            ("profile", found.profile, "a profile that a tenth of them has gets other rules"),
        ] {
            report.add_times(&name(what), times, &of(detail));
        }
        report.add(name("heap_per_endpoint"), found.heap as f64 / size as f64, "B", 1, of("heap of the dataplane"));
        let heap = engine_heap(size)?;
        report.add(
            format!("engine/heap_per_endpoint/{size}"),
            heap as f64 / size as f64,
            "B",
            1,
            of("heap of the engine"),
        );
    }
    Ok(())
}

struct Found {
    load: Duration,
    restart: Duration,
    endpoint: Vec<Duration>,
    removal: Vec<Duration>,
    route: Vec<Duration>,
    profile: Vec<Duration>,
    /// Bytes kept after the load, beyond those of a host without endpoints.
    heap: usize,
}

async fn sample(size: usize) -> Result<Found> {
    let mut dataplane = rig::dataplane().await?;
    for number in 0..PROFILES {
        dataplane.absorb(profile(number, 1));
    }
    rig::apply(&mut dataplane).await?;
    let heap = Heap::start();
    let load = timed(&mut dataplane, (0..size).map(numbered).collect()).await?;
    let heap = heap.now();
    let mut found = Found {
        load,
        restart: Duration::ZERO,
        endpoint: Vec::new(),
        removal: Vec::new(),
        route: Vec::new(),
        profile: Vec::new(),
        heap,
    };
    for round in 0..SAMPLES {
        found.endpoint.push(timed(&mut dataplane, vec![numbered(size + round)]).await?);
    }
    for round in 0..SAMPLES {
        let change = profile(round % PROFILES, 2 + round / PROFILES % 2);
        found.profile.push(timed(&mut dataplane, vec![change]).await?);
    }
    for round in 0..SAMPLES {
        let id = EndpointId { namespace: "bench".to_owned(), name: interface(size + round) };
        found.removal.push(timed(&mut dataplane, vec![Instruction::EndpointRemove { id }]).await?);
    }
    for round in 0..LINKS {
        let name = interface(size + round);
        rig::run(&format!("ip link add {name} type veth peer name peer{round} && ip link set peer{round} up"))?;
        rig::run(&format!("ip link set {name} up"))?;
        rig::apply(&mut dataplane).await?;
        found.route.push(timed(&mut dataplane, vec![numbered(size + round)]).await?);
    }
    drop(dataplane);
    let mut dataplane = rig::dataplane().await?;
    let mut wanted: Vec<Instruction> = (0..PROFILES).map(last_profile).collect();
    wanted.extend((0..size + LINKS).map(numbered));
    for instruction in wanted {
        dataplane.absorb(instruction);
    }
    let start = Instant::now();
    let written = rig::apply(&mut dataplane).await?;
    found.restart = start.elapsed();
    if written > 0 {
        return Err(miette!("a restart wrote {written} operations"));
    }
    Ok(found)
}

/// How long it takes until the kernel holds the changes.
async fn timed(dataplane: &mut Dataplane, changes: Vec<Instruction>) -> Result<Duration> {
    let start = Instant::now();
    for change in changes {
        dataplane.absorb(change);
    }
    if rig::apply(dataplane).await? == 0 {
        return Err(miette!("a change wrote nothing to the kernel"));
    }
    Ok(start.elapsed())
}

fn interface(number: usize) -> String {
    format!("cali{number:x}")
}

fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 65, (number / 250) as u8, (number % 250 + 1) as u8)
}

fn numbered(number: usize) -> Instruction {
    let name = interface(number);
    let mut instruction = rig::endpoint(&name, vec![IpAddr::from(address(number))], 0);
    if let Instruction::EndpointUpdate { endpoint, .. } = &mut instruction {
        endpoint.profiles = vec![ProfileId("open".to_owned()), profile_id(number % PROFILES)];
    }
    instruction
}

fn profile_id(number: usize) -> ProfileId {
    ProfileId(format!("profile-{number}"))
}

/// A profile with so many rules.
fn profile(number: usize, rules: usize) -> Instruction {
    let ingress = (0..rules).map(|_| Rule::of(RuleAction::Allow)).collect();
    let rules = RuleSet { ingress, egress: vec![Rule::of(RuleAction::Allow)] };
    Instruction::ProfileUpdate { id: profile_id(number), rules: rules.into() }
}

/// As the last change of [`sample`] left it.
fn last_profile(number: usize) -> Instruction {
    profile(number, 2 + (SAMPLES - PROFILES + number) / PROFILES % 2)
}

/// Bytes that the engine keeps for so many endpoints of its host.
fn engine_heap(size: usize) -> Result<usize> {
    let mut engine = Engine::new("host1");
    let name = ProfileName::typed("one").into_diagnostic()?;
    engine.absorb(set(Profile::classic_default(&name)));
    drop(engine.flush());
    let heap = Heap::start();
    for number in 0..size {
        let spec = WorkloadEndpointSpec {
            orchestrator: "docker".into(),
            workload: format!("w{number}"),
            node: "host1".into(),
            endpoint: "eth1".into(),
            interface_name: interface(number),
            ip_networks: vec![format!("{}/32", address(number))],
            profiles: vec!["one".into()],
            ..Default::default()
        };
        engine.absorb(set(WorkloadEndpoint::namespaced("default", format!("host1-docker-w{number}-eth1"), spec)));
    }
    drop(engine.flush());
    let programmed = engine.tally().endpoints;
    if programmed == size { Ok(heap.now()) } else { Err(miette!("{programmed} of {size} endpoints are programmed")) }
}

fn set<S: Kind>(resource: calico_model::Resource<S>) -> Change {
    Change::Set { key: resource.key(), resource: Box::new(S::into_any(resource)) }
}
