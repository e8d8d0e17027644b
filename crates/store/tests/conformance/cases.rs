//! What every [`Kv`] must do. Included by the tests of whatever implements one, or serves etcd's API to one.

#![allow(clippy::unwrap_used, unreachable_pub)]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use calico_model::Revision;
use calico_store::{Entry, Error, Kv, KvEvent, KvWatch};
use etcd_client::TxnOp;
use tokio::time::timeout;

/// Long enough for a machine that builds nine other things meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

/// An empty datastore under test, with what a stranger could do to it.
#[async_trait]
pub trait World: Send + Sync {
    fn kv(&self) -> Arc<dyn Kv>;

    /// Writes and deletes at one revision.
    async fn at_once(&self, puts: &[(&str, &str)], deletes: &[&str]);

    /// Compacts at the present revision.
    async fn compact(&self);
}

/// A server that speaks etcd's API. It lives as long as the world.
pub struct Remote<S> {
    #[allow(dead_code, reason = "it is there to live")]
    pub server: S,
    pub kv: Arc<dyn Kv>,
    /// Upstream's client without our layer.
    pub raw: etcd_client::Client,
}

#[async_trait]
impl<S: Send + Sync> World for Remote<S> {
    fn kv(&self) -> Arc<dyn Kv> {
        self.kv.clone()
    }

    async fn at_once(&self, puts: &[(&str, &str)], deletes: &[&str]) {
        let puts = puts.iter().map(|(key, value)| TxnOp::put(*key, *value, None));
        let deletes = deletes.iter().map(|key| TxnOp::delete(*key, None));
        let txn = etcd_client::Txn::new().and_then(puts.chain(deletes).collect::<Vec<_>>());
        self.raw.clone().txn(txn).await.unwrap();
    }

    async fn compact(&self) {
        let revision = self.kv.list("/").await.unwrap().revision;
        self.raw.clone().compact(revision.0, None).await.unwrap();
    }
}

