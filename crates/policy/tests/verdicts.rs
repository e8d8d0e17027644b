//! Verdicts recorded from packets through upstream's Felix, as far as profiles can express the scenario.
//!
//! Policies do not exist here yet, but a scenario whose only policies are global ones of the default tier says the
//! same in profiles: each endpoint gets one in front of its own, with the rules of the policies that select it and
//! a final deny. That puts all of the matching (protocols, networks, ports, selectors, families) to the test.
//! Left out are scenarios that need what is not followed yet, and probes that depend on routing, translation or
//! connection tracking.

#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::PathBuf,
};

use calico_model::{
    AnyResource, Change, FelixConfigurationSpec, Kind, KindName, Profile, ProfileSpec, Resource, ResourceKey,
    WorkloadEndpointSpec,
};
use calico_policy::{
    Engine,
    interpret::Programmed,
    oracle::{self, State},
    packet::{Hop, Packet, Transport, Verdict},
};
use calico_selector::scope::PolicySelectors;
use common::set;
use serde_json::{Value, json};

const NODE: &str = "host1";

/// A source port that no rule of the scenarios is about; the kernel chose those of the recording.
const EPHEMERAL_PORT: u16 = 51_515;

fn file() -> Vec<Value> {
    let folder = std::env::var_os("VECTORS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../vectors")), PathBuf::from);
    let path = folder.join("verdicts.json");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn list(value: &Value, member: &str) -> Vec<Value> {
    value[member].as_array().cloned().unwrap_or_default()
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_default()
}

fn texts(value: &Value, member: &str) -> Vec<String> {
    list(value, member).iter().map(|value| value.as_str().unwrap().to_owned()).collect()
}

/// Why a scenario is left out, if it is.
fn beyond(scenario: &Value) -> Option<&'static str> {
    let steps = list(scenario, "steps");
    let parts = || std::iter::once(scenario).chain(&steps);
    let resources: Vec<Value> =
        parts().flat_map(|part| [list(part, "resources"), list(part, "apply")]).flatten().collect();
    let kinds: BTreeSet<&str> = resources.iter().map(|resource| text(resource, "kind")).collect();
    let followed = ["Profile", "GlobalNetworkPolicy", "StagedGlobalNetworkPolicy", "IPPool", "Node"];
    if kinds.iter().any(|kind| !followed.contains(kind)) {
        return Some("kinds that are not followed");
    }
    let config = scenario["config"].as_object();
    if config.is_some_and(|config| config.keys().any(|key| key != "defaultEndpointToHostAction")) {
        return Some("settings that are not followed");
    }
    for resource in resources.iter().filter(|resource| text(resource, "kind") == "GlobalNetworkPolicy") {
        let spec = &resource["spec"];
        let default_tier = spec["tier"].is_null() || text(spec, "tier") == "default";
        let special = ["doNotTrack", "preDNAT", "applyOnForward"].iter().any(|member| spec[member] == true);
        if !default_tier || special {
            return Some("tiers, and policies that are not normal");
        }
    }
    let named = |port: &Value| port.as_str().is_some_and(|port| port.parse::<u16>().is_err() && !port.contains(':'));
    let ends = |rule: &Value| [rule["source"].clone(), rule["destination"].clone()];
    let mut ends = resources
        .iter()
        .flat_map(|resource| [list(&resource["spec"], "ingress"), list(&resource["spec"], "egress")])
        .flatten()
        .flat_map(|rule| ends(&rule));
    if ends.any(|end| list(&end, "ports").iter().chain(&list(&end, "notPorts")).any(named)) {
        return Some("named ports");
    }
    if parts().flat_map(|part| list(part, "endpoints")).any(|endpoint| !endpoint["ipNATs"].is_null()) {
        return Some("floating addresses");
    }
    None
}

/// What stands in the datastore: the common part, a scenario and the steps of it so far.
struct Cluster {
    defaults: Vec<Value>,
    overrides: BTreeMap<String, Value>,
    /// By kind and name.
    resources: BTreeMap<(String, String), Value>,
    host_action: String,
}

