//! What an operator does with BGP: numbers, the mesh, peers of all hosts and of one, routers and reflectors that are
//! not ours, passwords, and what `status` says of each. Comments number the scenarios as the classic suite did.
#![allow(clippy::unwrap_used)]

use std::{net::IpAddr, time::Duration};

use calico_e2e::{Cluster, Workload, assert_closes_to, assert_matrix, eventually, start_node};
use calico_lab::{Host, Lab, LabOptions, wait_for};
use serde_json::Value;

/// A session that failed is tried again after up to ten seconds, and the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// The AS number of the classic tests, in both forms.
const DOTTED: &str = "4294.566";
const PLAIN: &str = "281412150";
const NUMBER: u32 = 281_412_150;

/// All pairs of the containers that the tests have.
const ALL: [(&str, &str); 2] = [("w1", "w2"), ("w2", "w1")];

/// What `status` says of a host's IPv4 sessions.
fn peers(host: &Host) -> Vec<Value> {
    let status = host.run("calicoctl status -o json");
    let data: Value = serde_json::from_str(&status.stdout).unwrap_or_else(|error| panic!("{error}: {}", status.text()));
    data["ipv4"]["peers"].as_array().cloned().unwrap_or_default()
}

/// Waits until a host's session with an address is as wanted.
#[track_caller]
fn wait_for_peer(host: &Host, address: impl Into<IpAddr>, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let address = address.into().to_string();
    let subject = format!("the session of {} with {address} to be {what}", host.name());
    wait_for(PATIENCE, &subject, || {
        let peers = peers(host);
        match peers.iter().find(|peer| peer["address"] == address.as_str() && is_so(peer)) {
            Some(peer) => Ok(peer.clone()),
            None => Err(format!("{peers:#?}")),
        }
    })
    .unwrap_or_else(|error| panic!("{error}"))
}

/// Waits for an established session of that type, which carries prefixes and has no problem.
#[track_caller]
fn wait_for_session(host: &Host, address: impl Into<IpAddr>, kind: &str) -> Value {
    wait_for_peer(host, address, &format!("established, {kind}"), |peer| {
        peer["type"] == kind && peer["established"] == true && peer["problem"].is_null()
    })
}

