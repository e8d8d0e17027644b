//! What the end-to-end tests share: a cluster of lab hosts with calico-node running, containers, the ping matrix.
//!
//! A test reads as what a person does: commands word for word, then who can talk to whom. Nothing sleeps: conditions
//! are waited for, and "never" is a stream of pings that stays unanswered. When a test fails the lab writes down what
//! can be seen of its hosts.
//!
//! For tests only: helpers panic with the whole story.

#![allow(clippy::missing_panics_doc, reason = "every helper panics when the product does not do what the test says")]
#![allow(clippy::unwrap_used, reason = "a test's helper: the panic is the report")]

pub mod debian;
pub mod readme;
pub mod refused;
pub mod trio;
pub mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    thread,
    time::Duration,
};

use calico_lab::{Host, Lab, LabOptions, reaches, wait_for, wait_until};

/// How long an allowed pair may take until its first answer.
pub const SOON: Duration = Duration::from_secs(40);
/// How long a denied pair is tried.
pub const A_WHILE: Duration = Duration::from_millis(600);

/// A lab in which every host is a node.
pub struct Cluster {
    /// The hosts.
    pub lab: Lab,
}

impl Cluster {
    /// Hosts with Docker and etcd; `calicoctl node` with these arguments ran on each. `{ip6}` is the host's address.
    pub fn up(hosts: usize, node_arguments: &str) -> Self {
        let lab = Lab::up(&LabOptions::hosts(hosts).with_node_image()).unwrap_or_else(|error| panic!("{error}"));
        let cluster = Self { lab };
        thread::scope(|scope| {
            for host in cluster.lab.hosts() {
                scope.spawn(|| start_node(host, node_arguments));
            }
        });
        cluster
    }

    /// Starts a container without a network: `docker run --net=none --name=NAME -tid ubuntu`.
    pub fn run(&self, host: usize, name: &'static str) -> Workload<'_> {
        let host = self.lab.host(host);
        host.ok(&format!("docker run --net=none --name={name} -tid ubuntu"));
        Workload { host, name, addresses: Vec::new() }
    }

    /// Starts a container and adds it to the network with an address of its own choice.
    pub fn add(&self, host: usize, name: &'static str) -> Workload<'_> {
        let mut workload = self.run(host, name);
        workload.add("");
        workload
    }

    /// All keys below `/calico/` with values, to compare before and after.
    pub fn datastore(&self) -> BTreeMap<String, String> {
        let etcd = self.lab.etcd();
        let keys = etcd.keys("/calico/").unwrap();
        keys.into_iter().map(|key| (key.clone(), etcd.get(&key).unwrap().unwrap_or_default())).collect()
    }

    /// Waits until every host has a BGP session with every other.
    pub fn wait_for_mesh(&self) {
        for host in self.lab.hosts() {
            for other in self.lab.hosts().iter().filter(|other| other.name() != host.name()) {
                let peer = other.ipv4().to_string();
                wait_for(SOON, &format!("the session of {} with {}", host.name(), other.name()), || {
                    let status = host.run("calicoctl status").text();
                    let up = status.lines().any(|line| line.contains(&peer) && line.contains("Established"));
                    if up { Ok(()) } else { Err(status) }
                })
                .unwrap_or_else(|error| panic!("{error}"));
            }
        }
    }
}

/// Makes a host a node and checks that it says so.
pub fn start_node(host: &Host, arguments: &str) {
    let arguments = arguments.replace("{ip6}", &host.ipv6().to_string());
    let said = host.run(&format!("calicoctl node {arguments}"));
    assert!(said.success(), "calicoctl node failed on {}:\n{}", host.name(), said.text());
    assert!(said.text().contains("Calico node started successfully"), "{}", said.text());
}

/// A container and its addresses.
pub struct Workload<'a> {
    /// Where it runs.
    pub host: &'a Host,
    /// Its name.
    pub name: &'static str,
    /// Its addresses, in the order in which they were given.
    pub addresses: Vec<IpAddr>,
}

impl Workload<'_> {
    /// `calicoctl container add NAME ARGUMENTS`; takes note of the addresses.
    pub fn add(&mut self, arguments: &str) {
        let said = self.host.ok(&format!("calicoctl container add {} {arguments}", self.name));
        self.take_note(&said);
    }

