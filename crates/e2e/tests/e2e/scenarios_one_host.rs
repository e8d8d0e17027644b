//! The system tests that the classic tool had: those that need one host, and the list of all.
//!
//! Each of the 31 is here with the real components, also those that the old suite left out or only had a name for:
//!
//! | # | what | test |
//! |---|---|---|
//! | 1 | `checksystem` before anything runs | `one_host`: [`the_system_is_checked`] |
//! | 2 | `diags` before anything runs | `one_host`: [`diagnostics_are_an_archive`] |
//! | 3 | `endpoint` (had no content): who is where | `two_hosts`: `endpoints_are_found_by_what_is_known_of_them` |
//! | 4 | encapsulated traffic between hosts | `two_hosts`: `a_pool_with_vxlan_is_tunnelled` |
//! | 5 | a node finds its address by itself | `one_host`: [`the_node_finds_its_address`] |
//! | 6 | `--node-image` | `one_host`: [`the_image_is_the_one_asked_for`] |
//! | 7 | `node stop --force` with endpoints | `one_host`: [`a_node_with_endpoints_stops_by_force_only`] |
//! | 8 | pools come and go | `one_host`: [`pools_come_and_go`] |
//! | 9 | one container with the profiles of two others | `two_hosts`: `between_two_profiles` |
//! | 10 | profiles on five containers of two hosts | `two_hosts`: `five_containers_and_three_profiles` |
//! | 11 | profiles of an endpoint set, appended, removed | `two_hosts`: `profiles_of_an_endpoint_change` |
//! | 12, 13 | `status` with and without a node | `classic`: `status_and_addresses_in_order_and_not_used_again` |
//! | 14 to 17 | addresses from the pools, in order | the same |
//! | 18 | addresses on an interface of one's choice | `one_host`: [`addresses_on_a_named_interface`] |
//! | 19 | the same with containers that are started anew | `classic`: `addresses_on_a_chosen_interface_and_restarted_containers` |
//! | 20 | from a container to its host | `classic`: `a_single_host` |
//! | 21 | interfaces (had no content): names and neighbours | `one_host`: [`interfaces_stand_beside_those_that_are_there`] |
//! | 22 | two hosts, one started by `docker run` | `classic`: `two_hosts_of_which_one_was_started_by_docker_run` |
//! | 23, 24 | one host from beginning to end, both families | `classic`: `a_single_host` |
//! | 25 | a pool removed while it is in use | `one_host`: [`addresses_outlive_their_pool`] |
//! | 26 to 29 | BGP: defaults, AS numbers, peers of all hosts and of one | `bgp`: `numbers_mesh_and_peers` |
//! | 30, 31 | route reflectors | `bgp`: `route_reflectors_that_are_not_ours` |
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use calico_e2e::{Cluster, SOON, Workload, assert_matrix, eventually, start_node, world::datastore};
use calico_lab::{Host, Lab, LabOptions, Pinger};

#[test]
fn one_host() {
    let lab = Lab::up(&LabOptions::hosts(1).with_node_image()).unwrap_or_else(|error| panic!("{error}"));
    let cluster = Cluster { lab };
    let host = cluster.lab.host(1);
    the_system_is_checked(host);
    diagnostics_are_an_archive(host);
    pools_come_and_go(host);
    the_image_is_the_one_asked_for(host);
    the_node_finds_its_address(host);
    addresses_outlive_their_pool(&cluster);
    interfaces_stand_beside_those_that_are_there(&cluster);
    addresses_on_a_named_interface(&cluster);
    a_node_with_endpoints_stops_by_force_only(&cluster);
}

/// 1: a host that can be a node is found to be one, before anything of ours runs.
fn the_system_is_checked(host: &Host) {
    host.ok("calicoctl checksystem");
}

/// 2: without a node there is something to collect too.
fn diagnostics_are_an_archive(host: &Host) {
    let said = host.run("calicoctl diags");
    assert!(said.success(), "{}", said.text());
    let text = said.text();
    let archive = text.split_whitespace().find(|word| word.ends_with(".tar.gz"));
    let archive = archive.unwrap_or_else(|| panic!("no archive is named:\n{text}"));
    let inside = host.ok(&format!("tar -tzf {archive}"));
    assert!(inside.lines().count() > 5, "{inside}");
    assert_eq!(host.ok(&format!("stat -c %a {archive}")).trim(), "600", "it is nobody else's to read");
    host.ok(&format!("rm {archive}"));
}

