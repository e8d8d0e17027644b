//! Host endpoints: for which interfaces they stand, and where those interfaces' packets lead.
//!
//! There are few of them, so whatever changes, all of them are decided anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use calico_policy::instruction::{HostEndpoint, HostEndpointId, HostInterfaces, TierPolicies};

use super::{Refused, State, chains::Signature, endpoints::tiers_of};
use crate::{
    family::Family,
    ifname::IfName,
    name,
    op::Target,
    render::{HostList, Map, Role},
    ruleset::SetSpec,
    table::{SetSource, SetWant, TargetWant},
};

/// All host endpoints of this host.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    endpoints: BTreeMap<HostEndpointId, Arc<HostEndpoint>>,
    /// Addresses of all interfaces, as far as they are known.
    addresses: BTreeSet<(IpAddr, IfName)>,
    /// What the maps and the chains of `*` lead to.
    used: Vec<Arc<Signature>>,
    /// The places where some host endpoint judges, and the chains for interfaces without one.
    lists: BTreeMap<HostList, Option<[String; 2]>>,
    /// The elements of the maps.
    targets: BTreeSet<(HostList, IfName)>,
}

impl Hosts {
    /// There is none.
    pub(super) fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// The places where some host endpoint judges, and the chains for interfaces without one.
    pub(super) fn lists(&self) -> BTreeMap<HostList, Option<[String; 2]>> {
        self.lists.clone()
    }

    /// The host endpoint of each interface that has one of its own, and the one of all others.
    fn resolve(&self, prefix: &str) -> (BTreeMap<IfName, &HostEndpointId>, Option<&HostEndpointId>) {
        let mut by_interface = BTreeMap::new();
        let mut others = None;
        let mut claim = |interface: IfName, id| {
            if !interface.as_str().starts_with(prefix) {
                by_interface.entry(interface).or_insert(id);
            }
        };
        for (id, endpoint) in &self.endpoints {
            match &endpoint.interfaces {
                HostInterfaces::Named(name) => IfName::new(name).into_iter().for_each(|name| claim(name, id)),
                HostInterfaces::WithAddress(wanted) => {
                    let found = self.addresses.iter().filter(|(address, _)| wanted.contains(address));
                    found.for_each(|(_, interface)| claim(*interface, id));
                }
                HostInterfaces::AnyInterface => others = others.or(Some(id)),
            }
        }
        (by_interface, others)
    }
}

/// The policies of one place. The endpoint of all other interfaces has no untracked policy: on many interfaces nobody
/// can write the rules of both directions.
fn tiers(endpoint: &HostEndpoint, list: HostList) -> Arc<[TierPolicies]> {
    let any = endpoint.interfaces == HostInterfaces::AnyInterface;
    let tiers = match list {
        HostList::UntrackedIn | HostList::UntrackedOut if any => &Vec::new(),
        HostList::UntrackedIn | HostList::UntrackedOut => &endpoint.untracked,
        HostList::PreDnat => &endpoint.pre_dnat,
        HostList::In | HostList::Out | HostList::TranslatedOut => &endpoint.normal,
        HostList::ForwardIn | HostList::ForwardOut => &endpoint.forward,
    };
    tiers.as_slice().into()
}

/// Whether an endpoint has anything to say at a place: without a policy that are the lists that end in deny, and those
/// of forwarded packets, which deny what connection tracking calls invalid.
fn judges(endpoint: &HostEndpoint, list: HostList) -> bool {
    list.judges_always() || tiers_of(&tiers(endpoint, list), list.direction()).next().is_some()
}

impl State {
    pub(super) fn update_host(&mut self, id: HostEndpointId, endpoint: HostEndpoint) -> Result<(), Refused> {
        let prefix = &self.options.interface_prefix;
        let reason = match &endpoint.interfaces {
            HostInterfaces::Named(name) if name.starts_with(prefix.as_str()) => {
                Some(format!("interface {name:?} is a workload's, and those never belong to a host endpoint"))
            }
            HostInterfaces::Named(name) if IfName::new(name).is_none() => {
                Some(format!("{name:?} is no name that an interface can have"))
            }
            _ => None,
        };
        let subject = format!("host endpoint {}", id.0);
        self.hosts.endpoints.insert(id, Arc::new(endpoint));
        self.dirty.hosts = true;
        reason.map_or(Ok(()), |reason| Err(Refused { subject, reason }))
    }

