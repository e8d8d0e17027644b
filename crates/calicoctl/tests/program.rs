//! The program itself: streams and exit codes, as a shell sees them.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

/// Runs calicoctl without the caller's environment, against a datastore that is not there.
fn calicoctl(words: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_calicoctl"));
    command.env_clear().args(words.split_whitespace());
    // Nothing listens on port 1 (tcpmux), neither a datastore nor a service's health.
    command.envs([("ETCD_ENDPOINTS", "http://127.0.0.1:1"), ("CALICO_HEALTH_PORT", "1"), ("HOSTNAME", "host-1")]);
    command.envs([("DOCKER_HOST", "unix:///nonexistent/docker.sock")]);
    command.envs(variables.iter().copied()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Exit code, stdout, stderr.
fn parts(output: &Output) -> (i32, String, String) {
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn help_goes_to_stdout_with_0_and_usage_errors_to_stderr_with_2() {
    for words in ["", "--help", "help", "container --help", "container C ip add --help", "node --help"] {
        let (code, stdout, stderr) = parts(&calicoctl(words, &[]));
        assert!(code == 0 && stdout.contains("Usage:") && stderr.is_empty(), "{words:?}: {code} {stderr}");
    }
    for words in ["frob", "container", "container C", "profile add", "node --no-such-option", "endpoint show x"] {
        let (code, stdout, stderr) = parts(&calicoctl(words, &[]));
        assert!(code == 2 && stdout.is_empty() && stderr.contains("Usage:"), "{words:?}: {code} {stdout} {stderr}");
    }
}

#[test]
fn bad_settings_break_neither_version_nor_help_nor_completion() {
    let bad = [("ETCD_ENDPOINTS", "ftp://nowhere"), ("CALICO_HEALTH_PORT", "x")];
    for (words, expected) in [
        ("version --client", env!("CARGO_PKG_VERSION")),
        ("version --client -o json", "\"version\""),
        ("__complete fish -- cont", "container"),
        ("profile --help", "Usage:"),
        ("completion bash", "complete -F _calicoctl calicoctl"),
        ("completion zsh", "#compdef calicoctl"),
        ("completion fish", "complete -c calicoctl"),
    ] {
        let (code, stdout, stderr) = parts(&calicoctl(words, &bad));
        assert!(code == 0 && stdout.contains(expected) && stderr.is_empty(), "{words}: {code} {stderr}");
    }
    let (code, stdout, stderr) = parts(&calicoctl("version", &bad));
    assert!(code == 0 && stdout.starts_with("Client Version:") && stderr.contains("ETCD_ENDPOINTS"), "{stderr}");
    let (code, stdout, stderr) = parts(&calicoctl("profile show", &bad));
    assert!(code == 1 && stdout.is_empty() && stderr.starts_with("error: ETCD_ENDPOINTS"), "{stderr}");
    let (code, _, stderr) = parts(&calicoctl("profile show", &[("CALICO_HEALTH_PORT", "x")]));
    assert!(code == 1 && stderr.contains("CALICO_HEALTH_PORT"), "{stderr}");
}

#[test]
fn a_dead_datastore_is_said_clearly() {
    let (code, stdout, stderr) = parts(&calicoctl("profile show", &[]));
    assert!(code == 1 && stdout.is_empty(), "{code} {stdout}");
    assert!(stderr.contains("127.0.0.1:1") && stderr.contains("unreachable"), "{stderr}");
    assert!(stderr.contains("hint: make sure that etcd runs"), "{stderr}");
}

#[test]
fn the_datastores_settings_come_from_a_file_or_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("calicoctl.cfg");
    let head = "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nmetadata:\nspec:\n";
    std::fs::write(&file, format!("{head}  datastoreType: etcdv3\n  etcdEndpoints: http://127.0.0.1:2\n")).unwrap();
    let words = format!("get nodes -c {}", file.display());
    let (code, _, stderr) = parts(&calicoctl(&words, &[]));
    assert!(code == 1 && stderr.contains("http://127.0.0.1:2 is unreachable"), "{stderr}");
    let (code, _, stderr) = parts(&calicoctl("get nodes -c /nonexistent.cfg", &[]));
    assert!(code == 1 && stderr.contains("Error reading config file: /nonexistent.cfg"), "{stderr}");
    for words in ["get nodes", "--context there get nodes", "profile show", "node show"] {
        let kubernetes = [("DATASTORE_TYPE", "kubernetes")];
        let (code, _, stderr) = parts(&calicoctl(words, &kubernetes));
        assert!(code == 1 && stderr.contains("etcd"), "{words}: {stderr}");
    }
    let (code, _, stderr) = parts(&calicoctl("get nodes", &[("DATASTORE_TYPE", "etcdv3")]));
    assert!(code == 1 && stderr.contains("http://127.0.0.1:1 is unreachable"), "{stderr}");
    let (code, _, stderr) = parts(&calicoctl("get nodes --log-level loud", &[]));
    assert!(code == 1 && stderr.contains("Unknown log level: loud"), "{stderr}");
}

#[test]
fn validating_needs_no_datastore() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pool.yaml");
    let text = |cidr: &str| {
        format!("apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: p}}\nspec: {{cidr: {cidr}}}\n")
    };
    std::fs::write(&file, text("10.0.0.0/16")).unwrap();
    let words = format!("validate -f {}", file.display());
    let bad_settings = [("ETCD_ENDPOINTS", "ftp://nowhere")];
    let (code, stdout, stderr) = parts(&calicoctl(&words, &bad_settings));
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "Successfully validated 1 'IPPool' resource(s)\n", ""));
    std::fs::write(&file, text("10.0.0.1/16")).unwrap();
    let (code, stdout, stderr) = parts(&calicoctl(&words, &bad_settings));
    assert!(code == 1 && stdout.is_empty() && stderr.contains("IPPool p: spec.cidr"), "{stderr}");
    for words in ["create", "apply", "replace", "validate", "get", "delete", "get nodes -f x", "label nodes h"] {
        let (code, stdout, stderr) = parts(&calicoctl(words, &[]));
        assert!(code == 2 && stdout.is_empty() && stderr.contains("Usage:"), "{words}: {code} {stderr}");
    }
}

