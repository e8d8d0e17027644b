//! A datastore whose process is killed, 500 times, at moments that nobody chose.
//!
//! A child process opens a folder and writes as fast as it can; each write that is acknowledged is noted on a pipe. It
//! is killed with SIGKILL, sometimes before it has opened the folder, mostly in the middle of writing. The datastore is
//! opened again and compared with what the child was told, and with what a reader makes of the watch that goes on where
//! he was before the crash.
//!
//! What this cannot show is a power failure: the kernel outlives the process, and with it everything that was handed to
//! the kernel. Against that stands the sync before each answer, and `disk::tests`, where each sync and each write fails.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead, BufReader, Read as _, Write as _},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use calico_datastore::{Datastore, Watch};
use calico_store::mvcc::{KeyRange, Op, Read, Txn, WatchEvent};

const ROUNDS: usize = 500;
/// Rounds in one folder, so that crashes follow on crashes and the history grows and is compacted.
const ROUNDS_IN_A_FOLDER: usize = 50;
/// Two at a time, as many as a small machine has processors.
const LANES: usize = 2;
/// Writers of a child.
const WRITERS: usize = 4;
/// The keys that one transaction writes with the same number.
const KEYS: [&str; 3] = ["a", "b", "c"];
const FOLDER: &str = "CALICO_TEST_CRASH_FOLDER";

/// Random numbers that a failed run can repeat: the seed is printed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        // Numerical Recipes' generator; its high bits are good enough to choose a moment.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[test]
#[ignore = "the child of the other test, which starts it"]
fn child_that_writes_until_it_is_killed() {
    let Ok(folder) = std::env::var(FOLDER) else { panic!("it is started by the other test") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Datastore::open(Path::new(&folder)).unwrap();
        let at_start = store.durable();
        let compacted = store.status().compacted;
        let mut writers: Vec<_> = (0..WRITERS).map(|writer| tokio::spawn(write(store.clone(), writer))).collect();
        // The reader was at the revision of the start, so this takes nothing from him.
        if at_start > compacted + 20 {
            writers.push(tokio::spawn(async move {
                store.compact(at_start).await.unwrap();
            }));
        }
        futures::future::join_all(writers).await;
    });
}

