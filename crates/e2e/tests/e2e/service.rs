//! The service: straight on a host, three hosts, TLS, ordered stop.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use calico_e2e::{Cluster, SOON, Workload, assert_matrix, eventually, start_node, trio::NODE};
use calico_lab::{EtcdMode, Host, Lab, LabOptions, Pinger, wait_for};
use serde_json::Value;

/// Name, state and since of each BGP session of a host.
fn sessions(host: &Host) -> Vec<(String, String)> {
    let shown = host.ok("docker exec calico-node birdc -s /var/run/calico/bird.ctl show protocols");
    shown
        .lines()
        .filter(|line| line.contains(" BGP "))
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            (words[0].to_owned(), words[4].to_owned())
        })
        .collect()
}

#[test]
fn a_third_host_joins_and_leaves_without_a_flap() {
    let lab = Lab::up(&LabOptions::hosts(3).with_node_image()).unwrap();
    start_node(lab.host(1), NODE);
    start_node(lab.host(2), NODE);
    let cluster = Cluster { lab };
    eventually("the sessions of two, one of each family", || {
        cluster.lab.host(1).ok("calicoctl status").matches("Established").count() == 2
    });
    let (a, b) = (cluster.add(1, "wa"), cluster.add(2, "wb"));
    cluster.lab.host(1).ok("calicoctl profile add P");
    a.calicoctl("profile set P");
    b.calicoctl("profile set P");
    assert_matrix(&[&a, &b], &[("wa", "wb"), ("wb", "wa")]);
    let before = sessions(cluster.lab.host(1));
    let pings = Pinger::start(cluster.lab.host(1), "wa", b.ip()).unwrap();

    start_node(cluster.lab.host(3), NODE);
    cluster.wait_for_mesh();
    let c = cluster.add(3, "wc");
    c.calicoctl("profile set P");
    let all = [("wa", "wb"), ("wb", "wa"), ("wa", "wc"), ("wc", "wa"), ("wb", "wc"), ("wc", "wb")];
    assert_matrix(&[&a, &b, &c], &all);

    let host3 = cluster.lab.host(3);
    host3.fails("calicoctl node remove");
    let refused = host3.fails("calicoctl node stop");
    assert!(refused.text().contains("active endpoints"), "{}", refused.text());
    host3.ok("calicoctl container remove wc");
    host3.ok("calicoctl node stop");
    host3.ok("calicoctl node remove");
    eventually("host3 to leave the mesh", || sessions(cluster.lab.host(1)).len() == before.len());
    assert!(cluster.datastore().keys().all(|key| !key.contains("host3")), "{:?}", cluster.datastore().keys());

    let same = |one: &str, other: &str| (one.parse::<f64>().unwrap() - other.parse::<f64>().unwrap()).abs() < 0.05;
    for ((name, since), (now_name, now_since)) in before.iter().zip(sessions(cluster.lab.host(1))) {
        assert!(
            *name == now_name && same(since, &now_since),
            "{name} was up since {since}, now {now_name} {now_since}"
        );
    }
    let report = pings.stop();
    assert!(report.lost.is_empty(), "lost {} of {}", report.lost.len(), report.sent);
}

