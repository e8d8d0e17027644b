#![allow(clippy::unwrap_used)]

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use calico_store::{Injected, WriteKind};

use super::*;
use crate::{
    args::{Connection, Delete, Files, Named, Write},
    commands::resource,
    testing::{Bench, refusal, text},
};

/// One policy is replaced by `apply`, one created; the third stays.
const FILES: &str = r#"
{"kind": "GlobalNetworkPolicy", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "old"},
 "spec": {"selector": "all()", "types": ["Ingress"]}}
---
{"kind": "GlobalNetworkPolicy", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "new"},
 "spec": {"selector": "role == 'db'", "types": ["Egress"]}}
"#;

fn policy(name: &str, selector: &str) -> String {
    format!(
        r#"{{"kind": "GlobalNetworkPolicy", "apiVersion": "projectcalico.org/v3", "metadata": {{"name": "{name}"}},
            "spec": {{"selector": "{selector}", "types": ["Ingress"]}}}}"#
    )
}

fn stdin() -> Write {
    Write { files: Files { files: vec!["-".into()], ..Files::default() }, ..Write::default() }
}

/// A datastore with two policies.
async fn bench() -> Bench {
    let bench = Bench::new();
    let before = format!("{}\n---\n{}", policy("old", "role == 'web'"), policy("other", "all()"));
    *bench.console.1.lock().unwrap() = before;
    text(resource::apply(&bench.ctx, &stdin()).await);
    *bench.console.1.lock().unwrap() = FILES.to_owned();
    bench
}

async fn apply(ctx: &Context, within: &str) -> Result<Output, Failure> {
    let probation = Probation { within: Some(within.to_owned()) };
    on_probation(ctx, &probation, "apply", async |ctx| resource::apply(ctx, &stdin()).await).await
}

fn of_name(everything: &[(String, String)], name: &str) -> Option<String> {
    everything.iter().find(|(key, _)| key.ends_with(name)).map(|(_, value)| value.clone())
}

