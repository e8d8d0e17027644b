//! The program as a shell runs it, and an etcd of its own for it.

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs)]

use std::{
    ffi::OsStr,
    io::Write,
    process::{Command, Output, Stdio},
    sync::Arc,
};

use calico_store::{ConnectOptions, EtcdKv, Kv};

use crate::etcd::{PrivateEtcd, wait_for};

/// An etcd of its own that answers.
pub async fn start() -> (PrivateEtcd, Arc<EtcdKv>) {
    let etcd = PrivateEtcd::start_with(None, &["--unsafe-no-fsync"]).await;
    let endpoint = etcd.endpoint();
    let options = ConnectOptions::from_lookup(|name| (name == "ETCD_ENDPOINTS").then(|| endpoint.clone()));
    let kv = Arc::new(EtcdKv::new(options.unwrap()).unwrap());
    wait_for("etcd to answer", async || kv.list("/calico/").await.ok()).await;
    (etcd, kv)
}

/// Runs the program with nothing in its environment but where the datastore is.
pub fn run(endpoint: &str, words: &[impl AsRef<OsStr>], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_calicoctl"))
        .env_clear()
        .env("ETCD_ENDPOINTS", endpoint)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that does not read its input may be gone by now.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}
