//! What all hosts share: the node-to-node mesh and the AS number.

use calico_model::{BGPConfigurationSpec, BGPPeerSpec};
use serde_json::json;

use super::neighbour;
use crate::{
    commands::{
        config::{self, CLUSTER},
        node_show,
    },
    context::Context,
    failure::Failure,
    output::Output,
};

/// `bgp node-mesh`: shows it, or switches it on or off.
pub(super) async fn node_mesh(ctx: &Context, state: Option<&str>) -> Result<Output, Failure> {
    let Some(state) = state else {
        let on = config::read::<BGPConfigurationSpec>(ctx, CLUSTER)
            .await?
            .and_then(|stored| stored.spec.node_to_node_mesh_enabled)
            .unwrap_or(true);
        let word = if on { "on" } else { "off" };
        return Ok(Output::of(format!("{word}\n"), json!({ "nodeToNodeMesh": on })));
    };
    let on = state == "on";
    config::change::<BGPConfigurationSpec>(ctx, CLUSTER, |stored| {
        let spec = &mut stored.spec;
        if !on && (spec.node_mesh_password.is_some() || spec.node_mesh_max_restart_time.is_some()) {
            return Err(Failure::new("The mesh has settings of its own, which must be taken away before it is off.")
                .hint("calicoctl config bgp nodeMeshPassword --remove")
                .hint("calicoctl config bgp nodeMeshMaxRestartTime --remove"));
        }
        spec.node_to_node_mesh_enabled = Some(on);
        Ok(())
    })
    .await?;
    // The mesh is off by now: what keeps the note from being made is no failure.
    if !on && ctx.store.list::<BGPPeerSpec>().await.is_ok_and(|(peers, _)| peers.is_empty()) {
        ctx.console
            .note("note: there are no BGP peers: hosts exchange no routes now; see calicoctl bgp peer add --help");
    }
    Ok(Output::of(String::new(), json!({ "nodeToNodeMesh": on })))
}

/// `bgp default-node-as`: shows or sets the AS number of nodes without one of their own.
pub(super) async fn default_node_as(ctx: &Context, number: Option<&str>) -> Result<Output, Failure> {
    let Some(number) = number else {
        let number = node_show::cluster_as(ctx).await?;
        return Ok(Output::of(format!("{number}\n"), json!({ "asNumber": number })));
    };
    let number =
        neighbour::as_number(number).map_err(|cause| Failure::new("Invalid AS Number specified.").because(cause))?;
    config::change::<BGPConfigurationSpec>(ctx, CLUSTER, |stored| {
        stored.spec.as_number = Some(number);
        Ok(())
    })
    .await?;
    Ok(Output::of(String::new(), json!({ "asNumber": number })))
}
