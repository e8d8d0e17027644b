//! `calicoctl node remove`: takes a host out of the datastore, with everything that belongs to it.
//!
//! One part that fails does not keep the others from going; the Node itself goes last and only when all else is
//! gone, so that a second call finds what is left.

use std::net::IpAddr;

use calico_ipam::{HandleId, Ipam, LookupError, ReleaseError, ReleaseRequest};
use calico_model::{
    BGPConfigurationSpec, BGPPeerSpec, CalicoNodeStatusSpec, FelixConfigurationSpec, HostEndpointSpec, Kind, NodeSpec,
    Resource, WorkloadEndpoint, WorkloadName,
};
use calico_store::Error;

use super::{
    container::{delete_endpoint, detach, of_endpoint},
    node_start::{CONTAINER, PREVIOUS},
    race::{self, Races},
};
use crate::{
    args::{EndpointFilter, NodeRemove},
    context::Context,
    failure::{Failure, sentence},
    output::Output,
};

/// Where felix reports how it and its endpoints are.
const FELIX_REPORTS: &str = "/calico/felix/";

/// `node remove`
pub(crate) async fn remove(ctx: &Context, args: &NodeRemove) -> Result<Output, Failure> {
    let node = match &args.hostname {
        None => ctx.node.clone(),
        Some(typed) => named(typed)?,
    };
    let is_this_host = node == ctx.node;
    if is_this_host {
        ctx.require_root()?;
        check_stopped(ctx).await?;
    }
    let filter = EndpointFilter { host: Some(node.clone()), ..EndpointFilter::default() };
    let endpoints = super::endpoint::find(ctx, &filter, None).await?;
    if !endpoints.is_empty() && !args.remove_endpoints {
        return Err(Failure::new(
            "The node has active Calico endpoints so can't be deleted. Force with --remove-endpoints",
        )
        .because(format!("{} endpoint(s) of {node} are stored", endpoints.len()))
        .hint(
            "forcible removing the node may leave workloads in an indeterminate networked state; to clean them up in \
             the normal way, start the node again and use calicoctl container remove",
        ));
    }
    let _acting = ctx.interrupt.acting();
    let mut faults = remove_belongings(ctx, &node, &endpoints, is_this_host).await?;
    if faults.is_empty()
        && let Err(failure) = delete_if::<NodeSpec>(ctx, &node, &|_| true).await
    {
        faults.push(failure.one_line());
    }
    if !faults.is_empty() {
        let failure = Failure::new(format!("Node {node} is not removed completely."));
        let failure = faults.into_iter().fold(failure, Failure::because);
        return Err(failure.hint("when the cause is gone, run the command again"));
    }
    if is_this_host && let Err(error) = ctx.runtime.forget().await {
        ctx.console.note(&format!("warning: what this host keeps of the service could not be removed: {error}"));
    }
    Ok(Output::line("Node configuration removed"))
}

/// The name that was typed. An empty one would be that of everything that belongs to no host in particular.
fn named(typed: &str) -> Result<String, Failure> {
    let bad = |cause: String| Failure::new("Invalid node name specified with --hostname.").because(cause);
    match typed.trim() {
        "" => Err(bad("it is empty".to_owned()).hint("leave the option out for this host")),
        name => calico_startup::node_name(Some(name)).map_err(|error| bad(error.to_string())),
    }
}

/// Takes away all that belongs to a node but not the node itself: its endpoints with their addresses (and, on its own
/// host, their interfaces), its tunnels' addresses, its claims on blocks, and what is stored for it alone. Returns what
/// could not be removed.
///
/// # Errors
/// The user wants to stop.
pub(super) async fn remove_belongings(
    ctx: &Context,
    node: &str,
    endpoints: &[WorkloadEndpoint],
    is_this_host: bool,
) -> Result<Vec<String>, Failure> {
    let mut faults = Vec::new();
    for endpoint in endpoints {
        ctx.interrupt.check()?;
        if let Err(failure) = remove_endpoint(ctx, endpoint, is_this_host).await {
            faults.push(format!("endpoint {}: {}", endpoint.spec.endpoint, failure.one_line()));
        }
    }
    ctx.interrupt.check()?;
    remove_addresses(ctx, node, &mut faults).await;
    remove_settings(ctx, node, &mut faults).await;
    Ok(faults)
}

/// Refuses while the service runs here: it would write its records again.
async fn check_stopped(ctx: &Context) -> Result<(), Failure> {
    let mut runs = ctx.runtime.health().await?.is_some();
    for name in [CONTAINER, PREVIOUS] {
        match ctx.runtime.container(name).await {
            Ok(container) => runs |= container.is_some_and(|container| container.running),
            // Without Docker no container runs.
            Err(error) if error.is_not_running() => {}
            Err(error) => return Err(super::docker_failure(error)),
        }
    }
    if !runs {
        return Ok(());
    }
    Err(Failure::new("The node cannot be removed while it is running.")
        .hint("please run 'calicoctl node stop' to stop the node before removing it"))
}

/// Interface (of this host only), record, addresses, in this order; see [`super::container`].
async fn remove_endpoint(ctx: &Context, endpoint: &WorkloadEndpoint, is_this_host: bool) -> Result<(), Failure> {
    if is_this_host {
        detach(ctx, &endpoint.spec.interface_name).await?;
    }
    delete_endpoint(ctx, endpoint).await?;
    let parts = WorkloadName::of(&endpoint.spec);
    // Ours are held by this handle; other tools' by their own, or by none.
    let handle = HandleId::from(format!("{}.{}", parts.orchestrator, parts.workload));
    for address in of_endpoint(endpoint) {
        release_address(ctx, address, &parts, &handle).await?;
    }
    Ok(())
}

