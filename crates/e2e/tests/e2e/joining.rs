//! From one host to many without an etcd: the first host keeps the datastore, others are invited and join, the first one
//! goes down and comes back, one host is shut out and comes back; traffic and policy stay as they are throughout.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use calico_e2e::{SOON, eventually};
use calico_lab::{Host, Lab, LabOptions, Pinger, Running, wait_for};
use serde_json::Value;

/// Starts the service on a host and waits until it is ready.
#[track_caller]
fn start(host: &Host) -> Running {
    let service = host.spawn("CALICO_LIBNETWORK=false exec calico-node run");
    wait_for(SOON * 3, "the service to be ready", || {
        let said = host.run("calico-node health");
        if said.success() { Ok(()) } else { Err(said.text()) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
    service
}

/// The line that the first host prints.
fn invite(host: &Host) -> String {
    let invitation: Value = serde_json::from_str(&host.ok("calicoctl node invite -o json")).unwrap();
    invitation["command"].as_str().unwrap().to_owned()
}

/// A container in a profile, and its address.
fn container(host: &Host, name: &str, profile: &str) -> IpAddr {
    host.ok(&format!("docker run --net=none --name={name} -tid ubuntu"));
    let said = host.ok(&format!("calicoctl container add {name}"));
    host.ok(&format!("calicoctl container {name} profile set {profile}"));
    said.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn listens(host: &Host) -> bool {
    host.ok("ss -Hltn 'sport = :2379'").contains(":2379")
}

#[test]
fn hosts_join_outlive_the_first_one_and_are_shut_out() {
    let lab = Lab::up(&LabOptions { etcd: None, ..LabOptions::hosts(3) }).unwrap();
    let (first, second, third) = (lab.host(1), lab.host(2), lab.host(3));
    let said = second.fails("calicoctl node invite");
    assert!(said.text().contains("does not run"), "{}", said.text());
    let service = start(first);
    assert!(!listens(first), "nobody was invited");
    let line = invite(first);
    assert!(listens(first));

    // What is wrong is told, and leaves nothing on the host.
    let wrong = line.replace("--ca-fingerprint=sha256:", "--ca-fingerprint=sha256:00");
    let said = second.fails(&format!("{wrong} --runtime=none"));
    assert!(said.text().contains("64 hexadecimal digits"), "{}", said.text());
    let (before, print) = line.split_once("sha256:").unwrap();
    let other: String = print.chars().map(|digit| if digit == '0' { '1' } else { '0' }).collect();
    let said = second.fails(&format!("{before}sha256:{other} --runtime=none"));
    assert!(said.text().contains("nothing was sent to it"), "{}", said.text());
    let token = line.split("--token=").nth(1).unwrap().split(' ').next().unwrap();
    let said = second.fails(&format!("{} --runtime=none", line.replace(token, &"0".repeat(40))));
    assert!(said.text().contains("knows no invitation with this token"), "{}", said.text());
    assert!(second.read("/var/lib/calico/datastore/location.env").is_err());

    let said = second.ok(&format!("{line} --runtime=none"));
    assert!(said.contains("Joined the datastore of host host1"), "{said}");
    assert_eq!(second.ok("stat -c %a /var/lib/calico/datastore/location.env").trim(), "600");
    let said = third.fails(&format!("{line} --runtime=none"));
    assert!(said.text().contains("used already, by host host2"), "{}", said.text());
    // The token may be typed.
    let line = invite(first);
    let token = line.split("--token=").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    third.ok(&format!("echo {token} | {} --runtime=none", line.replace(&token, "-")));
    let _second_service = start(second);
    let third_service = start(third);

    for profile in ["friends", "strangers"] {
        first.ok(&format!("calicoctl profile add {profile}"));
    }
    let left = container(second, "left", "friends");
    let right = container(third, "right", "friends");
    container(second, "spy", "strangers");
    let trial = Pinger::start(second, "left", right).unwrap();
    eventually("left to reach right", || trial.received() > 10);
    trial.stop();
    let allowed = Pinger::start(second, "left", right).unwrap();
    let denied = Pinger::start(second, "spy", right).unwrap();

    // The first host's service is gone, the datastore with it.
    service.signal(rustix::process::Signal::KILL);
    eventually("the datastore to be gone", || !listens(first));
    let said = second.fails("calicoctl profile show");
    assert!(said.text().contains("unreachable"), "{}", said.text());
    let far = allowed.received() + 200;
    eventually("pings to go on without the datastore", || allowed.received() >= far);
    let _service = start(first);
    for host in [second, third] {
        eventually("the datastore to be back", || host.run("calicoctl profile show").success());
        eventually("the service to be ready again", || host.run("calico-node health").success());
    }
    container(third, "late", "friends");

    // A host is shut out at once, and its traffic goes on; it comes back by a new invitation.
    let said = first.ok("calicoctl node revoke host3");
    assert!(said.contains("Host host3 is shut out"), "{said}");
    let said = third.fails("calicoctl profile show");
    assert!(said.text().contains("node revoke"), "{}", said.text());
    assert!(first.ok("calicoctl datastore status").contains("shut out"));
    let far = allowed.received() + 100;
    eventually("pings to go on with the host shut out", || allowed.received() >= far);
    drop(third_service);
    third.ok(&format!("{} --runtime=none", invite(first)));
    let _third_service = start(third);
    assert!(third.ok("calicoctl profile show").contains("friends"));

    let (allowed, denied) = (allowed.stop(), denied.stop());
    assert_eq!(allowed.lost, [], "{} of {} pings lost", allowed.lost.len(), allowed.sent);
    assert_eq!(denied.received, 0, "of {} pings", denied.sent);
    let again = Pinger::start(third, "right", left).unwrap();
    eventually("right to reach left", || again.received() > 3);
}
