//! The package on a Debian machine with systemd *and* Docker: networks, published ports and policy under the unit's
//! restrictions, and what is so after a reboot, whichever of the two services comes up first.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use calico_e2e::{
    debian::{Installed, Machine, OUTSIDE, package},
    readme,
};

const CHAPTER: &str = "One host in two minutes";
/// The containers that come back by themselves, and the network of each.
const ON_NETWORKS: [(&str, &str); 4] = [("client", "app"), ("server", "app"), ("site", "app"), ("lone", "other")];
/// A container on no network of Docker's: `container add` is what connects it.
const BY_HAND: &str = "byhand";
/// All records of endpoints.
const ENDPOINTS: &str = "calicoctl endpoint show --detailed -o json";
/// Says yes as soon as Docker's daemon runs, and not before.
const DOCKER_RUNS: &str = "pgrep -x dockerd";

#[test]
fn docker_under_the_unit_and_through_reboots() {
    let mut machine = Machine::boot(Installed::Docker);
    machine.load_image();
    machine.put(&package("0.1.0"));
    for host in ["debian", "host1"] {
        for script in readme::scripts(CHAPTER, host) {
            machine.ok(&script);
        }
    }
    start_containers(&machine);
    let by_hand = add_by_hand(&machine);
    all_is_right(&machine, &["web", "db", BY_HAND], "before any reboot");
    the_unit_is_restricted(&machine);

    // The containers of the README are not to come back: nothing of them may be left.
    machine.reboot();
    assert_eq!(by_hand, comes_back_by_hand(&machine), "its record keeps the address");
    all_is_right(&machine, &[BY_HAND], "after a reboot");

    delay(&machine, "docker", "calico-node health");
    machine.power_cut();
    assert_eq!(by_hand, comes_back_by_hand(&machine), "its record keeps the address");
    all_is_right(&machine, &[BY_HAND], "Docker long after calico-node");
    undelay(&machine, "docker");

    // What is shipped says `Before=`, and that cannot be taken back by a drop-in.
    machine.ok("sed /^Before=docker.service/d /usr/lib/systemd/system/calico-node.service \
                >/etc/systemd/system/calico-node.service");
    delay(&machine, "calico-node", DOCKER_RUNS);
    machine.power_cut();
    assert_eq!(by_hand, comes_back_by_hand(&machine), "its record keeps the address");
    all_is_right(&machine, &[BY_HAND], "Docker before calico-node");
    undelay(&machine, "calico-node");

    nothing_was_forbidden(&machine);
    everything_goes(&machine);
}

/// The service waits until a command succeeds before it starts.
fn delay(machine: &Machine, service: &str, until: &str) {
    let folder = format!("/etc/systemd/system/{service}.service.d");
    let script = format!("until {until}; do sleep 0.1; done");
    machine.ok(&format!(
        "mkdir -p {folder} && printf \"[Service]\\nExecStartPre=/bin/sh -c '{script}'\\n\" >{folder}/delay.conf && sync"
    ));
}

fn undelay(machine: &Machine, service: &str) {
    machine.ok(&format!("rm -r /etc/systemd/system/{service}.service.d"));
}

fn start_containers(machine: &Machine) {
    machine.ok("docker network create -d calico --ipam-driver calico-ipam other");
    let run = |name: &str, network: &str, options: &str, command: &str| {
        machine.ok(&format!(
            "docker run -d --restart always --stop-timeout 0 --name {name} --net {network} {options} busybox {command}"
        ));
    };
    let label = "--label org.projectcalico.label.role";
    run("client", "app", &format!("{label}=web"), "sleep 86400");
    run("server", "app", &format!("{label}=db"), "sh -c 'httpd -p 5433 -h /etc; exec httpd -f -p 5432 -h /etc'");
    run("site", "app", "-p 8080:80", "httpd -f -h /etc");
    run("lone", "other", "", "sleep 86400");
    run(BY_HAND, "none", "", "sleep 86400");
    machine.ok("calicoctl profile add BYHAND");
}

