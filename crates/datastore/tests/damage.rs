//! A database file with bytes flipped, cut off or gone: the datastore says that it is damaged and leaves it as it is, or
//! it has everything. It never makes do with less, and it never panics.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, time::Duration};

use calico_datastore::{Datastore, OpenError, Watch, check};
use calico_store::mvcc::{KeyRange, Op, Read, ReadResult, Txn, WatchEvent};

/// Everything that can be asked of a store: what exists, the history, the leases, where it stands.
#[derive(Debug, PartialEq)]
struct Contents {
    now: ReadResult,
    revision: i64,
    compacted: i64,
    history: Vec<WatchEvent>,
    leases: Vec<i64>,
}

async fn contents(store: &Datastore) -> Contents {
    let (now, revision) = store.range(&Read::new(KeyRange::prefix(""))).unwrap();
    let compacted = store.status().compacted;
    let mut watch = store.watch(Watch { start: Some(compacted), ..Watch::new(KeyRange::prefix("")) });
    let mut history = Vec::new();
    while watch.synced() < revision {
        history.extend(watch.next().await.unwrap().0);
    }
    let mut leases = store.leases();
    leases.sort_unstable();
    Contents { now, revision, compacted, history, leases }
}

fn memory_folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

async fn fill(store: &Datastore) {
    for number in 0..120 {
        let key = format!("/calico/resources/v3/projectcalico.org/profiles/p{}", number % 40);
        let put = Op::put(key, format!("{number}").repeat(number + 1));
        store.txn(Txn::always(vec![put, Op::put("/counter", number.to_string())])).await.unwrap();
        if number % 10 == 0 {
            store.txn(Txn::always(vec![Op::Delete(KeyRange::one("/counter"))])).await.unwrap();
        }
    }
    store.compact(40).await.unwrap();
    store.grant(77, 5000).await.unwrap();
    // The last revision is a put, so that the history of the watch ends with it.
    store.txn(Txn::always(vec![Op::put("/last", "x")])).await.unwrap();
}

/// The files of a folder, as they are.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let file = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
    let all = fs::read_dir(folder).unwrap().map(|entry| file(entry.unwrap()));
    all.filter(|(name, _)| name == "data.redb" || name == "acknowledged").collect()
}

/// Opens what is made of the files by `damage`. Returns true if it was said to be damaged.
async fn with_damage(
    what: &str,
    whole: &[(String, Vec<u8>)],
    expected: &Contents,
    damage: impl Fn(&mut Vec<u8>),
) -> bool {
    let dir = memory_folder();
    let mut damaged = Vec::new();
    for (name, bytes) in whole {
        let mut bytes = bytes.clone();
        if name == "data.redb" {
            damage(&mut bytes);
            damaged = bytes.clone();
        }
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    let path = dir.path().join("data.redb");
    // Without the note beside it, as a backup lies in its folder.
    let checked = check(&path).unwrap();
    assert!(fs::read(&path).unwrap() == damaged, "{what}: the check has changed the file");
    match Datastore::open(dir.path()) {
        Ok(store) => {
            assert_eq!(contents(&store).await, *expected, "{what}: silently wrong");
            assert!(checked.is_whole(), "{what}: {checked:?}");
            // It must be fit for use, too.
            store.txn(Txn::always(vec![Op::put("/more", "y")])).await.unwrap();
            false
        }
        Err(error) => {
            assert!(matches!(error, OpenError::Damaged { .. }), "{what}: {error}");
            assert!(error.to_string().contains("restore a backup"), "{what}: {error}");
            assert!(fs::read(&path).unwrap() == damaged, "{what}: the start has changed the file");
            true
        }
    }
}

async fn flip_everywhere(name: &str, whole: &[(String, Vec<u8>)], expected: &Contents) {
    let length = whole.iter().find(|(name, _)| name == "data.redb").unwrap().1.len();
    assert!(!with_damage("no damage", whole, expected, |_| {}).await);
    // The head, which decides which commit counts, closely; the pages at a pace that meets all parts of them.
    let places = (0..320).step_by(3).chain((320..length).step_by(length / 120 + 1));
    let (mut found, mut tried) = (0, 0);
    for (at, mask) in places.zip([0x01, 0xff, 0x80].into_iter().cycle()) {
        let what = format!("{name}: byte {at} of {length} turned by {mask:#x}");
        tried += 1;
        found += usize::from(with_damage(&what, whole, expected, |bytes| bytes[at] ^= mask).await);
    }
    // Free pages may say what they like; but live data is a good part of the file.
    assert!(found > tried / 10, "{name}: {found} of {tried} were found");
    for at in [1, 100, 4096, length / 2, length - 4096, length - 1] {
        let what = format!("{name}: cut off at {at} of {length}");
        with_damage(&what, whole, expected, |bytes| bytes.truncate(at)).await;
        let what = format!("{name}: zeros from {at} of {length} on");
        with_damage(&what, whole, expected, |bytes| bytes[at..].fill(0)).await;
    }
}

#[tokio::test]
async fn a_damaged_file_is_said_to_be_or_everything_is_there() {
    let dir = memory_folder();
    let store = Datastore::open(dir.path()).unwrap();
    fill(&store).await;
    let expected = contents(&store).await;
    let killed = files(dir.path());
    flip_everywhere("of a killed process", &killed, &expected).await;
    drop(store);
    flip_everywhere("closed", &files(dir.path()), &expected).await;
}

#[tokio::test]
async fn what_is_no_database_is_refused() {
    let dir = memory_folder();
    let path = dir.path().join("data.redb");
    for bytes in [b"".as_slice(), b"hello", &[0; 100_000], &[0x55; 100_000], b"SQLite format 3\0"] {
        fs::write(&path, bytes).unwrap();
        let Err(error) = Datastore::open(dir.path()) else { panic!("{} bytes were taken for a database", bytes.len()) };
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
        assert!(!check(dir.path()).unwrap().is_whole());
        assert!(fs::read(&path).unwrap() == bytes);
    }
}

/// 100,000 keys: it opens within seconds even in an unoptimised program on a busy machine, and lists what is asked for.
#[tokio::test]
async fn a_hundred_thousand_keys_come_back() {
    let dir = memory_folder();
    let store = Datastore::open(dir.path()).unwrap();
    for host in 0..1000 {
        let keys = (0..100).map(|number| Op::put(format!("/host{host:03}/endpoint{number:02}"), "x".repeat(300)));
        store.txn(Txn::always(keys.collect())).await.unwrap();
    }
    drop(store);
    let store = tokio::time::timeout(Duration::from_secs(120), async { Datastore::open(dir.path()).unwrap() });
    let store = store.await.unwrap();
    let (found, revision) = store.range(&Read::new(KeyRange::prefix("/host007/"))).unwrap();
    assert_eq!((found.count, found.kvs.len(), revision), (100, 100, 1001));
    let all = Read { count_only: true, ..Read::new(KeyRange::prefix("/")) };
    assert_eq!(store.range(&all).unwrap().0.count, 100_000);
}
