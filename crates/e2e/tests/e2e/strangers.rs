//! Other programs that remove what is ours: flushes, Docker's own restart, containers that die behind our back.
#![allow(clippy::unwrap_used)]

use std::{
    thread,
    time::{Duration, Instant},
};

use calico_e2e::{
    SOON, Workload, assert_matrix, eventually,
    trio::{Streams, Trio, is_ready},
};
use calico_lab::{Host, wait_for};

/// Within this time a flush is to be repaired.
const REPAIR: Duration = Duration::from_millis(100);
/// So many repairs must be within it, out of so many: on a busy machine single ones wait for the processor.
const QUICK: usize = 5;
const FLUSHES: usize = 40;

/// Our tables as `nft` shows them, without counters and in an order that does not depend on their history.
fn tables(host: &Host) -> Vec<String> {
    let shown = host.ok("nft -s list table ip calico; nft -s list table ip6 calico");
    let mut lines: Vec<String> = shown.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// `nft flush ruleset`, and how long it takes from before the command until the kernel notifies that the last map of our
/// endpoints has its elements again. The time of the command itself is in it.
fn flush(host: &Host) -> Duration {
    let monitor = host.spawn("exec nft monitor");
    // Until it prints, it may not listen yet.
    eventually("nft's monitor to listen", || {
        host.ok("nft add table ip probe; nft delete table ip probe");
        monitor.stdout().contains("delete table ip probe")
    });
    let start = Instant::now();
    host.ok("nft flush ruleset");
    loop {
        let seen = monitor.stdout();
        let mended = ["ip", "ip6"].iter().all(|family| {
            let gone = seen.split_once(&format!("delete table {family} calico"));
            let back =
                |map| gone.is_some_and(|(_, after)| after.contains(&format!("add element {family} calico {map}")));
            back("wl-from") && back("wl-to")
        });
        if mended {
            return start.elapsed();
        }
        assert!(start.elapsed() < SOON, "our tables are not back:\n{seen}");
        thread::sleep(Duration::from_micros(200));
    }
}

fn our_routes(host: &Host) -> String {
    host.ok("ip route show proto 80; ip -6 route show proto 80")
}

fn quick(times: &[Duration]) -> usize {
    times.iter().filter(|time| **time <= REPAIR).count()
}

#[test]
fn a_flush_of_all_rules_is_repaired() {
    let trio = Trio::up();
    let host = trio.host();
    let before = tables(host);
    let mut times = Vec::new();
    let Streams { denied, .. } = trio.ping_during(|| {
        while quick(&times) < QUICK && times.len() < FLUSHES {
            times.push(flush(host));
            wait_for(SOON, "the tables to be as before", || {
                let now = tables(host);
                if now == before { Ok(()) } else { Err(now.join("\n")) }
            })
            .unwrap_or_else(|error| panic!("{error}"));
        }
    });
    assert_eq!(quick(&times), QUICK, "{times:?}");
    // Between flush and repair the host is open, which nobody can help; but what got through then must not go on.
    let total: Duration = times.iter().sum();
    for (name, report) in denied {
        let open = Duration::from_millis(10 * report.received);
        println!("repaired after {times:?}; {name} was answered {} times", report.received);
        assert!(open <= total * 2, "{name} was answered for {open:?}, the host was open for {total:?}");
    }
    trio.undisturbed("after the flushes", || {});
}

#[test]
fn what_docker_and_flushes_remove_comes_back() {
    let trio = Trio::up();
    let host = trio.host();
    let policy = host.ok("iptables -S FORWARD");
    assert!(policy.contains("-P FORWARD DROP"), "this test is about Docker's default: {policy}");

    // Until our rule is back the policy drops: a packet may be lost, not more.
    host.ok("iptables -F FORWARD");
    eventually("our rule to be back", || host.ok("iptables -S FORWARD").lines().count() > 1);
    assert!(host.ok("iptables -S FORWARD").contains("-P FORWARD DROP"));
    trio.undisturbed("after a flush of FORWARD", || {});
    for family in ["-4", "-6"] {
        host.ok(&format!("ip {family} route flush proto 80"));
        eventually("the route to be back", || {
            host.ok(&format!("ip {family} route show proto 80")).contains("dev cali")
        });
    }
    trio.undisturbed("after a flush of our routes", || {});

    // All rules at once, Docker's too, and then DROP again.
    host.ok("nft flush ruleset");
    host.ok("iptables -P FORWARD DROP && ip6tables -P FORWARD DROP");
    let a = Workload { host, name: "wa", addresses: trio.a.clone() };
    assert!(trio.b.iter().all(|b| a.reaches(*b, SOON)), "traffic under FORWARD DROP");
    trio.undisturbed("under FORWARD DROP without Docker's own rules", || {});

    a_dead_container_leaves_no_route_and_no_rule(&trio);
}

#[test]
fn docker_may_be_restarted() {
    let trio = Trio::up();
    let (host, host2) = (trio.host(), trio.cluster.lab.host(2));

    // In stock configuration Docker takes all containers with it; those of a restart policy come back.
    host.stop_docker().unwrap();
    eventually("the routes of the dead container to go", || our_routes(host).is_empty());
    host.start_docker().unwrap();
    eventually("calico-node to be ready again", || is_ready(host));
    assert!(host.ok("iptables -S FORWARD").contains("-P FORWARD DROP"));
    // The container's interface is gone, its record and address wait for it.
    assert!(host.ok("calicoctl endpoint show --detailed").contains(&trio.a[0].to_string()));
    host.ok("docker start wa");
    host.ok("calicoctl container remove wa");
    let mut a = Workload { host, name: "wa", addresses: Vec::new() };
    a.add(&trio.a[0].to_string());
    a.ip_add(&trio.a[1].to_string());
    a.calicoctl("profile set P");
    let b = Workload { host: host2, name: "wb", addresses: trio.b.clone() };
    let denied = Workload { host: host2, name: "denied", addresses: host2.container_addresses("denied").unwrap() };
    assert_matrix(&[&a, &b, &denied], &[("wa", "wb"), ("wb", "wa")]);

    // With live-restore the containers live on while Docker is away, and so does their traffic.
    host.write("/etc/docker/daemon.json", r#"{"live-restore": true}"#).unwrap();
    host.ok("pkill -HUP -x dockerd");
    eventually("live-restore to be on", || host.ok("docker info -f '{{.LiveRestoreEnabled}}'").trim() == "true");
    trio.undisturbed("Docker stopped and started under its containers", || {
        host.stop_docker().unwrap();
        host.start_docker().unwrap();
        eventually("calico-node to be ready", || is_ready(host));
    });
}

/// A container that dies behind our back: route and rules go with its interface, record and address stay.
fn a_dead_container_leaves_no_route_and_no_rule(trio: &Trio) {
    let host = trio.host();
    let elements = |map: &str| host.ok(&format!("nft list map ip calico {map}; nft list map ip6 calico {map}"));
    let interface = host.ok("ip -o link show type veth | grep -o 'cali[0-9a-f]*' | head -1").trim().to_owned();
    assert!(!interface.is_empty() && elements("wl-to").contains(&interface));
    host.ok("docker kill wa");
    eventually("its interface to go", || !host.run(&format!("ip link show {interface}")).success());
    eventually("its routes to go", || our_routes(host).is_empty());
    for map in ["wl-from", "wl-to"] {
        eventually("its rules to go", || !elements(map).contains(&interface));
    }
    assert!(host.ok("calicoctl endpoint show --detailed").contains(&trio.a[0].to_string()));
    host.ok("calicoctl container remove wa");
    assert!(!host.ok("calicoctl endpoint show --detailed").contains(&trio.a[0].to_string()));
}
