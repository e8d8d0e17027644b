//! `calicoctl container <C> ip add|remove`
//!
//! Both are all or nothing: the address is reserved, on the container and in its record, or none of these.

use std::net::IpAddr;

use calico_model::{WorkloadEndpoint, WorkloadEndpointSpec};
use calico_workload::{AttachError, NetnsRef};
use ipnet::IpNet;

use super::{
    add::{Gateways, check_node},
    addresses::{self, Reservations, Wish, check_free, of_endpoint, pools},
    workload::{Found, find},
};
use crate::{
    args::ContainerIp,
    context::Context,
    failure::{Failure, sentence},
    output::Output,
    undo::Undo,
};

/// `container <C> ip add`
pub(crate) async fn add(ctx: &Context, args: &ContainerIp) -> Result<Output, Failure> {
    let wish = Wish::parse(&args.address)?;
    ctx.require_root()?;
    let mut found = find(ctx, &args.container).await?;
    let _lock = ctx.host.lock(&found.workload.endpoint_id()).await?;
    found.read_again(ctx).await?;
    let netns = running(&found, &args.container)?.clone();
    let endpoint = known(found.endpoints.as_slice()).map_err(|failure| {
        failure
            .context(format!("Container {} is unknown to Calico.", args.container))
            .context("Failed to add IP address to container.")
            .hint("use `calicoctl container add` to add the container to the Calico network")
    })?;
    found.check_connected(ctx, &args.container).await?;
    let node = check_node(ctx).await?;
    wish.check(&pools(ctx).await?)?;
    check_free(ctx, wish).await?;
    if !ctx.host.has_interface(&netns, &args.interface).await.map_err(|error| failed_update(&error))? {
        return Err(Failure::new("Interface provided does not exist in container. Aborting.")
            .because(format!("{} has no interface {}", args.container, args.interface))
            .hint("give the one that it was added with: --interface=NAME"));
    }

    let _acting = ctx.interrupt.acting();
    let mut undo = Undo::new();
    let plan = Addition { ctx, found: &found, endpoint, netns: &netns, gateways: Gateways::of(&node), args };
    match plan.act(wish, &mut undo).await {
        Ok(address) => Ok(Output::line(format!("IP {address} added to {}", args.container))),
        Err(failure) => Err(undo.roll_back(failure).await),
    }
}

struct Addition<'a> {
    ctx: &'a Context,
    found: &'a Found,
    endpoint: &'a WorkloadEndpoint,
    netns: &'a NetnsRef,
    gateways: Gateways,
    args: &'a ContainerIp,
}

impl<'a> Addition<'a> {
    async fn act(&self, wish: Wish, undo: &mut Undo<'a>) -> Result<IpAddr, Failure> {
        let (ctx, netns, interface) = (self.ctx, self.netns, self.args.interface.as_str());
        let reservations = std::sync::Arc::new(Reservations::new(ctx, &self.found.workload));
        let marked = reservations.clone();
        undo.push("an address", async move { marked.give_back().await });
        let address = reservations.reserve(wish).await?;

        ctx.interrupt.check()?;
        let gateway = self.gateways.for_address(address);
        ctx.host.add_address(netns, interface, address, Some(gateway)).await.map_err(|error| failed_update(&error))?;
        undo.push(format!("address {address} on {interface}"), async move {
            remove_address(ctx, netns, interface, address).await
        });

        ctx.interrupt.check()?;
        let endpoint = self.endpoint;
        undo.push(format!("address {address} in the endpoint"), async move {
            set_in_record(ctx, endpoint, address, None).await
        });
        let written = set_in_record(ctx, endpoint, address, Some(gateway)).await;
        written.map_err(|failure| failure.context("Error updating datastore. Aborting."))?;
        Ok(address)
    }
}

/// `container <C> ip remove`
pub(crate) async fn remove(ctx: &Context, args: &ContainerIp) -> Result<Output, Failure> {
    let address: IpAddr = args.address.parse().map_err(|_| {
        Failure::new("Invalid IP address specified. Argument must be a valid IP.")
            .because(format!("{:?} is none", args.address))
            .hint(format!("see: calicoctl container {} endpoint show", args.container))
    })?;
    ctx.require_root()?;
    let mut found = find(ctx, &args.container).await?;
    let _lock = ctx.host.lock(&found.workload.endpoint_id()).await?;
    found.read_again(ctx).await?;
    let netns = running(&found, &args.container)?;
    let endpoint = known(found.endpoints.as_slice()).map_err(|failure| {
        failure.context("Container is unknown to Calico.").because(format!("{} was never added", args.container))
    })?;
    if !of_endpoint(endpoint).contains(&address) {
        return Err(Failure::new("IP address is not assigned to container. Aborting.")
            .hint(format!("see: calicoctl container {} endpoint show", args.container)));
    }
    found.check_connected(ctx, &args.container).await?;

    let _acting = ctx.interrupt.acting();
    let mut undo = Undo::new();
    match withdraw(ctx, &found, endpoint, netns, args, address, &mut undo).await {
        Ok(()) => Ok(Output::line(format!("IP {address} removed from {}", args.container))),
        Err(failure) => Err(undo.roll_back(failure).await),
    }
}

