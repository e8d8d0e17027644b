//! The service straight on a host, without Docker: what it says to systemd, its logs, its health and why it is not
//! well, a process that dies again and again, the limits that its unit sets.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::Path,
    time::Duration,
};

use calico_e2e::{SOON, eventually};
use calico_lab::{Host, Lab, LabOptions, Running, wait_for};
use rustix::process::Signal;
use serde_json::Value;

/// The systemd unit that we ship.
const UNIT: &str = include_str!("../../../../packaging/calico-node.service");
/// Where health is served.
const HEALTH_PORT: u16 = 9099;
/// A process that says nothing for this long counts as hung; the supervisor's own figure, and some time for noticing.
const SILENCE: Duration = Duration::from_secs(30 + 20);

/// Hosts with etcd, without Docker.
fn bare_hosts(count: usize) -> Lab {
    Lab::up(&LabOptions { docker: false, ..LabOptions::hosts(count) }).unwrap()
}

fn health(host: &Host) -> Value {
    let answer = host.run("calico-node health -o json");
    serde_json::from_str(&answer.stdout).unwrap_or_else(|error| panic!("{error}: {}", answer.text()))
}

/// One process's health.
fn component(host: &Host, name: &str) -> Value {
    let health = health(host);
    let components = health["components"].as_array().unwrap();
    components
        .iter()
        .find(|component| component["name"] == name)
        .unwrap_or_else(|| panic!("no {name}: {health}"))
        .clone()
}

fn is_ready(host: &Host) -> bool {
    host.run("calico-node health").success()
}