impl Cluster {
    fn new(header: &Value, scenario: &Value) -> Self {
        let action = scenario["config"]["defaultEndpointToHostAction"].as_str();
        let mut cluster = Self {
            defaults: list(header, "endpoints"),
            overrides: BTreeMap::new(),
            resources: BTreeMap::new(),
            host_action: action.unwrap_or("Drop").to_owned(),
        };
        cluster.add(&list(header, "resources"), &[]);
        cluster.add(&list(scenario, "resources"), &list(scenario, "endpoints"));
        cluster
    }

    fn add(&mut self, resources: &[Value], endpoints: &[Value]) {
        for resource in resources {
            let key = (text(resource, "kind").to_owned(), text(&resource["metadata"], "name").to_owned());
            self.resources.insert(key, resource.clone());
        }
        for endpoint in endpoints {
            self.overrides.insert(text(endpoint, "name").to_owned(), endpoint.clone());
        }
    }

    fn step(&mut self, step: &Value) {
        for name in texts(step, "delete") {
            let mut parts = name.split('/');
            let (kind, name) = (parts.next().unwrap().to_owned(), parts.next_back().unwrap().to_owned());
            assert!(self.resources.remove(&(kind.clone(), name.clone())).is_some(), "{kind}/{name} stands");
        }
        self.add(&list(step, "apply"), &list(step, "endpoints"));
    }

    fn endpoint(&self, name: &str) -> Option<Value> {
        let mut endpoint = self.defaults.iter().find(|endpoint| text(endpoint, "name") == name)?.clone();
        if let Some(Value::Object(members)) = self.overrides.get(name) {
            endpoint.as_object_mut().unwrap().extend(members.clone());
        }
        (endpoint["absent"] != true).then_some(endpoint)
    }

    fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let Some(endpoint) = self.endpoint(name) else { return Vec::new() };
        let all = [texts(&endpoint, "ipv4"), texts(&endpoint, "ipv6")].concat();
        all.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.resources.iter().filter(move |((of, _), _)| of == kind).map(|(_, resource)| resource)
    }

    fn changes(&self) -> BTreeMap<ResourceKey, Change> {
        let mut changes = Vec::new();
        for resource in self.of_kind("Profile") {
            changes.push(set(profile(resource)));
        }
        let settings = FelixConfigurationSpec {
            default_endpoint_to_host_action: Some(self.host_action.clone()),
            ..Default::default()
        };
        changes.push(set(Resource::new("default", settings)));
        for default in &self.defaults {
            let Some(endpoint) = self.endpoint(text(default, "name")) else { continue };
            let mut resource = workload(&endpoint);
            if let Some(in_front) = self.policies_for(&resource) {
                resource.spec.profiles.insert(0, in_front.name().to_owned());
                changes.push(set(in_front));
            }
            changes.push(set(resource));
        }
        changes.into_iter().map(|change| (common::key_of(&change).clone(), change)).collect()
    }

    /// The policies that select an endpoint, as a profile that stands before its own.
    fn policies_for(&self, endpoint: &Resource<WorkloadEndpointSpec>) -> Option<Profile> {
        let mut state = State::new(NODE);
        for resource in self.of_kind("Profile") {
            state.apply(&set(profile(resource)));
        }
        state.apply(&set(endpoint.clone()));
        let labels = state.labels(endpoint);
        let order = |policy: &Value| policy["spec"]["order"].as_f64().unwrap_or(f64::INFINITY);
        let mut selecting: Vec<&Value> = self.of_kind("GlobalNetworkPolicy").collect();
        let tie = |policy: &Value| format!("{}//GlobalNetworkPolicy", text(&policy["metadata"], "name"));
        selecting.sort_by(|a, b| order(a).total_cmp(&order(b)).then_with(|| tie(a).cmp(&tie(b))));
        selecting.retain(|policy| {
            let spec = &policy["spec"];
            let selector = PolicySelectors {
                namespace: None,
                selector: text(spec, "selector"),
                namespace_selector: text(spec, "namespaceSelector"),
                service_account_selector: text(spec, "serviceAccountSelector"),
            };
            calico_selector::parse(&selector.combine().unwrap()).unwrap().matches(&labels)
        });
        let mut rules = json!({});
        for (direction, word) in [("ingress", "Ingress"), ("egress", "Egress")] {
            let deciding: Vec<_> = selecting.iter().filter(|policy| types(&policy["spec"]).contains(word)).collect();
            let mut all: Vec<Value> = deciding.iter().flat_map(|policy| list(&policy["spec"], direction)).collect();
            if !deciding.is_empty() {
                all.push(json!({"action": "Deny"}));
            }
            rules[direction] = all.into();
        }
        let spec: ProfileSpec = serde_json::from_value(rules).unwrap();
        (!selecting.is_empty()).then(|| Resource::new(format!("policies-of-{}", endpoint.name()), spec))
    }
}

