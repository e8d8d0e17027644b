//! An engine, what its dataplane holds, and short ways to write resources.

#![allow(clippy::unwrap_used, dead_code)]

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use calico_model::{
    Action, AnyResource, Change, EntityRule, HostEndpointSpec, Kind, KindName, NetSetSpec, PolicySpec, ProfileSpec,
    Resource, ResourceKey, Rule, TierSpec, WorkloadEndpointSpec,
};
use calico_policy::{
    Engine,
    instruction::{
        Endpoint, EndpointId, HostEndpoint, HostEndpointId, Instruction, Members, PolicyId, PolicyKind, Pool,
        ProfileId, RuleAction, RuleSet, SetId, Settings, TierPolicies,
    },
};
use serde_json::Value;

/// The host whose engine is tested.
pub(crate) const NODE: &str = "n1";

/// What a dataplane holds after all instructions.
#[derive(Default)]
pub(crate) struct Held {
    pub(crate) sets: BTreeMap<SetId, Members>,
    pub(crate) policies: BTreeMap<PolicyId, Arc<RuleSet>>,
    pub(crate) profiles: BTreeMap<ProfileId, Arc<RuleSet>>,
    pub(crate) endpoints: BTreeMap<EndpointId, Endpoint>,
    pub(crate) host_endpoints: BTreeMap<HostEndpointId, HostEndpoint>,
    pub(crate) hosts: Vec<IpAddr>,
    pub(crate) pools: Vec<Pool>,
    pub(crate) settings: Settings,
}

pub(crate) struct Host {
    pub(crate) engine: Engine,
    pub(crate) held: Held,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self { engine: Engine::new(NODE), held: Held::default() }
    }

    pub(crate) fn with(changes: impl IntoIterator<Item = Change>) -> Self {
        let mut host = Self::new();
        host.take(changes);
        host
    }

    /// Absorbs the changes; returns what one flush says, in words.
    pub(crate) fn take(&mut self, changes: impl IntoIterator<Item = Change>) -> Vec<String> {
        changes.into_iter().for_each(|change| self.engine.absorb(change));
        let instructions = self.engine.flush();
        instructions.into_iter().map(|instruction| self.apply(instruction)).collect()
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        self.engine.problems().iter().map(ToString::to_string).collect()
    }

    fn apply(&mut self, instruction: Instruction) -> String {
        let held = &mut self.held;
        match instruction {
            Instruction::SetReplace { id, members } => {
                held.sets.insert(id, members);
                "set".into()
            }
            Instruction::SetDelta { id, added, removed } => {
                let members = held.sets.get_mut(&id).unwrap();
                *members = changed(members.clone(), added, &removed);
                "members".into()
            }
            Instruction::SetRemove { id } => {
                held.sets.remove(&id).unwrap();
                "-set".into()
            }
            Instruction::PolicyUpdate { id, rules } => {
                let word = format!("policy {id}");
                held.policies.insert(id, rules);
                word
            }
            Instruction::PolicyRemove { id } => {
                held.policies.remove(&id).unwrap();
                format!("-policy {id}")
            }
            Instruction::ProfileUpdate { id, rules } => {
                let word = format!("profile {}", id.0);
                held.profiles.insert(id, rules);
                word
            }
            Instruction::ProfileRemove { id } => {
                held.profiles.remove(&id).unwrap();
                format!("-profile {}", id.0)
            }
            Instruction::EndpointUpdate { id, endpoint } => {
                let word = format!("endpoint {}", id.name);
                for id in endpoint.tiers.iter().flat_map(|tier| tier.ingress.iter().chain(&tier.egress)) {
                    assert!(held.policies.contains_key(id), "{word} comes before its policy {id}");
                }
                assert!(endpoint.profiles.iter().all(|profile| held.profiles.contains_key(profile)), "{word}");
                held.endpoints.insert(id, endpoint);
                word
            }
            Instruction::EndpointRemove { id } => {
                held.endpoints.remove(&id).unwrap();
                format!("-endpoint {}", id.name)
            }
            Instruction::HostEndpointUpdate { id, endpoint } => {
                let word = format!("host endpoint {}", id.0);
                held.host_endpoints.insert(id, endpoint);
                word
            }
            Instruction::HostEndpointRemove { id } => {
                held.host_endpoints.remove(&id).unwrap();
                format!("-host endpoint {}", id.0)
            }
            Instruction::Hosts { addresses } => {
                held.hosts = addresses;
                "hosts".into()
            }
            Instruction::Pools { pools } => {
                held.pools = pools;
                "pools".into()
            }
            Instruction::Settings(settings) => {
                held.settings = settings;
                "settings".into()
            }
            Instruction::Tunnels(_) => "tunnels".into(),
            Instruction::VtepUpdate { vtep } => format!("vtep {}", vtep.address),
            Instruction::VtepRemove { address } => format!("-vtep {address}"),
            Instruction::RouteUpdate { destination, .. } => format!("route {destination}"),
            Instruction::RouteRemove { destination } => format!("-route {destination}"),
        }
    }

    pub(crate) fn endpoint(&self, name: &str) -> &Endpoint {
        self.held.endpoints.iter().find(|(id, _)| id.name == name).unwrap().1
    }

    pub(crate) fn host_endpoint(&self, name: &str) -> &HostEndpoint {
        &self.held.host_endpoints[&HostEndpointId(name.to_owned())]
    }

    /// The policies that judge packets to a workload, as `tier: policy policy | tier: …`.
    pub(crate) fn ingress(&self, name: &str) -> String {
        listed(&self.endpoint(name).tiers, |tier| &tier.ingress)
    }

    pub(crate) fn egress(&self, name: &str) -> String {
        listed(&self.endpoint(name).tiers, |tier| &tier.egress)
    }

    /// The rules of a global policy.
    pub(crate) fn rules(&self, name: &str) -> &RuleSet {
        &self.held.policies[&global(name)]
    }

    pub(crate) fn members(&self, selector: &str) -> Vec<String> {
        match &self.held.sets[&set_id(selector)] {
            Members::Nets(nets) => nets.iter().map(ToString::to_string).collect(),
            Members::Ports(ports) => panic!("{ports:?}"),
        }
    }
}

