//! `calicoctl bgp` and `calicoctl node bgp`: BGP peers, the mesh, the AS number.
//!
//! All of it is v3: a peer is a BGPPeer, named from its address as upstream's converter names the peers of the classic
//! datastore; mesh and AS number are fields of the BGPConfiguration `default`. What stands where: [`neighbour`] reads
//! and names neighbours, [`change`] adds and removes, [`show`] lists, [`password`] keeps passwords in files, [`cluster`]
//! has the mesh and the AS number.

mod change;
mod cluster;
mod neighbour;
mod password;
mod show;
#[cfg(test)]
mod tests;

pub(crate) use self::neighbour::Neighbour;
use self::neighbour::Scope;
use crate::{
    args::{BgpCommand, NodeBgpCommand, NodePeerCommand, PeerCommand},
    context::Context,
    failure::Failure,
    output::Output,
};

/// Does what was typed after `bgp`.
pub(crate) async fn run(ctx: &Context, command: &BgpCommand) -> Result<Output, Failure> {
    match command {
        BgpCommand::Peer { command: PeerCommand::Add(add) } => change::add(ctx, &Scope::AllNodes, add).await,
        BgpCommand::Peer { command: PeerCommand::Remove(remove) } => {
            change::remove(ctx, &Scope::AllNodes, remove).await
        }
        BgpCommand::Peer { command: PeerCommand::Show(which) } => show::show(ctx, &Scope::AllNodes, *which).await,
        BgpCommand::NodeMesh { state, .. } => cluster::node_mesh(ctx, state.as_deref()).await,
        BgpCommand::DefaultNodeAs { as_number, .. } => cluster::default_node_as(ctx, as_number.as_deref()).await,
    }
}

/// Does what was typed after `node bgp`.
pub(crate) async fn run_node(ctx: &Context, command: &NodeBgpCommand) -> Result<Output, Failure> {
    let this = Scope::Node(ctx.node.clone());
    let NodeBgpCommand::Peer { command } = command;
    match command {
        NodePeerCommand::Add(add) => change::add(ctx, &this, add).await,
        NodePeerCommand::Remove(remove) => change::remove(ctx, &this, remove).await,
        NodePeerCommand::Show(which) => show::show(ctx, &this, *which).await,
    }
}
