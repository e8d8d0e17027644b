//! The cluster's datastore moves, from the first host's own to an etcd and from there to another one, while a hundred
//! pings a second pass between an allowed pair and none between a denied one.
#![allow(clippy::unwrap_used)]

use std::{net::IpAddr, time::Duration};

use calico_e2e::{SOON, eventually};
use calico_lab::{Host, Lab, LabOptions, Pinger, Running, wait_for};
use serde_json::Value;

/// An etcd of the test's own on the lab's switch; its end is the test's.
struct Etcd {
    running: Running,
    endpoint: String,
}

impl Etcd {
    fn start(lab: &Lab, port: u16) -> Self {
        let etcd = Self::launch(lab, port, "http", "");
        eventually("etcd to answer", || etcd.ctl(lab.host(1), "endpoint health").is_some());
        etcd
    }

    /// One that wants certificates of `tls`.
    fn start_with(lab: &Lab, port: u16, tls: &Certificates) -> Self {
        let Certificates { dir } = tls;
        let more = format!(
            "--client-cert-auth --trusted-ca-file {dir}/ca.pem --cert-file {dir}/server.pem --key-file {dir}/server-key.pem"
        );
        let etcd = Self::launch(lab, port, "https", &more);
        let flags = format!("--cacert {dir}/ca.pem --cert {dir}/client.pem --key {dir}/client-key.pem");
        eventually("etcd to answer by TLS", || etcd.ctl(lab.switch(), &format!("{flags} endpoint health")).is_some());
        etcd
    }

    fn launch(lab: &Lab, port: u16, scheme: &str, more: &str) -> Self {
        let switch = lab.switch();
        let endpoint = format!("{scheme}://{}:{port}", switch.ipv4());
        let peer = port + 1;
        let running = switch.spawn(&format!(
            "exec etcd --name e{port} --data-dir /var/lib/etcd-{port} --logger zap --log-outputs stderr \
             --listen-client-urls {scheme}://0.0.0.0:{port} --advertise-client-urls {endpoint} \
             --listen-peer-urls http://127.0.0.1:{peer} --initial-advertise-peer-urls http://127.0.0.1:{peer} \
             --initial-cluster e{port}=http://127.0.0.1:{peer} {more}"
        ));
        Self { running, endpoint }
    }

    fn ctl(&self, host: &Host, words: &str) -> Option<String> {
        let said = host.run(&format!("ETCDCTL_API=3 etcdctl --endpoints {} {words}", self.endpoint));
        said.success().then_some(said.stdout)
    }

    fn keys(&self, host: &Host) -> usize {
        let said = self.ctl(host, "get --prefix --keys-only /calico/").unwrap();
        said.lines().filter(|line| line.starts_with('/')).count()
    }
}

/// An authority of the test's own on the lab's switch, and what it signed.
struct Certificates {
    dir: &'static str,
}

impl Certificates {
    fn make(switch: &Host) -> Self {
        let dir = "/var/lib/calico/certs";
        let ip = switch.ipv4();
        switch.ok(&format!(
            "mkdir -p {dir} && cd {dir} && new='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes' && \
             openssl req -x509 $new -keyout ca-key.pem -out ca.pem -subj /CN=authority -days 2 && \
             echo 'subjectAltName=IP:{ip}' >ext && echo 'extendedKeyUsage=serverAuth,clientAuth' >>ext && \
             for who in server client; do \
             openssl req -new $new -keyout $who-key.pem -out $who.csr -subj /CN=$who && \
             openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 -extfile ext \
             -out $who.pem || exit 1; done"
        ));
        Self { dir }
    }

    /// Gives a host what it needs, where the help of `migrate` says that it must lie.
    fn give(&self, switch: &Host, host: &Host) {
        host.ok("umask 077; mkdir -p /var/lib/calico/datastore/etcd");
        for file in ["ca.pem", "client.pem", "client-key.pem"] {
            let place = format!("/var/lib/calico/datastore/etcd/{file}");
            host.write(&place, switch.read(format!("{}/{file}", self.dir)).unwrap()).unwrap();
            host.ok(&format!("chmod 600 {place}"));
        }
    }
}

/// Options of `migrate` for a host that was given certificates.
const CERTIFICATES_OF_A_HOST: &str = "--ca-cert /var/lib/calico/datastore/etcd/ca.pem \
     --cert /var/lib/calico/datastore/etcd/client.pem --key /var/lib/calico/datastore/etcd/client-key.pem";

/// Puts the clock of the programs that are told to use it an hour ahead.
const FAST_CLOCK: &str = "
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t which, struct timespec *now) {
    int outcome = syscall(SYS_clock_gettime, which, now);
    if (!outcome && which == CLOCK_REALTIME) now->tv_sec += 3600;
    return outcome;
}
";

/// Starts the service on a host and waits until it is ready.
#[track_caller]
fn start(host: &Host) -> Running {
    let service = host.spawn("CALICO_LIBNETWORK=false exec calico-node run");
    wait_until_ready(host);
    service
}