/// Waits until a process's health has these words as its reason, and returns it.
#[track_caller]
fn wait_for_reason(host: &Host, name: &str, words: &str, limit: Duration) -> Value {
    wait_for(limit, &format!("{name} to say {words:?}"), || {
        let component = component(host, name);
        if component["reason"].as_str().unwrap().contains(words) { Ok(component) } else { Err(component.to_string()) }
    })
    .unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn wait_until_ready(host: &Host) {
    wait_for(SOON, "the service to be ready", || {
        let said = host.run("calico-node health");
        if said.success() { Ok(()) } else { Err(said.text()) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
}

/// Starts the service on a host and waits until it is ready.
#[track_caller]
fn start(host: &Host) -> Running {
    let service = host.spawn("exec calico-node run");
    wait_until_ready(host);
    service
}

/// A workload that neither Docker nor calicoctl made: a namespace behind a veth pair, and its record.
struct Attached<'a> {
    lab: &'a Lab,
    host: &'a Host,
    name: &'static str,
    address: Ipv4Addr,
}

impl<'a> Attached<'a> {
    fn new(lab: &'a Lab, host: &'a Host, name: &'static str, address: [u8; 4]) -> Self {
        let attached = Self { lab, host, name, address: address.into() };
        let (address, gateway) = (attached.address, host.ipv4());
        host.ok(&format!(
            "set -e
            ip netns add {name}
            ip link add cali{name} type veth peer name eth1 netns {name}
            ip link set cali{name} address ee:ee:ee:ee:ee:ee up
            ip -n {name} link set eth1 up
            ip -n {name} address add {address}/32 dev eth1
            ip -n {name} route add default via {gateway} dev eth1 onlink"
        ));
        attached
    }

    /// Writes its record with these profiles, by etcd's own client.
    fn record(&self, profiles: &[&str]) {
        let (name, node) = (self.name, self.host.name());
        let record = serde_json::json!({
            "kind": "WorkloadEndpoint",
            "apiVersion": "projectcalico.org/v3",
            "metadata": {
                "name": format!("{node}-test-{name}-eth1"),
                "namespace": "default",
                "creationTimestamp": null,
                "labels": {
                    "projectcalico.org/namespace": "default",
                    "projectcalico.org/orchestrator": "test",
                },
            },
            "spec": {
                "orchestrator": "test",
                "workload": name,
                "node": node,
                "endpoint": "eth1",
                "interfaceName": format!("cali{name}"),
                "ipNetworks": [format!("{}/32", self.address)],
                "profiles": profiles,
            },
        });
        let key = format!("/calico/resources/v3/projectcalico.org/workloadendpoints/default/{node}-test-{name}-eth1");
        self.lab.etcd().put(&key, &record.to_string()).unwrap();
    }

    fn reaches(&self, other: &Self) -> bool {
        self.host.run(&format!("ip netns exec {} ping -c 1 -W 1 {}", self.name, other.address)).success()
    }
}

/// Reads what the service has said to systemd, up to this word.
fn wait_for_notice(socket: &UnixDatagram, word: &str) {
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {word} came: {error}"));
        let said = String::from_utf8_lossy(&buffer[..length]);
        if said.lines().any(|line| line == word) {
            return;
        }
    }
}

/// As systemd starts it, on a host that has never seen Docker: ready is said when it is, workloads are routed and
/// policed, and a stop ends in order.
#[test]
fn under_systemd_on_a_host_without_docker() {
    let lab = bare_hosts(2);
    let (host, other) = (lab.host(1), lab.host(2));
    // A log that is nearly full, from long ago.
    let full = "x".repeat(999_999);
    host.write("/var/log/calico/felix/current", &full).unwrap();
    let notify = UnixDatagram::bind(host.path("/run/notify")).unwrap();
    let service = host.command("exec calico-node run").env("NOTIFY_SOCKET", "/run/notify").spawn().unwrap();
    wait_for_notice(&notify, "READY=1");
    let said = health(host);
    assert_eq!((&said["ready"], &said["live"], &said["node"]), (&true.into(), &true.into(), &"host1".into()));
    assert!(service.stdout().contains("Calico node started successfully"), "{}", service.stdout());

    logs_are_there_and_turned_over(host, &full);
    health_is_served_on_localhost_only(host, other);

    host.ok("calicoctl profile add web");
    let (a, b) = (Attached::new(&lab, host, "a", [192, 168, 7, 1]), Attached::new(&lab, host, "b", [192, 168, 7, 2]));
    a.record(&["web"]);
    b.record(&[]);
    eventually("the routes of both", || host.ok("ip route show proto 80").lines().count() == 2);
    assert!(!a.reaches(&b) && !b.reaches(&a), "without a profile nothing passes");
    b.record(&["web"]);
    eventually("members of one profile to talk", || a.reaches(&b) && b.reaches(&a));

    service.signal(Signal::TERM);
    let ended = service.wait(Duration::from_secs(15)).unwrap();
    assert!(ended.success(), "{}", ended.text());
    assert!(!host.run("pgrep -x 'bird|calico-node'").success(), "nothing is left running");
    assert!(a.reaches(&b), "rules and routes stay in force");
    let refused = host.fails("calico-node health");
    assert_eq!(refused.code(), Some(1));
    assert!(refused.text().contains("does not answer"), "{}", refused.text());
}

fn logs_are_there_and_turned_over(host: &Host, full: &str) {
    for name in ["bird", "confd", "felix"] {
        let log = host.path(format!("/var/log/calico/{name}/current"));
        eventually(&format!("the log of {name}"), || fs::metadata(&log).is_ok_and(|log| log.len() > 0));
    }
    let folder = fs::read_dir(host.path("/var/log/calico/felix")).unwrap();
    let mut files: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let [old, current] = files.as_slice() else { panic!("two files were expected: {files:?}") };
    assert!(old.file_name().unwrap().to_string_lossy().starts_with('@'), "{old:?}");
    assert!(fs::read_to_string(old).unwrap().starts_with(full), "the old lines are kept");
    assert!(fs::read_to_string(current).unwrap().lines().next().unwrap().len() < 1000);
}

fn health_is_served_on_localhost_only(host: &Host, other: &Host) {
    let ask = |path: &str| {
        let answer = host.in_network(|| {
            let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, HEALTH_PORT)).unwrap();
            write!(socket, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).unwrap();
            Ok(answer)
        });
        let answer = answer.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().to_owned(), body.to_owned())
    };
    for path in ["/healthz", "/readiness", "/liveness"] {
        let (code, body) = ask(path);
        assert_eq!(code, "200", "{path}: {body}");
        let health: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(health["ready"], true, "{path}: {body}");
    }
    assert_eq!(ask("/").0, "404");

    let listeners = host.ok(&format!("ss -Hltn 'sport = :{HEALTH_PORT}'"));
    let addresses: Vec<&str> = listeners.lines().map(|line| line.split_whitespace().nth(3).unwrap()).collect();
    assert_eq!(addresses, [format!("127.0.0.1:{HEALTH_PORT}")]);
    let outside = SocketAddr::from((host.ipv4(), HEALTH_PORT));
    for from in [host, other] {
        let refused = from.in_network(|| Ok(TcpStream::connect_timeout(&outside, SOON).map(drop))).unwrap();
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused, "from {}", from.name());
    }
}

/// In place of BIRD, a program that answers what BIRD is asked before it is started, and ends at once when it is
/// started, until a file lets it be BIRD.
const MORTAL_BIRD: &str = r#"#!/bin/sh
case "$*" in *--version*|-p*|*\ -p*) exec /usr/sbin/bird "$@" ;; esac
[ -e /run/bird-may-live ] && exec /usr/sbin/bird "$@"
echo "dying as told" >&2
exit 7
"#;

