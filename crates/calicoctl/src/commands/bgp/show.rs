//! `peer show`: peers by family, then those that choose hosts or neighbours by selector.
//!
//! The tables are the classic ones as long as the peers are: a third column appears with the first peer that has more
//! to say than address and AS number. Where a password is kept is shown, the password never is.

use std::fmt::Write;

use calico_model::{BGPPeer, BGPPeerSpec, NodeSpec};
use serde_json::{Map, Value, json};

use super::{
    neighbour::{Neighbour, Scope},
    password,
};
use crate::{
    args::PeerShow,
    context::Context,
    failure::Failure,
    output::{Cell, Column, Output, Table},
};

/// The peers to show, sorted.
#[derive(Default)]
struct Peers {
    v4: Vec<(Neighbour, BGPPeer)>,
    v6: Vec<(Neighbour, BGPPeer)>,
    by_selector: Vec<BGPPeer>,
}

/// `peer show`
pub(super) async fn show(ctx: &Context, scope: &Scope, which: PeerShow) -> Result<Output, Failure> {
    let peers = Peers::read(ctx, scope, which).await?;
    let (mut text, mut data) = (String::new(), Map::new());
    for (family, skipped, list) in [("IPv4", which.ipv6, &peers.v4), ("IPv6", which.ipv4, &peers.v6)] {
        if skipped {
            continue;
        }
        let table = table(scope, family, list);
        match list.is_empty() {
            false => drop(write!(text, "{table}")),
            true if *scope == Scope::AllNodes => drop(writeln!(text, "No global {family} BGP Peers defined.\n")),
            true => drop(writeln!(text, "No {family} BGP Peers defined for this node.\n")),
        }
        data.insert(family.to_lowercase(), table.data());
    }
    let chosen = chosen(&peers.by_selector);
    if !peers.by_selector.is_empty() {
        let _ = write!(text, "{chosen}");
    }
    data.insert("bySelector".to_owned(), chosen.data());
    Ok(Output::of(text, Value::Object(data)))
}

impl Peers {
    async fn read(ctx: &Context, scope: &Scope, which: PeerShow) -> Result<Self, Failure> {
        let (list, unreadable) = ctx.store.list::<BGPPeerSpec>().await?;
        ctx.note_unreadable(&unreadable);
        let labels = match ctx.store.get::<NodeSpec>(&ctx.node).await {
            Ok(node) => node.metadata.labels,
            Err(error) if error.is_not_found() => Default::default(),
            Err(error) => return Err(error.into()),
        };
        let chooses_this_host = |spec: &BGPPeerSpec| {
            calico_selector::parse(&spec.node_selector).is_ok_and(|selector| selector.matches(&labels))
        };
        let mut peers = Self::default();
        for peer in list {
            let by_selector = !peer.spec.node_selector.is_empty();
            let belongs = match scope {
                // Neither all hosts' nor one's: they have no other place.
                Scope::AllNodes => by_selector || scope.has(&peer.spec),
                Scope::Node(_) if by_selector => chooses_this_host(&peer.spec),
                Scope::Node(_) => scope.has(&peer.spec),
            };
            if belongs {
                peers.push(peer, by_selector && *scope == Scope::AllNodes, which);
            }
        }
        peers.v4.sort_by_key(|(neighbour, _)| *neighbour);
        peers.v6.sort_by_key(|(neighbour, _)| *neighbour);
        Ok(peers)
    }

    fn push(&mut self, peer: BGPPeer, apart: bool, which: PeerShow) {
        let neighbour = Neighbour::of(&peer.spec);
        let skipped = neighbour.is_some_and(|n| if n.address.is_ipv4() { which.ipv6 } else { which.ipv4 });
        match neighbour {
            _ if skipped => {}
            Some(neighbour) if !apart && neighbour.address.is_ipv4() => self.v4.push((neighbour, peer)),
            Some(neighbour) if !apart => self.v6.push((neighbour, peer)),
            _ => self.by_selector.push(peer),
        }
    }
}

