//! What has to change so that Docker, datastore and records agree: a pure function of what was seen.
//!
//! Level-triggered: a round compares all of one host's networks and endpoints, whatever event started it, so an event
//! that was missed, came twice or in another order makes no difference.
//!
//! | seen | done |
//! |---|---|
//! | a network of ours without a record | it gets one, and this node is its origin |
//! | a record, and no network of the name | the network is made; at its origin the record goes |
//! | a copy whose record is gone | it is removed when nobody uses it |
//! | an endpoint whose container is known | it is opened: labels, profiles, name |
//! | a stored endpoint that Docker does not have | after a grace period its interface and the record go |
//! | an endpoint of Docker's that is not stored, for a while | it is stored anew |
//!
//! Docker shows an endpoint a little longer than the driver has it: it is asked to delete it first and forgets it
//! afterwards. So what is missing must stay so ([`CONFIRM`]) before it is made anew; otherwise a container's end would
//! leave an endpoint behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use calico_model::{ProfileName, WorkloadEndpoint};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    docker::{Container, Endpoint, Network, State},
    endpoint::{self, EndpointId, Owner},
    protocol::Interface,
    record::{LocalNetwork, NetworkRecord, Stored},
};

/// Between the request that makes something and the moment when Docker shows it lies a part of a second; a busy host may
/// take many.
pub(crate) const GRACE: Duration = Duration::seconds(60);

/// So long must Docker show an endpoint that is not stored before it is stored anew.
pub(crate) const CONFIRM: Duration = Duration::seconds(10);

/// Everything that a round looks at.
pub(crate) struct Seen<'a> {
    pub node: &'a str,
    pub now: OffsetDateTime,
    pub docker: &'a State,
    pub records: &'a BTreeMap<String, Stored>,
    /// This node's, of Docker's networks.
    pub endpoints: &'a [WorkloadEndpoint],
    /// Networks that this node has noted.
    pub noted: &'a [LocalNetwork],
    /// There are records that could not be read: nothing is concluded from the absence of one.
    pub unreadable: bool,
    /// Since when Docker shows endpoints that are not stored, by id: what earlier rounds found.
    pub missing: &'a BTreeMap<String, OffsetDateTime>,
}

/// One change, in the order in which they are made.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Note again what the driver was told of a network.
    Note(LocalNetwork),
    /// Forget a network that Docker no longer has.
    Forget(String),
    CreateRecord(NetworkRecord),
    DeleteRecord(Stored),
    CreateNetwork(NetworkRecord),
    RemoveNetwork {
        id: String,
        name: String,
    },
    /// Make a network's profile unless there is one.
    Profile {
        name: ProfileName,
        internal: bool,
    },
    CreateEndpoint(Box<WorkloadEndpoint>),
    UpdateEndpoint(Box<WorkloadEndpoint>),
    RemoveEndpoint(Box<WorkloadEndpoint>),
}

/// The changes, and what people should know.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub steps: Vec<Step>,
    pub problems: Vec<String>,
    /// Something is too young to be judged; look again after this time.
    pub again: Option<Duration>,
    /// What Docker shows and is not stored, for the next round's [`Seen::missing`].
    pub missing: BTreeMap<String, OffsetDateTime>,
}

impl Plan {
    fn look_again(&mut self, after: Duration) {
        self.again = Some(self.again.map_or(after, |again| again.min(after)));
    }
}

/// Compares.
pub(crate) fn plan(seen: &Seen<'_>) -> Plan {
    let mut plan = Plan::default();
    networks(seen, &mut plan);
    records(seen, &mut plan);
    endpoints(seen, &mut plan);
    plan
}

fn ours<'a>(seen: &Seen<'a>) -> impl Iterator<Item = &'a Network> {
    seen.docker.networks.iter().filter(|network| network.is_calico())
}

/// The record of a network as this host's Docker has it.
fn record_of(network: &Network, node: &str) -> NetworkRecord {
    NetworkRecord {
        name: network.name.clone(),
        origin: node.to_owned(),
        id: network.id.clone(),
        subnets: network.subnets.clone(),
        ip_ranges: network.ip_ranges.clone(),
        internal: network.internal,
        ipv6: network.ipv6,
        ipam_driver: network.ipam_driver.clone(),
        options: network.options.clone(),
        labels: network.labels.clone(),
        extra: serde_json::Map::new(),
    }
}

