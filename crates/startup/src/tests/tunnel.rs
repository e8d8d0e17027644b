//! Tunnel addresses come, stay and go as pools change, over the in-memory datastore.

use std::{net::IpAddr, sync::Arc, time::Duration};

use calico_ipam::{AutoAssign, HandleId, Ipam, LookupError};
use calico_model::{EncapMode, IPPool, IPPoolSpec, KindName, Node, NodeBgp, NodeSpec, ResourceKey};
use calico_store::{Error, Injected, Kv, MemoryKv, Store};

use crate::{TunnelError, keep_tunnel_addresses, settle_tunnel_addresses};

const V4: &str = "vxlan-tunnel-addr-h1";
const V6: &str = "vxlan-v6-tunnel-addr-h1";

/// With addresses of both families.
fn node() -> Node {
    let bgp = NodeBgp {
        ipv4_address: Some("192.0.2.1/24".into()),
        ipv6_address: Some("2001:db8::1/64".into()),
        ..NodeBgp::default()
    };
    Node::new("h1", NodeSpec { bgp: Some(bgp), ..NodeSpec::default() })
}

struct Cluster {
    kv: MemoryKv,
    store: Store,
}

impl Cluster {
    /// With the Node `h1`.
    async fn new() -> Self {
        let kv = MemoryKv::new();
        let store = Store::new(Arc::new(kv.clone()));
        store.create(node()).await.unwrap();
        Self { kv, store }
    }

    async fn pool(&self, name: &str, cidr: &str, change: impl Fn(&mut IPPoolSpec)) {
        let mut spec = IPPoolSpec { cidr: cidr.parse().unwrap(), ..IPPoolSpec::default() };
        change(&mut spec);
        self.store.create(IPPool::new(name, spec)).await.unwrap();
    }

    async fn change_pool(&self, name: &str, change: impl Fn(&mut IPPoolSpec)) {
        let key = ResourceKey::new(KindName::IPPool, None, name);
        let change = |pool: &mut IPPool| {
            change(&mut pool.spec);
            Ok::<_, Error>(())
        };
        self.store.modify(&key, change).await.unwrap();
    }

    async fn settle(&self) -> Result<(), TunnelError> {
        settle_tunnel_addresses(&self.store, "h1").await
    }

    /// What the Node says.
    async fn said(&self) -> [Option<IpAddr>; 2] {
        let spec = self.store.get::<NodeSpec>("h1").await.unwrap().spec;
        [spec.ipv4_vxlan_tunnel_addr, spec.ipv6_vxlan_tunnel_addr].map(|text| text.map(|text| text.parse().unwrap()))
    }

    /// What the handle holds.
    async fn held(&self, handle: &str) -> Vec<IpAddr> {
        match Ipam::new(self.store.clone()).ips_by_handle(&HandleId::from(handle)).await {
            Ok(addresses) => addresses,
            Err(LookupError::NoHandle { .. }) => Vec::new(),
            Err(error) => panic!("{error}"),
        }
    }
}

fn always(spec: &mut IPPoolSpec) {
    spec.vxlan_mode = Some(EncapMode::Always);
}

fn never(spec: &mut IPPoolSpec) {
    spec.vxlan_mode = Some(EncapMode::Never);
}

#[tokio::test]
async fn an_address_of_each_family_comes_with_vxlan_and_goes_with_it() {
    let cluster = Cluster::new().await;
    cluster.pool("p4", "10.65.0.0/24", never).await;
    cluster.pool("p6", "fd65::/120", always).await;
    cluster.settle().await.unwrap();
    let [v4, v6] = cluster.said().await;
    assert!(v4.is_none() && v6.is_some());
    cluster.change_pool("p4", |spec| spec.vxlan_mode = Some(EncapMode::CrossSubnet)).await;
    cluster.settle().await.unwrap();
    let [v4, again] = cluster.said().await;
    assert_eq!(again, v6);
    assert_eq!(cluster.held(V4).await, [v4.unwrap()]);
    assert_eq!(cluster.held(V6).await, [v6.unwrap()]);
    let assignment = Ipam::new(cluster.store.clone()).get_assignment_attributes(v4.unwrap()).await.unwrap();
    let notes = assignment.attribute.secondary.unwrap();
    assert_eq!((notes["node"].as_str(), notes["type"].as_str()), ("h1", "vxlanTunnelAddress"));
    // A second look changes nothing, not even a revision.
    let before = cluster.kv.behind().list("/").await.unwrap().revision;
    cluster.settle().await.unwrap();
    assert_eq!(cluster.kv.behind().list("/").await.unwrap().revision, before);
    cluster.change_pool("p4", never).await;
    cluster.settle().await.unwrap();
    assert_eq!(cluster.said().await, [None, v6]);
    assert!(cluster.held(V4).await.is_empty());
}

#[tokio::test]
async fn an_address_of_a_pool_without_vxlan_is_exchanged() {
    let cluster = Cluster::new().await;
    cluster.pool("a", "10.65.0.0/24", always).await;
    cluster.settle().await.unwrap();
    cluster.pool("b", "10.66.0.0/24", always).await;
    cluster.change_pool("a", never).await;
    cluster.settle().await.unwrap();
    let [v4, _] = cluster.said().await;
    assert!(v4.unwrap().to_string().starts_with("10.66.0."));
    assert_eq!(cluster.held(V4).await, [v4.unwrap()]);
}

