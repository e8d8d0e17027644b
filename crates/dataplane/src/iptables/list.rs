//! What iptables holds for an interface, for people: rules with their comments and counters, followed from the
//! interface as a packet is.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use calico_policy::{instruction::PublishedPort, packet::protocol_number};

use super::{
    command::run,
    detect::{Programs, Variant},
    dispatch,
    layout::{ASIDE, COMMENT_PREFIX, Table},
    name::{self, CHAIN_PREFIX, HASH_LENGTH},
    save::Words,
};
use crate::{
    error::Error,
    family::Family,
    listing::{ListedChain, ListedPath, ListedPort, ListedRule},
    render::{Map, PUBLISHED_CHAIN},
};

/// A rule, and for which interfaces it is.
struct Rule {
    /// `-i` or `-o`, with the name or, behind `+`, its beginning.
    interface: Option<String>,
    listed: ListedRule,
}

/// Our chains of one table.
type Chains = BTreeMap<String, Vec<Rule>>;

/// The places at which an interface's packets of one family are judged, with the chains that they meet there; and all
/// published ports of the family, whatever interface they lead to.
///
/// # Errors
/// [`Error::Program`] if the rules cannot be read.
pub(crate) async fn of_interface(
    variant: Variant,
    family: Family,
    interface: &str,
) -> Result<(Vec<ListedPath>, Vec<ListedPort>), Error> {
    let saved = run(Programs::find(variant)?.save(family), &["-c"], "").await?.text;
    let tables = parse(&saved);
    let mut paths = Vec::new();
    for map in Map::all() {
        for chains in tables.values() {
            let start = match map {
                Map::FromWorkload | Map::ToWorkload => dispatch::root(map.name()),
                Map::Host(list) => name::chain(list.dispatch()),
            };
            let Some((owner, chain)) = find(chains, &start, interface) else { continue };
            let ip_version = if family == Family::V4 { 4 } else { 6 };
            paths.push(ListedPath { ip_version, place: map.place(), owner, chains: follow(chains, chain) });
        }
    }
    let nat = tables.get(&Table::Nat).and_then(|chains| chains.get(&name::chain(PUBLISHED_CHAIN)));
    let ports = nat.into_iter().flatten().filter_map(|rule| published(&rule.listed));
    Ok((paths, ports.collect()))
}

/// The published port that a rule leads.
fn published(rule: &ListedRule) -> Option<ListedPort> {
    let words: Vec<String> = Words(&rule.text).collect();
    let after = |option: &str| {
        let at = words.iter().position(|word| word == option)?;
        words.get(at + 1).map(String::as_str)
    };
    let to: SocketAddr = after("--to-destination")?.parse().ok()?;
    let protocol = protocol_number(after("-p")?)?;
    let host = match after("-d") {
        Some(host) => host.split('/').next()?.parse().ok()?,
        None if to.is_ipv4() => IpAddr::from([0; 4]),
        None => IpAddr::from([0; 16]),
    };
    let host_port = after("--dports").or_else(|| after("--dport"))?.parse().ok()?;
    let port = PublishedPort { protocol, host_port, host, address: to.ip(), port: to.port() };
    Some(ListedPort { port, counter: rule.counter })
}

/// The chain to which a tree of chains, or the list of host endpoints, leads an interface, and whose it is: the rule
/// of the interface itself, else the one that is for all others.
fn find(chains: &Chains, start: &str, interface: &str) -> Option<(Option<String>, String)> {
    let mut others = None;
    for rule in chains.get(start)? {
        let Some(target) = &rule.listed.leads_to else { continue };
        let matches = match rule.interface.as_deref() {
            None => {
                others = Some((None, target.clone()));
                continue;
            }
            Some(pattern) => match pattern.strip_suffix('+') {
                Some(prefix) => interface.starts_with(prefix),
                None => interface == pattern,
            },
        };
        if matches {
            let inner = target.starts_with(&format!("{CHAIN_PREFIX}map-"));
            return if inner {
                find(chains, target, interface)
            } else {
                Some((rule.listed.comment.clone(), target.clone()))
            };
        }
    }
    others
}

/// A chain and all that it leads to, depth first.
fn follow(chains: &Chains, start: String) -> Vec<ListedChain> {
    let mut seen = HashSet::new();
    let mut listed = Vec::new();
    let mut waiting = vec![(start, 0)];
    while let Some((name, depth)) = waiting.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let Some(rules) = chains.get(&name) else { continue };
        let rules: Vec<ListedRule> = rules.iter().map(|rule| rule.listed.clone()).collect();
        waiting.extend(rules.iter().rev().filter_map(|rule| Some((rule.leads_to.clone()?, depth + 1))));
        listed.push(ListedChain { name, comment: None, depth, rules });
    }
    listed
}

/// Our chains in what `iptables-save -c` wrote.
fn parse(saved: &str) -> BTreeMap<Table, Chains> {
    let mut tables: BTreeMap<Table, Chains> = BTreeMap::new();
    let mut table = None;
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = Table::of_name(name.trim());
        }
        let Some(chains) = table.map(|table| tables.entry(table).or_default()) else { continue };
        if let Some(head) = line.strip_prefix(':') {
            let name = head.split_ascii_whitespace().next().unwrap_or_default();
            chains.entry(name.to_owned()).or_default();
        } else if let Some((counter, rule)) = line.split_once("] -A ")
            && let Some((chain, body)) = rule.split_once(' ')
        {
            chains.entry(chain.to_owned()).or_default().push(rule_of(counter, body));
        }
    }
    tables.values_mut().for_each(|chains| chains.retain(|name, _| name.starts_with(CHAIN_PREFIX)));
    tables
}

