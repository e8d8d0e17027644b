//! Which routes and neighbour entries lead to workloads.
//!
//! Each address of an endpoint gets a host route to its interface, as long as the interface exists and runs. If
//! several endpoints claim an address, the newest interface (the highest index) has it, and when that goes the next
//! one does: a workload that is replaced by its successor hands over its address.
//!
//! An address that leaves an interface leaves connection tracking entries behind, which would let the next owner
//! inherit what was allowed to the former. So moved addresses are listed, and are cleaned before they are routed anew.
//!
//! Routes to workloads of other hosts ([`Routing::place`]) come from the module `vxlan`, and are kept here because all
//! routes with our protocol number are one desired state.
//!
//! No kernel access here: links come in as events, steps go out.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    net::IpAddr,
};

use calico_policy::instruction::Endpoint;
use ipnet::IpNet;

use crate::{
    Options, Problem,
    family::Family,
    ifname::IfName,
    netlink::{Link, LinkEvent},
    tracker::{Fingerprint, Step, Tracker},
};

/// A route with our protocol number in the main table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Route {
    /// Where to.
    pub destination: IpNet,
    /// Its metric.
    pub metric: u32,
    /// The interface's index; 0 if it has none.
    pub interface: u32,
    /// The next hop, for routes that do not lead straight to the interface.
    pub gateway: Option<IpAddr>,
    /// As we make them: straight to the interface, to a gateway that is taken to be behind it, or nowhere.
    pub plain: bool,
    /// The kernel's route type; 1 is unicast.
    pub kind: u8,
}

/// A permanent neighbour entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Neighbour {
    /// The interface's index.
    pub interface: u32,
    /// The workload's address.
    pub address: IpAddr,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} metric {} interface {}", self.destination, self.metric, self.interface)?;
        self.gateway.map_or(Ok(()), |gateway| write!(f, " via {gateway}"))
    }
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} interface {}", self.address, self.interface)
    }
}

/// What an endpoint has on its interface.
#[derive(Debug)]
struct Attached {
    addresses: Vec<IpAddr>,
    mac: Option<[u8; 6]>,
}

/// Wanted and present routes and neighbours.
#[derive(Debug)]
pub(crate) struct Routing {
    metric: u32,
    prefix: String,
    attached: HashMap<IfName, Attached>,
    /// Sorted. Nearly always one, so in as much memory as that needs.
    claims: HashMap<IpAddr, Vec<IfName>>,
    contested: BTreeSet<IpAddr>,
    unusable: BTreeSet<(IfName, IpAddr)>,
    links: HashMap<u32, Link>,
    indexes: HashMap<IfName, u32>,
    /// Interfaces that came, changed or went since somebody last asked.
    changed: BTreeSet<IfName>,
    /// The interface that each address is, or was last, routed to.
    owners: HashMap<IpAddr, u32>,
    moved: BTreeSet<IpAddr>,
    routes: Tracker<Route, Fingerprint>,
    neighbours: Tracker<Neighbour, Fingerprint>,
    /// Routes to other hosts, by destination.
    placed: HashMap<IpNet, Route>,
    /// Interfaces of tunnels, whose neighbour entries are ours too.
    tunnels: [Option<u32>; 2],
    /// Addresses that have come to a local interface, or left all, since somebody last asked.
    decided: BTreeSet<IpAddr>,
    /// What is believed to be there may not be.
    pub(crate) stale: bool,
    /// Nothing was read yet since the start.
    first: bool,
}

/// Routes have no content beyond their key.
const THERE: Fingerprint = 1;
/// `RTN_UNICAST`.
pub(crate) const UNICAST: u8 = 1;