fn networks(seen: &Seen<'_>, plan: &mut Plan) {
    let present: BTreeSet<&str> = ours(seen).map(|network| network.id.as_str()).collect();
    for noted in seen.noted.iter().filter(|noted| !present.contains(noted.id.as_str())) {
        if is_past_grace(Some(&noted.noted_at), seen.now) {
            plan.steps.push(Step::Forget(noted.id.clone()));
        } else {
            plan.look_again(GRACE);
        }
    }
    for network in ours(seen) {
        if !seen.noted.iter().any(|noted| noted.id == network.id) {
            let subnets = network.subnets.iter().map(ipnet::IpNet::trunc).collect();
            plan.steps.push(Step::Note(LocalNetwork {
                id: network.id.clone(),
                subnets,
                internal: network.internal,
                noted_at: calico_model::timestamp(seen.now),
            }));
        }
        let wanted = record_of(network, seen.node);
        match seen.records.get(&network.name) {
            Some(stored) => {
                if let Some(difference) = stored.record.differs_from(&wanted) {
                    plan.problems.push(format!("network {} is not the same on all hosts: {difference}", network.name));
                }
            }
            None if seen.unreadable => {}
            None if network.is_copy() => copy_without_record(network, plan),
            None => plan.steps.push(Step::CreateRecord(wanted)),
        }
        if let Ok(name) = ProfileName::typed(&network.name)
            && (!network.is_copy() || seen.records.contains_key(&network.name))
        {
            plan.steps.push(Step::Profile { name, internal: network.internal });
        }
    }
}

/// The network was removed where it came from.
fn copy_without_record(network: &Network, plan: &mut Plan) {
    let Network { id, name, .. } = network;
    if network.endpoints.is_empty() {
        plan.steps.push(Step::RemoveNetwork { id: id.clone(), name: name.clone() });
    } else {
        let count = network.endpoints.len();
        plan.problems
            .push(format!("network {name} was removed where it was created, but {count} endpoints use it here"));
    }
}

fn records(seen: &Seen<'_>, plan: &mut Plan) {
    for stored in seen.records.values() {
        let record = &stored.record;
        let same_name: Vec<&Network> =
            seen.docker.networks.iter().filter(|network| network.name == record.name).collect();
        if same_name.iter().any(|network| network.is_calico()) {
            continue;
        }
        if let Some(other) = same_name.first() {
            plan.problems.push(format!(
                "network {} of Calico cannot be made here: Docker has a network of that name by driver {}",
                record.name, other.driver
            ));
        } else if record.origin == seen.node {
            plan.steps.push(Step::DeleteRecord(stored.clone()));
        } else {
            plan.steps.push(Step::CreateNetwork(record.clone()));
        }
    }
}

/// An endpoint in Docker, with its network.
struct InDocker<'a> {
    network: &'a Network,
    endpoint: &'a Endpoint,
}

fn endpoints(seen: &Seen<'_>, plan: &mut Plan) {
    let mut present: BTreeMap<&str, InDocker<'_>> = BTreeMap::new();
    for network in ours(seen) {
        for (id, endpoint) in &network.endpoints {
            present.insert(id, InDocker { network, endpoint });
        }
    }
    let owners = owners(seen, &present);
    let mut stored: BTreeSet<&str> = BTreeSet::new();
    for endpoint in seen.endpoints {
        let id = endpoint.spec.endpoint.as_str();
        stored.insert(id);
        let Some(found) = present.get(id) else {
            if is_old(endpoint, seen.now) {
                plan.steps.push(Step::RemoveEndpoint(Box::new(endpoint.clone())));
            } else {
                plan.look_again(GRACE);
            }
            continue;
        };
        let Some(owner) = found.endpoint.container.as_deref().and_then(|container| owners.get(container)) else {
            // Docker has not said yet whose it is; it will by an event.
            plan.look_again(GRACE);
            continue;
        };
        let opened = endpoint::open(endpoint, owner);
        if let Some(reason) = opened.metadata.annotations.get(endpoint::ANNOTATION_CLOSED) {
            plan.problems.push(format!("container {} is closed: {reason}", owner.name));
        }
        if opened != *endpoint {
            plan.steps.push(Step::UpdateEndpoint(Box::new(opened)));
        }
    }
    for (id, found) in present.iter().filter(|(id, _)| !stored.contains(*id)) {
        // A clock that was set back begins anew.
        let since = seen.missing.get(*id).copied().filter(|since| *since <= seen.now).unwrap_or(seen.now);
        plan.missing.insert((*id).to_owned(), since);
        let left = since + CONFIRM - seen.now;
        if left.is_positive() {
            plan.look_again(left);
            continue;
        }
        match restored(seen.node, id, found) {
            Ok(endpoint) => plan.steps.push(Step::CreateEndpoint(Box::new(endpoint))),
            Err(reason) => plan.problems.push(format!("an endpoint of network {}: {reason}", found.network.name)),
        }
    }
}

