#![allow(clippy::unwrap_used)]
use std::sync::Arc;

use calico_model::{IPPool, Node, NodeSpec, Resource, WorkloadEndpointSpec};
use calico_store::{MemoryKv, Store};

use super::*;
use crate::{AutoAssign, Ipam, block_key};

/// A pool of four blocks, a node, an address of a workload that runs.
async fn cluster() -> (MemoryKv, Store, Ipam) {
    let kv = MemoryKv::new();
    let store = Store::new(Arc::new(kv.clone()));
    let spec = calico_model::IPPoolSpec { cidr: net("10.10.0.0/27"), block_size: Some(29), ..Default::default() };
    store.create(IPPool::new("pool", spec)).await.unwrap();
    store.create(Node::new("node1", NodeSpec::default())).await.unwrap();
    let ipam = Ipam::new(store.clone());
    let request = AutoAssign {
        host: "node1".into(),
        num4: 1,
        handle: Some("net.c1".into()),
        attrs: Some([("node".to_owned(), "node1".to_owned())].into()),
        ..Default::default()
    };
    let address = ipam.auto_assign(request).await.unwrap().v4[0].addr();
    store.create(endpoint("c1", address)).await.unwrap();
    (kv, store, ipam)
}

fn endpoint(workload: &str, address: IpAddr) -> Resource<WorkloadEndpointSpec> {
    let spec = WorkloadEndpointSpec {
        orchestrator: "docker".into(),
        workload: workload.into(),
        node: "node1".into(),
        endpoint: "eth0".into(),
        ip_networks: vec![address.to_string()],
        interface_name: format!("cali{workload}"),
        ..Default::default()
    };
    Resource::namespaced("default", "", spec)
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

async fn audit(ipam: &Ipam) -> Audit {
    Audit::of(&ipam.snapshot().await.unwrap(), OffsetDateTime::now_utc())
}

async fn kinds(ipam: &Ipam) -> Vec<String> {
    let findings = audit(ipam).await.findings;
    let kind = |finding: &Finding| serde_json::to_value(finding).unwrap()["kind"].as_str().unwrap().to_owned();
    findings.iter().map(kind).collect()
}

/// Mends all that there is until nothing is left that can be mended.
async fn repair_all(ipam: &Ipam) {
    for finding in audit(ipam).await.findings {
        ipam.repair(&finding).await.unwrap();
    }
}

fn put(kv: &MemoryKv, key: &str, value: &str) {
    kv.put(key, value);
}

#[tokio::test]
async fn a_cluster_in_order_has_nothing_to_tell() {
    let (_, _, ipam) = cluster().await;
    let audit = audit(&ipam).await;
    assert_eq!((audit.problems(), audit.findings.len(), audit.good_handles), (0, 0, 1));
    assert_eq!(audit.allocations.len(), 1);
    assert_eq!(audit.allocations[0].node(), "node1");
    assert!(!audit.allocations[0].is_borrowed());
    assert_eq!(audit.allocations[0].users[0].to_string(), "Workload(default/node1-docker-c1-eth0)");
}

#[tokio::test]
async fn affinities_of_all_broken_kinds_are_found_and_mended() {
    let (kv, _, ipam) = cluster().await;
    let owned = ipam.all_blocks().await.unwrap()[0].cidr;
    let free = net("10.10.0.0/27").subnets(29).unwrap().find(|block| *block != owned).unwrap();
    let affinity = |host: &str, block: IpNet| AffinityKey::new(&Owner::host(host), block).to_string();
    put(&kv, &affinity("node1", free), r#"{"state":"pending"}"#);
    put(&kv, &affinity("node2", owned), r#"{"state":"confirmed"}"#);
    put(&kv, &affinity("node1", owned), r#"{"state":"pendingDeletion"}"#);
    let mut found = kinds(&ipam).await;
    found.sort();
    assert_eq!(found, ["foreignAffinity", "noBlock", "noNode", "unfinished"]);
    repair_all(&ipam).await;
    assert_eq!(kinds(&ipam).await, Vec::<String>::new());
    assert_eq!(ipam.affine_blocks(&Owner::host("node1"), crate::Family::V4).await.unwrap(), [owned]);

    kv.remove(&affinity("node1", owned));
    assert_eq!(kinds(&ipam).await, ["noAffinity"]);
    repair_all(&ipam).await;
    assert_eq!(kinds(&ipam).await, Vec::<String>::new());
}

#[tokio::test]
async fn blocks_without_pool_owner_or_sense_are_found() {
    let (kv, store, ipam) = cluster().await;
    let empty = r#""unallocated":[0,1,2,3,4,5,6,7],"allocations":[null,null,null,null,null,null,null,null],"attributes":[],"sequenceNumber":1}"#;
    put(&kv, &block_key(net("10.99.0.0/29")), &format!(r#"{{"cidr":"10.99.0.0/29","affinity":null,{empty}"#));
    put(&kv, &block_key(net("10.98.0.0/29")), "nonsense");
    let owned = ipam.all_blocks().await.unwrap()[0].cidr;
    let entry = calico_store::Kv::get(&kv, &block_key(owned)).await.unwrap().unwrap();
    let mut block = Block::from_json(&entry.value).unwrap();
    block.unallocated.push(2);
    put(&kv, &block_key(owned), std::str::from_utf8(&block.to_json()).unwrap());
    store.create(endpoint("c2", block.in_use().next().unwrap())).await.unwrap();

    let mut found = kinds(&ipam).await;
    found.sort();
    assert_eq!(found, ["abandoned", "damagedBlock", "doubleUse", "orphan", "unreadable"]);
    repair_all(&ipam).await;
    let mut left = kinds(&ipam).await;
    left.sort();
    assert_eq!(left, ["doubleUse", "unreadable"], "a person decides these");
    assert_eq!(audit(&ipam).await.damaged.len(), 1, "the one that cannot be read");
}

#[tokio::test]
async fn counts_of_handles_become_what_blocks_say() {
    let (kv, _, ipam) = cluster().await;
    let owned = ipam.all_blocks().await.unwrap()[0].cidr;
    let key = HandleId::from("net.c1").key();
    for counts in
        [format!(r#"{{"block":{{"{owned}":3}}}}"#), format!(r#"{{"block":{{"{owned}":1,"10.10.0.64/29":2}}}}"#)]
    {
        put(&kv, &key, &counts);
        assert_eq!(kinds(&ipam).await, ["wrongCount"]);
        repair_all(&ipam).await;
        assert_eq!(kinds(&ipam).await, Vec::<String>::new());
    }
    kv.remove(&key);
    assert_eq!(audit(&ipam).await.missing_handles, [HandleId::from("net.c1")].into());
    assert_eq!(kinds(&ipam).await, ["wrongCount"]);
    repair_all(&ipam).await;
    assert_eq!(ipam.ips_by_handle(&"net.c1".into()).await.unwrap().len(), 1, "it can be found again");
}

#[tokio::test]
async fn leaks_are_addresses_without_a_user_that_do_not_cool_down() {
    let (_, store, ipam) = cluster().await;
    let (endpoints, _) = store.list::<WorkloadEndpointSpec>().await.unwrap();
    store.delete(&endpoints[0]).await.unwrap();
    let found = audit(&ipam).await;
    assert_eq!((found.leaked.len(), found.problems()), (1, 1));
    ipam.modify_config(|config| config.cooldown_seconds = 1000).await.unwrap();
    ipam.release_by_handle(&"net.c1".into()).await.unwrap();
    let found = audit(&ipam).await;
    assert!(found.leaked.is_empty() && found.allocations[0].is_cooling());
    assert_eq!(found.problems(), 0);
}

#[tokio::test]
async fn a_pool_that_cannot_be_read_is_told_beside_what_it_seems_to_leave() {
    let (kv, _, ipam) = cluster().await;
    put(&kv, "/calico/resources/v3/projectcalico.org/ippools/pool", "nonsense");
    assert_eq!(kinds(&ipam).await, ["orphan", "unreadable"]);
}

#[tokio::test]
async fn a_node_that_cannot_be_read_keeps_its_blocks() {
    let (kv, _, ipam) = cluster().await;
    put(&kv, "/calico/resources/v3/projectcalico.org/nodes/node1", "nonsense");
    let snapshot = ipam.snapshot().await.unwrap();
    assert_eq!(snapshot.unreadable_users.len(), 1);
    assert_eq!(kinds(&ipam).await, Vec::<String>::new(), "it is a node all the same");
    kv.remove("/calico/resources/v3/projectcalico.org/nodes/node1");
    assert_eq!(kinds(&ipam).await, ["noNode"]);
}

#[tokio::test]
async fn a_host_that_has_become_a_node_keeps_its_blocks() {
    let (kv, store, ipam) = cluster().await;
    let node = "/calico/resources/v3/projectcalico.org/nodes/node1";
    kv.remove(node);
    let finding = audit(&ipam).await.findings.remove(0);
    assert!(matches!(finding, Finding::NoNode { .. }), "{finding}");
    store.create(Node::new("node1", NodeSpec::default())).await.unwrap();
    assert!(!ipam.repair(&finding).await.unwrap());
    put(&kv, node, "nonsense");
    assert!(!ipam.repair(&finding).await.unwrap(), "it is a node all the same");
    let host = Owner::host("node1");
    assert_eq!(ipam.affine_blocks(&host, crate::Family::V4).await.unwrap().len(), 1);
    kv.remove(node);
    assert!(ipam.repair(&finding).await.unwrap());
    assert_eq!(ipam.affine_blocks(&host, crate::Family::V4).await.unwrap(), []);
}
