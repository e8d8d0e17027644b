//! Scenarios of `vectors/verdicts.json`: what is stored, which packets are sent, what was recorded.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use calico_model::{AnyResource, Change, ResourceKey, TierSpec, input};
use calico_policy::packet::{Addressed, Hop, Packet, Tracking, Transport, Verdict};
use ipnet::IpNet;
use serde_json::{Map, Value, json};

/// The host whose packets were recorded.
pub(crate) const HOST: &str = "host1";
/// A source port that no rule of the scenarios is about; the kernel chose those of the recording.
const EPHEMERAL_PORT: u16 = 51_515;
/// The interface of the host's default route.
const UPLINK: &str = "eth1";

pub(crate) fn folder() -> PathBuf {
    std::env::var_os("VECTORS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors")), PathBuf::from)
}

/// The topology, and the scenarios that were recorded.
pub(crate) fn read() -> (Topology, Vec<Scenario>) {
    read_file(&folder().join("verdicts.json"))
}

/// The same of a file.
pub(crate) fn read_file(path: &Path) -> (Topology, Vec<Scenario>) {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines: Vec<Value> = serde_json::from_str(&text).unwrap();
    let (header, scenarios) = lines.split_first().unwrap();
    (Topology(header.clone()), scenarios.iter().map(|value| Scenario(value.clone())).collect())
}

/// The first element of the file.
#[derive(Clone)]
pub(crate) struct Topology(Value);

/// One scenario.
#[derive(Clone)]
pub(crate) struct Scenario(Value);

/// One state of a scenario with the probes that were sent in it.
pub(crate) struct Part {
    pub(crate) changes: Vec<Change>,
    pub(crate) probes: Vec<Probe>,
    /// Addresses of workloads, and where they are.
    routes: BTreeMap<IpAddr, String>,
}

/// A probe: the first packet of a flow, a packet of a flow that was kept, or nothing that this host ever sees.
pub(crate) struct Probe {
    pub(crate) recorded: String,
    /// The probe as `DIFFERENCES.md` writes it.
    pub(crate) words: String,
    /// `None` if routing does not bring the packet to its target at all.
    pub(crate) packet: Option<Packet>,
    /// Only the question was sent.
    pub(crate) oneway: bool,
    /// The target does not listen there: what arrives is refused by it.
    pub(crate) closed_port: bool,
    pub(crate) flow: Option<String>,
    pub(crate) is_send: bool,
    /// The source that the receiver saw was recorded.
    pub(crate) seen: bool,
}

fn list<'a>(value: &'a Value, member: &str) -> &'a [Value] {
    value[member].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_default()
}

fn addresses(endpoint: &Value) -> Vec<IpAddr> {
    let texts = list(endpoint, "ipv4").iter().chain(list(endpoint, "ipv6"));
    texts.map(|text| text.as_str().unwrap().parse().unwrap()).collect()
}

fn of_family(six: bool) -> &'static str {
    if six { "ipv6" } else { "ipv4" }
}

impl Topology {
    /// The host's interfaces with their addresses.
    pub(crate) fn interfaces(&self) -> BTreeMap<String, Vec<IpAddr>> {
        let parse = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut interfaces = BTreeMap::from([
            ("lo".to_owned(), vec![parse("127.0.0.1"), parse("::1")]),
            ("eth0".to_owned(), vec![parse("172.18.0.11")]),
        ]);
        for party in list(&self.0["topology"], "outside") {
            let own = vec![parse(text(party, "host4")), parse(text(party, "host6"))];
            interfaces.insert(text(party, "interface").to_owned(), own);
        }
        interfaces
    }

    fn default_endpoints(&self) -> &[Value] {
        list(&self.0, "endpoints")
    }

    fn outside(&self, name: &str) -> Option<&Value> {
        list(&self.0["topology"], "outside").iter().find(|party| text(party, "name") == name)
    }

    /// The address of a party of the scenario.
    fn address(&self, name: &str, six: bool) -> IpAddr {
        let member = of_family(six);
        let party = match self.outside(name) {
            _ if name == "host" => &self.0["topology"]["host"],
            Some(party) => party,
            None => {
                let endpoint = self.default_endpoints().iter().find(|endpoint| text(endpoint, "name") == name).unwrap();
                return list(endpoint, member)[0].as_str().unwrap().parse().unwrap();
            }
        };
        text(party, member).parse().unwrap()
    }

