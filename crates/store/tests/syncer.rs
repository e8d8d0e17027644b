//! The syncer over the in-memory datastore: snapshot, differences, outages, records that cannot be read.

#![allow(clippy::unwrap_used)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use calico_model::{AnyResource, Change, Revision};
use calico_store::{Entry, Error, Event, Kv, KvEvent, KvWatch, Listing, MemoryKv, Syncer, SyncerHandle};
use tokio::time::timeout;

const NODES: &str = "/calico/resources/v3/projectcalico.org/nodes/";
const PROFILES: &str = "/calico/resources/v3/projectcalico.org/profiles/";
const IPAM: &str = "/calico/ipam/v2/";

fn node(name: &str, asn: u32) -> String {
    let head = r#"{"kind":"Node","apiVersion":"projectcalico.org/v3","#;
    format!(r#"{head}"metadata":{{"name":"{name}"}},"spec":{{"bgp":{{"asNumber":{asn}}}}},"status":{{}}}}"#)
}

fn put_node(kv: &MemoryKv, name: &str, asn: u32) -> Revision {
    kv.put(&format!("{NODES}{name}"), node(name, asn))
}

fn spawn(kv: &MemoryKv, prefixes: &[&str]) -> SyncerHandle {
    Syncer::spawn(Arc::new(kv.clone()), prefixes.iter().map(|prefix| (*prefix).to_owned()).collect())
}

/// One word per event.
fn word(event: &Event) -> String {
    match event {
        Event::Change(Change::Set { key, resource }) => match &**resource {
            AnyResource::Node(node) => {
                let asn = node.spec.bgp.as_ref().and_then(|bgp| bgp.as_number).map_or(0, |asn| asn.0);
                format!("set {} {asn}", key.name)
            }
            _ => format!("set {}", key.name),
        },
        Event::Change(Change::Remove { key } | Change::Unusable { key, .. }) => format!("remove {}", key.name),
        Event::Raw(KvEvent::Put(entry)) => format!("raw {}", entry.key),
        Event::Raw(KvEvent::Delete { key, .. }) => format!("raw-delete {key}"),
        Event::Unreadable(error) => format!("unreadable {}", error.key().name),
        Event::InSync => "in-sync".into(),
        Event::Lost { .. } => "lost".into(),
        Event::Back => "back".into(),
    }
}

/// The words of all events up to the first that is `last`.
async fn until(syncer: &mut SyncerHandle, last: &str) -> Vec<String> {
    let mut words = Vec::new();
    loop {
        let batch = timeout(Duration::from_secs(60), syncer.next()).await;
        let batch = batch.unwrap_or_else(|_| panic!("no {last:?} in time, but {words:?}")).unwrap();
        assert!(!batch.is_empty(), "no empty batches");
        words.extend(batch.iter().map(word));
        if words.iter().any(|word| word == last) {
            return words;
        }
    }
}

#[tokio::test]
async fn a_snapshot_then_changes() {
    let kv = MemoryKv::new();
    put_node(&kv, "b", 2);
    put_node(&kv, "a", 1);
    kv.put("/calico/ipam/v2/handle/h", "{}");
    kv.put("/elsewhere", "not followed");
    let mut syncer = spawn(&kv, &[NODES, PROFILES, IPAM]);
    let words = until(&mut syncer, "in-sync").await;
    assert_eq!(words, ["raw /calico/ipam/v2/handle/h", "set a 1", "set b 2", "in-sync"]);

    put_node(&kv, "a", 10);
    assert_eq!(until(&mut syncer, "set a 10").await, ["set a 10"]);
    kv.remove(&format!("{NODES}b"));
    assert_eq!(until(&mut syncer, "remove b").await, ["remove b"]);
    kv.remove("/calico/ipam/v2/handle/h");
    until(&mut syncer, "raw-delete /calico/ipam/v2/handle/h").await;
}

#[tokio::test]
async fn what_is_at_hand_comes_in_one_batch() {
    let kv = MemoryKv::new();
    let mut syncer = spawn(&kv, &[NODES, IPAM]);
    until(&mut syncer, "in-sync").await;
    // The syncer's task shares this thread, so it sees all of these at once.
    for n in 0..100 {
        put_node(&kv, "a", n);
        kv.put("/calico/ipam/v2/config", "{}");
    }
    let batch = timeout(Duration::from_secs(60), syncer.next()).await.unwrap().unwrap();
    assert_eq!(batch.len(), 200);
}

#[tokio::test]
async fn a_prefix_within_another_is_not_followed_twice() {
    let kv = MemoryKv::new();
    put_node(&kv, "a", 1);
    let mut syncer = spawn(&kv, &[NODES, "/calico/", NODES]);
    assert_eq!(until(&mut syncer, "in-sync").await, ["set a 1", "in-sync"]);
}

#[tokio::test]
async fn records_that_cannot_be_used_are_said_once() {
    let kv = MemoryKv::new();
    put_node(&kv, "good", 1);
    kv.put(&format!("{NODES}json"), "{not json");
    kv.put(&format!("{NODES}schema"), node("schema", 1).replace("\"asNumber\":1", "\"ipv4Address\":\"10.0.0.300/24\""));
    kv.put(&format!("{NODES}name"), node("other", 1));
    kv.put(&format!("{NODES}too/many"), node("many", 1));
    kv.put("/calico/resources/v3/projectcalico.org/livemigrations/ns/x", "{another kind");
    let mut syncer = spawn(&kv, &["/calico/resources/v3/projectcalico.org/"]);
    let words = until(&mut syncer, "in-sync").await;
    assert_eq!(words, ["set good 1", "unreadable json", "unreadable name", "unreadable schema", "in-sync"]);

    // Said again only for a new revision; and a good value that goes bad is removed first.
    kv.set_down(true);
    until(&mut syncer, "lost").await;
    kv.set_down(false);
    assert_eq!(until(&mut syncer, "back").await, ["back"]);
    kv.put(&format!("{NODES}json"), "{still not json");
    assert_eq!(until(&mut syncer, "unreadable json").await, ["unreadable json"]);
    kv.put(&format!("{NODES}good"), "[]");
    assert_eq!(until(&mut syncer, "unreadable good").await, ["remove good", "unreadable good"]);
    put_node(&kv, "json", 7);
    assert_eq!(until(&mut syncer, "set json 7").await, ["set json 7"]);
    // Whoever was told of a bad value must learn that it is gone. A key that is none of v3's was never told of.
    kv.remove(&format!("{NODES}too/many"));
    kv.remove(&format!("{NODES}good"));
    kv.remove(&format!("{NODES}json"));
    assert_eq!(until(&mut syncer, "remove json").await, ["remove good", "remove json"]);

    // Also when it went while nobody looked.
    kv.set_down(true);
    until(&mut syncer, "lost").await;
    kv.remove(&format!("{NODES}schema"));
    kv.set_down(false);
    assert_eq!(until(&mut syncer, "back").await, ["remove schema", "back"]);
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_said_once_and_only_differences_follow() {
    let kv = MemoryKv::new();
    for (name, asn) in [("changed", 1), ("gone", 1), ("same", 1)] {
        put_node(&kv, name, asn);
    }
    let mut syncer = spawn(&kv, &[NODES]);
    until(&mut syncer, "in-sync").await;

    kv.set_down(true);
    assert_eq!(until(&mut syncer, "lost").await, ["lost"]);
    tokio::time::sleep(Duration::from_secs(100)).await;
    put_node(&kv, "changed", 2);
    put_node(&kv, "new", 1);
    put_node(&kv, "brief", 1);
    kv.remove(&format!("{NODES}brief"));
    kv.remove(&format!("{NODES}gone"));
    kv.compact();
    kv.set_down(false);
    assert_eq!(until(&mut syncer, "back").await, ["remove gone", "set changed 2", "set new 1", "back"]);

    kv.set_down(true);
    assert_eq!(until(&mut syncer, "lost").await, ["lost"], "a second outage is said again");
    kv.set_down(false);
    assert_eq!(until(&mut syncer, "back").await, ["back"]);
}

#[tokio::test(start_paused = true)]
async fn a_datastore_that_is_down_at_the_start_is_waited_for() {
    let kv = MemoryKv::new();
    put_node(&kv, "a", 1);
    kv.set_down(true);
    let mut syncer = spawn(&kv, &[NODES]);
    assert_eq!(until(&mut syncer, "lost").await, ["lost"]);
    kv.set_down(false);
    assert_eq!(until(&mut syncer, "back").await, ["set a 1", "in-sync", "back"]);
}

/// Counts the calls to a datastore that is down, or whose watches always end.
struct Counting {
    lists: AtomicUsize,
    watch_ends_with: Option<fn() -> Error>,
}

fn down() -> Error {
    Error::Unreachable { endpoints: "nowhere".into(), cause: "counting".into() }
}

#[async_trait]
impl Kv for Counting {
    async fn get(&self, _: &str) -> Result<Option<Entry>, Error> {
        Err(down())
    }
    async fn list(&self, _: &str) -> Result<Listing, Error> {
        self.lists.fetch_add(1, Ordering::SeqCst);
        match self.watch_ends_with {
            Some(_) => Ok(Listing { revision: Revision(1), entries: Vec::new() }),
            None => Err(down()),
        }
    }
    async fn create(&self, _: &str, _: Vec<u8>) -> Result<Revision, Error> {
        Err(down())
    }
    async fn update(&self, _: &str, _: Vec<u8>, _: Revision) -> Result<Revision, Error> {
        Err(down())
    }
    async fn delete(&self, _: &str, _: Revision) -> Result<(), Error> {
        Err(down())
    }
    async fn watch(&self, _: &str, _: Revision) -> Result<Box<dyn KvWatch>, Error> {
        Ok(Box::new(Ends(self.watch_ends_with.unwrap())))
    }
    fn location(&self) -> String {
        "nowhere".into()
    }
}

struct Ends(fn() -> Error);

#[async_trait]
impl KvWatch for Ends {
    async fn next(&mut self) -> Result<Vec<KvEvent>, Error> {
        Err((self.0)())
    }
}

#[tokio::test(start_paused = true)]
async fn trouble_costs_next_to_nothing() {
    let compacted: fn() -> Error = || Error::Compacted { compacted: Revision(1) };
    for watch_ends_with in [None, Some(compacted), Some(down as fn() -> Error)] {
        let kv = Arc::new(Counting { lists: AtomicUsize::new(0), watch_ends_with });
        let mut syncer = Syncer::spawn(kv.clone(), vec![NODES.into()]);
        let words = tokio::spawn(async move {
            let mut words = Vec::new();
            while let Some(batch) = syncer.next().await {
                words.extend(batch.iter().map(word));
                if words.len() > 1000 {
                    break;
                }
            }
            words
        });
        tokio::time::sleep(Duration::from_secs(600)).await;
        let lists = kv.lists.load(Ordering::SeqCst);
        // 600 s at 5 to 10 s each, and the first few in quicker succession.
        assert!((60..=130).contains(&lists), "{lists} attempts in ten minutes");
        assert!(!words.is_finished(), "the consumer is not flooded");
        words.abort();
    }
}

#[tokio::test]
async fn a_dropped_handle_ends_the_task() {
    let kv = Arc::new(MemoryKv::new());
    let mut syncer = Syncer::spawn(kv.clone(), vec![NODES.into()]);
    until(&mut syncer, "in-sync").await;
    assert!(Arc::strong_count(&kv) > 1);
    drop(syncer);
    timeout(Duration::from_secs(60), async {
        while Arc::strong_count(&kv) > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the task lets go of the datastore");
}