/// Record first: from then on nobody lets packets of the address through. The address is freed last.
async fn withdraw<'a>(
    ctx: &'a Context,
    found: &'a Found,
    endpoint: &'a WorkloadEndpoint,
    netns: &'a NetnsRef,
    args: &'a ContainerIp,
    address: IpAddr,
    undo: &mut Undo<'a>,
) -> Result<(), Failure> {
    let spec = &endpoint.spec;
    let recorded = if address.is_ipv4() { &spec.ipv4_gateway } else { &spec.ipv6_gateway };
    let gateway = recorded.parse().unwrap_or_else(|_| Gateways::default().for_address(address));
    undo.push(format!("the endpoint without address {address}"), async move {
        set_in_record(ctx, endpoint, address, Some(gateway)).await
    });
    let written = set_in_record(ctx, endpoint, address, None).await;
    written.map_err(|failure| failure.context("Error updating datastore. Aborting."))?;

    ctx.interrupt.check()?;
    let interface = args.interface.as_str();
    remove_address(ctx, netns, interface, address).await?;
    undo.push(format!("{interface} without address {address}"), async move {
        let added = ctx.host.add_address(netns, interface, address, Some(gateway)).await;
        added.map_err(|error| failed_update(&error))
    });

    addresses::free(ctx, &found.workload, address).await
}

/// Takes an address off the container; one that is gone already is no failure.
async fn remove_address(ctx: &Context, netns: &NetnsRef, interface: &str, address: IpAddr) -> Result<(), Failure> {
    match ctx.host.remove_address(netns, interface, address).await {
        Ok(()) | Err(AttachError::NoAddress { .. }) => Ok(()),
        Err(error) => Err(failed_update(&error)),
    }
}

/// Puts the address into the endpoint's record, with the gateway of its family, or takes it out. Already so is fine.
async fn set_in_record(
    ctx: &Context,
    endpoint: &WorkloadEndpoint,
    address: IpAddr,
    gateway: Option<IpAddr>,
) -> Result<(), Failure> {
    let key = endpoint.key();
    let is_it = |net: &String| net.split('/').next().and_then(|text| text.parse::<IpAddr>().ok()) == Some(address);
    let changed = ctx.store.modify::<WorkloadEndpointSpec, calico_store::Error>(&key, |endpoint| {
        let spec = &mut endpoint.spec;
        spec.ip_networks.retain(|net| !is_it(net));
        if gateway.is_some() {
            spec.ip_networks.push(IpNet::from(address).to_string());
            // IPv4 first, as upstream orders an endpoint's addresses.
            spec.ip_networks.sort_by_key(|net| net.contains(':'));
        }
        let left = spec.ip_networks.iter().any(|net| net.contains(':') == address.is_ipv6());
        let recorded = if address.is_ipv4() { &mut spec.ipv4_gateway } else { &mut spec.ipv6_gateway };
        match gateway {
            Some(gateway) if recorded.is_empty() => *recorded = gateway.to_string(),
            None if !left => recorded.clear(),
            _ => {}
        }
        Ok(())
    });
    changed.await?;
    Ok(())
}

fn running<'a>(found: &'a Found, typed: &str) -> Result<&'a NetnsRef, Failure> {
    found.netns.as_ref().ok_or_else(|| Failure::new(format!("{typed} is not currently running.")))
}

/// The one endpoint of a workload.
fn known(endpoints: &[WorkloadEndpoint]) -> Result<&WorkloadEndpoint, Failure> {
    match endpoints {
        [endpoint] => Ok(endpoint),
        [] => Err(Failure::new("no endpoint is stored for it")),
        several => Err(Failure::new(format!(
            "{} endpoints are stored for it, which is not of calicoctl's making",
            several.len()
        ))),
    }
}

fn failed_update(error: &AttachError) -> Failure {
    Failure::new("Error updating networking in container. Aborting.").because(sentence(error))
}