    /// The source that the host chooses towards an address.
    fn host_source(&self, destination: IpAddr) -> IpAddr {
        let interfaces = self.interfaces();
        let own = |name: &str| interfaces[name].iter().find(|own| own.is_ipv4() == destination.is_ipv4()).copied();
        if self.is_local(destination) {
            return destination;
        }
        let by = self.by_network(destination);
        // Workloads' interfaces have no IPv4 address: the first of the host's is taken.
        by.and_then(|name| own(&name)).or_else(|| own("eth0")).or_else(|| own(UPLINK)).unwrap()
    }

    fn is_local(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.interfaces().values().flatten().any(|own| *own == address)
    }

    /// The interface in whose network an address is.
    fn by_network(&self, address: IpAddr) -> Option<String> {
        let length = |own: &IpAddr| if own.is_ipv4() { 24 } else { 64 };
        let near = |own: &IpAddr| IpNet::new(*own, length(own)).unwrap().contains(&address);
        let interfaces = self.interfaces();
        interfaces.iter().find(|(name, own)| *name != "lo" && own.iter().any(near)).map(|(name, _)| name.clone())
    }

    fn listens(&self, protocol: &str, port: u64) -> bool {
        list(&self.0["topology"], protocol).iter().any(|open| open.as_u64() == Some(port))
    }
}

impl Part {
    /// Where routing sends what goes to an address, and whom that reaches.
    fn route(&self, topology: &Topology, address: IpAddr) -> Hop {
        if topology.is_local(address) {
            return Hop::Host;
        }
        let workload = self.routes.get(&address).cloned();
        let name = workload.or_else(|| topology.by_network(address)).unwrap_or_else(|| UPLINK.to_owned());
        Hop::Interface(name)
    }
}

impl Scenario {
    pub(crate) fn id(&self) -> &str {
        text(&self.0, "id")
    }

    /// The scenario itself, then its steps.
    pub(crate) fn parts(&self, topology: &Topology) -> Vec<Part> {
        let mut cluster = Cluster::new(topology, &self.0);
        let mut parts = vec![cluster.part(topology, &self.0)];
        for step in list(&self.0, "steps") {
            cluster.step(step);
            parts.push(cluster.part(topology, step));
        }
        parts
    }
}

/// What stands in the datastore: the common part, a scenario and the steps of it so far.
struct Cluster {
    endpoints: Vec<Value>,
    overrides: BTreeMap<String, Value>,
    /// By kind, namespace and name.
    resources: BTreeMap<String, Value>,
    config: Map<String, Value>,
    /// What the last part left standing.
    standing: BTreeMap<ResourceKey, AnyResource>,
}

impl Cluster {
    fn new(topology: &Topology, scenario: &Value) -> Self {
        let mut config = Map::from_iter([("defaultEndpointToHostAction".to_owned(), json!("Drop"))]);
        config.extend(scenario["config"].as_object().cloned().unwrap_or_default());
        let mut cluster = Self {
            endpoints: topology.default_endpoints().to_vec(),
            overrides: BTreeMap::new(),
            resources: BTreeMap::new(),
            config,
            standing: BTreeMap::new(),
        };
        // Every cluster has these, and they were there when the verdicts were recorded.
        let tiers = TierSpec::built_in().map(|tier| serde_json::from_slice(&tier.to_json()).unwrap());
        cluster.add(&tiers, &[]);
        cluster.add(list(&topology.0, "resources"), &[]);
        cluster.add(list(scenario, "resources"), list(scenario, "endpoints"));
        cluster
    }

    fn add(&mut self, resources: &[Value], endpoints: &[Value]) {
        for resource in resources {
            let metadata = &resource["metadata"];
            let kind = text(resource, "kind");
            let key = format!("{kind}/{}/{}", text(metadata, "namespace"), text(metadata, "name"));
            self.resources.insert(key, resource.clone());
        }
        for endpoint in endpoints {
            self.overrides.insert(text(endpoint, "name").to_owned(), endpoint.clone());
        }
    }

    fn step(&mut self, step: &Value) {
        for name in list(step, "delete") {
            assert!(self.resources.remove(name.as_str().unwrap()).is_some(), "{name} stands");
        }
        self.add(list(step, "apply"), list(step, "endpoints"));
    }

