//! What the recorded sequences do not say, or where ours is better on purpose: nothing is left behind by a request
//! that failed, and what others left behind is dealt with.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use calico_ipam::{
    AccessError, Affinity, AffinityError, AffinityKey, AffinityState, AssignError, AssignIp, AutoAssign, Backoff,
    Block, CONFIG_KEY, Config, ConfigureError, HANDLE_ROOT, Handle, HandleId, Ipam, Owner, PoolError, ReleaseError,
    block_key,
};
use calico_model::{IPPool, IPPoolSpec, Node, NodeSpec};
use calico_store::{Injected, Kv, MemoryKv, Store, WriteKind};
use ipnet::IpNet;
use time::{Duration, OffsetDateTime};

struct World {
    memory: MemoryKv,
    store: Store,
    ipam: Ipam,
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn wanted(host: &str, count: usize, handle: &str) -> AutoAssign {
    AutoAssign { host: host.into(), num4: count, handle: Some(handle.into()), ..Default::default() }
}

fn chosen(host: &str, address: &str, handle: &str) -> AssignIp {
    AssignIp {
        ip: ip(address),
        host: host.into(),
        handle: Some(handle.into()),
        attrs: None,
        intended_use: None,
        max_alloc_per_handle: None,
    }
}

impl World {
    /// Two nodes and pools by range and block size.
    async fn new(pools: &[(&str, u8)]) -> Self {
        let memory = MemoryKv::new();
        let store = Store::new(Arc::new(memory.clone()));
        let world = Self { memory, ipam: Ipam::new(store.clone()).with_backoff(Backoff::NONE), store };
        for (number, (cidr, block_size)) in pools.iter().enumerate() {
            world.create_pool(&format!("pool{number}"), cidr, *block_size).await;
        }
        for node in ["node1", "node2"] {
            world.store.create(Node::new(node, NodeSpec::default())).await.unwrap();
        }
        world
    }

    async fn create_pool(&self, name: &str, cidr: &str, block_size: u8) {
        let spec = IPPoolSpec { cidr: net(cidr), block_size: Some(block_size), ..Default::default() };
        self.store.create(IPPool::new(name, spec)).await.unwrap();
    }

    async fn block(&self, cidr: &str) -> Option<Block> {
        let entry = self.memory.get(&block_key(net(cidr))).await.unwrap()?;
        Some(Block::from_json(&entry.value).unwrap())
    }

    async fn handle(&self, id: &str) -> Option<Handle> {
        let entry = self.memory.get(&HandleId::from(id).key()).await.unwrap()?;
        Some(Handle::from_json(&entry.value).unwrap())
    }

    async fn handles(&self) -> usize {
        self.memory.list(HANDLE_ROOT).await.unwrap().entries.len()
    }

    async fn affinity(&self, host: &str, cidr: &str) -> Option<AffinityState> {
        let key = AffinityKey::new(&Owner::host(host), net(cidr)).to_string();
        let entry = self.memory.get(&key).await.unwrap()?;
        Some(Affinity::from_json(&entry.value).unwrap().state)
    }

    async fn in_use(&self) -> Vec<IpAddr> {
        self.ipam.all_blocks().await.unwrap().iter().flat_map(|block| block.in_use().collect::<Vec<_>>()).collect()
    }

