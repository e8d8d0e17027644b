//! Containers on Calico's networks while Docker, the plugin or the whole host goes away and comes back: live restore, each
//! without the other, a killed daemon, a power cut, a Docker whose API answers nobody. Afterwards addresses, routes and
//! ports are right, the peer on another host is reached, and nothing is left of what died. One lab for all of it.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, os::unix::net::UnixListener, time::Duration};

use calico_e2e::{SOON, eventually, until_plugin_is_served};
use calico_lab::{Host, Lab, LabOptions, Running, wait_for};
use rustix::process::Signal;

use crate::docker_network::remove_network;

/// The containers that restart with Docker, with the options that they are run with.
const CONTAINERS: [(&str, &str); 3] =
    [("web", "--net app -p 8080:80"), ("fixed", "--net own --ip 10.78.0.9"), ("any", "--net app -p 80")];
/// Where the plugin looks for Docker's API while nobody answers there.
const HELD: &str = "/run/held.sock";

/// Starts the service straight on a host; does not wait for it.
fn spawn(host: &Host, environment: &str) -> Running {
    host.spawn(&format!("CALICO_LIBNETWORK=true {environment} exec calico-node run"))
}

fn wait_for_service(host: &Host) {
    until_plugin_is_served(host);
    eventually("the service to be ready", || host.run("calico-node health").success());
}

fn stop(service: Running) {
    service.signal(Signal::TERM);
    let ended = service.wait(Duration::from_secs(60)).unwrap();
    assert!(ended.status.is_some(), "the service did not end:\n{}", ended.text());
}

/// Kills Docker's daemon, as the kernel would that has no memory left.
fn kill_docker(host: &Host) {
    host.ok("kill -9 $(cat /run/dockerd.pid)");
    eventually("Docker to be gone", || !host.run("kill -0 $(cat /run/dockerd.pid)").success());
}

/// Starts Docker, and the service at the same time: neither waits for the other.
fn start_both(host: &Host) -> Running {
    std::thread::scope(|scope| {
        let docker = scope.spawn(|| host.start_docker().unwrap());
        let service = spawn(host, "");
        docker.join().unwrap();
        wait_for_service(host);
        service
    })
}

/// Writes Docker's configuration; the next start reads it.
fn live_restore(host: &Host, on: bool) {
    host.write("/etc/docker/daemon.json", format!("{{\"live-restore\": {on}}}")).unwrap();
}

/// What Docker says of the containers: process and address.
fn containers(host: &Host) -> BTreeMap<&'static str, String> {
    let format = "{{.State.Pid}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let of = |name: &str| host.ok(&format!("docker inspect -f '{format}' {name}")).trim().to_owned();
    CONTAINERS.map(|(name, _)| (name, of(name))).into()
}

