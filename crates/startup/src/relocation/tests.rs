//! Migrations between two in-memory datastores, with hosts as tasks, and a fault at every single write.

#![allow(clippy::unwrap_used)]

mod orders;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use calico_model::{ClusterInformation, ClusterInformationSpec, Node, NodeSpec};
use calico_store::{Error, Injected, Kv, MemoryKv, Store};
use tokio::{task::JoinSet, time::timeout};

use super::{
    host::{Step, decide},
    *,
};

/// Long enough for everything; the clock of these tests stands still while somebody works.
const LONG: Duration = Duration::from_secs(3600);

fn destination(host: &str) -> Destination {
    Destination(BTreeMap::from([("ETCD_ENDPOINTS".to_owned(), format!("http://{host}:2379"))]))
}

/// A host of the tests: the new datastore may be out of its reach, and where it went is noted.
struct TestPlace {
    node: String,
    new: MemoryKv,
    reachable: AtomicBool,
    /// The next record of a move is written, and reported as a failure.
    forgets_to_say_so: AtomicBool,
    moved: Arc<Mutex<BTreeSet<String>>>,
}

#[async_trait]
impl Place for TestPlace {
    async fn connect(&self, _: &Destination) -> Result<Arc<dyn Kv>, Error> {
        if self.reachable.load(Ordering::SeqCst) {
            return Ok(Arc::new(self.new.clone()));
        }
        Err(Error::Unreachable { endpoints: "http://new:2379".into(), cause: "no route".into() })
    }

    fn remember(&self, _: &Destination, _: &str) -> Result<(), Error> {
        self.moved.lock().unwrap().insert(self.node.clone());
        if self.forgets_to_say_so.swap(false, Ordering::SeqCst) {
            return Err(Error::Settings {
                setting: "location.env".into(),
                cause: "an error after it was written".into(),
            });
        }
        Ok(())
    }
}

/// Two datastores, the old one with a cluster, and hosts.
struct World {
    old: MemoryKv,
    new: MemoryKv,
    places: Vec<Arc<TestPlace>>,
    moved: Arc<Mutex<BTreeSet<String>>>,
    hosts: JoinSet<()>,
}

const HOSTS_OF_THE_CLUSTER: [&str; 3] = ["h1", "h2", "h3"];

impl World {
    async fn new() -> Self {
        let (old, new) = (MemoryKv::new(), MemoryKv::new());
        let store = Store::new(Arc::new(old.clone()));
        let spec = ClusterInformationSpec { cluster_guid: "cafe".into(), ..ClusterInformationSpec::default() };
        store.create(ClusterInformation::new("default", spec)).await.unwrap();
        for host in HOSTS_OF_THE_CLUSTER {
            store.create(Node::new(host, NodeSpec::default())).await.unwrap();
        }
        for n in 0..5 {
            old.put(&format!("/calico/ipam/v2/assignment/ipv4/block/{n}"), format!("block {n}"));
        }
        old.put("/elsewhere", "not ours");
        // A new etcd may be in use by others.
        new.put("/elsewhere/too", "not ours");
        let mut world = Self { old, new, places: Vec::new(), moved: Arc::default(), hosts: JoinSet::new() };
        for host in HOSTS_OF_THE_CLUSTER {
            let place = TestPlace {
                node: host.to_owned(),
                new: world.new.behind(),
                reachable: AtomicBool::new(true),
                forgets_to_say_so: AtomicBool::new(false),
                moved: world.moved.clone(),
            };
            world.places.push(Arc::new(place));
        }
        world
    }

    /// Starts hosts that no fault concerns.
    fn start(&mut self, which: &[usize]) {
        for &at in which {
            let (place, old, new) = (self.places[at].clone(), self.old.behind(), self.new.behind());
            self.hosts.spawn(async move {
                let mut kv: Arc<dyn Kv> = Arc::new(old);
                loop {
                    follow(kv, &place.node, place.as_ref()).await;
                    kv = Arc::new(new.clone());
                }
            });
        }
    }