/// All of it as tests of a module, each in a world of its own.
macro_rules! conformance {
    ($module:ident, $world:expr) => {
        conformance! { $module, $world,
            writes_are_compare_and_swap
            concurrent_swaps_lose_nothing
            listings_are_by_prefix_and_in_order
            large_listings_are_whole
            values_are_bytes
            watches_deliver_what_follows_a_revision
            a_revision_is_delivered_whole
            a_dropped_call_of_next_loses_nothing
            compaction_ends_old_watches_only
        }
    };
    ($module:ident, $world:expr, $($name:ident)+) => {
        mod $module {
            $(#[tokio::test] async fn $name() { super::cases::$name(&$world.await).await; })+
        }
    };
}

/// The next events, or the test fails.
async fn next(watch: &mut Box<dyn KvWatch>) -> Vec<KvEvent> {
    timeout(PATIENCE, watch.next()).await.expect("an event in time").unwrap()
}

/// Collects until there are `count` events.
async fn collect(watch: &mut Box<dyn KvWatch>, count: usize) -> Vec<KvEvent> {
    let mut events = Vec::new();
    while events.len() < count {
        events.extend(next(watch).await);
    }
    assert_eq!(events.len(), count, "{events:?}");
    events
}

fn entry(key: &str, value: &str, revision: Revision) -> Entry {
    Entry { key: key.into(), value: value.into(), revision }
}

pub async fn writes_are_compare_and_swap(world: &dyn World) {
    let kv = world.kv();
    assert_eq!(kv.get("/k").await.unwrap(), None);
    let first = kv.create("/k", b"1".to_vec()).await.unwrap();
    assert_eq!(kv.get("/k").await.unwrap(), Some(entry("/k", "1", first)));

    let error = kv.create("/k", b"x".to_vec()).await.unwrap_err();
    let Error::AlreadyExists { key, existing } = &error else { panic!("{error}") };
    assert_eq!((key.as_str(), &**existing), ("/k", &entry("/k", "1", first)));

    let second = kv.update("/k", b"2".to_vec(), first).await.unwrap();
    assert!(second > first);
    for error in [
        kv.update("/k", b"x".to_vec(), first).await.unwrap_err(),
        kv.delete("/k", first).await.unwrap_err(),
        kv.update("/k", b"x".to_vec(), Revision(0)).await.unwrap_err(),
    ] {
        let Error::Conflict { key, current } = &error else { panic!("{error}") };
        assert_eq!((key.as_str(), &**current), ("/k", &entry("/k", "2", second)));
    }
    assert_eq!(kv.get("/k").await.unwrap(), Some(entry("/k", "2", second)), "a refused write changes nothing");

    kv.delete("/k", second).await.unwrap();
    assert_eq!(kv.get("/k").await.unwrap(), None);
    assert!(kv.update("/k", b"x".to_vec(), second).await.unwrap_err().is_not_found());
    assert!(kv.delete("/k", second).await.unwrap_err().is_not_found());
    assert!(kv.update("/k", b"x".to_vec(), Revision(0)).await.unwrap_err().is_not_found(), "no create in disguise");
    assert!(kv.delete("/k", Revision(0)).await.unwrap_err().is_not_found());
    assert!(kv.create("/k", b"3".to_vec()).await.unwrap() > second);
}

pub async fn concurrent_swaps_lose_nothing(world: &dyn World) {
    let kv = world.kv();
    kv.create("/n", b"0".to_vec()).await.unwrap();
    let tasks: Vec<_> = (0..8).map(|_| tokio::spawn(add_five(kv.clone()))).collect();
    for task in tasks {
        timeout(PATIENCE, task).await.unwrap().unwrap();
    }
    assert_eq!(kv.get("/n").await.unwrap().unwrap().value, b"40");
}

async fn add_five(kv: Arc<dyn Kv>) {
    let mut added = 0;
    while added < 5 {
        let entry = kv.get("/n").await.unwrap().unwrap();
        let n: u32 = String::from_utf8(entry.value).unwrap().parse().unwrap();
        tokio::task::yield_now().await;
        match kv.update("/n", (n + 1).to_string().into_bytes(), entry.revision).await {
            Ok(_) => added += 1,
            Err(error) => assert!(error.is_conflict(), "{error}"),
        }
    }
}

pub async fn listings_are_by_prefix_and_in_order(world: &dyn World) {
    let kv = world.kv();
    let mut last = Revision(0);
    for key in ["/a/2", "/a/1", "/a/10", "/a", "/a0", "/b/1"] {
        last = kv.create(key, key.into()).await.unwrap();
    }
    let listing = kv.list("/a/").await.unwrap();
    let keys: Vec<_> = listing.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["/a/1", "/a/10", "/a/2"]);
    assert_eq!(listing.revision, last, "the listing's revision is the datastore's, not an entry's");
    assert!(listing.entries.iter().all(|entry| entry.value == entry.key.as_bytes() && entry.revision < last));
    assert!(kv.list("/a/1/").await.unwrap().entries.is_empty());
    assert_eq!(kv.list("/").await.unwrap().entries.len(), 6);
    assert_eq!(kv.list("").await.unwrap().entries.len(), 6);
}

pub async fn large_listings_are_whole(world: &dyn World) {
    let kv = world.kv();
    let value = "v".repeat(500);
    let keys: Vec<String> = (0..10_100).map(|n| format!("/large/{n:06}")).collect();
    for chunk in keys.chunks(100) {
        let puts: Vec<_> = chunk.iter().map(|key| (key.as_str(), value.as_str())).collect();
        world.at_once(&puts, &[]).await;
    }
    kv.create("/larger", Vec::new()).await.unwrap();
    let listing = kv.list("/large/").await.unwrap();
    assert!(listing.entries.iter().map(|entry| &entry.key).eq(&keys));
    assert!(listing.entries.iter().all(|entry| entry.value.len() == 500));
}

pub async fn values_are_bytes(world: &dyn World) {
    let kv = world.kv();
    let all: Vec<u8> = (0..=255).collect();
    let revision = kv.create("/bytes", all.clone()).await.unwrap();
    assert_eq!(kv.get("/bytes").await.unwrap().unwrap().value, all);
    kv.update("/bytes", Vec::new(), revision).await.unwrap();
    assert_eq!(kv.get("/bytes").await.unwrap().unwrap().value, Vec::<u8>::new());
}

