#![allow(clippy::unwrap_used)]
use clap::Parser;

use super::*;
use crate::{
    args::{Cli, Command},
    failure::Exit,
    testing::{Bench, NODE, refusal, text},
};

fn args(words: &str) -> NodeStart {
    let cli = Cli::parse_from(format!("calicoctl node {words}").split_whitespace());
    let Some(Command::Node(node)) = cli.command else { panic!("not a node command") };
    node.start
}

fn caller(variables: &[(&str, &str)]) -> Caller {
    let lookup = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    Caller {
        etcd: ConnectOptions::from_lookup(lookup).unwrap(),
        no_default_pools: lookup("NO_DEFAULT_POOLS").unwrap_or_default(),
        in_container: false,
    }
}

async fn start_with(bench: &Bench, words: &str) -> Result<Output, Failure> {
    start(&bench.ctx, &args(words), &caller(&[("ETCD_ENDPOINTS", "http://10.0.0.1:2379")])).await
}

/// A bench whose Docker has the image.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.runtime.images.lock().unwrap().insert("calico/node".into());
    bench
}

#[test]
fn every_bad_argument_is_told() {
    let words = "--ip=1.2.3 --ip6=10.0.0.1 --as=70000.1 --detach=maybe --runtime=rkt --log-dir=logs --name=a_b";
    let failure = Settings::parse(&args(words)).unwrap_err();
    let said = failure.to_string();
    for part in [
        "Invalid IPv4 address specified with --ip argument",
        "Invalid IPv6 address specified with --ip6 argument",
        "Invalid AS Number specified",
        "Valid values for --detach are 'true' and 'false'",
        "Runtime must be 'auto', 'systemd', 'docker' or 'none'",
        "--log-dir must be an absolute path",
        "Invalid node name",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(failure.exit(), Exit::Failed);
    // Well formed, but no host can have it: told before anything is started.
    for (words, part) in [
        ("--as=0", "--as 0 is not usable: AS number 0 is reserved"),
        ("--ip=127.0.0.1", "--ip 127.0.0.1 is not usable: it is a loopback address"),
        ("--ip6=ff02::1", "--ip6 ff02::1 is not usable: "),
    ] {
        let said = Settings::parse(&args(words)).unwrap_err().to_string();
        assert!(said.contains(part), "{words}: {said}");
    }
}

#[test]
fn good_arguments_are_values() {
    let settings = Settings::parse(&args("--ip=10.0.0.5 --ip6=fd00::5 --as=1.1 --name=Host-9 --detach=FALSE")).unwrap();
    assert_eq!(settings.ip, Some("10.0.0.5".parse().unwrap()));
    assert_eq!(settings.as_number.unwrap().0, 65537);
    assert_eq!(settings.name.as_deref(), Some("host-9"));
    assert!(!settings.detach);
    let settings = Settings::parse(&args("")).unwrap();
    assert_eq!((settings.ip, settings.ip6, settings.as_number, settings.name), (None, None, None, None));
    assert_eq!((settings.image.as_str(), settings.runtime, settings.detach), ("calico/node", Runtime::Auto, true));
}

#[tokio::test]
async fn bad_arguments_win_over_not_being_root_and_root_over_the_rest() {
    let bench = Bench::not_root();
    bench.runtime.without_docker();
    assert!(refusal(start_with(&bench, "--ip=x").await).contains("Invalid IPv4"));
    let failure = start_with(&bench, "").await.unwrap_err();
    assert_eq!((failure.exit(), failure.message()), (Exit::Usage, "This command must be run as root."));
    assert!(bench.runtime.calls().is_empty());
}

#[tokio::test]
async fn starts_the_container_and_waits_for_it() {
    let bench = bench();
    bench.runtime.paths.lock().unwrap().insert("/lib/modules".into());
    assert_eq!(text(start_with(&bench, "--ip=10.0.0.5 --as=64555").await), "");
    let said = bench.said().join("\n");
    insta::assert_snapshot!("node_start", said);
    let ran = bench.runtime.ran.lock().unwrap().clone().unwrap();
    assert!(ran.privileged && ran.host_network);
    assert_eq!(ran.restart, calico_workload::docker::RestartPolicy::Always);
    assert_eq!(bench.runtime.all(), [("calico-node".to_owned(), "new-id".to_owned())]);
    assert_eq!(bench.runtime.name.lock().unwrap().as_deref(), Some(NODE));
}

#[tokio::test]
async fn tls_files_are_mounted_read_only_and_a_password_is_never_shown() {
    let bench = bench();
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, what: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("-----BEGIN {what}-----\nAAAA\n-----END {what}-----\n")).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (ca, cert, key) = (file("ca", "CERTIFICATE"), file("cert", "CERTIFICATE"), file("key", "PRIVATE KEY"));
    let variables = [
        ("ETCD_ENDPOINTS", "https://etcd:2379"),
        ("ETCD_CA_CERT_FILE", &ca),
        ("ETCD_CERT_FILE", &cert),
        ("ETCD_KEY_FILE", &key),
        ("ETCD_USERNAME", "calico"),
        ("ETCD_PASSWORD", "s3cr3t"),
    ];
    text(start(&bench.ctx, &args(""), &caller(&variables)).await);
    let ran = bench.runtime.ran.lock().unwrap().clone().unwrap();
    for (source, target) in [(&ca, "ca_cert.crt"), (&cert, "cert.crt"), (&key, "key.pem")] {
        let target = format!("/etc/calico/certs/{target}");
        let mount = ran.mounts.iter().find(|mount| mount.target == target).unwrap();
        assert!(mount.source == *source && mount.read_only);
        assert!(ran.env.iter().any(|(_, value)| *value == target));
    }
    assert!(ran.env.contains(&("ETCD_PASSWORD".into(), "s3cr3t".into())));
    let said = bench.said().join("\n");
    assert!(!said.contains("s3cr3t") && said.contains("-e ETCD_PASSWORD "), "{said}");
    assert!(said.contains("ETCD_PASSWORD_FILE"), "how to do better: {said}");
}

