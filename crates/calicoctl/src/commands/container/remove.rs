//! `calicoctl container remove`: takes interface, endpoint and addresses away, in this order.
//!
//! An address is freed last: once it is, another container may get it, and must find neither an interface that
//! still answers to it nor an endpoint that lends it somebody else's profiles. What fails half-way is finished by
//! calling again; the record goes only after the interface, and the addresses are found by their handle. Works for
//! stopped and deleted containers, and cleans up after an addition that was cut short.

use calico_ipam::{Ipam, LookupError};
use calico_model::WorkloadEndpoint;
use calico_store::Error;

use super::{
    INTERFACE_PREFIX, addresses,
    workload::{Found, find, find_recorded},
};
use crate::{
    commands::race::Races,
    context::Context,
    failure::{Failure, sentence},
    output::Output,
};

/// `container remove`
pub(crate) async fn remove(ctx: &Context, word: &str) -> Result<Output, Failure> {
    ctx.require_root()?;
    let mut found = find(ctx, word).await?;
    let mut lock = ctx.host.lock(&found.workload.endpoint_id()).await?;
    found.read_again(ctx).await?;
    if !has_something(ctx, &found).await? {
        // A new container may have the name of one that was deleted without being removed.
        match find_recorded(ctx, word).await? {
            Some(recorded) => {
                found = recorded;
                lock = ctx.host.lock(&found.workload.endpoint_id()).await?;
                found.read_again(ctx).await?;
            }
            None => return Ok(Output::line(format!("Failed find Calico data for {}", found.workload.id))),
        }
    }
    let _acting = ctx.interrupt.acting();
    let outcome = take_away(ctx, &found).await;
    drop(lock);
    outcome.map_err(|failure| {
        failure
            .context(format!("{word} is not removed completely."))
            .hint(format!("when the cause is gone, finish it with: calicoctl container remove {}", again(&found, word)))
    })?;
    Ok(Output::line(format!("Removed Calico from {}", found.workload.id)))
}

/// What to type to name the workload again, also when nothing else knows it any more.
fn again<'a>(found: &'a Found, word: &'a str) -> &'a str {
    if word.starts_with('/') { word } else { &found.workload.id }
}

/// True if anything is left of the workload: an endpoint, an interface, an address or its handle.
async fn has_something(ctx: &Context, found: &Found) -> Result<bool, Failure> {
    if !found.endpoints.is_empty() || ctx.host.interface_exists(&found.workload.interface()) {
        return Ok(true);
    }
    match Ipam::new(ctx.store.clone()).ips_by_handle(&found.workload.handle()).await {
        // A handle without addresses is what a removal leaves that was cut short.
        Ok(_) => Ok(true),
        Err(LookupError::NoHandle { .. }) => Ok(false),
        Err(error) => Err(Failure::new(sentence(&error))),
    }
}

async fn take_away(ctx: &Context, found: &Found) -> Result<(), Failure> {
    let recorded = found.endpoints.iter().map(|endpoint| endpoint.spec.interface_name.clone());
    for interface in recorded.chain([found.workload.interface()]) {
        detach(ctx, &interface).await?;
        ctx.interrupt.check()?;
    }
    for endpoint in &found.endpoints {
        delete(ctx, endpoint).await?;
        ctx.interrupt.check()?;
    }
    addresses::free_all(ctx, &found.workload, &found.endpoints).await?;
    Ok(())
}

/// Removes an interface of ours if it is there.
pub(in crate::commands) async fn detach(ctx: &Context, interface: &str) -> Result<(), Failure> {
    // A record could name any interface of the host; only those with our prefix are ours to remove.
    if !interface.starts_with(INTERFACE_PREFIX) || !ctx.host.interface_exists(interface) {
        return Ok(());
    }
    match ctx.host.detach(interface).await {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::new(format!("Could not remove Calico interface {interface}")).cause(&error)),
    }
}

/// Deletes an endpoint as it stands, however often somebody changes it meanwhile.
pub(in crate::commands) async fn delete(ctx: &Context, endpoint: &WorkloadEndpoint) -> Result<(), Failure> {
    let (key, mut current) = (endpoint.key(), endpoint.clone());
    let mut races = Races::new(format!("Endpoint {}", endpoint.spec.endpoint));
    loop {
        match ctx.store.delete(&current).await {
            Ok(()) | Err(Error::NotFound { .. }) => return Ok(()),
            Err(Error::Conflict { .. }) => races.lost().await?,
            Err(error) => return Err(error.into()),
        }
        match ctx.store.get_key(&key).await {
            Ok(changed) => current = changed,
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