    pub(super) fn remove_host(&mut self, id: &HostEndpointId) {
        self.dirty.hosts |= self.hosts.endpoints.remove(id).is_some();
    }

    /// Whether addresses of interfaces matter.
    pub(crate) fn follows_addresses(&self) -> bool {
        let by_address = |endpoint: &Arc<HostEndpoint>| matches!(endpoint.interfaces, HostInterfaces::WithAddress(_));
        self.hosts.endpoints.values().any(by_address)
    }

    /// The addresses that interfaces have now.
    pub(crate) fn read_addresses(&mut self, addresses: BTreeSet<(IpAddr, IfName)>) {
        if self.hosts.addresses != addresses {
            self.hosts.addresses = addresses;
            self.dirty.hosts = true;
        }
    }

    /// Decides which interface belongs to which host endpoint, and leads their packets there.
    pub(super) fn attach_hosts(&mut self) {
        let (by_interface, others) = self.hosts.resolve(&self.options.interface_prefix);
        let endpoint = |id: &HostEndpointId| (id.clone(), self.hosts.endpoints[id].clone());
        let by_interface: Vec<_> = by_interface.into_iter().map(|(interface, id)| (interface, endpoint(id))).collect();
        let others = others.map(endpoint);
        let (mut used, mut lists, mut targets) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
        for list in HostList::ALL {
            let all = by_interface.iter().map(|(_, found)| found).chain(&others);
            if !all.into_iter().any(|(_, endpoint)| judges(endpoint, list)) {
                self.want_map(list, false);
                continue;
            }
            self.want_map(list, true);
            // One that has nothing to say here gets an empty chain: its packets are not those of `*`.
            for (interface, (id, endpoint)) in &by_interface {
                let signature = self.acquire_host(endpoint, list);
                self.lead(*interface, list, &signature, id);
                used.push(signature);
                targets.insert((list, *interface));
            }
            let any = others.as_ref().filter(|(_, endpoint)| judges(endpoint, list)).map(|(_, endpoint)| {
                let signature = self.acquire_host(endpoint, list);
                let names = self.chains.names(&signature).map(|name| name.to_string());
                used.push(signature);
                names
            });
            lists.insert(list, any);
        }
        for (list, interface) in self.hosts.targets.difference(&targets) {
            for table in &mut self.tables {
                table.targets(Map::Host(*list)).unwant(interface);
            }
        }
        for signature in std::mem::replace(&mut self.hosts.used, used) {
            self.release(&signature);
        }
        self.hosts.targets = targets;
        self.dirty.base |= self.hosts.lists != lists;
        self.hosts.lists = lists;
    }

    fn acquire_host(&mut self, endpoint: &HostEndpoint, list: HostList) -> Arc<Signature> {
        let profiles = if list.has_profiles() { endpoint.profiles.as_slice() } else { &[] };
        self.acquire(Role::Host(list), &tiers(endpoint, list), profiles.into())
    }

    fn lead(&mut self, interface: IfName, list: HostList, signature: &Arc<Signature>, id: &HostEndpointId) {
        let names = self.chains.names(signature);
        for (family, chain) in Family::ALL.into_iter().zip(names) {
            let target = Target { chain, goto: true, comment: name::comment(&id.0).into() };
            self.tables[family.index()].targets(Map::Host(list)).want(interface, TargetWant::new(target));
        }
    }

    fn want_map(&mut self, list: HostList, wanted: bool) {
        for table in &mut self.tables {
            if wanted {
                let want = SetWant { spec: SetSpec::DISPATCH, source: SetSource::Dispatch };
                table.sets.want(list.map().to_owned(), want);
            } else {
                table.sets.unwant(&list.map().to_owned());
            }
        }
    }
}
