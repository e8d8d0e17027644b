//! Completion in the shells themselves: the script is sourced, TAB is pressed (or what the shell calls then), and
//! what is offered is read.

#![allow(clippy::unwrap_used)]

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

/// A folder with `calicoctl` in it and the script for a shell.
fn prepared(shell: &str, script: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_calicoctl");
    std::os::unix::fs::symlink(program, dir.path().join("calicoctl")).unwrap();
    let said = Command::new(program).args(["completion", shell]).output().unwrap();
    assert!(said.status.success());
    std::fs::write(dir.path().join(script), said.stdout).unwrap();
    std::fs::write(dir.path().join("policy.yaml"), "").unwrap();
    std::fs::create_dir(dir.path().join("pages")).unwrap();
    dir
}

/// Runs a shell in the folder, where nothing answers: neither datastore nor Docker.
fn run(shell: &str, arguments: &[&str], dir: &Path) -> String {
    let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
    let Output { status, stdout, stderr } = Command::new(shell)
        .args(arguments)
        .current_dir(dir)
        .env_clear()
        .envs([("PATH", path.as_str()), ("HOME", dir.to_str().unwrap()), ("TERM", "dumb"), ("HOSTNAME", "host-1")])
        .envs([("ETCD_ENDPOINTS", "http://127.0.0.1:1"), ("CALICO_HEALTH_PORT", "1")])
        .envs([("DOCKER_HOST", "unix:///nonexistent/docker.sock"), ("LC_ALL", "C.UTF-8")])
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{shell} cannot be run ({error}): scripts/setup installs it"));
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success() && stderr.is_empty(), "{shell}: {status} {stdout} {stderr}");
    stdout.into_owned()
}

/// Lines as people type them, with what must and must not be offered behind them.
const LINES: &[(&str, &[&str], &str)] = &[
    ("calicoctl contai", &["container"], "profile"),
    ("calicoctl container web ", &["ip", "profile"], "add"),
    ("calicoctl container web ip ", &["add", "remove"], "profile"),
    ("calicoctl node remove --rem", &["--remove-endpoints"], "--hostname"),
    ("calicoctl status -o ", &["json", "yaml"], "container"),
    ("calicoctl apply -f pol", &["policy.yaml"], "pages"),
    ("calicoctl man pa", &["pages"], "policy.yaml"),
];

fn check(offered: impl Fn(&str) -> Vec<String>) {
    for (line, expected, other) in LINES {
        let found = offered(line);
        let has = |word: &str| found.iter().any(|found| found.trim_end_matches('/') == word);
        for word in *expected {
            assert!(has(word), "{line:?} does not offer {word}: {found:?}");
        }
        assert!(!has(other), "{line:?} offers {other}: {found:?}");
    }
}

#[test]
fn bash() {
    let dir = prepared("bash", "calicoctl.bash");
    let offered = |line: &str| {
        // What bash does when TAB is pressed: the words of the line, the number of the last, the function's arguments.
        let script = format!(
            "source ./calicoctl.bash
             COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; read -r -a COMP_WORDS <<<\"$COMP_LINE\"
             [[ $COMP_LINE != *' ' ]] || COMP_WORDS+=('')
             COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
             complete -p calicoctl >/dev/null
             _calicoctl calicoctl \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        run("bash", &["--norc", "-c", &script], dir.path()).lines().map(str::to_owned).collect()
    };
    check(offered);
    assert_eq!(offered("calicoctl status --output=j"), ["json"], "bash replaces what follows the sign");
}

#[test]
fn fish() {
    let dir = prepared("fish", "calicoctl.fish");
    check(|line| {
        let script = format!("source ./calicoctl.fish; complete -C '{line}'");
        let said = run("fish", &["--no-config", "-c", &script], dir.path());
        said.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect()
    });
}

#[test]
fn zsh() {
    let dir = prepared("zsh", "_calicoctl");
    run("zsh", &["-f", "-n", "./_calicoctl"], dir.path());
    // zsh completes only in its line editor. What that hands to the function is set by hand, and the functions of its
    // completion system print what they would offer.
    let offered = |line: &str| {
        let script = format!(
            "compdef() {{ : }}
             _describe() {{ print -rl -- ${{found%%:*}} }}
             _files() {{ if [[ $1 == -/ ]]; then print -rl -- $PREFIX*(N/); else print -rl -- $PREFIX*(N.); fi }}
             source ./_calicoctl
             line='{line}'; words=(${{=line}}); [[ $line != *' ' ]] || words+=('')
             CURRENT=$#words PREFIX=$words[-1]
             _calicoctl || true"
        );
        run("zsh", &["-f", "-c", &script], dir.path()).lines().map(str::to_owned).collect()
    };
    check(offered);
}
