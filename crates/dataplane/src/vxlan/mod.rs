//! The overlay: how packets reach workloads of other hosts whose pool uses VXLAN.
//!
//! Per family there is one device, `vxlan.calico` and `vxlan-v6.calico`. It learns nothing and floods nothing: for each
//! other host it has a forwarding entry (MAC address of the device there, host's address) and a permanent neighbour entry
//! (address of the device there, its MAC address). Routes lead to blocks by way of these neighbours; to hosts of the same
//! subnet they may lead directly, and a block of this host is a black hole around its workloads' own routes.
//!
//! Everything on these two devices is ours, and so are the devices of kind VXLAN with these names. A link of another
//! kind that has such a name is left alone and reported.
//!
//! The encapsulated packets themselves are never tracked (`raw` chains of `render`), so no address translation reaches
//! them; older kernels got the checksums wrong of those that it did reach, and upstream switches offloading off for it.
//!
//! A device whose parameters differ is made anew, as the kernel cannot change them. A workload of this host that has
//! exactly the destination of a route goes before it: addresses move between hosts, and the local end knows first.
//!
//! Here: what is wanted, what of the kernel it depends on, which routes and neighbour entries follow ([`Overlay::place`]).
//! In `device`: devices, their addresses and forwarding entries, wanted against read-back.

mod device;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use calico_model::VXLAN_DEVICES;
use calico_policy::instruction::{ClusterRoute, Instruction, Tunnel, Tunnels, Vtep};
use ipnet::IpNet;

use crate::{
    Problem,
    family::Family,
    ifname::IfName,
    netlink::{LinkEvent, SeenAddress, SeenEntry, TYPE_BLACKHOLE},
    routing::{Neighbour, Route, Routing, UNICAST},
};

pub(crate) use device::remove_devices;

/// Wanted tunnels and routes, and what is known of the devices.
#[derive(Debug, Default)]
pub(crate) struct Overlay {
    metric: u32,
    tunnels: Tunnels,
    vteps: BTreeMap<IpAddr, Vtep>,
    routes: BTreeMap<IpNet, ClusterRoute>,
    /// Indexes of devices that are as wanted.
    devices: [Option<u32>; 2],
    /// The interfaces that have the addresses of this host that matter.
    homes: BTreeMap<IpAddr, u32>,
    /// The host's addresses whose interfaces matter, as of the last look.
    needed: BTreeSet<IpAddr>,
    /// Neighbour entries that routing was told of, by address.
    neighbours: HashMap<IpAddr, (Neighbour, [u8; 6])>,
    /// Destinations of which the route may be another.
    dirty: BTreeSet<IpNet>,
    /// The same of all, and of all neighbours.
    all: bool,
    /// Devices and addresses may not be those that are known.
    stale: bool,
    /// The same of forwarding entries.
    forwarding_stale: bool,
    /// What could not be set up as of the last look.
    problems: Vec<Problem>,
}

/// The name of a family's device.
fn name(family: Family) -> IfName {
    IfName::new(VXLAN_DEVICES[family.index()]).expect("the names are short and plain")
}

fn is_name(candidate: &IfName) -> bool {
    VXLAN_DEVICES.contains(&candidate.as_str())
}

impl Overlay {
    /// Nothing wanted, nothing known. Routes have this metric.
    pub(crate) fn new(metric: u32) -> Self {
        Self { metric, all: true, stale: true, forwarding_stale: true, ..Self::default() }
    }

    /// Takes an instruction into account.
    pub(crate) fn absorb(&mut self, instruction: &Instruction) {
        match instruction {
            Instruction::Tunnels(tunnels) => {
                self.tunnels.clone_from(tunnels);
                self.distrust();
            }
            Instruction::VtepUpdate { vtep } => {
                self.vteps.insert(vtep.address, *vtep);
                (self.all, self.forwarding_stale) = (true, true);
            }
            Instruction::VtepRemove { address } => {
                self.vteps.remove(address);
                (self.all, self.forwarding_stale) = (true, true);
            }
            Instruction::RouteUpdate { destination, route } => {
                if let ClusterRoute::Direct { local, .. } = route {
                    self.stale |= !self.homes.contains_key(local);
                }
                self.routes.insert(*destination, *route);
                self.dirty.insert(*destination);
            }
            Instruction::RouteRemove { destination } => {
                self.routes.remove(destination);
                self.dirty.insert(*destination);
            }
            _ => {}
        }
    }

    /// Believes nothing of the kernel any more.
    pub(crate) fn distrust(&mut self) {
        (self.all, self.stale, self.forwarding_stale) = (true, true, true);
    }

    /// Whether there is a tunnel, so that neighbours matter.
    pub(crate) fn has_tunnel(&self) -> bool {
        self.tunnels.v4.is_some() || self.tunnels.v6.is_some()
    }

    /// What could not be set up.
    pub(crate) fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// A link came, changed or went. Returns whether that matters here.
    pub(crate) fn link_event(&mut self, event: &LinkEvent) -> bool {
        let known = self.devices.contains(&Some(event.index)) || self.homes.values().any(|home| *home == event.index);
        let matters = known || event.name.as_ref().is_some_and(is_name);
        if matters {
            self.distrust();
        }
        matters
    }

