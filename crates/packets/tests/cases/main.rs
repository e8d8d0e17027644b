//! The cases of the reference's section 7, with real packets between real rules, over each back end.
//!
//! `policy.yaml` and `hosts.yaml` hold one document per case, `published.yaml` those of our own after them: `case`, `about`, and `steps`, or `not applicable` with
//! the reason. What a step may have, in the order in which it happens:
//!
//! - `backends`: the back ends for which it is; all if absent.
//! - `agents`: `stop` or `start` them. `close`: kept connections to end. `delete`: resources by `Kind/namespace/name`.
//! - `apply`: resources, as `Kind [namespace/]name: {spec}`; `labels` among the spec go where they belong.
//!   `endpoints` and `config`: as in the vectors' page.
//! - `sh`: a script on host A; `$IPTABLES` and `$IP6TABLES` are the programs of the back end. `in`: scripts elsewhere.
//! - `probes`: `[v4|v6] FROM TO PROTOCOL [PORT|TYPE[/CODE]] [option=value…] EXPECTED`. Without a family, both are tried
//!   (only that of an address among the options). Expected is `pass`, `drop`, `reject`, `closed`, or `refused` for
//!   either of `drop` and `reject`; `there` among the options: at the place that is named, not only at somebody. With `eventually: true` they are repeated until all are as expected.
//! - `flood`: so many packets at once, of which at least and at most so many arrive.
//! - `check`: a script on host A that must succeed. `undo`, `undo in`: scripts that run after the case in any event.
//! - `closed`: kinds of which the engine must say that it governs one closed. `problems`: the dataplane may have some.

#![allow(clippy::unwrap_used)]

mod notation;

use std::{
    fmt::Write as _,
    io,
    sync::Mutex,
    time::{Duration, Instant},
};

use calico_model::input;
use calico_packets::{
    Answer, Applied, Backend, Outcome, Probe, Rig, pair,
    rig::{self, SILENCE},
    scenario::Cluster,
    topology::{list, text},
};
use notation::{Line, parse, resource};
use serde_json::Value;

/// So many pairs of hosts work at a time.
const PAIRS: usize = 3;
/// How long is waited for what must happen.
const LIMIT: Duration = Duration::from_secs(10);

fn cases() -> Vec<Value> {
    let files = [include_str!("policy.yaml"), include_str!("hosts.yaml"), include_str!("published.yaml")];
    let documents = files.iter().flat_map(|file| input::documents(file).unwrap());
    documents.filter(|document| document.is_object()).collect()
}

/// The ports that the cases ask for, of a protocol.
fn ports(cases: &[Value], protocol: &str) -> Vec<u16> {
    let mut ports: Vec<u16> = all_probes(cases)
        .map(|line| line.split(' ').skip_while(|word| *word != protocol).nth(1).and_then(|port| port.parse().ok()))
        .collect::<Vec<Option<u16>>>()
        .into_iter()
        .flatten()
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn all_probes(cases: &[Value]) -> impl Iterator<Item = &str> {
    let steps = cases.iter().flat_map(|case| list(case, "steps"));
    steps.flat_map(|step| list(step, "probes")).filter_map(Value::as_str)
}

/// One case under way.
struct Run<'a> {
    rig: &'a mut Rig,
    cluster: Cluster,
    backend: Backend,
    faults: Vec<String>,
}

impl Run<'_> {
    fn step(&mut self, step: &Value) -> io::Result<()> {
        match text(step, "agents") {
            "stop" => self.rig.stop_agents(),
            "start" => self.rig.start_agents()?,
            _ => {}
        }
        for name in list(step, "close") {
            self.rig.prober.close_flow(name.as_str().unwrap());
        }
        self.change(step)?;
        self.scripts(step, "sh", "in")?;
        self.probes(step)?;
        if step["flood"].is_object() {
            self.flood(&step["flood"])?;
        }
        if let Some(check) = step["check"].as_str()
            && let Err(error) = self.rig.hosts()[0].namespace.sh(check)
        {
            self.faults.push(format!("{check}: {error}"));
        }
        Ok(())
    }

    /// Brings the datastore to what the step says.
    fn change(&mut self, step: &Value) -> io::Result<()> {
        let kinds = ["delete", "apply", "endpoints", "config"];
        if kinds.iter().all(|kind| step[*kind].is_null()) {
            return Ok(());
        }
        for name in list(step, "delete") {
            self.cluster.delete(name.as_str().unwrap())?;
        }
        for shorthand in list(step, "apply") {
            self.cluster.add(resource(shorthand))?;
        }
        for endpoint in list(step, "endpoints") {
            self.cluster.endpoint(endpoint.clone());
        }
        for (field, value) in step["config"].as_object().into_iter().flatten() {
            self.cluster.configure(field, value.clone());
        }
        let Applied { closed, problems } = self.rig.set(&self.cluster.state()?)?;
        if !problems.is_empty() && step["problems"] != true {
            self.faults.push(format!("problems: {problems:?}"));
        }
        for kind in list(step, "closed").iter().filter_map(Value::as_str) {
            let kind = kind.to_lowercase();
            if !closed.iter().any(|closed| closed.to_lowercase().contains(&kind)) {
                self.faults.push(format!("no {kind} is reported as closed: {closed:?}"));
            }
        }
        Ok(())
    }

    fn scripts(&self, step: &Value, here: &str, elsewhere: &str) -> io::Result<()> {
        let (v4, v6) = match self.backend {
            Backend::IptablesLegacy => ("iptables-legacy", "ip6tables-legacy"),
            Backend::Nftables | Backend::IptablesNft => ("iptables-nft", "ip6tables-nft"),
        };
        if let Some(script) = step[here].as_str() {
            let script = format!("IPTABLES={v4} IP6TABLES={v6}\n{script}");
            self.rig.hosts()[0].namespace.sh(&script)?;
        }
        for (place, script) in step[elsewhere].as_object().into_iter().flatten() {
            let at = pair::PLACES.iter().position(|name| name == place).unwrap();
            self.rig.prober.places()[at].namespace.sh(script.as_str().unwrap())?;
        }
        Ok(())
    }

    fn probes(&mut self, step: &Value) -> io::Result<()> {
        let lines: Vec<Line> = list(step, "probes").iter().flat_map(|line| parse(line.as_str().unwrap())).collect();
        let probes: Vec<Probe> = lines.iter().map(|line| line.probe.clone()).collect();
        let hoped: Vec<Answer> = lines.iter().map(|line| line.expected.answer()).collect();
        let start = Instant::now();
        loop {
            let outcomes = self.rig.probe_expecting(&probes, &hoped)?;
            let faults: Vec<String> =
                lines.iter().zip(&outcomes).filter_map(|(line, outcome)| line.fault(outcome)).collect();
            if faults.is_empty() || step["eventually"] != true || start.elapsed() > LIMIT {
                self.faults.extend(faults);
                return Ok(());
            }
        }
    }

    /// Many datagrams at once.
    fn flood(&mut self, flood: &Value) -> io::Result<()> {
        let number = |member: &str| usize::try_from(flood[member].as_u64().unwrap()).unwrap();
        // Nobody answers these, so nothing else counts.
        let line = format!("v4 {} {} sctp 8055 pass", text(flood, "from"), text(flood, "to"));
        let probe = parse(&line)[0].probe.clone();
        let probes = vec![probe; number("count")];
        let outcomes = self.rig.probe(&probes, SILENCE)?;
        let arrived = outcomes.iter().filter(|Outcome { answer, .. }| *answer == Answer::Allow).count();
        if arrived < number("least") || arrived > number("most") {
            self.faults.push(format!("{arrived} of {} packets arrived", probes.len()));
        }
        Ok(())
    }
}