    /// `calicoctl container NAME WORDS`.
    pub fn calicoctl(&self, words: &str) -> String {
        self.host.ok(&format!("calicoctl container {} {words}", self.name))
    }

    /// `calicoctl container NAME ip add ADDRESS`; takes note of the address.
    pub fn ip_add(&mut self, address: &str) -> IpAddr {
        let said = self.calicoctl(&format!("ip add {address}"));
        self.take_note(&said);
        *self.addresses.last().unwrap()
    }

    fn take_note(&mut self, said: &str) {
        let words: Vec<&str> = said.split_whitespace().collect();
        let added = words.windows(3).filter(|words| words[0] == "IP" && words[2] == "added");
        let addresses: Vec<IpAddr> = added.map(|words| words[1].parse().unwrap()).collect();
        assert!(!addresses.is_empty(), "no `IP … added` in:\n{said}");
        self.addresses.extend(addresses);
    }

    /// Its first address.
    pub fn ip(&self) -> IpAddr {
        *self.addresses.first().unwrap()
    }

    /// Whether it gets an answer from `destination` within `limit`.
    pub fn reaches(&self, destination: IpAddr, limit: Duration) -> bool {
        reaches(self.host, self.name, destination, limit).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// Asserts that exactly the `allowed` ordered pairs talk, on every address of a family that both have; all the others
/// do not. Pairs are tried at the same time.
#[track_caller]
pub fn assert_matrix(workloads: &[&Workload<'_>], allowed: &[(&str, &str)]) {
    let wrong = wrong_pairs(workloads, allowed);
    assert!(wrong.is_empty(), "wrong: {}", wrong.join("; "));
}

/// As [`assert_matrix`], right after a change that closes something: what was open until then may still get an answer
/// for a moment.
#[track_caller]
pub fn assert_closes_to(workloads: &[&Workload<'_>], allowed: &[(&str, &str)]) {
    wait_for(SOON, "the right pairs, and no others, to talk", || {
        let wrong = wrong_pairs(workloads, allowed);
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
}

fn wrong_pairs(workloads: &[&Workload<'_>], allowed: &[(&str, &str)]) -> Vec<String> {
    let allowed: BTreeSet<(&str, &str)> = allowed.iter().copied().collect();
    thread::scope(|scope| {
        let mut tries = Vec::new();
        for from in workloads {
            for to in workloads.iter().filter(|to| to.name != from.name) {
                let families: BTreeSet<bool> = from.addresses.iter().map(IpAddr::is_ipv4).collect();
                for address in to.addresses.iter().filter(|address| families.contains(&address.is_ipv4())) {
                    let expected = allowed.contains(&(from.name, to.name));
                    let limit = if expected { SOON } else { A_WHILE };
                    tries.push(scope.spawn(move || {
                        let answered = from.reaches(*address, limit);
                        let word = if answered { "reaches" } else { "does not reach" };
                        (answered != expected).then(|| format!("{} {word} {} at {address}", from.name, to.name))
                    }));
                }
            }
        }
        tries.into_iter().filter_map(|attempt| attempt.join().unwrap()).collect()
    })
}

/// Waits for something of a host.
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    wait_until(SOON, what, condition).unwrap_or_else(|error| panic!("{error}"));
}

/// Waits until Docker finds our plugin on a host.
#[track_caller]
pub fn until_plugin_is_served(host: &Host) {
    eventually("Docker's plugin to be served", || host.run("test -S /run/docker/plugins/calico.sock").success());
}
