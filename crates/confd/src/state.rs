//! The BGP data of the datastore, as far as this node's BIRD depends on it.
//!
//! Pure: events in, [`BirdConfig`](crate::BirdConfig) out (see the module `decide`). Level-triggered, as the syncer
//! is: a repeated event changes nothing. What cannot be read is remembered as a problem and otherwise skipped; what
//! was delivered stays in force when the datastore is lost.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use calico_model::{
    AnyResource, AsNumber, BGPConfigurationSpec, BGPFilterSpec, BGPPeerSpec, Change, DecodeError, IPPoolSpec, KindName,
    Node, ResourceKey,
};
use calico_store::{Entry, Event, KvEvent};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::affinity;

/// Something that is left out of the configuration, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The record, or the thing in it.
    pub subject: String,
    /// What is wrong, and what follows.
    pub reason: String,
}

impl Problem {
    pub(crate) fn new(subject: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self { subject: subject.to_string(), reason: reason.to_string() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.reason)
    }
}

/// An address and the subnet it lives in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostAddress {
    pub(crate) address: IpAddr,
    pub(crate) subnet: IpNet,
}

/// What is kept of a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NodeFacts {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) v4: Option<HostAddress>,
    pub(crate) v6: Option<HostAddress>,
    pub(crate) as_number: Option<AsNumber>,
    /// Set on route reflectors, which take no part in the mesh.
    pub(crate) cluster_id: Option<Ipv4Addr>,
    pub(crate) problems: Vec<String>,
}

impl NodeFacts {
    fn of(node: Node) -> Self {
        let mut facts = Self { labels: node.metadata.labels, ..Self::default() };
        let Some(bgp) = node.spec.bgp else { return facts };
        // AS number 0 is reserved (RFC 7607); BIRD refuses the whole file for it.
        facts.as_number = bgp.as_number.filter(|number| number.0 != 0);
        let mut problems = Vec::new();
        let mut read = |text: Option<String>, parse: fn(&str) -> Option<HostAddress>, family: &str| {
            let text = text.filter(|text| !text.is_empty())?;
            let found = parse(&text);
            if found.is_none() {
                problems.push(format!("{text:?} is not an address of a host in {family}; it counts as none"));
            }
            found
        };
        facts.v4 = read(bgp.ipv4_address, host_v4, "IPv4");
        facts.v6 = read(bgp.ipv6_address, host_v6, "IPv6");
        if let Some(id) = bgp.route_reflector_cluster_id.filter(|id| !id.is_empty()) {
            match id.parse() {
                Ok(id) => facts.cluster_id = Some(id),
                Err(_) => problems.push(format!("{id:?} is not a route reflector cluster id (a.b.c.d)")),
            }
        }
        facts.problems = problems;
        facts
    }

    /// The address of a family, 4 or 6.
    pub(crate) fn address(&self, v: u8) -> Option<HostAddress> {
        if v == 4 { self.v4 } else { self.v6 }
    }
}

/// An IPv4 address that a host can have, with or without the length of its subnet.
fn host_v4(text: &str) -> Option<HostAddress> {
    let net = text.parse::<Ipv4Net>().or_else(|_| text.parse::<Ipv4Addr>().map(Ipv4Net::from)).ok()?;
    is_host(net.addr().into()).then(|| HostAddress { address: net.addr().into(), subnet: net.trunc().into() })
}

/// The same for IPv6.
fn host_v6(text: &str) -> Option<HostAddress> {
    let net = text.parse::<Ipv6Net>().or_else(|_| text.parse::<Ipv6Addr>().map(Ipv6Net::from)).ok()?;
    is_host(net.addr().into()).then(|| HostAddress { address: net.addr().into(), subnet: net.trunc().into() })
}

/// True for an address that a neighbour can have: not unspecified, loopback, multicast or broadcast, and not
/// link-local in IPv6, where BIRD needs an interface with it.
pub(crate) fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !(v4.is_unspecified() || v4.is_loopback() || v4.is_multicast() || v4.is_broadcast()),
        IpAddr::V6(v6) => {
            let mapped = v6.to_ipv4_mapped().is_some();
            !(v6.is_unspecified() || v6.is_loopback() || v6.is_multicast() || v6.is_unicast_link_local() || mapped)
        }
    }
}

/// The facts, fed by [`absorb`](Self::absorb).
#[derive(Debug)]
pub struct State {
    pub(crate) node: String,
    pub(crate) in_sync: bool,
    pub(crate) nodes: BTreeMap<String, NodeFacts>,
    /// `default` and `node.<name>`.
    pub(crate) settings: BTreeMap<String, BGPConfigurationSpec>,
    pub(crate) peers: BTreeMap<String, BGPPeerSpec>,
    pub(crate) filters: BTreeMap<String, BGPFilterSpec>,
    pub(crate) pools: BTreeMap<String, IPPoolSpec>,
    /// Own blocks, by the key of their affinity.
    pub(crate) blocks: BTreeMap<String, IpNet>,
    /// Records that cannot be read, by key.
    unreadable: BTreeMap<String, String>,
    lost: Option<String>,
}