/// 8: each family by itself, and what is not there cannot be removed.
fn pools_come_and_go(host: &Host) {
    let (v4, v6) = ("10.0.1.0/24", "fed0:8001::/64");
    let shows = |expected: [bool; 2]| {
        let shown = host.ok("calicoctl pool show");
        assert_eq!([v4, v6].map(|pool| shown.contains(pool)), expected, "{shown}");
    };
    host.ok(&format!("calicoctl pool add {v4}"));
    shows([true, false]);
    host.ok(&format!("calicoctl pool add {v6}"));
    shows([true, true]);
    host.ok(&format!("calicoctl pool remove {v4}"));
    host.ok(&format!("calicoctl pool remove {v6}"));
    shows([false, false]);
    let again = host.fails(&format!("calicoctl pool remove {v4}"));
    assert_eq!(again.code(), Some(1));
    assert!(again.text().contains(&format!("{v4} is not a configured pool")), "{}", again.text());
}

/// 6: an image of another name is used as it is, and one that does not exist leaves nothing behind.
fn the_image_is_the_one_asked_for(host: &Host) {
    let refused = host.fails("calicoctl node --node-image=calico/node:nowhere --no-pull");
    assert!(refused.text().contains("calico/node:nowhere"), "{}", refused.text());
    assert_eq!(host.ok("docker ps -aq"), "");
    let known = host.ok("docker images --format '{{.Repository}}:{{.Tag}}' | grep calico/node | head -1");
    host.ok(&format!("docker tag {} calico/node:mine", known.trim()));
    start_node(host, "--node-image=calico/node:mine --no-pull");
    assert_eq!(host.ok("docker inspect -f '{{.Config.Image}}' calico-node").trim(), "calico/node:mine");
    host.ok("calicoctl node stop");
    host.ok("calicoctl node remove");
}

/// 5: nobody says which address the host has.
fn the_node_finds_its_address(host: &Host) {
    start_node(host, "");
    let shown = host.ok("calicoctl node show");
    assert!(shown.contains(&host.ipv4().to_string()), "{shown}");
    eventually("the node to be ready", || host.run("docker exec calico-node calico-node health").success());
    host.ok("calicoctl status");
}

/// 25: pools come and go while addresses of theirs are in use; those stay, and new ones are of pools that are there.
fn addresses_outlive_their_pool(cluster: &Cluster) {
    let host = cluster.lab.host(1);
    let (p, q) = ("192.168.0.0/16", "192.169.0.0/26");
    let in_p = |address: &IpAddr| matches!(address, IpAddr::V4(v4) if v4.octets()[..2] == [192, 168]);
    let in_q = |address: &IpAddr| matches!(address, IpAddr::V4(v4) if v4.octets()[..3] == [192, 169, 0]);
    let mut workloads = ["pool1", "pool2", "pool3"].map(|name| cluster.run(1, name));
    let [one, two, three] = &mut workloads;
    one.add("ipv4");
    two.add("ipv4");
    assert!(in_p(&one.ip()) && in_p(&two.ip()), "{} {}", one.ip(), two.ip());

    let removed = host.ok(&format!("calicoctl pool remove {p}"));
    assert!(removed.contains("pool1") && removed.contains(&two.ip().to_string()), "who still uses it: {removed}");
    let refused = host.fails("calicoctl container add pool3 ipv4");
    assert_eq!(refused.code(), Some(1), "{}", refused.text());
    host.ok(&format!("calicoctl pool add {p}"));
    three.add("ipv4");
    assert!(in_p(&three.ip()), "{}", three.ip());

    host.ok(&format!("calicoctl pool remove {p}"));
    host.ok(&format!("calicoctl pool add {q}"));
    assert!(in_q(&three.ip_add("ipv4")));
    // Its only block is in use and belongs to nobody now.
    host.ok(&format!("calicoctl pool remove {q}"));
    host.ok(&format!("calicoctl pool add {q}"));
    assert!(in_q(&three.ip_add("ipv4")));

    let blocks = || {
        let keys = datastore(&cluster.lab.etcd());
        keys.into_keys().filter(|key| key.starts_with("/calico/ipam/v2/assignment/ipv4/block/")).collect::<Vec<_>>()
    };
    assert!(!blocks().is_empty());
    for workload in &workloads {
        for address in &workload.addresses {
            workload.calicoctl(&format!("ip remove {address}"));
        }
    }
    host.ok(&format!("calicoctl pool remove {q}"));
    assert_eq!(blocks(), Vec::<String>::new(), "the last address takes a block without owner with it");
    for workload in &workloads {
        host.ok(&format!("calicoctl container remove {0} && docker rm -f {0}", workload.name));
    }
    host.ok(&format!("calicoctl pool add {p}"));
}

