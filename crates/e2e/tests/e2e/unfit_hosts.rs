//! Hosts and datastores that are not what a node needs: each is refused with a clear message, and nothing changes.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use calico_e2e::{
    eventually,
    refused::{Case, FAILED, check, check_all},
    start_node,
    world::{World, datastore},
};
use calico_lab::{EtcdMode, Host, Lab, LabOptions};

/// A lab host without Docker, which finds the settings of its etcd in the environment.
fn bare(mode: EtcdMode) -> Lab {
    Lab::up(&LabOptions { etcd: Some(mode), ..LabOptions::bare(1) }).unwrap_or_else(|error| panic!("{error}"))
}

/// What a setting of the datastore must lead to, for a command and for the service alike.
fn check_settings(lab: &Lab, cases: &[(&str, &[&str])]) {
    let host = lab.host(1);
    // Leaves its run directory.
    host.fails("ETCD_ENDPOINTS=ftp://x calico-node run");
    let before = World::settled(lab, host);
    for (settings, says) in cases {
        for program in ["calicoctl profile show", "calicoctl container add /run/netns/x", "calico-node run"] {
            let command = format!("{settings} {program}");
            check(host, &Case(&command, FAILED, says));
            before.assert_same(&World::now(lab, host), &command);
        }
    }
    assert!(datastore(&lab.etcd()).is_empty());
}

#[test]
fn settings_of_a_datastore_without_tls() {
    let lab = bare(EtcdMode::Plain);
    let host = lab.host(1);
    host.ok("ip netns add x");
    check_settings(
        &lab,
        &[
            ("ETCD_ENDPOINTS=ftp://etcd:2379", &["ETCD_ENDPOINTS", "\"ftp\"", "http, https or unix"]),
            ("ETCD_ENDPOINTS=etcd:2379", &["ETCD_ENDPOINTS", "no scheme", "http://"]),
            ("ETCD_ENDPOINTS=http://etcd:2379,https://etcd:2379", &["ETCD_ENDPOINTS", "mixes http, https and unix"]),
            ("ETCD_ENDPOINTS=http://etcd", &["ETCD_ENDPOINTS", "address:port"]),
            ("ETCD_ENDPOINTS= ETCD_SCHEME=gopher", &["ETCD_SCHEME", "http or https"]),
            ("ETCD_ENDPOINTS=http://127.0.0.1:1", &["http://127.0.0.1:1 is unreachable", "refused"]),
            ("ETCD_ENDPOINTS=http://nowhere.invalid:2379", &["http://nowhere.invalid:2379 is unreachable", "lookup"]),
            ("ETCD_ENDPOINTS=https://etcd:2379", &["ETCD_CA_CERT_FILE", "needed with https", "PEM"]),
            (
                "ETCD_ENDPOINTS=https://etcd:2379 ETCD_CA_CERT_FILE=$(ls /etc/ssl/certs/*.pem | head -1)",
                &["https://etcd:2379 is unreachable", "not speak TLS"],
            ),
            ("ETCD_USERNAME=me", &["ETCD_PASSWORD", "needed too"]),
        ],
    );
    let said = host.fails("ETCD_USERNAME=me ETCD_PASSWORD=s3cret calicoctl profile show").text();
    assert!(said.contains("authentication is not enabled") && !said.contains("s3cret"), "{said}");
}

