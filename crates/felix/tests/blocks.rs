#![allow(clippy::unwrap_used)]
//! Blocks of addresses become routes while a pool uses VXLAN, and only then.

use std::{cell::RefCell, fmt::Debug, future::Future, rc::Rc, str::FromStr, sync::Arc, time::Duration};

use calico_felix::{Applied, Driver, Options, run};
use calico_ipam::{Block, Owner, block_key};
use calico_model::{
    ClusterInformation, ClusterInformationSpec, EncapMode, IPPool, IPPoolSpec, KindName, Node, NodeBgp, NodeSpec,
    ResourceKey,
};
use calico_policy::instruction::{ClusterRoute, Instruction};
use calico_store::{MemoryKv, Store};

/// What a dataplane was told, in order; `None` is an apply.
#[derive(Clone, Default)]
struct Recorder(Rc<RefCell<Vec<Option<Instruction>>>>);

impl Driver for Recorder {
    type Error = String;

    async fn install_base(&mut self) -> Result<(), String> {
        Ok(())
    }
    fn absorb(&mut self, instruction: Instruction) {
        self.0.borrow_mut().push(Some(instruction));
    }
    async fn apply(&mut self) -> Result<Applied, String> {
        self.0.borrow_mut().push(None);
        Ok(Applied::default())
    }
    fn distrust(&mut self) {}
    async fn disturbed(&mut self) {
        std::future::pending().await
    }
}

struct Cluster {
    kv: MemoryKv,
    store: Store,
    told: Recorder,
}

impl Cluster {
    /// Two nodes with tunnel addresses, one pool.
    async fn new(mode: EncapMode) -> Self {
        let kv = MemoryKv::new();
        let store = Store::new(Arc::new(kv.clone()));
        let spec = ClusterInformationSpec { datastore_ready: Some(true), ..ClusterInformationSpec::default() };
        store.create(ClusterInformation::new("default", spec)).await.unwrap();
        for number in [1, 2] {
            let bgp = NodeBgp { ipv4_address: Some(format!("192.0.{number}.1/24")), ..NodeBgp::default() };
            let tunnel = Some(format!("10.65.{number}.0"));
            let spec = NodeSpec { bgp: Some(bgp), ipv4_vxlan_tunnel_addr: tunnel, ..NodeSpec::default() };
            store.create(Node::new(format!("h{number}"), spec)).await.unwrap();
        }
        let spec = IPPoolSpec { cidr: net("10.65.0.0/16"), vxlan_mode: Some(mode), ..IPPoolSpec::default() };
        store.create(IPPool::new("p", spec)).await.unwrap();
        Self { kv, store, told: Recorder::default() }
    }

    fn block(&self, cidr: &str, host: &str) {
        let block = Block::new(net(cidr), &Owner::host(host), None, std::time::SystemTime::UNIX_EPOCH.into());
        self.kv.put(&block_key(net(cidr)), block.to_json());
    }

    async fn set_mode(&self, mode: EncapMode) {
        let key = ResourceKey::new(KindName::IPPool, None, "p");
        let change = |pool: &mut IPPool| {
            pool.spec.vxlan_mode = Some(mode);
            Ok::<_, calico_store::Error>(())
        };
        self.store.modify(&key, change).await.unwrap();
    }

    fn start(&self) {
        let (store, driver) = (self.store.clone(), self.told.clone());
        tokio::task::spawn_local(async move {
            run(&store, driver, Options::new("h1"), |_| {}, std::future::pending()).await.unwrap();
        });
    }

    async fn until(&self, what: &str, condition: impl Fn(&[Option<Instruction>]) -> bool) {
        let waiting = async {
            while !condition(&self.told.0.borrow()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), waiting).await;
        assert!(waited.is_ok(), "{what} never came: {:?}", self.told.0.borrow());
    }
}

/// A network.
fn net<T: FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn leads(instruction: &Option<Instruction>, to: &str) -> bool {
    let via = "10.65.2.0".parse().unwrap();
    *instruction == Some(Instruction::RouteUpdate { destination: net(to), route: ClusterRoute::Tunnel { via } })
}

fn scenario(body: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, body);
}

#[test]
fn the_first_write_knows_all_blocks_and_later_ones_follow() {
    scenario(async {
        let cluster = Cluster::new(EncapMode::Always).await;
        cluster.block("10.65.2.0/26", "h2");
        cluster.start();
        cluster.until("the first write", |told| told.contains(&None)).await;
        let told = cluster.told.0.borrow().clone();
        let first = told.iter().position(Option::is_none).unwrap();
        assert!(told[..first].iter().any(|told| leads(told, "10.65.2.0/26")), "{told:?}");
        cluster.block("10.65.2.64/26", "h2");
        cluster.until("the new block", |told| told.iter().any(|told| leads(told, "10.65.2.64/26"))).await;
        cluster.kv.remove(&block_key(net("10.65.2.64/26")));
        let gone = Some(Instruction::RouteRemove { destination: net("10.65.2.64/26") });
        cluster.until("its end", |told| told.contains(&gone)).await;
    });
}

#[test]
fn blocks_are_followed_as_long_as_a_pool_uses_vxlan() {
    scenario(async {
        let cluster = Cluster::new(EncapMode::Never).await;
        cluster.block("10.65.2.0/26", "h2");
        cluster.start();
        cluster.until("the first write", |told| told.contains(&None)).await;
        assert!(!cluster.told.0.borrow().iter().any(|told| leads(told, "10.65.2.0/26")));
        cluster.set_mode(EncapMode::Always).await;
        cluster.until("the route", |told| told.iter().any(|told| leads(told, "10.65.2.0/26"))).await;
        cluster.set_mode(EncapMode::Never).await;
        let gone = Some(Instruction::RouteRemove { destination: net("10.65.2.0/26") });
        cluster.until("its end", |told| told.contains(&gone)).await;
    });
}