/// Waits until a change waits for its confirmation.
async fn waiting(bench: &Bench) -> Record {
    loop {
        let listing = bench.kv.behind().list(PREFIX).await.unwrap();
        if let Some(record) = listing.entries.first().map(|entry| Record::read(entry).unwrap())
            && record.state == State::Waiting
        {
            return record;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_confirmation_everything_goes_back() {
    let bench = bench().await;
    let before = bench.everything().await;
    let words = refusal(apply(&bench.ctx, "60s").await);
    assert_eq!(bench.everything().await, before);
    for part in [
        "it was not confirmed within 60s",
        "GlobalNetworkPolicy new is deleted again",
        "GlobalNetworkPolicy old is as before",
    ] {
        assert!(words.contains(part), "{words}");
    }
    let said = bench.said().join("\n");
    for part in
        ["Successfully applied 2", "changed: GlobalNetworkPolicy old", "created: GlobalNetworkPolicy new", "type yes"]
    {
        assert!(said.contains(part), "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn yes_keeps_the_change() {
    let bench = bench().await;
    let before = bench.everything().await;
    bench.console.3.lock().unwrap().extend(["\n".into(), "no\n".into(), "Yes\n".into()]);
    assert_eq!(text(apply(&bench.ctx, "60s").await), "Confirmed: the change stays.\n");
    let after = bench.everything().await;
    assert_ne!(after, before);
    assert!(of_name(&after, "/new").is_some() && of_name(&after, "/old").unwrap().contains("all()"));
    assert!(after.iter().all(|(key, _)| !key.starts_with(PREFIX)), "no record is left");
}

#[tokio::test(start_paused = true)]
async fn another_terminal_confirms_or_takes_back() {
    for roll_back in [false, true] {
        let bench = bench().await;
        let before = bench.everything().await;
        let other = async {
            let record = waiting(&bench).await;
            let args = Confirm { id: Some(record.id[..4].to_owned()), roll_back, connection: Connection::default() };
            confirm(&bench.ctx, &args).await
        };
        let (waited, other) = tokio::join!(apply(&bench.ctx, "60s"), other);
        let words = text(other);
        if roll_back {
            assert!(words.contains("Taken back: the apply of 2 object(s)"), "{words}");
            assert!(refusal(waited).contains("taken back by somebody else"));
            assert_eq!(bench.everything().await, before);
        } else {
            assert!(words.contains("Confirmed: the apply of 2 object(s)"), "{words}");
            assert_eq!(text(waited), "Confirmed: the change stays.\n");
            assert!(of_name(&bench.everything().await, "/new").is_some());
        }
    }
    let bench = bench().await;
    assert!(refusal(confirm(&bench.ctx, &Confirm::default()).await).contains("Nothing waits"));
}

#[tokio::test(start_paused = true)]
async fn an_interrupt_takes_back_at_once() {
    let bench = bench().await;
    let before = bench.everything().await;
    let begin = Instant::now();
    let (words, ()) = tokio::join!(async { refusal(apply(&bench.ctx, "1h").await) }, async {
        waiting(&bench).await;
        bench.interrupter.interrupt();
    });
    assert!(words.contains("it was interrupted"), "{words}");
    assert!(begin.elapsed() < Duration::from_secs(60));
    assert_eq!(bench.everything().await, before);
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_changed_meanwhile_is_left_alone() {
    let bench = bench().await;
    let before = bench.everything().await;
    let (words, ()) = tokio::join!(async { refusal(apply(&bench.ctx, "60s").await) }, async {
        waiting(&bench).await;
        let key = before.iter().find(|(key, _)| key.ends_with("/old")).unwrap().0.clone();
        bench.kv.put(&key, "theirs");
    });
    assert!(
        words.contains("GlobalNetworkPolicy old was changed by somebody else meanwhile and is left alone"),
        "{words}"
    );
    let after = bench.everything().await;
    assert_eq!(of_name(&after, "/old").unwrap(), "theirs");
    assert_eq!(of_name(&after, "/new"), None, "the rest goes back");
}

#[tokio::test(start_paused = true)]
async fn what_was_deleted_is_there_again() {
    let bench = bench().await;
    let before = bench.everything().await;
    let args = Delete {
        named: Named { kind: Some("gnp".into()), names: vec!["old".into(), "other".into()] },
        ..Delete::default()
    };
    let probation = Probation { within: Some("5".into()) };
    let outcome = on_probation(&bench.ctx, &probation, "delete", async |ctx| resource::delete(ctx, &args).await).await;
    assert!(refusal(outcome).contains("GlobalNetworkPolicy old is there again"));
    assert_eq!(bench.everything().await, before);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_fails_in_part_goes_back_at_once() {
    let bench = bench().await;
    let before = bench.everything().await;
    let bad = format!(
        "{}\n---\n{}",
        policy("new", "all()"),
        policy("late.policy", "all()").replace("\"selector\"", "\"tier\": \"none\", \"selector\"")
    );
    *bench.console.1.lock().unwrap() = bad;
    let words = refusal(apply(&bench.ctx, "60s").await);
    assert!(words.contains("none") && words.contains("GlobalNetworkPolicy new is deleted again"), "{words}");
    assert_eq!(bench.everything().await, before);
}

#[tokio::test(start_paused = true)]
async fn addresses_are_not_let_go_on_probation() {
    let bench = bench().await;
    bench.node("h2", "10.0.0.2/24", None).await;
    bench.endpoint("h2", "w", "0123456789abcdef", &[]).await;
    let block = "/calico/ipam/v2/host/h2/ipv4/block/10.65.0.0-26";
    bench.kv.put(block, r#"{"state":"confirmed"}"#);
    let before = bench.everything().await;
    let args = Delete { named: Named { kind: Some("node".into()), names: vec!["h2".into()] }, ..Delete::default() };
    let probation = Probation { within: Some("5s".into()) };
    let outcome = on_probation(&bench.ctx, &probation, "delete", async |ctx| resource::delete(ctx, &args).await).await;
    let words = refusal(outcome);
    assert!(words.contains("on probation") || words.contains("taken back"), "{words}");
    assert_eq!(bench.everything().await, before);
}

/// Every write of a command that is not confirmed fails, or loses its answer, in turn.
#[tokio::test(start_paused = true)]
async fn whatever_fails_nothing_is_left_behind() {
    for injected in [Injected::FailBefore, Injected::FailAfter] {
        for at in 0..12 {
            let bench = bench().await;
            let before = bench.everything().await;
            let count = Arc::new(AtomicUsize::new(0));
            let counted = count.clone();
            bench.kv.inject(
                move |_, _| {
                    if counted.fetch_add(1, Ordering::SeqCst) == at { injected } else { Injected::Proceed }
                },
            );
            let words = refusal(apply(&bench.ctx, "60s").await);
            bench.kv.stop_injecting();
            let left: Vec<String> = bench.everything().await.into_iter().map(|(key, _)| key).collect();
            let mut after = bench.everything().await;
            // Where the very first or last write of the record is in doubt, the record may stay; the objects do not.
            after.retain(|(key, _)| !key.starts_with(PREFIX));
            assert_eq!(after, before, "{injected:?} at {at}: {words} {left:?}");
            if at >= count.load(Ordering::SeqCst) {
                assert!(at >= 6, "only {at} writes were made to fail");
                break;
            }
        }
    }
}

/// The command is killed while it waits: the record is enough.
#[tokio::test(start_paused = true)]
async fn a_killed_command_can_still_be_taken_back_and_confirmed() {
    for roll_back in [true, false] {
        let bench = bench().await;
        let before = bench.everything().await;
        {
            let mut waits = std::pin::pin!(apply(&bench.ctx, "60s"));
            tokio::select! {
                _ = &mut waits => panic!("it does not wait"),
                _ = waiting(&bench) => {}
            }
        }
        let args = Confirm { roll_back, ..Confirm::default() };
        text(confirm(&bench.ctx, &args).await);
        let after = bench.everything().await;
        assert_eq!(after == before, roll_back);
        assert!(after.iter().all(|(key, _)| !key.starts_with(PREFIX)));
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_while_taking_back_is_waited_for() {
    let bench = bench().await;
    let before = bench.everything().await;
    let fails = Arc::new(AtomicUsize::new(0));
    let (words, ()) = tokio::join!(async { refusal(apply(&bench.ctx, "60s").await) }, async {
        waiting(&bench).await;
        let fails = fails.clone();
        bench.kv.inject(move |_, write| {
            let down = fails.fetch_add(1, Ordering::SeqCst) < 20;
            if down && write.kind != WriteKind::Create { Injected::FailBefore } else { Injected::Proceed }
        });
    });
    assert!(words.contains("is deleted again"), "{words}");
    assert!(fails.load(Ordering::SeqCst) > 20);
    assert_eq!(bench.everything().await, before);
    assert!(bench.said().iter().any(|line| line.starts_with("note: warning: trying again")));
}

#[test]
fn times() {
    for (word, seconds) in [("60s", 60), ("90", 90), ("5m", 300), ("1h30m", 5400)] {
        assert_eq!(parse_time(word).unwrap(), Duration::from_secs(seconds), "{word}");
    }
    for word in ["", "0", "0s", "-5s", "soon", "25h", "500ms"] {
        assert!(parse_time(word).unwrap_err().to_string().contains("hint: "), "{word}");
    }
}
