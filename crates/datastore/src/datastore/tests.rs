#![allow(clippy::unwrap_used)]

use calico_store::mvcc::{Compare, KeyRange, Op, WatchEvent};

use super::*;
use crate::disk::tests::memory_folder;

fn open(folder: &Path) -> Datastore {
    Datastore::open(folder).unwrap()
}

fn put(key: &str, value: &str) -> Txn {
    Txn::always(vec![Op::put(key, value)])
}

fn delete(key: &str) -> Txn {
    Txn::always(vec![Op::Delete(KeyRange::one(key))])
}

fn everything() -> Read {
    Read::new(KeyRange::prefix(""))
}

/// All keys and values as text.
fn contents(store: &Datastore) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let (found, _) = store.range(&everything()).unwrap();
    found.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value))).collect()
}

/// What a revision of a store holds, and how its watches tell the way there: all that can be asked of it.
async fn story(store: &Datastore) -> (Vec<WatchEvent>, ReadResult, i64, i64) {
    let status = store.status();
    let (now, revision) = store.range(&everything()).unwrap();
    let start = status.compacted.max(1);
    let mut watch = store.watch(Watch { start: Some(start), previous: true, ..Watch::new(KeyRange::prefix("")) });
    let mut events = Vec::new();
    while watch.synced() < revision {
        // The last revision may have no event in sight: a compaction can stand at it.
        let Ok(next) = tokio::time::timeout(Duration::from_millis(200), watch.next()).await else { break };
        events.extend(next.unwrap().0);
    }
    (events, now, revision, status.compacted)
}

#[tokio::test]
async fn what_was_written_is_there_after_a_start() {
    let dir = memory_folder();
    let store = open(dir.path());
    let ids = (store.status().cluster, store.status().member);
    assert_eq!(store.durable(), 1);
    for number in 0..20 {
        store.txn(put(&format!("/k{}", number % 7), &format!("v{number}"))).await.unwrap();
    }
    store.txn(delete("/k3")).await.unwrap();
    let told = story(&store).await;
    assert_eq!(told.2, 22);
    assert_eq!(told.0.len(), 21);
    drop(store);
    let store = open(dir.path());
    assert_eq!(story(&store).await, told);
    assert_eq!((store.status().cluster, store.status().member), ids);
    // And it goes on from there.
    assert_eq!(store.txn(put("/k3", "again")).await.unwrap().revision, 23);
}

#[tokio::test]
async fn many_at_once_share_commits_and_each_gets_its_own_answer() {
    let dir = memory_folder();
    let store = open(dir.path());
    let writers = (0..200).map(|number| {
        let store = store.clone();
        tokio::spawn(async move {
            let own = format!("/own/{number}");
            let txn = Txn {
                compare: vec![Compare::absent("/one")],
                then: vec![Op::put("/one", own.clone()), Op::put(own.clone(), "won")],
                otherwise: vec![Op::put(own, "lost")],
            };
            store.txn(txn).await.unwrap()
        })
    });
    let mut results = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        results.push(writer.await.unwrap());
    }
    assert_eq!(results.iter().filter(|result| result.succeeded).count(), 1);
    let mut revisions: Vec<i64> = results.iter().map(|result| result.revision).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (2..=201).collect::<Vec<_>>());
    let found = contents(&store);
    assert_eq!(found.iter().filter(|(_, value)| value == "won").count(), 1);
    assert_eq!(found.iter().filter(|(_, value)| value == "lost").count(), 199);
    drop(store);
    assert_eq!(contents(&open(dir.path())), found);
}

#[tokio::test]
async fn a_refused_write_changes_nothing_and_takes_no_revision() {
    let dir = memory_folder();
    let store = open(dir.path());
    store.txn(put("/a", "1")).await.unwrap();
    let twice = Txn::always(vec![Op::put("/a", "2"), Op::put("/a", "3")]);
    assert_eq!(store.txn(twice).await, Err(WriteError::Refused(Refusal::DuplicateKey)));
    assert_eq!(store.revoke(7).await, Err(WriteError::Refused(Refusal::LeaseNotFound)));
    assert_eq!(store.compact(3).await, Err(WriteError::Refused(Refusal::Future(2))));
    assert_eq!(store.durable(), 2);
    assert_eq!(contents(&store), [("/a".to_owned(), "1".to_owned())]);
}

#[tokio::test]
async fn a_watch_hears_everything_from_its_start_on_and_survives_cancelling() {
    let dir = memory_folder();
    let store = open(dir.path());
    store.txn(put("/a", "1")).await.unwrap();
    let mut now = store.watch(Watch::new(KeyRange::prefix("/")));
    let mut past = store.watch(Watch { start: Some(2), ..Watch::new(KeyRange::prefix("/")) });
    let mut deletions = store.watch(Watch { puts: false, ..Watch::new(KeyRange::prefix("/")) });
    assert_eq!(now.synced(), 2);
    assert_eq!(past.synced(), 1);
    // Nothing to hear yet; the call is dropped while it waits.
    assert!(futures::FutureExt::now_or_never(now.next()).is_none());
    store.txn(Txn::always(vec![Op::put("/b", "1"), Op::put("/c", "1")])).await.unwrap();
    store.txn(delete("/a")).await.unwrap();
    let revisions = |events: &[WatchEvent]| events.iter().map(WatchEvent::revision).collect::<Vec<_>>();
    assert_eq!(revisions(&now.next().await.unwrap().0), [3, 3, 4]);
    let (events, complete) = past.next().await.unwrap();
    assert_eq!((revisions(&events), complete), (vec![2, 3, 3, 4], 4));
    assert_eq!(past.synced(), 4);
    assert!(matches!(deletions.next().await.unwrap().0[..], [WatchEvent::Delete { revision: 4, .. }]));
}