#[tokio::test]
async fn a_password_in_a_file_stays_out_of_the_environment() {
    let bench = bench();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "s3cr3t\n").unwrap();
    let path = file.path().to_str().unwrap();
    let variables = [("ETCD_ENDPOINTS", "http://etcd:2379"), ("ETCD_USERNAME", "calico"), ("ETCD_PASSWORD_FILE", path)];
    text(start(&bench.ctx, &args(""), &caller(&variables)).await);
    let ran = bench.runtime.ran.lock().unwrap().clone().unwrap();
    let mount = ran.mounts.iter().find(|mount| mount.source == path).unwrap();
    assert!(mount.read_only);
    assert!(ran.env.contains(&("ETCD_PASSWORD_FILE".into(), mount.target.clone())));
    assert!(!format!("{ran:?}").contains("s3cr3t") && !bench.said().join("\n").contains("can read ETCD_PASSWORD"));
}

#[tokio::test]
async fn default_pools_are_refused_in_the_words_that_the_service_knows() {
    for (word, unwanted) in [("true", true), ("1", true), ("YES", true), ("0", false), ("", false)] {
        let bench = bench();
        let variables = [("ETCD_ENDPOINTS", "http://10.0.0.1:2379"), ("NO_DEFAULT_POOLS", word)];
        text(start(&bench.ctx, &args("--runtime=none"), &caller(&variables)).await);
        let request = bench.runtime.prepared.lock().unwrap().clone().unwrap();
        assert_eq!(request.no_default_pools, unwanted, "{word}");
    }
    for words in ["", "--runtime=none"] {
        let bench = bench();
        let said = refusal(start(&bench.ctx, &args(words), &caller(&[("NO_DEFAULT_POOLS", "maybe")])).await);
        assert!(said.contains("NO_DEFAULT_POOLS") && said.contains("maybe"), "{said}");
        assert!(bench.runtime.all().is_empty() && bench.runtime.prepared.lock().unwrap().is_none());
    }
}