fn types(spec: &Value) -> BTreeSet<String> {
    let written = texts(spec, "types");
    if !written.is_empty() {
        return written.into_iter().collect();
    }
    let egress = !list(spec, "egress").is_empty();
    let ingress = !list(spec, "ingress").is_empty() || !egress;
    [("Ingress", ingress), ("Egress", egress)]
        .into_iter()
        .filter(|(_, on)| *on)
        .map(|(word, _)| word.to_owned())
        .collect()
}

fn profile(resource: &Value) -> Profile {
    Resource::from_json(resource.to_string().as_bytes(), None).unwrap()
}

fn workload(endpoint: &Value) -> Resource<WorkloadEndpointSpec> {
    let name = text(endpoint, "name");
    let spec = WorkloadEndpointSpec {
        node: NODE.to_owned(),
        orchestrator: "docker".to_owned(),
        workload: name.to_owned(),
        endpoint: "eth0".to_owned(),
        interface_name: format!("cali{name}"),
        ip_networks: [texts(endpoint, "ipv4"), texts(endpoint, "ipv6")].concat(),
        profiles: texts(endpoint, "profiles"),
        service_account_name: text(endpoint, "serviceAccountName").to_owned(),
        allow_spoofed_source_prefixes: texts(endpoint, "allowSpoofedSourcePrefixes"),
        ..Default::default()
    };
    let mut resource = Resource::namespaced(text(endpoint, "namespace"), name, spec);
    resource.metadata.labels = serde_json::from_value(endpoint["labels"].clone()).unwrap();
    Kind::set_defaults(&mut resource);
    resource
}

/// The packet of a probe; `None` if its fate is decided by more than policy.
fn packet(header: &Value, cluster: &Cluster, probe: &Value) -> Option<Packet> {
    let topology = &header["topology"];
    let family = probe["family"].as_u64().unwrap();
    if ["op", "flags", "flow"].iter().any(|member| !probe[member].is_null()) {
        return None;
    }
    let port = probe["port"].as_u64().map(|port| u16::try_from(port).unwrap());
    let translated = list(topology, "dnat").iter().any(|rule| rule["port"].as_u64() == port.map(u64::from));
    if translated && text(probe, "to") == "host" {
        return None;
    }
    let place = |name: &str| -> (Hop, IpAddr) {
        let member = if family == 4 { "ipv4" } else { "ipv6" };
        let outside = list(topology, "outside").into_iter().find(|party| text(party, "name") == name);
        let (hop, address) = match outside {
            _ if name == "host" => (Hop::Host, text(&topology["host"], member).to_owned()),
            Some(party) => (Hop::Interface(text(&party, "interface").to_owned()), text(&party, member).to_owned()),
            None => {
                let default = cluster.defaults.iter().find(|endpoint| text(endpoint, "name") == name).unwrap();
                (Hop::Interface(format!("cali{name}")), texts(default, member)[0].clone())
            }
        };
        (hop, address.parse().unwrap())
    };
    let (from, source) = place(text(probe, "from"));
    let (to, destination) = place(text(probe, "to"));
    let source = probe["src"].as_str().map_or(source, |text| text.parse().unwrap());
    let destination = probe["dst"].as_str().map_or(destination, |text| text.parse().unwrap());
    // Without a route nothing arrives, whatever policy says.
    if matches!(&to, Hop::Interface(name) if name.starts_with("cali"))
        && !cluster.addresses(text(probe, "to")).contains(&destination)
    {
        return None;
    }
    let number = |member: &str| probe[member].as_u64().map(|number| u8::try_from(number).unwrap());
    let ports = |protocol| Transport::Ports {
        protocol,
        source: probe["sport"].as_u64().map_or(EPHEMERAL_PORT, |port| u16::try_from(port).unwrap()),
        destination: port.unwrap(),
    };
    let transport = match text(probe, "proto") {
        "tcp" => ports(6),
        "udp" => ports(17),
        "sctp" => ports(132),
        // Connection tracking lets only questions that it knows begin a flow.
        "icmp" | "icmpv6" if matches!(number("type"), Some(8 | 13 | 128)) => {
            Transport::Icmp { icmp_type: number("type").unwrap(), code: number("code").unwrap_or(0) }
        }
        "icmp" | "icmpv6" => return None,
        _ => Transport::Other(number("proto").unwrap()),
    };
    Some(Packet { from, to, source, destination, transport })
}