/// Waits until all containers run, have what Docker says, and reach the peer as it reaches them; routes, interfaces,
/// endpoints, ports and addresses are theirs and no others.
#[track_caller]
fn all_is_well(host1: &Host, host2: &Host, when: &str) {
    let peer = host2.container_addresses("peer").unwrap()[0];
    wait_for(SOON * 2, &format!("all to be well {when}"), || {
        for (name, _) in CONTAINERS {
            let running = host1.run(&format!("docker inspect -f '{{{{.State.Running}}}}' {name}")).stdout;
            if running.trim() != "true" {
                return Err(format!("{name} does not run"));
            }
        }
        let mut wanted = Vec::new();
        for (name, told) in containers(host1) {
            let address = told.split(' ').nth(1).unwrap_or_default().to_owned();
            let inside = host1.container_addresses(name).map_err(|error| error.to_string())?;
            if inside.iter().map(ToString::to_string).collect::<Vec<_>>() != [address.as_str()] {
                return Err(format!("{name} has {inside:?}, and Docker says {address}"));
            }
            let out = host1.run(&format!("docker exec {name} ping -c 1 -W 5 {peer}"));
            let back = host2.run(&format!("docker exec peer ping -c 1 -W 5 {address}"));
            // The peer is a member of the first network only.
            if name != "fixed" && !(out.success() && back.success()) {
                return Err(format!("{name} and the peer: {}{}", out.text(), back.text()));
            }
            wanted.push(address);
        }
        wanted.sort();
        only_these(host1, &wanted)
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let page = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 3";
    eventually(&format!("the published port {when}"), || {
        host2.run(&format!("{page} {} 8080 | tail -n 1", host1.ipv4())).stdout.trim() == "web"
    });
}

/// Routes, interfaces, endpoints and assigned addresses of a host are these and no others.
fn only_these(host: &Host, addresses: &[String]) -> Result<(), String> {
    let routes = host.run("ip -4 route show proto 80").stdout;
    let mut found: Vec<String> = routes
        .lines()
        .filter(|line| line.contains("dev cali"))
        .filter_map(|line| line.split(' ').next().map(str::to_owned))
        .collect();
    found.sort();
    let links = host.run("ip -o link").stdout.lines().filter(|line| line.contains(": cali")).count();
    let shown = host.run("calicoctl endpoint show --detailed --host=host1").stdout;
    let rows = shown.lines().filter(|line| line.contains("libnetwork")).count();
    let audit = host.run("calicoctl ipam check --show-problem-ips").text();
    if found == addresses && links == found.len() && rows == found.len() && audit.contains("found 0 problems") {
        return Ok(());
    }
    Err(format!("wanted {addresses:?}, there are routes to {found:?}, {links} interfaces, {shown}{audit}"))
}

#[test]
fn whoever_goes_away_and_comes_back() {
    let lab = Lab::up(&LabOptions::hosts(2)).unwrap();
    let (host1, host2) = (lab.host(1), lab.host(2));
    live_restore(host1, true);
    host1.stop_docker().unwrap();
    host1.start_docker().unwrap();
    let service = spawn(host1, "");
    let _peer_service = spawn(host2, "");
    lab.hosts().iter().for_each(wait_for_service);
    let create = "docker network create -d calico --ipam-driver calico-ipam";
    host1.ok(&format!("{create} app && {create} --subnet 10.78.0.0/16 --gateway 10.78.0.1 own"));
    for (name, options) in CONTAINERS {
        host1.ok(&format!(
            "docker run -d --restart always --stop-timeout 0 --name {name} {options} ubuntu sh -c \
             'mkdir -p /www; echo {name} > /www/index.html; exec httpd -f -p 80 -h /www'"
        ));
    }
    eventually("the network to come to host 2", || host2.run("docker network inspect app").success());
    host2.ok("docker run -d --stop-timeout 0 --name peer --net app ubuntu sleep 100000");
    all_is_well(host1, host2, "at first");
    let service = with_live_restore(host1, host2, service);
    without_live_restore(host1, host2);
    stop(service);
    let service = after_a_power_cut(host1, host2);
    stop(service);
    docker_answers_nobody(host1, host2);
}

/// Containers go on while the daemon is away, whoever else is away with it.
fn with_live_restore(host1: &Host, host2: &Host, service: Running) -> Running {
    let before = containers(host1);
    host1.stop_docker().unwrap();
    host1.start_docker().unwrap();
    all_is_well(host1, host2, "after Docker's restart");
    kill_docker(host1);
    host1.start_docker().unwrap();
    all_is_well(host1, host2, "after Docker was killed");
    stop(service);
    kill_docker(host1);
    let service = start_both(host1);
    all_is_well(host1, host2, "after both were away");
    host1.stop_docker().unwrap();
    stop(service);
    let service = spawn(host1, "");
    until_plugin_is_served(host1);
    host1.start_docker().unwrap();
    wait_for_service(host1);
    all_is_well(host1, host2, "after the plugin was restarted without Docker");
    assert_eq!(containers(host1), before, "no process and no address has changed");
    // What Docker has restored it can also remove.
    host1.ok("docker rm -f any");
    host1.ok("docker run -d --restart always --stop-timeout 0 --name any --net app -p 80 ubuntu sleep 100000");
    all_is_well(host1, host2, "with another container");
    service
}

/// Docker kills what it finds of its containers, tells no network driver, and starts them again.
fn without_live_restore(host1: &Host, host2: &Host) {
    live_restore(host1, false);
    host1.stop_docker().unwrap();
    host1.start_docker().unwrap();
    all_is_well(host1, host2, "after Docker stopped its containers");
    kill_docker(host1);
    host1.start_docker().unwrap();
    all_is_well(host1, host2, "after Docker was killed with its containers");
}

/// Every process dies, and the kernel forgets what it had.
fn after_a_power_cut(host1: &Host, host2: &Host) -> Running {
    let ours = "'dockerd|containerd|calico|bird|httpd'";
    host1.ok(&format!(
        "workloads=$(docker inspect -f '{{{{.State.Pid}}}}' web fixed any); pkill -9 {ours}; kill -9 $workloads || true"
    ));
    eventually("all processes to be gone", || !host1.run(&format!("pgrep {ours}")).success());
    host1.ok("for link in $(ip -o link | grep -o 'cali[0-9a-f]*'); do ip link del $link 2> /dev/null; done; \
              nft flush ruleset; ip route flush proto 80; ip route flush proto bird; \
              umount /run/docker/netns/* 2> /dev/null; \
              rm -rf /run/docker /run/docker.pid /run/docker.sock /run/containerd /run/calico");
    let service = start_both(host1);
    all_is_well(host1, host2, "after a power cut");
    service
}

/// The plugin answers Docker while Docker answers nobody; what it only then could ask is made up for.
fn docker_answers_nobody(host1: &Host, host2: &Host) {
    // Who connects waits for ever: nobody accepts.
    let held = UnixListener::bind(host1.path(HELD)).unwrap();
    let service = spawn(host1, &format!("CALICO_DOCKER=unix://{HELD}"));
    until_plugin_is_served(host1);
    host1.ok("docker run -d --stop-timeout 0 --name late --net app ubuntu sleep 100000");
    let late = host1.container_addresses("late").unwrap()[0];
    let ping = format!("docker exec peer ping -c 1 -W 1 {late}");
    assert!(!host2.run(&ping).success(), "closed until it is known whose it is");
    host1.ok(&format!("rm {HELD} && ln -s /run/docker.sock {HELD}"));
    drop(held);
    eventually("the container to be opened", || host2.run(&ping).success());
    host1.ok("docker rm -f late web fixed any");
    host2.ok("docker rm -f peer");
    for network in ["app", "own"] {
        remove_network(host1, network);
    }
    wait_for(SOON, "nothing to be left", || only_these(host1, &[])).unwrap_or_else(|error| panic!("{error}"));
    let log = service.stdout() + &service.stderr();
    assert!(!log.contains("errno=-19"), "the kernel is asked for nothing that is not there:\n{log}");
}