/// 21: a container keeps what Docker gave it; an interface whose name is taken is refused and changes nothing.
fn interfaces_stand_beside_those_that_are_there(cluster: &Cluster) {
    let host = cluster.lab.host(1);
    host.ok("docker run --name=side1 -tid busybox");
    let mut one = Workload { host, name: "side1", addresses: Vec::new() };
    let of_docker = || host.ok("docker exec side1 ip -4 -o addr show dev eth0");
    let before = (of_docker(), datastore(&cluster.lab.etcd()));
    let taken = host.fails("calicoctl container add side1 192.168.21.1 --interface=eth0");
    assert!(taken.text().contains("eth0"), "{}", taken.text());
    assert_eq!((of_docker(), datastore(&cluster.lab.etcd())), before);

    one.add("192.168.21.1");
    assert_eq!(of_docker(), before.0);
    assert!(host.ok("docker exec side1 ip -4 -o addr show dev eth1").contains("192.168.21.1/32"));
    let second = host.fails("calicoctl container add side1 192.168.21.2 --interface=eth2");
    assert!(second.text().contains("has already been configured with Calico Networking"), "{}", second.text());
    assert_eq!(
        host.ok("docker exec side1 ls /sys/class/net").split_whitespace().filter(|name| *name == "eth2").count(),
        0
    );

    // Calico's way out comes first, and with it goes away again.
    host.ok("calicoctl profile add SIDE");
    one.calicoctl("profile set SIDE");
    assert!(one.reaches(host.ipv4().into(), SOON));
    host.ok("calicoctl container remove side1");
    assert_eq!(of_docker(), before.0);
    let interfaces = host.ok("docker exec side1 ls /sys/class/net");
    assert!(!interfaces.contains("eth1"), "{interfaces}");
    assert!(one.reaches("172.17.0.1".parse().unwrap(), SOON), "Docker's own bridge is still there");
    host.ok("docker rm -f side1 && calicoctl profile remove SIDE");
}

/// 18: addresses come to the interface that was named, and one that is not there is refused and changes nothing.
fn addresses_on_a_named_interface(cluster: &Cluster) {
    let host = cluster.lab.host(1);
    let mut one = cluster.run(1, "named1");
    let mut other = cluster.run(1, "named2");
    one.add("192.168.18.1 --interface=hello");
    other.add("192.168.18.2");
    host.ok("calicoctl profile add NAMED");
    for workload in [&one, &other] {
        workload.calicoctl("profile set NAMED");
    }
    one.ip_add("192.168.18.3 --interface=hello");
    let both = [("named1", "named2"), ("named2", "named1")];
    assert_matrix(&[&one, &other], &both);
    let shown = |interface: &str| host.ok(&format!("docker exec named1 ip -4 -o addr show dev {interface}"));
    assert!(shown("hello").contains("192.168.18.1/32") && shown("hello").contains("192.168.18.3/32"));

    let before = datastore(&cluster.lab.etcd());
    for (command, says) in [
        ("calicoctl container named1 ip add 192.168.18.4 --interface=goodbye", "goodbye"),
        ("calicoctl container named1 ip remove 192.168.18.3 --interface=goodbye", "goodbye"),
        ("calicoctl container named1 ip remove 192.168.18.9 --interface=hello", "not assigned to container"),
    ] {
        let refused = host.fails(command);
        assert_eq!(refused.code(), Some(1), "{command}");
        assert!(refused.text().contains(says), "{command}: {}", refused.text());
        assert_eq!(datastore(&cluster.lab.etcd()), before, "{command}");
    }
    one.calicoctl("ip remove 192.168.18.3 --interface=hello");
    one.addresses.pop();
    assert!(!shown("hello").contains("192.168.18.3"));
    assert_matrix(&[&one, &other], &both);
}

/// 7: who has endpoints stops by force only; their traffic does not notice, and the node comes back.
fn a_node_with_endpoints_stops_by_force_only(cluster: &Cluster) {
    let host = cluster.lab.host(1);
    let refused = host.fails("calicoctl node stop");
    assert_eq!(refused.code(), Some(1));
    assert!(refused.text().contains("active endpoints") && refused.text().contains("--force"), "{}", refused.text());
    host.ok("docker exec calico-node calico-node health");

    let pings = Pinger::start(host, "named1", "192.168.18.2".parse().unwrap()).unwrap();
    eventually("pings to be answered", || pings.received() > 10);
    assert!(host.ok("calicoctl node stop --force").contains("Node stopped"));
    assert_eq!(host.fails("calicoctl status").text(), "calico-node container not running\n");
    let sent = pings.sent();
    eventually("a second of pings without a node", || pings.sent() > sent + 100);
    start_node(host, "");
    eventually("the node to be ready", || host.run("docker exec calico-node calico-node health").success());
    let report = pings.stop();
    assert!(report.lost.is_empty(), "{report}");

    let kept = host.fails("calicoctl node remove");
    assert!(kept.text().contains("node stop"), "{}", kept.text());
    host.ok("calicoctl node stop --force");
    let kept = host.fails("calicoctl node remove");
    assert!(kept.text().contains("--remove-endpoints"), "{}", kept.text());
    host.ok("calicoctl node remove --remove-endpoints");
    let left = datastore(&cluster.lab.etcd());
    let of_host = left.iter().filter(|(key, value)| key.contains("host1") || value.contains("\"host1\""));
    assert_eq!(of_host.count(), 0, "{left:?}");
}