    async fn migrate(&self, without: &[&str], patience: Duration) -> Result<Moved, RelocationError> {
        let without = without.iter().map(|&host| host.to_owned()).collect();
        let migration = Migration { to: destination("new"), without, patience };
        let (old, new): (Arc<dyn Kv>, Arc<dyn Kv>) = (Arc::new(self.old.clone()), Arc::new(self.new.clone()));
        timeout(LONG, migrate(&old, &new, &migration, &mut |_| ())).await.expect("it ends")
    }

    async fn abort(&self) -> Result<TakenBack, RelocationError> {
        let (old, new): (Arc<dyn Kv>, Arc<dyn Kv>) = (Arc::new(self.old.clone()), Arc::new(self.new.clone()));
        timeout(LONG, abort(&old, Some(&new))).await.expect("it ends")
    }

    fn moved(&self) -> Vec<String> {
        self.moved.lock().unwrap().iter().cloned().collect()
    }

    /// Writes after the `n`-th fail, in both datastores: the command has crashed there.
    fn crash_at(&self, n: usize, how: Injected) -> Arc<AtomicUsize> {
        let writes = Arc::new(AtomicUsize::new(0));
        for kv in [&self.old, &self.new] {
            let writes = writes.clone();
            kv.inject(move |_, _| match writes.fetch_add(1, Ordering::SeqCst) {
                write if write < n => Injected::Proceed,
                write if write == n => how,
                _ => Injected::FailBefore,
            });
        }
        writes
    }

    fn heal(&self) {
        self.old.stop_injecting();
        self.new.stop_injecting();
    }

