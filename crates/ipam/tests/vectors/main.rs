//! Sequences and block orders recorded from upstream's own IPAM library, run against ours: the same calls must give
//! the same results, the same faults, the same writes in the same order and the same keys and values. The folder is
//! the repository's `vectors`, or the one that the environment variable `VECTORS` names.
//!
//! Where ours differs on purpose, [`expected`] says so.

#![allow(clippy::unwrap_used)]

mod expected;
mod operation;
mod recorder;

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, sync::Arc};

use calico_ipam::{Backoff, Config, Ipam, block_key};
use calico_model::{IPPool, IPPoolSpec, IPReservation, IPReservationSpec, KindName, Node, NodeSpec, ResourceKey};
use calico_store::Store;
use expected::Differences;
use ipnet::IpNet;
use operation::{ConfigWords, Operation, Outcome};
use recorder::Recorder;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

/// Sequences that do not pass, each with the reason; one that passes must not be listed.
const NOT_YET: &[(&str, &str)] = &[];

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Vector {
    Sequence(Sequence),
    BlockOrder(BlockOrder),
    Generator {},
}

#[derive(Deserialize)]
struct BlockOrder {
    name: String,
    host: String,
    pool: IpNet,
    block_size: u8,
    first_blocks: Vec<IpNet>,
    complete: bool,
}

#[derive(Deserialize)]
struct Sequence {
    name: String,
    pools: Vec<PoolWords>,
    nodes: Vec<NodeWords>,
    config: Option<ConfigWords>,
    #[serde(default)]
    reservations: Vec<ReservationWords>,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct PoolWords {
    name: String,
    spec: Value,
}

#[derive(Deserialize)]
struct NodeWords {
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct ReservationWords {
    name: String,
    cidrs: Vec<String>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    #[serde(rename = "do")]
    operation: Operation,
    fault: Option<String>,
    result: Option<Value>,
    #[serde(default)]
    writes: Vec<String>,
    #[serde(default)]
    writes_sorted: bool,
    state: Option<BTreeMap<String, Value>>,
}

fn vectors() -> Vec<Vector> {
    let folder = std::env::var_os("VECTORS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors")), PathBuf::from);
    let path = folder.join("ipam.json");
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

struct World {
    recorder: Recorder,
    store: Store,
    ipam: Ipam,
}

impl World {
    fn new() -> Self {
        let recorder = Recorder::new();
        let store = Store::new(Arc::new(recorder.clone()));
        Self { recorder, ipam: Ipam::new(store.clone()).with_backoff(Backoff::NONE), store }
    }

    async fn prepared(sequence: &Sequence) -> Self {
        let world = Self::new();
        for pool in &sequence.pools {
            world.create_pool(&pool.name, &pool.spec).await.unwrap();
        }
        for node in &sequence.nodes {
            world.create_node(&node.name, node.labels.clone()).await;
        }
        for ReservationWords { name, cidrs } in &sequence.reservations {
            let spec = IPReservationSpec { reserved_cidrs: cidrs.clone(), ..Default::default() };
            world.store.create(IPReservation::new(name, spec)).await.unwrap();
        }
        if let Some(words) = &sequence.config {
            world.ipam.set_config(Config::from(words.clone())).await.unwrap();
        }
        world.recorder.take_writes();
        world
    }

    async fn create_pool(&self, name: &str, spec: &Value) -> Result<(), calico_store::Error> {
        let spec: IPPoolSpec = serde_json::from_value(spec.clone()).unwrap();
        self.store.create(IPPool::new(name, spec)).await.map(|_| ())
    }

    async fn create_node(&self, name: &str, labels: BTreeMap<String, String>) {
        let mut node = Node::new(name, NodeSpec::default());
        node.metadata.labels = labels;
        self.store.create(node).await.unwrap();
    }

    async fn run(&self, operation: Operation) -> Outcome {
        self.recorder.inject(operation.injections());
        let ours = operation.run(&self.ipam, |address| self.base_of(address)).await;
        match ours {
            Ok(outcome) => outcome,
            Err(operation) => self.run_around(operation).await,
        }
    }

    /// What an administrator or another process does.
    async fn run_around(&self, operation: Operation) -> Outcome {
        let pool_key = |name: &str| ResourceKey::new(KindName::IPPool, None, name);
        match operation {
            Operation::Put(put) => self.recorder.put(&put),
            Operation::SetNodeLabels { name, labels } => {
                let key = ResourceKey::new(KindName::Node, None, &name);
                let change = |node: &mut Node| {
                    node.metadata.labels = labels.clone();
                    Ok::<_, calico_store::Error>(())
                };
                self.store.modify::<NodeSpec, _>(&key, change).await.unwrap();
            }
            Operation::CreatePool { name, spec } => {
                let Err(error) = self.create_pool(&name, &spec).await else { return Outcome::default() };
                let calico_store::Error::Invalid(invalid) = error else { panic!("{error}") };
                let whole =
                    invalid.faults.iter().any(|fault| fault.path == "spec.cidr" || fault.reason.contains("pool"));
                let fault = if whole { "validation-pool-smaller-than-block" } else { "validation-block-size" };
                return Outcome { fault: Some(fault), result: None };
            }
            Operation::UpdatePool { name, spec } => self.update_pool(&pool_key(&name), &spec).await,
            Operation::DeletePool { name } => {
                self.update_pool(&pool_key(&name), &json!({"disabled": true})).await;
                let pool = self.store.get::<IPPoolSpec>(&name).await.unwrap();
                self.ipam.release_pool_affinities(pool.spec.cidr).await.unwrap();
                self.store.delete(&pool).await.unwrap();
            }
            other => panic!("{other:?} was not run"),
        }
        Outcome::default()
    }