impl Routing {
    /// Nothing wanted, nothing known.
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            metric: options.route_metric,
            prefix: options.interface_prefix.clone(),
            attached: HashMap::new(),
            claims: HashMap::new(),
            contested: BTreeSet::new(),
            unusable: BTreeSet::new(),
            links: HashMap::new(),
            indexes: HashMap::new(),
            changed: BTreeSet::new(),
            owners: HashMap::new(),
            moved: BTreeSet::new(),
            routes: Tracker::default(),
            neighbours: Tracker::default(),
            placed: HashMap::new(),
            tunnels: [None; 2],
            decided: BTreeSet::new(),
            stale: true,
            first: true,
        }
    }

    /// An interface has another endpoint, or the endpoint changed, or there is none any more.
    /// `external` are floating IPs that lead to it.
    pub(crate) fn attach(&mut self, interface: IfName, endpoint: Option<&Endpoint>, external: &[IpAddr]) {
        let mut touched = BTreeSet::new();
        if let Some(before) = self.attached.remove(&interface) {
            for address in before.addresses {
                if let Some(claims) = self.claims.get_mut(&address) {
                    claims.retain(|claimant| *claimant != interface);
                }
                touched.insert(address);
            }
        }
        self.unusable.retain(|(name, _)| *name != interface);
        if let Some(endpoint) = endpoint {
            let (addresses, unusable): (Vec<IpAddr>, Vec<IpAddr>) =
                endpoint.addresses.iter().chain(external).copied().partition(is_routable);
            self.unusable.extend(unusable.into_iter().map(|address| (interface, address)));
            for address in &addresses {
                let claims = self.claims.entry(*address).or_default();
                if let Err(place) = claims.binary_search(&interface) {
                    claims.reserve_exact(1);
                    claims.insert(place, interface);
                }
                touched.insert(*address);
            }
            self.attached.insert(interface, Attached { addresses, mac: endpoint.mac.map(|mac| mac.0) });
        }
        for address in touched {
            self.decide(address);
        }
    }

    /// Takes the list of links for what is there. Returns the interfaces with our prefix.
    pub(crate) fn read_links(&mut self, links: &[Link]) {
        let gone: Vec<u32> =
            self.links.keys().filter(|index| !links.iter().any(|link| link.index == **index)).copied().collect();
        for index in gone {
            self.link_event(&LinkEvent { index, name: None, running: false, gone: true });
        }
        for Link { index, name, running } in links {
            self.link_event(&LinkEvent { index: *index, name: Some(*name), running: *running, gone: false });
        }
    }

    /// A link came, changed or went. Returns whether that matters to workloads.
    pub(crate) fn link_event(&mut self, event: &LinkEvent) -> bool {
        let before = self.links.get(&event.index).copied();
        let after = event.name.filter(|name| !event.gone && name.as_str().starts_with(&self.prefix));
        let after = after.map(|name| Link { index: event.index, name, running: event.running });
        if before == after {
            return false;
        }
        if let Some(before) = before {
            self.links.remove(&before.index);
            if self.indexes.get(&before.name) == Some(&before.index) {
                self.indexes.remove(&before.name);
            }
            // The kernel flushes routes and neighbours of an interface that goes down, without telling of each.
            self.stale |= self.routes.all_present().any(|route| route.interface == before.index)
                || self.neighbours.all_present().any(|neighbour| neighbour.interface == before.index);
        }
        if let Some(after) = after {
            self.links.insert(after.index, after);
            self.indexes.insert(after.name, after.index);
        }
        let names: BTreeSet<IfName> = [before, after].into_iter().flatten().map(|link| link.name).collect();
        self.changed.extend(&names);
        for name in names {
            let addresses = self.attached.get(&name).map(|attached| attached.addresses.clone()).unwrap_or_default();
            for address in addresses {
                self.decide(address);
            }
        }
        true
    }

    /// The interfaces that came, changed or went since the last call.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<IfName> {
        std::mem::take(&mut self.changed)
    }

    /// Whether a route stands where one of ours is to be.
    pub(crate) fn concerns(&self, route: &Route) -> bool {
        let single = route.destination.prefix_len() == route.destination.max_prefix_len();
        self.placed.contains_key(&route.destination) || (single && self.claims.contains_key(&route.destination.addr()))
    }

    /// Wants this route, and no other, to a destination on other hosts.
    pub(crate) fn place(&mut self, destination: IpNet, route: Option<Route>) {
        if self.placed.get(&destination) == route.as_ref() {
            return;
        }
        if let Some(before) = self.placed.remove(&destination) {
            self.routes.unwant(&before);
        }
        if let Some(route) = route {
            self.routes.want(route.clone(), THERE);
            self.placed.insert(destination, route);
        }
    }

    /// Wants a neighbour entry on the interface of a tunnel, or no more.
    pub(crate) fn place_neighbour(&mut self, neighbour: Neighbour, mac: Option<[u8; 6]>) {
        match mac {
            Some(mac) => self.neighbours.want(neighbour, mac_fingerprint(mac)),
            None => self.neighbours.unwant(&neighbour),
        }
    }

    /// The interfaces of tunnels. Entries of one that is gone have gone with it.
    pub(crate) fn set_tunnels(&mut self, tunnels: [Option<u32>; 2]) {
        self.stale |= tunnels != self.tunnels;
        self.tunnels = tunnels;
    }

    /// Whether a workload of this host has an address, so that it is routed to its interface.
    pub(crate) fn is_local(&self, address: &IpAddr) -> bool {
        self.owners.contains_key(address)
    }

    /// Addresses of which [`is_local`](Self::is_local) may say something else than at the last call.
    pub(crate) fn take_decided(&mut self) -> BTreeSet<IpAddr> {
        std::mem::take(&mut self.decided)
    }

    /// Takes what was read for what is there.
    pub(crate) fn read_back(&mut self, routes: Vec<Route>, neighbours: HashMap<Neighbour, [u8; 6]>) {
        if std::mem::take(&mut self.first) {
            self.distrust_addresses(&routes);
        }
        self.routes.read_back(routes.into_iter().map(|route| (route, THERE)).collect());
        // Permanent entries elsewhere are not ours.
        let is_ours = |index: u32| {
            self.links.contains_key(&index) || self.tunnels.iter().flatten().any(|tunnel| *tunnel == index)
        };
        let ours = neighbours.into_iter().filter(|(neighbour, _)| is_ours(neighbour.interface));
        self.neighbours.read_back(ours.map(|(neighbour, mac)| (neighbour, mac_fingerprint(mac))).collect());
        self.stale = false;
    }

    /// What happened before we were started is not known: an address that is not routed where it was last, or not at
    /// all, may have had another owner meanwhile.
    fn distrust_addresses(&mut self, routes: &[Route]) {
        let mut there = HashMap::new();
        // Addresses of other hosts have routes of ours too.
        let elsewhere = |route: &Route| {
            route.gateway.is_some() || route.kind != UNICAST || self.tunnels.contains(&Some(route.interface))
        };
        let local = routes.iter().filter(|route| !elsewhere(route));
        for route in local.filter(|route| route.destination.prefix_len() == route.destination.max_prefix_len()) {
            there.insert(route.destination.addr(), route.interface);
        }
        for (address, interface) in &there {
            if self.owners.get(address) != Some(interface) {
                self.moved.insert(*address);
            }
        }
        self.moved.extend(self.owners.keys().filter(|address| !there.contains_key(address)));
    }

    /// Routes to add or delete.
    pub(crate) fn route_steps(&self) -> Vec<(Route, Step)> {
        self.routes.steps()
    }

    /// Neighbour entries to write or delete, with the address to write.
    pub(crate) fn neighbour_steps(&self) -> Vec<(Neighbour, Option<[u8; 6]>)> {
        let mac = |neighbour: &Neighbour| self.neighbours.wanted(neighbour).map(|mac| mac_of(*mac));
        self.neighbours.steps().into_iter().map(|(neighbour, _)| (neighbour.clone(), mac(&neighbour))).collect()
    }

    /// Addresses whose connection tracking entries must go before they are routed.
    pub(crate) fn moved(&self) -> Vec<IpAddr> {
        self.moved.iter().copied().collect()
    }

    /// Has the connection tracking entries of all workloads' addresses of a family deleted.
    pub(crate) fn distrust_connections(&mut self, family: Family) {
        self.moved.extend(self.owners.keys().filter(|address| Family::of_address(address) == family));
    }

    /// They are gone.
    pub(crate) fn cleaned(&mut self) {
        self.moved.clear();
    }

    /// A route step was done.
    pub(crate) fn route_done(&mut self, route: &Route) {
        self.routes.done(route);
    }

    /// A neighbour step was done.
    pub(crate) fn neighbour_done(&mut self, neighbour: &Neighbour) {
        self.neighbours.done(neighbour);
    }

    /// The interfaces with our prefix, and whether an endpoint has them.
    pub(crate) fn interfaces(&self) -> impl Iterator<Item = (&Link, bool)> {
        self.links.values().map(|link| (link, self.attached.contains_key(&link.name)))
    }

    /// The interface of this name, if it is there, and whether an endpoint has it.
    pub(crate) fn interface(&self, name: &IfName) -> Option<(&Link, bool)> {
        let link = self.links.get(self.indexes.get(name)?)?;
        Some((link, self.attached.contains_key(name)))
    }

    /// Whether the endpoint on this interface has all its routes.
    pub(crate) fn is_routed(&self, interface: &IfName) -> bool {
        let Some(attached) = self.attached.get(interface) else { return false };
        let Some(index) = self.indexes.get(interface) else { return false };
        self.links.get(index).is_some_and(|link| link.running)
            && attached.addresses.iter().all(|address| {
                self.owners.get(address) == Some(index) && self.routes.present(&self.route(*address, *index)).is_some()
            })
    }

    /// Addresses that could not be given as they were asked for.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for address in &self.contested {
            let claims = self.claims.get(address).into_iter().flatten().map(IfName::to_string);
            let claims: Vec<String> = claims.collect();
            let owner = self.owners.get(address).and_then(|index| self.links.get(index));
            let owner = owner.map_or_else(|| "none of them".to_owned(), |link| link.name.to_string());
            let list = claims.join(", ");
            problems.push(Problem::new(address, format!("claimed by endpoints on {list}; {owner} has it")));
        }
        for (interface, address) in &self.unusable {
            problems.push(Problem::new(interface, format!("{address} is no address of a workload; it gets no route")));
        }
        problems
    }

    fn route(&self, address: IpAddr, interface: u32) -> Route {
        Route {
            destination: IpNet::from(address),
            metric: self.metric,
            interface,
            gateway: None,
            plain: true,
            kind: UNICAST,
        }
    }

    /// Decides anew which interface has an address.
    fn decide(&mut self, address: IpAddr) {
        let claims = self.claims.get(&address);
        if claims.is_none_or(Vec::is_empty) {
            self.claims.remove(&address);
        }
        let claims = self.claims.get(&address);
        let links = claims.into_iter().flatten().filter_map(|name| self.links.get(self.indexes.get(name)?));
        let winner = links.filter(|link| link.running).map(|link| link.index).max();
        if claims.is_some_and(|claims| claims.len() > 1) {
            self.contested.insert(address);
        } else {
            self.contested.remove(&address);
        }
        let before = match winner {
            Some(index) => self.owners.insert(address, index),
            None => self.owners.remove(&address),
        };
        if before.is_some() != winner.is_some() {
            self.decided.insert(address);
        }
        if let Some(before) = before.filter(|before| Some(*before) != winner) {
            self.moved.insert(address);
            self.routes.unwant(&self.route(address, before));
            self.neighbours.unwant(&Neighbour { interface: before, address });
        }
        let Some(interface) = winner else { return };
        self.routes.want(self.route(address, interface), THERE);
        let mac = self.links.get(&interface).and_then(|link| self.attached.get(&link.name)?.mac);
        let neighbour = Neighbour { interface, address };
        match mac {
            Some(mac) => self.neighbours.want(neighbour, mac_fingerprint(mac)),
            None => self.neighbours.unwant(&neighbour),
        }
    }
}

/// A MAC address as content: all of it, so that it can be told from the fingerprint.
fn mac_fingerprint(mac: [u8; 6]) -> Fingerprint {
    mac.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn mac_of(fingerprint: Fingerprint) -> [u8; 6] {
    let [_, _, mac @ ..] = fingerprint.to_be_bytes();
    mac
}

/// Addresses that no workload can have would take traffic that is the host's own or everybody's.
fn is_routable(address: &IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || broadcast)
}

#[cfg(test)]
#[path = "routing_tests.rs"]
mod tests;
