//! `calicoctl rules`: what the kernel of this host holds for an endpoint, in the order in which packets meet it.
//!
//! The kernel's rules carry comments that say which rule of which policy they are; the words are those of the
//! datastore, if it answers, so that people read what they wrote. Several rules of the kernel that come from one rule
//! of a policy are told as one, with the sum of their counters.

use std::{
    collections::BTreeMap,
    fmt::Write,
    net::{IpAddr, SocketAddr},
};

use calico_dataplane::listing::{self, ListedChain, ListedPath, ListedPort, Listing};
use calico_explain::{Cluster, why::End, words};
use calico_model::{AnyResource, Rule};
use calico_policy::{instruction::EndpointId, packet::protocol_word};
use serde::Serialize;

use crate::{
    args::{Rules, Way},
    commands::why::{counters, load},
    context::Context,
    failure::{Failure, sentence},
    output::Output,
};

/// Counters stand no further to the right.
const WIDEST: usize = 100;

/// What people see of one path.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Path {
    ip_version: u8,
    place: String,
    owner: Option<String>,
    /// In the order of evaluation.
    lines: Vec<Line>,
}

/// A policy, profile or list, or a rule of it.
#[derive(Debug, Default, Serialize)]
struct Line {
    /// How deep it stands.
    depth: usize,
    /// In the words of the datastore, or the comment in the kernel.
    text: String,
    /// The chain's name in the kernel, if this is the beginning of one.
    chain: Option<String>,
    /// The rules as the kernel has them.
    kernel: Vec<String>,
    packets: Option<u64>,
    bytes: Option<u64>,
}

/// A port of the host that leads to the endpoint.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    ip_version: u8,
    protocol: String,
    host_port: u16,
    /// The host's address; `None` if it is any of them.
    host_ip: Option<IpAddr>,
    address: IpAddr,
    port: u16,
    /// How many it led. The kernel asks once for each.
    connections: Option<u64>,
    /// Of the first packets of these.
    bytes: Option<u64>,
}

/// `rules`
pub(crate) async fn rules(ctx: &Context, args: &Rules) -> Result<Output, Failure> {
    ctx.require_root()?;
    let cluster = match load(ctx).await {
        Ok(cluster) => cluster,
        Err(failure) => {
            ctx.console.note(&format!("warning: the words are the kernel's: {}", failure.one_line()));
            Cluster::default()
        }
    };
    let interface = interface(ctx, &cluster, &args.target).await?;
    let listing = ctx.host.rules(&interface).await.map_err(|error| Failure::new(sentence(&error)))?;
    let published = if args.direction == Some(Way::Out) { Vec::new() } else { ports(&listing) };
    let told = paths(&cluster, listing, args.direction);
    if told.is_empty() && published.is_empty() {
        return Err(nothing(&interface));
    }
    let mut text = String::new();
    for path in &told {
        path_text(&mut text, &interface, path);
    }
    ports_text(&mut text, &interface, &published);
    let data = serde_json::json!({ "interface": interface, "paths": told, "published": published });
    Ok(Output::of(text, data))
}

/// The interface that is meant.
async fn interface(ctx: &Context, cluster: &Cluster, word: &str) -> Result<String, Failure> {
    let local = |end: &End| match end {
        End::Endpoint(id) => {
            cluster.endpoint(id).filter(|own| own.spec.node == ctx.node).map(|own| own.spec.interface_name.clone())
        }
        _ => None,
    };
    if let Ok(container) = ctx.host.inspect(word).await {
        let own = cluster.endpoints().filter(|(_, endpoint)| endpoint.spec.workload == container.id);
        let own: Vec<String> = own.filter_map(|(id, _)| local(&End::Endpoint(id))).collect();
        if let [interface] = own.as_slice() {
            return Ok(interface.clone());
        }
    }
    let named = cluster.named(word);
    let found: Vec<String> = named.iter().filter_map(local).collect();
    match found.as_slice() {
        [interface] => Ok(interface.clone()),
        [] if ctx.host.interface_exists(word) => Ok(word.to_owned()),
        [] if !named.is_empty() => Err(Failure::new(format!("{word} is not on this host, {}.", ctx.node))
            .hint("ask there: the rules are read from the kernel")),
        [] => Err(Failure::new(format!("{word} is no container, endpoint or interface of this host."))
            .hint("see: calicoctl endpoint show --detailed")),
        several => Err(Failure::new(format!("{word} names several endpoints."))
            .because(several.join(", "))
            .hint("give the interface of the one that is meant")),
    }
}