/// Writes transactions of which each has the next number, and says which are acknowledged.
async fn write(store: Datastore, writer: usize) {
    let last = |key: String| {
        let (found, _) = store.range(&Read::new(KeyRange::one(key))).unwrap();
        found.kvs.first().map(|kv| String::from_utf8(kv.value.to_vec()).unwrap().parse::<u64>().unwrap())
    };
    let mut number = last(format!("/{writer}/a")).unwrap_or(0);
    loop {
        number += 1;
        let mut ops: Vec<Op> = KEYS.iter().map(|key| Op::put(format!("/{writer}/{key}"), number.to_string())).collect();
        ops.push(Op::put(format!("/{writer}/log/{number}"), "x".repeat((number % 700) as usize)));
        // What was not acknowledged may be there or not, so the deletion may find nothing.
        ops.push(Op::Delete(KeyRange::one(format!("/{writer}/log/{}", number.saturating_sub(5)))));
        let revision = store.txn(Txn::always(ops)).await.unwrap().revision;
        let line = format!("acknowledged {writer} {number} {revision}\n");
        // One write of a short line is not torn. Standard output belongs to the test harness.
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
}

/// What somebody knows who follows the store by watching alone.
#[derive(Default)]
struct Follower {
    revision: i64,
    keys: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Follower {
    /// Goes on where he was; each revision must be whole.
    async fn catch_up(&mut self, store: &Datastore) {
        let durable = store.durable();
        let mut watch = store.watch(Watch { start: Some(self.revision + 1), ..Watch::new(KeyRange::prefix("/")) });
        let mut puts: BTreeMap<i64, usize> = BTreeMap::new();
        while self.revision < durable {
            let (events, _) = watch.next().await.unwrap();
            for event in events {
                assert!(event.revision() > self.revision || puts.contains_key(&event.revision()));
                self.revision = event.revision();
                match event {
                    WatchEvent::Put { kv, .. } => {
                        *puts.entry(kv.mod_revision).or_default() += 1;
                        self.keys.insert(kv.key.to_vec(), kv.value.to_vec());
                    }
                    WatchEvent::Delete { key, .. } => drop(self.keys.remove(key.as_ref())),
                }
            }
        }
        for (revision, puts) in puts {
            assert_eq!(puts, KEYS.len() + 1, "revision {revision} is there by half");
        }
    }
}

/// Starts a child, kills it and returns what was acknowledged: of each writer the last number and its revision.
fn kill_a_child(folder: &Path, random: &mut Random) -> HashMap<usize, (u64, i64)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "child_that_writes_until_it_is_killed", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stderr.take().unwrap());
    let mut lines = String::new();
    // One in four dies while it starts; the others after some writes.
    if random.below(4) > 0 {
        for _ in 0..=random.below(30) {
            output.read_line(&mut lines).unwrap();
        }
        thread::sleep(Duration::from_micros(random.below(3000)));
    } else {
        thread::sleep(Duration::from_micros(random.below(30_000)));
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    output.read_to_string(&mut lines).unwrap();
    assert!(std::os::unix::process::ExitStatusExt::signal(&status) == Some(9), "it ended by itself: {lines}");
    let mut acknowledged = HashMap::new();
    for line in lines.lines() {
        let mut words = line.split(' ');
        assert_eq!(words.next(), Some("acknowledged"), "{lines}");
        let [writer, number, revision] = [(); 3].map(|()| words.next().unwrap().parse::<i64>().unwrap());
        acknowledged.insert(writer as usize, (number.unsigned_abs(), revision));
    }
    acknowledged
}

/// Returns how many writes were acknowledged.
async fn round(folder: &Path, random: &mut Random, follower: &mut Follower) -> usize {
    let acknowledged = kill_a_child(folder, random);
    let store = Datastore::open(folder).unwrap();
    follower.catch_up(&store).await;
    let (found, revision) = store.range(&Read::new(KeyRange::prefix("/"))).unwrap();
    let now: BTreeMap<_, _> = found.kvs.iter().map(|kv| (kv.key.to_vec(), kv.value.to_vec())).collect();
    assert!(now == follower.keys, "the watch has missed something");
    let text = |key: String| now.get(key.as_bytes()).map(|value| String::from_utf8(value.clone()).unwrap());
    for writer in 0..WRITERS {
        let values = KEYS.map(|key| text(format!("/{writer}/{key}")));
        assert!(values.iter().all(|value| *value == values[0]), "writer {writer}: by half: {values:?}");
        let number: u64 = values[0].as_ref().map_or(0, |value| value.parse().unwrap());
        let (told, at) = acknowledged.get(&writer).copied().unwrap_or_default();
        assert!(number >= told, "writer {writer} was told {told}, and {number} is there");
        assert!(revision >= at, "writer {writer} was told revision {at}, and the store is at {revision}");
        // Each writer waits for its answer, so no more than one write can be there that it was not told of.
        assert!(told == 0 || number <= told + 1, "writer {writer} was told {told}, and {number} is there");
    }
    acknowledged.len()
}

#[test]
fn killed_500_times_it_loses_nothing_acknowledged_and_nothing_is_there_by_half() {
    let seed = u64::from(std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos());
    eprintln!("seed {seed}");
    let lane = |number: usize| {
        let mut random = Random(seed + number as u64);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut told = 0;
        for _ in 0..ROUNDS / LANES / ROUNDS_IN_A_FOLDER {
            // In memory, where a sync costs nothing: so there are more moments to be killed at.
            let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
            let mut follower = Follower { revision: 1, ..Follower::default() };
            for _ in 0..ROUNDS_IN_A_FOLDER {
                told += runtime.block_on(round(dir.path(), &mut random, &mut follower));
            }
            assert!(calico_datastore::check(dir.path()).unwrap().is_whole());
        }
        told
    };
    let told: usize = thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|number| scope.spawn(move || lane(number))).collect();
        lanes.into_iter().map(|lane| lane.join().unwrap()).sum()
    });
    // Otherwise all of it would have proved nothing.
    assert!(told > ROUNDS, "only {told} writers were told anything");
}
