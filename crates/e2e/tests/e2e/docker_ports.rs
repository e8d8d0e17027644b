//! Published ports of containers on Calico's networks (`docker run -p`), and what people do with such containers: restart,
//! rename, connect, kill, stop Docker. One lab for all of it.
#![allow(clippy::unwrap_used)]

use calico_e2e::{SOON, eventually, until_plugin_is_served};
use calico_lab::{Host, Lab, LabOptions, Running, wait_for};

use crate::docker_network::remove_network;

/// A page of a small web server, and the address and port that it was asked at.
fn page(address: &str, port: u16) -> String {
    // busybox' wget resolves names by the C library, which a static program has not.
    format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 3 {address} {port} | tail -n 1")
}

/// What is served at an address, seen from a host; empty if nothing answers.
fn from_host(host: &Host, address: &str, port: u16) -> String {
    host.run(&page(address, port)).stdout.trim().to_owned()
}

/// The same seen from a container.
fn from_container(host: &Host, container: &str, address: &str, port: u16) -> String {
    let command = page(address, port).replace("busybox nc", "nc");
    host.run(&format!("docker exec {container} sh -c \"{}\"", command.replace('\\', "\\\\"))).stdout.trim().to_owned()
}

#[track_caller]
fn serves(what: &str, mut ask: impl FnMut() -> String, page: &str) {
    wait_for(SOON, what, || {
        let said = ask();
        if said == page { Ok(()) } else { Err(format!("it says {said:?}")) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
}

/// Starts a web server that serves its own name.
fn serve(host: &Host, options: &str, name: &str, port: u16) {
    host.ok(&format!(
        "docker run -d --stop-timeout 0 --name {name} {options} ubuntu sh -c \
         'mkdir -p /www; echo {name} > /www/index.html; exec httpd -f -p {port} -h /www'"
    ));
}

/// The service, straight on each host.
fn start_all(lab: &Lab) -> Vec<Running> {
    let start = |host: &Host| {
        let service = host.spawn("CALICO_LIBNETWORK=true exec calico-node run");
        until_plugin_is_served(host);
        eventually("the service to be ready", || host.run("calico-node health").success());
        service
    };
    lab.hosts().iter().map(start).collect()
}

#[test]
fn published_ports_of_containers_on_a_network() {
    let lab = Lab::up(&LabOptions::hosts(2)).unwrap();
    let _services = start_all(&lab);
    let (host1, host2) = (lab.host(1), lab.host(2));
    host1.ok("docker network create -d calico --ipam-driver calico-ipam app");
    serve(host1, "--net app -p 8080:80", "web", 80);
    host1.ok("docker run -d --stop-timeout 0 --name client --net app ubuntu sleep 100000");
    everybody_reaches_it(host1, host2);
    ports_of_no_one_s_choice(host1, host2);
    policy_has_the_last_word(host1, host2);
    names_follow(host1);
    it_moves_between_networks(host1, host2);
    composed(host1, host2);
    it_survives(host1, host2);
}

fn everybody_reaches_it(host1: &Host, host2: &Host) {
    let own = host1.ipv4().to_string();
    serves("the port from another host", || from_host(host2, &own, 8080), "web");
    for address in [own.as_str(), "127.0.0.1"] {
        serves("the port from its own host", || from_host(host1, address, 8080), "web");
    }
    for container in ["client", "web"] {
        serves("the port from a container there", || from_container(host1, container, &own, 8080), "web");
    }
    let shown = host1.ok("calicoctl endpoint show --detailed");
    assert!(shown.contains("8080->80/tcp"), "{shown}");
    assert_eq!(from_host(host2, &host2.ipv4().to_string(), 8080), "", "only the container's own host has the port");
}

/// A port of the kernel's range where none was chosen, and none from a process or another container.
fn ports_of_no_one_s_choice(host1: &Host, host2: &Host) {
    let own = host1.ipv4().to_string();
    let listener = host1.spawn("exec busybox nc -l -p 8085");
    eventually("a process to listen", || host1.run("ss -ltn").stdout.contains(":8085 "));
    for (port, words) in [(8085, "a process of this host uses the port"), (8080, "already allocated by web")] {
        let said = host1.fails(&format!("docker run --name second --net app -p {port}:80 ubuntu true")).text();
        assert!(said.contains(words), "{said}");
        host1.ok("docker rm -f second");
    }
    drop(listener);
    serve(host1, "--net app -p 80", "second", 80);
    let shown = host1.ok("calicoctl endpoint show --detailed");
    let range = host1.ok("cat /proc/sys/net/ipv4/ip_local_port_range");
    let range: Vec<u16> = range.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let ports = (range[0]..=range[1]).filter(|port| shown.contains(&format!("{port}->80/tcp"))).collect::<Vec<_>>();
    let [port] = ports[..] else { panic!("one port of {range:?}, not {ports:?}: {shown}") };
    serves("a port of Docker's choice", || from_host(host2, &own, port), "second");
    host1.ok("docker rm -f second");
}

/// A rule that denies the container's own port denies the published one, for who is no member of the network.
fn policy_has_the_last_word(host1: &Host, host2: &Host) {
    let own = host1.ipv4().to_string();
    host1
        .write(
            "/tmp/forbid.yaml",
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: forbid}\nspec:\n  selector: \
             all()\n  types: [Ingress]\n  ingress:\n  - {action: Deny, protocol: TCP, source: {notSelector: all()}, \
             destination: {ports: [80]}}\n  - {action: Allow}\n",
        )
        .unwrap();
    host1.ok("calicoctl apply -f /tmp/forbid.yaml");
    eventually("the port to be closed to another host", || from_host(host2, &own, 8080).is_empty());
    let why = host1.run(&format!("calicoctl why {} {own} tcp 8080", host2.ipv4())).text();
    assert!(why.contains("leads to web") && why.contains("GlobalNetworkPolicy forbid"), "{why}");
    serves("the port from a member", || from_container(host1, "client", &own, 8080), "web");
    host1.ok("calicoctl delete globalnetworkpolicy forbid");
    serves("the port from another host again", || from_host(host2, &own, 8080), "web");
}

/// What `docker compose` asks for: services by their names, wherever they are, also after a restart and a new name.
fn names_follow(host1: &Host) {
    serve(host1, "--net app --network-alias database --restart always", "db", 5432);
    serves("a service by its alias", || from_container(host1, "client", "database", 5432), "db");
    let address =
        |host: &Host| host.ok("docker inspect -f '{{.NetworkSettings.Networks.app.IPAddress}}' db").trim().to_owned();
    host1.ok("docker restart -t 0 db");
    serves("a restarted service", || from_container(host1, "client", "database", 5432), "db");
    host1.ok("kill -9 $(docker inspect -f '{{.State.Pid}}' db)");
    serves("a service that Docker started again", || from_container(host1, "client", "database", 5432), "db");
    host1.ok("docker rename db store");
    serves("a renamed service", || from_container(host1, "client", "store", 5432), "db");
    host1.ok("docker rename store db");
    let own = address(host1);
    eventually("the endpoint to bear the new name", || {
        let shown = host1.run("calicoctl endpoint show --detailed -o json").stdout;
        shown.contains("\"workloadName\": \"db\"") && shown.contains(&own)
    });
    host1.ok("docker rm -f db");
}

fn it_moves_between_networks(host1: &Host, host2: &Host) {
    let own = host1.ipv4().to_string();
    host1.ok("docker network create -d calico --ipam-driver calico-ipam second");
    host1.ok("docker run -d --stop-timeout 0 --name other --net second ubuntu sleep 100000");
    host1.ok("docker network connect second web");
    serves("a member of a second network", || from_container(host1, "other", "web", 80), "web");
    serves("the port meanwhile", || from_host(host2, &own, 8080), "web");
    host1.ok("docker network disconnect app web");
    serves("the port by the other network", || from_host(host2, &own, 8080), "web");
    eventually("members of the first network to be strangers", || {
        from_container(host1, "client", "web", 80).is_empty()
    });
    host1.ok("docker network connect app web");
    serves("a member of the first network again", || from_container(host1, "client", "web", 80), "web");
    host1.ok("docker network disconnect second web && docker rm -f other");
    remove_network(host1, "second");
    serves("the port after that", || from_host(host2, &own, 8080), "web");
}

/// `docker compose` makes networks and containers of its own names, scales them, and takes all of it away.
fn composed(host1: &Host, host2: &Host) {
    host1
        .write(
            "/root/shop/docker-compose.yml",
            "version: '2.4'\nservices:\n  web:\n    image: ubuntu\n    command: sh -c 'mkdir -p /www; echo shop > \
             /www/index.html; exec httpd -f -p 80 -h /www'\n    stop_grace_period: 0s\n    ports: ['8090:80']\n    \
             networks: {front: {}, back: {ipv4_address: 10.89.0.7}}\n    depends_on: [db]\n  db:\n    image: ubuntu\n    \
             command: sleep 100000\n    stop_grace_period: 0s\n    networks: [back]\nnetworks:\n  front: {driver: \
             calico, ipam: {driver: calico-ipam}}\n  back:\n    driver: calico\n    internal: true\n    ipam: {driver: \
             calico-ipam, config: [{subnet: 10.89.0.0/16}]}\n",
        )
        .unwrap();
    let compose = |words: &str| host1.ok(&format!("cd /root/shop && docker-compose --no-ansi {words}"));
    compose("up -d");
    let own = host1.ipv4().to_string();
    serves("a service by its name", || from_container(host1, "shop_db_1", "web", 80), "shop");
    serves("a published port of a service", || from_host(host2, &own, 8090), "shop");
    compose("restart");
    serves("a restarted service", || from_container(host1, "shop_db_1", "web", 80), "shop");
    compose("up -d --scale db=3");
    serves("a service from its third client", || from_container(host1, "shop_db_3", "web", 80), "shop");
    compose("down");
    eventually("the networks and their pool to go", || {
        let profiles = host1.run("calicoctl get profiles -o name").text();
        !profiles.contains("shop") && !host1.run("calicoctl pool show").text().contains("10.89.0.0/16")
    });
}

/// The plugin killed, the container restarted, Docker stopped and started.
fn it_survives(host1: &Host, host2: &Host) {
    let own = host1.ipv4().to_string();
    host1.ok("kill -9 $(pgrep -f 'calico-node libnetwork' | head -n 1)");
    serves("the port without the plugin", || from_host(host2, &own, 8080), "web");
    // Docker waits for a plugin that is not there.
    serve(host1, "--net app --restart always -p 8081:80", "late", 80);
    serves("a port published while the plugin came back", || from_host(host2, &own, 8081), "late");
    host1.ok("docker restart -t 0 web");
    serves("the port of a restarted container", || from_host(host2, &own, 8080), "web");
    host1.stop_docker().unwrap();
    eventually("the ports to go with their containers", || from_host(host2, &own, 8081).is_empty());
    host1.start_docker().unwrap();
    host1.wait_for_docker().unwrap();
    serves("the port of a container that starts with Docker", || from_host(host2, &own, 8081), "late");
    host1.ok("docker rm -f late web client");
    remove_network(host1, "app");
    eventually("nothing to be left", || {
        let endpoints = host1.run("calicoctl endpoint show --detailed -o json").stdout;
        let links = host1.run("ip -o link").stdout;
        let rules =
            host1.run("nft list tables ip").success() && host1.run("nft list map ip calico published").success();
        endpoints.trim() == "[]" && !links.contains(": cali") && !rules
    });
    let audit = host1.run("calicoctl ipam check").text();
    assert!(audit.contains("found 0 problems"), "{audit}");
}