impl State {
    /// The state of node `node` before the first event.
    pub fn new(node: impl Into<String>) -> Self {
        Self {
            node: node.into(),
            in_sync: false,
            nodes: BTreeMap::new(),
            settings: BTreeMap::new(),
            peers: BTreeMap::new(),
            filters: BTreeMap::new(),
            pools: BTreeMap::new(),
            blocks: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            lost: None,
        }
    }

    /// The prefixes of the datastore that a syncer must follow for node `node`.
    pub fn prefixes(node: &str) -> Vec<String> {
        let kinds =
            [KindName::BGPConfiguration, KindName::BGPFilter, KindName::BGPPeer, KindName::IPPool, KindName::Node];
        kinds.into_iter().map(ResourceKey::prefix).chain([affinity::prefix(node)]).collect()
    }

    /// Takes an event. True if the configuration may be another one now.
    pub fn absorb(&mut self, event: Event) -> bool {
        match event {
            Event::Change(Change::Set { key, resource }) => self.set(&key, *resource),
            Event::Change(Change::Remove { key } | Change::Unusable { key, .. }) => self.remove(&key),
            Event::Raw(KvEvent::Put(entry)) => self.put_affinity(entry),
            Event::Raw(KvEvent::Delete { key, .. }) => {
                self.unreadable.remove(&key).is_some() | self.blocks.remove(&key).is_some()
            }
            Event::Unreadable(error) => {
                let (key, reason) = named(&error);
                replace(&mut self.unreadable, key, reason)
            }
            Event::InSync => !std::mem::replace(&mut self.in_sync, true),
            Event::Lost { cause } => {
                self.lost = Some(cause);
                false
            }
            Event::Back => {
                self.lost = None;
                false
            }
        }
    }

    /// Why the datastore cannot be reached, while that is so.
    pub fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    /// True once the first complete snapshot is here.
    pub fn is_in_sync(&self) -> bool {
        self.in_sync
    }

    /// True if the configuration depends on passwords, which live outside of the datastore.
    pub fn has_secrets(&self) -> bool {
        self.peers.values().any(|peer| peer.extra.contains_key("password"))
            || self.settings.values().any(|settings| settings.node_mesh_password.is_some())
    }

    /// Records that cannot be read.
    pub(crate) fn unreadable(&self) -> impl Iterator<Item = Problem> {
        self.unreadable.iter().map(|(key, reason)| Problem::new(key, format!("{reason}; it is skipped")))
    }

    fn set(&mut self, key: &ResourceKey, resource: AnyResource) -> bool {
        let healed = self.unreadable.remove(&key.to_string()).is_some();
        let name = key.name.clone();
        let changed = match resource {
            AnyResource::Node(node) => replace(&mut self.nodes, name, NodeFacts::of(node)),
            AnyResource::BGPConfiguration(settings) => replace(&mut self.settings, name, settings.spec),
            AnyResource::BGPPeer(peer) => replace(&mut self.peers, name, peer.spec),
            AnyResource::BGPFilter(filter) => replace(&mut self.filters, name, filter.spec),
            AnyResource::IPPool(pool) => replace(&mut self.pools, name, pool.spec),
            _ => false,
        };
        healed | changed
    }

    fn remove(&mut self, key: &ResourceKey) -> bool {
        let healed = self.unreadable.remove(&key.to_string()).is_some();
        let name = key.name.as_str();
        let changed = match key.kind {
            KindName::Node => self.nodes.remove(name).is_some(),
            KindName::BGPConfiguration => self.settings.remove(name).is_some(),
            KindName::BGPPeer => self.peers.remove(name).is_some(),
            KindName::BGPFilter => self.filters.remove(name).is_some(),
            KindName::IPPool => self.pools.remove(name).is_some(),
            _ => false,
        };
        healed | changed
    }

    fn put_affinity(&mut self, entry: Entry) -> bool {
        let prefix = affinity::prefix(&self.node);
        let Some(rest) = entry.key.strip_prefix(&prefix) else { return false };
        let block = match affinity::block(rest) {
            Ok(None) => return false,
            Ok(Some(block)) => affinity::is_confirmed(&entry.value).map(|mine| mine.then_some(block)),
            Err(reason) => Err(reason),
        };
        match block {
            Ok(Some(block)) => {
                let healed = self.unreadable.remove(&entry.key).is_some();
                healed | replace(&mut self.blocks, entry.key, block)
            }
            Ok(None) => self.unreadable.remove(&entry.key).is_some() | self.blocks.remove(&entry.key).is_some(),
            Err(reason) => {
                let changed = self.blocks.remove(&entry.key).is_some();
                changed | replace(&mut self.unreadable, entry.key, reason)
            }
        }
    }
}

/// Puts a value; true if it was another one before.
fn replace<V: PartialEq>(map: &mut BTreeMap<String, V>, key: String, value: V) -> bool {
    if map.get(&key) == Some(&value) {
        return false;
    }
    map.insert(key, value);
    true
}

/// The key that an error is about, and the error without it.
fn named(error: &DecodeError) -> (String, String) {
    let key = error.key().to_string();
    let text = error.to_string();
    let reason = text.strip_prefix(key.as_str()).map_or(text.as_str(), str::trim_start).to_owned();
    (key, reason)
}