#[tokio::test]
async fn what_the_node_says_is_taken_again_unless_somebody_else_has_it() {
    let cluster = Cluster::new().await;
    cluster.pool("p4", "10.65.0.0/24", always).await;
    cluster.settle().await.unwrap();
    let [first, _] = cluster.said().await;
    let ipam = Ipam::new(cluster.store.clone());
    ipam.release_by_handle(&HandleId::from(V4)).await.unwrap();
    cluster.settle().await.unwrap();
    assert_eq!((cluster.said().await[0], cluster.held(V4).await), (first, vec![first.unwrap()]));
    // Somebody else gets it.
    ipam.release_by_handle(&HandleId::from(V4)).await.unwrap();
    let request = calico_ipam::AssignIp {
        ip: first.unwrap(),
        host: "h1".into(),
        handle: Some(HandleId::from("w")),
        attrs: None,
        intended_use: None,
        max_alloc_per_handle: None,
    };
    ipam.assign_ip(request).await.unwrap();
    cluster.settle().await.unwrap();
    let [other, _] = cluster.said().await;
    assert_ne!(other, first);
    assert_eq!(cluster.held(V4).await, [other.unwrap()]);
}

#[tokio::test]
async fn a_disabled_pool_gives_none_but_keeps_what_it_gave() {
    let cluster = Cluster::new().await;
    cluster.pool("p4", "10.65.0.0/24", always).await;
    cluster.settle().await.unwrap();
    let before = cluster.said().await;
    cluster.change_pool("p4", |spec| spec.disabled = true).await;
    cluster.settle().await.unwrap();
    assert_eq!(cluster.said().await, before);
    let other = Cluster::new().await;
    other
        .pool("p4", "10.65.0.0/24", |spec| {
            always(spec);
            spec.disabled = true;
        })
        .await;
    assert!(matches!(other.settle().await, Err(TunnelError::NoPool { family: "IPv4", .. })));
    assert_eq!(other.said().await, [None, None]);
}

#[tokio::test]
async fn a_family_without_host_address_needs_none() {
    let cluster = Cluster::new().await;
    cluster.pool("p4", "10.65.0.0/24", always).await;
    cluster.pool("p6", "fd65::/120", always).await;
    let key = ResourceKey::new(KindName::Node, None, "h1");
    let set = async |address: Option<&str>| {
        let change = |node: &mut Node| {
            node.spec.bgp.as_mut().unwrap().ipv6_address = address.map(str::to_owned);
            Ok::<_, Error>(())
        };
        cluster.store.modify(&key, change).await.unwrap();
        cluster.settle().await.unwrap();
    };
    set(None).await;
    assert!(
        cluster.said().await[0].is_some() && cluster.said().await[1].is_none() && cluster.held(V6).await.is_empty()
    );
    set(Some("2001:db8::1/64")).await;
    assert_eq!(cluster.held(V6).await, [cluster.said().await[1].unwrap()]);
    set(None).await;
    assert!(cluster.said().await[1].is_none() && cluster.held(V6).await.is_empty());
}

#[tokio::test]
async fn a_pool_that_cannot_be_read_takes_nothing_away() {
    let cluster = Cluster::new().await;
    cluster.pool("p4", "10.65.0.0/24", always).await;
    cluster.settle().await.unwrap();
    let before = cluster.said().await;
    cluster.kv.put(&ResourceKey::new(KindName::IPPool, None, "p4").to_string(), "{");
    cluster.settle().await.unwrap();
    assert_eq!(cluster.said().await, before);
    assert_eq!(cluster.held(V4).await, [before[0].unwrap()]);
}

#[tokio::test]
async fn an_exhausted_pool_is_told_and_the_other_family_settled() {
    let cluster = Cluster::new().await;
    cluster
        .pool("p4", "10.65.0.0/32", |spec| {
            always(spec);
            spec.block_size = Some(32);
        })
        .await;
    cluster.pool("p6", "fd65::/120", always).await;
    let request = AutoAssign { host: "h1".into(), num4: 1, handle: Some("w".into()), ..AutoAssign::default() };
    Ipam::new(cluster.store.clone()).auto_assign(request).await.unwrap();
    let error = cluster.settle().await.unwrap_err();
    assert!(error.to_string().contains("10.65.0.0/32"), "{error}");
    assert!(cluster.said().await[0].is_none() && cluster.said().await[1].is_some());
}

/// Whichever write fails, or succeeds without our knowing, the next run ends with one address that Node and IPAM agree on.
#[tokio::test]
async fn a_run_that_is_cut_short_anywhere_is_taken_up_again() {
    for injected in [Injected::FailBefore, Injected::FailAfter] {
        let mut failures = 0;
        for at in 0..12 {
            let cluster = Cluster::new().await;
            cluster.pool("p4", "10.65.0.0/24", always).await;
            let mut writes = 0;
            cluster.kv.inject(move |_, _| {
                writes += 1;
                if writes == at + 1 { injected } else { Injected::Proceed }
            });
            failures += usize::from(cluster.settle().await.is_err());
            cluster.kv.stop_injecting();
            cluster.settle().await.unwrap();
            let [v4, _] = cluster.said().await;
            assert_eq!(cluster.held(V4).await, [v4.unwrap()], "{injected:?} of write {at}");
        }
        assert!(failures >= 4, "only {failures} runs were cut short");
    }
}

#[tokio::test(start_paused = true)]
async fn the_loop_follows_pools_and_waits_for_the_node() {
    let kv = MemoryKv::new();
    let store = Store::new(Arc::new(kv.clone()));
    let cluster = Cluster { kv, store: store.clone() };
    let task = tokio::spawn(async move { keep_tunnel_addresses(&store, "h1").await });
    cluster.pool("p4", "10.65.0.0/24", always).await;
    cluster.store.create(node()).await.unwrap();
    let until = async |wanted: bool| {
        let patience = tokio::time::timeout(Duration::from_secs(300), async {
            while cluster.said().await[0].is_some() != wanted {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        patience.await.unwrap();
    };
    until(true).await;
    cluster.change_pool("p4", never).await;
    until(false).await;
    task.abort();
}
