//! The README's chapters, run word for word: one host without etcd, a second one, the move to etcd, etcd with TLS. What
//! the package does on a host stands in `package.rs`.

use calico_e2e::{eventually, readme};
use calico_lab::{EtcdMode, Host, Lab, LabOptions, Output};

const PRODUCTION: &str = "Production: etcd with TLS, firewall, upgrade";
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
    // All that follows works behind the firewall of the last chapter.
    lab.hosts().iter().for_each(raise_firewall);

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
    vxlan_passes(host1, host2, &web);
    what_is_not_named_is_closed(host1, host2);
}

/// The chapter's firewall, with the addresses of the lab's hosts for those of the example.
#[track_caller]
fn raise_firewall(host: &Host) {
    const EXAMPLE: &str = "10.0.0.0/24";
    let subnet = host.ok("ip -4 route show dev eth0 proto kernel | cut -d' ' -f1");
    for script in readme::scripts(PRODUCTION, "hosts") {
        assert_eq!(script.matches(EXAMPLE).count(), 1, "{script}");
        host.ok(&script.replace(EXAMPLE, subnet.trim()));
    }
}

/// With the pool in VXLAN a container of the second host still reaches one of the first, by the tunnel.
fn vxlan_passes(host1: &Host, host2: &Host, web: &str) {
    let change = "calicoctl patch ippool default-ipv4-ippool -p '{\"spec\":{\"vxlanMode\":\"Always\"}}'";
    host1.ok(&format!("{NOTHING_SET}\n{change}"));
    eventually("the way to go through the tunnel", || {
        host2.run(&format!("ip route get {}", web.trim())).stdout.contains("vxlan.calico")
    });
    eventually("an answer through the tunnel", || {
        host2.run(&format!("docker exec web2 ping -c 1 -W 1 {}", web.trim())).success()
    });
}

/// A port that the firewall does not name: open inside the host, closed from another one, and open when there is no
/// firewall.
fn what_is_not_named_is_closed(host1: &Host, host2: &Host) {
    let _server = host1.spawn("exec busybox httpd -f -p 8099 -h /etc");
    let fetch = |address: &str| format!("curl -s -o /dev/null -m 2 http://{address}:8099/passwd");
    eventually("the server to answer its own host", || host1.run(&fetch("127.0.0.1")).success());
    let from_outside = fetch(&host1.ipv4().to_string());
    assert_eq!(host2.run(&from_outside).code(), Some(28), "curl says that the time is up");
    host1.ok("nft delete table inet firewall");
    eventually("the port to be open without the firewall", || host2.run(&from_outside).success());
}

#[test]
fn etcd_with_tls_as_in_production() {
    let options = LabOptions { etcd: Some(EtcdMode::Tls), ..LabOptions::hosts(1) }.with_node_image();
    let lab = Lab::up(&options).unwrap_or_else(|error| panic!("{error}"));
    raise_firewall(lab.host(1));
    let said = run(lab.host(1), PRODUCTION, str::to_owned).text();
    assert!(said.contains("Calico node started successfully"), "{said}");
}

#[test]
fn blocks_carry_their_host_and_chapter() {
    let text = "# T\n## One\n```sh host1\na\nb <<END\n# x\nEND\n```\n```yaml\nc: d\n```\n## Two\n```sh host2\ne\n```\n";
    let blocks = readme::parse(text);
    let shown: Vec<_> = blocks.iter().map(|b| (b.chapter.as_str(), b.host.as_str(), b.script.as_str())).collect();
    assert_eq!(shown, [("One", "host1", "a\nb <<END\n# x\nEND"), ("Two", "host2", "e")]);
}

#[test]
fn every_block_runs_somewhere() {
    let blocks = readme::blocks();
    assert!(blocks.len() >= 8, "{} blocks", blocks.len());
    for block in blocks {
        assert!(["host1", "host2", "hosts", "debian"].contains(&block.host.as_str()), "{block:?}");
    }
}
