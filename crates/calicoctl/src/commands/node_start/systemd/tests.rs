#![allow(clippy::unwrap_used)]
use clap::Parser;

use super::*;
use crate::{
    args::{Cli, Command},
    commands::node_start::{CONTAINER, start},
    testing::{Bench, NODE, refusal, text},
};

const STOPPED: &[(&str, &str)] = &[(UNIT, "inactive")];

async fn run(bench: &Bench, words: &str, variables: &[(&str, &str)]) -> Result<Output, Failure> {
    let cli = Cli::parse_from(format!("calicoctl node {words}").split_whitespace());
    let Some(Command::Node(node)) = cli.command else { panic!("not a node command") };
    let lookup = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    let caller = Caller {
        etcd: calico_store::ConnectOptions::from_lookup(lookup).unwrap(),
        no_default_pools: lookup("NO_DEFAULT_POOLS").unwrap_or_default(),
        in_container: false,
    };
    start(&bench.ctx, &node.start, &caller).await
}

fn bench(units: &[(&str, &str)]) -> Bench {
    let bench = Bench::new();
    bench.runtime.without_docker();
    bench.runtime.with_units(units);
    bench
}

const ETCD: &[(&str, &str)] = &[("ETCD_ENDPOINTS", "http://10.0.0.1:2379")];

#[tokio::test]
async fn where_the_unit_is_installed_it_is_enabled_and_started() {
    let bench = bench(STOPPED);
    *bench.runtime.settings.lock().unwrap() = Some("# Its address.\n#IP=\nOWN=kept\n".into());
    assert_eq!(text(run(&bench, "--ip=10.0.0.5 --as=64555 --name=host-1", ETCD).await), "");
    let unit = bench.runtime.unit_now(UNIT);
    assert_eq!((unit.active.as_str(), unit.enabled), ("active", true));
    assert_eq!(
        bench.runtime.settings.lock().unwrap().as_deref().unwrap(),
        "# Its address.\n#IP=\nIP=10.0.0.5\nOWN=kept\nHOSTNAME=host-1\nAS=64555\nETCD_ENDPOINTS=http://10.0.0.1:2379\n"
    );
    let said = bench.said().join("\n");
    for part in ["Starting the unit calico-node.service", "node name: host-1", "Calico node started successfully"] {
        assert_eq!(said.matches(part).count(), 1, "{part}: {said}");
    }
    assert_eq!(bench.runtime.name.lock().unwrap().as_deref(), Some(NODE));
}

#[tokio::test]
async fn a_second_call_restarts_it_and_keeps_what_it_does_not_say() {
    let bench = bench(&[(UNIT, "active")]);
    *bench.runtime.settings.lock().unwrap() = Some("IP=10.0.0.5\nHOSTNAME=host-1\nETCD_PASSWORD=old\n".into());
    text(run(&bench, "--as=64555 --no-libnetwork", ETCD).await);
    let settings = bench.runtime.settings.lock().unwrap().clone().unwrap();
    assert!(settings.contains("IP=10.0.0.5\n") && settings.contains("AS=64555\n"), "{settings}");
    assert!(settings.contains("CALICO_LIBNETWORK=false\n"), "{settings}");
    assert!(!settings.contains("ETCD_PASSWORD"), "of another datastore: {settings}");
    assert!(bench.said().contains(&"Restarting the unit calico-node.service".to_owned()));
    let before = settings;
    text(run(&bench, "", ETCD).await);
    assert_eq!(bench.runtime.settings.lock().unwrap().as_deref(), Some(before.as_str()));
}

#[tokio::test]
async fn a_password_is_written_but_never_shown() {
    let bench = bench(STOPPED);
    let variables =
        [("ETCD_ENDPOINTS", "http://etcd:2379"), ("ETCD_USERNAME", "calico"), ("ETCD_PASSWORD", "s3cr3t w'ord")];
    text(run(&bench, "", &variables).await);
    let settings = bench.runtime.settings.lock().unwrap().clone().unwrap();
    assert!(settings.contains("ETCD_PASSWORD=\"s3cr3t w'ord\"\n"), "{settings}");
    assert!(!bench.said().join("\n").contains("s3cr3t"));
}

#[tokio::test]
async fn files_that_the_unit_cannot_see_are_refused_before_anything_changes() {
    let bench = bench(STOPPED);
    let file = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    std::fs::write(file.path(), "s3cr3t").unwrap();
    let path = file.path().to_str().unwrap();
    let variables = [("ETCD_ENDPOINTS", "http://e:2379"), ("ETCD_USERNAME", "calico"), ("ETCD_PASSWORD_FILE", path)];
    let said = refusal(run(&bench, "", &variables).await);
    assert!(said.contains(&format!("cannot read ETCD_PASSWORD_FILE={path}")) && said.contains("/etc/calico"), "{said}");
    assert_eq!(bench.runtime.unit_now(UNIT).active, "inactive");
    assert_eq!(*bench.runtime.settings.lock().unwrap(), None);
}

