//! Workload endpoints: who has which interface, and where its packets lead.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use calico_policy::instruction::{Endpoint, EndpointId, TierPolicies};

use super::{Refused, Shadowed, State, chains::Signature};
use crate::{
    family::Family,
    ifname::IfName,
    name::{self, Direction},
    op::Target,
    render::{LimitChain, Map, Role},
    table::{ChainSource, ChainWant, TargetWant},
};

/// What `limit` lets come at once if nobody says otherwise.
const BURST: u32 = 5;

/// Endpoints that claim one interface, by identifier. The lowest has it. Nearly always one, so in as much memory as
/// that needs.
type Claims = Vec<(Arc<EndpointId>, Arc<Endpoint>)>;

/// Where an interface's packets lead.
#[derive(Debug)]
struct Attached {
    signatures: [Arc<Signature>; 2],
    /// Chains of limits, by family.
    limits: Vec<(Family, String)>,
}

/// All workload endpoints.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    interfaces: HashMap<Arc<EndpointId>, IfName>,
    claims: HashMap<IfName, Claims>,
    /// Interfaces that were there and are gone: their endpoints have no rules until they are back.
    gone: HashSet<IfName>,
    attached: HashMap<IfName, Attached>,
    /// Attached endpoints on which base chains depend: spoofing, floating IPs, DSCP.
    special: BTreeMap<IfName, Arc<Endpoint>>,
}

impl Endpoints {
    /// The endpoint that has an interface.
    pub(super) fn winner(&self, interface: &IfName) -> Option<(&Arc<EndpointId>, &Arc<Endpoint>)> {
        self.claims.get(interface)?.first().map(|(id, endpoint)| (id, endpoint))
    }

    /// All interfaces that endpoints claim.
    pub(super) fn interfaces(&self) -> impl Iterator<Item = IfName> {
        self.claims.keys().copied()
    }

    /// The endpoints on which base chains depend.
    pub(super) fn special(&self) -> impl Iterator<Item = (&IfName, &Arc<Endpoint>)> {
        self.special.iter()
    }
}

fn is_special(endpoint: &Endpoint) -> bool {
    !endpoint.spoofable.is_empty() || !endpoint.nats.is_empty() || endpoint.qos.dscp.is_some()
}

impl State {
    pub(super) fn update_endpoint(&mut self, id: EndpointId, endpoint: Endpoint) -> Result<(), Refused> {
        let options = self.options.clone();
        let prefix = &options.interface_prefix;
        let interface = IfName::new(&endpoint.interface).filter(|name| name.as_str().starts_with(prefix.as_str()));
        let id = Arc::new(id);
        if self.endpoints.interfaces.get(&id).copied() != interface {
            self.remove_endpoint(&id);
        }
        let Some(interface) = interface else {
            let name = endpoint.interface;
            let reason = format!("interface {name:?} is no interface name that starts with {prefix:?}");
            return Err(Refused { subject: id.to_string(), reason });
        };
        self.endpoints.interfaces.insert(id.clone(), interface);
        let claims = self.endpoints.claims.entry(interface).or_default();
        match claims.binary_search_by(|(claimant, _)| claimant.cmp(&id)) {
            Ok(place) => claims[place].1 = Arc::new(endpoint),
            Err(place) => {
                claims.reserve_exact(1);
                claims.insert(place, (id, Arc::new(endpoint)));
            }
        }
        self.dirty.interfaces.insert(interface);
        Ok(())
    }

    pub(super) fn remove_endpoint(&mut self, id: &EndpointId) {
        let Some(interface) = self.endpoints.interfaces.remove(id) else { return };
        if let Some(claims) = self.endpoints.claims.get_mut(&interface) {
            claims.retain(|(claimant, _)| **claimant != *id);
            if claims.is_empty() {
                self.endpoints.claims.remove(&interface);
                self.endpoints.gone.remove(&interface);
            }
        }
        self.dirty.interfaces.insert(interface);
    }

    /// An interface came or went. The rules of an endpoint may come before its interface, so that it finds them, but
    /// go with it: an endpoint whose interface went is dead until somebody says otherwise.
    pub(crate) fn link(&mut self, interface: IfName, there: bool) {
        let changed = match there {
            true => self.endpoints.gone.remove(&interface),
            false => self.endpoints.claims.contains_key(&interface) && self.endpoints.gone.insert(interface),
        };
        if changed {
            self.dirty.interfaces.insert(interface);
        }
    }

    /// Whether an endpoint has its interface, or another one has it.
    pub(crate) fn has_interface(&self, id: &EndpointId) -> Option<(IfName, bool)> {
        let interface = self.endpoints.interfaces.get(id)?;
        let (winner, _) = self.endpoints.winner(interface)?;
        Some((*interface, winner.as_ref() == id))
    }

