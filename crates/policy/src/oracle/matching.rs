//! Whether a rule matches a packet, and whether a rule can be followed at all.

use std::{collections::BTreeSet, net::IpAddr};

use calico_model::{Action, EndpointPort, EntityRule, Icmp, Port, Protocol, Rule};
use calico_selector::{Selector, parse, scope::EntitySelector};
use ipnet::IpNet;
use serde_json::{Map, Value};

use super::{Held, NetSet, State};
use crate::{entity_selectors, packet::Packet};

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

impl State {
    /// True if all conditions of a rule hold, all of which are clear. `namespace` is that of the policy with the rule.
    pub(super) fn matches(&self, rule: &Rule, namespace: Option<&str>, packet: &Packet) -> bool {
        let number = |protocol: &Protocol| protocol.number();
        let is_icmp = |icmp: &Icmp| {
            packet.icmp().is_some_and(|(icmp_type, code)| {
                icmp.icmp_type.is_none_or(|wanted| wanted == u16::from(icmp_type))
                    && icmp.code.is_none_or(|wanted| wanted == u16::from(code))
            })
        };
        let (source_port, destination_port) = packet.ports().unzip();
        let end = |end, address, port| self.end_matches(end, namespace, (address, packet.protocol(), port));
        families(rule).contains(&packet.family())
            && rule.protocol.as_ref().is_none_or(|protocol| number(protocol) == Some(packet.protocol()))
            && rule.not_protocol.as_ref().is_none_or(|protocol| number(protocol) != Some(packet.protocol()))
            && rule.icmp.as_ref().is_none_or(is_icmp)
            && !rule.not_icmp.as_ref().is_some_and(is_icmp)
            && end(&rule.source, packet.source, source_port)
            && end(&rule.destination, packet.destination, destination_port)
    }

    /// `at`: the packet's address, protocol and port of this end.
    fn end_matches(&self, end: &EntityRule, namespace: Option<&str>, at: (IpAddr, u8, Option<u16>)) -> bool {
        let (address, protocol, port) = at;
        let selectors = selectors_of(end, namespace).unwrap_or_default();
        let selector = |text: Option<String>| text.and_then(|text| parse(&text).ok());
        let (positive, negative) = (selector(selectors.positive), selector(selectors.negative));
        let within = |nets: &[String]| nets.iter().filter_map(|net| net_of(net)).any(|net| net.contains(&address));
        let among = |ports: &[Port]| {
            port.is_some_and(|port| {
                ports.iter().any(|wanted| match wanted {
                    Port::Number(number) => *number == port,
                    Port::Range(low, high) => (*low..=*high).contains(&port),
                    Port::Name(name) => self.has_port(address, positive.as_ref(), (name, protocol, port)),
                })
            })
        };
        (end.nets.is_empty() || within(&end.nets))
            && !within(&end.not_nets)
            && (end.ports.is_empty() || among(&end.ports))
            && !among(&end.not_ports)
            && positive.as_ref().is_none_or(|selector| self.has_selected(address, selector))
            && !negative.as_ref().is_some_and(|selector| self.has_selected(address, selector))
    }

    /// True if an endpoint or network set, anywhere in the cluster, that the selector selects has the address.
    fn has_selected(&self, address: IpAddr, selector: &Selector) -> bool {
        let endpoint = self
            .endpoints
            .values()
            .any(|endpoint| self.addresses(endpoint).contains(&address) && selector.matches(&self.labels(endpoint)));
        let host = || {
            self.usable_hosts().any(|host| {
                let expected = host.spec.expected_ips.iter().filter_map(|text| text.parse::<IpAddr>().ok());
                expected.into_iter().any(|expected| expected == address) && selector.matches(&self.host_labels(host))
            })
        };
        let set = || {
            self.sets.iter().filter(|(_, set)| usable(set)).any(|((namespace, _), set)| {
                let mut nets = set.value.nets.iter().filter_map(|net| loose_net_of(net));
                let labels = self.set_labels(namespace, &set.value);
                nets.any(|net| net.contains(&address)) && labels.is_some_and(|labels| selector.matches(&labels))
            })
        };
        endpoint || host() || set()
    }

