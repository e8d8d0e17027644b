//! The program on a real etcd: cases of `vectors/resources.json`, from the command line to the keys.
//!
//! All cases run on the in-memory datastore beside the commands; here runs a sample of each category, so that streams,
//! exit codes, the environment and etcd itself are what they were there.

#![allow(clippy::unwrap_used)]

#[path = "support/cases.rs"]
mod cases;
#[path = "../../store/tests/support/etcd.rs"]
mod etcd;
#[path = "support/program.rs"]
mod program;

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use calico_store::{EtcdKv, Kv, Store};
use cases::{Answer, Case};
use etcd::PrivateEtcd;
use serde_json::Value;

/// Of each category so many cases of the repository are run; of a folder that `VECTORS` names, all.
const OF_A_CATEGORY: usize = 8;

/// Runs the program.
fn calicoctl(endpoint: &str, directory: &Path, words: &[String], input: &str) -> Answer {
    let output = program::run(endpoint, &cases::command_line(words, directory), input);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Answer { failed: !output.status.success(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

async fn contents(kv: &EtcdKv) -> BTreeMap<String, Value> {
    cases::contents(kv.list("/calico/").await.unwrap().entries.into_iter().map(|entry| (entry.key, entry.value)))
}

async fn differences(etcd: &PrivateEtcd, kv: &Arc<EtcdKv>, case: &Case) -> Vec<String> {
    for entry in kv.list("/calico/").await.unwrap().entries {
        kv.delete(&entry.key, entry.revision).await.unwrap();
    }
    if !case.fresh {
        calico_startup::initialise(&Store::new(kv.clone())).await.unwrap();
    }
    let (endpoint, directory) = (etcd.endpoint(), tempfile::tempdir().unwrap());
    cases::write_files(case, directory.path());
    for step in &case.setup {
        if let Some(text) = step.as_str() {
            let words = ["apply", "-f", "-"].map(str::to_owned);
            let answer = calicoctl(&endpoint, directory.path(), &words, text);
            assert!(!answer.failed, "{}: {}\n{text}", case.id, answer.stderr);
            continue;
        }
        for (key, value) in step["put"].as_object().unwrap() {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            kv.create(key, value.into_bytes()).await.unwrap();
        }
    }
    let before = contents(kv).await;
    let mut input = case.input.clone();
    while let Some((place, key)) = cases::revision_wanted(&input) {
        let revision = kv.get(&key).await.unwrap().unwrap().revision;
        input.replace_range(place, &revision.to_string());
    }
    let answer = calicoctl(&endpoint, directory.path(), &case.args, &input);
    cases::differences(case, &before, &contents(kv).await, &answer)
}

#[tokio::test]
async fn cases_of_every_category_on_a_real_etcd() {
    let (etcd, kv) = program::start().await;
    let (mut bad, mut run, mut seen) = (Vec::new(), 0, BTreeMap::<String, usize>::new());
    let most = if std::env::var_os("VECTORS").is_some() { usize::MAX } else { OF_A_CATEGORY };
    for case in cases::cases() {
        let count = seen.entry(case.category.clone()).or_default();
        *count += 1;
        if *count > most {
            continue;
        }
        run += 1;
        let found = differences(&etcd, &kv, &case).await;
        if !found.is_empty() {
            bad.push(format!("{}: {}\n{}", case.id, case.args.join(" "), found.join("\n")));
        }
    }
    assert!(bad.is_empty(), "{} of {run} cases differ:\n\n{}", bad.len(), bad.join("\n\n"));
}

#[tokio::test]
async fn ctrl_c_is_the_proper_end_of_a_watch() {
    use std::io::{BufRead, BufReader};
    let (etcd, kv) = program::start().await;
    calico_startup::initialise(&Store::new(kv)).await.unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_calicoctl"))
        .env_clear()
        .env("ETCD_ENDPOINTS", etcd.endpoint())
        .args(["get", "tiers", "--watch", "-o", "name"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ADDED     tier/default");
    let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[tokio::test]
async fn a_watch_ends_when_nobody_reads_it() {
    use std::io::{BufRead, BufReader};
    let (etcd, kv) = program::start().await;
    let store = Store::new(kv);
    calico_startup::initialise(&store).await.unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_calicoctl"))
        .env_clear()
        .env("ETCD_ENDPOINTS", etcd.endpoint())
        .args(["get", "tiers", "-w"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..4 {
        lines.next().unwrap().unwrap();
    }
    drop(lines);
    store.create(calico_model::Tier::new("more", calico_model::TierSpec::default())).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it goes on although nobody reads");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
