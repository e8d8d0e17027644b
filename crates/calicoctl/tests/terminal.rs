//! A change on probation whose terminal is lost: the program in a real terminal, against a real etcd.

#![allow(clippy::unwrap_used)]

#[path = "../../store/tests/support/etcd.rs"]
mod etcd;

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use etcd::{PATIENCE, PrivateEtcd};

/// Ends with the value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs calicoctl to its end: success, and all that it said.
fn calicoctl(endpoint: &str, words: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_calicoctl"))
        .env_clear()
        .env("ETCD_ENDPOINTS", endpoint)
        .args(words)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn a_lost_terminal_takes_the_change_back() {
    let dir = tempfile::tempdir().unwrap();
    let etcd = PrivateEtcd::start().await;
    let endpoint = etcd.endpoint();
    eventually("etcd answers", || calicoctl(&endpoint, &["get", "gnp"]).0);
    let file = dir.path().join("lock.yaml");
    let policy = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: lock}\n\
                  spec: {selector: all(), types: [Ingress]}\n";
    std::fs::write(&file, policy).unwrap();
    let is_there = || calicoctl(&endpoint, &["get", "gnp", "-o", "name"]).1.contains("lock");

    // `script` gives the program a terminal, and takes it away when it is killed.
    let line = format!("{} apply -f {} --confirm 1h", env!("CARGO_BIN_EXE_calicoctl"), file.display());
    let mut terminal = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env("ETCD_ENDPOINTS", &endpoint)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map(Process)
        .expect("script cannot be run: is the package bsdutils installed?");
    eventually("the change is made", is_there);
    terminal.0.kill().unwrap();
    eventually("the change is taken back", || !is_there());
    eventually("no record is left", || {
        calicoctl(&endpoint, &["confirm"]).1.contains("Nothing waits for a confirmation")
    });
}