    async fn update_pool(&self, key: &ResourceKey, changes: &Value) {
        let change = |pool: &mut IPPool| {
            let mut spec = serde_json::to_value(&pool.spec).unwrap();
            spec.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
            pool.spec = serde_json::from_value(spec).unwrap();
            Ok::<_, calico_store::Error>(())
        };
        self.store.modify::<IPPoolSpec, _>(key, change).await.unwrap();
    }

    /// The number that the sequence numbers of an address's block are relative to. Blocks of the vectors that use
    /// sequence numbers are /29.
    fn base_of(&self, address: IpAddr) -> u64 {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        (0..=bits)
            .map(|len| self.recorder.base(&block_key(IpNet::new(address, len).unwrap().trunc())))
            .find(|base| *base != 0)
            .unwrap_or(0)
    }

    /// The state in the words of the vectors: relative sequence numbers, and `NOW`.
    async fn state(&self) -> BTreeMap<String, Value> {
        let state = self.recorder.state().await;
        let words = |(key, value): (String, Vec<u8>)| {
            if value.is_empty() {
                return (key, json!(""));
            }
            let base = self.recorder.base(&format!("{}{key}", recorder::ROOT));
            let mut words: Value = serde_json::from_slice(&value).unwrap();
            if key.starts_with("assignment/") {
                relative(&mut words["sequenceNumber"], base);
                let sequences = words["sequenceNumberForAllocation"].as_object_mut().unwrap();
                sequences.values_mut().for_each(|sequence| relative(sequence, base));
                now(words.get_mut("affinity_claim_time"));
                let attributes = words["attributes"].as_array_mut();
                attributes.into_iter().flatten().for_each(|attribute| now(attribute.get_mut("releasedAt")));
            }
            (key, words)
        };
        state.into_iter().map(words).collect()
    }
}

fn relative(sequence: &mut Value, base: u64) {
    *sequence = json!(sequence.as_u64().unwrap() - base);
}

fn now(time: Option<&mut Value>) {
    let Some(time) = time else { return };
    let text = time.as_str().unwrap();
    let at = OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).unwrap();
    if (OffsetDateTime::now_utc() - at).whole_seconds().abs() < 60 {
        *time = json!("NOW");
    }
}

async fn run_sequence(sequence: &Sequence) -> Result<(), String> {
    let world = World::prepared(sequence).await;
    let mut differences = Differences::default();
    for (number, step) in sequence.steps.iter().enumerate() {
        let before = world.state().await;
        let outcome = world.run(step.operation.clone()).await;
        let mut expected = step.clone();
        differences.apply(&mut expected, &before);
        let check = |what: &str, ours: &dyn std::fmt::Debug, theirs: &dyn std::fmt::Debug| {
            let (ours, theirs) = (format!("{ours:#?}"), format!("{theirs:#?}"));
            if ours == theirs {
                Ok(())
            } else {
                Err(format!("step {number} ({:?}): {what}\nours: {ours}\nexpected: {theirs}", step.operation))
            }
        };
        check("fault", &outcome.fault, &expected.fault.as_deref())?;
        if expected.fault.is_none() || expected.result.is_some() {
            let nothing = || json!({});
            check("result", &outcome.result.unwrap_or_else(nothing), &expected.result.clone().unwrap_or_else(nothing))?;
        }
        let writes = expected::comparable(world.recorder.take_writes(), &expected.writes, expected.writes_sorted);
        check("writes", &writes.0, &writes.1)?;
        if let Some(state) = &expected.state {
            check("state", &world.state().await, state)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn sequences() {
    let (mut run, mut failed) = (0, Vec::new());
    for vector in vectors() {
        let Vector::Sequence(sequence) = vector else { continue };
        run += 1;
        let known = NOT_YET.iter().find(|(name, _)| *name == sequence.name);
        match (run_sequence(&sequence).await, known) {
            (Ok(()), None) => {}
            (Ok(()), Some((name, reason))) => failed.push(format!("{name} passes, but is listed: {reason}")),
            (Err(_), Some((name, reason))) => println!("{name} does not pass: {reason}"),
            (Err(error), None) => failed.push(format!("=== {}: {error}", sequence.name)),
        }
    }
    println!("{run} sequences run, {} failed", failed.len());
    assert!(run > 0, "no sequences in the file");
    assert!(failed.is_empty(), "{} of {run} sequences failed\n{}", failed.len(), failed.join("\n"));
}

/// The first blocks that an empty cluster's host claims, by claiming them.
#[tokio::test]
async fn block_orders() {
    let mut run = 0;
    for vector in vectors() {
        let Vector::BlockOrder(order) = vector else { continue };
        run += 1;
        let world = World::new();
        world.create_pool("pool", &json!({"cidr": order.pool, "blockSize": order.block_size})).await.unwrap();
        world.create_node(&order.host, BTreeMap::new()).await;
        world.ipam.set_config(Config { strict_affinity: true, ..Config::default() }).await.unwrap();
        let per_block = 1 << (order.pool.max_prefix_len() - order.block_size);
        let v4 = order.pool.addr().is_ipv4();
        let mut claimed = Vec::new();
        for _ in 0..order.first_blocks.len() + usize::from(order.complete) {
            let request = calico_ipam::AutoAssign {
                host: order.host.clone(),
                num4: if v4 { per_block } else { 0 },
                num6: if v4 { 0 } else { per_block },
                max_blocks: Some(1000),
                ..Default::default()
            };
            let (assigned, _) = world.ipam.auto_assign_partial(request).await;
            claimed.extend([assigned.v4, assigned.v6].concat().first().map(IpNet::trunc));
        }
        assert_eq!(claimed, order.first_blocks, "{}", order.name);
    }
    println!("{run} block orders run");
    assert!(run > 0, "no block orders in the file");
}