fn nothing(interface: &str) -> Failure {
    Failure::new(format!("Nothing is programmed for {interface}."))
        .hint("see whether the service runs and follows the datastore: calicoctl status")
}

fn paths(cluster: &Cluster, listing: Listing, direction: Option<Way>) -> Vec<Path> {
    let written = written(cluster);
    let wanted = |path: &ListedPath| {
        let inward = path.place == "to workload" || path.place.ends_with("in");
        direction.is_none_or(|way| (way == Way::In) == inward)
    };
    let told = listing.paths.into_iter().filter(wanted).map(|path| Path {
        ip_version: path.ip_version,
        place: path.place,
        owner: path.owner.map(|owner| owner_name(cluster, owner)),
        lines: Walk::through(&written, &path.chains),
    });
    told.collect()
}

fn ports(listing: &Listing) -> Vec<Port> {
    let told = listing.published.iter().map(|ListedPort { port, counter }| Port {
        ip_version: if port.address.is_ipv4() { 4 } else { 6 },
        protocol: protocol_word(port.protocol),
        host_port: port.host_port,
        host_ip: (!port.host.is_unspecified()).then_some(port.host),
        address: port.address,
        port: port.port,
        connections: counter.map(|(packets, _)| packets),
        bytes: counter.map(|(_, bytes)| bytes),
    });
    told.collect()
}

/// A workload's own name, where the element of the map names its endpoint.
fn owner_name(cluster: &Cluster, owner: String) -> String {
    match owner.split_once('/') {
        Some((namespace, name)) => {
            cluster.workload_name(&EndpointId { namespace: namespace.to_owned(), name: name.to_owned() })
        }
        None => owner,
    }
}

/// The chains of a path, each where the first rule leads to it.
struct Walk<'a> {
    written: &'a BTreeMap<String, String>,
    chains: BTreeMap<&'a str, &'a ListedChain>,
    lines: Vec<Line>,
}

impl<'a> Walk<'a> {
    fn through(written: &'a BTreeMap<String, String>, chains: &'a [ListedChain]) -> Vec<Line> {
        let by_name = chains.iter().map(|chain| (chain.name.as_str(), chain)).collect();
        let mut walk = Self { written, chains: by_name, lines: Vec::new() };
        if let Some(first) = chains.first() {
            walk.chain(&first.name);
        }
        walk.lines
    }

    /// A chain with its rules. Each stands there once, so that nothing is told for ever.
    fn chain(&mut self, name: &str) {
        let Some(chain) = self.chains.remove(name) else { return };
        let text = self.words(chain.comment.as_ref().unwrap_or(&chain.name));
        self.lines.push(Line { depth: chain.depth, text, chain: Some(chain.name.clone()), ..Line::default() });
        let totals = counters(chain.rules.iter());
        let mut at: BTreeMap<&String, usize> = BTreeMap::new();
        for rule in &chain.rules {
            if let Some(next) = &rule.leads_to {
                self.chain(next);
            }
            // Jumps between chains and tests of marks are how it is done, not what is done.
            let Some(comment) = &rule.comment else { continue };
            if let Some(known) = at.get(comment) {
                self.lines[*known].kernel.push(rule.text.clone());
                continue;
            }
            at.insert(comment, self.lines.len());
            let total = totals.get(comment);
            self.lines.push(Line {
                depth: chain.depth + 1,
                text: self.words(comment),
                chain: None,
                kernel: vec![rule.text.clone()],
                packets: total.map(|(packets, _)| *packets),
                bytes: total.map(|(_, bytes)| *bytes),
            });
        }
    }

