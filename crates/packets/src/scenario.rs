//! Scenarios with recorded verdicts, as `vectors/verdicts.md` describes them.

use std::{collections::BTreeMap, fmt::Write as _, io, net::IpAddr};

use calico_model::{AnyResource, Change, Kind, KindName, ResourceKey, Revision, TierSpec, input};
use serde_json::{Map, Value, json};

use crate::{
    Answer, Backend, Content, Manner, Probe, State, Topology,
    topology::{list, text, vectors},
    wire::SYN,
};

/// The file.
#[derive(Debug)]
pub struct Scenarios {
    /// What hangs on the host.
    pub topology: Topology,
    /// All scenarios, in the file's order.
    pub all: Vec<Scenario>,
    header: Value,
}

/// One scenario.
#[derive(Debug)]
pub struct Scenario {
    /// Its name.
    pub id: String,
    /// The group it belongs to.
    pub category: String,
    /// The point of it.
    pub text: String,
    parts: Vec<Part>,
}

/// A state of the datastore and what is tried in it: the scenario itself, or one of its steps.
#[derive(Debug)]
pub struct Part {
    resources: Vec<Value>,
    endpoints: Vec<Value>,
    config: Map<String, Value>,
    delete: Vec<String>,
    /// What is tried.
    pub probes: Vec<Recorded>,
}

/// A probe and what became of it when it was recorded.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The probe.
    pub probe: Probe,
    /// What it says, in few words: names it on the page of differences.
    pub words: String,
    /// What became of it.
    pub answer: Answer,
    /// The source address that the receiver must see, if the probe is about that.
    pub seen: Option<IpAddr>,
}

impl Scenario {
    /// Whether any policy of it decides before connection tracking.
    pub fn is_untracked(&self) -> bool {
        let resources = self.parts.iter().flat_map(|part| &part.resources);
        resources.into_iter().any(|resource| resource["spec"]["doNotTrack"] == true)
    }

    /// The scenario itself, then its steps.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }
}

impl Scenarios {
    /// Reads the vectors' file.
    ///
    /// # Errors
    /// It is missing, or holds what the page does not describe.
    pub fn read() -> io::Result<Self> {
        let lines: Vec<Value> = serde_json::from_str(&vectors("verdicts.json")?)?;
        let (header, scenarios) = lines.split_first().ok_or_else(|| io::Error::other("verdicts.json is empty"))?;
        let topology = Topology::of_header(header);
        let all = scenarios.iter().map(|scenario| read(&topology, scenario)).collect::<io::Result<_>>()?;
        Ok(Self { topology, all, header: header.clone() })
    }

    /// The datastore at the start of a scenario.
    ///
    /// # Errors
    /// A resource that is none.
    pub fn cluster(&self, scenario: &Scenario, backend: Backend) -> io::Result<Cluster> {
        let mut cluster = self.empty(backend)?;
        cluster.step(&scenario.parts[0])?;
        Ok(cluster)
    }

    /// The datastore with the standing resources and the default endpoints only.
    ///
    /// # Errors
    /// A resource that is none.
    pub fn empty(&self, backend: Backend) -> io::Result<Cluster> {
        let mut endpoints = list(&self.header, "endpoints").to_vec();
        for endpoint in &mut endpoints {
            let party = self.topology.index(text(endpoint, "name")).map(|at| &self.topology.parties[at]);
            let party = party.ok_or_else(|| io::Error::other(format!("nobody is {endpoint}")))?;
            endpoint["node"] = self.topology.node.clone().into();
            endpoint["interface"] = party.interface.clone().into();
            endpoint["mac"] = party.mac().into();
        }
        Cluster::new(endpoints, list(&self.header, "resources").to_vec(), backend)
    }
}

/// A datastore in the making.
#[derive(Clone, Debug)]
pub struct Cluster {
    defaults: Vec<Value>,
    overrides: BTreeMap<String, Value>,
    resources: State,
    config: Map<String, Value>,
}