#[test]
fn a_missing_certificate_is_named() {
    let variables = [("ETCD_ENDPOINTS", "https://127.0.0.1:1"), ("ETCD_CA_CERT_FILE", "/nonexistent/ca.pem")];
    let (code, _, stderr) = parts(&calicoctl("node show", &variables));
    assert!(code == 1 && stderr.contains("ETCD_CA_CERT_FILE") && stderr.contains("/nonexistent/ca.pem"), "{stderr}");
}

#[test]
fn arguments_are_checked_before_anything_else() {
    let (code, _, stderr) = parts(&calicoctl("container add C 300.1.1.1", &[]));
    assert!(code == 1 && stderr.contains("Invalid IP address specified."), "{stderr}");
    let (code, _, stderr) = parts(&calicoctl("node --ip=x --as=y", &[]));
    assert!(code == 1 && stderr.contains("Invalid IPv4") && stderr.contains("Invalid AS Number"), "{stderr}");
    let (code, _, stderr) = parts(&calicoctl("profile P rule add inbound allow icmp to ports 80", &[]));
    assert!(
        code == 2 && stderr.contains("\n    allow icmp to ports 80\n                  ^^^^^^^^\nhint: "),
        "{stderr}"
    );
    let (code, _, stderr) = parts(&calicoctl("profile P rule add inbound --at=1 allow icmp type 255", &[]));
    assert!(code == 1 && stderr.contains("\n    allow icmp type 255\n                    ^^^\n"), "{stderr}");
    let (code, _, stderr) = parts(&calicoctl("pool add 10.0.0.0/16 10.0.1.0/24 --nat-outgoing", &[]));
    assert!(code == 1 && stderr.contains("10.0.1.0/24 - pool overlaps with another new pool 10.0.0.0/16"), "{stderr}");
    let (code, _, stderr) = parts(&calicoctl("container C profile set b@d", &[]));
    assert!(code == 1 && stderr.contains("is not valid"), "{stderr}");
}

#[test]
fn without_docker_nothing_runs_and_status_ends_with_1() {
    let (code, stdout, stderr) = parts(&calicoctl("status", &[]));
    assert!(code == 1 && stdout.starts_with("calico-node container not running\n"), "{stdout} {stderr}");
    let (code, stdout, _) = parts(&calicoctl("status -o json", &[]));
    let data: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert!(code == 1 && data["runs"].is_null(), "{stdout}");
}

#[test]
fn a_reader_that_has_had_enough_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_calicoctl"))
        .args(["completion", "bash"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
}

#[test]
fn ctrl_c_ends_a_waiting_command_with_a_word() {
    // A datastore that accepts and never answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let child = Command::new(env!("CARGO_BIN_EXE_calicoctl"))
        .args(["profile", "show"])
        .envs([("ETCD_ENDPOINTS", endpoint.as_str()), ("HOSTNAME", "host-1")])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The connection is made after the signal's handler.
    let _connection = listener.accept().unwrap();
    let pid = rustix::process::Pid::from_raw(child.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let (code, stdout, stderr) = parts(&child.wait_with_output().unwrap());
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (1, "", "error: Aborted command.\n"));
}

#[test]
fn this_machine_has_what_a_node_needs_also_without_docker_and_datastore() {
    let nowhere = [("DOCKER_HOST", "unix:///nonexistent/docker.sock"), ("CALICO_HEALTH_PORT", "1")];
    for words in ["checksystem", "node checksystem"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_calicoctl"));
        let path = std::env::var("PATH").unwrap();
        command.env_clear().env("PATH", path).envs(nowhere).args(words.split(' '));
        let (code, stdout, stderr) = parts(&command.output().unwrap());
        assert!(code == 0 && stdout.contains("Needed for") && stdout.contains("veth"), "{code} {stdout} {stderr}");
    }
    let (code, stdout, stderr) = parts(&calicoctl("checksystem --runtime=none -o json", &[]));
    let rows: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let datastore = rows.as_array().unwrap().iter().find(|row| row["item"] == "datastore").unwrap();
    assert_eq!((datastore["state"].as_str(), datastore["required"].as_bool()), (Some("missing"), Some(true)));
    assert!(code == 1 && stderr.contains("lacks what a node needs: datastore"), "{code} {stderr}");
}

#[test]
fn diagnostics_are_one_private_archive_whatever_is_missing() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.tar.gz");
    for words in [format!("diags --output={}", path.display()), format!("node diags --output {}", path.display())] {
        let (code, stdout, stderr) = parts(&calicoctl(&words, &[("ETCD_ENDPOINTS", "ftp://nowhere")]));
        assert!(code == 0 && stdout.contains(".tar.gz") && stderr.contains("Collecting"), "{code} {stdout} {stderr}");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::remove_file(&path).unwrap();
    }
}