/// An endpoint whose record was lost, from what Docker knows of it.
fn restored(node: &str, id: &str, found: &InDocker<'_>) -> Result<WorkloadEndpoint, String> {
    let id = EndpointId::parse(id)?;
    let interface = Interface {
        address: found.endpoint.address4.clone(),
        address_ipv6: found.endpoint.address6.clone(),
        mac_address: String::new(),
    };
    let mac = found.endpoint.mac.parse().unwrap_or_else(|_| id.mac());
    Ok(endpoint::closed(node, &id, &found.network.id, &endpoint::addresses(&interface)?, mac))
}

/// Whose the endpoints are, by container.
fn owners(seen: &Seen<'_>, present: &BTreeMap<&str, InDocker<'_>>) -> BTreeMap<String, Owner> {
    let mut owners: BTreeMap<String, Owner> = BTreeMap::new();
    for found in present.values() {
        let Some(id) = &found.endpoint.container else { continue };
        let Some(Container { name, labels }) = seen.docker.containers.get(id) else { continue };
        let owner = owners.entry(id.clone()).or_insert_with(|| Owner {
            container: id.clone(),
            name: name.clone(),
            labels: labels.clone(),
            ..Owner::default()
        });
        match ProfileName::typed(&found.network.name) {
            Ok(profile) => {
                owner.profiles.insert(profile);
            }
            Err(error) => owner.obstacle = Some(format!("its network cannot be a profile: {error}")),
        }
        owner.siblings.extend(addresses(found.endpoint));
    }
    owners
}

fn addresses(endpoint: &Endpoint) -> impl Iterator<Item = IpAddr> + '_ {
    let texts = [&endpoint.address4, &endpoint.address6].into_iter();
    texts.filter_map(|text| text.split('/').next()?.parse().ok())
}

/// True if an endpoint is too old to be one that Docker is just making.
fn is_old(endpoint: &WorkloadEndpoint, now: OffsetDateTime) -> bool {
    is_older_than(endpoint, GRACE, now)
}

/// True if an endpoint was stored longer ago than an age.
pub(crate) fn is_older_than(endpoint: &WorkloadEndpoint, age: Duration, now: OffsetDateTime) -> bool {
    is_longer_ago(endpoint.metadata.creation_timestamp.as_deref(), age, now)
}

/// True if a moment is longer ago than the grace period; what cannot be read is.
pub(crate) fn is_past_grace(at: Option<&str>, now: OffsetDateTime) -> bool {
    is_longer_ago(at, GRACE, now)
}

fn is_longer_ago(at: Option<&str>, age: Duration, now: OffsetDateTime) -> bool {
    let at = at.and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
    at.is_none_or(|at| now - at > age)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ID: &str = "9071df0b05e79ed8567c8bac25d85a6fcc4ca221474392b6b3e7d3d003c1b8fb";

    /// A round in which Docker shows an endpoint that is not stored.
    fn round(now: OffsetDateTime, missing: &BTreeMap<String, OffsetDateTime>) -> Plan {
        let endpoint = Endpoint { address4: "10.10.0.1/32".to_owned(), ..Endpoint::default() };
        let network = Network {
            id: "id".to_owned(),
            name: "app".to_owned(),
            driver: "calico".to_owned(),
            endpoints: [(ID.to_owned(), endpoint)].into(),
            ..Network::default()
        };
        let docker = State { networks: vec![network], ..State::default() };
        let records = BTreeMap::new();
        plan(&Seen {
            node: "h1",
            now,
            docker: &docker,
            records: &records,
            endpoints: &[],
            noted: &[],
            unreadable: false,
            missing,
        })
    }

    fn creates(plan: &Plan) -> bool {
        plan.steps.iter().any(|step| matches!(step, Step::CreateEndpoint(endpoint) if endpoint.spec.endpoint == ID))
    }

    #[test]
    fn what_is_missing_is_made_anew_only_when_it_stays_so() {
        let start = OffsetDateTime::UNIX_EPOCH;
        let first = round(start, &BTreeMap::new());
        assert!(!creates(&first), "Docker may just be about to forget it");
        assert_eq!(first.again, Some(CONFIRM));
        let second = round(start + CONFIRM / 2, &first.missing);
        assert!(!creates(&second) && second.again == Some(CONFIRM / 2));
        assert!(creates(&round(start + CONFIRM, &second.missing)));
        let set_back = round(start - CONFIRM, &second.missing);
        assert!(!creates(&set_back) && set_back.again == Some(CONFIRM), "the clock was set back");
    }
}