/// The peers of one family.
fn table(scope: &Scope, family: &str, peers: &[(Neighbour, BGPPeer)]) -> Table {
    let heading = match (scope, family) {
        (Scope::AllNodes, "IPv4") => "Global IPv4 BGP Peer",
        (Scope::AllNodes, _) => "Global IPv6 BGP Peer",
        (Scope::Node(_), "IPv4") => "Node specific IPv4 BGP Peer",
        (Scope::Node(_), _) => "Node specific IPv6 BGP Peer",
    };
    let has_options = peers.iter().any(|(_, peer)| !options(&peer.spec).is_empty());
    let options_column = if has_options { Column::new("Options", "options") } else { Column::hidden("options") };
    let columns = [
        Column::new(heading, "peer"),
        Column::new("AS Num", "asNumber"),
        options_column,
        Column::hidden("name"),
        Column::hidden("spec"),
    ];
    let mut table = Table::new(&columns).left();
    for (neighbour, peer) in peers {
        let [name, spec] = hidden(peer);
        let options = options(&peer.spec);
        table.push(vec![neighbour.to_string().into(), as_cell(&peer.spec), Cell::Commas(options), name, spec]);
    }
    table
}

const CHOSEN: &[Column] = &[
    Column::new("BGP Peers by selector", "name"),
    Column::new("Hosts", "hosts"),
    Column::new("Peers", "peers"),
    Column::new("AS Num", "asNumber"),
    Column::new("Options", "options"),
    Column::hidden("spec"),
];

fn chosen(peers: &[BGPPeer]) -> Table {
    let mut table = Table::new(CHOSEN).left();
    for peer in peers {
        let spec = &peer.spec;
        let hosts = match (spec.node.as_str(), spec.node_selector.as_str()) {
            ("", "") => "all",
            ("", selector) => selector,
            (node, _) => node,
        };
        let workloads = spec.extra.get("localWorkloadSelector").and_then(Value::as_str);
        let there = [spec.peer_ip.as_str(), spec.peer_selector.as_str()].into_iter().find(|text| !text.is_empty());
        let there = there.map(str::to_owned).or_else(|| workloads.map(|selector| format!("workloads {selector}")));
        // The hosts have a column of their own.
        let options = options(&BGPPeerSpec { node_selector: String::new(), ..spec.clone() });
        let [name, spec_cell] = hidden(peer);
        table.push(vec![name, hosts.into(), Cell::or_absent(there), as_cell(spec), Cell::Commas(options), spec_cell]);
    }
    table
}

/// The number, or that it is the neighbour's own if it is one of our hosts, else ours.
fn as_cell(spec: &BGPPeerSpec) -> Cell {
    match spec.as_number {
        Some(number) => Cell::Both(number.to_string(), number.0.into()),
        None => Cell::Absent("inherited"),
    }
}

fn hidden(peer: &BGPPeer) -> [Cell; 2] {
    let spec = serde_json::to_value(&peer.spec).unwrap_or_else(|_| json!({}));
    [peer.name().into(), Cell::Both(String::new(), spec)]
}

/// What a peer has beyond address and AS number, in the words of the options of `peer add` where there is one.
fn options(spec: &BGPPeerSpec) -> Vec<String> {
    let mut options = Vec::new();
    if !spec.node_selector.is_empty() {
        options.push(format!("hosts {}", spec.node_selector));
    }
    if let Some(reference) = password::of(spec) {
        options.push(format!("password in {}/{}", reference.name, reference.key));
    }
    if spec.keep_original_next_hop {
        options.push("keep-next-hop".to_owned());
    }
    for (name, value) in &spec.extra {
        match (name.as_str(), value) {
            ("password" | "localWorkloadSelector", _) => {}
            ("filters", Value::Array(filters)) => {
                let names: Vec<&str> = filters.iter().filter_map(Value::as_str).collect();
                options.push(format!("filters {}", names.join(" ")));
            }
            (name, Value::String(text)) => options.push(format!("{name} {text}")),
            (name, value) => options.push(format!("{name} {value}")),
        }
    }
    options
}