#[tokio::test]
async fn a_start_that_fails_puts_everything_back() {
    for was in ["active", "inactive"] {
        let bench = bench(&[(UNIT, was), (BIRD_UNIT, "active")]);
        *bench.runtime.settings.lock().unwrap() = Some("IP=10.0.0.5\n".into());
        let lines = vec!["node name: host-1", "error: it is taken", "  cause: by host-2", "hint: choose another"];
        *bench.runtime.script.lock().unwrap() = (lines, false);
        let said = refusal(run(&bench, "--ip=10.0.0.6", ETCD).await);
        let expected = "error: Calico node failed to start.\n  cause: it is taken\n  cause: by host-2\n";
        assert!(said.starts_with(expected), "{said}");
        assert!(said.contains("hint: choose another\n") && said.contains("journalctl"), "{said}");
        assert_eq!(bench.runtime.settings.lock().unwrap().as_deref(), Some("IP=10.0.0.5\n"));
        let calls = bench.runtime.calls();
        let last = calls.iter().rfind(|call| call.contains(UNIT)).unwrap();
        assert_eq!(last, &format!("systemctl {} {UNIT}", if was == "active" { "restart" } else { "stop" }));
        assert!(!bench.runtime.unit_now(UNIT).enabled);
        assert_eq!(bench.runtime.unit_now(BIRD_UNIT).active, "active");
        assert_eq!(*bench.runtime.name.lock().unwrap(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_says_nothing_is_given_up_in_the_end() {
    let bench = bench(STOPPED);
    *bench.runtime.script.lock().unwrap() = (vec!["node name: host-1"], true);
    let said = refusal(run(&bench, "", ETCD).await);
    assert!(said.contains("within 180 s"), "{said}");
    assert_eq!(bench.runtime.unit_now(UNIT).active, "inactive");
}

#[tokio::test]
async fn debians_own_bird_gives_way_unless_it_has_work() {
    let bench = bench(&[(UNIT, "inactive"), (BIRD_UNIT, "active")]);
    text(run(&bench, "", ETCD).await);
    assert_eq!(bench.runtime.unit_now(BIRD_UNIT).active, "inactive");

    let bench = self::bench(&[(UNIT, "inactive"), (BIRD_UNIT, "active")]);
    *bench.runtime.stock_bird.lock().unwrap() = false;
    let said = refusal(run(&bench, "", ETCD).await);
    assert!(said.contains("configuration of this host's own") && said.contains("disable --now"), "{said}");
    assert_eq!(bench.runtime.unit_now(BIRD_UNIT).active, "active");
    assert_eq!(bench.runtime.unit_now(UNIT).active, "inactive");
}

#[tokio::test]
async fn a_container_gives_way_to_the_unit_and_comes_back_if_that_fails() {
    for works in [true, false] {
        let bench = Bench::new();
        bench.runtime.with_units(STOPPED);
        bench.runtime.run_container(CONTAINER);
        if !works {
            *bench.runtime.script.lock().unwrap() = (vec!["error: no"], false);
        }
        assert_eq!(run(&bench, "", ETCD).await.is_ok(), works);
        assert_eq!(bench.runtime.is_running(CONTAINER), !works);
        assert_eq!(bench.runtime.all().len(), usize::from(!works));
    }
}

#[tokio::test]
async fn what_runs_the_service_can_be_said() {
    // Options of a container mean a container.
    let bench = Bench::new();
    bench.runtime.with_units(STOPPED);
    bench.runtime.images.lock().unwrap().insert("calico/node".into());
    text(run(&bench, "--no-pull", ETCD).await);
    assert!(bench.runtime.is_running(CONTAINER));
    assert_eq!(bench.runtime.unit_now(UNIT).active, "inactive");
    let said = refusal(run(&bench, "--runtime=systemd --no-pull", ETCD).await);
    assert!(said.contains("for --runtime=docker"), "{said}");
    // No package, no unit.
    let said = refusal(run(&Bench::new(), "--runtime=systemd", ETCD).await);
    assert!(said.contains("There is no unit calico-node.service") && said.contains("apt install"), "{said}");
}

#[tokio::test]
async fn a_service_that_was_started_by_hand_is_not_doubled() {
    let bench = bench(STOPPED);
    *bench.runtime.outside.lock().unwrap() = Some(crate::health::Health::default());
    let said = refusal(run(&bench, "", ETCD).await);
    assert!(said.contains("neither as a unit nor as a container"), "{said}");
}

#[test]
fn only_the_start_that_was_asked_for_is_judged() {
    let status = |active: &str, sub: &str, invocation: &str| UnitStatus {
        active: active.into(),
        sub: sub.into(),
        invocation: invocation.into(),
        ..UnitStatus::default()
    };
    assert_eq!(outcome(&status("active", "running", "1"), "1"), None, "the old one");
    assert_eq!(outcome(&status("failed", "failed", "1"), "1"), None);
    assert_eq!(outcome(&status("activating", "start", "2"), "1"), None);
    assert_eq!(outcome(&status("active", "running", "2"), "1"), Some(true));
    assert_eq!(outcome(&status("activating", "auto-restart", "2"), "1"), Some(false));
    assert_eq!(outcome(&status("failed", "failed", "2"), "1"), Some(false));
    assert_eq!(outcome(&UnitStatus { restarts: 1, ..status("active", "running", "3") }, "1"), Some(false));
}

#[test]
fn logs_are_told_from_words() {
    assert!(is_log("2026-11-24T06:45:26.021983Z  INFO started"));
    assert!(is_log("bird: 2026-11-24 06:45:26.195 <INFO> Started"));
    for word in ["node name: host-1", "host address: 10.0.0.5/24 of eth0", "error: no", "é: 2026", ""] {
        assert!(!is_log(word), "{word}");
    }
}