impl Cluster {
    /// A datastore with these endpoints and resources. An endpoint has the fields of the vectors' page, and `node`,
    /// `interface` and `mac`, and as `published` further ports.
    ///
    /// # Errors
    /// A resource that is none.
    pub fn new(endpoints: Vec<Value>, resources: Vec<Value>, backend: Backend) -> io::Result<Self> {
        let mut cluster =
            Self { defaults: endpoints, overrides: BTreeMap::new(), resources: State::new(), config: Map::new() };
        cluster.configure("defaultEndpointToHostAction", "Drop".into());
        for (field, value) in backend.settings() {
            cluster.configure(field, value.into());
        }
        // Every initialised datastore has them.
        for tier in TierSpec::built_in() {
            let change = Change::Set { key: tier.key(), resource: Box::new(TierSpec::into_any(tier)) };
            cluster.resources.insert(change.key().clone(), change);
        }
        for resource in resources {
            cluster.add(resource)?;
        }
        Ok(cluster)
    }

    /// Creates or replaces a resource, as `calicoctl apply` would.
    ///
    /// # Errors
    /// It is not valid.
    pub fn add(&mut self, resource: Value) -> io::Result<()> {
        let change = applied(resource)?;
        self.resources.insert(change.key().clone(), change);
        Ok(())
    }

    /// Sets a field of the FelixConfiguration `default`.
    pub fn configure(&mut self, field: &str, value: Value) {
        self.config.insert(field.to_owned(), value);
    }

    /// Changes fields of the default endpoint of this `name`; all others are as they were at first.
    pub fn endpoint(&mut self, fields: Value) {
        self.overrides.insert(text(&fields, "name").to_owned(), fields);
    }

    /// Deletes a resource by `Kind/namespace/name`.
    ///
    /// # Errors
    /// There is none.
    pub fn delete(&mut self, name: &str) -> io::Result<()> {
        let missing = || io::Error::other(format!("{name} does not stand"));
        let mut parts = name.splitn(3, '/');
        let (kind, namespace, name) = (parts.next(), parts.next(), parts.next());
        let kind = KindName::ALL.iter().find(|known| Some(known.as_str()) == kind).ok_or_else(missing)?;
        let namespace = namespace.filter(|namespace| !namespace.is_empty());
        let name = name.ok_or_else(missing)?;
        let key = ResourceKey::new(*kind, namespace, name);
        // Policies are stored under their tier and name.
        let tiered = ResourceKey::new(*kind, namespace, &format!("default.{name}"));
        self.resources.remove(&key).or_else(|| self.resources.remove(&tiered)).ok_or_else(missing).map(drop)
    }

    /// What a part of a scenario changes.
    ///
    /// # Errors
    /// A resource that is not valid, or one to be deleted that does not stand.
    pub fn step(&mut self, part: &Part) -> io::Result<()> {
        for name in &part.delete {
            self.delete(name)?;
        }
        for resource in &part.resources {
            self.add(resource.clone())?;
        }
        for endpoint in &part.endpoints {
            self.endpoint(endpoint.clone());
        }
        self.config.extend(part.config.clone());
        Ok(())
    }

    /// All that stands.
    ///
    /// # Errors
    /// An endpoint or the configuration is not valid.
    pub fn state(&self) -> io::Result<State> {
        let mut state = self.resources.clone();
        let mut add = |change: Change| drop(state.insert(change.key().clone(), change));
        add(applied(json!({
            "apiVersion": "projectcalico.org/v3", "kind": "FelixConfiguration",
            "metadata": {"name": "default"}, "spec": self.config,
        }))?);
        for default in &self.defaults {
            let mut endpoint = default.clone();
            if let (Some(endpoint), Some(Value::Object(fields))) =
                (endpoint.as_object_mut(), self.overrides.get(text(default, "name")))
            {
                endpoint.extend(fields.clone());
            }
            if endpoint["absent"] != true {
                add(applied(workload(&endpoint))?);
            }
        }
        Ok(state)
    }
}

