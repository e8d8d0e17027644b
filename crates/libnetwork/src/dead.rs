//! Endpoints that have died without a word.
//!
//! Docker at its start removes what a power cut or its own end by force left, and tells a network driver nothing of it
//! (libnetwork's forced removal does not load the driver); only the addresses are given back. Until the reconciler finds
//! out, such an endpoint has published ports and an address that a container of the same restart needs, and no second
//! try comes. So whoever meets its record in the way looks whether it still lives: an endpoint has an interface from
//! Join on, and ports no longer than that.

use std::net::IpAddr;

use calico_model::WorkloadEndpoint;
use calico_store::Store;
use time::OffsetDateTime;

use crate::{
    endpoint::{EndpointId, stored_addresses},
    kernel::Kernel,
    network::{local_endpoints, remove_record},
    plan::{CONFIRM, is_older_than},
};

/// Removes what is left of an endpoint: interface and record. Its address is given back by who has to.
pub(crate) async fn bury(store: &Store, kernel: &dyn Kernel, endpoint: &WorkloadEndpoint) -> Result<(), String> {
    let id = EndpointId::parse(&endpoint.spec.endpoint)?;
    kernel.remove(&id.host_interface()).await?;
    remove_record(store, &endpoint.key()).await.map_err(|error| error.to_string())?;
    tracing::info!(endpoint = endpoint.name(), "removed: it had died without a word of Docker's");
    Ok(())
}

/// Removes the endpoints of a node that have an address which Docker gives back.
pub(crate) async fn bury_owners(store: &Store, kernel: &dyn Kernel, node: &str, address: IpAddr) -> Result<(), String> {
    for endpoint in owners(store, node, address).await? {
        bury(store, kernel, &endpoint).await?;
    }
    Ok(())
}

/// Removes the endpoint of a node that has an address and no interface; `false` if there is none, or it lives.
pub(crate) async fn bury_dead_owner(
    store: &Store,
    kernel: &dyn Kernel,
    node: &str,
    address: IpAddr,
) -> Result<bool, String> {
    let owners = owners(store, node, address).await?;
    let now = OffsetDateTime::now_utc();
    // One that is just being made has no interface yet.
    let is_dead = |endpoint: &WorkloadEndpoint| {
        is_older_than(endpoint, CONFIRM, now) && !kernel.exists(&endpoint.spec.interface_name)
    };
    if owners.is_empty() || !owners.iter().all(is_dead) {
        return Ok(false);
    }
    for endpoint in &owners {
        bury(store, kernel, endpoint).await?;
    }
    Ok(true)
}

async fn owners(store: &Store, node: &str, address: IpAddr) -> Result<Vec<WorkloadEndpoint>, String> {
    let mut endpoints = local_endpoints(store, node).await.map_err(|error| error.to_string())?;
    endpoints.retain(|endpoint| stored_addresses(endpoint).any(|own| own == address));
    Ok(endpoints)
}
