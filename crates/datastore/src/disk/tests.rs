//! What is left after a failure at every single operation on the file; backups; files that this program must not touch.

#![allow(clippy::unwrap_used)]

use std::sync::Mutex;

use calico_store::mvcc::{Compare, KeyRange, Op, Read, ReadResult, Txn};
use redb::StorageBackend;

use super::*;
use crate::{BackupError, Datastore, RestoreError, WriteError, check, disk::rows::META, restore};

/// A folder in memory: what these tests are about does not depend on how slow a disk syncs.
pub(crate) fn memory_folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// What shall fail, and what was done so far.
#[derive(Debug, Default)]
struct Faults {
    /// Operations that change the file or sync it, since it was armed.
    count: usize,
    /// The operation that fails, and how.
    fails: Option<(usize, i32)>,
    /// All later ones fail, too, until it is disarmed.
    for_good: bool,
    /// True once one failed.
    failed: bool,
    /// What opens the file again panics.
    panics: bool,
}

#[derive(Debug)]
struct Faulty {
    inner: DataFile,
    faults: Arc<Mutex<Faults>>,
}

impl Faulty {
    fn operation(&self) -> io::Result<()> {
        let mut faults = self.faults.lock().unwrap();
        faults.count += 1;
        match faults.fails {
            Some((at, errno)) if faults.count == at || (faults.for_good && faults.count > at) => {
                faults.failed = true;
                Err(io::Error::from_raw_os_error(errno))
            }
            _ => Ok(()),
        }
    }
}