    /// Endpoints whose interface another one has.
    pub(crate) fn shadowed(&self) -> impl Iterator<Item = Shadowed<'_>> {
        let contested = self.endpoints.claims.iter().filter(|(_, claims)| claims.len() > 1);
        contested.flat_map(|(interface, claims)| {
            let (winner, _) = claims.first().expect("more than one");
            claims.iter().skip(1).map(move |(id, _)| (id.as_ref(), *interface, winner.as_ref()))
        })
    }

    /// Leads an interface's traffic to the chains of its endpoint, or nowhere.
    pub(super) fn attach(&mut self, interface: IfName) {
        let winner = self.endpoints.winner(&interface).filter(|_| !self.endpoints.gone.contains(&interface));
        let Some((id, endpoint)) = winner.map(|(id, endpoint)| (id.clone(), endpoint.clone())) else {
            return self.detach(interface);
        };
        // The new uses first: chains that are still used stay.
        let signatures = Direction::ALL.map(|direction| {
            let profiles = endpoint.profiles.as_slice().into();
            self.acquire(Role::Workload(direction), &endpoint.tiers, profiles)
        });
        let mut limits = Vec::new();
        let comment: Arc<str> = name::comment(&id.to_string()).into();
        for (direction, signature) in Direction::ALL.into_iter().zip(&signatures) {
            let names = self.chains.names(signature);
            for family in Family::ALL {
                let shared = names[family.index()].clone();
                let limited = self.limits(interface, &endpoint, direction, &shared);
                let chain = limited.map_or(shared, |chain| {
                    let name = chain.name();
                    let want = ChainWant::new(&chain.render(family), family, ChainSource::Limits(chain.into()));
                    self.tables[family.index()].chains.want(name.clone(), want);
                    limits.push((family, name.clone()));
                    name.into()
                });
                let target = Target { chain, goto: false, comment: comment.clone() };
                let targets = self.tables[family.index()].targets(Map::of_workloads(direction));
                targets.want(interface, TargetWant::new(target));
            }
        }
        self.publish(interface, Some((&id, &endpoint.published)));
        let before = self.endpoints.attached.insert(interface, Attached { signatures, limits });
        self.let_go(interface, before);
        let special = is_special(&endpoint).then_some(&endpoint);
        if self.endpoints.special.get(&interface) != special {
            self.dirty.base = true;
            match special {
                Some(endpoint) => self.endpoints.special.insert(interface, endpoint.clone()),
                None => self.endpoints.special.remove(&interface),
            };
        }
    }

    fn detach(&mut self, interface: IfName) {
        for table in &mut self.tables {
            for direction in Direction::ALL {
                table.targets(Map::of_workloads(direction)).unwant(&interface);
            }
        }
        self.publish(interface, None);
        let before = self.endpoints.attached.remove(&interface);
        self.let_go(interface, before);
        self.dirty.base |= self.endpoints.special.remove(&interface).is_some();
    }

    fn let_go(&mut self, interface: IfName, before: Option<Attached>) {
        let Some(Attached { signatures, limits }) = before else { return };
        for signature in signatures {
            self.release(&signature);
        }
        let kept = self.endpoints.attached.get(&interface).map(|now| now.limits.as_slice()).unwrap_or_default();
        for (family, name) in limits.iter().filter(|chain| !kept.contains(chain)) {
            self.tables[family.index()].chains.unwant(name);
        }
    }

    fn limits(&self, interface: IfName, endpoint: &Endpoint, direction: Direction, next: &str) -> Option<LimitChain> {
        let qos = &endpoint.qos;
        let (rate, burst, connections) = match direction {
            Direction::Ingress => (qos.ingress_packet_rate, qos.ingress_packet_burst, qos.ingress_max_connections),
            Direction::Egress => (qos.egress_packet_rate, qos.egress_packet_burst, qos.egress_max_connections),
        };
        let settings = &self.facts.settings;
        (rate.is_some() || connections.is_some()).then(|| LimitChain {
            interface,
            direction,
            rate: rate.map(|rate| (rate, burst.unwrap_or(BURST))),
            connections,
            accept_invalid: settings.accept_invalid,
            deny: settings.deny,
            next: next.to_owned(),
        })
    }
}

/// The tiers that have policies for a direction, and those policies.
pub(super) fn tiers_of(
    tiers: &[TierPolicies],
    direction: Direction,
) -> impl Iterator<Item = (&TierPolicies, &[calico_policy::instruction::PolicyId])> {
    tiers.iter().filter_map(move |tier| {
        let policies = match direction {
            Direction::Ingress => &tier.ingress,
            Direction::Egress => &tier.egress,
        };
        (!policies.is_empty()).then_some((tier, policies.as_slice()))
    })
}
