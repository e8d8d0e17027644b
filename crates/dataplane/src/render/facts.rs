//! What the chains that are always there depend on.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use calico_policy::instruction::{DenyAction, Endpoint, Settings};
use ipnet::IpNet;

use super::HostList;
use crate::{family::Family, ifname::IfName};

/// Everything that base chains are rendered from.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Facts {
    /// The host-wide settings.
    pub settings: Settings,
    /// Some pool of the family wants masquerading.
    pub masquerade: [bool; 2],
    /// Some endpoint publishes a port of an address of the family.
    pub published: [bool; 2],
    /// The places where some host endpoint judges, and the chains, of each family, for interfaces without one.
    pub lists: BTreeMap<HostList, Option<[String; 2]>>,
    /// Networks that a workload may use as source although no route leads there.
    pub spoofable: BTreeSet<(IfName, IpNet)>,
    /// Floating IPs.
    pub floating: Floating,
    /// DSCP values and the sources that they are for.
    pub dscp: BTreeMap<u8, BTreeSet<IpAddr>>,
}

impl Facts {
    /// What deny does where answers are possible.
    pub(crate) fn deny(&self) -> DenyAction {
        self.settings.deny
    }

    /// Whether any host endpoint judges there.
    pub(crate) fn judges(&self, list: HostList) -> bool {
        self.lists.contains_key(&list)
    }

    /// Takes in what an endpoint adds.
    pub(crate) fn add_endpoint(&mut self, interface: IfName, endpoint: &Endpoint) {
        self.spoofable.extend(endpoint.spoofable.iter().map(|net| (interface, net.trunc())));
        self.floating.add(interface, endpoint);
        if let Some(value) = endpoint.qos.dscp {
            // Six bits; more would spill into others'.
            self.dscp.entry(value & 0x3f).or_default().extend(&endpoint.addresses);
        }
    }
}

/// Which address of a workload has which floating IP.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Floating {
    /// External → internal address, and the interface of its endpoint.
    owners: BTreeMap<IpAddr, (IpAddr, IfName)>,
}

impl Floating {
    /// Of several claimants the lowest internal address has it.
    fn add(&mut self, interface: IfName, endpoint: &Endpoint) {
        let usable =
            endpoint.nats.iter().filter(|nat| Family::of_address(&nat.internal) == Family::of_address(&nat.external));
        for nat in usable {
            let claim = (nat.internal, interface);
            let owner = self.owners.entry(nat.external).or_insert(claim);
            *owner = claim.min(*owner);
        }
    }

    /// External and internal addresses of one family.
    pub(crate) fn pairs(&self, family: Family) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        let mine = self.owners.iter().filter(move |(external, _)| Family::of_address(external) == family);
        mine.map(|(external, (internal, _))| (*external, *internal))
    }

    /// The external addresses that lead to an interface.
    pub(crate) fn of_interface(&self, interface: &IfName) -> Vec<IpAddr> {
        let mine = self.owners.iter().filter(|(_, (_, owner))| owner == interface);
        mine.map(|(external, _)| *external).collect()
    }

    /// The interfaces whose external addresses differ.
    pub(crate) fn changed(&self, other: &Self) -> BTreeSet<IfName> {
        let mut changed = BTreeSet::new();
        for (one, two) in [(self, other), (other, self)] {
            let differ = one.owners.iter().filter(|(external, owner)| two.owners.get(external) != Some(owner));
            changed.extend(differ.map(|(_, (_, interface))| *interface));
        }
        changed
    }
}
