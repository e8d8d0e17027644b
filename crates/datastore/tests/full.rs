//! A disk that fills up: a small file system in memory, mounted in a mount namespace of a child process, so that it
//! goes with the child.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use calico_datastore::{BackupError, Datastore, WriteError, check};
use calico_store::mvcc::{KeyRange, Op, Read, Txn};

const FOLDER: &str = "CALICO_TEST_FULL_FOLDER";

/// Runs an ignored test of this file as a process with a disk of a few megabytes.
fn on_a_small_disk(test: &str) {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs -o size=6m tmpfs "$2" && exec "$0" --ignored --exact "$1" --nocapture"#;
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .arg(dir.path())
        .env(FOLDER, dir.path())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("1 passed"), "{}", text(&output.stdout));
}

fn small_disk() -> PathBuf {
    std::env::var(FOLDER).expect("it is started by another test").into()
}

#[test]
fn on_a_full_disk_nothing_is_lost_deleting_works_and_writing_goes_on_afterwards() {
    on_a_small_disk("child_that_fills_its_disk");
}

#[test]
fn on_a_disk_that_was_full_before_it_can_be_read_and_says_so() {
    on_a_small_disk("child_that_finds_its_disk_full");
}

fn put(number: usize) -> Txn {
    let value = || "x".repeat(10_000);
    Txn::always(vec![Op::put(format!("/a/{number:04}"), value()), Op::put(format!("/b/{number:04}"), value())])
}

fn keys(store: &Datastore) -> Vec<String> {
    let (found, _) = store.range(&Read::new(KeyRange::prefix(""))).unwrap();
    found.kvs.iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect()
}

/// Writes until the disk is full. Returns how many transactions were made.
async fn write_until_full(store: &Datastore, from: usize) -> usize {
    for number in from.. {
        match store.txn(put(number)).await {
            Ok(_) => assert!(number < 10_000, "this disk is never full"),
            Err(WriteError::NoSpace(_)) => return number,
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!("the numbers do not end")
}

/// Takes all that is left of the disk.
fn fill_the_rest(ballast: &Path) {
    let mut file = fs::File::create(ballast).unwrap();
    while std::io::Write::write(&mut file, &[0; 4096]).is_ok() {}
}

#[tokio::test]
#[ignore = "a child of the test above, which starts it"]
async fn child_that_fills_its_disk() {
    let (disk, ballast) = (small_disk(), small_disk().join("ballast"));
    fs::write(&ballast, vec![0; 1 << 20]).unwrap();
    let folder = disk.join("datastore");
    let store = Datastore::open(&folder).unwrap();
    let written = write_until_full(&store, 0).await;
    assert!(written > 20, "{written}");
    let expected = keys(&store);
    assert_eq!(expected.len(), 2 * written, "what was refused is there, or what was accepted is not");
    assert!(store.status().full && store.status().trouble.is_none(), "{:?}", store.status());
    let Err(error) = store.txn(put(written)).await else { panic!("it is full") };
    assert!(error.to_string().contains("make room"), "{error}");
    let small = store.txn(Txn::always(vec![Op::put("/small", "x")])).await;
    assert!(matches!(small, Err(WriteError::NoSpace(_))), "the reserve is for deleting: {small:?}");
    let backup = store.backup(&disk.join("backup")).await;
    assert!(matches!(backup, Err(BackupError::Failed { .. })), "{backup:?}");
    assert!(!disk.join("backup").exists());
    assert_eq!(keys(&store), expected);

    // Deleting and compacting, with nothing left on the disk but the reserve.
    fill_the_rest(&disk.join("rest"));
    store.txn(Txn::always(vec![Op::Delete(KeyRange::prefix("/b/"))])).await.unwrap();
    store.compact(store.durable()).await.unwrap();
    assert_eq!(keys(&store).len(), written);
    assert!(check_now(&store).await);

    // Room again.
    fs::remove_file(&ballast).unwrap();
    fs::remove_file(disk.join("rest")).unwrap();
    store.txn(put(written)).await.unwrap();
    assert!(!store.status().full);
    let written = write_until_full(&store, written + 1).await;
    let expected = keys(&store);
    drop(store);
    assert!(check(&folder).unwrap().is_whole());
    let store = Datastore::open(&folder).unwrap();
    assert_eq!(keys(&store), expected);
    assert!(expected.contains(&format!("/a/{:04}", written - 1)));
}

async fn check_now(store: &Datastore) -> bool {
    let report = store.check_now().await.unwrap();
    assert!(report.is_whole(), "{report:?}");
    report.is_whole()
}

#[tokio::test]
#[ignore = "a child of the test above, which starts it"]
async fn child_that_finds_its_disk_full() {
    let (disk, rest) = (small_disk(), small_disk().join("rest"));
    let folder = disk.join("datastore");
    let store = Datastore::open(&folder).unwrap();
    for number in 0..20 {
        store.txn(put(number)).await.unwrap();
    }
    let expected = keys(&store);
    drop(store);
    // Somebody has taken the reserve, too.
    fs::remove_file(folder.join("reserve")).unwrap();
    fill_the_rest(&rest);
    let store = Datastore::open(&folder).unwrap();
    assert_eq!(keys(&store), expected);
    assert!(matches!(store.txn(put(20)).await, Err(WriteError::NoSpace(_))));
    assert!(store.status().full);
    assert_eq!(keys(&store), expected);
    fs::remove_file(&rest).unwrap();
    store.txn(put(20)).await.unwrap();
    assert!(!store.status().full);
    drop(store);
    assert_eq!(keys(&Datastore::open(&folder).unwrap()).len(), expected.len() + 2);
}
