//! Docker's own networks by Calico, on two hosts: members and strangers, labels and policy, addresses of one's own
//! choice, several networks, IPv6, internal ones, and what is left in the end. Published ports are in `docker_ports`.
//! One lab for all of it.
#![allow(clippy::unwrap_used)]

use std::{net::IpAddr, time::Duration};

use calico_e2e::{A_WHILE, SOON, eventually, until_plugin_is_served};
use calico_lab::{Host, Lab, LabOptions, Output, Running, reaches, wait_for};

const CREATE: &str = "docker network create -d calico --ipam-driver calico-ipam";
/// A range that no pool has at first.
const SUBNET: &str = "10.77.0.0/16";

/// Makes each host a node, with the service straight on it, and waits until Docker's requests are answered.
fn start_all(lab: &Lab) -> Vec<Running> {
    let start = |host: &Host| {
        let service = host.spawn(&format!("CALICO_LIBNETWORK=true IP6={} exec calico-node run", host.ipv6()));
        until_plugin_is_served(host);
        eventually("the service to be ready", || host.run("calico-node health").success());
        service
    };
    lab.hosts().iter().map(start).collect()
}

/// Starts a container that waits.
fn run(host: &Host, name: &str, options: &str) {
    host.ok(&format!("docker run -d --stop-timeout 0 --name {name} {options} ubuntu sleep 100000"));
}

/// The first address of a container's in a family.
#[track_caller]
fn address(host: &Host, container: &str, v4: bool) -> IpAddr {
    let all = host.container_addresses(container).unwrap();
    *all.iter().find(|address| address.is_ipv4() == v4).unwrap_or_else(|| panic!("{container} has only {all:?}"))
}

fn ipv4(host: &Host, container: &str) -> IpAddr {
    address(host, container, true)
}

#[track_caller]
fn opens(host: &Host, container: &str, to: IpAddr) {
    assert!(reaches(host, container, to, SOON).unwrap(), "{container} does not reach {to}");
}

#[track_caller]
fn stays_closed(host: &Host, container: &str, to: IpAddr) {
    assert!(!reaches(host, container, to, A_WHILE).unwrap(), "{container} reaches {to}");
}

/// Right after a change that closes something.
#[track_caller]
fn closes(host: &Host, container: &str, to: IpAddr) {
    eventually(&format!("{container} to be cut off from {to}"), || !reaches(host, container, to, A_WHILE).unwrap());
}

/// Waits until a host's Docker has a network, or has not.
#[track_caller]
fn network_exists(host: &Host, name: &str, wanted: bool) {
    let what = format!("network {name} to {} {}", if wanted { "come to" } else { "go from" }, host.name());
    eventually(&what, || host.run(&format!("docker network inspect {name}")).success() == wanted);
}

/// Removes a network. `docker rm -f` may return a moment before Docker has given up the container's endpoints.
#[track_caller]
pub(crate) fn remove_network(host: &Host, name: &str) {
    wait_for(SOON, &format!("network {name} to be removed"), || {
        let said = host.run(&format!("docker network rm {name}"));
        if said.success() {
            Ok(())
        } else {
            Err(said.text() + &host.run(&format!("docker network inspect {name}")).text())
        }
    })
    .unwrap_or_else(|error| panic!("{error}"));
}

/// A refusal names the cause.
#[track_caller]
fn is_refused(host: &Host, command: &str, words: &str) {
    let said = host.fails(command).text();
    assert!(said.contains(words), "{command}: {said}");
}

#[test]
fn docker_networks_of_two_hosts() {
    let lab = Lab::up(&LabOptions::hosts(2)).unwrap();
    let _services = start_all(&lab);
    let (host1, host2) = (lab.host(1), lab.host(2));
    a_network_is_everywhere(host1, host2);
    labels_are_selected_by_policy(host1, host2);
    what_cannot_be_a_label_closes(host1);
    addresses_of_one_s_own_choice(host1, host2);
    addresses_of_a_part_of_the_subnet(host1, host2);
    a_container_in_several_networks(host1, host2);
    both_families(host1, host2);
    an_internal_network_has_no_way_out(host1, host2);
    beside_container_add(host1);
    whoever_restarts(host1, host2);
    nonsense_is_answered(host1);
    many_come_and_go(host1);
    networks_go_from_all_hosts(host1, host2);
    nothing_is_left(&lab);
}

