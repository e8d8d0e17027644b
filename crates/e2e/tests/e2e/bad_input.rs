//! Bad input to commands: a clear message that names the thing, the cause and the way out, the documented exit code,
//! and nothing changed: not the datastore, not the kernel, not a container, not a file.
#![allow(clippy::unwrap_used)]

use calico_e2e::{
    Cluster, eventually,
    refused::{Case, FAILED, USAGE, check_all},
    world::World,
};

/// A node with two containers, of which one, `added`, is in the network with the profile `P`.
fn node_with_containers() -> Cluster {
    let cluster = Cluster::up(1, "");
    let host = cluster.lab.host(1);
    cluster.run(1, "plain");
    let added = cluster.add(1, "added");
    host.ok("calicoctl profile add P");
    added.calicoctl("profile set P");
    eventually("the endpoint's rules", || host.ok("nft list map ip calico wl-to").contains("cali"));
    cluster
}

#[test]
fn containers_and_addresses() {
    let cluster = node_with_containers();
    let host = cluster.lab.host(1);
    host.ok("docker run --net=none --name=stopped ubuntu true");
    host.ok("docker run --net=host --name=hosted -tid ubuntu");
    host.ok("docker run --net=container:hosted --name=guest -tid ubuntu");
    host.ok("ip netns add lonely");
    let taken = host.ok("docker exec added ip -4 -o addr show eth1 | grep -o '192[^/]*'");
    let taken = taken.trim();
    let add_taken = format!("calicoctl container add plain {taken}");
    let ip_add_taken = format!("calicoctl container added ip add {taken}");
    let wrong_interface = format!("calicoctl container added ip remove {taken} --interface=eth7");
    let bad_ip = "Invalid IP address specified";
    check_all(
        &cluster.lab,
        host,
        &[
            // The container.
            Case(
                "calicoctl container add nobody",
                FAILED,
                &["Container nobody was not found.", "hint: see: docker ps"],
            ),
            Case("calicoctl container add stopped", FAILED, &["stopped is not currently running.", "docker start"]),
            Case("calicoctl container add hosted", FAILED, &["hosted", "NetworkMode = host", "--net=none"]),
            Case("calicoctl container add guest", FAILED, &["guest", "NetworkMode = host"]),
            Case("calicoctl container add added", FAILED, &["added has already been configured", "endpoint show"]),
            Case("calicoctl container add /run/netns/nobody", FAILED, &["/run/netns/nobody does not exist", "hint: "]),
            Case("calicoctl container add /proc/self/ns/net", FAILED, &["host"]),
            Case("calicoctl container add /etc/hosts", FAILED, &["/etc/hosts is not a network namespace"]),
            Case("calicoctl container remove nobody", FAILED, &["Container nobody was not found.", "docker ps"]),
            Case("calicoctl container nobody endpoint show", FAILED, &["Container nobody was not found."]),
            // The address.
            Case("calicoctl container add plain 1.2.3", FAILED, &[bad_ip, "\"1.2.3\"", "hint: give an address as"]),
            Case("calicoctl container add plain 300.1.1.1", FAILED, &[bad_ip, "300.1.1.1"]),
            Case("calicoctl container add plain 192.168.0.1/33", FAILED, &[bad_ip, "/33"]),
            Case("calicoctl container add plain fd80::g", FAILED, &[bad_ip, "fd80::g"]),
            Case("calicoctl container add plain ipv4 1.2.3", FAILED, &[bad_ip, "\"1.2.3\""]),
            Case("calicoctl container add plain 192.168.9.9 192.168.9.9", FAILED, &["192.168.9.9", "more than once"]),
            Case("calicoctl container add plain 10.99.0.1", FAILED, &["10.99.0.1 is not in any", "192.168.0.0/16"]),
            Case("calicoctl container add plain fe80::1", FAILED, &["fe80::1 is not in any configured pools"]),
            Case(
                "calicoctl container add plain 10.99.0.0/16",
                FAILED,
                &["No pool found for 10.99.0.0/16", "pools are"],
            ),
            Case("calicoctl container add plain 192.168.0.0/24", FAILED, &["192.168.0.0/24", "whole pool"]),
            Case(&add_taken, FAILED, &["already assigned in pool 192.168.0.0/16", taken, "belongs to", "hint: choose"]),
            // The second address is refused, so the first is not kept either.
            Case(&format!("calicoctl container add plain ipv6 {taken}"), FAILED, &["already assigned"]),
            // The interface.
            Case(
                "calicoctl container add plain --interface=lo",
                FAILED,
                &["already has an interface lo", "--interface"],
            ),
            Case(
                "calicoctl container add plain --interface=a-name-of-16-xyz",
                FAILED,
                &["longer than 15", "--interface"],
            ),
            Case("calicoctl container add plain --interface=a/b", FAILED, &["\"a/b\"", "slashes"]),
            Case("calicoctl container add plain --interface=", FAILED, &["\"\"", "it is empty"]),
            Case("calicoctl container add plain --interface=eth%d", FAILED, &["eth%d", "percent"]),
            // Further addresses.
            Case("calicoctl container added ip add 1.2.3", FAILED, &[bad_ip, "\"1.2.3\""]),
            Case("calicoctl container added ip add 10.99.0.1", FAILED, &["not in any configured pools", "pools are"]),
            Case(&ip_add_taken, FAILED, &["already assigned", taken]),
            Case(
                "calicoctl container added ip add ipv4 --interface=eth7",
                FAILED,
                &["does not exist", "no interface eth7"],
            ),
            Case("calicoctl container plain ip add ipv4", FAILED, &["plain is unknown to Calico", "container add"]),
            Case("calicoctl container stopped ip add ipv4", FAILED, &["stopped is not currently running."]),
            Case("calicoctl container nobody ip add ipv4", FAILED, &["Container nobody was not found."]),
            Case("calicoctl container added ip remove 1.2.3", FAILED, &[bad_ip, "\"1.2.3\""]),
            Case("calicoctl container added ip remove ipv4", FAILED, &[bad_ip, "\"ipv4\""]),
            Case("calicoctl container added ip remove 192.168.200.200", FAILED, &["not assigned to container", "show"]),
            Case("calicoctl container plain ip remove 192.168.200.200", FAILED, &["unknown to Calico"]),
            Case(&wrong_interface, FAILED, &["no interface eth7"]),
        ],
    );
    // The name that its interface on the host would have is taken there.
    host.ok(
        "ip link add cali$(printf docker.$(docker inspect -f '{{.Id}}' plain) | sha256sum | cut -c1-11) type bridge",
    );
    let says = ["plain has an interface of Calico's already", "cali", "calicoctl container remove plain"];
    check_all(&cluster.lab, host, &[Case("calicoctl container add plain", FAILED, &says)]);
}

