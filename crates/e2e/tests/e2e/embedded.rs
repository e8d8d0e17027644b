//! One host without etcd: calico-node keeps the datastore, and whatever dies, nothing is lost.
#![allow(clippy::unwrap_used)]

use std::{
    net::IpAddr,
    panic::{catch_unwind, resume_unwind},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use calico_e2e::{Cluster, assert_closes_to, assert_matrix, eventually, start_node};
use calico_lab::{Host, Lab, LabOptions, Pinger, wait_for};
use serde_json::Value;

/// Where calico-node serves the datastore.
const ETCDCTL: &str = "env ETCDCTL_API=3 etcdctl --endpoints unix:///var/run/calico/datastore.sock";
/// Where it keeps it.
const FOLDER: &str = "/var/lib/calico/datastore";
/// A service that Docker starts again waits a little first.
const AGAIN: Duration = Duration::from_secs(90);

fn one_host(docker: bool) -> Cluster {
    let options = LabOptions { etcd: None, docker, ..LabOptions::hosts(1) };
    let options = if docker { options.with_node_image() } else { options };
    Cluster { lab: Lab::up(&options).unwrap_or_else(|error| panic!("{error}")) }
}

/// The process that keeps the datastore, if it does.
fn keeper(host: &Host) -> Option<u64> {
    let health: Value = serde_json::from_str(&host.run("calico-node health -o json").stdout).ok()?;
    let components = health["components"].as_array()?;
    let component = components.iter().find(|component| component["name"] == "datastore")?;
    component["pid"].as_u64().filter(|_| component["ready"] == true)
}

/// Its number outside of its container.
fn keeper_outside(host: &Host) -> Option<u32> {
    let processes = host.run("docker top calico-node -eo pid,args").stdout;
    let line = processes.lines().find(|line| line.contains("calico-node datastore"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[track_caller]
fn wait_until_well(host: &Host) {
    wait_for(AGAIN, "the service to be ready", || {
        let status: Value = serde_json::from_str(&host.run("calico-node health -o json").stdout).unwrap_or_default();
        if status["ready"] == true { Ok(()) } else { Err(status.to_string()) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn one_host_without_etcd_word_for_word_and_whatever_dies() {
    let cluster = one_host(true);
    let host = cluster.lab.host(1);
    let refused = host.fails("calicoctl profile show").text();
    assert!(refused.contains("calico-node, which keeps the datastore of this host, does not run"), "{refused}");
    assert!(refused.contains("calicoctl node"), "the way out: {refused}");

    let said = host.ok("calicoctl node");
    assert!(said.contains("no ETCD_ENDPOINTS: this host keeps the datastore, in /var/lib/calico/datastore"), "{said}");
    assert!(said.contains("calicoctl node invite") && said.contains("Calico node started successfully"), "{said}");
    let (mut a, mut b) = (cluster.run(1, "workload_A"), cluster.run(1, "workload_B"));
    a.add("");
    b.add("");
    assert_matrix(&[&a, &b], &[]);
    host.ok("calicoctl profile add PROF_A_B");
    host.ok("calicoctl container workload_A profile set PROF_A_B");
    host.ok("calicoctl container workload_B profile set PROF_A_B");
    assert_matrix(&[&a, &b], &[("workload_A", "workload_B"), ("workload_B", "workload_A")]);

    it_is_for_root_alone_and_reached_as_an_etcd(host);
    nothing_is_lost_whatever_dies(host, b.ip());

    assert_matrix(&[&a, &b], &[("workload_A", "workload_B"), ("workload_B", "workload_A")]);
    host.ok("calicoctl container workload_B profile remove PROF_A_B");
    assert_closes_to(&[&a, &b], &[]);
    host.ok("calicoctl ipam check");
}

fn it_is_for_root_alone_and_reached_as_an_etcd(host: &Host) {
    assert_eq!(host.ok("stat -c %a /var/run/calico/datastore.sock").trim(), "600");
    assert_eq!(host.ok(&format!("stat -c %a {FOLDER}")).trim(), "700");
    let listening = host.ok("ss -Hltn 'sport = 2379'");
    assert_eq!(listening.trim(), "", "nothing listens on TCP until somebody asks");
    let keys = host.ok(&format!("{ETCDCTL} get --prefix --keys-only /calico/resources/v3/projectcalico.org/nodes"));
    assert!(keys.contains("/nodes/"), "{keys}");
    let status = host.ok("calicoctl status");
    assert!(status.contains("kept by this host in /var/lib/calico/datastore"), "{status}");
}

/// 100 pings a second, and commands that write, while processes are killed and started again.
fn nothing_is_lost_whatever_dies(host: &Host, to: IpAddr) {
    let pings = Pinger::start(host, "workload_A", to).unwrap();
    let is_over = AtomicBool::new(false);
    let acknowledged = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut acknowledged = Vec::new();
            for number in 0.. {
                if is_over.load(Ordering::SeqCst) {
                    break;
                }
                if host.run(&format!("{ETCDCTL} --command-timeout=5s put /test/{number}/ 1")).success() {
                    acknowledged.push(number);
                }
            }
            acknowledged
        });
        let disturbed = catch_unwind(|| disturb(host));
        is_over.store(true, Ordering::SeqCst);
        let acknowledged = writer.join().unwrap();
        disturbed.unwrap_or_else(|panic| resume_unwind(panic));
        acknowledged
    });
    let kept = host.ok(&format!("{ETCDCTL} get --prefix --keys-only /test/"));
    assert!(!acknowledged.is_empty());
    for number in acknowledged {
        assert!(kept.contains(&format!("/test/{number}/")), "{number} was acknowledged: {kept}");
    }
    let report = pings.stop();
    assert!(report.lost.is_empty() && report.sent > 100, "{report:?}");
}

fn disturb(host: &Host) {
    for _ in 0..3 {
        let before = keeper(host);
        assert!(before.is_some(), "{}", host.run("calico-node health").text());
        host.ok(&format!("kill -9 {}", keeper_outside(host).unwrap()));
        eventually("another datastore process", || keeper(host).is_some_and(|now| Some(now) != before));
    }
    wait_until_well(host);
    host.ok("docker kill -s KILL calico-node");
    host.ok("docker start calico-node");
    wait_until_well(host);
    host.ok("docker restart calico-node");
    wait_until_well(host);
    start_node(host, "");
    wait_until_well(host);
}

/// A datastore that cannot be had says why, in the words of `calicoctl` and of the service, and is left as it is.
#[test]
fn a_datastore_that_cannot_be_had_says_why() {
    let cluster = one_host(false);
    let host = cluster.lab.host(1);
    host.ok(&format!("mkdir -p -m 700 {FOLDER} && printf 'no database' > {FOLDER}/data.redb"));
    let damaged = host.fails("calico-node run").text();
    assert!(damaged.contains("the datastore of this host does not start") && damaged.contains("damaged"), "{damaged}");
    assert_eq!(host.ok(&format!("cat {FOLDER}/data.redb")), "no database", "it is left as it is");
    host.ok(&format!("rm {FOLDER}/data.redb"));

    let alone = host.spawn("exec calico-node datastore --name h1 --socket /run/other.sock --admin-socket /run/oa.sock");
    eventually("the other datastore", || host.run("test -S /run/other.sock").success());
    let locked = host.fails("calico-node run").text();
    assert!(locked.contains("in use by") && locked.contains("only one calico-node on a datastore"), "{locked}");
    drop(alone);

    let elsewhere = "exec calico-node datastore --name h1 --dir /tmp/other --admin-socket /run/oa.sock";
    let stranger = host.spawn(elsewhere);
    eventually("the stranger's socket", || host.run("test -S /var/run/calico/datastore.sock").success());
    let taken = host.fails("calico-node run").text();
    assert!(taken.contains("/var/run/calico/datastore.sock is served by calico-node (process"), "{taken}");
    drop(stranger);
}