fn changed(members: Members, added: Members, removed: &Members) -> Members {
    fn merge<T: Ord + Copy>(mut all: Vec<T>, added: Vec<T>, removed: &[T]) -> Vec<T> {
        assert!(removed.iter().all(|member| all.contains(member)) && !added.iter().any(|member| all.contains(member)));
        all.retain(|member| !removed.contains(member));
        all.extend(added);
        all.sort_unstable();
        all
    }
    match (members, added, removed) {
        (Members::Nets(all), Members::Nets(added), Members::Nets(removed)) => Members::Nets(merge(all, added, removed)),
        (Members::Ports(all), Members::Ports(added), Members::Ports(removed)) => {
            Members::Ports(merge(all, added, removed))
        }
        other => panic!("{other:?}"),
    }
}

pub(crate) fn listed(tiers: &[TierPolicies], side: fn(&TierPolicies) -> &Vec<PolicyId>) -> String {
    let tier = |tier: &TierPolicies| {
        let names: Vec<String> = side(tier).iter().map(ToString::to_string).collect();
        format!("{}{}: {}", tier.tier, if tier.pass_at_end { "+" } else { "" }, names.join(" "))
    };
    let with = tiers.iter().filter(|tier| !side(tier).is_empty());
    with.map(tier).collect::<Vec<_>>().join(" | ")
}

/// True if the rules let nothing pass.
pub(crate) fn denies(rules: &RuleSet) -> bool {
    let first = |rules: &[calico_policy::instruction::Rule]| {
        rules.first() == Some(&calico_policy::instruction::Rule::of(RuleAction::Deny))
    };
    first(&rules.ingress) && first(&rules.egress)
}

pub(crate) fn set_id(selector: &str) -> SetId {
    SetId(calico_selector::parse(selector).unwrap().unique_id())
}

pub(crate) fn global(name: &str) -> PolicyId {
    PolicyId { kind: PolicyKind::Global, namespace: String::new(), name: name.to_owned() }
}

pub(crate) fn set<S: Kind>(resource: Resource<S>) -> Change {
    Change::Set { key: resource.key(), resource: Box::new(S::into_any(resource)) }
}

