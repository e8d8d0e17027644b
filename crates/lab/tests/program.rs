//! The program `calico-lab` as a person uses it.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn calico_lab(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_calico-lab")).args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Removes the lab also when an assertion fails.
struct Removed<'a>(&'a str);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        calico_lab(&["down", self.0]);
    }
}

#[test]
fn a_lab_stays_until_it_is_taken_down() {
    let name = &format!("p{}", std::process::id() % 1_000_000);
    let up = calico_lab(&["up", "--name", name, "--hosts", "3", "--no-docker", "--tls"]);
    let _removed = Removed(name);
    assert!(up.status.success(), "{}", said(&up));
    assert!(said(&up).contains("host3    172.30.0.13    fd00:172:30::13"), "{}", said(&up));
    assert!(said(&up).contains("etcd     https://172.30.0.1:2379"), "{}", said(&up));

    let status = said(&calico_lab(&["status"]));
    assert!(status.contains(&format!("{name}: up\n")), "{status}");
    assert!(status.lines().filter(|line| line.contains("  up  ")).count() >= 4, "{status}");

    let exec = |words: &[&str]| calico_lab(&[&["exec", "--lab", name, "host2", "--"], words].concat());
    assert_eq!(said(&exec(&["hostname"])), "host2\n");
    assert_eq!(said(&exec(&["sh", "-c", "echo \"$ETCD_ENDPOINTS\" $0", "a b"])), "https://172.30.0.1:2379 a b\n");
    assert_eq!(exec(&["sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(exec(&["sh", "-c", "kill -9 $$"]).status.code(), Some(128 + 9), "as a shell reports a signal");
    let missing = exec(&["no-such-program"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(said(&missing).contains("run no-such-program on host2"), "{}", said(&missing));

    let again = calico_lab(&["up", "--name", name, "--no-docker"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(said(&again).contains("is up already") && said(&again).contains("hint:"), "{}", said(&again));
    assert_eq!(said(&exec(&["hostname"])), "host2\n", "and the first one is unharmed");

    let stranger = calico_lab(&["exec", "--lab", name, "host9", "--", "true"]);
    assert!(said(&stranger).contains("it has switch, host1, host2, host3"), "{}", said(&stranger));

    assert!(calico_lab(&["down", name]).status.success());
    let gone = calico_lab(&["down", name]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(said(&gone).contains(&format!("there is no lab `{name}`")), "{}", said(&gone));
    assert!(!said(&calico_lab(&["status"])).contains(name.as_str()));
}

#[test]
fn wrong_words_are_refused_before_anything_is_done() {
    for (words, complaint) in [
        (vec!["up", "--hosts", "0"], "not in 1..=40"),
        (vec!["up", "--name", "Bad Name"], "cannot be the name of a lab"),
        (vec!["down", "../x"], "there is no lab"),
        (vec!["down", "--all", "x"], "cannot be used with"),
        (vec!["exec", "host1"], "required"),
    ] {
        let output = calico_lab(&words);
        assert!(!output.status.success(), "{words:?}");
        assert!(said(&output).contains(complaint), "{words:?}: {}", said(&output));
    }
}
