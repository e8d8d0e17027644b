//! Upstream's own program beside ours: `vectors/resources.json` holds what goes into its `calicoctl`, what it answers
//! and what it leaves in etcd. Every case runs here through the grammar and the commands, on the in-memory datastore.
//!
//! Where ours differs on purpose, the reason is in `vectors/DIFFERENCES.md`.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, path::Path};

use calico_store::{ConnectOptions, Kv, MemoryKv};
use serde_json::Value;

use super::cases::{self, Answer, Case};
use crate::{args, commands, failure::Exit, testing::Bench};

/// Runs a command line in `directory`.
async fn run(bench: &Bench, directory: &Path, words: &[String], input: &str) -> Answer {
    *bench.console.1.lock().unwrap() = input.to_owned();
    let argv = std::iter::once("calicoctl".into()).chain(cases::command_line(words, directory));
    let command = match args::parse(argv) {
        Ok(cli) => cli.command.unwrap(),
        Err(refused) => return Answer { failed: true, stdout: String::new(), stderr: refused.to_string() },
    };
    let etcd = ConnectOptions::from_lookup(|_| None).unwrap();
    let caller = commands::Caller { etcd, no_default_pools: String::new(), in_container: false };
    match commands::run(&bench.ctx, &command, &caller).await {
        Ok(output) => Answer {
            failed: output.exit != Exit::Done,
            stdout: output.render(commands::format(&command)),
            stderr: output.failure.map(|failure| failure.to_string()).unwrap_or_default(),
        },
        Err(failure) => Answer { failed: true, stdout: String::new(), stderr: failure.to_string() },
    }
}

/// Everything that the datastore holds.
async fn contents(kv: &MemoryKv) -> BTreeMap<String, Value> {
    let listing = kv.behind().list("").await.unwrap();
    cases::contents(listing.entries.into_iter().map(|entry| (entry.key, entry.value)))
}

/// Puts present revisions where the case wants them.
async fn with_revisions(kv: &MemoryKv, text: &str) -> String {
    let mut text = text.to_owned();
    while let Some((place, key)) = cases::revision_wanted(&text) {
        let entry = kv.behind().get(&key).await.unwrap().unwrap_or_else(|| panic!("no {key}"));
        text.replace_range(place, &entry.revision.to_string());
    }
    text
}

async fn set_up(bench: &Bench, directory: &Path, case: &Case) -> Result<(), String> {
    if !case.fresh {
        calico_startup::initialise(&bench.ctx.store).await.unwrap();
        // Far enough that the small revisions of the cases are none of the present ones.
        for _ in 0..10 {
            bench.kv.put("/elsewhere", "");
            bench.kv.remove("/elsewhere");
        }
    }
    cases::write_files(case, directory);
    for step in &case.setup {
        if let Some(text) = step.as_str() {
            let words = ["apply", "-f", "-"].map(str::to_owned);
            let answer = run(bench, directory, &words, text).await;
            if answer.failed {
                return Err(format!("the setup failed: {}\n{text}", answer.stderr));
            }
            continue;
        }
        for (key, value) in step["put"].as_object().unwrap() {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            bench.kv.put(key, value);
        }
    }
    Ok(())
}

/// Runs a case and says how ours differs.
async fn differences(case: &Case) -> Vec<String> {
    let bench = Bench::new();
    let directory = tempfile::tempdir().unwrap();
    if let Err(words) = set_up(&bench, directory.path(), case).await {
        return vec![words];
    }
    let before = contents(&bench.kv).await;
    let input = with_revisions(&bench.kv, &case.input).await;
    let answer = run(&bench, directory.path(), &case.args, &input).await;
    cases::differences(case, &before, &contents(&bench.kv).await, &answer)
}

#[tokio::test(start_paused = true)]
async fn every_case_of_upstream_comes_out_the_same() {
    let (mut bad, cases) = (Vec::new(), cases::cases());
    for case in &cases {
        let found = differences(case).await;
        if !found.is_empty() {
            bad.push(format!("{}: {}\n{}", case.id, case.args.join(" "), found.join("\n")));
        }
    }
    assert!(bad.is_empty(), "{} of {} cases differ:\n\n{}", bad.len(), cases.len(), bad.join("\n\n"));
}
