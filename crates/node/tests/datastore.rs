//! `calico-node datastore` as a process: what it says when it cannot have its datastore, and that it leaves it alone.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use calico_datastore::Datastore;
use redb::{Database, ReadableDatabase, TableDefinition};

const META: TableDefinition<&str, i64> = TableDefinition::new("meta");

/// Runs it in a folder; it is not expected to stay.
fn run(dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_calico-node"));
    command.args(["datastore", "--name", "host-1", "--listen-port", "0", "--dir"]).arg(dir.join("datastore"));
    command.arg("--socket").arg(dir.join("socket")).arg("--admin-socket").arg(dir.join("admin"));
    command.output().unwrap()
}

/// What it says to a person, and to the service that started it: the same.
#[track_caller]
fn refuses(dir: &Path, words: &[&str]) {
    let output = run(dir);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let (errors, reports) = (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    let last: serde_json::Value = serde_json::from_str(reports.lines().last().unwrap()).unwrap();
    assert_eq!(last["ready"], false);
    let reason = last["reason"].as_str().unwrap();
    for word in words {
        assert!(errors.contains(word) && reason.contains(word), "{word}: {errors}\n{reason}");
    }
    assert!(!dir.join("socket").exists() && !dir.join("admin").exists());
}

#[test]
fn a_datastore_of_a_newer_version_is_refused_in_words_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("datastore");
    drop(Datastore::open(&folder).unwrap());
    let file = folder.join("data.redb");
    let database = Database::create(&file).unwrap();
    let before = database.begin_read().unwrap().open_table(META).unwrap().get("format").unwrap().unwrap().value();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert("format", before + 1).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let bytes = fs::read(&file).unwrap();
    let format = format!("the file has the format {}, and this program knows none after {before}", before + 1);
    refuses(dir.path(), &["data.redb", &format, "install the version that wrote it"]);
    assert!(fs::read(&file).unwrap() == bytes);
}

#[test]
fn a_datastore_that_somebody_has_is_refused_with_his_number() {
    let dir = tempfile::tempdir().unwrap();
    let _other = Datastore::open(&dir.path().join("datastore")).unwrap();
    let number = format!("in use by process {}", std::process::id());
    refuses(dir.path(), &[&number, "only one calico-node on a datastore", "calicoctl node stop"]);
}
