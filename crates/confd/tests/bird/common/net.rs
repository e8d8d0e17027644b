//! Hosts for the end-to-end tests: network namespaces of the test's own, joined by a bridge in another one, each
//! with the agent under test and a real BIRD.
//!
//! A namespace lives as long as a `sleep` in it, which dies with the test, however that ends; so nothing of this can
//! be left behind. On a failed test each host prints what it has.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    future::Future,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use calico_confd::{
    Options, Problem, Report,
    bird::{Client, Session, Start, command_line},
};
use calico_store::MemoryKv;
use serde_json::{Value, json};

/// Waits for a condition, which is asked for every few milliseconds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, limit: Duration, mut holds: impl FnMut() -> F) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < limit, "after {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A process that ends with this value.
pub(crate) struct Process(Child);

impl Process {
    /// Starts a program that the kernel ends with the calling thread.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().expect("the program is installed"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A network namespace.
pub(crate) struct Namespace(Process);

impl Namespace {
    pub(crate) fn new() -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"]);
        let namespace = Self(Process::start(&mut command));
        let start = Instant::now();
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        while fs::read_link(namespace.path()).ok().is_none_or(|other| other == own) {
            assert!(start.elapsed() < Duration::from_secs(60), "no namespace; is this root?");
            std::thread::yield_now();
        }
        namespace.run("ip link set lo up");
        namespace
    }

    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.pid()).into()
    }

    fn pid(&self) -> u32 {
        self.0.0.id()
    }

    /// A command line, to be run inside.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "nsenter"]).arg(format!("--net={}", self.path().display())).arg(program);
        command
    }

    fn output(&self, line: &str) -> Output {
        let mut words = line.split_whitespace();
        let program = Path::new(words.next().unwrap());
        self.command(program).args(words).output().unwrap()
    }

    /// Runs a program inside and wants it to succeed.
    pub(crate) fn run(&self, line: &str) -> String {
        let output = self.output(line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// A bridge that hosts are plugged into.
pub(crate) struct Switch(Namespace);

impl Switch {
    pub(crate) fn new() -> Self {
        let namespace = Namespace::new();
        namespace.run("ip link add br0 type bridge");
        namespace.run("ip link set br0 up");
        Self(namespace)
    }

    /// Gives a namespace an `eth0` with the addresses 10.192.0.`last`/16 and fd00:192::`last`/64.
    pub(crate) fn plug(&self, host: &Namespace, last: u8) {
        self.0.run(&format!("ip link add p{last} type veth peer name eth0 netns {}", host.pid()));
        self.0.run(&format!("ip link set p{last} master br0 up"));
        host.run(&format!("ip addr add 10.192.0.{last}/16 dev eth0"));
        host.run(&format!("ip -6 addr add fd00:192::{last}/64 dev eth0 nodad"));
        host.run("ip link set eth0 up");
    }
}

/// What the agent reported.
#[derive(Default)]
pub(crate) struct Reports {
    pub(crate) ready: Mutex<Option<(bool, String)>>,
    pub(crate) problems: Mutex<Vec<Problem>>,
}

impl Reports {
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.lock().unwrap().as_ref().is_some_and(|(ready, _)| *ready)
    }

    pub(crate) fn reason(&self) -> String {
        self.ready.lock().unwrap().as_ref().map(|(_, reason)| reason.clone()).unwrap_or_default()
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        self.problems.lock().unwrap().iter().map(ToString::to_string).collect()
    }
}

impl Report for Reports {
    fn ready(&self, ready: bool, reason: &str) {
        *self.ready.lock().unwrap() = Some((ready, reason.to_owned()));
    }

    fn problems(&self, problems: &[Problem]) {
        *self.problems.lock().unwrap() = problems.to_vec();
    }
}

/// The agent under test, running in the test's process with files of its own.
pub(crate) struct Agent {
    pub(crate) options: Options,
    pub(crate) reports: Arc<Reports>,
    task: Option<tokio::task::JoinHandle<()>>,
    folder: tempfile::TempDir,
}

impl Agent {
    pub(crate) fn new(node: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let options = Options {
            node: node.to_owned(),
            config_path: at("config/bird.cfg"),
            socket_path: at("bird.ctl"),
            bird_binary: "bird".into(),
            template_override: at("bird.cfg.j2"),
            secrets_dir: at("secrets"),
        };
        Self { options, reports: Arc::default(), task: None, folder }
    }

    /// Starts it, or starts it anew as after a crash.
    pub(crate) fn start(&mut self, kv: &MemoryKv) {
        self.stop();
        let (options, kv, reports) = (self.options.clone(), Arc::new(kv.clone()), self.reports.clone());
        self.task = Some(tokio::spawn(async move {
            calico_confd::run(options, kv, std::future::pending(), &*reports).await.unwrap();
        }));
    }

    pub(crate) fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        *self.reports.ready.lock().unwrap() = None;
    }

    /// Writes a password as an operator should.
    pub(crate) fn put_secret(&self, name: &str, text: &str) {
        let path = self.options.secrets_dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// The configuration file, empty if there is none.
    pub(crate) fn text(&self) -> String {
        fs::read_to_string(&self.options.config_path).unwrap_or_default()
    }

    pub(crate) async fn until_text(&self, what: &str, holds: impl Fn(&str) -> bool) {
        until(what, Duration::from_secs(60), || async { holds(&self.text()) }).await;
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A host: a namespace, the agent, a BIRD.
pub(crate) struct Host {
    pub(crate) namespace: Namespace,
    pub(crate) agent: Agent,
    pub(crate) last: u8,
    bird: Option<Process>,
}

impl Host {
    /// Host number `last` on a switch, without agent and BIRD.
    pub(crate) fn new(switch: &Switch, last: u8) -> Self {
        let namespace = Namespace::new();
        switch.plug(&namespace, last);
        Self { namespace, agent: Agent::new(&name(last)), last, bird: None }
    }

    /// Starts BIRD as the supervisor does: once the file is there.
    pub(crate) async fn start_bird(&mut self, recover: bool) {
        self.agent.until_text("a configuration to start BIRD with", |text| !text.is_empty()).await;
        let options = &self.agent.options;
        let (program, arguments) = command_line(&Start {
            binary: options.bird_binary.clone(),
            config: options.config_path.clone(),
            socket: options.socket_path.clone(),
            recover,
        });
        let log = fs::File::options().create(true).append(true).open(self.log_path()).unwrap();
        self.bird = Some(Process::start(self.namespace.command(&program).args(arguments).stderr(log)));
    }

    /// Starts a BIRD with a configuration that the test wrote, for peers that are not ours.
    pub(crate) async fn start_foreign_bird(&mut self, text: &str) {
        fs::create_dir_all(self.agent.options.config_path.parent().unwrap()).unwrap();
        fs::write(&self.agent.options.config_path, text).unwrap();
        self.start_bird(false).await;
    }

    /// `kill -9`.
    pub(crate) fn kill_bird(&mut self) {
        self.bird = None;
    }

    fn log_path(&self) -> PathBuf {
        self.agent.folder.path().join("bird.log")
    }

    pub(crate) async fn sessions(&self) -> Vec<Session> {
        match Client::connect(&self.agent.options.socket_path).await {
            Ok(mut client) => client.sessions().await.unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }

    /// Waits until this many sessions are up.
    pub(crate) async fn until_established(&self, count: usize) {
        let what = format!("{count} sessions of {} are up", name(self.last));
        until(&what, Duration::from_secs(60), || async {
            self.sessions().await.iter().filter(|session| session.established).count() == count
        })
        .await;
    }

    /// BIRD's own routes, all tables, as it writes them.
    pub(crate) async fn table(&self) -> String {
        self.told("show route").await
    }

    /// BIRD's answer to a command, as lines.
    pub(crate) async fn told(&self, command: &str) -> String {
        let mut client = Client::connect(&self.agent.options.socket_path).await.unwrap();
        let reply = client.ask(command).await.unwrap();
        reply.lines.into_iter().map(|(_, line)| line + "\n").collect()
    }

    /// The kernel's routes of protocol `bird`, as `prefix via gateway metric number`, sorted.
    pub(crate) fn bird_routes(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for family in ["-4", "-6"] {
            let text = self.namespace.run(&format!("ip {family} -j route show proto bird"));
            let routes: Value = serde_json::from_str(&text).unwrap();
            for route in routes.as_array().into_iter().flatten() {
                let word = |key: &str| route[key].as_str().unwrap_or("-").to_owned();
                lines.push(format!(
                    "{} {} via {} metric {}",
                    word("type"),
                    word("dst"),
                    word("gateway"),
                    route["metric"]
                ));
            }
        }
        lines.sort();
        lines
    }

    /// True if the kernel sends packets for a prefix to another host, by a route of BIRD's.
    pub(crate) fn has_route(&self, prefix: &str, via: &str) -> bool {
        let family = if prefix.contains(':') { "-6" } else { "-4" };
        let text = self.namespace.run(&format!("ip {family} route show proto bird {prefix}"));
        text.contains(&format!("via {via} ")) && text.contains("metric 2048")
    }

    /// Makes an interface for workloads.
    pub(crate) fn add_workload_interface(&self) {
        self.namespace.run("ip link add cali0 type veth peer name inside0");
        self.namespace.run("ip link set cali0 up");
        self.namespace.run("ip link set inside0 up");
    }

    /// Routes an address to the workload interface, as felix does.
    pub(crate) fn workload(&self, verb: &str, address: &str) {
        let family = if address.contains(':') { "-6" } else { "-4" };
        self.namespace.run(&format!("ip {family} route {verb} {address} dev cali0 proto 80"));
    }

    /// Starts to record the changes of the kernel's routes.
    pub(crate) fn monitor(&self) -> Monitor {
        let path = self.agent.folder.path().join("monitor");
        let file = fs::File::create(&path).unwrap();
        let mut command = self.namespace.command(Path::new("ip"));
        let monitor = Monitor { path, _process: Process::start(command.args(["monitor", "route"]).stdout(file)) };
        // It is on the air once it shows a change of ours; each try is another route, since a repetition is no change.
        let mark = format!("blackhole 203.0.113.{}", self.last);
        let mut metric = 77;
        while !monitor.lines().iter().any(|line| line.contains(&mark)) {
            metric += 1;
            assert!(metric < 2000, "`ip monitor route` shows nothing");
            self.namespace.run(&format!("ip route add {mark} metric {metric}"));
        }
        monitor
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "==== {}: reported {:?} {:?}",
                name(self.last),
                self.agent.reports.reason(),
                self.agent.reports.problems()
            );
            for line in ["ip -4 route", "ip -6 route", "ip -br addr"] {
                eprintln!("---- {line}\n{}", String::from_utf8_lossy(&self.namespace.output(line).stdout));
            }
            let log = fs::read_to_string(self.log_path()).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("---- bird.log, last lines first\n{}", tail.join("\n"));
        }
    }
}

/// A running record of route changes.
pub(crate) struct Monitor {
    path: PathBuf,
    _process: Process,
}

impl Monitor {
    pub(crate) fn lines(&self) -> Vec<String> {
        fs::read_to_string(&self.path).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// The changes of BIRD's routes that took one away.
    pub(crate) fn deletions(&self) -> Vec<String> {
        self.lines().into_iter().filter(|line| line.starts_with("Deleted") && line.contains("bird")).collect()
    }
}

/// The name of host number `last`.
pub(crate) fn name(last: u8) -> String {
    format!("host{last}")
}

fn put(kv: &MemoryKv, plural: &str, kind: &str, name: &str, spec: Value) {
    let value = json!({"kind": kind, "apiVersion": "projectcalico.org/v3", "metadata": {"name": name}, "spec": spec});
    kv.put(&format!("/calico/resources/v3/projectcalico.org/{plural}/{name}"), value.to_string());
}

/// Writes the record of host number `last`, as its start-up does.
pub(crate) fn put_node(kv: &MemoryKv, last: u8) {
    put(kv, "nodes", "Node", &name(last), json!({"bgp": identity(last)}));
}

/// The same in an AS of its own.
pub(crate) fn put_node_in_as(kv: &MemoryKv, last: u8, number: u32) {
    let mut bgp = identity(last);
    bgp["asNumber"] = json!(number);
    put(kv, "nodes", "Node", &name(last), json!({"bgp": bgp}));
}

/// The same for a route reflector, which has the label `rr`.
pub(crate) fn put_reflector(kv: &MemoryKv, last: u8, cluster_id: &str) {
    let mut bgp = identity(last);
    bgp["routeReflectorClusterID"] = json!(cluster_id);
    let value = json!({"kind": "Node", "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": name(last), "labels": {"rr": "yes"}}, "spec": {"bgp": bgp}});
    kv.put(&format!("/calico/resources/v3/projectcalico.org/nodes/{}", name(last)), value.to_string());
}

fn identity(last: u8) -> Value {
    json!({"ipv4Address": format!("10.192.0.{last}/16"), "ipv6Address": format!("fd00:192::{last}/64")})
}

pub(crate) fn put_pool(kv: &MemoryKv, name: &str, spec: Value) {
    put(kv, "ippools", "IPPool", name, spec);
}

pub(crate) fn put_peer(kv: &MemoryKv, name: &str, spec: Value) {
    put(kv, "bgppeers", "BGPPeer", name, spec);
}

pub(crate) fn put_filter(kv: &MemoryKv, name: &str, spec: Value) {
    put(kv, "bgpfilters", "BGPFilter", name, spec);
}

pub(crate) fn put_settings(kv: &MemoryKv, spec: Value) {
    put(kv, "bgpconfigurations", "BGPConfiguration", "default", spec);
}

/// Settings of host number `last` alone.
pub(crate) fn put_host_settings(kv: &MemoryKv, last: u8, spec: Value) {
    put(kv, "bgpconfigurations", "BGPConfiguration", &format!("node.{}", name(last)), spec);
}

/// Gives host number `last` a block, as IPAM does.
pub(crate) fn put_block(kv: &MemoryKv, last: u8, block: &str) {
    let family = if block.contains(':') { "ipv6" } else { "ipv4" };
    let key = format!("/calico/ipam/v2/host/{}/{family}/block/{}", name(last), block.replace('/', "-"));
    kv.put(&key, r#"{"state":"confirmed","deleted":false}"#);
}

const POOLS: [(&str, &str); 2] = [("p4", "10.244.0.0/16"), ("p6", "fd00:244::/48")];

pub(crate) fn block4(last: u8) -> String {
    format!("10.244.{last}.0/26")
}

pub(crate) fn block6(last: u8) -> String {
    format!("fd00:244:0:{last}::/122")
}

pub(crate) fn address4(last: u8) -> String {
    format!("10.192.0.{last}")
}

pub(crate) fn address6(last: u8) -> String {
    format!("fd00:192::{last}")
}

/// A datastore with pools and with these hosts and their blocks.
pub(crate) fn cluster(hosts: &[u8]) -> MemoryKv {
    let kv = MemoryKv::new();
    for (name, cidr) in POOLS {
        put_pool(&kv, name, json!({"cidr": cidr}));
    }
    for last in hosts {
        join(&kv, *last);
    }
    kv
}

pub(crate) fn join(kv: &MemoryKv, last: u8) {
    put_node(kv, last);
    put_block(kv, last, &block4(last));
    put_block(kv, last, &block6(last));
}

pub(crate) async fn start(switch: &Switch, kv: &MemoryKv, last: u8) -> Host {
    let mut host = Host::new(switch, last);
    host.add_workload_interface();
    host.agent.start(kv);
    host.start_bird(false).await;
    host
}

/// Waits until `host` routes the blocks of `other` to it.
pub(crate) async fn until_blocks(host: &Host, other: u8) {
    let what = format!("host{} routes the blocks of host{other}", host.last);
    until(&what, Duration::from_secs(60), || async {
        host.has_route(&block4(other), &address4(other)) && host.has_route(&block6(other), &address6(other))
    })
    .await;
}
