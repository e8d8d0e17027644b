#![allow(clippy::unwrap_used)]

use super::*;

fn kv(key: &str, create_revision: i64, mod_revision: i64) -> KeyValue {
    let (key, value) = (key.as_bytes().into(), b"v".as_slice().into());
    KeyValue { key, value, create_revision, mod_revision, version: 1, lease: 0 }
}

fn headers(response: &PbTxnResponse, found: &mut Vec<i64>) {
    for op in &response.responses {
        let (header, nested) = match op.response.as_ref().unwrap() {
            PbTxnOpResponse::ResponseRange(response) => (&response.header, None),
            PbTxnOpResponse::ResponsePut(response) => (&response.header, None),
            PbTxnOpResponse::ResponseDeleteRange(response) => (&response.header, None),
            PbTxnOpResponse::ResponseTxn(response) => (&response.header, Some(response)),
        };
        found.push(header.unwrap().revision);
        if let Some(nested) = nested {
            headers(nested, found);
        }
    }
}

/// The revisions of the operations' headers, of a transaction that leaves the store at revision 9.
fn revisions(results: Vec<OpResult>) -> Vec<i64> {
    let asked = |result: &OpResult| match result {
        OpResult::Get(_) => Asked::Read,
        OpResult::Txn(_) => Asked::Txn(AskedTxn { then: vec![Asked::Write { prev_kv: false }], otherwise: Vec::new() }),
        _ => Asked::Write { prev_kv: false },
    };
    let asked = AskedTxn { then: results.iter().map(asked).collect(), otherwise: Vec::new() };
    let result = TxnResult { succeeded: true, revision: 9, results };
    let mut found = Vec::new();
    headers(&txn(&result, &asked, None), &mut found);
    found
}

#[test]
fn each_operation_names_the_revision_that_it_sees() {
    let get = || OpResult::Get(ReadResult::default());
    assert_eq!(revisions(vec![get(), OpResult::Delete(Vec::new()), get()]), [9, 9, 9], "nothing was written");
    let mixed = vec![get(), OpResult::Delete(Vec::new()), OpResult::Put(None), get(), OpResult::Delete(Vec::new())];
    assert_eq!(revisions(mixed), [8, 8, 9, 9, 9]);
    assert_eq!(revisions(vec![OpResult::Delete(vec![kv("k", 2, 2)]), get()]), [9, 9]);
    let nested = TxnResult { succeeded: true, revision: 9, results: vec![OpResult::Put(None)] };
    assert_eq!(revisions(vec![get(), OpResult::Txn(Box::new(nested)), get()]), [8, 0, 9, 9]);
}

#[test]
fn what_stood_there_is_told_only_if_asked() {
    let before = kv("k", 2, 3);
    assert_eq!(put(Some(&before), false, None).prev_kv, None);
    assert_eq!(put(Some(&before), true, None).prev_kv, Some(key_value(&before)));
    let gone = [kv("a", 2, 2), kv("b", 3, 3)];
    let quiet = delete(&gone, false, None);
    assert_eq!((quiet.deleted, quiet.prev_kvs.len()), (2, 0));
    assert_eq!(delete(&gone, true, None).prev_kvs.len(), 2);
}

#[test]
fn nothing_was_before_what_has_just_come_into_being() {
    let prev = Some(kv("k", 2, 2));
    assert_eq!(event(&WatchEvent::Put { kv: kv("k", 4, 4), prev: prev.clone() }).prev_kv, None);
    assert!(event(&WatchEvent::Put { kv: kv("k", 2, 4), prev: prev.clone() }).prev_kv.is_some());
    let deleted = event(&WatchEvent::Delete { key: b"k".as_slice().into(), revision: 5, prev });
    let stub = deleted.kv.unwrap();
    assert_eq!((deleted.r#type, stub.mod_revision, stub.create_revision, stub.version), (DELETE, 5, 0, 0));
    assert!(deleted.prev_kv.is_some());
}
