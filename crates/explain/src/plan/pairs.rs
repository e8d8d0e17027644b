//! Pairs of endpoints whose traffic changes its fate.

use std::{collections::BTreeMap, net::IpAddr};

use calico_model::{AnyResource, KindName, ResourceKey};
use calico_policy::{
    instruction::{Endpoint, HostInterfaces},
    interpret::Programmed,
    packet::{Hop, Packet, Transport, Verdict},
};

use super::{
    Host, VerdictChange,
    classes::{Class, classes, family, rule_sets},
    probes::{Bounds, Probe, traffic},
};
use crate::Cluster;

/// The interface to other hosts where no host endpoint names it.
pub(crate) const UPLINK: &str = "eth0";

/// The interface by which a host reaches the others, with the host's addresses.
pub(super) fn uplink(cluster: &Cluster, node: &str) -> BTreeMap<String, Vec<IpAddr>> {
    let addresses = match cluster.get(&ResourceKey::new(KindName::Node, None, node)) {
        Some(AnyResource::Node(node)) => {
            node.spec.bgp.iter().flat_map(|bgp| [&bgp.ipv4_address, &bgp.ipv6_address]).collect()
        }
        _ => Vec::new(),
    };
    let address = |text: &String| text.split('/').next().and_then(|address| address.parse().ok());
    BTreeMap::from([(UPLINK.to_owned(), addresses.into_iter().flatten().filter_map(address).collect())])
}

/// That interface's name: a host endpoint of the host may give it.
fn uplink_name(host: &Programmed) -> String {
    let named = host.host_endpoints.values().find_map(|endpoint| match &endpoint.interfaces {
        HostInterfaces::Named(name) => Some(name.clone()),
        _ => None,
    });
    named.unwrap_or_else(|| UPLINK.to_owned())
}

/// Everything between two classes of endpoints that changes.
pub(super) fn compare(now: &Cluster, hosts: &BTreeMap<String, Host>) -> Vec<VerdictChange> {
    let classes = classes(now, hosts);
    let mut changes = Vec::new();
    for from in &classes {
        for to in &classes {
            let alone = std::ptr::eq(from, to) && from.members.len() < 2;
            if !alone && (from.affected.egress || to.affected.ingress) {
                changes.extend(between(hosts, from, to));
            }
        }
    }
    changes
}

fn between(hosts: &BTreeMap<String, Host>, from: &Class, to: &Class) -> Vec<VerdictChange> {
    let mut found: Vec<(u8, Probe, Verdict, Verdict)> = Vec::new();
    for wanted in [4, 6] {
        let ends = [from, to].map(|class| class.programmed[0].addresses.iter().find(|a| family(a) == wanted).copied());
        let [Some(source), Some(destination)] = ends else { continue };
        for probe in bounds(hosts, from, to).probes(wanted) {
            let [before, after] =
                [0, 1].map(|side| judge(hosts, side, from, to, (source, destination), probe.transport));
            if before != after {
                found.push((wanted, probe, before, after));
            }
        }
    }
    let names = |class: &Class| class.members.iter().map(ToString::to_string).collect::<Vec<_>>();
    let told = merged(found).into_iter().map(|(families, traffic, before, after)| VerdictChange {
        from: names(from),
        to: names(to),
        families,
        traffic,
        before,
        after,
    });
    told.collect()
}

fn bounds(hosts: &BTreeMap<String, Host>, from: &Class, to: &Class) -> Bounds {
    let mut bounds = Bounds::default();
    for (class, egress) in [(from, true), (to, false)] {
        let Some(host) = hosts.get(&class.node) else { continue };
        for (programmed, endpoint) in [(&host.before, &class.programmed[0]), (&host.after, &class.programmed[1])] {
            for rules in rule_sets(programmed, endpoint, egress) {
                let rules = if egress { &rules.egress } else { &rules.ingress };
                rules.iter().for_each(|rule| bounds.take(programmed, rule));
            }
        }
    }
    bounds
}

/// What the sender gets to see, on one host or over two.
fn judge(
    hosts: &BTreeMap<String, Host>,
    side: usize,
    from: &Class,
    to: &Class,
    (source, destination): (IpAddr, IpAddr),
    transport: Transport,
) -> Verdict {
    let host = |class: &Class| hosts.get(&class.node).map(|host| [&host.before, &host.after][side]);
    let (Some(sender), Some(receiver)) = (host(from), host(to)) else { return Verdict::Drop };
    let workload = |endpoint: &Endpoint| Hop::Interface(endpoint.interface.clone());
    let world = |host: &Programmed| Hop::Interface(uplink_name(host));
    let (left, right) = (workload(&from.programmed[side]), workload(&to.programmed[side]));
    let packet = |from, to| Packet::new(from, to, source, destination, transport);
    // Two endpoints of one class may be on one host or on two; a class that stands for both is judged as on two.
    if from.node == to.node && !std::ptr::eq(from, to) {
        return sender.flow(&packet(left, right)).verdict();
    }
    match sender.flow(&packet(left, world(sender))).verdict() {
        Verdict::Allow => receiver.flow(&packet(world(receiver), right)).verdict(),
        denied => denied,
    }
}

type Told = (Vec<u8>, String, Verdict, Verdict);

/// Neighbouring ranges with one fate become one, and so do the two families.
fn merged(found: Vec<(u8, Probe, Verdict, Verdict)>) -> Vec<Told> {
    let mut ranges: Vec<(u8, Probe, Verdict, Verdict)> = Vec::new();
    for (family, probe, before, after) in found {
        if let Some((last_family, last, last_before, last_after)) = ranges.last_mut()
            && (*last_family, *last_before, *last_after) == (family, before, after)
            && let (Some((_, end)), Some((start, high))) = (&mut last.ports, probe.ports)
            && end.checked_add(1) == Some(start)
            && protocol(last.transport) == protocol(probe.transport)
        {
            *end = high;
            continue;
        }
        ranges.push((family, probe, before, after));
    }
    let mut told: Vec<Told> = Vec::new();
    for (family, probe, before, after) in ranges {
        let words = traffic(probe.transport, probe.ports);
        match told.iter_mut().find(|(_, text, b, a)| (text.as_str(), *b, *a) == (words.as_str(), before, after)) {
            Some((families, ..)) => families.push(family),
            None => told.push((vec![family], words, before, after)),
        }
    }
    told
}

fn protocol(transport: Transport) -> Option<u8> {
    match transport {
        Transport::Ports { protocol, .. } => Some(protocol),
        _ => None,
    }
}
