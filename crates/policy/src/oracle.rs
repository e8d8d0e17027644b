//! The verdict on a packet, from the resources themselves.
//!
//! Everything else in this crate is an optimisation of this module. It shares with the engine what a resource says
//! (which addresses an endpoint has, how selectors combine) and nothing of how that is indexed or compiled; where
//! the two disagree, this one is right. It takes time in proportion to the whole cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use calico_model::{
    Action, AnyResource, Change, EntityRule, FelixConfiguration, Icmp, KindName, Port, Profile, Protocol, ResourceKey,
    Rule, ServiceAccountMatch, WorkloadEndpoint,
};
use calico_selector::{
    Selector, parse,
    scope::{EntitySelector, EntitySelectors, NAMESPACE_PREFIX, SERVICE_ACCOUNT_LABEL, SERVICE_ACCOUNT_PREFIX},
};
use ipnet::IpNet;

use crate::{
    BUILT_IN_PROFILE, INTERFACE_PREFIX,
    endpoint::{identity, interface},
    instruction::{EndpointId, HostAction},
    packet::{Hop, Packet, Verdict},
};

/// The resources that decide on packets, and the host whose eyes they are seen with.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The host's name.
    pub node: String,
    /// Workload endpoints of all hosts.
    pub endpoints: BTreeMap<EndpointId, WorkloadEndpoint>,
    /// Profiles by name.
    pub profiles: BTreeMap<String, Profile>,
    /// Felix configurations by name.
    pub felix: BTreeMap<String, FelixConfiguration>,
}

/// What decided on a packet: at the workload that sent it, and at the workload or host that gets it. `None` where
/// nothing is asked: no workload there, or the packet did not come that far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Why {
    /// On the sender's side.
    pub egress: Option<Reason>,
    /// On the receiver's side.
    pub ingress: Option<Reason>,
}

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// A rule of a profile.
    Rule {
        /// Whose profile.
        endpoint: EndpointId,
        /// The profile's stored name.
        profile: String,
        /// The rule's place among the profile's rules of this direction, from 0.
        index: usize,
        /// What the rule says.
        verdict: Verdict,
    },
    /// The endpoint has no profile, or none of its profiles has a rule for this: denied.
    NoRule {
        /// Which endpoint.
        endpoint: EndpointId,
    },
    /// A profile that does not exist: denied.
    MissingProfile {
        /// Which endpoint.
        endpoint: EndpointId,
        /// The name.
        profile: String,
    },
    /// A profile that cannot be followed: denied.
    ClosedProfile {
        /// Which endpoint.
        endpoint: EndpointId,
        /// The name.
        profile: String,
        /// What is wrong with it.
        fault: String,
    },
    /// The built-in profile that allows all.
    BuiltIn {
        /// Which endpoint.
        endpoint: EndpointId,
    },
    /// A workload's interface that no endpoint of this host has: denied.
    UnknownInterface(String),
    /// A source address that is not the endpoint's: denied.
    ForgedSource {
        /// Which endpoint.
        endpoint: EndpointId,
    },
    /// A packet that only hosts may send: denied.
    Overlay {
        /// Which endpoint.
        endpoint: EndpointId,
    },
    /// Neighbour discovery with the own host: allowed.
    NeighbourDiscovery,
    /// From the host to its own workload: allowed.
    FromHost,
    /// From a workload to its host, after policy.
    ToHost(HostAction),
}

/// What becomes of a packet, the first of its flow, and why.
pub fn verdict(state: &State, packet: &Packet) -> (Verdict, Why) {
    let mut why = Why { egress: state.leaves(packet), ingress: None };
    if why.egress.as_ref().is_none_or(|reason| reason.verdict() == Verdict::Allow) {
        why.ingress = state.arrives(packet, why.egress.as_ref());
    }
    let denied = [&why.egress, &why.ingress].into_iter().flatten().any(|reason| reason.verdict() == Verdict::Deny);
    (if denied { Verdict::Deny } else { Verdict::Allow }, why)
}

