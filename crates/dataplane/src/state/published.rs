//! Published ports: which endpoint gets which port of the host, and the maps that say so to the kernel.
//!
//! Per family two maps, one by address, protocol and port and one by protocol and port alone, and the set of the
//! addresses that they lead to. They are there while an endpoint that has its interface publishes something; an endpoint
//! that comes or goes changes its own elements only, whatever others publish.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use calico_policy::instruction::{EndpointId, PublishedAt, PublishedPort};

use super::State;
use crate::{
    family::{Family, Range, address_key},
    ifname::IfName,
    render::{PUBLISHED_AT_MAP, PUBLISHED_MAP, PUBLISHED_SELF_SET},
    ruleset::{Key, SetSpec},
    table::{SetSource, SetWant},
};

const UDP: u8 = 17;

/// What all endpoints that have their interface publish.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// Who claims a port of the host; the first, by identifier, has it.
    claims: BTreeMap<PublishedAt, BTreeSet<(Arc<EndpointId>, PublishedPort)>>,
    claimants: HashMap<IfName, (Arc<EndpointId>, Vec<PublishedPort>)>,
    /// How many ports lead to an address.
    addresses: BTreeMap<IpAddr, usize>,
    /// Ports of datagrams that lead somewhere new: what was sent to them until now is to follow.
    fresh: BTreeSet<PublishedPort>,
}

/// What differs in the maps.
#[derive(Debug, Default, PartialEq)]
struct Change {
    added: Vec<PublishedPort>,
    removed: Vec<PublishedPort>,
}

impl Published {
    /// Whether any port leads to an address of a family.
    pub(super) fn is_in_use(&self, family: Family) -> bool {
        self.addresses.keys().any(|address| Family::of_address(address) == family)
    }

    /// The addresses that ports lead to, as elements of a set.
    pub(super) fn addresses(&self, family: Family) -> Vec<Range> {
        let mine = self.addresses.keys().filter(|address| Family::of_address(address) == family);
        mine.map(element).collect()
    }

    /// The ports of one address of the host (`exact`), or of all.
    pub(super) fn ports(&self, family: Family, exact: bool) -> Vec<PublishedPort> {
        let owners = self.claims.values().filter_map(|claims| Some(claims.first()?.1));
        owners.filter(|port| is_of(port, family, exact)).collect()
    }

    /// Replaces what the endpoint that has an interface publishes; `None` if none has it.
    fn replace(&mut self, interface: IfName, claim: Option<(&Arc<EndpointId>, &[PublishedPort])>) -> Change {
        let claim = claim.filter(|(_, ports)| !ports.is_empty()).map(|(id, ports)| (id.clone(), ports.to_vec()));
        if self.claimants.get(&interface) == claim.as_ref() {
            return Change::default();
        }
        let before = self.claimants.remove(&interface);
        let ports = |claim: &Option<(Arc<EndpointId>, Vec<PublishedPort>)>| {
            claim.iter().flat_map(|(id, ports)| ports.iter().map(|port| (id.clone(), *port))).collect::<Vec<_>>()
        };
        let (old, new) = (ports(&before), ports(&claim));
        let touched: BTreeSet<PublishedAt> = old.iter().chain(&new).map(|(_, port)| port.claim()).collect();
        let owners = |claims: &BTreeMap<PublishedAt, BTreeSet<(Arc<EndpointId>, PublishedPort)>>| -> Vec<_> {
            touched.iter().map(|at| claims.get(at).and_then(|claims| Some(claims.first()?.1))).collect()
        };
        let had = owners(&self.claims);
        for claim in old {
            let at = claim.1.claim();
            let claims = self.claims.entry(at).or_default();
            claims.remove(&claim);
            if claims.is_empty() {
                self.claims.remove(&at);
            }
        }
        for claim in new {
            self.claims.entry(claim.1.claim()).or_default().insert(claim);
        }
        self.claimants.extend(claim.map(|claim| (interface, claim)));
        let has = owners(&self.claims);
        let differ = || had.iter().zip(&has).filter(|(had, has)| had != has);
        Change {
            added: differ().filter_map(|(_, has)| *has).collect(),
            removed: differ().filter_map(|(had, _)| *had).collect(),
        }
    }

    /// Counts the ports that lead to each address. Returns the addresses that some lead to now, and none any more.
    fn count(&mut self, change: &Change) -> (Vec<IpAddr>, Vec<IpAddr>) {
        let touched: BTreeSet<IpAddr> = change.added.iter().chain(&change.removed).map(|port| port.address).collect();
        let before: BTreeSet<IpAddr> =
            touched.iter().copied().filter(|address| self.addresses.contains_key(address)).collect();
        for port in &change.added {
            *self.addresses.entry(port.address).or_default() += 1;
        }
        for port in &change.removed {
            if let Some(count) = self.addresses.get_mut(&port.address) {
                *count -= 1;
                if *count == 0 {
                    self.addresses.remove(&port.address);
                }
            }
        }
        let is_led_to = |address: &IpAddr| self.addresses.contains_key(address);
        let (came, went): (Vec<IpAddr>, Vec<IpAddr>) =
            touched.into_iter().filter(|address| is_led_to(address) != before.contains(address)).partition(is_led_to);
        (came, went)
    }
}

