//! Restarts, kills, strangers' flushes and a dead datastore, while traffic runs.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use calico_e2e::{Cluster, SOON, assert_matrix, eventually};
use calico_lab::{Host, Pinger, wait_for, wait_until};

/// Two allowed containers on two hosts and a denied one, with 100 pings a second in both directions and at the denied
/// pair, while `disturb` does its worst.
fn undisturbed(cluster: &Cluster, what: &str, disturb: impl FnOnce()) {
    let (host1, host2) = (cluster.lab.host(1), cluster.lab.host(2));
    let address = |host: &Host, name: &str| {
        let shown = host.ok(&format!("docker exec {name} ip -4 -o addr show eth1"));
        shown.split_whitespace().find_map(|word| word.strip_suffix("/32")).unwrap().parse().unwrap()
    };
    let (a, b) = (address(host1, "wa"), address(host2, "wb"));
    let there = Pinger::start(host1, "wa", b).unwrap();
    let back = Pinger::start(host2, "wb", a).unwrap();
    let denied = Pinger::start(host2, "denied", a).unwrap();
    disturb();
    // The effect of a disturbance may come late: a second of pings follows it.
    let after = there.sent() + 100;
    eventually("a second of pings after it", || there.sent() >= after);
    let (there, back, denied) = (there.stop(), back.stop(), denied.stop());
    assert!(there.sent > 100, "{what}: only {} pings were sent", there.sent);
    assert!(there.lost.is_empty(), "{what}: a to b lost {} of {}: {:?}", there.lost.len(), there.sent, there.lost);
    assert!(back.lost.is_empty(), "{what}: b to a lost {} of {}: {:?}", back.lost.len(), back.sent, back.lost);
    assert_eq!(denied.received, 0, "{what}: the denied pair was answered");
}

fn two_allowed_one_denied() -> Cluster {
    let cluster = Cluster::up(2, "");
    {
        let (a, b, denied) = (cluster.add(1, "wa"), cluster.add(2, "wb"), cluster.add(2, "denied"));
        cluster.lab.host(1).ok("calicoctl profile add P");
        cluster.lab.host(1).ok("calicoctl profile add Q");
        a.calicoctl("profile set P");
        b.calicoctl("profile set P");
        denied.calicoctl("profile set Q");
        assert_matrix(&[&a, &b, &denied], &[("wa", "wb"), ("wb", "wa")]);
    }
    cluster.wait_for_mesh();
    cluster
}

fn ready(host: &Host) -> bool {
    host.run("docker exec calico-node calico-node health").success()
}

fn pid_of(host: &Host, pattern: &str) -> String {
    host.ok(&format!("pgrep -o {pattern}")).trim().to_owned()
}

#[test]
fn restarts_and_kills_lose_nothing() {
    let cluster = two_allowed_one_denied();
    let host = cluster.lab.host(1);
    undisturbed(&cluster, "docker restart calico-node", || {
        host.ok("docker restart calico-node");
        eventually("calico-node to be ready again", || ready(host));
    });
    for (name, pattern) in
        [("felix", "-f '[c]alico-node felix'"), ("confd", "-f '[c]alico-node confd'"), ("bird", "-x bird")]
    {
        undisturbed(&cluster, &format!("kill -9 of {name}"), || {
            let old = pid_of(host, pattern);
            host.ok(&format!("kill -9 {old}"));
            eventually(&format!("another {name}"), || {
                host.run(&format!("pgrep -o {pattern}"))
                    .stdout
                    .trim()
                    .parse::<u32>()
                    .is_ok_and(|pid| pid.to_string() != old)
            });
            eventually("calico-node to be ready again", || ready(host));
        });
    }
    undisturbed(&cluster, "kill -9 of the supervisor", || {
        let old = host.ok("docker inspect -f '{{.State.Pid}}' calico-node").trim().to_owned();
        host.ok(&format!("kill -9 {old}"));
        eventually("Docker to start it again", || ready(host));
        assert_eq!(host.ok("pgrep -x bird").lines().count(), 1, "the old bird ended with its supervisor");
    });
    undisturbed(&cluster, "calicoctl node again", || {
        calico_e2e::start_node(host, "");
        assert_eq!(host.ok("docker ps -a --filter name=calico-node -q").lines().count(), 1);
    });
}

#[test]
fn flushes_by_strangers_are_repaired() {
    let cluster = two_allowed_one_denied();
    let host = cluster.lab.host(1);
    let policy = host.ok("iptables -S FORWARD");
    assert!(policy.contains("-P FORWARD DROP"), "this test is about Docker's default: {policy}");
    // Our rules go with all others; a packet in between meets an open host, the next ones our rules again.
    host.ok("nft list table ip calico");
    let flushed = Instant::now();
    host.ok("nft flush ruleset");
    wait_for(SOON, "our tables to be back", || {
        let shown = host.run("nft list table ip calico");
        if shown.success() && shown.stdout.contains("wl-from") { Ok(()) } else { Err(shown.text()) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
    assert!(flushed.elapsed() < Duration::from_secs(2), "back after {:?}", flushed.elapsed());
    undisturbed(&cluster, "after the flush", || {});

    host.ok("iptables -P FORWARD DROP");
    eventually("traffic under FORWARD DROP", || {
        let a = host.ok("docker exec wa ip -4 -o addr show eth1");
        let a = a.split_whitespace().find_map(|word| word.strip_suffix("/32")).unwrap().to_owned();
        cluster.lab.host(2).run(&format!("docker exec wb ping -c 1 -W 1 {a}")).success()
    });
    host.ok("iptables -F FORWARD");
    undisturbed(&cluster, "after a flush of FORWARD", || {});
    host.ok("ip route flush proto 80");
    eventually("the routes to be back", || host.ok("ip route show proto 80").contains("dev cali"));
    undisturbed(&cluster, "after a flush of our routes", || {});
}

#[test]
fn a_dead_datastore_stops_nothing() {
    let cluster = two_allowed_one_denied();
    let host = cluster.lab.host(1);
    undisturbed(&cluster, "etcd stopped for 30 s", || {
        cluster.lab.etcd().kill().unwrap();
        let down = Instant::now();
        let asked = host.fails("calicoctl profile show");
        assert!(asked.elapsed < Duration::from_secs(10), "it took {:?}", asked.elapsed);
        assert!(asked.text().contains("unreachable"), "{}", asked.text());
        let add = host.fails("calicoctl container add wa");
        assert!(add.text().contains("unreachable"), "{}", add.text());
        eventually("the health to name it", || {
            host.run("docker exec calico-node calico-node health").text().contains("unreachable")
        });
        // A restart of one agent meanwhile must not delete what it cannot read.
        host.ok("pkill -9 -f '[c]alico-node felix'");
        wait_until(Duration::from_secs(60), "thirty seconds without etcd", || down.elapsed() > Duration::from_secs(30))
            .unwrap_or_else(|error| panic!("{error}"));
        cluster.lab.etcd().start().unwrap();
    });
    eventually("calico-node to be ready again", || ready(host));
    let late = cluster.add(1, "late");
    late.calicoctl("profile set P");
    let b: std::net::IpAddr = {
        let shown = cluster.lab.host(2).ok("docker exec wb ip -4 -o addr show eth1");
        shown.split_whitespace().find_map(|word| word.strip_suffix("/32")).unwrap().parse().unwrap()
    };
    assert!(late.reaches(b, SOON), "all heals by itself");
}
