//! Forty processes' worth of requests against a real etcd: every address is given out once.

#![allow(clippy::unwrap_used)]

#[path = "../../store/tests/support/etcd.rs"]
mod etcd;

use std::{collections::BTreeSet, sync::Arc};

use calico_ipam::{AssignError, AssignIp, AutoAssign, Block, Ipam, Owner};
use calico_model::{IPPool, IPPoolSpec, Node, NodeSpec};
use calico_store::{ConnectOptions, EtcdKv, Store};
use etcd::{PrivateEtcd, wait_for};
use tokio::task::JoinSet;

/// An etcd of its own that answers.
async fn start() -> PrivateEtcd {
    let etcd = PrivateEtcd::start().await;
    let kv = store(&etcd).kv().clone();
    wait_for("etcd to answer", async || kv.get("/").await.ok()).await;
    etcd
}

/// A client with a connection of its own, as another process has.
fn store(etcd: &PrivateEtcd) -> Store {
    let endpoint = etcd.endpoint();
    let options = ConnectOptions::from_lookup(|name| (name == "ETCD_ENDPOINTS").then(|| endpoint.clone()));
    Store::new(Arc::new(EtcdKv::new(options.unwrap()).unwrap()))
}

async fn prepare(etcd: &PrivateEtcd) {
    let store = store(etcd);
    let spec = IPPoolSpec { cidr: "10.10.0.0/23".parse().unwrap(), ..Default::default() };
    store.create(IPPool::new("pool", spec)).await.unwrap();
    for host in ["node1", "node2"] {
        store.create(Node::new(host, NodeSpec::default())).await.unwrap();
    }
}

#[tokio::test]
async fn many_requests_at_once_on_two_hosts_get_different_addresses() {
    let etcd = start().await;
    prepare(&etcd).await;
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let (ipam, host) = (Ipam::new(store(&etcd)), if task % 2 == 0 { "node1" } else { "node2" });
        tasks.spawn(async move {
            let mut obtained = Vec::new();
            for number in 0..50 {
                let handle = Some(format!("c{task}.{number}").into());
                let request = AutoAssign { host: host.into(), num4: 1, handle, ..Default::default() };
                obtained.push(ipam.auto_assign(request).await.unwrap().v4[0].addr());
            }
            obtained
        });
    }
    let obtained: Vec<_> = tasks.join_all().await.concat();
    let different: BTreeSet<_> = obtained.iter().copied().collect();
    assert_eq!((obtained.len(), different.len()), (400, 400));

    let ipam = Ipam::new(store(&etcd));
    let blocks = ipam.all_blocks().await.unwrap();
    let stored: BTreeSet<_> = blocks.iter().flat_map(|block| block.in_use().collect::<Vec<_>>()).collect();
    assert_eq!(stored, different);
    assert!(blocks.iter().all(|block| block.owner().is_some()), "{blocks:?}");

    // All at once again, this time to give everything back.
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let ipam = Ipam::new(store(&etcd));
        tasks.spawn(async move {
            for number in 0..50 {
                let released = ipam.release_by_handle(&format!("c{task}.{number}").into()).await.unwrap();
                assert_eq!(released.len(), 1);
            }
        });
    }
    tasks.join_all().await;
    for host in ["node1", "node2"] {
        ipam.remove_host(host).await.unwrap();
    }
    let left = store(&etcd).kv().list("/calico/ipam/").await.unwrap();
    assert!(left.entries.is_empty(), "{left:?}");
}

#[tokio::test]
async fn one_chosen_address_goes_to_one_of_many() {
    let etcd = start().await;
    prepare(&etcd).await;
    // The block exists, so that the race is for the address alone.
    let ipam = Ipam::new(store(&etcd));
    ipam.claim_affinity(&Owner::host("node1"), "10.10.0.64/26".parse().unwrap()).await.unwrap();
    let mut tasks = JoinSet::new();
    for task in 0..20 {
        let ipam = Ipam::new(store(&etcd));
        tasks.spawn(async move {
            let request = AssignIp {
                ip: "10.10.0.77".parse().unwrap(),
                host: if task % 2 == 0 { "node1".into() } else { "node2".into() },
                handle: Some(format!("c{task}").into()),
                attrs: None,
                intended_use: None,
                max_alloc_per_handle: None,
            };
            ipam.assign_ip(request).await
        });
    }
    let results = tasks.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    for error in results.into_iter().filter_map(Result::err) {
        assert!(matches!(error, AssignError::Taken { .. }), "{error}");
    }
    // The losers left no handle.
    let handles = store(&etcd).kv().list(calico_ipam::HANDLE_ROOT).await.unwrap().entries;
    let blocks: Vec<Block> = ipam.all_blocks().await.unwrap();
    let holder = blocks[0].attribute(13).unwrap().handle().unwrap();
    assert_eq!(handles.iter().map(|entry| entry.key.clone()).collect::<Vec<_>>(), [holder.key()]);
}