/// An engine and the oracle, fed alike.
struct Both {
    engine: Engine,
    programmed: Programmed,
    state: State,
    standing: BTreeMap<ResourceKey, Change>,
}

impl Both {
    fn update(&mut self, next: BTreeMap<ResourceKey, Change>) {
        let gone = self.standing.keys().filter(|key| !next.contains_key(key));
        let removals: Vec<Change> = gone.map(|key| Change::Remove { key: key.clone() }).collect();
        for change in removals.into_iter().chain(next.values().cloned()) {
            self.state.apply(&change);
            self.engine.absorb(change);
        }
        for instruction in self.engine.flush() {
            self.programmed.apply(&instruction).unwrap();
        }
        self.standing = next;
    }
}

#[test]
fn verdicts_of_real_packets() {
    let lines = file();
    let (header, scenarios) = lines.split_first().unwrap();
    let (mut checked, mut used, mut wrong) = (0, 0, Vec::new());
    for scenario in scenarios.iter().filter(|scenario| beyond(scenario).is_none()) {
        used += 1;
        let mut cluster = Cluster::new(header, scenario);
        let mut both = Both {
            engine: Engine::new(NODE),
            programmed: Programmed::default(),
            state: State::new(NODE),
            standing: BTreeMap::new(),
        };
        let steps = list(scenario, "steps");
        for (at, part) in std::iter::once(scenario).chain(&steps).enumerate() {
            if at > 0 {
                cluster.step(part);
            }
            both.update(cluster.changes());
            for probe in list(part, "probes") {
                let Some(packet) = packet(header, &cluster, &probe) else { continue };
                let recorded = text(&probe, "verdict");
                let expected = if recorded == "drop" { Verdict::Deny } else { Verdict::Allow };
                let (verdict, why) = oracle::verdict(&both.state, &packet);
                let programmed = both.programmed.verdict(&packet);
                if verdict != expected || programmed != expected {
                    wrong.push(format!("{} {probe}: {verdict:?} {why:?}, engine {programmed:?}", text(scenario, "id")));
                }
                checked += 1;
            }
        }
    }
    println!("{checked} probes of {used} scenarios of {}", scenarios.len());
    assert!(wrong.is_empty(), "{} of {checked} differ:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
    assert!(checked > 0);
}

/// Of all that the scenarios hold, only profiles that do not exist and endpoints that ask for spoofing are closed:
/// everything else must be understood.
#[test]
fn nothing_is_closed_by_mistake() {
    let lines = file();
    let (header, scenarios) = lines.split_first().unwrap();
    for scenario in scenarios.iter().filter(|scenario| beyond(scenario).is_none()) {
        let mut engine = Engine::new(NODE);
        let changes = Cluster::new(header, scenario).changes();
        for change in changes.values() {
            engine.absorb(change.clone());
        }
        engine.flush();
        for problem in engine.problems() {
            let intended = match changes.get(&problem.object) {
                None => problem.object.kind == KindName::Profile,
                Some(Change::Set { resource, .. }) => matches!(&**resource, AnyResource::WorkloadEndpoint(endpoint)
                    if !endpoint.spec.allow_spoofed_source_prefixes.is_empty()),
                Some(Change::Remove { .. } | Change::Unusable { .. }) => false,
            };
            assert!(intended, "{}: {problem}", scenario["id"]);
        }
    }
}