#[test]
fn certificates_that_do_not_fit() {
    let lab = bare(EtcdMode::Tls);
    let host = lab.host(1);
    host.ok("ip netns add x");
    host.ok("cd /etc/calico && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
             -keyout foreign-key.pem -out foreign.pem -subj /CN=foreign -days 1");
    host.ok("echo \"$(grep -o '^[0-9.]* etcd' /etc/hosts | cut -d' ' -f1) elsewhere\" >>/etc/hosts");
    let foreign = "ETCD_CERT_FILE=/etc/calico/foreign.pem ETCD_KEY_FILE=/etc/calico/foreign-key.pem";
    check_settings(
        &lab,
        &[
            ("ETCD_ENDPOINTS=http://etcd:2379", &["http://etcd:2379 is unreachable", "https://"]),
            ("ETCD_CA_CERT_FILE=", &["ETCD_CA_CERT_FILE", "needed with https"]),
            ("ETCD_CA_CERT_FILE=/nowhere/ca.pem", &["ETCD_CA_CERT_FILE", "/nowhere/ca.pem cannot be read"]),
            ("ETCD_CA_CERT_FILE=/etc/hosts", &["ETCD_CA_CERT_FILE", "/etc/hosts holds no certificate"]),
            ("ETCD_CA_CERT_FILE=/etc/calico/foreign.pem", &["not signed by the authority in ETCD_CA_CERT_FILE"]),
            ("ETCD_ENDPOINTS=https://elsewhere:2379", &["https://elsewhere:2379 is unreachable", "certificate"]),
            ("ETCD_CERT_FILE=", &["ETCD_CERT_FILE", "both or neither"]),
            ("ETCD_KEY_FILE=", &["ETCD_KEY_FILE", "both or neither"]),
            ("ETCD_CERT_FILE= ETCD_KEY_FILE=", &["client certificate", "ETCD_CERT_FILE"]),
            ("ETCD_KEY_FILE=/etc/calico/foreign-key.pem", &["does not fit the key /etc/calico/foreign-key.pem"]),
            ("ETCD_KEY_FILE=$ETCD_CERT_FILE", &["ETCD_KEY_FILE", "holds no private key"]),
            (foreign, &["ETCD_CERT_FILE", "/etc/calico/foreign.pem"]),
        ],
    );
}

/// Two hosts with Docker and the image; a container `w` on each, and nothing of ours anywhere.
fn two_hosts() -> Lab {
    let lab = Lab::up(&LabOptions::hosts(2).with_node_image()).unwrap_or_else(|error| panic!("{error}"));
    for host in lab.hosts() {
        host.ok("docker run --net=none --name=wl -tid ubuntu");
        // What the start does first; the rest must stay as it is.
        host.ok("echo 1 >/proc/sys/net/ipv6/conf/all/forwarding; mkdir -p /var/run/calico/lock /var/lib/calico \
             /etc/calico/bgp-secrets; \
             touch /var/run/calico/calico-node.lock");
    }
    lab
}

#[test]
fn a_host_that_cannot_be_a_node() {
    let lab = two_hosts();
    let (host1, host2) = (lab.host(1), lab.host(2));
    // Nobody has started yet.
    let nobody = ["The datastore is not initialised", "calicoctl node"];
    check_all(&lab, host1, &[Case("calicoctl container add wl", FAILED, &nobody)]);

    start_node(host1, "");
    let clash = format!("--ip={}", host1.ipv4());
    let in_use = [host1.ipv4().to_string(), "already in use by node host1".to_owned(), "--ip".to_owned()];
    let in_use: Vec<&str> = in_use.iter().map(String::as_str).collect();
    check_all(
        &lab,
        host2,
        &[
            Case("calicoctl container add wl", FAILED, &["Node host2 is not in the datastore", "calicoctl node"]),
            Case(&format!("calicoctl node {clash}"), FAILED, &in_use),
            Case(&format!("calicoctl node --runtime=none {clash}"), FAILED, &in_use),
        ],
    );
    taken_port_and_missing_bird(&lab, host2);
    without_docker(&lab, host2);

    // After all that the host becomes a node like any other.
    start_node(host2, "");
    host2.ok("calicoctl container add wl");
}

fn taken_port_and_missing_bird(lab: &Lab, host: &Host) {
    let squatter = host.spawn("exec busybox nc -ll -p 179 -e cat");
    eventually("the port to be taken", || host.run("ss -ltn").stdout.contains(":179"));
    let says = ["TCP port 179", "taken by busybox (process ", "hint: stop that program"];
    check(host, &Case("calico-node run", FAILED, &says));
    check_all(
        lab,
        host,
        &[
            Case("calicoctl node", FAILED, &says),
            Case("calicoctl node --runtime=none", FAILED, &says),
            Case("calico-node run", FAILED, &says),
        ],
    );
    drop(squatter);
    eventually("the port to be free", || !host.run("ss -ltn").stdout.contains(":179"));

    let cases = |says| [Case("calico-node run", FAILED, says)];
    host.ok("touch /run/nothing; mount --bind /run/nothing $(which bird)");
    check_all(lab, host, &cases(&["BIRD was not found", "/usr/sbin", "apt install bird2"]));
    host.ok("umount $(PATH=/usr/sbin which bird || echo /usr/sbin/bird)");
    host.ok("printf '#!/bin/sh\\necho BIRD version 1.6.8 >&2\\n' >/usr/local/sbin/bird; chmod +x /usr/local/sbin/bird");
    check_all(lab, host, &cases(&["/usr/local/sbin/bird is version 1.6.8", "version 2 is needed"]));
    host.ok("rm /usr/local/sbin/bird");
}

fn without_docker(lab: &Lab, host: &Host) {
    host.stop_docker().unwrap();
    let docker = ["Is the docker daemon running?", "systemctl start docker"];
    let cases = ["calicoctl node", "calicoctl container add wl", "calicoctl container wl ip add ipv4"];
    check_all(lab, host, &cases.map(|command| Case(command, FAILED, &docker)));
    let status = host.fails("calicoctl status");
    assert!(status.text().starts_with("calico-node container not running\n"), "{}", status.text());
    host.start_docker().unwrap();
    host.ok("docker start wl");
}

#[test]
fn a_datastore_that_does_not_answer_or_is_not_ready() {
    let lab = two_hosts();
    let (host1, host2, etcd) = (lab.host(1), lab.host(2), lab.etcd());
    start_node(host1, "");
    host1.ok("docker run --net=none --name=added -tid ubuntu; calicoctl container add added; calicoctl profile add P");

    let cluster = "/calico/resources/v3/projectcalico.org/clusterinformations/default";
    let ready = etcd.get(cluster).unwrap().unwrap();
    etcd.put(cluster, &ready.replace("\"datastoreReady\":true", "\"datastoreReady\":false")).unwrap();
    let not_ready = ["The datastore is not ready", "datastoreReady"];
    check_all(
        &lab,
        host1,
        &[
            Case("calicoctl container add wl", FAILED, &not_ready),
            Case("calicoctl container added ip add ipv4", FAILED, &not_ready),
        ],
    );
    etcd.put(cluster, &ready).unwrap();

    let commands = [
        (host1, "calicoctl container add wl"),
        (host1, "calicoctl container remove added"),
        (host1, "calicoctl container added ip add ipv4"),
        (host1, "calicoctl container added profile set P"),
        (host1, "calicoctl profile add Q"),
        (host1, "calicoctl endpoint show"),
        (host1, "calicoctl node show"),
        (host2, "calicoctl node"),
        (host2, "calicoctl node --runtime=none"),
        (host2, "calico-node run"),
    ];
    let location = etcd.endpoints();
    let says = [location.as_str(), "unreachable", "etcd"];
    host2.run("ETCD_ENDPOINTS=ftp://x calico-node run");
    let before = [host1, host2].map(|host| (host, World::settled(&lab, host)));
    for hangs in [false, true] {
        if hangs {
            etcd.pause().unwrap()
        } else {
            etcd.kill().unwrap()
        }
        // Each waits as long as an answer may take.
        for (host, command) in if hangs { &commands[6..] } else { &commands[..] } {
            check(host, &Case(command, FAILED, &says));
        }
        let status = host1.run("calicoctl status");
        assert!(status.text().contains("Error connecting to etcd."), "{}", status.text());
        if hangs {
            etcd.resume().unwrap()
        } else {
            etcd.start().unwrap()
        }
        for (host, before) in &before {
            before.assert_same(&World::now(&lab, host), "all commands without a datastore");
        }
    }
    // It heals without anybody's doing.
    host1.ok("calicoctl container add wl");
    eventually("the endpoint's rules", || host1.ok("nft list map ip calico wl-to").matches("cali").count() >= 2);
    let quick = host1.command("ETCD_ENDPOINTS=http://127.0.0.1:1 calicoctl profile show").output().unwrap();
    assert!(
        quick.elapsed < Duration::from_secs(3),
        "a refused connection is said at once, not after {:?}",
        quick.elapsed
    );
}