impl StorageBackend for Faulty {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.operation().and_then(|()| self.inner.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        match self.operation() {
            Ok(()) => self.inner.sync_data(),
            Err(error) => self.inner.note_sync(Err(error)),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.operation().and_then(|()| self.inner.write(offset, data))
    }
}

fn open_faulty(folder: &Path) -> (Datastore, Arc<Mutex<Faults>>) {
    let faults = Arc::<Mutex<Faults>>::default();
    let shared = faults.clone();
    let wrap: Wrap = Box::new(move |inner| {
        assert!(!shared.lock().unwrap().panics, "this is a test");
        Box::new(Faulty { inner, faults: shared.clone() })
    });
    let (disk, core) = Disk::open_with(folder, wrap).unwrap();
    (Datastore::start(disk, core).unwrap(), faults)
}

/// A datastore in which a write has failed, upon which its writer has panicked.
pub(crate) async fn with_a_dead_writer(folder: &Path) -> Datastore {
    let (store, faults) = open_faulty(folder);
    store.txn(put("/a", "1")).await.unwrap();
    *faults.lock().unwrap_or_else(std::sync::PoisonError::into_inner) =
        Faults { fails: Some((1, EIO)), panics: true, ..Faults::default() };
    let outcome = store.txn(put("/a", "2")).await;
    assert!(matches!(outcome, Err(WriteError::Failed(_))), "{outcome:?}");
    store
}

#[tokio::test]
async fn a_writer_that_ended_is_noticed_by_everybody() {
    let dir = memory_folder();
    let store = with_a_dead_writer(dir.path()).await;
    let why = tokio::time::timeout(std::time::Duration::from_secs(60), store.writer_ended()).await.unwrap();
    assert!(why.contains("it panicked: this is a test") && why.contains("starts anew"), "{why}");
    assert_eq!(store.status().trouble.as_ref(), Some(&why));
    // At once, and with the reason.
    assert_eq!(store.txn(put("/a", "3")).await, Err(WriteError::Failed(why.clone())));
    assert_eq!(store.grant(0, 5).await, Err(WriteError::Failed(why.clone())));
    assert_eq!(store.compact(1).await, Err(WriteError::Failed(why.clone())));
    assert!(store.backup(&dir.path().join("backup")).await.is_err());
    // What is durable can be read, and what was not made durable is not shown.
    assert_eq!((everything(&store).1, store.durable()), (2, 2));
    drop(store);
    assert_eq!(Datastore::open(dir.path()).unwrap().durable(), 2);
}

fn put(key: &str, value: &str) -> Txn {
    Txn::always(vec![Op::put(key, value)])
}

fn everything(store: &Datastore) -> (ReadResult, i64) {
    store.range(&Read::new(KeyRange::prefix(""))).unwrap()
}

const ENOSPC: i32 = rustix::io::Errno::NOSPC.raw_os_error();
const EIO: i32 = rustix::io::Errno::IO.raw_os_error();

/// Fails the `at`-th operation of a transaction. Returns false if the transaction has fewer.
async fn fail_at(at: usize, errno: i32, for_good: bool) -> bool {
    let what = format!("operation {at}, error {errno}, for good: {for_good}");
    let dir = memory_folder();
    let (store, faults) = open_faulty(dir.path());
    for number in 0..3 {
        store.txn(put("/a", &number.to_string())).await.unwrap();
    }
    let before = everything(&store);
    *faults.lock().unwrap() = Faults { fails: Some((at, errno)), for_good, ..Faults::default() };
    // Large enough for the file to grow.
    let large = Txn::always(vec![Op::put("/a", "new"), Op::put("/large", "x".repeat(200_000)), Op::put("/z", "new")]);
    let outcome = store.txn(large).await;
    let failed = std::mem::take(&mut *faults.lock().unwrap()).failed;
    let trouble = store.status().trouble;
    match &outcome {
        // A failure after the sync is none of the caller's.
        Ok(result) => assert_eq!(result.revision, 5, "{what}"),
        Err(error) => {
            assert!(failed, "{what}: {error}");
            assert_eq!(everything(&store), before, "{what}: {error}");
            let full = matches!(error, WriteError::NoSpace(_));
            assert_eq!(full, errno == ENOSPC && trouble.is_none(), "{what}: {error}");
        }
    }
    let acknowledged = match store.txn(put("/b", "after")).await {
        Ok(_) => everything(&store),
        Err(error) => {
            assert!(trouble.is_some(), "{what}: it does not recover: {error}");
            before.clone()
        }
    };
    drop(store);
    let report = check(dir.path()).unwrap();
    assert!(report.is_whole(), "{what}: {report:?}");
    let found = everything(&Datastore::open(dir.path()).unwrap());
    if trouble.is_none() {
        assert_eq!(found, acknowledged, "{what}");
    } else {
        // Nobody was told that it is there, nor that it is not: but all of it is, or nothing.
        assert!(found == before || (found.1 == 5 && found.0.kvs.len() == 3), "{what}: {found:?}");
    }
    failed
}

#[tokio::test]
async fn after_a_failure_of_any_operation_all_of_a_transaction_is_there_or_nothing() {
    for errno in [ENOSPC, EIO] {
        for for_good in [false, true] {
            let mut at = 1;
            while fail_at(at, errno, for_good).await {
                at += 1;
            }
            assert!(at > 5, "a transaction has more than {at} operations");
        }
    }
}

#[tokio::test]
async fn a_failed_sync_stops_writing_until_the_next_start_and_says_why() {
    let dir = memory_folder();
    let (store, faults) = open_faulty(dir.path());
    store.txn(put("/a", "1")).await.unwrap();
    // Operations up to the first sync of a transaction: the last of a small one.
    *faults.lock().unwrap() = Faults::default();
    store.txn(put("/a", "2")).await.unwrap();
    let sync = faults.lock().unwrap().count;
    *faults.lock().unwrap() = Faults { fails: Some((sync, EIO)), ..Faults::default() };
    let Err(WriteError::Failed(why)) = store.txn(put("/a", "3")).await else { panic!("the disk did not take it") };
    assert!(why.contains("not certain"), "{why}");
    assert_eq!(store.txn(put("/a", "4")).await, Err(WriteError::Failed(why.clone())));
    assert_eq!(store.status().trouble, Some(why));
    assert_eq!(everything(&store).1, 3);
}

async fn filled(folder: &Path) -> Datastore {
    let store = Datastore::open(folder).unwrap();
    for number in 0..50 {
        store.txn(put(&format!("/k{}", number % 10), &number.to_string())).await.unwrap();
    }
    store.txn(Txn::always(vec![Op::Delete(KeyRange::one("/k3"))])).await.unwrap();
    store.compact(20).await.unwrap();
    let (id, _) = store.grant(0, 1000).await.unwrap();
    let leased =
        Op::Put { key: "/leased".into(), value: b"v".to_vec(), lease: id, ignore_value: false, ignore_lease: false };
    store.txn(Txn::always(vec![leased])).await.unwrap();
    store.txn(Txn::always(vec![Op::Delete(KeyRange::one("/k4"))])).await.unwrap();
    store
}

#[tokio::test]
async fn a_backup_is_private_never_replaces_a_file_and_goes_on_far_ahead() {
    use std::os::unix::fs::PermissionsExt;
    let dir = memory_folder();
    let (first, second, backup) = (dir.path().join("1"), dir.path().join("2"), dir.path().join("backup"));
    let store = filled(&first).await;
    let expected = everything(&store);
    let written = store.backup(&backup).await.unwrap();
    assert_eq!(written.revision, expected.1);
    assert_eq!(fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(store.backup(&backup).await, Err(BackupError::Exists(_))));
    assert!(matches!(store.backup(&dir.path().join("no/where")).await, Err(BackupError::Failed { .. })));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing half made is left");
    let report = check(&backup).unwrap();
    assert!(report.is_whole() && report.keys == expected.0.kvs.len(), "{report:?}");

    // In a folder of which nobody knows what its clients have seen.
    let restored = restore(&backup, &second).unwrap();
    assert_eq!((restored.backup_revision, &restored.kept), (expected.1, &None));
    assert!(restored.revision > expected.1 + 1_000_000);
    let other = Datastore::open(&second).unwrap();
    assert_eq!(everything(&other), (expected.0.clone(), restored.revision));
    assert_eq!(other.leases(), store.leases());
    assert_eq!(other.status().cluster, store.status().cluster);

    // Over the one it was made from, which has gone on meanwhile.
    store.txn(put("/later", "x")).await.unwrap();
    let seen = store.txn(put("/k1", "later")).await.unwrap().revision;
    assert!(matches!(restore(&backup, &first), Err(RestoreError::Datastore(OpenError::Locked { .. }))));
    assert_eq!(everything(&store).1, seen);
    drop(store);
    let restored = restore(&backup, &first).unwrap();
    assert_eq!(restored.revision, seen + 1);
    let kept = check(&restored.kept.unwrap()).unwrap();
    assert_eq!((kept.problems.len(), kept.revision), (0, seen));
    let store = Datastore::open(&first).unwrap();
    assert_eq!(everything(&store).0, expected.0);
    // Whoever has seen the lost revisions is told, and not left waiting.
    let mut watch = store.watch(crate::Watch { start: Some(seen), ..crate::Watch::new(KeyRange::prefix("/")) });
    assert!(watch.next().await.is_err());
    let current = store.range(&Read::new(KeyRange::one("/k1"))).unwrap().0.kvs[0].mod_revision;
    let swap = Txn { compare: vec![Compare::unchanged("/k1", current)], ..put("/k1", "swapped") };
    assert_eq!(store.txn(swap).await.unwrap().revision, seen + 2);
    // A backup of what was restored is one, too.
    let again = dir.path().join("again");
    store.backup(&again).await.unwrap();
    assert!(check(&again).unwrap().is_whole());
    assert_eq!(restore(&again, &dir.path().join("3")).unwrap().backup_revision, seen + 2);
}

#[tokio::test]
async fn a_file_of_a_newer_format_is_refused_and_left_alone() {
    let dir = memory_folder();
    drop(filled(dir.path()).await);
    let path = dir.path().join(folder::DATA);
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert("format", 7).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let before = fs::read(&path).unwrap();
    let Err(error) = Datastore::open(dir.path()) else { panic!("it was opened") };
    assert!(matches!(error, OpenError::Newer { found: 7, known: 1, .. }), "{error}");
    assert!(matches!(check(dir.path()), Err(OpenError::Newer { .. })));
    let backup = restore(&path, &dir.path().join("other"));
    assert!(matches!(backup, Err(RestoreError::Backup(OpenError::Newer { .. }))));
    assert!(fs::read(&path).unwrap() == before);
}

#[tokio::test]
async fn a_file_that_went_back_or_is_gone_is_not_taken_for_the_present() {
    let dir = memory_folder();
    let path = dir.path().join(folder::DATA);
    let store = filled(dir.path()).await;
    drop(store);
    let older = fs::read(&path).unwrap();
    let store = Datastore::open(dir.path()).unwrap();
    let last = store.txn(put("/new", "1")).await.unwrap().revision;
    drop(store);
    let newer = fs::read(&path).unwrap();
    fs::write(&path, &older).unwrap();
    let Err(error) = Datastore::open(dir.path()) else { panic!("a lost write was not noticed") };
    assert!(error.to_string().contains(&format!("revision {last} was written")), "{error}");
    assert!(!check(dir.path()).unwrap().is_whole());
    fs::remove_file(&path).unwrap();
    let Err(error) = Datastore::open(dir.path()) else { panic!("an empty one took its place") };
    assert!(error.to_string().contains("the file is gone"), "{error}");
    assert!(!path.exists());
    fs::write(&path, newer).unwrap();
    assert_eq!(Datastore::open(dir.path()).unwrap().durable(), last);
}