fn a_network_is_everywhere(host1: &Host, host2: &Host) {
    host1.ok(&format!("{CREATE} app && {CREATE} other"));
    network_exists(host2, "app", true);
    network_exists(host2, "other", true);
    run(host1, "a1", "--net app");
    run(host2, "a2", "--net app");
    run(host2, "o2", "--net other");
    let (a1, a2, o2) = (ipv4(host1, "a1"), ipv4(host2, "a2"), ipv4(host2, "o2"));
    opens(host1, "a1", a2);
    opens(host2, "a2", a1);
    for (host, from, to) in [(host2, "o2", a1), (host2, "o2", a2), (host1, "a1", o2), (host2, "a2", o2)] {
        stays_closed(host, from, to);
    }
    let shown = host1.ok("calicoctl endpoint show --detailed");
    for word in ["libnetwork", &a1.to_string(), &a2.to_string(), &o2.to_string()] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
}

fn labels_are_selected_by_policy(host1: &Host, host2: &Host) {
    run(host1, "web", "--net app --label org.projectcalico.label.role=web");
    run(host2, "shop", "--net other --label org.projectcalico.label.role=shop");
    let web = ipv4(host1, "web");
    opens(host2, "a2", web);
    stays_closed(host2, "shop", web);
    host1
        .write(
            "/tmp/shops.yaml",
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: shops}\nspec:\n  selector: \
             role == 'web'\n  types: [Ingress]\n  ingress:\n  - {action: Allow, source: {selector: role == 'shop'}}\n",
        )
        .unwrap();
    host1.ok("calicoctl apply -f /tmp/shops.yaml");
    opens(host2, "shop", web);
    closes(host2, "a2", web);
    host1.ok("calicoctl delete globalnetworkpolicy shops");
    opens(host2, "a2", web);
    closes(host2, "shop", web);
    host1.ok("docker rm -f web");
    host2.ok("docker rm -f shop");
}

fn what_cannot_be_a_label_closes(host1: &Host) {
    run(host1, "odd", "--net app --label 'org.projectcalico.label.role=not a value!'");
    eventually("the reason to be shown", || {
        let shown = host1.ok("calicoctl endpoint show --detailed");
        shown.contains("Closed because") && shown.contains("not a value!") && shown.contains(" odd ")
    });
    assert_eq!(host1.ok("docker inspect -f '{{.State.Running}}' odd").trim(), "true");
    stays_closed(host1, "a1", ipv4(host1, "odd"));
    host1.ok("docker rm -f odd");
    // The next round of the reconciler no longer has anything to say.
    eventually("no problem to be left", || !host1.run("calico-node health").text().contains("odd"));
}

fn addresses_of_one_s_own_choice(host1: &Host, host2: &Host) {
    let own = host1.ipv4().octets();
    let hosts = format!("{}.{}.{}.0/24", own[0], own[1], own[2]);
    is_refused(host1, &format!("{CREATE} --subnet {hosts} bad"), "the address of a host");
    is_refused(host1, &format!("{CREATE} --subnet 192.168.5.0/24 bad"), "overlaps pool");
    host1.ok(&format!("{CREATE} --subnet {SUBNET} fixed"));
    assert!(host1.ok("calicoctl pool show").contains(SUBNET));
    network_exists(host2, "fixed", true);
    run(host1, "f1", "--net fixed --ip 10.77.0.9");
    assert_eq!(ipv4(host1, "f1").to_string(), "10.77.0.9");
    eventually("the endpoint to have its container's name", || {
        host1.run("calicoctl endpoint show --detailed -o json").stdout.contains("\"workloadName\": \"f1\"")
    });
    for host in [host1, host2] {
        let command = "docker run -d --name late --net fixed --ip 10.77.0.9 ubuntu sleep 100000";
        is_refused(host, command, &format!("10.77.0.9 is in use by f1 on {}", host1.name()));
        host.ok("docker rm late");
    }
    run(host2, "f2", "--net fixed");
    let f2 = ipv4(host2, "f2");
    assert!(f2.to_string().starts_with("10.77."), "{f2}");
    opens(host1, "f1", f2);
    opens(host2, "f2", ipv4(host1, "f1"));
    host1.ok("docker rm -f f1");
    host2.ok("docker rm -f f2");
    remove_network(host1, "fixed");
    network_exists(host2, "fixed", false);
    eventually("the pool to go with its network", || !host1.ok("calicoctl pool show").contains(SUBNET));
}