/// Waits until a host has no session at all.
#[track_caller]
fn wait_for_no_session(host: &Host) {
    wait_for(PATIENCE, &format!("{} to have no session", host.name()), || {
        let peers = peers(host);
        if peers.is_empty() { Ok(()) } else { Err(format!("{peers:#?}")) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
}

/// Prints nothing and succeeds.
#[track_caller]
fn silently(host: &Host, command: &str) {
    assert_eq!(host.ok(command), "", "{command}");
}

/// A BIRD on a host, with a configuration of somebody else's.
struct Router<'a> {
    host: &'a Host,
    name: &'static str,
}

impl<'a> Router<'a> {
    /// Starts it in the background; it ends with the lab.
    fn start(host: &'a Host, name: &'static str, configuration: &str) -> Self {
        let router = Self { host, name };
        router.write(configuration);
        host.ok(&format!("bird -c /run/{name}.conf -s /run/{name}.ctl -P /run/{name}.pid"));
        router
    }

    fn write(&self, configuration: &str) {
        self.host.write(format!("/run/{}.conf", self.name), configuration).unwrap();
    }

    fn configure(&self, configuration: &str) {
        self.write(configuration);
        self.birdc("configure");
    }

    fn birdc(&self, command: &str) -> String {
        self.host.ok(&format!("birdc -s /run/{}.ctl {command}", self.name))
    }

    fn stop(self) {
        self.birdc("down");
    }
}

/// A lab of which the first hosts are nodes, all with the same number.
fn cluster(hosts: usize, nodes: usize) -> Cluster {
    let lab = Lab::up(&LabOptions::hosts(hosts).with_node_image()).unwrap();
    for number in 1..=nodes {
        let host = lab.host(number);
        start_node(host, &format!("--ip={} --as={DOTTED}", host.ipv4()));
    }
    Cluster { lab }
}

/// Containers that may talk, one on each of the first hosts.
fn workloads<'a>(cluster: &'a Cluster, names: &[&'static str]) -> Vec<Workload<'a>> {
    cluster.lab.host(1).ok("calicoctl profile add TEST_GROUP");
    let mut workloads = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let mut workload = cluster.run(index + 1, name);
        workload.add(&format!("192.168.{}.1", index + 1));
        workload.calicoctl("profile set TEST_GROUP");
        workloads.push(workload);
    }
    workloads
}

/// 26 to 29, and 13: numbers, the mesh, global peers, peers of one host.
#[test]
fn numbers_mesh_and_peers() {
    let lab = Lab::up(&LabOptions::hosts(2).with_node_image()).unwrap();
    let (host1, host2) = (lab.host(1), lab.host(2));

    // 13: no node runs; its v3 name says the same.
    for status in ["calicoctl status", "calicoctl node status"] {
        let said = host1.fails(status);
        assert_eq!((said.code(), said.text().as_str()), (Some(1), "calico-node container not running\n"));
    }
    // 26: what is not set, what is, and what cannot be.
    assert_eq!(host1.ok("calicoctl bgp default-node-as"), "64512\n");
    silently(host1, "calicoctl bgp default-node-as 12345");
    assert_eq!(host2.ok("calicoctl bgp default-node-as"), "12345\n");
    for wrong in ["99999999999999999999999", "abcde"] {
        assert!(host1.fails(&format!("calicoctl bgp default-node-as {wrong}")).text().contains("Invalid AS Number"));
    }
    assert_eq!(host1.ok("calicoctl bgp node-mesh"), "on\n");
    silently(host1, "calicoctl bgp peer add 192.0.2.1 as 1");
    for state in ["off", "on"] {
        silently(host1, &format!("calicoctl bgp node-mesh {state}"));
        assert_eq!(host2.ok("calicoctl bgp node-mesh"), format!("{state}\n"));
    }
    host1.ok("calicoctl bgp peer remove 192.0.2.1");

    // 27: one host has the cluster's number, the other was told the same.
    silently(host1, &format!("calicoctl bgp default-node-as {DOTTED}"));
    assert_eq!(host1.ok("calicoctl bgp default-node-as"), format!("{PLAIN}\n"));
    start_node(host1, &format!("--ip={}", host1.ipv4()));
    start_node(host2, &format!("--ip={} --as={DOTTED}", host2.ipv4()));
    let cluster = Cluster { lab };
    let (host1, host2) = (cluster.lab.host(1), cluster.lab.host(2));
    let workloads = workloads(&cluster, &["w1", "w2"]);
    let workloads: Vec<&Workload<'_>> = workloads.iter().collect();
    assert_matrix(&workloads, &ALL);
    let session = wait_for_peer(host1, host2.ipv4(), "in the mesh, with a block each way", |peer| {
        peer["type"] == "node-to-node mesh" && peer["imported"] == 1 && peer["exported"] == 1
    });
    assert_eq!(session["asNumber"], NUMBER, "{session}");
    assert!(session["since"].as_str().is_some_and(|since| since.starts_with("20")), "{session}");
    assert_eq!(session["channels"][0]["family"], "IPv4", "{session}");
    let shown = host2.ok("calicoctl node status");
    let is_row = |line: &&str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        cells.len() > 5 && cells[1] == host1.ipv4().to_string() && cells[2] == "node-to-node mesh"
    };
    let row = shown.lines().find(is_row).unwrap_or_else(|| panic!("{shown}"));
    assert!(row.contains(" Established "), "{shown}");

    // A setting of all hosts arrives on each, and its removal too.
    let traces = |host: &Host| host.ok("cat /var/run/calico/bird.cfg").contains("{ states, events }");
    silently(host1, "calicoctl config bgp loglevel debug");
    assert_eq!(host2.ok("calicoctl config bgp loglevel"), "debug\n");
    eventually("BIRD to log more", || traces(host2));
    assert_eq!(host1.ok("calicoctl config bgp logSeverityScreen --remove"), "Value removed\n");
    eventually("BIRD to log less", || !traces(host2));

    // 28: without the mesh there are no routes, until all hosts have each as a peer.
    silently(host1, "calicoctl bgp node-mesh off");
    wait_for_no_session(host1);
    assert_closes_to(&workloads, &[]);
    for host in [host2, host1] {
        silently(host1, &format!("calicoctl bgp peer add {} as {DOTTED}", host.ipv4()));
    }
    for (host, other) in [(host1, host2), (host2, host1)] {
        wait_for_session(host, other.ipv4(), "global");
        // BIRD finds out again and again, and is idle in between.
        let own = wait_for_peer(host, host.ipv4(), "idle", |peer| {
            peer["established"] == false && peer["info"].as_str().is_some_and(|info| info.starts_with("Idle"))
        });
        assert!(own["problem"].is_null() && own["ownAddress"] == true && own["type"] == "global", "{own}");
    }
    assert_matrix(&workloads, &ALL);
    let shown = host2.ok("calicoctl bgp peer show --ipv4");
    assert!(
        shown.starts_with("+-") && shown.contains(&format!("| {}", host1.ipv4())) && shown.contains(PLAIN),
        "{shown}"
    );
    for host in [host1, host2] {
        let removed = host1.ok(&format!("calicoctl bgp peer remove {}", host.ipv4()));
        assert_eq!(removed, "BGP peer removed from global configuration\n");
    }
    wait_for_no_session(host2);

    // 29: each host has the other as a peer of its own.
    for (host, other) in [(host1, host2), (host2, host1)] {
        silently(host, &format!("calicoctl node bgp peer add {} as {DOTTED}", other.ipv4()));
    }
    for (host, other) in [(host1, host2), (host2, host1)] {
        wait_for_session(host, other.ipv4(), "node specific");
        let shown = host.ok("calicoctl node bgp peer show");
        assert!(shown.contains(&other.ipv4().to_string()) && shown.contains("No IPv6 BGP Peers"), "{shown}");
    }
    assert_matrix(&workloads, &ALL);

    // The number of one side only is changed: each says whose is wrong.
    silently(host1, &format!("calicoctl node bgp peer add {} as 65009", host2.ipv4()));
    let problem = wait_for_peer(host1, host2.ipv4(), "refused for its number", |peer| {
        peer["problem"].as_str().is_some_and(|problem| problem.contains("AS number"))
    });
    let said = problem["problem"].as_str().unwrap();
    assert!(said.contains("than 65009: check `as` of this peer") || said.contains("refuses our AS number"), "{said}");

    // And back to where it began.
    host1.ok(&format!("calicoctl node bgp peer remove {}", host2.ipv4()));
    host2.ok(&format!("calicoctl node bgp peer remove {}", host1.ipv4()));
    silently(host1, "calicoctl bgp node-mesh on");
    wait_for_session(host1, host2.ipv4(), "node-to-node mesh");
    assert_matrix(&workloads, &ALL);
}

const PASSWORD: &str = "correct horse battery";

/// A router of another AS that gives one prefix.
fn outside(own: &Host, neighbour: &Host, password: &str) -> String {
    format!(
        "router id {own};
protocol device {{}}
protocol static {{ ipv4; route 198.51.100.0/24 blackhole; }}
protocol bgp rack {{
  local {own} as 65001;
  neighbor {neighbour} as {PLAIN};
  password \"{password}\";
  connect delay time 1; connect retry time 2; error wait time 1,4;
  ipv4 {{ import all; export all; }};
}}
",
        own = own.ipv4(),
        neighbour = neighbour.ipv4(),
    )
}

/// A peer that somebody else configured, with a password; and what `status` says when something about it is wrong.
#[test]
fn a_router_outside_with_a_password() {
    let cluster = cluster(2, 1);
    let (node, other) = (cluster.lab.host(1), cluster.lab.host(2));
    let _workloads = workloads(&cluster, &["w1"]);
    node.write("/root/rack.password", format!("{PASSWORD}\n")).unwrap();
    node.ok("chmod 600 /root/rack.password");

    // Nobody listens there yet.
    let add = format!("calicoctl node bgp peer add {} as 65001 --password-file=/root/rack.password", other.ipv4());
    silently(node, &add);
    let problem = wait_for_peer(node, other.ipv4(), "refused by the other host", |peer| !peer["problem"].is_null());
    assert_eq!(problem["type"], "node specific");
    let router = Router::start(other, "rack", &outside(other, node, PASSWORD));
    let session = wait_for_peer(node, other.ipv4(), "established, with a prefix each way", |peer| {
        peer["established"] == true && peer["imported"] == 1 && peer["exported"] == 1
    });
    assert!(session["problem"].is_null() && session["localASNumber"] == NUMBER, "{session}");
    eventually("the router to know the block", || router.birdc("show route").contains("192.168.1.0/26"));

    // The password is in one file of root's, and nowhere else.
    let shown = node.ok("calicoctl node bgp peer show; calicoctl node bgp peer show -o json; calicoctl status -o json");
    let stored = format!("{:?}", cluster.datastore());
    let logs = node.ok("find /var/log/calico -type f -exec cat {} +; docker logs calico-node 2>&1");
    for place in [&shown, &stored, &logs] {
        assert!(!place.contains(PASSWORD), "{place}");
    }
    let name = format!("{}.{}", node.name(), other.ipv4().to_string().replace('.', "-"));
    let secret = format!("/etc/calico/bgp-secrets/{name}/password");
    assert!(shown.contains(&format!("password in {name}/password")), "{shown}");
    assert_eq!(node.ok(&format!("stat -c %a {secret}")), "600\n");

    // The other end changes its password: silence, and the kernel's counters say why.
    router.configure(&outside(other, node, "another one"));
    wait_for_peer(node, other.ipv4(), "silent, with the password under suspicion", |peer| {
        peer["established"] == false && peer["problem"].as_str().is_some_and(|problem| problem.contains("TCP MD5"))
    });
    router.configure(&outside(other, node, PASSWORD));
    wait_for_session(node, other.ipv4(), "node specific");

    // With the peer its password goes.
    assert_eq!(
        node.ok(&format!("calicoctl node bgp peer remove {}", other.ipv4())),
        "BGP peer removed from node configuration\n"
    );
    assert_eq!(node.ok("ls /etc/calico/bgp-secrets"), "");
    wait_for_no_session(node);
    router.stop();
}

/// The addresses of the reflectors, all on one host: two groups of two.
fn reflector_addresses(host: &Host) -> [String; 4] {
    let [a, b, c, _] = host.ipv4().octets();
    [201, 202, 203, 204].map(|last| format!("{a}.{b}.{c}.{last}"))
}

/// A reflector: the nodes are its clients, the reflectors of other groups its peers.
fn reflector(own: &str, cluster_id: &str, clients: &[String], others: &[String]) -> String {
    let mut text = format!(
        "router id {own};
protocol device {{}}
template bgp any {{
  local {own} as 64513; strict bind on;
  connect delay time 1; connect retry time 2; error wait time 1,4;
  ipv4 {{ import all; export where source = RTS_BGP; gateway recursive; }};
}}
# Next hops are looked up: those of the nodes are on the link.
protocol direct {{ ipv4; }}
"
    );
    for (index, client) in clients.iter().enumerate() {
        text += &format!(
            "protocol bgp client{index} from any {{ neighbor {client} as 64513; rr client; rr cluster id {cluster_id}; }}\n"
        );
    }
    for (index, other) in others.iter().enumerate() {
        text += &format!("protocol bgp other{index} from any {{ neighbor {other} as 64513; }}\n");
    }
    text
}

/// 30 and 31: hosts that know only reflectors, first one for all, then two groups of two in rotation.
#[test]
fn route_reflectors_that_are_not_ours() {
    let lab = Lab::up(&LabOptions::hosts(4).with_node_image()).unwrap();
    let cluster = Cluster { lab };
    let nodes: Vec<&Host> = (1..=3).map(|number| cluster.lab.host(number)).collect();
    let outside = cluster.lab.host(4);
    let addresses = reflector_addresses(outside);
    for address in &addresses {
        outside.ok(&format!(
            "ip address add {address}/32 dev $(ip -o -4 route show to default | awk '{{print $5; exit}}')"
        ));
    }
    silently(nodes[0], "calicoctl bgp default-node-as 64513");
    host_nodes(&nodes);
    silently(nodes[0], "calicoctl bgp node-mesh off");
    let workloads = workloads(&cluster, &["w1", "w2", "w3"]);
    let workloads: Vec<&Workload<'_>> = workloads.iter().collect();
    assert_matrix(&workloads, &[]);
    let all: Vec<(&str, &str)> = ["w1", "w2", "w3"]
        .iter()
        .flat_map(|from| ["w1", "w2", "w3"].iter().filter(move |to| *to != from).map(move |to| (*from, *to)))
        .collect();

    // 31: one reflector, a global peer.
    let clients: Vec<String> = nodes.iter().map(|host| host.ipv4().to_string()).collect();
    let single = Router::start(outside, "rr0", &reflector(&addresses[0], "255.0.0.1", &clients, &[]));
    silently(nodes[0], &format!("calicoctl bgp peer add {} as 64513", addresses[0]));
    for host in &nodes {
        wait_for_session(host, addresses[0].parse::<IpAddr>().unwrap(), "global");
    }
    assert_matrix(&workloads, &all);
    nodes[0].ok(&format!("calicoctl bgp peer remove {}", addresses[0]));
    nodes.iter().for_each(|host| wait_for_no_session(host));
    single.stop();
    assert_closes_to(&workloads, &[]);

    // 30: each host has the two reflectors of one group; the groups know each other.
    let routers: Vec<Router<'_>> = ["rr1", "rr2", "rr3", "rr4"]
        .into_iter()
        .enumerate()
        .map(|(index, name)| {
            let (id, others) = if index < 2 { ("255.0.0.1", &addresses[2..]) } else { ("255.0.0.2", &addresses[..2]) };
            Router::start(outside, name, &reflector(&addresses[index], id, &clients, others))
        })
        .collect();
    for (index, host) in nodes.iter().enumerate() {
        let group = if index % 2 == 0 { &addresses[..2] } else { &addresses[2..] };
        for address in group {
            silently(host, &format!("calicoctl node bgp peer add {address} as 64513"));
        }
        for address in group {
            wait_for_session(host, address.parse::<IpAddr>().unwrap(), "node specific");
        }
    }
    assert_matrix(&workloads, &all);
    routers.into_iter().for_each(Router::stop);
}

/// Makes all of them nodes at the same time.
fn host_nodes(hosts: &[&Host]) {
    std::thread::scope(|scope| {
        for host in hosts {
            scope.spawn(|| start_node(host, &format!("--ip={}", host.ipv4())));
        }
    });
}
