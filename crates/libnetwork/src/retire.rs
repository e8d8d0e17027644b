//! Taking away what was made for networks when no network needs it any more: pools and profiles.
//!
//! Both are marked as made here, neither goes while anything uses it, and each deletion compares with what was read.
//! What cannot go yet goes in a later round of the reconciler, on whichever host is first.

use std::collections::BTreeSet;

use calico_ipam::Ipam;
use calico_model::{IPPool, IPPoolSpec, ProfileSpec, WorkloadEndpointSpec};
use calico_store::{Error, Store};
use ipnet::IpNet;

use crate::{pools::is_made_by_us, record};

/// Deletes the pool of a range if it was made for a network, no record names it and no address of it is in use.
/// `true` if it is gone.
pub(crate) async fn pool(store: &Store, ipam: &Ipam, cidr: IpNet) -> Result<bool, String> {
    let in_words = |error: Error| error.to_string();
    let (pools, _) = store.list::<IPPoolSpec>().await.map_err(in_words)?;
    let found = pools.into_iter().find(|pool| pool.spec.cidr.trunc() == cidr.trunc());
    let Some(pool) = found.filter(|pool| is_made_by_us(&pool.metadata.annotations)) else { return Ok(false) };
    if !is_free(store, ipam, cidr).await? {
        return Ok(false);
    }
    // Disabled first, so that nobody begins to take addresses between the look and the deletion.
    let disabled = set_disabled(store, &pool, true).await?;
    if !is_free(store, ipam, cidr).await? {
        set_disabled(store, &disabled, false).await?;
        return Ok(false);
    }
    ipam.release_pool_affinities(cidr).await.map_err(|error| error.to_string())?;
    match store.delete(&disabled).await {
        Ok(()) => {
            tracing::info!(pool = pool.name(), %cidr, "the pool of removed networks is gone");
            Ok(true)
        }
        Err(Error::NotFound { .. }) => Ok(true),
        Err(error) => Err(error.to_string()),
    }
}

async fn set_disabled(store: &Store, pool: &IPPool, disabled: bool) -> Result<IPPool, String> {
    let mut changed = pool.clone();
    changed.spec.disabled = disabled;
    store.update(changed).await.map_err(|error| error.to_string())
}

/// True if no network has the range and none of its addresses is assigned.
async fn is_free(store: &Store, ipam: &Ipam, cidr: IpNet) -> Result<bool, String> {
    let (records, unreadable) = record::list(&**store.kv()).await.map_err(|error| error.to_string())?;
    if !unreadable.is_empty() || records.values().any(|stored| stored.record.subnets.contains(&cidr)) {
        return Ok(false);
    }
    let blocks = ipam.all_blocks().await.map_err(|error| error.to_string())?;
    Ok(blocks.iter().filter(|block| cidr.contains(&block.cidr)).all(|block| block.is_empty()))
}

/// Deletes those of the profiles made for networks that no record and no endpoint has. `candidates` are stored names.
pub(crate) async fn profiles(store: &Store, candidates: &BTreeSet<String>) -> Result<(), Error> {
    if candidates.is_empty() {
        return Ok(());
    }
    let (endpoints, unreadable) = store.list::<WorkloadEndpointSpec>().await?;
    if !unreadable.is_empty() {
        return Ok(());
    }
    let used: BTreeSet<&String> = endpoints.iter().flat_map(|endpoint| &endpoint.spec.profiles).collect();
    for name in candidates.iter().filter(|name| !used.contains(name)) {
        let profile = match store.get::<ProfileSpec>(name).await {
            Ok(profile) if is_made_by_us(&profile.metadata.annotations) => profile,
            Ok(_) | Err(Error::NotFound { .. } | Error::Corrupt { .. }) => continue,
            Err(error) => return Err(error),
        };
        match store.delete(&profile).await {
            Ok(()) => tracing::info!(profile = name, "the profile of a removed network is gone"),
            Err(Error::NotFound { .. } | Error::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
