//! Endpoints that no rule can tell apart.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use calico_policy::{
    instruction::{Endpoint, EndpointId, RuleSet, SetId},
    interpret::{Programmed, SetMembers},
};
use ipnet::IpNet;

use super::Host;
use crate::Cluster;

/// Endpoints that are alike, one of whom speaks for all.
pub(super) struct Class {
    /// All, by namespace and name.
    pub members: Vec<EndpointId>,
    /// The host of the first.
    pub node: String,
    /// The first, as it is programmed there before and after.
    pub programmed: [Endpoint; 2],
    /// What decides on what it sends, or on what it gets, changes.
    pub affected: Affected,
}

/// Which direction a change reaches.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Affected {
    pub egress: bool,
    pub ingress: bool,
}

/// Everything that rules look at in an endpoint, and the rules that look at its packets.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Signature {
    /// Only where hosts differ in what they do to packets.
    site: String,
    /// Text forms, which are complete and can be compared.
    lists: [String; 2],
    sets: [Vec<SetId>; 2],
    ports: [Vec<(SetId, u8, u16)>; 2],
    nets: Vec<u32>,
    families: Vec<u8>,
}

/// The endpoints that are programmed both before and after, in classes.
pub(super) fn classes(now: &Cluster, hosts: &BTreeMap<String, Host>) -> Vec<Class> {
    let sites_differ = differ(hosts);
    let mut rules = RulesOfAll::of(hosts);
    let mut classes: BTreeMap<Signature, Class> = BTreeMap::new();
    for (id, resource) in now.endpoints() {
        let node = &resource.spec.node;
        let Some(host) = hosts.get(node) else { continue };
        let (Some(before), Some(after)) = (host.before.endpoints.get(&id), host.after.endpoints.get(&id)) else {
            continue;
        };
        let programmed = [before.clone(), after.clone()];
        let signature = rules.signature(if sites_differ { node } else { "" }, &programmed);
        let class = classes.entry(signature).or_insert_with(|| Class {
            members: Vec::new(),
            node: node.clone(),
            affected: affected(host, &programmed),
            programmed,
        });
        class.members.push(id);
    }
    classes.into_values().collect()
}

/// Hosts that treat like packets differently: by host endpoints or settings.
fn differ(hosts: &BTreeMap<String, Host>) -> bool {
    let mut all = hosts.values().flat_map(|host| [&host.before, &host.after]);
    let first = hosts.values().next();
    all.any(|host| !host.host_endpoints.is_empty())
        || hosts.values().any(|host| {
            first.is_some_and(|first| {
                (&host.before.settings, &host.after.settings) != (&first.before.settings, &first.after.settings)
            })
        })
}

/// The sets and networks that rules anywhere ask for, before and after.
struct RulesOfAll {
    sets: [BTreeMap<SetId, SetMembers>; 2],
    nets: Vec<IpNet>,
}

impl RulesOfAll {
    fn of(hosts: &BTreeMap<String, Host>) -> Self {
        let side = |pick: fn(&Host) -> &Programmed| {
            let sets = hosts.values().flat_map(move |host| &pick(host).sets);
            sets.map(|(id, members)| (id.clone(), members.clone())).collect::<BTreeMap<_, _>>()
        };
        let mut nets = BTreeSet::new();
        for host in hosts.values() {
            for programmed in [&host.before, &host.after] {
                let rules = programmed.policies.values().chain(programmed.profiles.values());
                let rules = rules.flat_map(|set| set.ingress.iter().chain(&set.egress));
                let ends = rules.flat_map(|rule| [&rule.source, &rule.destination]);
                nets.extend(ends.flat_map(|end| end.nets.iter().chain(&end.not_nets)).copied());
            }
        }
        Self { sets: [side(|host| &host.before), side(|host| &host.after)], nets: nets.into_iter().collect() }
    }

    fn signature(&mut self, site: &str, programmed: &[Endpoint; 2]) -> Signature {
        let addresses = &programmed[0].addresses;
        let lists = [0, 1].map(|side| {
            let Endpoint { tiers, profiles, spoofable, nats, qos, .. } = &programmed[side];
            format!("{tiers:?} {profiles:?} {spoofable:?} {nats:?} {qos:?}")
        });
        let inside = |net: &IpNet| addresses.iter().any(|address| net.contains(address));
        let sets = [0, 1].map(|side| {
            let holding = self.sets[side].iter().filter(|(_, members)| match members {
                SetMembers::Nets(nets) => nets.iter().any(inside),
                SetMembers::Ports(_) => false,
            });
            holding.map(|(id, _)| id.clone()).collect()
        });
        let ports = [0, 1].map(|side| {
            let named = self.sets[side].iter().filter_map(|(id, members)| match members {
                SetMembers::Ports(ports) => Some((id, ports)),
                SetMembers::Nets(_) => None,
            });
            let own = named.flat_map(|(id, ports)| {
                let own = ports.iter().filter(|member| addresses.contains(&member.address));
                own.map(move |member| (id.clone(), member.protocol, member.port))
            });
            own.collect::<BTreeSet<_>>().into_iter().collect()
        });
        let nets = (0u32..).zip(&self.nets).filter(|(_, net)| inside(net)).map(|(index, _)| index).collect();
        let families: BTreeSet<u8> = addresses.iter().map(family).collect();
        Signature { site: site.to_owned(), lists, sets, ports, nets, families: families.into_iter().collect() }
    }
}

pub(super) fn family(address: &IpAddr) -> u8 {
    if address.is_ipv4() { 4 } else { 6 }
}

/// The rule lists that apply to an endpoint in one direction, policies first.
pub(super) fn rule_sets<'a>(host: &'a Programmed, endpoint: &'a Endpoint, egress: bool) -> Vec<&'a RuleSet> {
    let tiers = endpoint.tiers.iter().flat_map(move |tier| if egress { &tier.egress } else { &tier.ingress });
    let policies = tiers.filter_map(|id| host.policies.get(id));
    let profiles = endpoint.profiles.iter().filter_map(|id| host.profiles.get(id));
    policies.chain(profiles).map(|rules| &**rules).collect()
}

fn affected(host: &Host, [before, after]: &[Endpoint; 2]) -> Affected {
    let elsewhere =
        host.before.settings != host.after.settings || host.before.host_endpoints != host.after.host_endpoints;
    let lists = before.tiers != after.tiers || before.profiles != after.profiles || before.nats != after.nats;
    let changed = |egress: bool| {
        let (old, new) = (rule_sets(&host.before, before, egress), rule_sets(&host.after, after, egress));
        let sets = new.iter().flat_map(|rules| if egress { &rules.egress } else { &rules.ingress });
        let mut ends = sets.flat_map(|rule| [&rule.source, &rule.destination]);
        let members = |id: &SetId| host.before.sets.get(id) != host.after.sets.get(id);
        elsewhere
            || lists
            || old != new
            || ends.any(|end| {
                [&end.sets, &end.not_sets, &end.port_sets, &end.not_port_sets].into_iter().flatten().any(members)
            })
    };
    Affected { egress: changed(true), ingress: changed(false) }
}
