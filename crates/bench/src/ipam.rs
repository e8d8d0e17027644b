//! Address assignment against a real etcd: one host alone, and eight hosts at once over the same pool.
//!
//! An assignment is what `container add` asks for: one address under a handle of its own. Each host has a thread and a
//! connection of its own, as it would have a machine of its own. The yardstick is a single write to the same etcd, by
//! as many clients: an assignment takes several steps of such a length, one after another.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use calico_ipam::{AutoAssign, Ipam};
use calico_lab::{Host, Lab, LabOptions};
use calico_model::{IPPool, IPPoolSpec, Node, NodeSpec};
use calico_store::Store;
use miette::{IntoDiagnostic, Result, miette};

use crate::{felix, report::Report};

/// Hosts of each measure, and its name.
const CROWDS: [(usize, &str); 2] = [(1, "one"), (8, "eight")];
/// Addresses that a host takes: some blocks full, and less than the most that a host may have.
const ASSIGNMENTS: usize = 250;
/// Room for all blocks of all hosts.
const POOL: &str = "10.66.0.0/16";

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    for (hosts, name) in CROWDS {
        let lab = Lab::up(&LabOptions { docker: false, ..LabOptions::hosts(1) }).into_diagnostic()?;
        let (host, endpoints) = (lab.host(1), lab.etcd().endpoints());
        felix::inside(host, || prepare(&endpoints, hosts))?;
        let detail = format!("yardstick: one key created in etcd; {hosts} clients at once");
        let writes = Round::run(host, &endpoints, hosts, write)?;
        let rate = writes.report(report, &format!("ipam/etcd_write/{name}"), &detail);
        let assigned = Round::run(host, &endpoints, hosts, assign)?;
        let detail = format!("one address under its own handle; {hosts} hosts at once; etcd alone writes {rate:.0}/s");
        assigned.report(report, &format!("ipam/assign/{name}"), &detail);
        felix::inside(host, || check(&endpoints, hosts))?;
    }
    Ok(())
}

async fn prepare(endpoints: &str, hosts: usize) -> Result<()> {
    let store = felix::store(endpoints)?;
    let cidr = POOL.parse().into_diagnostic()?;
    store.create(IPPool::new("pool", IPPoolSpec { cidr, ..Default::default() })).await.into_diagnostic()?;
    for number in 0..hosts {
        store.create(Node::new(node(number), NodeSpec::default())).await.into_diagnostic()?;
    }
    Ok(())
}

fn node(number: usize) -> String {
    format!("node{number}")
}

/// The yardstick's unit of work.
async fn write(store: &Store, host: usize, number: usize) -> Result<()> {
    let key = format!("/bench/{host}/{number}");
    // About as long as a block is in JSON.
    store.kv().create(&key, vec![b'x'; 500]).await.into_diagnostic().map(drop)
}

async fn assign(store: &Store, host: usize, number: usize) -> Result<()> {
    let handle = Some(format!("bench.{host}.{number}").as_str().into());
    let request = AutoAssign { host: node(host), num4: 1, handle, ..AutoAssign::default() };
    let assigned = Ipam::new(store.clone()).auto_assign(request).await.into_diagnostic()?;
    if assigned.v4.len() == 1 { Ok(()) } else { Err(miette!("{} addresses were assigned, not one", assigned.v4.len())) }
}

/// Numbers of addresses that are not held, or held twice, would be worth nothing.
async fn check(endpoints: &str, hosts: usize) -> Result<()> {
    let blocks = Ipam::new(felix::store(endpoints)?).all_blocks().await.into_diagnostic()?;
    let held: usize = blocks.iter().map(|block| block.allocations.iter().flatten().count()).sum();
    if held == hosts * ASSIGNMENTS {
        return Ok(());
    }
    Err(miette!("{} addresses were assigned, but {held} are held", hosts * ASSIGNMENTS))
}

async fn connect(endpoints: &str) -> Result<Store> {
    let store = felix::store(endpoints)?;
    store.kv().get("/bench").await.into_diagnostic()?;
    Ok(store)
}

/// What all hosts together did in one go.
struct Round {
    /// From the common start to the end of the last.
    wall: Duration,
    /// Of each piece of work.
    times: Vec<Duration>,
}

impl Round {
    /// Has `hosts` clients do the same work [`ASSIGNMENTS`] times each, at the same time.
    fn run(
        host: &Host,
        endpoints: &str,
        hosts: usize,
        work: impl AsyncFn(&Store, usize, usize) -> Result<()> + Copy + Sync + Send,
    ) -> Result<Self> {
        let begin = Barrier::new(hosts);
        let client = |number: usize| {
            felix::inside(host, || async {
                // The connection is made at the first question, which is not what is measured. Everybody must come to the
                // barrier, also after a failure.
                let connected = connect(endpoints).await;
                begin.wait();
                let store = connected?;
                let start = Instant::now();
                let mut times = Vec::with_capacity(ASSIGNMENTS);
                for turn in 0..ASSIGNMENTS {
                    let start = Instant::now();
                    work(&store, number, turn).await?;
                    times.push(start.elapsed());
                }
                Ok((start, Instant::now(), times))
            })
        };
        let outcomes: Vec<Result<(Instant, Instant, Vec<Duration>)>> = thread::scope(|scope| {
            let clients: Vec<_> = (0..hosts).map(|number| scope.spawn(move || client(number))).collect();
            let outcome = |client: thread::ScopedJoinHandle<'_, _>| {
                client.join().unwrap_or_else(|_| Err(miette!("a client panicked")))
            };
            clients.into_iter().map(outcome).collect()
        });
        let (mut starts, mut ends, mut times) = (Vec::new(), Vec::new(), Vec::new());
        for outcome in outcomes {
            let (start, end, own) = outcome?;
            starts.push(start);
            ends.push(end);
            times.extend(own);
        }
        let first = starts.into_iter().min().ok_or_else(|| miette!("no client"))?;
        let wall = ends.into_iter().max().map_or(Duration::ZERO, |last| last - first);
        Ok(Self { wall, times })
    }

    /// Returns how many there were in a second.
    fn report(self, report: &mut Report, name: &str, detail: &str) -> f64 {
        let rate = self.times.len() as f64 / self.wall.as_secs_f64();
        report.add(format!("{name}/per_second"), rate, "/s", self.times.len(), detail);
        report.add_times(name, self.times, detail);
        rate
    }
}