/// The resource of an endpoint.
fn workload(endpoint: &Value) -> Value {
    let name = text(endpoint, "name");
    let networks = |member: &str, bits: &str| -> Vec<Value> {
        let addresses = list(endpoint, member).iter().filter_map(Value::as_str);
        addresses.map(|address| format!("{address}/{bits}").into()).collect()
    };
    let mut spec = json!({
        "node": endpoint["node"], "orchestrator": "docker", "workload": name, "endpoint": "eth0",
        "interfaceName": endpoint["interface"], "mac": endpoint["mac"],
    });
    spec["ipNetworks"] = [networks("ipv4", "32"), networks("ipv6", "128")].concat().into();
    let fields = ["profiles", "ports", "serviceAccountName", "ipNATs", "allowSpoofedSourcePrefixes", "qosControls"];
    for field in fields.iter().filter(|field| !endpoint[**field].is_null()) {
        spec[*field] = endpoint[*field].clone();
    }
    let published = list(endpoint, "published");
    if !published.is_empty() {
        spec["ports"] = [list(endpoint, "ports"), published].concat().into();
    }
    let metadata = json!({
        "name": format!("{}-docker-{name}-eth0", text(endpoint, "node")),
        "namespace": endpoint["namespace"], "labels": endpoint["labels"],
    });
    json!({"apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint", "metadata": metadata, "spec": spec})
}

/// What `calicoctl apply` makes of a document: defaults are filled in and it must be valid.
///
/// # Errors
/// All its faults.
pub fn applied(document: Value) -> io::Result<Change> {
    let words = document.to_string();
    let mut resource = input::parse(document).map_err(|error| io::Error::other(format!("{words}: {error}")))?;
    resource.prepare().map_err(|error| io::Error::other(format!("{words}: {error}")))?;
    Ok(Change::Set { key: resource.key(), resource: Box::new(resource) })
}

/// What felix makes of a document that somebody stored without asking whether it is valid.
///
/// # Errors
/// It is not even of its kind's shape, or of no kind.
pub fn stored(document: Value) -> io::Result<Change> {
    let words = document.to_string();
    let mut resource = input::parse(document).map_err(|error| io::Error::other(format!("{words}: {error}")))?;
    // The defaults are filled in all the same.
    let _ = resource.prepare();
    let key = resource.key();
    Ok(match AnyResource::decode_valid(&key, &resource.to_json(), Revision(1)) {
        Ok(_) => Change::Set { key, resource: Box::new(resource) },
        Err(error) => Change::from(error),
    })
}

fn read(topology: &Topology, scenario: &Value) -> io::Result<Scenario> {
    let steps = list(scenario, "steps").iter();
    let parts = std::iter::once(scenario).chain(steps).enumerate();
    let parts = parts.map(|(at, part)| read_part(topology, at, part)).collect::<io::Result<_>>();
    Ok(Scenario {
        id: text(scenario, "id").to_owned(),
        category: text(scenario, "category").to_owned(),
        text: text(scenario, "text").to_owned(),
        parts: parts.map_err(|error| io::Error::other(format!("{}: {error}", scenario["id"])))?,
    })
}

fn read_part(topology: &Topology, step: usize, part: &Value) -> io::Result<Part> {
    let probes = list(part, "probes").iter().map(|probe| {
        let (mut words, probe) = (words(probe), recorded(topology, probe)?);
        if step > 0 {
            words = format!("step {step}: {words}");
        }
        Ok(Recorded { words, ..probe })
    });
    Ok(Part {
        resources: [list(part, "resources"), list(part, "apply")].concat(),
        endpoints: list(part, "endpoints").to_vec(),
        config: part["config"].as_object().cloned().unwrap_or_default(),
        delete: list(part, "delete").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        probes: probes.collect::<io::Result<_>>()?,
    })
}