#[test]
fn a_process_that_dies_again_and_again_is_named_and_waited_for_longer_and_longer() {
    let lab = bare_hosts(1);
    let host = lab.host(1);
    host.write("/usr/local/sbin/bird", MORTAL_BIRD).unwrap();
    fs::set_permissions(host.path("/usr/local/sbin/bird"), Permissions::from_mode(0o755)).unwrap();
    let service = host.spawn("exec calico-node run");
    let restarts = |least: u64| {
        wait_for(SOON, &format!("{least} restarts of bird"), || {
            let said = host.run("calico-node health -o json");
            let Ok(health) = serde_json::from_str::<Value>(&said.stdout) else { return Err(said.text()) };
            let bird = health["components"].as_array().unwrap().iter().find(|component| component["name"] == "bird");
            let bird = bird.unwrap().clone();
            // Between two waits it runs for a moment.
            let waits = bird["restarts"].as_u64().unwrap() >= least && bird["live"] == false;
            if waits { Ok((health, bird)) } else { Err(health.to_string()) }
        })
        .unwrap_or_else(|error| panic!("{error}"))
    };
    let (health, bird) = restarts(6);
    assert_eq!((&health["ready"], &health["live"]), (&false.into(), &false.into()), "{health}");
    assert!(bird["reason"].as_str().unwrap().contains("code 7"), "{bird}");
    let table = host.fails("calico-node health");
    assert!(table.stdout.lines().any(|line| line.starts_with("bird") && line.contains("not live")), "{}", table.text());

    // Each wait is twice the one before.
    let log = service.stderr();
    let waits: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("process=\"bird\"") && line.contains("starting it again"))
        .map(|line| line.split("wait=").nth(1).unwrap().split_whitespace().next().unwrap())
        .collect();
    assert_eq!(waits[..6], ["100ms", "200ms", "400ms", "800ms", "1.6s", "3.2s"], "{log}");
    assert!(host.read("/var/log/calico/bird/current").unwrap().contains("dying as told"));
    assert!(!service.stdout().contains("started successfully"), "{}", service.stdout());

    host.write("/run/bird-may-live", "").unwrap();
    wait_until_ready(host);
    eventually("the start to be complete", || service.stdout().contains("Calico node started successfully"));
    assert!(component(host, "bird")["restarts"].as_u64().unwrap() >= 6);
}

