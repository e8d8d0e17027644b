//! The README's chapters, run word for word: one host without etcd, a second one, the move to etcd, etcd with TLS. What
//! the package does on a host stands in `package.rs`.

use calico_e2e::{eventually, readme};
use calico_lab::{EtcdMode, Host, Lab, LabOptions, Output};

/// The lab tells its hosts of its etcd; a person has none at first.
const NOTHING_SET: &str = "unset ETCD_ENDPOINTS ETCD_CA_CERT_FILE ETCD_CERT_FILE ETCD_KEY_FILE; set -e";

/// Runs the blocks of a chapter on a host; what the last one did.
#[track_caller]
fn run(host: &Host, chapter: &str, change: impl Fn(&str) -> String) -> Output {
    let scripts = readme::scripts(chapter, host.name());
    let outputs = scripts.iter().map(|script| {
        let output = host.run(&format!("{NOTHING_SET}\n{}", change(script)));
        assert!(output.success(), "README, {chapter}, on {}:\n{script}\n\n{}", host.name(), output.text());
        output
    });
    outputs.last().expect("the chapter has a block, as was checked")
}

#[test]
fn from_one_host_without_etcd_to_two_with_it() {
    let lab = Lab::up(&LabOptions::hosts(2).with_node_image()).unwrap_or_else(|error| panic!("{error}"));
    let (host1, host2) = (lab.host(1), lab.host(2));

    let answer = run(host1, "One host in two minutes", str::to_owned);
    assert!(answer.stdout.contains("allowed"), "{}", answer.text());
    let denied = host1.run(&format!("{NOTHING_SET}; calicoctl why web db tcp 22"));
    assert_eq!(denied.code(), Some(3), "{}", denied.text());

    let invitation = run(host1, "A second host", str::to_owned).stdout;
    let line = invitation.lines().map(str::trim).find(|line| line.starts_with("calicoctl node --join="));
    let line = line.unwrap_or_else(|| panic!("no line to paste in:\n{invitation}"));
    run(host2, "A second host", |script| {
        let (_, rest) = script.split_once('\n').expect("the line to paste is not the last");
        format!("{line}\n{rest}")
    });
    let address = "docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}'";
    let web = host1.ok(&format!("{address} web"));
    eventually("a container of the second host to reach one of the first", || {
        host2.run(&format!("docker exec web2 ping -c 1 -W 1 {web}")).success()
    });

    run(host1, "Move to etcd", str::to_owned);
    assert!(!lab.etcd().keys("/calico/").unwrap_or_default().is_empty(), "etcd holds the cluster now");
    let seen = host2.run(&format!("{NOTHING_SET}; calicoctl node show")).text();
    assert!(seen.contains("host1") && seen.contains("host2"), "{seen}");
}

#[test]
fn etcd_with_tls_as_in_production() {
    let options = LabOptions { etcd: Some(EtcdMode::Tls), ..LabOptions::hosts(1) }.with_node_image();
    let lab = Lab::up(&options).unwrap_or_else(|error| panic!("{error}"));
    let said = run(lab.host(1), "Production: etcd with TLS, firewall, upgrade", str::to_owned).text();
    assert!(said.contains("Calico node started successfully"), "{said}");
}