/// Both hosts take addresses from a part of a block, one of them from the other's.
fn addresses_of_a_part_of_the_subnet(host1: &Host, host2: &Host) {
    is_refused(host1, &format!("{CREATE} --subnet 10.79.0.0/16 --ip-range 10.80.7.0/28 bad"), "range");
    host1.ok(&format!("{CREATE} --subnet 10.79.0.0/16 --ip-range 10.79.7.16/28 part"));
    network_exists(host2, "part", true);
    run(host1, "p1", "--net part");
    run(host2, "p2", "--net part");
    run(host2, "p3", "--net part --ip 10.79.9.9");
    let addresses = [ipv4(host1, "p1"), ipv4(host2, "p2"), ipv4(host2, "p3")].map(|address| address.to_string());
    assert_eq!(addresses, ["10.79.7.16", "10.79.7.17", "10.79.9.9"]);
    for to in &addresses[1..] {
        opens(host1, "p1", to.parse().unwrap());
    }
    opens(host2, "p2", addresses[0].parse().unwrap());
    host1.ok("docker rm -f p1");
    host2.ok("docker rm -f p2 p3");
    remove_network(host1, "part");
    network_exists(host2, "part", false);
}

fn a_container_in_several_networks(host1: &Host, host2: &Host) {
    run(host1, "both", "--net app");
    host1.ok("docker network connect other both");
    let all = host1.container_addresses("both").unwrap();
    assert_eq!(all.len(), 2, "{all:?}");
    for to in all {
        opens(host2, "a2", to);
        opens(host2, "o2", to);
    }
    opens(host1, "both", ipv4(host2, "o2"));
    host1.ok("docker network disconnect app both");
    closes(host2, "a2", ipv4(host1, "both"));
    opens(host2, "o2", ipv4(host1, "both"));
    opens(host1, "both", ipv4(host2, "o2"));
    host1.ok("docker rm -f both");
}

fn both_families(host1: &Host, host2: &Host) {
    host2.ok(&format!("{CREATE} --ipv6 six"));
    network_exists(host1, "six", true);
    run(host1, "s1", "--net six");
    run(host2, "s2", "--net six");
    for v4 in [true, false] {
        opens(host1, "s1", address(host2, "s2", v4));
        opens(host2, "s2", address(host1, "s1", v4));
    }
    host1.ok("docker rm -f s1");
    host2.ok("docker rm -f s2");
    remove_network(host2, "six");
    network_exists(host1, "six", false);
}

fn an_internal_network_has_no_way_out(host1: &Host, host2: &Host) {
    host1.ok(&format!("{CREATE} --internal back"));
    network_exists(host2, "back", true);
    run(host1, "b1", "--net back");
    run(host2, "b2", "--net back");
    opens(host1, "b1", ipv4(host2, "b2"));
    opens(host2, "b2", ipv4(host1, "b1"));
    // The way out of a member of another network is open, so it is the network that makes the difference.
    opens(host1, "a1", host2.ipv4().into());
    stays_closed(host1, "b1", host2.ipv4().into());
    stays_closed(host1, "b1", ipv4(host2, "a2"));
    let routes = host1.in_container("b1", &["ip", "route"]).unwrap();
    assert!(!routes.contains("default"), "{routes}");
    host1.ok("docker rm -f b1");
    host2.ok("docker rm -f b2");
    remove_network(host1, "back");
    network_exists(host2, "back", false);
}

fn beside_container_add(host1: &Host) {
    run(host1, "plain", "--net=none");
    host1.ok("calicoctl container add plain 192.168.200.7 && calicoctl container plain profile append app");
    let plain = "192.168.200.7".parse().unwrap();
    opens(host1, "a1", plain);
    opens(host1, "plain", ipv4(host1, "a1"));
    host1.ok("calicoctl container remove plain && docker rm -f plain");
}

/// A container, the plugin between two requests, Docker itself.
fn whoever_restarts(host1: &Host, host2: &Host) {
    let reached = |when: &str| {
        wait_for(SOON, &format!("a1 to be reached {when}"), || {
            let to = ipv4(host1, "a1");
            if reaches(host2, "a2", to, A_WHILE).unwrap() { Ok(()) } else { Err(format!("not at {to}")) }
        })
        .unwrap_or_else(|error| panic!("{error}"));
    };
    host1.ok("docker restart -t 0 a1");
    reached("after its restart");
    host1.ok("kill -9 $(pgrep -f 'calico-node libnetwork' | head -n 1)");
    run(host1, "next", "--net app");
    assert_eq!(host1.ok("docker exec next ping -c 1 -W 20 a1 > /dev/null && echo answered").trim(), "answered");
    host1.ok("kill -9 $(pgrep -f 'calico-node libnetwork' | head -n 1)");
    host1.ok("docker rm -f next");
    reached("after the plugin's end");
    host1.stop_docker().unwrap();
    host1.start_docker().unwrap();
    host1.ok("docker start a1");
    reached("after Docker's restart");
}