/// Each process that is not ready says why, and is ready again when the cause is gone.
#[test]
fn health_says_why() {
    let lab = bare_hosts(1);
    let (host, etcd) = (lab.host(1), lab.etcd());
    let _service = start(host);
    let root = "/calico/resources/v3/projectcalico.org";

    // Felix: the cluster is marked as not ready.
    let key = format!("{root}/clusterinformations/default");
    let good = etcd.get(&key).unwrap().unwrap();
    assert!(good.contains(r#""datastoreReady":true"#), "{good}");
    etcd.put(&key, &good.replace(r#""datastoreReady":true"#, r#""datastoreReady":false"#)).unwrap();
    host.ok("pkill -9 -f '[c]alico-felix'");
    let felix = wait_for_reason(host, "felix", "not initialised or not ready", SOON);
    assert_eq!((&felix["ready"], &felix["live"]), (&false.into(), &true.into()));
    assert!(!is_ready(host));
    etcd.put(&key, &good).unwrap();
    wait_until_ready(host);

    // Confd: the node's record is gone.
    let key = format!("{root}/nodes/host1");
    let node = etcd.get(&key).unwrap().unwrap();
    etcd.ctl(&format!("del {key}")).unwrap();
    let confd = wait_for_reason(host, "confd", "host1", SOON);
    assert_eq!((&confd["ready"], &confd["live"]), (&false.into(), &true.into()), "{confd}");
    etcd.put(&key, &node).unwrap();
    wait_until_ready(host);

    // A record that cannot be read is named by everyone who needs it, until it is gone.
    let (pool, profile) = (format!("{root}/ippools/broken"), format!("{root}/profiles/broken"));
    etcd.put(&pool, r#"{"kind": "IPPool", "apiVersion": "projectcalico.org/v3", "spec": {"cidr": "10.300.0.0/16"}}"#)
        .unwrap();
    etcd.put(&profile, "{not json").unwrap();
    let problems = |name: &str| component(host, name)["problems"].to_string();
    eventually("felix to name both records", || {
        let said = problems("felix");
        said.contains(&pool) && said.contains(&profile)
    });
    eventually("confd to name the pool", || problems("confd").contains(&pool));
    assert!(!problems("confd").contains(&profile), "profiles are none of confd's business");
    assert!(is_ready(host), "everything else works");
    assert!(host.ok("calico-node health").contains("problem: "));
    etcd.ctl(&format!("del {pool}")).unwrap();
    etcd.ctl(&format!("del {profile}")).unwrap();
    for name in ["confd", "felix"] {
        eventually(&format!("no problem of {name}"), || problems(name) == "[]");
    }

    // Processes that hang.
    host.ok("pkill -STOP -f '[c]alico-felix' && pkill -STOP -x bird");
    for name in ["felix", "bird"] {
        let hung = wait_for_reason(host, name, "has not answered", SILENCE);
        assert_eq!((&hung["ready"], &hung["live"]), (&false.into(), &false.into()), "{hung}");
    }
    assert_eq!(component(host, "confd")["live"], true);
    host.ok("pkill -CONT -f '[c]alico-felix' && pkill -CONT -x bird");
    wait_until_ready(host);
}

/// The unit's settings by name; of a setting that is given several times, the last.
fn unit() -> BTreeMap<&'static str, &'static str> {
    let settings = UNIT.lines().filter(|line| !line.starts_with(['#', '[']));
    settings.filter_map(|line| line.split_once('=')).collect()
}

#[test]
fn the_unit_is_sound() {
    let unit = unit();
    for (name, value) in [
        // READY=1 comes from the service itself.
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("ExecStart", "/usr/bin/calico-node run"),
        ("Restart", "always"),
        // The service ends its processes itself and in order; systemd only what is left of them.
        ("KillMode", "mixed"),
        // With it BIRD's configuration and the lock survive a restart, which is how a restart is told from a boot.
        ("RuntimeDirectory", "calico"),
        ("RuntimeDirectoryPreserve", "yes"),
        ("NoNewPrivileges", "yes"),
    ] {
        assert_eq!(unit.get(name), Some(&value), "{name}");
    }
    for family in ["AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"] {
        assert!(unit["RestrictAddressFamilies"].split(' ').any(|word| word == family), "{family}");
    }
    for capability in unit["CapabilityBoundingSet"].split(' ') {
        assert!(!["CAP_SYS_ADMIN", "CAP_SYS_MODULE", "CAP_SYS_PTRACE"].contains(&capability), "{capability}");
    }
    // What systemd itself says of it, where the program is where the unit expects it.
    let lab = Lab::up(&LabOptions::bare(1)).unwrap();
    let host = lab.host(1);
    if !Path::new("/usr/bin/systemd-analyze").exists() {
        println!("systemd-analyze is not installed: the unit was not verified by systemd");
        return;
    }
    // The lab has the program in another folder than the package, and no manual.
    let there = UNIT.replace("=/usr/bin/calico-node", "=/usr/local/bin/calico-node");
    host.write("/etc/systemd/system/calico-node.service", there).unwrap();
    let verified = host.run("systemd-analyze verify --man=no /etc/systemd/system/calico-node.service");
    let complaints: Vec<&str> = verified.stderr.lines().filter(|line| line.contains("calico-node")).collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// The service does its work within the limits of its unit: no other capability, no new privileges, `/usr` and `/etc`
/// read-only.
#[test]
fn the_service_works_within_the_limits_of_its_unit() {
    let lab = bare_hosts(1);
    let host = lab.host(1);
    let unit = unit();
    assert_eq!(unit["ProtectSystem"], "full", "the folders below are those of `full`");
    let capabilities: Vec<String> =
        unit["CapabilityBoundingSet"].split(' ').map(|name| name.replacen("CAP_", "+", 1).to_lowercase()).collect();
    let service = host.spawn(&format!(
        "exec unshare --mount sh -c 'set -e
            for folder in /usr /boot /etc; do mount --bind $folder $folder; mount -o remount,bind,ro $folder; done
            exec setpriv --no-new-privs --bounding-set=-all,{} calico-node run'",
        capabilities.join(",")
    ));
    wait_for(SOON, "the service to be ready", || {
        let said = host.run("calico-node health");
        if said.success() { Ok(()) } else { Err(format!("{}{}", said.text(), service.stderr())) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let status = host.ok("cat /proc/$(pgrep -o -f '[c]alico-felix')/status");
    assert!(status.contains("NoNewPrivs:\t1"), "the limits are in force: {status}");

    host.ok("calicoctl profile add web");
    let (a, b) = (Attached::new(&lab, host, "a", [192, 168, 7, 1]), Attached::new(&lab, host, "b", [192, 168, 7, 2]));
    a.record(&["web"]);
    b.record(&["web"]);
    eventually("members of one profile to talk", || a.reaches(&b) && b.reaches(&a));
    let packet_sockets = host.ok("ss -0Hnp");
    assert!(!packet_sockets.contains("calico-node") && !packet_sockets.contains("bird"), "{packet_sockets}");
    host.ok("nft flush ruleset");
    eventually("the rules to be back", || host.run("nft list table ip calico").success());
    assert!(!service.stderr().contains("ermitted"), "{}", service.stderr());
}