    fn words(&self, comment: &String) -> String {
        self.written.get(comment).unwrap_or(comment).clone()
    }
}

/// All policies and profiles and their rules: the comment that the kernel has for them, and the words.
fn written(cluster: &Cluster) -> BTreeMap<String, String> {
    let mut written = BTreeMap::new();
    for (key, resource) in cluster.resources() {
        let (who, lists): (String, [&[Rule]; 2]) = match resource {
            AnyResource::GlobalNetworkPolicy(policy) => {
                (format!("policy {}/{}", policy.spec.tier(), key.name), [&policy.spec.ingress, &policy.spec.egress])
            }
            AnyResource::NetworkPolicy(policy) => {
                let namespace = key.namespace.as_deref().unwrap_or_default();
                let who = format!("policy {}/{namespace}/{}", policy.spec.tier(), key.name);
                (who, [&policy.spec.ingress, &policy.spec.egress])
            }
            AnyResource::Profile(profile) => {
                (format!("profile {}", key.name), [&profile.spec.ingress, &profile.spec.egress])
            }
            _ => continue,
        };
        for (way, rules) in ["ingress", "egress"].into_iter().zip(lists) {
            // What the chain is called.
            let shown = match resource {
                AnyResource::Profile(profile) => format!("Profile {}", profile.profile_name().as_typed()),
                _ => format!("{} {}", key.kind, who.trim_start_matches("policy ")),
            };
            written.insert(listing::chain_comment(&who, way), format!("{shown}, {way}"));
            for (index, rule) in rules.iter().enumerate() {
                let Some(action) = rule.parsed_action() else { continue };
                let action = format!("{action:?}").to_ascii_lowercase();
                let comment = listing::rule_comment(&who, way, index, &action);
                written.insert(comment, format!("{way}[{index}] {}", words::rule(rule)));
            }
        }
    }
    written
}

fn path_text(text: &mut String, interface: &str, path: &Path) {
    let gap = if text.is_empty() { "" } else { "\n" };
    let owner = path.owner.as_ref().map_or(String::new(), |owner| format!(" ({owner})"));
    let _ = writeln!(text, "{gap}{} {interface}{owner}, IPv{}", path.place, path.ip_version);
    let indented = |line: &Line| format!("{}{}", " ".repeat(2 + 2 * line.depth), line.text);
    let width = path.lines.iter().map(|line| indented(line).chars().count()).max().unwrap_or(0).min(WIDEST);
    let _ = writeln!(text, "{:width$}  {:>10}  {:>12}", "", "packets", "bytes");
    for line in &path.lines {
        let words = indented(line);
        let _ = match (line.packets, line.bytes) {
            (Some(packets), Some(bytes)) => writeln!(text, "{words:width$}  {packets:>10}  {bytes:>12}"),
            _ => writeln!(text, "{words}"),
        };
    }
}

fn ports_text(text: &mut String, interface: &str, ports: &[Port]) {
    if ports.is_empty() {
        return;
    }
    let gap = if text.is_empty() { "" } else { "\n" };
    let told: Vec<String> = ports
        .iter()
        .map(|port| {
            let at = port.host_ip.map_or("every address".to_owned(), |host| host.to_string());
            let to = SocketAddr::new(port.address, port.port);
            format!("  {} {} of {at}, IPv{} -> {to}", port.protocol, port.host_port, port.ip_version)
        })
        .collect();
    let width = told.iter().map(String::len).max().unwrap_or(0);
    let _ = writeln!(text, "{gap}published ports of this host that lead to {interface}");
    let _ = writeln!(text, "{:width$}  {:>11}", "", "connections");
    for (words, port) in told.iter().zip(ports) {
        let _ = match port.connections {
            Some(connections) => writeln!(text, "{words:width$}  {connections:>11}"),
            None => writeln!(text, "{words:width$}  {:>11}", "-"),
        };
    }
}