fn nonsense_is_answered(host1: &Host) {
    for (request, body) in [("NetworkDriver.Join", "nonsense"), ("IpamDriver.RequestAddress", "[]"), ("What", "{}")] {
        let said = host1.ok(&format!(
            "curl -s --max-time 20 --unix-socket /run/docker/plugins/calico.sock -d '{body}' http://plugin/{request}"
        ));
        assert!(said.contains("\"Err\":\""), "{request}: {said}");
    }
}

/// Ten at a time; how many says `CONTAINERS`, since a hundred take a busy machine minutes.
///
/// In a network of their own: when many endpoints of a network come and go at once Docker 20.10 may miscount them, with a
/// driver that does nothing too, and then does not remove the network (`has active endpoints`, while it shows none) until
/// its next start, which counts anew.
fn many_come_and_go(host1: &Host) {
    let count: usize = std::env::var("CONTAINERS").map_or(30, |count| count.parse().expect("CONTAINERS is a number"));
    let ten_at_a_time = |command: &str| {
        let command = host1.command(&format!("seq {count} | xargs -P 10 -I@ {command} > /tmp/many"));
        command.limit(Duration::from_secs(600)).output().and_then(Output::ok).unwrap_or_else(|error| panic!("{error}"));
    };
    host1.ok(&format!("{CREATE} many"));
    ten_at_a_time("docker run -d --stop-timeout 0 --name many@ --net many ubuntu sleep 100000");
    opens(host1, "many1", ipv4(host1, &format!("many{count}")));
    let addresses = host1.ok("docker network inspect -f '{{range .Containers}}{{println .IPv4Address}}{{end}}' many");
    let mut addresses: Vec<&str> = addresses.split_whitespace().collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), count, "each has an address of its own: {addresses:?}");
    ten_at_a_time("docker rm -f many@");
    only_the_first_is_left(host1);
    let shown = host1.ok("docker network inspect -f '{{.Containers}}' many");
    assert_eq!(shown.trim(), "map[]", "Docker shows no endpoint either");
    if host1.run("docker network rm many").text().contains("has active endpoints") {
        host1.stop_docker().unwrap();
        host1.start_docker().unwrap();
        remove_network(host1, "many");
    }
    network_exists(host1, "many", false);
}

/// Of host 1 nothing but `a1`.
fn only_the_first_is_left(host1: &Host) {
    wait_for(SOON, "only a1 to be left", || {
        let shown = host1.ok("calicoctl endpoint show --detailed --host=host1");
        let rows = shown.lines().filter(|line| line.contains("libnetwork")).count();
        let links = host1.ok("ip -o link").lines().filter(|line| line.contains(": cali")).count();
        if (rows, links) == (1, 1) { Ok(()) } else { Err(format!("{links} interfaces, {shown}")) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
    audit(host1);
}

#[track_caller]
fn audit(host: &Host) {
    wait_for(SOON, "the addresses to agree with the endpoints", || {
        let said = host.run("calicoctl ipam check --show-problem-ips").text();
        if said.contains("found 0 problems") { Ok(()) } else { Err(said) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
}

/// A network that is removed where it came from goes from other hosts when nobody uses it there any more.
fn networks_go_from_all_hosts(host1: &Host, host2: &Host) {
    host1.ok("docker rm -f a1");
    audit(host1);
    remove_network(host1, "app");
    eventually("host 2 to say that the network is still used", || {
        host2.run("calico-node health").text().contains("network app was removed where it was created")
    });
    run(host2, "a3", "--net app");
    opens(host2, "a2", ipv4(host2, "a3"));
    host2.ok("docker rm -f a2 a3");
    network_exists(host2, "app", false);
    host2.ok("docker rm -f o2");
    remove_network(host1, "other");
    network_exists(host2, "other", false);
}

fn nothing_is_left(lab: &Lab) {
    for host in lab.hosts() {
        wait_for(SOON, "nothing to be left", || {
            let endpoints = host.run("calicoctl endpoint show --detailed -o json").stdout;
            let links = host.run("ip -o link").stdout;
            let records = lab.etcd().keys("/calico/libnetwork/v1/networks/").unwrap();
            let clean = endpoints.trim() == "[]" && !links.contains(": cali") && records.is_empty();
            if clean { Ok(()) } else { Err(format!("{endpoints}{links}{records:?}")) }
        })
        .unwrap_or_else(|error| panic!("{error}"));
        audit(host);
    }
    eventually("the networks' profiles to go", || {
        let profiles = lab.host(1).ok("calicoctl profile show");
        let gone = ["app", "other", "fixed", "part", "many", "six", "back"];
        profiles.split_whitespace().all(|word| !gone.contains(&word))
    });
}