    /// True if an endpoint (that the selector selects, if there is one) has the address and gives the port this name.
    fn has_port(&self, address: IpAddr, selector: Option<&Selector>, wanted: (&str, u8, u16)) -> bool {
        let named = |ports: &[EndpointPort]| {
            let (name, protocol, number) = wanted;
            ports.iter().any(|port| {
                !name.is_empty() && port.name == name && port.port == number && port.protocol.number() == Some(protocol)
            })
        };
        let endpoint = self.endpoints.values().any(|endpoint| {
            self.addresses(endpoint).contains(&address)
                && named(&endpoint.spec.ports)
                && selector.is_none_or(|selector| selector.matches(&self.labels(endpoint)))
        });
        endpoint
            || self.usable_hosts().any(|host| {
                let mut expected = host.spec.expected_ips.iter().filter_map(|text| text.parse::<IpAddr>().ok());
                expected.any(|expected| expected == address)
                    && named(&host.spec.ports)
                    && selector.is_none_or(|selector| selector.matches(&self.host_labels(host)))
            })
    }
}

/// True if all of a network set can be read.
fn usable(set: &Held<NetSet>) -> bool {
    set.fault.is_none() && set.value.nets.iter().all(|net| loose_net_of(net).is_some())
}

impl State {
    /// Why nobody can say what a rule matches, if a network set that cannot be used may be meant by it. Rules that open
    /// for the members of such a set, or close for all others, are safe: it counts as empty.
    pub(super) fn doubtful(&self, rule: &Rule, namespace: Option<&str>) -> Option<String> {
        let action = rule.parsed_action();
        let ends = [&rule.source, &rule.destination].into_iter();
        let selectors = ends.filter_map(|end| selectors_of(end, namespace).ok()).flat_map(|selectors| {
            let positive = selectors.positive.filter(|_| matches!(action, Some(Action::Deny | Action::Pass)));
            let negative = selectors.negative.filter(|_| matches!(action, Some(Action::Allow | Action::Pass)));
            [positive, negative].into_iter().flatten()
        });
        let mut selectors = selectors.filter_map(|text| parse(&text).ok());
        selectors.find_map(|selector| {
            let mut spoilt = self.sets.iter().filter(|(_, set)| !usable(set));
            let meant = |namespace: &str, set: &NetSet| {
                self.set_labels(namespace, set).is_none_or(|labels| selector.matches(&labels))
            };
            let (_, name) = spoilt.find(|((namespace, _), set)| meant(namespace, &set.value))?.0;
            Some(format!("the network set {name} cannot be used, and a rule may mean its members"))
        })
    }
}

/// The first thing about a rule that has no clear meaning, or none here.
pub(super) fn unclear(rule: &Rule, namespace: Option<&str>) -> Option<String> {
    let protocol = rule.protocol.as_ref().map(Protocol::number);
    let is_icmp = matches!(protocol, Some(Some(1 | 58)));
    let not_protocol = rule.not_protocol.as_ref().map(Protocol::number);
    let bad_protocol = |number: Option<Option<u8>>| matches!(number, Some(None | Some(0)));
    let bad_icmp = |icmp: &Icmp| icmp.icmp_type.is_some_and(|t| t > 254) || icmp.code.is_some_and(|code| code > 255);
    let checks = [
        (rule.parsed_action().is_none(), "its action is none"),
        (rule.http.is_some(), "HTTP conditions are not followed"),
        (has_members(&rule.extra), "it has a condition that is not followed"),
        (rule.ip_version.is_some_and(|version| version != 4 && version != 6), "its IP version is none"),
        (bad_protocol(protocol) || bad_protocol(not_protocol), "its protocol is none"),
        (rule.icmp.iter().chain(&rule.not_icmp).any(bad_icmp), "its ICMP type or code is none"),
        (
            rule.icmp.iter().chain(&rule.not_icmp).any(|icmp| icmp.icmp_type.is_none() && icmp.code.is_some()),
            "an ICMP code needs a type",
        ),
        (rule.icmp.is_some() && !is_icmp && protocol.is_some(), "only ICMP has types"),
        (rule.icmp.is_some_and(|icmp| icmp.icmp_type.is_none()) && !is_icmp, "any type of which protocol?"),
        (
            rule.not_icmp.is_some_and(|icmp| icmp.icmp_type.is_none()) || (rule.not_icmp.is_some() && !is_icmp),
            "not which type of which protocol?",
        ),
    ];
    let broken = checks.into_iter().find(|(broken, _)| *broken).map(|(_, reason)| reason.to_owned());
    let mut ends = [&rule.source, &rule.destination].into_iter();
    broken.or_else(|| ends.find_map(|end| unclear_end(end, protocol.flatten(), namespace)))
}

