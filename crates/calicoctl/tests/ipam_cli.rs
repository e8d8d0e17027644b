//! `calicoctl ipam …` and `datastore migrate …` against what upstream's own program printed, wrote and left behind:
//! `vectors/ipam-cli.json`, or the file of that name in the folder that `VECTORS` names.
//!
//! Each state is built in a real etcd by our own library, then the commands are run as a shell would run them. Where
//! ours differs on purpose a rule says so here, and `vectors/DIFFERENCES.md` says why; no rule knows a single case.

#![allow(clippy::unwrap_used)]

#[path = "support/ipam_compare.rs"]
mod compare;
#[path = "../../store/tests/support/etcd.rs"]
mod etcd;
#[path = "../../ipam/tests/vectors/operation.rs"]
#[allow(dead_code, unused_imports)]
mod operation;
#[path = "support/program.rs"]
mod program;

/// What the library's operations want to know of a datastore that records; this one does not.
#[allow(dead_code)]
mod recorder {
    use serde::Deserialize;

    /// A raw write; no value deletes.
    #[derive(Clone, Debug, Deserialize)]
    pub(crate) struct Put {
        pub key: String,
        pub value: Option<String>,
    }

    /// A write of somebody else in the middle of an operation, which no state of a command line has.
    #[derive(Clone, Debug, Deserialize)]
    pub(crate) struct Injection {}
}

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use calico_ipam::{Backoff, Ipam, block_key, parse_block_key};
use calico_model::{
    ClusterInformationSpec, IPPool, IPPoolSpec, IPReservation, IPReservationSpec, KindName, Node, NodeSpec, ResourceKey,
};
use calico_store::{Error, EtcdKv, Kv, Store};
use compare::{Answer, Expected};
use etcd::PrivateEtcd;
use operation::{ConfigWords, Operation};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    state: String,
    pools: Vec<Value>,
    nodes: Vec<Value>,
    config: Option<ConfigWords>,
    #[serde(default)]
    reservations: Vec<Reservation>,
    #[serde(default)]
    steps: Vec<Operation>,
    #[serde(default)]
    then_apply: Vec<Value>,
    cluster_guid: String,
    commands: Vec<Expected>,
    /// By name: an edited copy of the first report.
    #[serde(default)]
    report_variants: BTreeMap<String, String>,
    /// A block that is put before the first command that knows of it.
    bad_block_put: Option<String>,
}

#[derive(Deserialize)]
struct Reservation {
    name: String,
    cidrs: Vec<String>,
}

fn states() -> Vec<State> {
    let folder = std::env::var_os("VECTORS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors")), PathBuf::from);
    let path = folder.join("ipam-cli.json");
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