#[tokio::test]
async fn an_image_that_is_missing_is_pulled_unless_forbidden() {
    let bench = Bench::new();
    let words = refusal(start_with(&bench, "--no-pull").await);
    assert!(words.contains("Docker has no image calico/node") && words.contains("docker load"), "{words}");
    assert!(bench.runtime.all().is_empty());
    text(start_with(&bench, "").await);
    let said = bench.said();
    assert!(said.contains(&"Pulling Docker image calico/node".to_owned()), "{said:?}");
    assert_eq!(said.iter().filter(|line| line.contains("Downloading")).count(), 1, "once for each state");

    let bench = Bench::new();
    bench.runtime.fail("pull");
    bench.runtime.run_container(CONTAINER);
    let words = refusal(start_with(&bench, "").await);
    assert!(words.contains("Unable to download Docker image."), "{words}");
    assert!(bench.runtime.is_running(CONTAINER), "the old one goes on");
}

#[tokio::test]
async fn a_running_container_is_replaced_and_never_two_are_left() {
    let bench = bench();
    bench.runtime.run_container(CONTAINER);
    text(start_with(&bench, "").await);
    assert_eq!(bench.runtime.all(), [("calico-node".to_owned(), "new-id".to_owned())]);
    let calls = bench.runtime.calls();
    let at = |operation: &str| calls.iter().position(|call| call == operation).unwrap();
    assert!(at("has_image") < at("stop") && at("stop") < at("rename") && at("rename") < at("run"), "{calls:?}");
}

#[tokio::test]
async fn a_service_that_does_not_start_is_removed_and_the_old_one_comes_back() {
    for (fails, expected) in [("script", "Calico node failed to start."), ("run", "injected"), ("rename", "injected")] {
        let bench = bench();
        bench.runtime.run_container(CONTAINER);
        if fails == "script" {
            let lines = vec!["node name: host-1", "!host address: failed: 10.0.0.5 is used by host-2"];
            *bench.runtime.script.lock().unwrap() = (lines, false);
        } else {
            bench.runtime.fail(fails);
        }
        let words = refusal(start_with(&bench, "").await);
        assert!(words.contains(expected), "{fails}: {words}");
        if fails == "script" {
            assert!(words.contains("cause: !host address: failed: 10.0.0.5 is used by host-2\n"), "{words}");
        }
        assert_eq!(bench.runtime.all(), [("calico-node".to_owned(), "calico-node-id".to_owned())], "{fails}");
        assert!(bench.runtime.is_running(CONTAINER), "{fails}");
        assert_eq!(*bench.runtime.name.lock().unwrap(), None);
    }
}