#[test]
fn straight_on_the_host() {
    let lab = Lab::up(&LabOptions::hosts(2).with_node_image()).unwrap();
    let (host1, host2) = (lab.host(1), lab.host(2));
    let prepared = host1.ok("calicoctl node --runtime=none");
    assert!(prepared.contains("calico-node run"), "{prepared}");
    let mut service = host1.spawn("exec calico-node run");
    eventually("the service to be ready", || host1.run("calico-node health").success());
    start_node(host2, "");

    let second = host1.fails("calico-node run");
    assert!(second.text().contains("already"), "{}", second.text());
    let container = host1.fails("calicoctl node");
    assert!(container.text().contains("already runs on this host, outside Docker"), "{}", container.text());
    assert!(host1.ok("docker ps -aq").is_empty(), "never two");

    let health: Value = serde_json::from_str(&host1.ok("calico-node health -o json")).unwrap();
    assert_eq!(health["ready"], true);
    for name in ["bird", "confd", "felix", "libnetwork"] {
        let components = health["components"].as_array().unwrap();
        assert!(components.iter().any(|component| component["name"] == name), "{name}: {health}");
        assert!(host1.path(format!("/var/log/calico/{name}/current")).exists(), "log of {name}");
    }

    let (mut a, mut b) = (run(host1, "wa"), run(host2, "wb"));
    a.add("");
    b.add("");
    host1.ok("calicoctl profile add P");
    a.calicoctl("profile set P");
    b.calicoctl("profile set P");
    assert_matrix(&[&a, &b], &[("wa", "wb"), ("wb", "wa")]);

    // An ordered stop and a new start disturb nothing.
    let (there, back) = (Pinger::start(host1, "wa", b.ip()).unwrap(), Pinger::start(host2, "wb", a.ip()).unwrap());
    service.signal(rustix::process::Signal::TERM);
    let ended = service.wait(Duration::from_secs(15)).unwrap();
    assert!(ended.success(), "{}", ended.text());
    assert!(host1.fails("pgrep -x bird").stdout.is_empty(), "nothing is left running");
    service = host1.spawn("exec calico-node run");
    eventually("the service to be ready again", || host1.run("calico-node health").success());
    for report in [there.stop(), back.stop()] {
        assert!(report.lost.is_empty(), "lost {} of {}: {:?}", report.lost.len(), report.sent, report.lost);
    }
    drop(service);
}

fn run<'a>(host: &'a Host, name: &'static str) -> Workload<'a> {
    host.ok(&format!("docker run --net=none --name={name} -tid ubuntu"));
    Workload { host, name, addresses: Vec::new() }
}

#[test]
fn etcd_with_tls_and_client_certificates() {
    let options = LabOptions { etcd: Some(EtcdMode::Tls), ..LabOptions::hosts(2).with_node_image() };
    let cluster = Cluster { lab: Lab::up(&options).unwrap() };
    for host in cluster.lab.hosts() {
        start_node(host, "");
    }
    let (a, b) = (cluster.add(1, "wa"), cluster.add(2, "wb"));
    cluster.lab.host(1).ok("calicoctl profile add P");
    a.calicoctl("profile set P");
    b.calicoctl("profile set P");
    assert_matrix(&[&a, &b], &[("wa", "wb"), ("wb", "wa")]);
    let plain = cluster.lab.host(1).ok("echo $ETCD_ENDPOINTS").replace("https", "http");
    let said = cluster.lab.host(1).fails(&format!("ETCD_ENDPOINTS={} calicoctl profile show", plain.trim()));
    assert!(said.text().contains("unreachable"), "{}", said.text());
    let said = cluster.lab.host(1).fails("ETCD_CERT_FILE= ETCD_KEY_FILE= calicoctl profile show");
    assert!(said.text().contains("certificate"), "{}", said.text());
    let process = cluster.lab.host(1).ok("docker inspect calico-node; docker logs calico-node 2>&1");
    assert!(!process.contains("PRIVATE KEY"), "a secret was shown");
}

#[test]
fn status_and_shows_in_every_form() {
    let cluster = Cluster::up(2, "--as=64999");
    let a = cluster.add(1, "wa");
    let host = cluster.lab.host(1);
    host.ok("calicoctl profile add P");
    a.calicoctl("profile set P");
    cluster.wait_for_mesh();
    for command in [
        "calicoctl endpoint show",
        "calicoctl endpoint show --detailed",
        "calicoctl container wa endpoint show",
        "calicoctl profile show",
        "calicoctl profile show --detailed",
        "calicoctl node show",
        "calicoctl status",
        "calicoctl version",
    ] {
        let table = host.ok(command);
        assert!(!table.trim().is_empty(), "{command}");
        let json: Value = serde_json::from_str(&host.ok(&format!("{command} -o json")))
            .unwrap_or_else(|error| panic!("{command} -o json: {error}"));
        assert!(!json.is_null());
        assert!(host.ok(&format!("{command} -o yaml")).contains(':') || command.ends_with("profile show"), "{command}");
    }
    wait_for(SOON, "the AS number to be shown", || {
        let shown = host.ok("calicoctl node show");
        if shown.matches("64999").count() >= 2 { Ok(()) } else { Err(shown) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
    host.ok("calicoctl container remove wa");
    host.ok("calicoctl node stop");
    let stopped = host.fails("calicoctl status");
    assert_eq!(stopped.code(), Some(1));
    assert!(stopped.text().contains("calico-node container not running"), "{}", stopped.text());
}