#[tokio::test]
async fn compaction_is_durable_and_watches_that_are_behind_learn_of_it() {
    let dir = memory_folder();
    let store = open(dir.path());
    // More than one step of a compaction.
    for _ in 0..45 {
        let writes = (0..100).map(|number| {
            let store = store.clone();
            tokio::spawn(async move { store.txn(put(&format!("/k{number}"), "v")).await.unwrap() })
        });
        futures::future::join_all(writes.collect::<Vec<_>>()).await;
    }
    store.txn(delete("/k5")).await.unwrap();
    assert_eq!(store.durable(), 4502);
    let mut behind = store.watch(Watch { start: Some(2), ..Watch::new(KeyRange::prefix("/")) });
    let used = store.status().bytes_in_use;
    assert_eq!(store.compact(4400).await.unwrap(), 4502);
    assert!(store.status().bytes_in_use < used / 10, "{:?} of {used}", store.status());
    assert_eq!(behind.next().await, Err(Refusal::Compacted(4400)));
    assert_eq!(store.compact(4400).await, Err(WriteError::Refused(Refusal::Compacted(4400))));
    let (told, status) = (story(&store).await, store.status());
    drop(store);
    let store = open(dir.path());
    assert_eq!(story(&store).await, told);
    assert_eq!(store.status().bytes_in_use, status.bytes_in_use);
    assert_eq!(store.compact(4502).await.unwrap(), 4502);
    assert_eq!(contents(&store).len(), 99);
    let shrunk = store.shrink().await.unwrap();
    assert!(shrunk.after < shrunk.before, "{shrunk:?}");
    let report = store.check_now().await.unwrap();
    assert!(report.is_whole(), "{report:?}");
    assert_eq!((report.keys, report.compacted), (99, 4502));
}

#[tokio::test]
async fn much_history_is_compacted_before_its_time_and_a_slow_watch_holds_little_of_it() {
    let dir = memory_folder();
    let store = open(dir.path());
    let mut slow = store.watch(Watch { start: Some(2), ..Watch::new(KeyRange::prefix("/")) });
    let value = "x".repeat(1 << 20);
    for _ in 0..5 {
        store.txn(put("/k", &value)).await.unwrap();
    }
    // However much there is, it takes no more than it passes on.
    assert_eq!(slow.next().await.unwrap().0.len(), 1);
    for _ in 5..2 * (HISTORY_LIMIT >> 20) {
        store.txn(put("/k", &value)).await.unwrap();
        assert!(store.status().history_bytes <= HISTORY_LIMIT + (2 << 20), "{:?}", store.status());
    }
    // It takes what it was told of further; then it hears that it is too far behind.
    let refusal = slow.next().await.unwrap_err();
    assert!(matches!(refusal, Refusal::Compacted(revision) if revision > 10), "{refusal:?}");
    // The file does not grow for ever either.
    assert!(store.status().bytes_in_use < 2 * HISTORY_LIMIT as u64, "{:?}", store.status());
    let (told, status) = (story(&store).await, store.status());
    drop(store);
    let store = open(dir.path());
    assert_eq!((story(&store).await, store.status().history_bytes), (told, status.history_bytes));
}

#[tokio::test]
async fn leases_are_durable_live_anew_after_a_start_and_end_by_themselves() {
    let dir = memory_folder();
    let store = open(dir.path());
    let (long, ttl) = store.grant(0, 1000).await.unwrap();
    assert!(long > 0 && ttl == 1000);
    assert_eq!(store.grant(long, 5).await, Err(WriteError::Refused(Refusal::LeaseExists)));
    let (gone, _) = store.grant(5, 1000).await.unwrap();
    let leased = |key: &str, lease: i64| {
        let (key, value) = (key.into(), b"v".to_vec());
        Txn::always(vec![Op::Put { key, value, lease, ignore_value: false, ignore_lease: false }])
    };
    store.txn(leased("/long", long)).await.unwrap();
    store.txn(leased("/gone", gone)).await.unwrap();
    assert_eq!(store.revoke(gone).await.unwrap(), 4);
    assert_eq!(store.keep_alive(long), Ok(1000));
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.leases(), [long]);
    let info = store.lease(long).unwrap();
    assert_eq!(info.keys, [b"/long".as_slice().into()]);
    assert!(info.remaining > Duration::from_secs(900), "{info:?}");
    // The shortest there is.
    let (short, _) = store.grant(0, 1).await.unwrap();
    store.txn(leased("/short", short)).await.unwrap();
    let mut watch = store.watch(Watch { puts: false, ..Watch::new(KeyRange::one("/short")) });
    let ended = tokio::time::timeout(Duration::from_secs(60), watch.next()).await.unwrap().unwrap();
    assert!(matches!(ended.0[..], [WatchEvent::Delete { .. }]));
    assert_eq!(store.lease(short), Err(Refusal::LeaseNotFound));
    drop(store);
    assert_eq!(open(dir.path()).leases(), [long]);
}

#[tokio::test]
async fn only_one_can_have_a_folder_and_nobody_else_may_look_into_it() {
    use std::os::unix::fs::PermissionsExt;
    let dir = memory_folder();
    let folder = dir.path().join("deep/datastore");
    let store = open(&folder);
    let Err(OpenError::Locked { pid, .. }) = Datastore::open(&folder) else { panic!("two have it") };
    assert_eq!(pid, Some(std::process::id()));
    assert!(matches!(crate::check(&folder), Err(OpenError::Locked { .. })));
    assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    for entry in std::fs::read_dir(&folder).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
    }
    drop(store);
    assert!(crate::check(&folder).unwrap().is_whole());
}