#[tokio::test]
async fn what_the_service_says_of_its_failure_is_the_cause_and_the_way_out() {
    let failed = "node record: failed: it is taken; choose another";
    let ended = ["error: it is taken", "  cause: by host-2", "hint: choose another"];
    for (lines, expected) in [
        (vec![ended[0], ended[1], ended[2]], "  cause: it is taken\n  cause: by host-2\nhint: choose another\n"),
        // Docker had started it again before it was stopped.
        (
            vec![failed, ended[0], ended[2], failed, ended[0], ended[2]],
            "  cause: node record: it is taken\nhint: choose",
        ),
        (vec![failed], "  cause: node record: failed: it is taken; choose another\n"),
    ] {
        let bench = bench();
        *bench.runtime.script.lock().unwrap() = (lines.clone(), false);
        let words = refusal(start_with(&bench, "").await);
        assert!(words.contains(&format!("error: Calico node failed to start.\n{expected}")), "{lines:?}: {words}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_before_anything_is_started() {
    let bench = bench();
    bench.runtime.run_container(CONTAINER);
    bench.runtime.fail("check_bgp_port");
    for words in ["", "--runtime=none"] {
        let said = refusal(start_with(&bench, words).await);
        assert!(
            said.starts_with("error: TCP port 179 on 0.0.0.0 is taken by nginx (process 7).\nhint: stop"),
            "{said}"
        );
    }
    assert!(bench.runtime.is_running(CONTAINER));
    assert!(!bench.runtime.calls().contains(&"prepare_kernel".to_owned()));
}

#[tokio::test]
async fn a_first_start_that_fails_leaves_no_container() {
    let bench = bench();
    *bench.runtime.script.lock().unwrap() = (vec!["!boom"], false);
    let words = refusal(start_with(&bench, "--log-dir=/srv/log").await);
    for part in ["it ended with code 1", "its last words: !boom", "/srv/log"] {
        assert!(words.contains(part), "{part}: {words}");
    }
    assert!(bench.runtime.all().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_service_that_says_nothing_is_given_up_in_the_end() {
    let bench = bench();
    *bench.runtime.script.lock().unwrap() = (vec!["node name: host-1"], true);
    let words = refusal(start_with(&bench, "").await);
    assert!(words.contains("within 180 s"), "{words}");
    assert!(bench.runtime.all().is_empty());
}

#[tokio::test]
async fn interrupted_while_waiting_it_undoes_what_it_did() {
    let bench = bench();
    bench.runtime.run_container(CONTAINER);
    *bench.runtime.script.lock().unwrap() = (vec!["node name: host-1"], true);
    let (interrupter, started) = (bench.interrupter, std::sync::atomic::AtomicBool::new(false));
    *bench.runtime.before.lock().unwrap() = Some(Box::new(move |operation| {
        if operation == "run" && !started.swap(true, std::sync::atomic::Ordering::SeqCst) {
            interrupter.interrupt();
        }
    }));
    let caller = caller(&[]);
    let failure = start(&bench.ctx, &args(""), &caller).await.unwrap_err();
    assert_eq!(failure.message(), "Aborted command.");
    assert_eq!(bench.runtime.all(), [("calico-node".to_owned(), "calico-node-id".to_owned())]);
    assert!(bench.runtime.is_running(CONTAINER));
}

#[tokio::test]
async fn a_replacement_that_was_cut_short_is_cleaned_up() {
    let bench = bench();
    bench.runtime.run_container(PREVIOUS);
    text(start_with(&bench, "").await);
    assert_eq!(bench.runtime.all(), [("calico-node".to_owned(), "new-id".to_owned())]);

    let bench = self::bench();
    bench.runtime.run_container(PREVIOUS);
    bench.runtime.run_container(CONTAINER);
    text(start_with(&bench, "").await);
    assert_eq!(bench.runtime.all(), [("calico-node".to_owned(), "new-id".to_owned())]);
}

#[tokio::test]
async fn a_service_outside_docker_is_not_doubled() {
    let bench = bench();
    *bench.runtime.outside.lock().unwrap() =
        Some(crate::health::Health { node: NODE.into(), ..crate::health::Health::default() });
    let words = refusal(start_with(&bench, "").await);
    assert!(words.contains("already runs on this host, outside Docker"), "{words}");
    assert!(bench.runtime.all().is_empty());
}

#[tokio::test]
async fn docker_datastore_and_kernel_are_checked_before_anything_is_done() {
    let bench = self::bench();
    bench.runtime.without_docker();
    assert!(refusal(start_with(&bench, "").await).contains("Is the docker daemon running?"));

    let bench = self::bench();
    bench.kv.set_down(true);
    bench.runtime.run_container(CONTAINER);
    assert!(refusal(start_with(&bench, "").await).contains("unreachable"));
    assert!(bench.runtime.is_running(CONTAINER));

    let bench = self::bench();
    bench.runtime.fail("prepare_kernel");
    assert!(refusal(start_with(&bench, "").await).contains("Could not enable ipv4 forwarding."));
    assert!(bench.runtime.all().is_empty());
}

#[tokio::test]
async fn in_the_foreground_the_service_ends_with_the_command() {
    let bench = bench();
    let interrupter = bench.interrupter;
    *bench.runtime.before.lock().unwrap() = Some(Box::new(move |operation| {
        // The last call before the service is attended: the removal of what was put aside.
        if operation == "remove" {
            interrupter.interrupt();
        }
    }));
    let caller = caller(&[]);
    assert_eq!(text(start(&bench.ctx, &args("--detach=false"), &caller).await), "Node stopped\n");
    assert!(!bench.runtime.is_running(CONTAINER));
}

#[tokio::test]
async fn without_a_runtime_the_datastore_is_prepared_and_the_command_is_told() {
    let bench = Bench::new();
    bench.runtime.without_docker();
    let variables = [("ETCD_ENDPOINTS", "http://10.0.0.1:2379"), ("NO_DEFAULT_POOLS", "true")];
    let output =
        start(&bench.ctx, &args("--runtime=none --ip6=fd00::5 --as=65001"), &caller(&variables)).await.unwrap();
    insta::assert_snapshot!("node_prepared", output.text);
    let request = bench.runtime.prepared.lock().unwrap().clone().unwrap();
    assert!(request.no_default_pools && request.ip6.is_some() && request.as_number.is_some());
    assert_eq!(request.name.as_deref(), Some(NODE));
    assert!(bench.said().iter().any(|line| line.contains("10.5.0.1/24 of eth0")));
}

#[tokio::test]
async fn logs_are_shown_only_when_they_matter() {
    let script = vec!["node name: host-1", "!felix starts", "Calico node started successfully"];
    for (words, goes_on, shown) in [("", true, false), ("--detach=false", false, true)] {
        let bench = bench();
        *bench.runtime.script.lock().unwrap() = (script.clone(), goes_on);
        let _ = start_with(&bench, words).await;
        let said = bench.said();
        assert_eq!(said.contains(&"note: !felix starts".to_owned()), shown, "{words}: {said:?}");
        assert!(said.contains(&"node name: host-1".to_owned()), "{words}");
    }
    let bench = bench();
    *bench.runtime.script.lock().unwrap() = (script[..2].to_vec(), false);
    refusal(start_with(&bench, "").await);
    assert!(bench.said().contains(&"note: !felix starts".to_owned()), "a start that fails");
}

#[tokio::test]
async fn without_etcd_the_service_keeps_the_datastore_and_nobody_looks_for_one() {
    let bench = bench();
    bench.kv.set_down(true);
    text(start(&bench.ctx, &args(""), &caller(&[])).await);
    let said = bench.said();
    let line = "no ETCD_ENDPOINTS: this host keeps the datastore, in /var/lib/calico/datastore; add hosts with \
                `calicoctl node invite`";
    assert_eq!(said.iter().filter(|said| said.as_str() == line).count(), 1, "{said:?}");
    let ran = bench.runtime.ran.lock().unwrap().clone().unwrap();
    assert!(ran.env.iter().all(|(name, _)| !name.contains("ETCD")), "{:?}", ran.env);
    for path in ["/var/lib/calico", "/var/run/calico", "/run/docker/plugins"] {
        assert!(ran.mounts.iter().any(|mount| mount.source == path && !mount.read_only), "{path}: {:?}", ran.mounts);
    }

    let output = start(&bench.ctx, &args("--runtime=none --ip=10.0.0.5"), &caller(&[])).await.unwrap();
    assert!(output.text.contains("IP=10.0.0.5 calico-node run") && !output.text.contains("ETCD"), "{}", output.text);
    assert!(bench.runtime.prepared.lock().unwrap().is_none(), "there is nothing to prepare yet");
}

#[tokio::test]
async fn docker_s_networks_are_served_unless_somebody_says_otherwise() {
    for (words, value, sees_docker) in
        [("", "auto", true), ("--libnetwork", "true", true), ("--no-libnetwork", "false", false)]
    {
        let bench = bench();
        text(start_with(&bench, words).await);
        let ran = bench.runtime.ran.lock().unwrap().clone().unwrap();
        assert!(ran.env.contains(&("CALICO_LIBNETWORK".into(), value.into())), "{words}: {:?}", ran.env);
        assert_eq!(ran.bare_mounts.iter().any(|mount| mount.source == "/run" && mount.read_only), sees_docker);
        assert_eq!(ran.env.iter().any(|(name, _)| name == "CALICO_DOCKER"), sees_docker, "{words}");
    }
}