fn unclear_end(end: &EntityRule, protocol: Option<u8>, namespace: Option<&str>) -> Option<String> {
    let ports = || end.ports.iter().chain(&end.not_ports);
    let bad_port = |port: &Port| match port {
        Port::Number(number) => *number == 0,
        Port::Range(low, high) => *low == 0 || low > high,
        Port::Name(_) => false,
    };
    if let Some(net) = end.nets.iter().chain(&end.not_nets).find(|net| net_of(net).is_none()) {
        return Some(format!("{net} is not a network"));
    }
    // A named port brings its protocol along.
    let needs_protocol = ports().any(|port| protocol.is_some() || !matches!(port, Port::Name(_)));
    if needs_protocol && !matches!(protocol, Some(TCP | UDP | SCTP)) {
        return Some("ports of which protocol?".to_owned());
    }
    if let Some(port) = ports().find(|port| bad_port(port)) {
        return Some(format!("port {port} is none that is followed"));
    }
    if end.services.is_some() {
        return Some("services are not followed".to_owned());
    }
    let accounts = end.service_accounts.as_ref().map(|accounts| &accounts.extra);
    if has_members(&end.extra) || accounts.is_some_and(has_members) {
        return Some("it has a condition that is not followed".to_owned());
    }
    let selectors = match selectors_of(end, namespace) {
        Ok(selectors) => selectors,
        Err(reason) => return Some(reason),
    };
    let texts = [selectors.positive, selectors.negative].into_iter().flatten();
    texts.filter_map(|text| parse(&text).err()).map(|error| error.to_string()).next()
}

fn has_members(members: &Map<String, Value>) -> bool {
    members.values().any(|value| !value.is_null())
}

/// The families of packets that a rule can match: those of its version, its protocol, and of each list of networks
/// (a list of one family binds the rule to it, negated or not).
fn families(rule: &Rule) -> BTreeSet<u8> {
    let ends = [&rule.source, &rule.destination];
    let lists = || ends.into_iter().flat_map(|end| [&end.nets, &end.not_nets]).filter(|list| !list.is_empty());
    let protocol = rule.protocol.as_ref().and_then(Protocol::number);
    let possible = |family: &u8| {
        rule.ip_version.is_none_or(|version| version == *family)
            && !(protocol == Some(1) && *family == 6)
            && !(protocol == Some(58) && *family == 4)
            && lists()
                .all(|list| list.iter().filter_map(|net| net_of(net)).any(|net| net.addr().is_ipv4() == (*family == 4)))
    };
    [4, 6].into_iter().filter(possible).collect()
}

/// A network without bits behind its prefix, or a single address.
fn net_of(text: &str) -> Option<IpNet> {
    loose_net(text).filter(|net| *net == net.trunc())
}

/// A network of a network set, where bits behind the prefix mean nothing.
fn loose_net_of(text: &str) -> Option<IpNet> {
    loose_net(text).map(|net| net.trunc())
}

fn loose_net(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// The selectors of one end of a rule, joined.
fn selectors_of(end: &EntityRule, namespace: Option<&str>) -> Result<EntitySelector, String> {
    entity_selectors(namespace, end).combine().map_err(|error| error.to_string())
}