/// A datastore, a scratch folder, and the program.
struct World {
    etcd: PrivateEtcd,
    kv: Arc<EtcdKv>,
    store: Store,
    scratch: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let (etcd, kv) = program::start().await;
        Self { etcd, store: Store::new(kv.clone()), kv, scratch: tempfile::tempdir().unwrap() }
    }

    fn calicoctl(&self, words: &[String], input: &str) -> Answer {
        let output = program::run(&self.etcd.endpoint(), words, input);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().replace(&self.folder(), "$R");
        Answer { exit: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    fn folder(&self) -> String {
        self.scratch.path().to_str().unwrap().to_owned()
    }

    /// The words of a recorded command, with our folders.
    fn words(&self, args: &[String]) -> Vec<String> {
        let kubeconfig = format!("{}/kubeconfig", self.folder());
        args.iter().map(|word| word.replace("$R", &self.folder()).replace("$KUBECONFIG", &kubeconfig)).collect()
    }

    async fn put(&self, key: &str, value: Option<&str>) {
        if let Some(entry) = self.kv.get(key).await.unwrap() {
            self.kv.delete(key, entry.revision).await.unwrap();
        }
        if let Some(value) = value {
            self.kv.create(key, value.into()).await.unwrap();
        }
    }

    async fn build(&self, state: &State) {
        calico_startup::initialise(&self.store).await.unwrap();
        let key = ResourceKey::new(KindName::ClusterInformation, None, "default");
        let cluster_type = state.commands.iter().find_map(Expected::cluster_type).unwrap_or_default();
        let set = self.store.modify::<ClusterInformationSpec, Error>(&key, |cluster| {
            cluster.spec.cluster_guid = state.cluster_guid.clone();
            cluster.spec.cluster_type = cluster_type.clone();
            cluster.spec.calico_version = String::new();
            Ok(())
        });
        set.await.unwrap();
        for pool in &state.pools {
            let spec: IPPoolSpec = serde_json::from_value(pool["spec"].clone()).unwrap();
            self.store.create(IPPool::new(pool["name"].as_str().unwrap(), spec)).await.unwrap();
        }
        for node in &state.nodes {
            let mut created = Node::new(node["name"].as_str().unwrap(), NodeSpec::default());
            created.metadata.labels = serde_json::from_value(node["labels"].clone()).unwrap_or_default();
            self.store.create(created).await.unwrap();
        }
        for Reservation { name, cidrs } in &state.reservations {
            let spec = IPReservationSpec { reserved_cidrs: cidrs.clone(), ..Default::default() };
            self.store.create(IPReservation::new(name, spec)).await.unwrap();
        }
        let ipam = Ipam::new(self.store.clone()).with_backoff(Backoff::NONE);
        if let Some(config) = &state.config {
            ipam.set_config(config.clone().into()).await.unwrap();
        }
        for step in &state.steps {
            match step.clone().run(&ipam, |_| 0).await {
                // A step that fails did so there too, or else the datastore is another one after the commands.
                Ok(_) => {}
                Err(Operation::Put(put)) => self.put(&put.key, put.value.as_deref()).await,
                Err(other) => panic!("{other:?} belongs to no state of a command line"),
            }
        }
        for resource in &state.then_apply {
            let words = ["apply", "-f", "-"].map(str::to_owned);
            let answer = self.calicoctl(&words, &resource.to_string());
            assert_eq!(answer.exit, 0, "{}\n{resource}", answer.stderr);
        }
    }

    /// Everything of IPAM and the pools, in the words of the vectors.
    async fn contents(&self) -> BTreeMap<String, Value> {
        const ROOT: &str = "/calico/ipam/v2/";
        let mut contents = BTreeMap::new();
        for entry in self.kv.list(ROOT).await.unwrap().entries {
            let value: Value = serde_json::from_slice(&entry.value).unwrap();
            let value = if parse_block_key(&entry.key).is_some() { block_words(&value) } else { value };
            contents.insert(entry.key[ROOT.len()..].to_owned(), value);
        }
        for pool in self.store.list::<IPPoolSpec>().await.unwrap().0 {
            contents.insert(format!("ippool {}", pool.name()), serde_json::to_value(&pool.spec).unwrap());
        }
        contents
    }

    fn write_variants(&self, state: &State, args: &[String]) {
        for (name, change) in &state.report_variants {
            let path = self.scratch.path().join(name);
            if args.iter().any(|word| word.ends_with(name.as_str())) && !path.exists() {
                let report = std::fs::read(self.scratch.path().join("r1.json")).unwrap();
                let report = compare::changed(serde_json::from_slice(&report).unwrap(), change);
                std::fs::write(path, report.to_string()).unwrap();
            }
        }
    }

    async fn run(&self, state: &State, expected: &Expected) -> Vec<String> {
        if let Some(bad) = &state.bad_block_put {
            let cidr: String = serde_json::from_str::<Value>(bad).unwrap()["cidr"].as_str().unwrap().to_owned();
            let key = block_key(cidr.parse().unwrap());
            if expected.stdout.contains(&cidr) && self.kv.get(&key).await.unwrap().is_none() {
                self.put(&key, Some(bad)).await;
            }
        }
        self.write_variants(state, &expected.args);
        let before = self.contents().await;
        let answer = self.calicoctl(&self.words(&expected.args), "");
        let mut expected = expected.clone();
        let mut faults = Vec::new();
        if expected.wants_kubernetes() {
            let mut with = self.words(&expected.args);
            with.push("--kubeconfig=none".into());
            let Answer { exit, stdout, stderr } = self.calicoctl(&with, "");
            expected = Expected { exit, stdout, stderr, ..expected };
        }
        if let Some(address) = expected.unassigned_address()
            && let Some(holder) = self.orphan_holder(&address).await
        {
            expected.stdout = holder;
        }
        let refused_split = expected.is_refused_split();
        if let Some(after) = &mut expected.datastore_after {
            let ours = self.contents().await;
            if refused_split && ours != before {
                faults.push("a refused split changes something".to_owned());
            }
            if refused_split {
                compare::enable(after, &before);
            }
            faults.extend(compare::json("datastore_after", &json!(after), &json!(ours)));
        }
        for (file, report) in &expected.files {
            let path = file.replace("$R", &self.folder());
            match std::fs::read(&path) {
                Ok(ours) => faults.extend(compare::json(file, report, &serde_json::from_slice(&ours).unwrap())),
                Err(error) => faults.push(format!("{path}: {error}")),
            }
        }
        faults.extend(compare::answers(&expected, &answer));
        if refused_split {
            self.disable(&before, &expected.args).await;
        }
        faults
    }

    /// What ours says of an address that is in a block and in no pool, and of which upstream says that it is free.
    async fn orphan_holder(&self, address: &str) -> Option<String> {
        let address = address.parse().unwrap();
        let snapshot = Ipam::new(self.store.clone()).snapshot().await.unwrap();
        if snapshot.pools.iter().any(|(pool, _)| pool.contains(&address)) {
            return None;
        }
        let mut blocks = snapshot.readable_blocks();
        let attribute = blocks.find_map(|block| block.attribute(block.ordinal(address)?).cloned())?;
        Some(compare::holder(&address, &attribute))
    }

    /// Upstream leaves the pool of a refused split disabled. So that what it recorded after that can be compared, the
    /// pool becomes so here.
    async fn disable(&self, before: &BTreeMap<String, Value>, args: &[String]) {
        let value = |option: &str| args.iter().find_map(|word| word.strip_prefix(option));
        let names = before.iter().filter_map(|(key, spec)| Some((key.strip_prefix("ippool ")?, spec)));
        let is_it = |(name, spec): &(&str, &Value)| {
            value("--name=").map_or_else(|| spec["cidr"].as_str() == value("--cidr="), |given| given == *name)
        };
        let Some((name, _)) = names.clone().find(is_it) else { return };
        let key = ResourceKey::new(KindName::IPPool, None, name);
        let set = self.store.modify::<IPPoolSpec, Error>(&key, |pool| {
            pool.spec.disabled = true;
            Ok(())
        });
        set.await.unwrap();
    }

    async fn clear(&self) {
        for entry in self.kv.list("/calico/").await.unwrap().entries {
            self.kv.delete(&entry.key, entry.revision).await.unwrap();
        }
        for file in std::fs::read_dir(self.scratch.path()).unwrap() {
            std::fs::remove_file(Path::new(&file.unwrap().path())).unwrap();
        }
    }
}

fn block_words(block: &Value) -> Value {
    let allocations = block["allocations"].as_array().unwrap();
    let used: Vec<usize> = (0..allocations.len()).filter(|ordinal| !allocations[*ordinal].is_null()).collect();
    json!({ "affinity": block["affinity"], "used": used, "unallocated": block["unallocated"] })
}

#[tokio::test]
async fn commands_answer_and_leave_what_upstreams_do() {
    let world = World::new().await;
    let (mut run, mut bad) = (0, Vec::new());
    for state in states() {
        world.clear().await;
        world.build(&state).await;
        for (number, expected) in state.commands.iter().enumerate() {
            run += 1;
            let faults = world.run(&state, expected).await;
            if !faults.is_empty() {
                let words = expected.args.join(" ");
                bad.push(format!("{} {number}: {words}\n{}", state.state, faults.join("\n")));
            }
        }
    }
    println!("{run} commands run, {} differ", bad.len());
    assert!(run > 0, "no commands in the file");
    assert!(bad.is_empty(), "{} of {run} commands differ\n\n{}", bad.len(), bad.join("\n\n"));
}
