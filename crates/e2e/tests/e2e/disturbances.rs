//! Restarts, kills and a dead datastore, while traffic runs.
#![allow(clippy::unwrap_used)]

use std::{
    thread,
    time::{Duration, Instant},
};

use calico_e2e::{
    SOON, eventually, start_node,
    trio::{NODE, Trio, is_ready},
};
use calico_lab::{Host, wait_until};

/// How long an outage of the datastore lasts.
const OUTAGE: Duration = Duration::from_secs(30);

fn pid_of(host: &Host, pattern: &str) -> Option<u32> {
    host.run(&format!("pgrep -o {pattern}")).stdout.trim().parse().ok()
}

/// The containers of the service on a host, running or not.
fn services(host: &Host) -> Vec<String> {
    let listed = host.ok("docker ps -a --filter name=calico-node --format '{{.Names}} {{.State}}'");
    listed.lines().map(str::to_owned).collect()
}

#[test]
fn restarts_and_kills_lose_nothing() {
    let trio = Trio::up();
    let host = trio.host();
    trio.undisturbed("docker restart calico-node", || {
        host.ok("docker restart calico-node");
        eventually("calico-node to be ready again", || is_ready(host));
    });
    // The second comes while peers still keep what they had before the first.
    trio.undisturbed("docker restart calico-node twice in a row", || {
        host.ok("docker restart calico-node && docker restart calico-node");
        eventually("calico-node to be ready again", || is_ready(host));
    });
    for (name, pattern) in [("felix", "-x calico-felix"), ("confd", "-f '[c]alico-node confd'"), ("bird", "-x bird")] {
        trio.undisturbed(&format!("kill -9 of {name}"), || {
            let old = pid_of(host, pattern).unwrap();
            host.ok(&format!("kill -9 {old}"));
            eventually(&format!("another {name}"), || pid_of(host, pattern).is_some_and(|pid| pid != old));
            eventually("calico-node to be ready again", || is_ready(host));
        });
    }
    trio.undisturbed("kill -9 of the supervisor", || {
        let old = host.ok("docker inspect -f '{{.State.Pid}}' calico-node").trim().to_owned();
        host.ok(&format!("kill -9 {old}"));
        eventually("Docker to start it again", || is_ready(host));
        assert_eq!(host.ok("pgrep -x bird").lines().count(), 1, "the old bird ended with its supervisor");
    });
}

/// `calicoctl node` on a host that is a node replaces the container, also when two people do it at the same moment;
/// what is started past it is refused.
#[test]
fn there_are_never_two_services() {
    let trio = Trio::up();
    let host = trio.host();
    let id = || host.ok("docker inspect -f '{{.Id}}' calico-node");
    let before = id();
    trio.undisturbed("calicoctl node again", || start_node(host, NODE));
    assert_ne!(id(), before, "the container was replaced");
    assert_eq!(services(host), ["calico-node running"]);

    trio.undisturbed("calicoctl node twice at once", || {
        let outcomes = thread::scope(|scope| {
            let runs = [(); 2].map(|()| {
                scope.spawn(|| host.run(&format!("calicoctl node {}", NODE.replace("{ip6}", &host.ipv6().to_string()))))
            });
            runs.map(|run| run.join().unwrap())
        });
        assert!(outcomes.iter().any(calico_lab::Output::success), "both failed: {outcomes:#?}");
        eventually("calico-node to be ready again", || is_ready(host));
    });
    assert_eq!(services(host), ["calico-node running"]);
    assert_eq!(host.ok("pgrep -x bird").lines().count(), 1);

    trio.undisturbed("a second one started by hand", || {
        let run = |options: &str| {
            let common = "docker run --rm --net=host --privileged -e ETCD_ENDPOINTS";
            host.fails(&format!("{common} {options} calico/node"))
        };
        let refused = run("-v /var/run/calico:/var/run/calico").text();
        assert!(refused.contains("another calico-node already serves this host"), "{refused}");
        // Its own run directory hides the lock; the ports of the first one are still there.
        let refused = run("").text();
        assert!(refused.contains("the health port 127.0.0.1:9099 cannot be opened"), "{refused}");
        let refused = run("-e CALICO_HEALTH_PORT=9098").text();
        assert!(refused.contains("port 179") && refused.contains("taken"), "{refused}");
    });
    assert_eq!(services(host), ["calico-node running"]);
    assert!(is_ready(host));
}

#[test]
fn a_dead_datastore_stops_nothing() {
    let trio = Trio::up();
    let host = trio.host();
    let etcd = trio.cluster.lab.etcd();
    trio.undisturbed("etcd stopped for 30 s", || {
        let down = Instant::now();
        etcd.kill().unwrap();
        let asked = host.fails("calicoctl profile show");
        assert!(asked.elapsed < Duration::from_secs(10), "it took {:?}", asked.elapsed);
        assert!(asked.text().contains("unreachable"), "{}", asked.text());
        let add = host.fails("calicoctl container add wa");
        assert!(add.text().contains("unreachable"), "{}", add.text());
        eventually("the health to name it", || {
            host.run("docker exec calico-node calico-node health").text().contains("unreachable")
        });
        // A restart of one agent meanwhile must not delete what it cannot read.
        host.ok("pkill -9 -x calico-felix");
        wait_until(OUTAGE * 2, "thirty seconds without etcd", || down.elapsed() > OUTAGE).unwrap();
        etcd.start().unwrap();
    });
    eventually("calico-node to be ready again", || is_ready(host));
    let late = trio.cluster.add(1, "late");
    late.calicoctl("profile set P");
    assert!(late.reaches(trio.b[0], SOON), "all heals by itself");

    // A datastore that keeps its connections but does not answer, and a service that is restarted meanwhile.
    trio.undisturbed("etcd hung", || {
        etcd.pause().unwrap();
        let asked = host.fails("calicoctl profile show");
        assert!(asked.text().contains("unreachable"), "{}", asked.text());
        host.ok("docker restart calico-node");
        eventually("another bird", || pid_of(host, "-x bird").is_some());
        etcd.resume().unwrap();
        eventually("calico-node to be ready again", || is_ready(host));
    });
    let later = trio.cluster.add(1, "later");
    later.calicoctl("profile set P");
    assert!(later.reaches(trio.b[0], SOON), "all heals by itself");
}