    /// The endpoints that are in the datastore, as they are there.
    fn present(&self) -> Vec<Value> {
        let with_override = |endpoint: &Value| {
            let mut endpoint = endpoint.clone();
            if let Some(Value::Object(members)) = self.overrides.get(text(&endpoint, "name")) {
                endpoint.as_object_mut().unwrap().extend(members.clone());
            }
            endpoint
        };
        self.endpoints.iter().map(with_override).filter(|endpoint| endpoint["absent"] != true).collect()
    }

    fn part(&mut self, topology: &Topology, part: &Value) -> Part {
        let mut next = BTreeMap::new();
        let felix = json!({"apiVersion": "projectcalico.org/v3", "kind": "FelixConfiguration",
            "metadata": {"name": "default"}, "spec": self.config});
        let present = self.present();
        let endpoints = present.iter().map(workload);
        for value in self.resources.values().cloned().chain([felix]).chain(endpoints) {
            let mut resource = input::parse(value.clone()).unwrap_or_else(|error| panic!("{value}: {error}"));
            resource.prepare().unwrap_or_else(|error| panic!("{value}: {error}"));
            next.insert(resource.key(), resource);
        }
        let gone: BTreeSet<_> = self.standing.keys().filter(|key| !next.contains_key(*key)).cloned().collect();
        let mut changes: Vec<Change> = gone.into_iter().map(|key| Change::Remove { key }).collect();
        let is_new = |key: &ResourceKey, resource: &AnyResource| self.standing.get(key) != Some(resource);
        let set = next.iter().filter(|(key, resource)| is_new(key, resource));
        changes
            .extend(set.map(|(key, resource)| Change::Set { key: key.clone(), resource: Box::new(resource.clone()) }));
        self.standing = next;
        let routes = present.iter().flat_map(|endpoint| {
            let interface = format!("cali{}", text(endpoint, "name"));
            addresses(endpoint).into_iter().map(move |address| (address, interface.clone()))
        });
        let mut result = Part { changes, probes: Vec::new(), routes: routes.collect() };
        result.probes = list(part, "probes").iter().map(|value| probe(topology, &result, &present, value)).collect();
        result
    }
}

fn workload(endpoint: &Value) -> Value {
    let name = text(endpoint, "name");
    let mut spec = json!({
        "node": HOST, "orchestrator": "docker", "workload": name, "endpoint": "eth0",
        "interfaceName": format!("cali{name}"),
        "ipNetworks": addresses(endpoint).into_iter().map(|address| IpNet::from(address).to_string()).collect::<Vec<_>>(),
        "profiles": endpoint["profiles"], "ports": endpoint["ports"],
    });
    for member in ["serviceAccountName", "ipNATs", "allowSpoofedSourcePrefixes"] {
        if !endpoint[member].is_null() {
            spec[member] = endpoint[member].clone();
        }
    }
    json!({"apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint",
        "metadata": {"name": format!("{HOST}-docker-{name}-eth0"), "namespace": text(endpoint, "namespace"),
            "labels": endpoint["labels"]},
        "spec": spec})
}

fn probe(topology: &Topology, part: &Part, present: &[Value], value: &Value) -> Probe {
    let port = value["port"].as_u64();
    let protocol = value["proto"].as_str().unwrap_or_default();
    let packet = packet(topology, part, present, value);
    let target = packet.as_ref().and_then(|packet| packet.ports()).map(|(_, port)| u64::from(port));
    let with_port = matches!(protocol, "tcp" | "udp");
    let questions = matches!(value["type"].as_u64(), Some(8 | 13 | 128));
    Probe {
        recorded: text(value, "verdict").to_owned(),
        words: words(value),
        oneway: value["oneway"] == true || !value["flags"].is_null() || !(with_port || questions),
        closed_port: with_port && target.or(port).is_some_and(|port| !topology.listens(protocol, port)),
        flow: value["flow"].as_str().map(str::to_owned),
        is_send: value["op"] == "send",
        seen: value["seen"] == true,
        packet,
    }
}

fn words(probe: &Value) -> String {
    let word = |member: &str| match &probe[member] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut words = vec![word("from"), word("to"), format!("v{}", word("family")), word("proto")];
    let given = |member: &&str| !probe[*member].is_null();
    words.extend(["port", "type", "code"].into_iter().filter(given).map(word));
    let special = ["src", "dst", "sport", "flags", "flow", "op"].into_iter().filter(given);
    words.extend(special.map(|member| format!("{member}={}", word(member))));
    words.join(" ")
}