/// Plays a case; what is wrong.
fn play(rig: &mut Rig, case: &Value, backend: Backend) -> Vec<String> {
    let cluster = Cluster::new(pair::endpoints(), pair::resources(), backend).unwrap();
    let applied = rig.set(&cluster.state().unwrap()).unwrap();
    assert!(applied.problems.is_empty(), "before case {}: {:?}", case["case"], applied.problems);
    rig.is_written_by(backend).unwrap();
    rig.forget_connections().unwrap();
    let mut run = Run { rig, cluster, backend, faults: Vec::new() };
    let steps = list(case, "steps");
    for (at, step) in steps.iter().enumerate() {
        let name = backend.to_string();
        let ours = step["backends"].is_null() || list(step, "backends").iter().any(|backend| *backend == name);
        if !ours {
            continue;
        }
        let before = run.faults.len();
        if let Err(error) = run.step(step) {
            run.faults.push(error.to_string());
        }
        for fault in &mut run.faults[before..] {
            fault.insert_str(0, &format!("step {}: ", at + 1));
        }
    }
    // A step that did not happen has nothing to undo, and what undoes does not mind.
    for step in steps {
        let undo = |script: &str| format!("({script}) 2>/dev/null || true");
        let mut undone = step.clone();
        if let Some(script) = step["undo"].as_str() {
            undone["undo"] = undo(script).into();
        }
        if let Err(error) = run.scripts(&undone, "undo", "undo in") {
            run.faults.push(format!("undo: {error}"));
        }
    }
    run.faults
}

fn run(backend: Backend) {
    let cases = cases();
    let only = std::env::var("ONLY").unwrap_or_default();
    let chosen: Vec<&Value> = cases
        .iter()
        .filter(|case| only.is_empty() || only.split(',').any(|n| n.parse::<u64>().ok() == case["case"].as_u64()))
        .collect();
    let (tcp, udp) = (ports(&cases, "tcp"), ports(&cases, "udp"));
    let (left_out, played): (Vec<&Value>, Vec<&Value>) =
        chosen.iter().partition(|case| case["not applicable"].is_string());
    let faults = Mutex::new(String::new());
    rig::spread(
        PAIRS,
        &played,
        || pair::build(&tcp, &udp).unwrap(),
        |rig, case| {
            for fault in play(rig, case, backend) {
                let about = text(case, "about");
                let _ = writeln!(faults.lock().unwrap(), "case {} ({about}): {fault}", case["case"]);
            }
        },
    );
    for case in &left_out {
        println!("case {} is not applicable: {}", case["case"], text(case, "not applicable"));
    }
    println!("{backend}: {} cases played, {} not applicable", played.len(), left_out.len());
    let faults = faults.into_inner().unwrap();
    assert!(faults.is_empty(), "{backend}:\n{faults}");
}

#[test]
fn every_case_of_the_reference_is_here() {
    let mut numbers: Vec<u64> = cases().iter().map(|case| case["case"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=114).collect::<Vec<u64>>());
    for case in cases() {
        let steps = list(&case, "steps");
        assert!(steps.is_empty() == case["not applicable"].is_string(), "case {}: {case}", case["case"]);
    }
    for line in all_probes(&cases()) {
        assert!(!parse(line).is_empty(), "{line}");
    }
}

#[test]
fn cases_over_nftables() {
    run(Backend::Nftables);
}

#[test]
fn cases_over_iptables_nft() {
    run(Backend::IptablesNft);
}

#[test]
fn cases_over_iptables_legacy() {
    run(Backend::IptablesLegacy);
}