fn rule_of(counter: &str, body: &str) -> Rule {
    let counter = counter.strip_prefix('[').and_then(|counter| counter.split_once(':'));
    let mut counter = counter.and_then(|(packets, bytes)| Some((packets.parse().ok()?, bytes.parse().ok()?)));
    let (mut interface, mut comment, mut leads_to) = (None, None, None);
    let mut words = Words(body);
    while let Some(word) = words.next() {
        match word.as_str() {
            "-i" | "-o" => interface = words.next(),
            "--comment" => {
                let said = words.next().unwrap_or_default();
                let human = said.strip_prefix(COMMENT_PREFIX).and_then(|rest| rest.get(HASH_LENGTH + 1..));
                comment = human.map(|human| match human.strip_suffix(ASIDE) {
                    Some(human) => {
                        counter = None;
                        human.to_owned()
                    }
                    None => human.to_owned(),
                });
            }
            "-j" | "-g" => leads_to = words.next().filter(|target| target.starts_with(CHAIN_PREFIX)),
            _ => {}
        }
    }
    Rule { interface, listed: ListedRule { text: without_comment(body), comment, counter, leads_to } }
}

/// A rule without the comment that we gave it.
fn without_comment(body: &str) -> String {
    let Some((before, rest)) = body.split_once("-m comment --comment ") else { return body.to_owned() };
    let after = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split_once("\" ").map_or("", |(_, after)| after),
        None => rest.split_once(' ').map_or("", |(_, after)| after),
    };
    format!("{before}{after}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panic")]

    use super::*;

    #[test]
    fn a_rule_is_taken_apart_for_people() {
        let body = "-i cali1 -m comment --comment \"cali:0123456789abcdef prod/endpoint-1\" -g cali-ee-x";
        let Rule { interface, listed } = rule_of("[7:420", body);
        assert_eq!(interface.as_deref(), Some("cali1"));
        assert_eq!(listed.text, "-i cali1 -g cali-ee-x");
        assert_eq!(listed.comment.as_deref(), Some("prod/endpoint-1"));
        assert_eq!((listed.counter, listed.leads_to.as_deref()), (Some((7, 420)), Some("cali-ee-x")));
        let plain = rule_of("[0:0", "-m comment --comment cali:0123456789abcdef -j DROP").listed;
        assert_eq!((plain.text.as_str(), plain.comment, plain.leads_to), ("-j DROP", None, None));
        let aside =
            format!("-m comment --comment \"cali:0123456789abcdef profile web ingress[0] allow{ASIDE}\" -j RETURN");
        let aside = rule_of("[7:420", &aside).listed;
        assert_eq!((aside.comment.as_deref(), aside.counter), (Some("profile web ingress[0] allow"), None));
    }

    #[test]
    fn a_published_port_is_read_from_its_rule() {
        let of = |counter: &str, body: &str| published(&rule_of(counter, body).listed);
        let port = |host: &str, host_port, to: &str| {
            let to: SocketAddr = to.parse().unwrap();
            PublishedPort { protocol: 6, host_port, host: host.parse().unwrap(), address: to.ip(), port: to.port() }
        };
        let comment = "-m comment --comment \"cali:0123456789abcdef\"";
        let any = format!("-p tcp -m multiport --dports 8080 {comment} -j DNAT --to-destination 10.65.0.1:80");
        let counter = Some((3, 180));
        assert_eq!(of("[3:180", &any), Some(ListedPort { port: port("0.0.0.0", 8080, "10.65.0.1:80"), counter }));
        let one = format!("-d fd00::9/128 -p tcp -m tcp --dport 22 {comment} -j DNAT --to-destination [fd65::1]:2222");
        let counter = Some((0, 0));
        assert_eq!(of("[0:0", &one), Some(ListedPort { port: port("fd00::9", 22, "[fd65::1]:2222"), counter }));
        assert_eq!(of("[0:0", &format!("-p tcp {comment} -j cali-x")), None);
    }

    #[test]
    fn an_interface_is_followed_through_the_tree_and_falls_to_the_rest_of_a_list() {
        let saved = "*filter\n:FORWARD ACCEPT [0:0]\n:cali-map-m - [0:0]\n\
            [0:0] -A FORWARD -j cali-FORWARD\n[0:0] -A cali-map-m -i cali1+ -j cali-map-m-cali1\n\
            [3:4] -A cali-map-m-cali1 -i cali12 -m comment --comment \"cali:0123456789abcdef b\" -g cali-b\n\
            [1:2] -A cali-b -j cali-c\n[1:2] -A cali-c -j DROP\n\
            [0:0] -A cali-d -j MARK --set-xmark 0x0/0x30000\n[0:0] -A cali-d -i eth0 -g cali-b\n[0:0] -A cali-d -g cali-c\n";
        let tables = parse(saved);
        let chains = &tables[&Table::Filter];
        assert!(!chains.contains_key("FORWARD"));
        assert_eq!(find(chains, "cali-map-m", "cali12"), Some((Some("b".to_owned()), "cali-b".to_owned())));
        assert_eq!(find(chains, "cali-map-m", "cali13"), None);
        assert_eq!(find(chains, "cali-d", "eth0").unwrap().1, "cali-b");
        assert_eq!(find(chains, "cali-d", "eth1").unwrap(), (None, "cali-c".to_owned()));
        let names: Vec<(String, usize)> =
            follow(chains, "cali-b".to_owned()).into_iter().map(|chain| (chain.name, chain.depth)).collect();
        assert_eq!(names, [("cali-b".to_owned(), 0), ("cali-c".to_owned(), 1)]);
    }
}