/// Connects the container that is on no network; its address.
fn add_by_hand(machine: &Machine) -> String {
    let said =
        machine.ok(&format!("calicoctl container add {BY_HAND} && calicoctl container {BY_HAND} profile set BYHAND"));
    let address = said.split("IP ").nth(1).and_then(|rest| rest.split(' ').next());
    address.unwrap_or_else(|| panic!("no address in: {said}")).to_owned()
}

/// As its owner connects it again after a reboot; its address.
fn comes_back_by_hand(machine: &Machine) -> String {
    running(machine, BY_HAND);
    machine.eventually("the service to be ready", "calico-node health && echo ready", |said| said.contains("ready"));
    // Its record and its addresses are kept, and the refusal says how to connect it again.
    let said = machine.fails(&format!("calicoctl container add {BY_HAND}"));
    let hint = said.split("hint: connect it again: ").nth(1).and_then(|rest| rest.lines().next());
    machine.ok(hint.unwrap_or_else(|| panic!("no hint in: {said}")));
    ipv4(machine, BY_HAND)
}

fn running(machine: &Machine, container: &str) {
    let look = format!("docker inspect -f '{{{{.State.Running}}}}' {container}");
    machine.eventually(&format!("{container} to run"), &look, |said| said.trim() == "true");
}

/// Everything about addresses, routes, interfaces, records and rules, with nothing left over. `others` are containers
/// that have an endpoint besides those of [`ON_NETWORKS`].
fn all_is_right(machine: &Machine, others: &[&str], when: &str) {
    let names: Vec<&str> = ON_NETWORKS.iter().map(|(name, _)| *name).chain(others.iter().copied()).collect();
    for name in &names {
        running(machine, name);
    }
    let addresses: BTreeSet<String> = names.iter().map(|name| ipv4(machine, name)).collect();
    assert_eq!(addresses.len(), names.len(), "{when}: an address twice: {addresses:?}");
    for (name, network) in ON_NETWORKS {
        let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
        let told = machine.ok(&format!("docker inspect -f '{format}' {name}"));
        assert!(addresses.contains(told.trim()), "{when}: Docker says {told} for {name}, not one of {addresses:?}");
    }
    // One route and one interface for each, and no other.
    let of = |text: &str| text.lines().map(|line| line.trim().to_owned()).collect::<BTreeSet<_>>();
    let routes = "ip -4 route show proto 80 type unicast | awk '$2 == \"dev\" { print $1 }'";
    machine.eventually(&format!("{when}: the routes of {addresses:?}"), routes, |said| of(said) == addresses);
    let count = addresses.len().to_string();
    let interfaces = "ip -o link | grep -c ': cali'";
    machine.eventually(&format!("{when}: an interface for each"), interfaces, |said| said.trim() == count);
    let records = |said: &str| serde_json::from_str::<Vec<serde_json::Value>>(said).map(|records| records.len());
    machine.eventually(&format!("{when}: a record for each"), ENDPOINTS, |said| {
        records(said).is_ok_and(|number| number == addresses.len())
    });
    machine.eventually(&format!("{when}: a clean audit"), "calicoctl ipam check && echo clean", |said| {
        said.contains("clean")
    });
    packets_go_where_they_may(machine, when);
}

