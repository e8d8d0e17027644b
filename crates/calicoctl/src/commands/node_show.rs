//! `calicoctl node show`: the hosts and their BGP settings, as the datastore has them.

use std::net::IpAddr;

use calico_model::{AsNumber, BGPConfigurationSpec, BGPPeer, BGPPeerSpec, Node, NodeSpec};

use super::bgp::Neighbour;
use crate::{
    context::Context,
    failure::Failure,
    output::{Cell, Column, Output, Table},
};

/// The AS number of a cluster that does not say.
pub(super) const DEFAULT_AS: AsNumber = AsNumber(64512);

const COLUMNS: &[Column] = &[
    Column::new("Hostname", "hostname"),
    Column::new("Bird IPv4", "ipv4"),
    Column::new("Bird IPv6", "ipv6"),
    Column::new("AS Num", "asNumber"),
    Column::new("BGP Peers v4", "peersV4"),
    Column::new("BGP Peers v6", "peersV6"),
    Column::hidden("asNumberInherited"),
];

/// `node show`
pub(crate) async fn show(ctx: &Context) -> Result<Output, Failure> {
    let (mut nodes, unreadable) = ctx.store.list::<NodeSpec>().await?;
    ctx.note_unreadable(&unreadable);
    nodes.sort_by(|a, b| a.name().cmp(b.name()));
    let (peers, unreadable) = ctx.store.list::<BGPPeerSpec>().await?;
    ctx.note_unreadable(&unreadable);
    let cluster_as = cluster_as(ctx).await?;
    let mut table = Table::new(COLUMNS);
    for node in &nodes {
        let bgp = node.spec.bgp.as_ref();
        let own_as = bgp.and_then(|bgp| bgp.as_number);
        let as_words = own_as.map_or_else(|| format!("{cluster_as} (inherited)"), |own| own.to_string());
        let (v4, v6) = peers_of(node, &peers);
        table.push(vec![
            node.name().into(),
            Cell::or_absent(bgp.and_then(|bgp| address(bgp.ipv4_address.as_deref()))),
            Cell::or_absent(bgp.and_then(|bgp| address(bgp.ipv6_address.as_deref()))),
            Cell::Both(as_words, own_as.unwrap_or(cluster_as).0.into()),
            Cell::Lines(v4),
            Cell::Lines(v6),
            Cell::Both(String::new(), own_as.is_none().into()),
        ]);
    }
    Ok(table.into())
}

/// The AS number of nodes without one of their own.
pub(super) async fn cluster_as(ctx: &Context) -> Result<AsNumber, Failure> {
    match ctx.store.get::<BGPConfigurationSpec>("default").await {
        Ok(configuration) => Ok(configuration.spec.as_number.unwrap_or(DEFAULT_AS)),
        Err(error) if error.is_not_found() => Ok(DEFAULT_AS),
        Err(error) => Err(error.into()),
    }
}

/// The address of a node without the prefix length of its subnet.
pub(super) fn address(net: Option<&str>) -> Option<String> {
    net.and_then(|net| net.split('/').next()).filter(|address| !address.is_empty()).map(str::to_owned)
}

/// The peers of this node in particular, IPv4 and IPv6, as `<address> as <number>`: those that name it, and those
/// whose selector takes it. Peers of all nodes are not repeated for each.
fn peers_of(node: &Node, peers: &[BGPPeer]) -> (Vec<String>, Vec<String>) {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for peer in peers.iter().filter(|peer| is_peer_of(node, &peer.spec)) {
        let Some(Neighbour { address, .. }) = Neighbour::of(&peer.spec) else { continue };
        let words = match peer.spec.as_number {
            Some(number) => format!("{} as {number}", peer.spec.peer_ip),
            None => peer.spec.peer_ip.clone(),
        };
        if address.is_ipv4() { v4.push((address, words)) } else { v6.push((address, words)) }
    }
    let sorted = |mut peers: Vec<(IpAddr, String)>| {
        peers.sort();
        peers.into_iter().map(|(_, words)| words).collect()
    };
    (sorted(v4), sorted(v6))
}

fn is_peer_of(node: &Node, peer: &BGPPeerSpec) -> bool {
    if !peer.node.is_empty() {
        return peer.node == node.name();
    }
    !peer.node_selector.is_empty()
        && calico_selector::parse(&peer.node_selector).is_ok_and(|selector| selector.matches(&node.metadata.labels))
}