impl Reason {
    /// What this decision was.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Rule { verdict, .. } => *verdict,
            Self::BuiltIn { .. } | Self::NeighbourDiscovery | Self::FromHost => Verdict::Allow,
            Self::ToHost(HostAction::Accept | HostAction::Return) => Verdict::Allow,
            Self::ToHost(HostAction::Drop)
            | Self::NoRule { .. }
            | Self::MissingProfile { .. }
            | Self::ClosedProfile { .. }
            | Self::UnknownInterface(_)
            | Self::ForgedSource { .. }
            | Self::Overlay { .. } => Verdict::Deny,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule { endpoint, profile, index, verdict } => {
                let verb = if *verdict == Verdict::Allow { "allowed" } else { "denied" };
                write!(f, "{verb} by rule {index} of profile {profile} (endpoint {endpoint})")
            }
            Self::NoRule { endpoint } => write!(f, "denied: no profile of endpoint {endpoint} has a rule for it"),
            Self::MissingProfile { endpoint, profile } => {
                write!(f, "denied: profile {profile} of endpoint {endpoint} does not exist")
            }
            Self::ClosedProfile { endpoint, profile, fault } => {
                write!(f, "denied: profile {profile} of endpoint {endpoint} cannot be followed: {fault}")
            }
            Self::BuiltIn { endpoint } => write!(f, "allowed by {BUILT_IN_PROFILE} (endpoint {endpoint})"),
            Self::UnknownInterface(name) => write!(f, "denied: no endpoint of this host has the interface {name}"),
            Self::ForgedSource { endpoint } => write!(f, "denied: the source is no address of endpoint {endpoint}"),
            Self::Overlay { endpoint } => write!(f, "denied: endpoint {endpoint} must not send overlay traffic"),
            Self::NeighbourDiscovery => f.write_str("allowed: neighbour discovery with the own host"),
            Self::FromHost => f.write_str("allowed: a host reaches its own workloads"),
            Self::ToHost(HostAction::Drop) => f.write_str("denied: workloads may not reach their host"),
            Self::ToHost(HostAction::Accept) => f.write_str("allowed: workloads may reach their host"),
            Self::ToHost(HostAction::Return) => f.write_str("allowed, as far as the host's own rules do"),
        }
    }
}

impl State {
    /// A cluster without resources, seen from a host.
    pub fn new(node: impl Into<String>) -> Self {
        Self { node: node.into(), ..Self::default() }
    }