    /// An address came to an interface or went. Returns whether that matters here.
    pub(crate) fn address_event(&mut self, seen: &SeenAddress) -> bool {
        let SeenAddress { interface, address, gone } = *seen;
        // The kernel gives devices link-local addresses by itself.
        let on_device = self.devices.contains(&Some(interface)) && !is_link_local(&address);
        let matters = self.needed.contains(&address) || (on_device && gone == self.is_own(&address));
        self.stale |= matters;
        matters
    }

    /// A neighbour or forwarding entry came or went. Returns whether it is not as wanted.
    pub(crate) fn entry_event(&mut self, entry: &SeenEntry) -> bool {
        let Some(at) = self.devices.iter().position(|device| *device == Some(entry.interface)) else { return false };
        if entry.forwarding {
            let of_device =
                |vtep: &&Vtep| Family::of_address(&vtep.address) == Family::ALL[at] && Some(vtep.mac.0) == entry.mac;
            // The last one, as in the map of those that are wanted.
            let as_wanted = match self.vteps.values().rfind(of_device).map(|vtep| vtep.host) {
                Some(host) => !entry.gone && entry.plain && entry.address == Some(host),
                None => entry.gone,
            };
            self.forwarding_stale |= !as_wanted;
            return !as_wanted;
        }
        match entry.address.and_then(|address| self.vteps.get(&address)) {
            Some(vtep) => entry.gone || !entry.plain || entry.mac != Some(vtep.mac.0),
            // What the kernel tries to find out by itself is none of our business.
            None => entry.plain && !entry.gone,
        }
    }

    /// Tells routing which routes and neighbour entries follow from what is known.
    pub(crate) fn place(&mut self, routing: &mut Routing) {
        routing.set_tunnels(self.devices);
        let decided = routing.take_decided().into_iter().map(IpNet::from);
        self.dirty.extend(decided.filter(|destination| self.routes.contains_key(destination)));
        if std::mem::take(&mut self.all) {
            self.dirty.extend(self.routes.keys());
            self.place_neighbours(routing);
        }
        for destination in std::mem::take(&mut self.dirty) {
            let route = self.route(destination, routing);
            routing.place(destination, route);
        }
    }

    fn place_neighbours(&mut self, routing: &mut Routing) {
        let wanted: HashMap<IpAddr, (Neighbour, [u8; 6])> = self
            .vteps
            .values()
            .filter_map(|vtep| {
                let interface = self.devices[Family::of_address(&vtep.address).index()]?;
                Some((vtep.address, (Neighbour { interface, address: vtep.address }, vtep.mac.0)))
            })
            .collect();
        for (address, (neighbour, _)) in &self.neighbours {
            if wanted.get(address).is_none_or(|(other, _)| other != neighbour) {
                routing.place_neighbour(neighbour.clone(), None);
            }
        }
        for (neighbour, mac) in wanted.values() {
            routing.place_neighbour(neighbour.clone(), Some(*mac));
        }
        self.neighbours = wanted;
    }

    /// The kernel's route to a destination, if there is one to make and all that it needs is there.
    fn route(&self, destination: IpNet, routing: &Routing) -> Option<Route> {
        let single = destination.prefix_len() == destination.max_prefix_len();
        if single && routing.is_local(&destination.addr()) {
            return None;
        }
        let unicast = |interface, gateway| Route {
            destination,
            metric: self.metric,
            interface,
            gateway,
            plain: true,
            kind: UNICAST,
        };
        match *self.routes.get(&destination)? {
            ClusterRoute::Unassigned => Some(Route { kind: TYPE_BLACKHOLE, ..unicast(0, None) }),
            ClusterRoute::Direct { via, local } => Some(unicast(*self.homes.get(&local)?, Some(via))),
            ClusterRoute::Tunnel { via } => {
                let device = self.devices[Family::of_address(&via).index()]?;
                self.vteps.get(&via)?;
                // To the other end itself there is no further hop.
                Some(unicast(device, (destination != IpNet::from(via)).then_some(via)))
            }
        }
    }

    fn tunnel(&self, family: Family) -> Option<&Tunnel> {
        match family {
            Family::V4 => self.tunnels.v4.as_ref(),
            Family::V6 => self.tunnels.v6.as_ref(),
        }
    }

    /// Whether an address is that of one of our devices.
    fn is_own(&self, address: &IpAddr) -> bool {
        self.tunnels.for_address(*address).is_some_and(|tunnel| tunnel.address == *address)
    }

    /// The host's addresses whose interfaces matter.
    fn locals(&self) -> BTreeSet<IpAddr> {
        let tunnels = [&self.tunnels.v4, &self.tunnels.v6].into_iter().flatten().map(|tunnel| tunnel.local);
        let direct = self.routes.values().filter_map(|route| match route {
            ClusterRoute::Direct { local, .. } => Some(*local),
            _ => None,
        });
        tunnels.chain(direct).collect()
    }

    /// The hosts that a family's device forwards to, by MAC address.
    fn forwarding_wanted(&self, family: Family) -> HashMap<[u8; 6], IpAddr> {
        let ends = self.vteps.values().filter(|vtep| Family::of_address(&vtep.address) == family);
        ends.map(|vtep| (vtep.mac.0, vtep.host)).collect()
    }
}

fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}
