//! Routers that nobody here wrote: FRR's `bgpd` and GoBGP, each in a network namespace of its own.
//!
//! They end with the test, as everything in the module `net`. FRR runs without its other daemons, in a mount namespace
//! with a temporary folder of its own, so that a killed one leaves nothing behind on the machine.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, process::Command, time::Duration};

use serde_json::Value;

use super::net::{Namespace, Process, Switch, until};

/// FRR's BGP daemon, of the Debian package `frr`.
const FRR: &str = "/usr/lib/frr/bgpd";

/// A running router.
pub(crate) struct Router {
    pub(crate) namespace: Namespace,
    folder: tempfile::TempDir,
    process: Option<Process>,
    program: &'static str,
}

impl Router {
    /// A router's host: number `last` on a switch, with more addresses on its loopback.
    fn new(switch: &Switch, last: u8, loopback: &[&str], program: &'static str) -> Self {
        let namespace = Namespace::new();
        switch.plug(&namespace, last);
        for address in loopback {
            namespace.run(&format!("ip addr add {address} dev lo"));
        }
        Self { namespace, folder: tempfile::tempdir().unwrap(), process: None, program }
    }

    /// FRR with this configuration.
    pub(crate) async fn frr(switch: &Switch, last: u8, config: &str) -> Self {
        let mut router = Self::new(switch, last, &[], FRR);
        let folder = router.folder.path().display().to_string();
        fs::write(router.at("bgpd.conf"), config).unwrap();
        let line = format!(
            "mount -t tmpfs none /var/tmp && exec {FRR} -Z -n -S -f {folder}/bgpd.conf -i {folder}/bgpd.pid \
             --vty_socket {folder} -A 127.0.0.1 -P 0 --log stdout"
        );
        router.start(Path::new("unshare"), &["--mount", "sh", "-c", &line]);
        until("FRR answers (package frr)", Duration::from_secs(60), || async {
            router.vtysh("show bgp summary json").is_some()
        })
        .await;
        router
    }

    /// GoBGP with this configuration.
    pub(crate) async fn gobgp(switch: &Switch, last: u8, loopback: &[&str], config: &str) -> Self {
        let mut router = Self::new(switch, last, loopback, "gobgpd");
        fs::write(router.at("gobgp.toml"), config).unwrap();
        let (config, api) = (router.path("gobgp.toml"), router.api());
        let arguments = ["-f", &config, "-p", "--pprof-disable", "--api-hosts", &api];
        router.start(Path::new("gobgpd"), &arguments);
        until("GoBGP answers (package gobgpd)", Duration::from_secs(60), || async {
            router.gobgp_try("neighbor -j").is_some()
        })
        .await;
        router
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn path(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    fn api(&self) -> String {
        format!("unix://{}", self.path("api.sock"))
    }

    fn start(&mut self, program: &Path, arguments: &[&str]) {
        let log = fs::File::create(self.at("log")).unwrap();
        let mut command = self.namespace.command(program);
        command.args(arguments).stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(Process::start(&mut command));
    }

    /// FRR's answer to a command that answers in JSON; `None` if it does not.
    pub(crate) fn vtysh(&self, command: &str) -> Option<Value> {
        let mut shell = Command::new("vtysh");
        shell.arg("--vty_socket").arg(self.folder.path()).args(["-c", command]);
        let output = shell.output().expect("FRR is installed (frr)");
        serde_json::from_slice(&output.stdout).ok()
    }

    /// FRR's best path of a prefix, `null` without one.
    pub(crate) fn frr_path(&self, family: &str, prefix: &str) -> Value {
        let answer = self.vtysh(&format!("show bgp {family} unicast {prefix} json")).unwrap_or_default();
        answer["paths"][0].clone()
    }

    /// Tells GoBGP something and wants it to succeed.
    pub(crate) fn gobgp_run(&self, line: &str) -> String {
        self.gobgp_try(line).unwrap_or_else(|| panic!("gobgp {line}"))
    }

    fn gobgp_try(&self, line: &str) -> Option<String> {
        let mut client = Command::new("gobgp");
        client.arg("--target").arg(self.api()).args(line.split_whitespace());
        let output = client.output().expect("GoBGP is installed (gobgpd)");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// GoBGP's paths of a family by prefix: the attributes of the best one.
    pub(crate) fn gobgp_paths(&self, family: &str) -> std::collections::BTreeMap<String, Value> {
        let table: Value = serde_json::from_str(&self.gobgp_run(&format!("global rib -a {family} -j"))).unwrap();
        let paths = table.as_object().cloned().unwrap_or_default();
        paths.into_iter().map(|(prefix, paths)| (prefix, paths[0]["attrs"].clone())).collect()
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.at("log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("==== {}, last lines first\n{}", self.program, tail.join("\n"));
            if self.program == FRR {
                eprintln!("{:#}", self.vtysh("show bgp summary json").unwrap_or_default());
            } else {
                eprintln!("{}", self.gobgp_try("neighbor").unwrap_or_default());
            }
        }
    }
}

/// The value of an attribute in GoBGP's list, by its number in BGP; `null` without it.
pub(crate) fn attribute(attributes: &Value, number: u64) -> Value {
    let all = attributes.as_array().into_iter().flatten();
    all.into_iter().find(|attribute| attribute["type"] == number).cloned().unwrap_or_default()
}