    /// Takes a change in.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Set { key, resource } => match resource.as_ref() {
                AnyResource::WorkloadEndpoint(endpoint) => {
                    self.endpoints.insert(endpoint_id(key), endpoint.clone());
                }
                AnyResource::Profile(profile) => {
                    self.profiles.insert(key.name.clone(), profile.clone());
                }
                AnyResource::FelixConfiguration(configuration) => {
                    self.felix.insert(key.name.clone(), configuration.clone());
                }
                _ => {}
            },
            Change::Remove { key } | Change::Unusable { key, .. } => match key.kind {
                KindName::WorkloadEndpoint => drop(self.endpoints.remove(&endpoint_id(key))),
                KindName::Profile => drop(self.profiles.remove(&key.name)),
                KindName::FelixConfiguration => drop(self.felix.remove(&key.name)),
                _ => {}
            },
        }
    }

    fn leaves(&self, packet: &Packet) -> Option<Reason> {
        let Hop::Interface(name) = &packet.from else { return None };
        if !name.starts_with(INTERFACE_PREFIX) {
            return None;
        }
        let Some((endpoint, resource)) = self.behind(name) else {
            return Some(Reason::UnknownInterface(name.clone()));
        };
        if !addresses(resource).contains(&packet.source) && !packet.has_unroutable_source() {
            return Some(Reason::ForgedSource { endpoint: endpoint.clone() });
        }
        if packet.to == Hop::Host && packet.is_neighbour_discovery() {
            return Some(Reason::NeighbourDiscovery);
        }
        if packet.is_overlay() {
            return Some(Reason::Overlay { endpoint: endpoint.clone() });
        }
        Some(self.profiles_decide(endpoint, resource, packet, |profile| &profile.spec.egress))
    }

    fn arrives(&self, packet: &Packet, egress: Option<&Reason>) -> Option<Reason> {
        match &packet.to {
            Hop::Host => {
                let policed = egress.filter(|reason| **reason != Reason::NeighbourDiscovery);
                policed.map(|_| Reason::ToHost(self.host_action()))
            }
            Hop::Interface(name) if !name.starts_with(INTERFACE_PREFIX) => None,
            Hop::Interface(_) if packet.from == Hop::Host => Some(Reason::FromHost),
            Hop::Interface(name) => Some(match self.behind(name) {
                None => Reason::UnknownInterface(name.clone()),
                Some((endpoint, resource)) => {
                    self.profiles_decide(endpoint, resource, packet, |profile| &profile.spec.ingress)
                }
            }),
        }
    }

    /// The endpoint with an interface of this host: the first of those that claim it.
    fn behind(&self, name: &str) -> Option<(&EndpointId, &WorkloadEndpoint)> {
        self.endpoints.iter().find(|(_, endpoint)| {
            let spec = &endpoint.spec;
            spec.node == self.node && spec.interface_name == name && interface(spec).is_ok() && identity(spec).is_ok()
        })
    }

    fn profiles_decide(
        &self,
        endpoint: &EndpointId,
        resource: &WorkloadEndpoint,
        packet: &Packet,
        side: fn(&Profile) -> &Vec<Rule>,
    ) -> Reason {
        let endpoint = endpoint.clone();
        for name in &resource.spec.profiles {
            let profile = name.clone();
            let Some(resource) = self.profiles.get(name) else {
                return if name == BUILT_IN_PROFILE {
                    Reason::BuiltIn { endpoint }
                } else {
                    Reason::MissingProfile { endpoint, profile }
                };
            };
            let mut rules = resource.spec.ingress.iter().chain(&resource.spec.egress);
            if let Some(fault) = rules.find_map(unclear) {
                return Reason::ClosedProfile { endpoint, profile, fault };
            }
            for (index, rule) in side(resource).iter().enumerate().filter(|(_, rule)| self.matches(rule, packet)) {
                let verdict = match rule.parsed_action() {
                    Some(Action::Allow) => Verdict::Allow,
                    Some(Action::Deny) => Verdict::Deny,
                    Some(Action::Pass) => break,
                    Some(Action::Log) | None => continue,
                };
                return Reason::Rule { endpoint, profile, index, verdict };
            }
        }
        Reason::NoRule { endpoint }
    }

    fn host_action(&self) -> HostAction {
        let names = [format!("node.{}", self.node), "default".to_owned()];
        let written = names.iter().find_map(|name| {
            let action = self.felix.get(name)?.spec.default_endpoint_to_host_action.as_deref()?;
            (!action.is_empty()).then(|| action.to_ascii_lowercase())
        });
        match written.as_deref() {
            None | Some("return") => HostAction::Return,
            Some("accept") => HostAction::Accept,
            Some(_) => HostAction::Drop,
        }
    }

    /// True if all conditions of a rule hold, all of which are clear.
    fn matches(&self, rule: &Rule, packet: &Packet) -> bool {
        let number = |protocol: &Protocol| protocol.number();
        let is_icmp = |icmp: &Icmp| {
            packet.icmp().is_some_and(|(icmp_type, code)| {
                icmp.icmp_type.is_none_or(|wanted| wanted == u16::from(icmp_type))
                    && icmp.code.is_none_or(|wanted| wanted == u16::from(code))
            })
        };
        let (source_port, destination_port) = packet.ports().unzip();
        families(rule).contains(&packet.family())
            && rule.protocol.as_ref().is_none_or(|protocol| number(protocol) == Some(packet.protocol()))
            && rule.not_protocol.as_ref().is_none_or(|protocol| number(protocol) != Some(packet.protocol()))
            && rule.icmp.as_ref().is_none_or(is_icmp)
            && !rule.not_icmp.as_ref().is_some_and(is_icmp)
            && self.end_matches(&rule.source, packet.source, source_port)
            && self.end_matches(&rule.destination, packet.destination, destination_port)
    }

    fn end_matches(&self, end: &EntityRule, address: IpAddr, port: Option<u16>) -> bool {
        let within = |nets: &[String]| nets.iter().filter_map(|net| net_of(net)).any(|net| net.contains(&address));
        let among = |ports: &[Port]| {
            port.is_some_and(|port| {
                ports.iter().any(|wanted| match wanted {
                    Port::Number(number) => *number == port,
                    Port::Range(low, high) => (*low..=*high).contains(&port),
                    Port::Name(_) => false,
                })
            })
        };
        let selected = |text: &str| parse(text).is_ok_and(|selector| self.has_selected(address, &selector));
        let selectors = selectors_of(end).unwrap_or_default();
        (end.nets.is_empty() || within(&end.nets))
            && !within(&end.not_nets)
            && (end.ports.is_empty() || among(&end.ports))
            && !among(&end.not_ports)
            && selectors.positive.is_none_or(|text| selected(&text))
            && !selectors.negative.is_some_and(|text| selected(&text))
    }

    /// True if an endpoint anywhere in the cluster that the selector selects has the address.
    fn has_selected(&self, address: IpAddr, selector: &Selector) -> bool {
        self.endpoints
            .values()
            .any(|endpoint| addresses(endpoint).contains(&address) && selector.matches(&self.labels(endpoint)))
    }

    /// The labels that selectors see of an endpoint: its own, then those that its profiles give it; the first of a key
    /// wins.
    pub fn labels(&self, endpoint: &WorkloadEndpoint) -> BTreeMap<String, String> {
        let mut labels = endpoint.metadata.labels.clone();
        labels.retain(|key, _| !key.starts_with(NAMESPACE_PREFIX) && !key.starts_with(SERVICE_ACCOUNT_PREFIX));
        if !endpoint.spec.service_account_name.is_empty() {
            labels.insert(SERVICE_ACCOUNT_LABEL.to_owned(), endpoint.spec.service_account_name.clone());
        }
        for profile in endpoint.spec.profiles.iter().filter_map(|name| self.profiles.get(name)) {
            for (key, value) in &profile.spec.labels_to_apply {
                labels.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        labels
    }
}

/// An endpoint's addresses; none if anything about it is wrong.
fn addresses(endpoint: &WorkloadEndpoint) -> Vec<IpAddr> {
    identity(&endpoint.spec).map(|identity| identity.addresses).unwrap_or_default()
}

/// The first thing about a rule that has no clear meaning.
fn unclear(rule: &Rule) -> Option<String> {
    let protocol = rule.protocol.as_ref().map(Protocol::number);
    let is_icmp = matches!(protocol, Some(Some(1 | 58)));
    let not_protocol = rule.not_protocol.as_ref().map(Protocol::number);
    let bad_protocol = |number: Option<Option<u8>>| matches!(number, Some(None | Some(0)));
    let bad_icmp = |icmp: &Icmp| icmp.icmp_type.is_some_and(|t| t > 254) || icmp.code.is_some_and(|code| code > 255);
    let strange = |members: &serde_json::Map<String, serde_json::Value>| members.values().any(|value| !value.is_null());
    let checks = [
        (rule.parsed_action().is_none(), "its action is none"),
        (strange(&rule.extra) || rule.http.is_some(), "it has a condition that is not followed"),
        (rule.ip_version.is_some_and(|version| version != 4 && version != 6), "its IP version is none"),
        (bad_protocol(protocol) || bad_protocol(not_protocol), "its protocol is none"),
        (rule.icmp.iter().chain(&rule.not_icmp).any(bad_icmp), "its ICMP type or code is none"),
        (
            rule.icmp.iter().chain(&rule.not_icmp).any(|icmp| icmp.icmp_type.is_none() && icmp.code.is_some()),
            "an ICMP code needs a type",
        ),
        (rule.icmp.is_some() && !is_icmp && protocol.is_some(), "only ICMP has types"),
        (rule.icmp.is_some_and(|icmp| icmp.icmp_type.is_none()) && !is_icmp, "any type of which protocol?"),
        (
            rule.not_icmp.is_some_and(|icmp| icmp.icmp_type.is_none()) || (rule.not_icmp.is_some() && !is_icmp),
            "not which type of which protocol?",
        ),
        (families(rule).is_empty(), "its conditions exclude each other"),
    ];
    let broken = checks.into_iter().find(|(broken, _)| *broken).map(|(_, reason)| reason.to_owned());
    broken
        .or_else(|| [&rule.source, &rule.destination].into_iter().find_map(|end| unclear_end(end, protocol.flatten())))
}

fn unclear_end(end: &EntityRule, protocol: Option<u8>) -> Option<String> {
    let ports = || end.ports.iter().chain(&end.not_ports);
    let bad_port = |port: &Port| match port {
        Port::Number(number) => *number == 0,
        Port::Range(low, high) => *low == 0 || low > high,
        Port::Name(_) => true,
    };
    if let Some(net) = end.nets.iter().chain(&end.not_nets).find(|net| net_of(net).is_none()) {
        return Some(format!("{net} is not a network"));
    }
    if end.not_nets.iter().filter_map(|net| net_of(net)).any(|net| net.prefix_len() == 0) {
        return Some("it excludes every address".to_owned());
    }
    if ports().next().is_some() && !matches!(protocol, Some(6 | 17 | 132)) {
        return Some("ports of which protocol?".to_owned());
    }
    if let Some(port) = ports().find(|port| bad_port(port)) {
        return Some(format!("port {port} is none that is followed"));
    }
    if let Some((name, _)) = end.extra.iter().find(|(_, value)| !value.is_null()) {
        return Some(format!("{name} is not followed"));
    }
    if end.services.is_some() {
        return Some("services is not followed".to_owned());
    }
    let selectors = match selectors_of(end) {
        Ok(selectors) => selectors,
        Err(reason) => return Some(reason),
    };
    let texts = [selectors.positive, selectors.negative].into_iter().flatten();
    texts.filter_map(|text| parse(&text).err()).map(|error| error.to_string()).next()
}

/// The families of packets that a rule can match: those of its version, its protocol, and of each list of networks
/// (a list of one family binds the rule to it, negated or not).
fn families(rule: &Rule) -> BTreeSet<u8> {
    let ends = [&rule.source, &rule.destination];
    let lists = || ends.into_iter().flat_map(|end| [&end.nets, &end.not_nets]).filter(|list| !list.is_empty());
    let protocol = rule.protocol.as_ref().and_then(Protocol::number);
    let possible = |family: &u8| {
        rule.ip_version.is_none_or(|version| version == *family)
            && !(protocol == Some(1) && *family == 6)
            && !(protocol == Some(58) && *family == 4)
            && lists()
                .all(|list| list.iter().filter_map(|net| net_of(net)).any(|net| net.addr().is_ipv4() == (*family == 4)))
    };
    [4, 6].into_iter().filter(possible).collect()
}

/// A network without bits behind its prefix, or a single address.
fn net_of(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
    (net == net.trunc()).then_some(net)
}

/// The selectors of one end of a rule, joined as for a rule that belongs to no namespace.
fn selectors_of(end: &EntityRule) -> Result<EntitySelector, String> {
    let nobody = ServiceAccountMatch::default();
    let accounts = end.service_accounts.as_ref().unwrap_or(&nobody);
    if let Some((other, _)) = accounts.extra.iter().find(|(_, value)| !value.is_null()) {
        return Err(format!("serviceAccounts.{other} is not followed"));
    }
    EntitySelectors {
        namespace: None,
        selector: &end.selector,
        not_selector: &end.not_selector,
        namespace_selector: &end.namespace_selector,
        service_account_names: &accounts.names,
        service_account_selector: &accounts.selector,
    }
    .combine()
    .map_err(|error| error.to_string())
}

fn endpoint_id(key: &ResourceKey) -> EndpointId {
    EndpointId { namespace: key.namespace.clone().unwrap_or_default(), name: key.name.clone() }
}