pub async fn watches_deliver_what_follows_a_revision(world: &dyn World) {
    let kv = world.kv();
    let first = kv.create("/w/a", b"1".to_vec()).await.unwrap();
    let second = kv.update("/w/a", b"2".to_vec(), first).await.unwrap();
    kv.create("/other", b"".to_vec()).await.unwrap();

    let mut past = kv.watch("/w/", first).await.unwrap();
    assert_eq!(collect(&mut past, 1).await, [KvEvent::Put(entry("/w/a", "2", second))]);

    let now = kv.list("/w/").await.unwrap().revision;
    let mut watch = kv.watch("/w/", now).await.unwrap();
    let created = kv.create("/w/b", b"3".to_vec()).await.unwrap();
    kv.create("/w", b"not below the prefix".to_vec()).await.unwrap();
    kv.delete("/w/a", second).await.unwrap();
    let updated = kv.update("/w/b", b"4".to_vec(), created).await.unwrap();
    let expected = [
        KvEvent::Put(entry("/w/b", "3", created)),
        KvEvent::Delete { key: "/w/a".into(), revision: Revision(updated.0 - 1) },
        KvEvent::Put(entry("/w/b", "4", updated)),
    ];
    assert_eq!(collect(&mut watch, 3).await, expected);
    assert_eq!(collect(&mut past, 3).await, expected);
}

pub async fn a_revision_is_delivered_whole(world: &dyn World) {
    let kv = world.kv();
    kv.create("/w/gone", Vec::new()).await.unwrap();
    let mut watch = kv.watch("/w/", kv.list("/w/").await.unwrap().revision).await.unwrap();
    world.at_once(&[("/w/a", "1"), ("/w/b", "2"), ("/else", "")], &["/w/gone"]).await;
    let events = next(&mut watch).await;
    let keys: BTreeSet<_> = events
        .iter()
        .map(|event| match event {
            KvEvent::Put(entry) => (entry.key.as_str(), true, entry.revision),
            KvEvent::Delete { key, revision } => (key.as_str(), false, *revision),
        })
        .collect();
    let revision = kv.list("/w/").await.unwrap().revision;
    assert_eq!(keys, [("/w/a", true, revision), ("/w/b", true, revision), ("/w/gone", false, revision)].into());
}

pub async fn a_dropped_call_of_next_loses_nothing(world: &dyn World) {
    let kv = world.kv();
    let mut watch = kv.watch("/w/", kv.list("/").await.unwrap().revision).await.unwrap();
    for n in 0..20u8 {
        let cut_short = timeout(Duration::from_millis(u64::from(n % 3)), watch.next()).await;
        assert!(cut_short.is_err(), "nothing has happened yet");
        let revision = kv.create(&format!("/w/{n}"), vec![n]).await.unwrap();
        // The event may arrive while a call that is about to be dropped looks.
        let events = match timeout(Duration::from_micros(200), watch.next()).await {
            Ok(events) => events.unwrap(),
            Err(_) => next(&mut watch).await,
        };
        assert_eq!(events, [KvEvent::Put(Entry { key: format!("/w/{n}"), value: vec![n], revision })]);
    }
}

pub async fn compaction_ends_old_watches_only(world: &dyn World) {
    let kv = world.kv();
    let first = kv.create("/w/a", b"1".to_vec()).await.unwrap();
    let second = kv.update("/w/a", b"2".to_vec(), first).await.unwrap();
    let third = kv.update("/w/a", b"3".to_vec(), second).await.unwrap();
    let mut present = kv.watch("/w/", third).await.unwrap();
    world.compact().await;

    let mut old = kv.watch("/w/", Revision(0)).await.unwrap();
    let error = timeout(PATIENCE, old.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Compacted { compacted } if compacted == third), "{error}");

    let mut edge = kv.watch("/w/", second).await.unwrap();
    assert_eq!(collect(&mut edge, 1).await, [KvEvent::Put(entry("/w/a", "3", third))]);
    assert_eq!(kv.list("/w/").await.unwrap().entries, [entry("/w/a", "3", third)]);
    let fourth = kv.update("/w/a", b"4".to_vec(), third).await.unwrap();
    assert_eq!(collect(&mut present, 1).await, [KvEvent::Put(entry("/w/a", "4", fourth))]);
}