    /// Does `act` once, just before the first write of a kind to a key.
    fn before(&self, kind: WriteKind, key: String, mut act: impl FnMut(&MemoryKv) -> Injected + Send + 'static) {
        let mut done = false;
        self.memory.inject(move |behind, write| {
            if write.kind == kind && write.key == key && !std::mem::replace(&mut done, true) {
                return act(behind);
            }
            Injected::Proceed
        });
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_met_in_full_leaves_nothing() {
    let world = World::new(&[("10.10.0.0/28", 29)]).await;
    world.ipam.auto_assign(wanted("node1", 1, "first")).await.unwrap();
    let error = world.ipam.auto_assign(wanted("node1", 17, "second")).await.unwrap_err();
    assert!(matches!(error, AssignError::Exhausted { requested: 17, obtained: 15, .. }), "{error}");
    assert_eq!(error.to_string(), "17 IPv4 addresses requested, 15 free in 10.10.0.0/28: release some or add a pool");
    assert_eq!(world.in_use().await, [ip("10.10.0.0")]);
    assert!(world.handle("second").await.is_none());
    assert_eq!(world.ipam.auto_assign(wanted("node1", 15, "third")).await.unwrap().v4.len(), 15);
}

#[tokio::test]
async fn both_families_or_none() {
    let world = World::new(&[("10.10.0.0/28", 29)]).await;
    let request = AutoAssign { num6: 1, ..wanted("node1", 2, "both") };
    let error = world.ipam.auto_assign(request.clone()).await.unwrap_err();
    assert!(matches!(error, AssignError::Pool(PoolError::NoneEnabled { .. })), "{error}");
    assert!(world.in_use().await.is_empty());
    assert_eq!(world.handles().await, 0);
    world.create_pool("six", "fd00:10::/124", 125).await;
    let assigned = world.ipam.auto_assign(request).await.unwrap();
    assert_eq!((assigned.v4.len(), assigned.v6.len()), (2, 1));
}

#[tokio::test]
async fn addresses_held_before_are_not_given_back() {
    let world = World::new(&[("10.10.0.0/28", 29)]).await;
    let request = AutoAssign { max_alloc_per_handle: Some(1), ..wanted("node1", 1, "vm") };
    let first = world.ipam.auto_assign(request.clone()).await.unwrap();
    let again = world.ipam.auto_assign(request.clone()).await.unwrap();
    assert_eq!(again.v4, [IpNet::from(first.v4[0].addr())]);
    let error = world.ipam.auto_assign(AutoAssign { num6: 1, ..request.clone() }).await.unwrap_err();
    assert!(matches!(error, AssignError::Pool(_)), "{error}");
    assert_eq!(world.in_use().await, [first.v4[0].addr()]);
    // Asking for more than there is room for is refused as a whole.
    let more = AutoAssign { num4: 2, max_alloc_per_handle: Some(2), ..request };
    let error = world.ipam.auto_assign(more).await.unwrap_err();
    assert!(matches!(error, AssignError::HandleLimit { limit: 2, .. }), "{error}");
    assert_eq!(world.in_use().await, [first.v4[0].addr()]);
    assert_eq!(world.handle("vm").await.unwrap().count(net("10.10.0.0/29")), 1);
}

#[tokio::test]
async fn a_lost_race_for_a_chosen_address_counts_the_handle_once() {
    let world = World::new(&[("10.10.0.0/29", 29)]).await;
    world.ipam.assign_ip(chosen("node1", "10.10.0.1", "a")).await.unwrap();
    let other = world.ipam_behind();
    world.before(WriteKind::Update, block_key(net("10.10.0.0/29")), move |_| {
        block_on(other.assign_ip(chosen("node1", "10.10.0.2", "b"))).unwrap();
        Injected::Proceed
    });
    world.ipam.assign_ip(chosen("node1", "10.10.0.3", "c")).await.unwrap();
    assert_eq!(world.handle("c").await.unwrap().count(net("10.10.0.0/29")), 1);
    assert_eq!(world.in_use().await.len(), 3);
}

#[tokio::test]
async fn losing_a_chosen_address_leaves_no_handle() {
    let world = World::new(&[("10.10.0.0/29", 29)]).await;
    world.ipam.assign_ip(chosen("node1", "10.10.0.1", "a")).await.unwrap();
    let other = world.ipam_behind();
    world.before(WriteKind::Update, block_key(net("10.10.0.0/29")), move |_| {
        block_on(other.assign_ip(chosen("node1", "10.10.0.3", "b"))).unwrap();
        Injected::Proceed
    });
    let error = world.ipam.assign_ip(chosen("node1", "10.10.0.3", "c")).await.unwrap_err();
    assert_eq!(error.to_string(), "10.10.0.3 (pool 10.10.0.0/29) is already assigned to b");
    assert!(world.handle("c").await.is_none());
}

#[tokio::test]
async fn a_block_claimed_for_an_address_that_was_lost_is_given_up() {
    let world = World::new(&[("10.10.0.0/29", 29)]).await;
    let other = world.ipam_behind();
    let mut rounds = 0;
    // Somebody keeps taking the address and releasing it again, until we give up.
    world.memory.inject(move |_, write| {
        if write.kind == WriteKind::Update && write.key == block_key(net("10.10.0.0/29")) && rounds < 200 {
            rounds += 1;
            block_on(other.assign_ip(chosen("node1", "10.10.0.3", "b"))).unwrap();
            block_on(other.release_by_handle(&"b".into())).unwrap();
        }
        Injected::Proceed
    });
    let error = world.ipam.assign_ip(chosen("node1", "10.10.0.3", "c")).await.unwrap_err();
    assert!(matches!(error, AssignError::Access(AccessError::Busy { .. })), "{error}");
    assert!(error.is_retryable());
    assert_eq!(world.handles().await, 0);
    assert!(world.block("10.10.0.0/29").await.is_none());
    assert_eq!(world.affinity("node1", "10.10.0.0/29").await, None);
}

#[tokio::test]
async fn when_it_is_unknown_whether_an_address_was_assigned_its_handle_still_finds_it() {
    let world = World::new(&[("10.10.0.0/29", 29)]).await;
    world.ipam.auto_assign(wanted("node1", 1, "a")).await.unwrap();
    world.before(WriteKind::Update, block_key(net("10.10.0.0/29")), |_| Injected::FailAfter);
    let error = world.ipam.auto_assign(wanted("node1", 1, "b")).await.unwrap_err();
    assert!(error.is_unreachable(), "{error}");
    assert_eq!(world.ipam.ips_by_handle(&"b".into()).await.unwrap(), [ip("10.10.0.1")]);
    assert_eq!(world.ipam.release_by_handle(&"b".into()).await.unwrap(), [ip("10.10.0.1")]);
    assert!(world.handle("b").await.is_none());
}

#[tokio::test]
async fn a_dead_datastore_is_called_that() {
    let world = World::new(&[("10.10.0.0/29", 29)]).await;
    world.memory.set_down(true);
    assert!(world.ipam.auto_assign(wanted("node1", 1, "a")).await.unwrap_err().is_unreachable());
    assert!(world.ipam.assign_ip(chosen("node1", "10.10.0.1", "a")).await.unwrap_err().is_unreachable());
    assert!(world.ipam.release_by_handle(&"a".into()).await.unwrap_err().is_unreachable());
    assert!(world.ipam.remove_host("node1").await.unwrap_err().is_unreachable());
}

#[tokio::test]
async fn a_handle_that_names_a_block_that_is_gone_is_removed() {
    let world = World::new(&[("10.10.0.0/28", 29)]).await;
    world.ipam.assign_ip(chosen("node1", "10.10.0.1", "a")).await.unwrap();
    world.memory.put(&HandleId::from("a").key(), r#"{"block":{"10.10.0.0/29":1,"10.10.0.8/29":3},"deleted":false}"#);
    assert_eq!(world.ipam.release_by_handle(&"a".into()).await.unwrap(), [ip("10.10.0.1")]);
    assert!(world.handle("a").await.is_none());
}

#[tokio::test]
async fn a_handle_keeps_a_block_that_comes_back_while_it_is_released() {
    let world = World::new(&[("10.10.0.0/29", 29)]).await;
    world.memory.put(&HandleId::from("a").key(), r#"{"block":{"10.10.0.0/29":1},"deleted":false}"#);
    let other = world.ipam_behind();
    world.before(WriteKind::Delete, HandleId::from("a").key(), move |_| {
        block_on(other.auto_assign(wanted("node1", 1, "a"))).unwrap();
        Injected::Proceed
    });
    assert!(world.ipam.release_by_handle(&"a".into()).await.unwrap().is_empty());
    assert_eq!(world.ipam.ips_by_handle(&"a".into()).await.unwrap(), [ip("10.10.0.0")]);
}

#[tokio::test]
async fn a_block_that_is_used_while_it_is_given_up_stays_confirmed() {
    let world = World::new(&[("10.10.0.0/29", 29)]).await;
    let owner = Owner::host("node1");
    world.ipam.claim_affinity(&owner, net("10.10.0.0/29")).await.unwrap();
    world.before(WriteKind::Delete, block_key(net("10.10.0.0/29")), |behind| {
        // A process of the same host that read the affinity before it was marked.
        let key = block_key(net("10.10.0.0/29"));
        let mut block = Block::from_json(&block_on(behind.get(&key)).unwrap().unwrap().value).unwrap();
        block.allocations[0] = Some(0);
        block.unallocated.remove(0);
        block.attributes = Some(vec![Default::default()]);
        block.sequence_number += 1;
        behind.put(&key, block.to_json());
        Injected::Proceed
    });
    let error = world.ipam.release_host_affinities(&owner, true).await.unwrap_err();
    assert_eq!(error.to_string(), "block 10.10.0.0/29 is not empty: 10.10.0.0 in use");
    assert_eq!(world.affinity("node1", "10.10.0.0/29").await, Some(AffinityState::Confirmed));
}

#[tokio::test]
async fn hosts_leave_nothing_behind() {
    let world = World::new(&[("10.10.0.0/28", 29)]).await;
    world.ipam.claim_affinity(&Owner::host("node1"), net("10.10.0.0/29")).await.unwrap();
    let orphan = AffinityKey::new(&Owner::host("node1"), net("10.10.0.8/29")).to_string();
    world.memory.put(&orphan, r#"{"state":"pendingDeletion","deleted":false}"#);
    world.memory.put("/calico/ipam/v2/host/node1", "");
    world.ipam.remove_host("node1").await.unwrap();
    assert!(world.memory.list("/calico/ipam/v2/host/").await.unwrap().entries.is_empty());
    assert!(world.block("10.10.0.0/29").await.is_none());
}

#[tokio::test]
async fn blocks_of_another_size_are_not_handed_out_twice_and_are_released() {
    let world = World::new(&[("10.10.0.0/28", 30)]).await;
    world.ipam.assign_ip(chosen("node1", "10.10.0.5", "old")).await.unwrap();
    // The pool is made anew with larger blocks by somebody who does not look.
    let pool = world.store.get::<IPPoolSpec>("pool0").await.unwrap();
    world.store.delete(&pool).await.unwrap();
    world.create_pool("pool0", "10.10.0.0/28", 29).await;
    let assigned = world.ipam.auto_assign(wanted("node2", 8, "new")).await.unwrap();
    assert!(assigned.v4.iter().all(|address| net("10.10.0.8/29").contains(&address.addr())), "{assigned:?}");
    let error = world.ipam.auto_assign(wanted("node2", 1, "more")).await.unwrap_err();
    assert!(matches!(error, AssignError::Exhausted { .. }), "{error}");
    assert_eq!(
        world.ipam.get_assignment_attributes(ip("10.10.0.5")).await.unwrap().attribute.handle_id.as_deref(),
        Some("old")
    );
    let released = world.ipam.release_ips(&[ip("10.10.0.5").into(), ip("10.10.0.2").into()]).await.unwrap();
    assert_eq!((released.released, released.already_free), (vec![ip("10.10.0.5")], vec![ip("10.10.0.2")]));
    assert!(world.handle("old").await.is_none());
}

#[tokio::test]
async fn a_chosen_address_in_a_block_of_another_size_is_refused() {
    let world = World::new(&[("10.10.0.0/28", 30)]).await;
    world.ipam.assign_ip(chosen("node1", "10.10.0.5", "old")).await.unwrap();
    let pool = world.store.get::<IPPoolSpec>("pool0").await.unwrap();
    world.store.delete(&pool).await.unwrap();
    world.create_pool("pool0", "10.10.0.0/28", 29).await;
    let error = world.ipam.assign_ip(chosen("node2", "10.10.0.5", "new")).await.unwrap_err();
    assert!(matches!(error, AssignError::OtherBlockSize { .. }), "{error}");
    let claimed = world.ipam.claim_affinity(&Owner::host("node2"), net("10.10.0.0/28")).await.unwrap();
    assert_eq!((claimed.claimed, claimed.failed), (vec![net("10.10.0.8/29")], vec![net("10.10.0.0/29")]));
    assert!(world.handle("new").await.is_none());
}

#[tokio::test]
async fn values_that_cannot_be_read_are_named_and_stepped_over() {
    let world = World::new(&[("10.10.0.0/28", 29)]).await;
    let key = block_key(net("10.10.0.0/29"));
    world.memory.put(&key, "{\"cidr\":");
    let error = world.ipam.assign_ip(chosen("node1", "10.10.0.1", "a")).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("{key} holds a value that cannot be read")), "{error}");
    let assigned = world.ipam.auto_assign(wanted("node1", 3, "a")).await.unwrap();
    assert!(assigned.v4.iter().all(|address| net("10.10.0.8/29").contains(&address.addr())), "{assigned:?}");
    // The host claims the block that cannot be read, too: its other blocks serve it all the same.
    world.memory.put(&AffinityKey::new(&Owner::host("node1"), net("10.10.0.0/29")).to_string(), "");
    world.ipam.auto_assign(wanted("node1", 5, "b")).await.unwrap();
    let error = world.ipam.auto_assign(wanted("node1", 1, "c")).await.unwrap_err();
    assert!(matches!(error, AssignError::Exhausted { obtained: 0, .. }), "{error}");
    assert_eq!(world.memory.get(&key).await.unwrap().unwrap().value, b"{\"cidr\":");
}

#[tokio::test]
async fn with_strict_affinity_an_empty_block_of_nobody_is_used_again() {
    let world = World::new(&[("10.10.0.0/29", 29)]).await;
    world.ipam.modify_config(|config| config.strict_affinity = true).await.unwrap();
    for owner in ["null", "\"host:gone\""] {
        let block = format!(
            r#"{{"cidr":"10.10.0.0/29","affinity":{owner},"allocations":[null,null,null,null,null,null,null,null],"unallocated":[0,1,2,3,4,5,6,7],"attributes":[]}}"#
        );
        world.memory.put(&block_key(net("10.10.0.0/29")), block);
        assert_eq!(world.ipam.auto_assign(wanted("node1", 8, "a")).await.unwrap().v4.len(), 8, "{owner}");
        world.ipam.release_by_handle(&"a".into()).await.unwrap();
        world.ipam.remove_host("node1").await.unwrap();
    }
}

#[tokio::test]
async fn a_cooling_address_is_called_that_until_its_time_is_over() {
    let world = World::new(&[("10.10.0.0/30", 30)]).await;
    world.ipam.modify_config(|config| config.cooldown_seconds = 60).await.unwrap();
    world.ipam.auto_assign(wanted("node1", 4, "a")).await.unwrap();
    world.ipam.release_by_handle(&"a".into()).await.unwrap();
    let error = world.ipam.assign_ip(chosen("node1", "10.10.0.2", "b")).await.unwrap_err();
    assert!(matches!(error, AssignError::Cooling { .. }) && error.to_string().contains("cools down"), "{error}");
    assert!(world.ipam.auto_assign(wanted("node1", 1, "b")).await.is_err());
    let later = OffsetDateTime::now_utc() + Duration::seconds(61);
    let ipam = world.ipam.clone().with_clock(Arc::new(move || later));
    ipam.assign_ip(chosen("node1", "10.10.0.2", "b")).await.unwrap();
    assert_eq!(ipam.auto_assign(wanted("node1", 3, "c")).await.unwrap().v4.len(), 3);
}

#[tokio::test]
async fn settings_that_are_not_known_here_stay_and_races_are_not_lost() {
    let world = World::new(&[]).await;
    world.memory.put(CONFIG_KEY, r#"{"auto_allocate_blocks":true,"newer":7}"#);
    world.before(WriteKind::Update, CONFIG_KEY.to_owned(), |behind| {
        behind.put(CONFIG_KEY, r#"{"auto_allocate_blocks":true,"ipCooldownSeconds":9,"newer":8}"#);
        Injected::Proceed
    });
    world.ipam.modify_config(|config| config.strict_affinity = true).await.unwrap();
    let stored = world.memory.get(CONFIG_KEY).await.unwrap().unwrap().value;
    let expected = r#"{"strict_affinity":true,"auto_allocate_blocks":true,"ipCooldownSeconds":9,"newer":8}"#;
    assert_eq!(String::from_utf8(stored).unwrap(), expected);
    let error = world.ipam.modify_config(|config| config.auto_allocate_blocks = false).await;
    assert!(error.is_ok());
    let error = world.ipam.set_config(Config { auto_allocate_blocks: false, ..Config::default() }).await.unwrap_err();
    assert!(matches!(error, ConfigureError::Invalid(_)), "{error}");
}

#[tokio::test]
async fn messages_name_the_thing_the_cause_and_the_way_out() {
    let world = World::new(&[("10.10.0.0/28", 29)]).await;
    let error = world.ipam.assign_ip(chosen("node1", "10.99.0.1", "a")).await.unwrap_err();
    assert_eq!(error.to_string(), "10.99.0.1 is not in any enabled pool; enabled pools are 10.10.0.0/28");
    let error = world.ipam.auto_assign(wanted("ghost", 1, "a")).await.unwrap_err();
    assert_eq!(error.to_string(), "node ghost does not exist; start the node before assigning addresses on it");
    let request = AutoAssign { pools4: vec![net("10.99.0.0/16")], ..wanted("node1", 1, "a") };
    let error = world.ipam.auto_assign(request).await.unwrap_err();
    assert_eq!(error.to_string(), "pool 10.99.0.0/16 does not exist or is not enabled");
    let request = AutoAssign { max_blocks: Some(1), ..wanted("node1", 9, "a") };
    let error = world.ipam.auto_assign(request).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "node1 may own 1 IPv4 blocks and has no address left in them (8 of 9 obtained); raise the limit or release \
         addresses"
    );
    let error = world.ipam.release_by_handle(&"nobody".into()).await.unwrap_err();
    assert!(matches!(error, ReleaseError::NoHandle { .. }));
    assert_eq!(error.to_string(), "handle nobody does not exist");
    let error = world.ipam.claim_affinity(&Owner::host("node1"), net("10.10.0.0/30")).await.unwrap_err();
    assert!(matches!(error, AffinityError::TooSmall { block_len: 29, .. }), "{error}");
    assert!(world.in_use().await.is_empty());
    assert_eq!(world.handles().await, 0);
}

#[tokio::test]
async fn utilization_is_exact_for_large_pools_and_orphans_of_both_families() {
    let world = World::new(&[("fd00::/64", 122)]).await;
    let request = AutoAssign { num6: 3, ..wanted("node1", 0, "a") };
    world.ipam.auto_assign(request).await.unwrap();
    let orphan = r#"{"cidr":"fd99::/127","affinity":null,"allocations":[0,null],"unallocated":[1],"attributes":[{}]}"#;
    world.memory.put(&block_key(net("fd99::/127")), orphan);
    let found = world.ipam.get_utilization().await.unwrap();
    let usage = &found.pools[0].usage;
    assert_eq!((usage.capacity, usage.in_use, usage.available), (1 << 64, 3, (1 << 64) - 3));
    assert_eq!(
        found.orphans.iter().map(|orphan| (orphan.cidr, orphan.in_use)).collect::<Vec<_>>(),
        [(net("fd99::/127"), 1)]
    );
}

#[tokio::test]
async fn pools_for_namespaces() {
    let world = World::new(&[]).await;
    let spec = IPPoolSpec {
        cidr: net("10.10.0.0/28"),
        block_size: Some(29),
        namespace_selector: "team == 'a'".into(),
        allowed_uses: vec!["Workload".into()],
        ..Default::default()
    };
    world.store.create(IPPool::new("team-a", spec)).await.unwrap();
    let error = world.ipam.auto_assign(wanted("node1", 1, "a")).await.unwrap_err();
    assert!(error.to_string().contains("team == 'a'"), "{error}");
    let namespace_labels = BTreeMap::from([("team".to_owned(), "a".to_owned())]);
    world.ipam.auto_assign(AutoAssign { namespace_labels, ..wanted("node1", 1, "a") }).await.unwrap();
}

impl World {
    /// A client whose writes no callback sees.
    fn ipam_behind(&self) -> Ipam {
        Ipam::new(Store::new(Arc::new(self.memory.behind()))).with_backoff(Backoff::NONE)
    }
}

/// Runs a call against the in-memory datastore, which never waits, from within a callback.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("the in-memory datastore waited"),
    }
}