/// Frees an address of an endpoint that is gone, unless it belongs to somebody else by now.
async fn release_address(
    ctx: &Context,
    address: IpAddr,
    parts: &WorkloadName<'_>,
    handle: &HandleId,
) -> Result<(), Failure> {
    let ipam = Ipam::new(ctx.store.clone());
    let assignment = match ipam.get_assignment_attributes(address).await {
        Ok(assignment) => assignment,
        Err(LookupError::Access(error)) => return Err(Failure::new(sentence(&error))),
        // Free, or in no pool.
        Err(_) => return Ok(()),
    };
    let holder = assignment.attribute.handle_id.as_deref();
    // CNI's handles are `<network>.<container id>`.
    let of_workload = |holder: &str| !parts.workload.is_empty() && holder.ends_with(&format!(".{}", parts.workload));
    let is_its = holder.is_none_or(|holder| holder == handle.as_str() || of_workload(holder));
    if !is_its {
        ctx.console.note(&format!("{address} stays reserved: it belongs to {}", holder.unwrap_or_default()));
        return Ok(());
    }
    let request = ReleaseRequest { address, handle: holder.map(HandleId::from), sequence: Some(assignment.sequence) };
    ipam.release_ips(&[request]).await.map(|_| ()).map_err(|error| Failure::new(sentence(&error)))
}

/// The host's tunnel addresses, and its claims on blocks.
async fn remove_addresses(ctx: &Context, node: &str, faults: &mut Vec<String>) {
    const TUNNELS: [&str; 5] = [
        "ipip-tunnel-addr-",
        "vxlan-tunnel-addr-",
        "vxlan-v6-tunnel-addr-",
        "wireguard-tunnel-addr-",
        "wireguard-v6-tunnel-addr-",
    ];
    let ipam = Ipam::new(ctx.store.clone());
    for tunnel in TUNNELS {
        match ipam.release_by_handle(&format!("{tunnel}{node}").into()).await {
            Ok(_) | Err(ReleaseError::NoHandle { .. }) => {}
            Err(error) => faults.push(format!("{tunnel}{node}: {error}")),
        }
    }
    if let Err(error) = ipam.remove_host(node).await {
        faults.push(format!("address blocks of {node}: {error}"));
    }
}

/// What is stored for this host alone.
async fn remove_settings(ctx: &Context, node: &str, faults: &mut Vec<String>) {
    let own = format!("node.{node}");
    let outcomes = [
        delete_where::<BGPPeerSpec>(ctx, |peer| peer.spec.node == node).await,
        delete_where::<HostEndpointSpec>(ctx, |endpoint| endpoint.spec.node == node).await,
        delete_if::<FelixConfigurationSpec>(ctx, &own, &|_| true).await,
        delete_if::<BGPConfigurationSpec>(ctx, &own, &|_| true).await,
        delete_where::<CalicoNodeStatusSpec>(ctx, |status| status.spec.node == node).await,
        delete_reports(ctx, node).await,
    ];
    faults.extend(outcomes.into_iter().filter_map(Result::err).map(|failure| failure.one_line()));
}

/// What felix has reported of this host and its endpoints: keys of another kind than resources.
async fn delete_reports(ctx: &Context, node: &str) -> Result<(), Failure> {
    for entry in ctx.store.kv().list(FELIX_REPORTS).await?.entries {
        if !is_report_of(node, &entry.key) {
            continue;
        }
        race::delete(ctx, &entry.key, &entry.key, Some(entry.revision)).await?;
    }
    Ok(())
}

/// `v1/host/<node>/…`, or `v2/<region>/host/<node>/…`.
fn is_report_of(node: &str, key: &str) -> bool {
    let segments: Vec<&str> = key.strip_prefix(FELIX_REPORTS).unwrap_or_default().split('/').collect();
    match segments.as_slice() {
        ["v1", "host", host, ..] | ["v2", _, "host", host, ..] => *host == node,
        _ => false,
    }
}

async fn delete_where<S: Kind>(ctx: &Context, is_it: impl Fn(&Resource<S>) -> bool) -> Result<(), Failure> {
    let (all, unreadable) = ctx.store.list::<S>().await?;
    ctx.note_unreadable(&unreadable);
    for resource in all.iter().filter(|resource| is_it(resource)) {
        delete_if::<S>(ctx, resource.name(), &is_it).await?;
    }
    Ok(())
}

/// Deletes a resource as it stands if it is meant, which somebody else's change may end; one that is not there is fine.
async fn delete_if<S: Kind>(ctx: &Context, name: &str, is_it: &impl Fn(&Resource<S>) -> bool) -> Result<(), Failure> {
    let mut races = Races::new(format!("{} {name}", S::NAME));
    loop {
        let resource = match ctx.store.get::<S>(name).await {
            Ok(resource) if is_it(&resource) => resource,
            Ok(_) | Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        match ctx.store.delete(&resource).await {
            Ok(()) | Err(Error::NotFound { .. }) => return Ok(()),
            Err(Error::Conflict { .. }) => races.lost().await?,
            Err(error) => return Err(error.into()),
        }
    }
}