#[track_caller]
fn wait_until_ready(host: &Host) {
    wait_for(SOON * 3, "the service to be ready", || {
        let said = host.run("calico-node health");
        if said.success() { Ok(()) } else { Err(said.text()) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
}

/// A container in a profile, and its address.
fn container(host: &Host, name: &str, profile: &str) -> IpAddr {
    host.ok(&format!("docker run --net=none --name={name} -tid ubuntu"));
    let said = host.ok(&format!("calicoctl container add {name}"));
    host.ok(&format!("calicoctl container {name} profile set {profile}"));
    said.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn health(host: &Host) -> Value {
    serde_json::from_str(&host.run("calico-node health -o json").stdout).unwrap()
}

/// How often BIRD was started again.
fn restarts_of_bird(host: &Host) -> Value {
    let health = health(host);
    let components = health["components"].as_array().unwrap();
    components.iter().find(|component| component["name"] == "bird").unwrap()["restarts"].clone()
}

/// Two hosts, the second in the first one's datastore.
fn cluster() -> (Lab, [Running; 2]) {
    let lab = Lab::up(&LabOptions { etcd: None, ..LabOptions::hosts(2) }).unwrap();
    let (first, second) = (lab.host(1), lab.host(2));
    let first_service = start(first);
    let invitation: Value = serde_json::from_str(&first.ok("calicoctl node invite -o json")).unwrap();
    let join = invitation["command"].as_str().unwrap();
    second.ok(&format!("{join} --runtime=none"));
    let second_service = start(second);
    (lab, [first_service, second_service])
}

#[test]
fn the_datastore_moves_to_etcd_and_on_while_traffic_and_policy_stay() {
    let (lab, services) = cluster();
    let (first, second) = (lab.host(1), lab.host(2));
    for profile in ["friends", "strangers"] {
        first.ok(&format!("calicoctl profile add {profile}"));
    }
    container(first, "wa", "friends");
    let b = container(second, "wb", "friends");
    container(first, "ws", "strangers");
    let allowed = Pinger::start(first, "wa", b).unwrap();
    eventually("a to reach b", || allowed.received() > 10);
    let before = allowed.stop();
    assert!(before.received > 0);

    let allowed = Pinger::start(first, "wa", b).unwrap();
    let denied = Pinger::start(first, "ws", b).unwrap();
    let birds = [restarts_of_bird(first), restarts_of_bird(second)];

    // What cannot be done changes nothing.
    let etcd = Etcd::start(&lab, 2379);
    let refused = first.fails("calicoctl datastore migrate --to http://127.0.0.1:9 --patience 5");
    assert!(refused.text().contains("nothing is lost"), "{}", refused.text());
    assert_eq!(etcd.keys(first), 0);
    first.fails("calicoctl datastore migrate --abort");

    // A first try that one host does not answer is taken back.
    services[1].signal(rustix::process::Signal::STOP);
    let late = first.fails(&format!("calicoctl datastore migrate --to {} --patience 2", etcd.endpoint));
    assert!(late.text().contains("no answer from host2"), "{}", late.text());
    services[1].signal(rustix::process::Signal::CONT);
    let back = first.ok("calicoctl datastore migrate --abort");
    assert!(back.contains("all hosts stay at unix:///"), "{back}");
    assert_eq!(etcd.keys(first), 0);

    let said = first.ok(&format!("calicoctl datastore migrate --to {}", etcd.endpoint));
    assert!(said.contains(&format!("The cluster's datastore is at {}", etcd.endpoint)), "{said}");
    for host in [first, second] {
        wait_until_ready(host);
        let record = host.read("/var/lib/calico/datastore/location.env").unwrap();
        assert!(record.contains(&etcd.endpoint), "{record}");
    }
    assert!(etcd.keys(first) > 10);
    works_on(&lab, "wc", b);

    // And on to another one: the first is not needed any more.
    let next = Etcd::start(&lab, 2479);
    second.ok(&format!("calicoctl datastore migrate --to {}", next.endpoint));
    etcd.running.signal(rustix::process::Signal::KILL);
    etcd.running.wait(Duration::from_secs(15)).unwrap();
    for host in [first, second] {
        wait_until_ready(host);
    }
    works_on(&lab, "wd", b);

    let (allowed, denied) = (allowed.stop(), denied.stop());
    assert!(
        allowed.lost.is_empty(),
        "{} of {} lost, the first: {:?}",
        allowed.lost.len(),
        allowed.sent,
        allowed.lost[0]
    );
    assert_eq!(denied.received, 0, "of {}", denied.sent);
    assert_eq!([restarts_of_bird(first), restarts_of_bird(second)], birds, "BIRD has stayed");
    first.ok("calicoctl ipam check");
}

/// Commands and agents work on the datastore that is in force now.
fn works_on(lab: &Lab, name: &str, b: IpAddr) {
    let host = lab.host(1);
    container(host, name, "friends");
    let pings = Pinger::start(host, name, b).unwrap();
    eventually("a new container to reach b", || pings.received() > 0);
    pings.stop();
    assert_eq!(host.ok("calicoctl get nodes").lines().count(), lab.host(2).ok("calicoctl get nodes").lines().count());
}

/// Joined by IPv6, off while the cluster moves to an etcd that wants certificates, and back only after the first host
/// started anew, a host finds its way by itself.
#[test]
fn a_host_that_was_off_during_a_move_to_tls_finds_its_way_after_the_first_one_restarted() {
    let lab = Lab::up(&LabOptions { etcd: None, ..LabOptions::hosts(2) }).unwrap();
    let (first, second) = (lab.host(1), lab.host(2));
    let first_service = start(first);
    let address = format!("[{}]:2379", first.ipv6());
    let invitation: Value =
        serde_json::from_str(&first.ok(&format!("calicoctl node invite --address {} -o json", first.ipv6()))).unwrap();
    let join = invitation["command"].as_str().unwrap();
    assert!(join.contains(&address), "{join}");

    // A clock that is off is told, by both times, and costs no invitation.
    second.write("/var/lib/calico/clock.c", FAST_CLOCK).unwrap();
    second.ok("cd /var/lib/calico && cc -shared -fPIC -o clock.so clock.c");
    let said = second.fails(&format!("LD_PRELOAD=/var/lib/calico/clock.so {join} --runtime=none")).text();
    assert!(said.contains("clock"), "{said}");
    second.ok(&format!("{join} --runtime=none"));
    let record = |host: &Host| host.read("/var/lib/calico/datastore/location.env").unwrap();
    assert!(record(second).contains(&format!("https://{address}")), "{}", record(second));
    let second_service = start(second);
    drop(second_service);

    // Without the files nothing is tried; with them on this host it goes, and the other one is left behind.
    let tls = Certificates::make(lab.switch());
    let etcd = Etcd::start_with(&lab, 2479, &tls);
    let migrate = format!("calicoctl datastore migrate --to {} {CERTIFICATES_OF_A_HOST}", etcd.endpoint);
    let said = first.fails(&migrate).text();
    assert!(said.contains("/var/lib/calico/datastore/etcd/ca.pem cannot be read"), "{said}");
    for host in [first, second] {
        tls.give(lab.switch(), host);
    }
    let said = first.ok(&format!("{migrate} --without-hosts host2"));
    assert!(said.contains(&format!("The cluster's datastore is at {}", etcd.endpoint)), "{said}");

    // The first host's service starts anew, and goes on telling who joined it where the cluster went.
    drop(first_service);
    let _first_service = start(first);
    eventually("the old datastore to be open for late hosts", || {
        first.ok("ss -Hltn 'sport = :2379'").contains(":2379")
    });
    let _second_service = start(second);
    eventually("the late host to follow", || record(second).contains(&etcd.endpoint));
    wait_until_ready(second);
    for host in [first, second] {
        let modes = "stat -c %a /var/lib/calico/datastore /var/lib/calico/datastore/location.env \
                     /var/lib/calico/datastore/etcd/client-key.pem";
        assert_eq!(host.ok(modes).split_whitespace().collect::<Vec<_>>(), ["700", "600", "600"]);
        let nodes = host.ok("calicoctl get nodes");
        assert!(nodes.contains("host1") && nodes.contains("host2"), "{nodes}");
    }
    let said = first.run("calicoctl checksystem -o json").stdout;
    assert!(said.contains(&etcd.endpoint) && said.contains("version 3."), "{said}");

    // Somebody who does not know of the move: without this host's record its socket is the old place.
    let unaware =
        |command: &str| format!("unshare -m sh -c 'mount -t tmpfs none /var/lib/calico/datastore && {command}'");
    let said = first.run(&unaware("calicoctl profile show"));
    assert!(said.success() && said.text().contains(&format!("it moved to {}", etcd.endpoint)), "{}", said.text());
    let said = first.fails(&unaware("calicoctl profile add lost"));
    assert!(said.text().contains("no longer at unix:///"), "{}", said.text());
    assert!(!first.ok("calicoctl profile show").contains("lost"));

    // When nobody is away any more the old datastore is closed, by hand, and stays so.
    let said = first.ok("calicoctl datastore status");
    assert!(said.contains("Former datastore of this host") && said.contains("host2"), "{said}");
    let pki = "/var/lib/calico/datastore/pki";
    first.ok(&format!("rm -r {pki}"));
    eventually("the old datastore to be closed", || first.ok("ss -Hltn 'sport = :2379'").is_empty());
    let said = first.fails("calicoctl node revoke host2").text();
    assert!(said.contains("no host has joined it at all"), "{said}");
    first.ok(&format!("test ! -e {pki}"));
}