fn packet(topology: &Topology, part: &Part, present: &[Value], value: &Value) -> Option<Packet> {
    let six = value["family"] == 6;
    let given = |member: &str| value[member].as_str().map(|text| text.parse::<IpAddr>().unwrap());
    let destination = given("dst").unwrap_or_else(|| topology.address(text(value, "to"), six));
    let place = |name: &str| match topology.outside(name) {
        _ if name == "host" => Hop::Host,
        Some(party) => Hop::Interface(text(party, "interface").to_owned()),
        None => Hop::Interface(format!("cali{name}")),
    };
    let from = place(text(value, "from"));
    let usual = || match &from {
        Hop::Host => topology.host_source(destination),
        Hop::Interface(_) => topology.address(text(value, "from"), six),
    };
    let source = given("src").unwrap_or_else(usual);
    let number = |member: &str| value[member].as_u64().map(|number| u8::try_from(number).unwrap());
    let port = |member: &str| value[member].as_u64().map(|number| u16::try_from(number).unwrap());
    let ports = |protocol| Transport::Ports {
        protocol,
        source: port("sport").unwrap_or(EPHEMERAL_PORT),
        destination: port("port").unwrap(),
    };
    let transport = match value["proto"].as_str() {
        Some("tcp") => ports(6),
        Some("udp") => ports(17),
        Some("sctp") => ports(132),
        Some("icmp" | "icmpv6") => {
            Transport::Icmp { icmp_type: number("type").unwrap(), code: number("code").unwrap_or(0) }
        }
        _ => Transport::Other(number("proto").unwrap()),
    };
    let mut packet = Packet::new(from, Hop::Host, source, destination, transport).unknown_to_tracking();
    if let Some(flags) = number("flags") {
        // A SYN or an ACK alone begins a flow, or seems to go on with one (Linux picks up streams in the middle).
        packet.tracking = if matches!(flags, 2 | 16) { Tracking::New } else { Tracking::Invalid };
    }
    if value["op"] == "send" {
        packet.tracking = Tracking::Established;
    }
    let mut target = place(text(value, "to"));
    if let Some(rule) = translation(topology, &packet) {
        packet.addressed = Some(Addressed { address: packet.destination, port: port("port") });
        packet.destination = text(rule, "to").parse().unwrap();
        let to_port = u16::try_from(rule["to_port"].as_u64().unwrap()).unwrap();
        if let Transport::Ports { destination, .. } = &mut packet.transport {
            *destination = to_port;
        }
        target = part.route(topology, packet.destination);
    }
    packet.to = part.route(topology, packet.destination);
    let floats = present.iter().any(|endpoint| {
        list(endpoint, "ipNATs").iter().any(|nat| text(nat, "externalIP").parse() == Ok(packet.destination))
    });
    (packet.to == target || floats).then_some(packet)
}

/// The rule of the host's owner that translates a packet.
fn translation<'a>(topology: &'a Topology, packet: &Packet) -> Option<&'a Value> {
    let Transport::Ports { protocol: 6, destination, .. } = packet.transport else { return None };
    list(&topology.0["topology"], "dnat").iter().find(|rule| {
        text(rule, "address").parse() == Ok(packet.destination) && rule["port"].as_u64() == Some(u64::from(destination))
    })
}

/// How a verdict would have been recorded.
pub(crate) fn word(probe: &Probe, verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow if probe.closed_port && !probe.oneway => "reject",
        Verdict::Allow => "allow",
        // Nobody looked for errors behind a hand-made packet.
        Verdict::Reject if !probe.oneway => "reject",
        Verdict::Reject | Verdict::Drop => "drop",
    }
}

/// The rows of `DIFFERENCES.md`: scenario, probe, recorded, ours. It belongs to the repository, whichever scenarios run.
pub(crate) fn listed_differences() -> BTreeSet<[String; 4]> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors/DIFFERENCES.md");
    let page = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| {
        let cells = line.split('|').skip(1).map(|cell| cell.trim().trim_matches('`').to_owned());
        cells.take(4).collect::<Vec<_>>().try_into().unwrap()
    })
    .collect()
}
