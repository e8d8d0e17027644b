//! Endpoints that have died without a word.
//!
//! Docker at its start removes what a power cut or its own end by force left, and tells a network driver nothing of it
//! (libnetwork's forced removal does not load the driver); only the addresses are given back. Until the reconciler finds
//! out, such an endpoint has published ports and addresses that a container of the same restart needs, and no second
//! try comes. So whoever meets its record in the way looks whether it still lives:
//!
//! - who wants its port or its address looks for its interface, which an endpoint has from Join on, and ports no longer
//!   than that;
//! - who is told that its address is given back cannot: an interface outlives Docker's end by force. But an address may
//!   also be given back that was never the endpoint's to Docker, such as a gateway of another network. So the endpoint
//!   lives while Docker itself shows it ([`Living`]).

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use calico_ipam::Ipam;
use calico_model::WorkloadEndpoint;
use calico_store::Store;
use time::OffsetDateTime;

use crate::{
    docker::State,
    endpoint::{EndpointId, stored_addresses},
    ipam::{assignment, give_back},
    kernel::Kernel,
    network::{local_endpoints, remove_record},
    plan::{CONFIRM, is_older_than},
};

/// The endpoints that Docker showed with a container when the reconciler looked last. Docker is not asked while it waits
/// for an answer, so this is what is known of it then.
#[derive(Clone, Debug, Default)]
pub(crate) struct Living(Arc<Mutex<Option<BTreeSet<String>>>>);

impl Living {
    /// Notes what Docker shows.
    pub(crate) fn note(&self, docker: &State) {
        let endpoints = docker.networks.iter().flat_map(|network| &network.endpoints);
        let joined = endpoints.filter(|(_, endpoint)| endpoint.container.is_some());
        *self.lock() = Some(joined.map(|(id, _)| id.clone()).collect());
    }

    /// Docker is gone: what it gives back at its next start has died with it.
    pub(crate) fn forget(&self) {
        *self.lock() = None;
    }

    /// Whether an endpoint lives as far as is known: Docker shows it, or it is too young for Docker's last word on it.
    fn has(&self, endpoint: &WorkloadEndpoint, now: OffsetDateTime) -> bool {
        let young = !is_older_than(endpoint, CONFIRM, now);
        self.lock().as_ref().is_some_and(|shown| young || shown.contains(&endpoint.spec.endpoint))
    }

    fn lock(&self) -> MutexGuard<'_, Option<BTreeSet<String>>> {
        // A set is whole whatever its writer met afterwards.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes the dead endpoints of a node.
#[derive(Clone)]
pub(crate) struct Undertaker {
    node: String,
    store: Store,
    ipam: Ipam,
    kernel: Arc<dyn Kernel>,
    living: Living,
}

impl Undertaker {
    pub(crate) fn new(node: &str, store: &Store, kernel: Arc<dyn Kernel>, living: Living) -> Self {
        Self { node: node.to_owned(), store: store.clone(), ipam: Ipam::new(store.clone()), kernel, living }
    }

    /// Removes what is left of an endpoint: interface, record, addresses.
    pub(crate) async fn bury(&self, endpoint: &WorkloadEndpoint) -> Result<(), String> {
        let id = EndpointId::parse(&endpoint.spec.endpoint)?;
        // Looked up while the record keeps them from being given back and assigned anew.
        let mut assigned = Vec::new();
        for address in stored_addresses(endpoint) {
            assigned.extend(assignment(&self.ipam, &self.node, address).await?);
        }
        self.kernel.remove(&id.host_interface()).await?;
        if !remove_record(&self.store, &endpoint.key()).await.map_err(|error| error.to_string())? {
            // Somebody else was faster, and what was looked up may be another endpoint's by now.
            return Ok(());
        }
        tracing::info!(endpoint = endpoint.name(), "removed: it had died without a word of Docker's");
        give_back(&self.ipam, &assigned).await
    }

    /// Removes the endpoints that have an address which Docker gives back; `false` if one of them lives.
    pub(crate) async fn bury_owners(&self, address: IpAddr) -> Result<bool, String> {
        let (owners, now) = (self.owners(address).await?, OffsetDateTime::now_utc());
        if let Some(alive) = owners.iter().find(|endpoint| self.living.has(endpoint, now)) {
            tracing::warn!(%address, endpoint = alive.name(), "not given back: a running container has the address");
            return Ok(false);
        }
        self.bury_all(&owners).await.map(|()| true)
    }

    /// Removes the endpoint that has an address and no interface; `false` if there is none, or it lives.
    pub(crate) async fn bury_dead_owner(&self, address: IpAddr) -> Result<bool, String> {
        let (owners, now) = (self.owners(address).await?, OffsetDateTime::now_utc());
        // One that is just being made has no interface yet.
        let is_dead = |endpoint: &WorkloadEndpoint| {
            is_older_than(endpoint, CONFIRM, now) && !self.kernel.exists(&endpoint.spec.interface_name)
        };
        if owners.is_empty() || !owners.iter().all(is_dead) {
            return Ok(false);
        }
        self.bury_all(&owners).await.map(|()| true)
    }

    async fn bury_all(&self, endpoints: &[WorkloadEndpoint]) -> Result<(), String> {
        for endpoint in endpoints {
            self.bury(endpoint).await?;
        }
        Ok(())
    }

    async fn owners(&self, address: IpAddr) -> Result<Vec<WorkloadEndpoint>, String> {
        let mut endpoints = local_endpoints(&self.store, &self.node).await.map_err(|error| error.to_string())?;
        endpoints.retain(|endpoint| stored_addresses(endpoint).any(|own| own == address));
        Ok(endpoints)
    }
}