fn packets_go_where_they_may(machine: &Machine, when: &str) {
    let fetch = |name: &str, url: &str| format!("docker exec {name} timeout 2 wget -q -O - http://{url}/passwd");
    let succeeds = |said: &str| said.contains("root:");
    machine.eventually(&format!("{when}: the allowed port"), &fetch("client", "server:5432"), succeeds);
    machine.eventually(&format!("{when}: a member without policy"), &fetch("server", "site"), succeeds);
    let connect = |address: &str, port: u16| {
        format!("bash -c 'exec 3<>/dev/tcp/{address}/{port}; printf \"GET /passwd HTTP/1.0\\r\\n\\r\\n\" >&3; cat <&3'")
    };
    let outside = format!("ip netns exec {} {}", OUTSIDE.0, connect("10.99.0.2", 8080));
    machine.eventually(&format!("{when}: the published port, from outside"), &outside, succeeds);
    let server = &ipv4(machine, "server");
    let from_host = machine.ok(&connect(server, 5433));
    assert!(succeeds(&from_host), "{when}: a host reaches its own containers: {from_host}");
    for (name, port, what) in [("client", 5433, "a port"), ("lone", 5432, "a stranger"), ("site", 5432, "a label")] {
        let said = machine.run(&fetch(name, &format!("{server}:{port}")));
        assert!(!said.success && said.text.trim().is_empty(), "{when}: {what} is not closed: {}", said.text);
    }
}

/// The one address that a container has in itself.
#[track_caller]
fn ipv4(machine: &Machine, container: &str) -> String {
    let said = machine.ok(&format!("docker exec {container} ip -o -4 address show scope global"));
    let address = said.split("inet ").nth(1).and_then(|rest| rest.split('/').next());
    address.unwrap_or_else(|| panic!("{container} has no address: {said}")).to_owned()
}

/// What the file asks for is in force, as the kernel and systemd say it of the running service.
fn the_unit_is_restricted(machine: &Machine) {
    let status = machine.ok("cat /proc/$(pgrep -o -x calico-felix)/status");
    for part in ["NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(part), "{part}: {status}");
    }
    let process = "$(systemctl show -P MainPID calico-node)";
    // Bits 10, 12, 13 and 2: NET_BIND_SERVICE, NET_ADMIN, NET_RAW, DAC_READ_SEARCH.
    machine.ok(&format!("grep -q 'CapBnd:.0000000000003404' /proc/{process}/status"));
    let inside = |command: &str| format!("nsenter --mount --target {process} sh -c '{command}'");
    machine.fails(&inside("touch /usr/bin/x || touch /etc/x || ls /root/*"));
}

/// No call was refused by the restrictions that the service did without.
fn nothing_was_forbidden(machine: &Machine) {
    let log = machine.ok("journalctl --no-pager --output=cat --unit=calico-node; cat /var/log/calico/*/current");
    let words = ["not permitted", "ermission denied", "ead-only file"];
    // The kernel lets nobody but the first network namespace of a machine set the size of the connection table.
    let refused = |line: &&str| words.iter().any(|word| line.contains(word)) && !line.contains("nf_conntrack_max");
    let wrong: Vec<&str> = log.lines().filter(refused).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// After the containers and networks, nothing is left; after a purge, nothing at all.
fn everything_goes(machine: &Machine) {
    machine.ok(&format!("calicoctl container remove {BY_HAND}; docker rm -f $(docker ps -aq)"));
    for network in ["app", "other"] {
        let remove = format!("docker network rm {network} || docker network inspect {network}");
        machine.eventually("the network to be removed", &remove, |said| {
            said.trim() == network || said.contains("No such")
        });
    }
    let left = "ip -o link | grep ': cali'; ip route show proto 80 type unicast; \
                calicoctl endpoint show --detailed -o json";
    machine.eventually("nothing to be left", left, |said| said.trim() == "[]");
    machine.ok("calicoctl ipam check");
    machine.ok("apt-get purge --quiet --yes calico && rm /etc/systemd/system/calico-node.service");
    let left = machine.ok("nft list tables; iptables-save; ip route show proto 80; \
         find /etc /run /usr /var/lib -xdev -name '*calico*' -not -path '/var/lib/apt/*' -not -path '/var/lib/dpkg/*'");
    assert!(!left.contains("calico"), "{left}");
    assert_eq!(machine.run("systemctl is-active docker").text.trim(), "active");
    machine.ok("docker run --rm --net bridge busybox true");
}