    /// Waits until every host said that it is in the new datastore, or the record is gone with the answers.
    async fn check_moved(&self) {
        let arrived = async {
            while self.moved() != HOSTS_OF_THE_CLUSTER {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(LONG, arrived).await.expect("all hosts move");
        let mut expected = contents(&self.old).await;
        let mut found = contents(&self.new).await;
        assert_eq!(ready(&mut expected), Some(false), "the old one stays locked");
        assert_eq!(ready(&mut found), Some(true), "the new one is unlocked");
        assert_eq!(found, expected);
        let (record, _) = read_record(&self.old).await.unwrap().expect("the old one keeps a tombstone");
        assert_eq!(record.phase, Phase::Switch);
        assert_eq!(self.new.get("/elsewhere/too").await.unwrap().unwrap().value, b"not ours");
        assert!(self.new.get("/elsewhere").await.unwrap().is_none());
    }

    /// Everything is as if nothing had ever been tried.
    async fn check_untouched(&self, before: &BTreeMap<String, Vec<u8>>) {
        let (mut before, mut now) = (before.clone(), contents(&self.old).await);
        assert_ne!(ready(&mut now), Some(false), "unlocked");
        ready(&mut before);
        assert_eq!(now, before);
        assert!(self.moved().is_empty());
        for kv in [&self.old, &self.new] {
            assert!(kv.list(RECORD).await.unwrap().entries.is_empty(), "nothing of the migration is left");
        }
        assert!(contents(&self.new).await.is_empty());
    }
}

/// All of ours but what is about the migration.
async fn contents(kv: &MemoryKv) -> BTreeMap<String, Vec<u8>> {
    let entries = kv.behind().list(ROOT).await.unwrap().entries;
    entries.into_iter().filter(|entry| !is_about_migration(&entry.key)).map(|entry| (entry.key, entry.value)).collect()
}

/// Takes the member `datastoreReady` out of the ClusterInformation.
fn ready(contents: &mut BTreeMap<String, Vec<u8>>) -> Option<bool> {
    let key = contents.keys().find(|key| key.contains("clusterinformations")).cloned().unwrap();
    let mut value: serde_json::Value = serde_json::from_slice(&contents[&key]).unwrap();
    let ready = value["spec"].as_object_mut().unwrap().remove("datastoreReady");
    contents.insert(key, value.to_string().into_bytes());
    ready.and_then(|ready| ready.as_bool())
}

#[tokio::test(start_paused = true)]
async fn a_cluster_moves_with_all_its_hosts() {
    let mut world = World::new().await;
    world.start(&[0, 1, 2]);
    let moved = world.migrate(&[], LONG).await.unwrap();
    assert_eq!(moved.keys, 9);
    assert!(moved.hosts.values().all(|state| *state == HostState::Switched) && moved.hosts.len() == 3, "{moved:?}");
    world.check_moved().await;
    assert!(world.new.list(RECORD).await.unwrap().entries.is_empty());
    let again = world.migrate(&[], LONG).await.unwrap_err();
    assert!(matches!(again, RelocationError::SamePlace(_)), "{again}");
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_write_is_continued_by_the_next_run() {
    for how in [Injected::FailBefore, Injected::FailAfter] {
        let mut crashes = 0;
        for n in 0.. {
            let mut world = World::new().await;
            world.start(&[0, 1, 2]);
            let writes = world.crash_at(n, how);
            let first = world.migrate(&[], Duration::from_secs(60)).await;
            world.heal();
            if writes.load(Ordering::SeqCst) <= n {
                first.unwrap();
                break;
            }
            crashes += 1;
            match world.migrate(&[], Duration::from_secs(60)).await {
                Ok(_) | Err(RelocationError::SamePlace(_)) => {}
                Err(error) => panic!("after a crash at write {n}: {error}"),
            }
            world.check_moved().await;
        }
        assert!(crashes > 15, "the faults hit: {crashes}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_write_is_taken_back_or_too_late() {
    let (mut back, mut late) = (0, 0);
    for n in 0.. {
        let mut world = World::new().await;
        let before = contents(&world.old).await;
        world.start(&[0, 1, 2]);
        let writes = world.crash_at(n, Injected::FailAfter);
        let first = world.migrate(&[], Duration::from_secs(60)).await;
        world.heal();
        if writes.load(Ordering::SeqCst) <= n {
            first.unwrap();
            break;
        }
        match world.abort().await {
            Ok(_) => {
                back += 1;
                // Whoever was about to go has the time to.
                tokio::time::sleep(Duration::from_secs(60)).await;
                world.check_untouched(&before).await;
            }
            Err(RelocationError::TooLate(_)) => {
                late += 1;
                let _ = world.migrate(&[], Duration::from_secs(60)).await;
                world.check_moved().await;
            }
            Err(error) => panic!("after a crash at write {n}: {error}"),
        }
    }
    assert!(back > 10 && late > 1, "{back} {late}");
}

#[tokio::test(start_paused = true)]
async fn a_crash_while_taking_back_is_continued_either_way() {
    for then_abort in [true, false] {
        for n in 0.. {
            let mut world = World::new().await;
            let before = contents(&world.old).await;
            // All is copied; it crashes just before the switch.
            world.start(&[0, 1, 2]);
            world.crash_at(12, Injected::FailBefore);
            world.migrate(&[], Duration::from_secs(60)).await.unwrap_err();
            assert_eq!(contents(&world.new).await.len(), 9);
            let writes = world.crash_at(n, Injected::FailAfter);
            let aborted = world.abort().await;
            world.heal();
            if writes.load(Ordering::SeqCst) <= n {
                aborted.unwrap();
                world.check_untouched(&before).await;
                break;
            }
            if then_abort {
                match world.abort().await {
                    Ok(_) | Err(RelocationError::NothingToAbort) => world.check_untouched(&before).await,
                    Err(error) => panic!("after a crash at write {n}: {error}"),
                }
            } else {
                world.migrate(&[], Duration::from_secs(60)).await.unwrap();
                world.check_moved().await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_was_told_to_come_back_at_the_last_moment_stays() {
    let mut world = World::new().await;
    world.start(&[]);
    let place = world.places[0].clone();
    // The record says `switch`, and `back` just before the host says that it goes.
    let record = Record {
        id: "1".into(),
        attempt: 1,
        phase: Phase::Switch,
        to: destination("new"),
        from: "memory".into(),
        hosts: vec!["h1".into()],
        left_behind: Vec::new(),
        unlock: true,
        keys: 0,
        copied: None,
    };
    let store = Store::new(Arc::new(world.new.clone()));
    let spec = ClusterInformationSpec { cluster_guid: "cafe".into(), ..ClusterInformationSpec::default() };
    store.create(ClusterInformation::new("default", spec)).await.unwrap();
    world.old.put(RECORD, encode(&record));
    let back = encode(&Record { phase: Phase::Back, ..record });
    world.old.inject(move |behind, write| {
        if write.value.is_some_and(|value| String::from_utf8_lossy(value).contains("switching")) {
            behind.put(RECORD, &back);
        }
        Injected::Proceed
    });
    let followed = timeout(Duration::from_secs(60), follow(Arc::new(world.old.clone()), "h1", place.as_ref())).await;
    assert!(followed.is_err(), "it follows the old datastore on");
    assert!(world.moved().is_empty());
    let answers = read_answers(&world.old).await.unwrap();
    assert_eq!(answers["h1"].state, AnswerState::Ready);
}

#[tokio::test(start_paused = true)]
async fn what_is_written_in_the_last_moment_arrives() {
    let mut world = World::new().await;
    world.start(&[0, 1, 2]);
    world.old.inject(|behind, write| {
        if write.key == RECORD && write.value.is_some_and(|value| String::from_utf8_lossy(value).contains("switch")) {
            behind.put("/calico/late", "late");
            behind.put("/calico/ipam/v2/assignment/ipv4/block/1", "changed late");
            behind.remove("/calico/ipam/v2/assignment/ipv4/block/2");
        }
        Injected::Proceed
    });
    world.migrate(&[], LONG).await.unwrap();
    world.check_moved().await;
    assert_eq!(world.new.get("/calico/late").await.unwrap().unwrap().value, b"late");
}

#[tokio::test(start_paused = true)]
async fn hosts_that_cannot_go_hold_it_up_until_they_are_left_behind() {
    let mut world = World::new().await;
    let before = contents(&world.old).await;
    world.start(&[0, 1]);
    world.places[1].reachable.store(false, Ordering::SeqCst);
    let error = world.migrate(&[], Duration::from_secs(10)).await.unwrap_err();
    let RelocationError::HostsNotReady { silent, unable } = error else { panic!("{error}") };
    assert_eq!(silent, ["h3"]);
    assert!(unable["h2"].contains("no route"), "{unable:?}");
    let error = world.migrate(&["h3", "h9"], LONG).await.unwrap_err();
    assert!(matches!(&error, RelocationError::NoSuchHost(host) if host == "h9"), "{error}");
    assert!(contents(&world.new).await.is_empty());
    assert_eq!(contents(&world.old).await, before, "not even locked");

    // The way is mended, the third host is down.
    world.places[1].reachable.store(true, Ordering::SeqCst);
    let moved = world.migrate(&["h3"], LONG).await.unwrap();
    assert_eq!(moved.hosts["h2"], HostState::Switched);
    assert_eq!(moved.hosts["h3"], HostState::LeftBehind);
    assert_eq!(world.moved(), ["h1", "h2"]);
    // It comes back, and finds the way by the tombstone.
    world.start(&[2]);
    world.check_moved().await;
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_late_does_not_keep_the_others_locked() {
    let mut world = World::new().await;
    world.start(&[0, 1, 2]);
    let cut_off = world.places[2].clone();
    world.old.inject(move |_, write| {
        if write.key == RECORD && write.value.is_some_and(|value| String::from_utf8_lossy(value).contains("switch")) {
            cut_off.reachable.store(false, Ordering::SeqCst);
        }
        Injected::Proceed
    });
    let moved = world.migrate(&[], Duration::from_secs(30)).await.unwrap();
    assert_eq!((&moved.hosts["h1"], &moved.hosts["h3"]), (&HostState::Switched, &HostState::Late));
    assert_eq!(ready(&mut contents(&world.new).await), Some(true));
    world.places[2].reachable.store(true, Ordering::SeqCst);
    let new: Arc<dyn Kv> = Arc::new(world.new.clone());
    let moved = finish(&new, LONG, &mut |_| ()).await.unwrap().unwrap();
    assert!(moved.hosts.values().all(|state| *state == HostState::Switched));
    world.check_moved().await;
    assert_eq!(finish(&new, LONG, &mut |_| ()).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_was_locked_stays_locked() {
    let mut world = World::new().await;
    world.start(&[0, 1, 2]);
    migrate::set_ready(&(Arc::new(world.old.clone()) as Arc<dyn Kv>), false).await.unwrap();
    assert!(world.migrate(&[], LONG).await.unwrap().stays_locked);
    assert_eq!(ready(&mut contents(&world.new).await), Some(false));
}

#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_changes_nothing() {
    let mut world = World::new().await;
    world.start(&[0, 1, 2]);
    world.new.put("/calico/something", "else");
    let error = world.migrate(&[], LONG).await.unwrap_err();
    assert!(matches!(error, RelocationError::NotEmpty { keys: 1, .. }), "{error}");
    assert!(read_record(&world.old).await.unwrap().is_none());
    world.new.remove("/calico/something");

    let old: Arc<dyn Kv> = Arc::new(world.old.clone());
    let migration = |host: &str| Migration { to: destination(host), without: BTreeSet::new(), patience: LONG };
    let error = migrate(&old, &old, &migration("alias"), &mut |_| ()).await.unwrap_err();
    assert!(matches!(error, RelocationError::SamePlace(_)), "{error}");
    assert!(read_record(&world.old).await.unwrap().is_none());

    let empty: Arc<dyn Kv> = Arc::new(MemoryKv::new());
    let error = migrate(&empty, &old, &migration("new"), &mut |_| ()).await.unwrap_err();
    assert!(matches!(error, RelocationError::NoCluster), "{error}");

    assert!(matches!(world.abort().await.unwrap_err(), RelocationError::NothingToAbort));
    // Under way to one place, asked for another.
    world.crash_at(1, Injected::FailBefore);
    world.migrate(&[], LONG).await.unwrap_err();
    world.heal();
    let elsewhere: Arc<dyn Kv> = Arc::new(MemoryKv::new());
    let error = migrate(&old, &elsewhere, &migration("elsewhere"), &mut |_| ()).await.unwrap_err();
    assert!(matches!(&error, RelocationError::Another(to) if to == "http://new:2379"), "{error}");
}

#[test]
fn a_host_does_what_the_record_asks_and_it_has_not_done() {
    let record = |phase| Record {
        id: "1".into(),
        attempt: 2,
        phase,
        to: destination("new"),
        from: "old".into(),
        hosts: Vec::new(),
        left_behind: Vec::new(),
        unlock: true,
        keys: 0,
        copied: None,
    };
    let said = |attempt, state| Some(Answer { id: "1".into(), attempt, state });
    let cases = [
        (Phase::Prepare, None, Step::Try),
        (Phase::Prepare, said(1, AnswerState::Ready), Step::Try),
        (Phase::Prepare, said(2, AnswerState::Ready), Step::Wait),
        (Phase::Prepare, said(2, AnswerState::Unable("no".into())), Step::TryLater),
        (Phase::Back, said(2, AnswerState::Switching), Step::Wait),
        (Phase::Switch, said(2, AnswerState::Ready), Step::Switch),
        (Phase::Switch, said(2, AnswerState::Switching), Step::Switch),
        (Phase::Switch, None, Step::Switch),
        (Phase::Copying, None, Step::Wait),
        (Phase::Arriving, None, Step::Arrive),
        (Phase::Arriving, said(2, AnswerState::Switched), Step::Wait),
    ];
    for (phase, answer, expected) in cases {
        assert_eq!(decide(Some(&record(phase)), answer.as_ref()), expected, "{phase:?} {answer:?}");
    }
    assert_eq!(decide(None, None), Step::Wait);
}

#[test]
fn a_record_names_no_file_but_those_meant_for_it() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "secret").unwrap();
    let outside = secret.path().to_str().unwrap();
    for (name, value, reason) in [
        ("ETCD_PASSWORD_FILE", outside, "does not lie below"),
        ("ETCD_PASSWORD_FILE", "/var/lib/calico/datastore/../../../../etc/hostname", "does not lie below"),
        ("ETCD_PASSWORD_FILE", "/var/lib/calico/datastore", "does not lie below"),
        ("ETCD_PASSWORD_FILE", "/var/lib/calico/datastore/pki/host.pem", "the datastore's own"),
        ("ETCD_PASSWORD_FILE", "/var/lib/calico/datastore/data.redb", "the datastore's own"),
        ("ETCD_KEY_FILE", outside, "does not lie below"),
        ("CALICO_ETCD_PASSWORD_FILE", outside, "no such setting"),
    ] {
        let mut record = destination("new");
        record.0.insert("ETCD_USERNAME".to_owned(), "root".to_owned());
        record.0.insert(name.to_owned(), value.to_owned());
        let error = record.options().unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains(name), "{value}: {error}");
    }
    destination("new").options().unwrap();
}