#[test]
fn profiles_words_rights_and_the_way_to_docker() {
    let cluster = node_with_containers();
    let host = cluster.lab.host(1);
    let nobody = "setpriv --reuid=65534 --clear-groups";
    let root = "This command must be run as root.";
    let docker = "Is the docker daemon running?";
    check_all(
        &cluster.lab,
        host,
        &[
            // Profiles.
            Case(
                "calicoctl container added profile append NOBODY",
                FAILED,
                &["NOBODY was not found", "profile add NOBODY"],
            ),
            Case("calicoctl container added profile set P NOBODY", FAILED, &["NOBODY was not found"]),
            Case("calicoctl container added profile remove NOBODY", FAILED, &["NOBODY was not found"]),
            Case("calicoctl container added profile set P P", FAILED, &["P was specified more than once"]),
            Case("calicoctl container added profile set 'P!'", FAILED, &["\"P!\"", "letters, digits, dots"]),
            Case("calicoctl container plain profile set P", FAILED, &["plain is unknown to Calico", "container add"]),
            Case("calicoctl container nobody profile set P", FAILED, &["Container nobody was not found."]),
            Case("calicoctl endpoint nobody profile set P", FAILED, &["Endpoint nobody is unknown", "endpoint show"]),
            Case("calicoctl endpoint nobody profile show", FAILED, &["Endpoint nobody is unknown"]),
            Case("calicoctl profile add 'bad name'", FAILED, &["\"bad name\" is not valid", "hint: profile names are"]),
            Case("calicoctl profile add ''", FAILED, &["it is empty"]),
            Case("calicoctl profile add -- -P", FAILED, &["-P"]),
            Case("calicoctl profile remove 'bad name'", FAILED, &["\"bad name\" is not valid"]),
            // Words that are not understood.
            Case("calicoctl frobnicate", USAGE, &["frobnicate", "--help"]),
            Case("calicoctl container added ip add", USAGE, &["<IP>", "Usage: "]),
            Case("calicoctl profile show -o xml", USAGE, &["xml", "json"]),
            // The arguments of node. A running service is not touched by any of them.
            Case("calicoctl node --ip=1.2.3", FAILED, &["Invalid IPv4 address", "\"1.2.3\""]),
            Case("calicoctl node --ip6=10.0.0.1", FAILED, &["Invalid IPv6 address", "\"10.0.0.1\""]),
            Case("calicoctl node --ip=127.0.0.1", FAILED, &["127.0.0.1", "loopback"]),
            Case("calicoctl node --as=4294967296", FAILED, &["Invalid AS Number", "4294967296"]),
            Case("calicoctl node --as=0", FAILED, &["AS number 0"]),
            Case(
                "calicoctl node --runtime=rkt",
                FAILED,
                &["Runtime must be 'auto', 'systemd', 'docker' or 'none'", "\"rkt\""],
            ),
            Case("calicoctl node --name=a_b", FAILED, &["\"a_b\"", "--name"]),
            Case("calicoctl node --log-dir=logs", FAILED, &["absolute path", "\"logs\""]),
            Case("calicoctl node --detach=maybe", FAILED, &["--detach"]),
            Case("calicoctl node --ip=x --as=y", FAILED, &["IPv4", "AS Number"]),
            Case("calicoctl node --node-image=no/such --no-pull", FAILED, &["no image no/such", "docker load"]),
            Case("calicoctl node --node-image=no/such", FAILED, &["Unable to download Docker image", "docker load"]),
            Case("calicoctl node stop", FAILED, &["active endpoints", "--force"]),
            Case("calicoctl node remove", FAILED, &["while it is running", "calicoctl node stop"]),
            // Not root: bad words are told first, as nobody needs to be root for that.
            Case(&format!("{nobody} calicoctl container add plain"), USAGE, &[root, "sudo"]),
            Case(&format!("{nobody} calicoctl container remove added"), USAGE, &[root]),
            Case(&format!("{nobody} calicoctl container added ip add ipv4"), USAGE, &[root]),
            Case(&format!("{nobody} calicoctl container added ip remove 192.168.0.1"), USAGE, &[root]),
            Case(&format!("{nobody} calicoctl node"), USAGE, &[root]),
            Case(&format!("{nobody} calicoctl node stop --force"), USAGE, &[root]),
            Case(&format!("{nobody} calicoctl container add plain 1.2.3"), FAILED, &["Invalid IP address"]),
            Case(
                &format!("{nobody} calicoctl container added profile set P"),
                FAILED,
                &["permission denied", "docker"],
            ),
            Case(&format!("{nobody} calico-node run"), FAILED, &["it needs root"]),
            // Docker does not run, or is looked for in the wrong place.
            Case(
                "DOCKER_HOST=unix:///run/none.sock calicoctl container add plain",
                FAILED,
                &[docker, "/run/none.sock"],
            ),
            Case("DOCKER_HOST=unix:///run/none.sock calicoctl node", FAILED, &[docker, "systemctl start docker"]),
            Case("DOCKER_HOST=tcp://127.0.0.1:1 calicoctl container add plain", FAILED, &[docker, "tcp://127.0.0.1:1"]),
            Case("DOCKER_HOST=frob calicoctl container add plain", FAILED, &["DOCKER_HOST=frob", "unix://"]),
            // The health port of something else.
            Case("CALICO_HEALTH_PORT=frob calicoctl status", FAILED, &["CALICO_HEALTH_PORT", "frob"]),
        ],
    );
    // Soft refusals, which scripts know: code 0, nothing done.
    let before = World::settled(&cluster.lab, host);
    for (command, says) in [
        ("calicoctl profile add P", "Profile P already exists."),
        ("calicoctl profile remove P", "profile in use by endpoint(s)"),
        ("calicoctl profile remove NOBODY", "Profile NOBODY not found."),
        ("calicoctl container added profile append P", "Profile P is already in endpoint profile list"),
        ("calicoctl container added profile append", "No profile specified."),
        ("calicoctl container remove plain", "Failed find Calico data for"),
        ("calicoctl node remove --hostname=nobody", "Node configuration removed"),
    ] {
        let said = host.ok(command);
        assert!(said.contains(says), "`{command}` does not say {says:?}:\n{said}");
        before.assert_same(&World::now(&cluster.lab, host), command);
    }
}