/// A resource as it stands in the datastore, valid or not.
pub(crate) fn stored(value: &Value) -> Change {
    let metadata = &value["metadata"];
    let kind = *KindName::ALL.iter().find(|kind| kind.as_str() == value["kind"]).unwrap();
    let key = ResourceKey::new(kind, metadata["namespace"].as_str(), metadata["name"].as_str().unwrap());
    record(&key, &value.to_string())
}

/// What a text under a key comes to, as the syncer has it.
pub(crate) fn record(key: &ResourceKey, text: &str) -> Change {
    match AnyResource::decode_valid(key, text.as_bytes(), calico_model::Revision(1)) {
        Ok(resource) => Change::Set { key: key.clone(), resource: Box::new(resource) },
        Err(error) => error.into(),
    }
}

/// The same change after a validation that found nothing: what the engine makes of it on its own.
pub(crate) fn unjudged(change: Change) -> Change {
    match change {
        Change::Unusable { key, resource: Some(resource), .. } => Change::Set { key, resource },
        other => other,
    }
}

pub(crate) fn removed(change: &Change) -> Change {
    Change::Remove { key: change.key().clone() }
}

/// An endpoint of this host in the namespace `default`, with the interface `cali<name>`.
pub(crate) fn workload(name: &str, address: &str, labels: &[(&str, &str)]) -> Resource<WorkloadEndpointSpec> {
    in_namespace("default", name, address, labels)
}

pub(crate) fn in_namespace(
    namespace: &str,
    name: &str,
    address: &str,
    labels: &[(&str, &str)],
) -> Resource<WorkloadEndpointSpec> {
    let spec = WorkloadEndpointSpec {
        node: NODE.into(),
        orchestrator: "docker".into(),
        workload: name.into(),
        endpoint: "eth0".into(),
        interface_name: format!("cali{name}"),
        ip_networks: vec![format!("{address}/32")],
        ..Default::default()
    };
    let mut resource = Resource::namespaced(namespace, name, spec);
    resource.metadata.labels = owned(labels);
    resource.metadata.labels.insert("projectcalico.org/namespace".into(), namespace.into());
    resource
}

pub(crate) fn host_endpoint(name: &str, interface: &str, addresses: &[&str]) -> Resource<HostEndpointSpec> {
    let spec = HostEndpointSpec {
        node: NODE.into(),
        interface_name: interface.into(),
        expected_ips: addresses.iter().map(|&address| address.into()).collect(),
        ..Default::default()
    };
    let mut resource = Resource::new(name, spec);
    resource.metadata.labels = owned(&[("host", name)]);
    resource
}

pub(crate) fn profile(name: &str, labels: &[(&str, &str)]) -> Resource<ProfileSpec> {
    let spec = ProfileSpec {
        ingress: vec![Rule::of(Action::Allow)],
        egress: vec![Rule::of(Action::Allow)],
        labels_to_apply: owned(labels),
        ..Default::default()
    };
    Resource::new(name, spec)
}

/// A global policy that lets everything in, for all endpoints.
pub(crate) fn policy(name: &str, order: Option<f64>) -> Resource<calico_model::GlobalNetworkPolicySpec> {
    Resource::new(name, spec(order).into())
}

pub(crate) fn namespaced(namespace: &str, name: &str, order: Option<f64>) -> Resource<calico_model::NetworkPolicySpec> {
    Resource::namespaced(namespace, name, spec(order).into())
}

fn spec(order: Option<f64>) -> PolicySpec {
    PolicySpec {
        order: order.map(|order| serde_json::Number::from_f64(order).unwrap()),
        ingress: vec![Rule::of(Action::Allow)],
        ..Default::default()
    }
}

pub(crate) fn tier(name: &str, order: Option<i64>, action: &str) -> Resource<TierSpec> {
    let spec = TierSpec { order: order.map(Into::into), default_action: action.into(), ..Default::default() };
    Resource::new(name, spec)
}

pub(crate) fn nets(nets: &[&str]) -> NetSetSpec {
    NetSetSpec { nets: nets.iter().map(|&net| net.into()).collect(), ..Default::default() }
}

/// A rule with a condition on the source.
pub(crate) fn from(action: Action, source: EntityRule) -> Rule {
    Rule { source, ..Rule::of(action) }
}

pub(crate) fn selected(selector: &str) -> EntityRule {
    EntityRule { selector: selector.into(), ..Default::default() }
}

pub(crate) fn owned(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    labels.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}