/// A probe in few words: from, to, family, protocol, port or type, and what is special.
fn words(probe: &Value) -> String {
    let word = |member: &str| match &probe[member] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let mut words = format!("{} {} v{} {}", word("from"), word("to"), word("family"), word("proto"));
    for member in ["port", "type", "code"].iter().filter(|member| !probe[**member].is_null()) {
        let _ = write!(words, " {}", word(member));
    }
    for member in ["src", "dst", "sport", "flags", "flow", "op"].iter().filter(|member| !probe[**member].is_null()) {
        let _ = write!(words, " {member}={}", word(member));
    }
    words
}

fn recorded(topology: &Topology, value: &Value) -> io::Result<Recorded> {
    let fault = |what: &str| io::Error::other(format!("{what}: {value}"));
    let number = |member: &str| value[member].as_u64();
    let small = |member: &str| number(member).map(u8::try_from).transpose().map_err(|_| fault(member));
    let port_of = |member: &str| number(member).map(u16::try_from).transpose().map_err(|_| fault(member));
    let address = |member: &str| value[member].as_str().map(str::parse).transpose().map_err(|_| fault(member));
    let family = small("family")?.ok_or_else(|| fault("family"))?;
    let party = |member: &str| topology.index(text(value, member)).ok_or_else(|| fault(member));
    let (from, to) = (party("from")?, party("to")?);
    let port = || port_of("port")?.ok_or_else(|| fault("port"));
    let flags = small("flags")?;
    let content = match &value["proto"] {
        Value::String(name) => match name.as_str() {
            "tcp" => Content::Tcp { port: port()?, flags: flags.unwrap_or(SYN) },
            "udp" => Content::Udp { port: port()? },
            "sctp" => Content::Sctp { port: port()? },
            "icmp" | "icmpv6" => Content::Icmp {
                icmp_type: small("type")?.ok_or_else(|| fault("type"))?,
                code: small("code")?.unwrap_or(0),
            },
            number => Content::Other(number.parse().map_err(|_| fault("proto"))?),
        },
        Value::Number(_) => Content::Other(small("proto")?.ok_or_else(|| fault("proto"))?),
        _ => return Err(fault("proto")),
    };
    let question = match content {
        Content::Tcp { .. } => flags.is_none(),
        Content::Udp { .. } => true,
        Content::Icmp { icmp_type, .. } => matches!((family, icmp_type), (4, 8 | 13) | (6, 128)),
        Content::Sctp { .. } | Content::Other(_) => false,
    };
    let manner = match (value["flow"].as_str(), value["op"].as_str()) {
        (Some(flow), Some("send")) => Manner::Send(flow.to_owned()),
        (Some(flow), None) => Manner::Keep(flow.to_owned()),
        (None, None) if question && value["oneway"] != true => Manner::Converse,
        (None, None) => Manner::OneWay,
        _ => return Err(fault("op")),
    };
    let verdict = text(value, "verdict");
    let (answer, seen) = match verdict.split_once(' ').unwrap_or((verdict, "")) {
        ("allow", "") => (Answer::Allow, None),
        ("allow", seen) => (Answer::Allow, Some(seen.parse().map_err(|_| fault("verdict"))?)),
        ("drop", "") => (Answer::Drop, None),
        ("reject", "") => (Answer::Reject, None),
        ("closed", "") => (Answer::Closed, None),
        _ => return Err(fault("verdict")),
    };
    let destination = match address("dst")? {
        Some(destination) => destination,
        None if text(value, "to") == "host" => host_address(topology, family).ok_or_else(|| fault("to"))?,
        None => topology.parties[to].address(family).ok_or_else(|| fault("to"))?,
    };
    let probe =
        Probe { from, to, source: address("src")?, destination, source_port: port_of("sport")?, content, manner };
    Ok(Recorded { probe, words: String::new(), answer, seen })
}

/// The address of the host by which it is called: that on its first network.
fn host_address(topology: &Topology, family: u8) -> Option<IpAddr> {
    topology.parties.last().and_then(|host| host.address(family))
}