fn element(address: &IpAddr) -> Range {
    (address_key(address), address_key(address))
}

fn is_of(port: &PublishedPort, family: Family, exact: bool) -> bool {
    Family::of_address(&port.address) == family && port.host.is_unspecified() != exact
}

impl State {
    /// The endpoint that has an interface publishes these ports; `None` if none has it (any more).
    pub(super) fn publish(&mut self, interface: IfName, claim: Option<(&Arc<EndpointId>, &[PublishedPort])>) {
        let in_use = Family::ALL.map(|family| self.published.is_in_use(family));
        let change = self.published.replace(interface, claim);
        if change == Change::default() {
            return;
        }
        let (came, went) = self.published.count(&change);
        for gone in &change.removed {
            self.published.fresh.remove(gone);
        }
        self.published.fresh.extend(change.added.iter().filter(|port| port.protocol == UDP));
        for family in Family::ALL {
            let table = &mut self.tables[family.index()];
            for (map, exact) in [(PUBLISHED_AT_MAP, true), (PUBLISHED_MAP, false)] {
                let [added, removed] = [&change.added, &change.removed]
                    .map(|ports| ports.iter().copied().filter(|port| is_of(port, family, exact)).collect::<Vec<_>>());
                table.published_changed(map, &added, &removed);
            }
            let [added, removed] = [&came, &went].map(|addresses| {
                let mine = addresses.iter().filter(|address| Family::of_address(address) == family);
                mine.map(element).collect::<Vec<_>>()
            });
            table.set_changed(PUBLISHED_SELF_SET, &added, &removed);
            let is_in_use = self.published.is_in_use(family);
            if is_in_use != in_use[family.index()] {
                self.want_published(family, is_in_use);
            }
        }
    }

    /// Published ports of datagrams that lead somewhere new, to be looked at when the rules are there.
    pub(crate) fn fresh_ports(&self) -> Vec<PublishedPort> {
        self.published.fresh.iter().copied().collect()
    }

    /// They have been.
    pub(crate) fn ports_followed(&mut self) {
        self.published.fresh.clear();
    }

    fn want_published(&mut self, family: Family, is_in_use: bool) {
        let table = &mut self.tables[family.index()];
        let map = |exact| (SetSpec::published(family, exact), SetSource::Published(exact));
        let addresses = (SetSpec::set(Key::Twice(family), false), SetSource::PublishedSelf);
        for (name, (spec, source)) in
            [(PUBLISHED_AT_MAP, map(true)), (PUBLISHED_MAP, map(false)), (PUBLISHED_SELF_SET, addresses)]
        {
            match is_in_use {
                true => table.want_changing_set(name.to_owned(), SetWant { spec, source }),
                false => table.sets.unwant(&name.to_owned()),
            }
        }
        self.dirty.base = true;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn port(host: &str, host_port: u16, address: &str) -> PublishedPort {
        let [host, address] = [host, address].map(|text| text.parse().unwrap());
        PublishedPort { protocol: 6, host_port, host, address, port: 80 }
    }

    fn id(name: &str) -> Arc<EndpointId> {
        Arc::new(EndpointId { namespace: "ns".to_owned(), name: name.to_owned() })
    }

    #[test]
    fn the_first_claimant_has_a_port_and_the_next_inherits_it() {
        let mut published = Published::default();
        let [cali1, cali2] = ["cali1", "cali2"].map(|name| IfName::new(name).unwrap());
        let (a, b) = (port("0.0.0.0", 8080, "10.0.0.1"), port("0.0.0.0", 8080, "10.0.0.2"));
        let own = port("192.0.2.1", 8080, "10.0.0.2");
        let mut replace = |interface, claim: Option<(&str, &[PublishedPort])>| {
            let claim = claim.map(|(name, ports)| (id(name), ports.to_vec()));
            let change = published.replace(interface, claim.as_ref().map(|(id, ports)| (id, ports.as_slice())));
            let counted = published.count(&change);
            (change.added, change.removed, counted)
        };
        let address = |port: PublishedPort| vec![port.address];
        assert_eq!(replace(cali2, Some(("b", &[b, own]))), (vec![b, own], vec![], (address(b), vec![])));
        assert_eq!(replace(cali1, Some(("a", &[a]))), (vec![a], vec![b], (address(a), vec![])));
        assert_eq!(replace(cali1, Some(("a", &[a]))), (vec![], vec![], (vec![], vec![])));
        assert_eq!(replace(cali2, Some(("b", &[b]))), (vec![], vec![own], (vec![], address(b))));
        assert_eq!(replace(cali1, None), (vec![b], vec![a], (address(b), address(a))));
        assert_eq!(replace(cali2, None), (vec![], vec![b], (vec![], address(b))));
        assert!(published.claims.is_empty() && published.claimants.is_empty() && published.addresses.is_empty());
    }
}
