//! Docker's own network command: the network driver and the IPAM driver of its remote plugin protocol.
//!
//! ```text
//!   docker network create -d calico --ipam-driver calico-ipam app
//!   docker run --net app --label org.projectcalico.label.role=db …
//!
//!   Docker ──POST──► server ──► ipam, network ──► datastore, kernel      answers; never asks Docker
//!   Docker ◄──API─── follow ──► plan ──► datastore, kernel, Docker       names, labels, other hosts, repair
//! ```
//!
//! A network is a profile: its members reach each other, as upstream's plugin had it, and labels of the container are
//! labels of the endpoint, so policy selects it. Docker keeps the network of one host only; a record in the datastore
//! makes it one of all hosts ([`NetworkRecord`]).
//!
//! Invariants:
//!
//! - While Docker waits for an answer, Docker is not asked: it holds locks meanwhile.
//! - Nothing is remembered that a restart would lose: what is decided follows from the request, the datastore and the
//!   kernel. An endpoint's interface, gateway and MAC address follow from its id.
//! - An endpoint is closed until it is known whose it is: profiles come together with labels, never before them.
//! - Each request can be repeated, and can come when what it is about is gone. A crash between any two steps leaves
//!   something that the reconciler recognises: an address without endpoint by its handle and its age, an endpoint
//!   without Docker's by its id, a network without its record by its label.
//! - What others made (endpoints of `container add`, other drivers' networks, profiles of people) is never changed.
//!
//! A container in several networks is a member of all of them with each of its addresses: its endpoints have the
//! profiles of all its networks, since Linux answers by the default route whatever address a packet came to.
//!
//! Names to know: [`run`] is the agent; *origin* is the node on which a network was created.

mod dead;
mod docker;
mod endpoint;
mod follow;
mod ipam;
mod kernel;
mod network;
mod part;
mod plan;
mod pools;
mod profile;
mod protocol;
mod record;
mod retire;
mod server;
#[cfg(test)]
mod tests;

use std::{future::Future, path::PathBuf, sync::Arc};

use calico_model::AgentHealth;
use calico_store::Store;

pub use record::{NETWORK_ROOT, NetworkRecord};
pub use server::SocketError;

use dead::{Living, Undertaker};
use docker::{DockerEngine, Engine};
use follow::Follower;
use ipam::IpamDriver;
use kernel::{HostKernel, Kernel};
use network::NetworkDriver;
use server::{Drivers, Socket, serve};

/// Where everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// This host's node name.
    pub node: String,
    /// The folder of Docker's plugin sockets.
    pub plugins: PathBuf,
    /// Docker's own address, `unix:///…` or `tcp://…`.
    pub docker: String,
}

impl Options {
    /// The usual places. Docker is at `CALICO_DOCKER`, else at `DOCKER_HOST`, else at its usual socket.
    pub fn new(node: impl Into<String>) -> Self {
        let given = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            node: node.into(),
            plugins: "/run/docker/plugins".into(),
            docker: given("CALICO_DOCKER")
                .or_else(|| given("DOCKER_HOST"))
                .unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned()),
        }
    }
}

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A socket cannot be had.
    #[error(transparent)]
    Socket(#[from] SocketError),
}

/// Serves Docker's networks until `stop` completes; `report` is told of every change of health, and every five seconds.
/// Networks and endpoints stay as they are then; Docker's requests fail until the next start.
///
/// # Errors
/// [`RunError`]: before anything is served. Everything later is told and tried again.
pub async fn run(
    store: &Store,
    options: Options,
    report: impl FnMut(&AgentHealth),
    stop: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let engine = Arc::new(DockerEngine::new(&options.docker));
    run_with(store, options, Arc::new(HostKernel), engine, report, stop).await
}

async fn run_with(
    store: &Store,
    options: Options,
    kernel: Arc<dyn Kernel>,
    engine: Arc<dyn Engine>,
    report: impl FnMut(&AgentHealth),
    stop: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let both = Socket::open(&options.plugins, server::NETWORK).await?;
    let ipam = Socket::open(&options.plugins, server::IPAM).await?;
    let living = Living::default();
    let undertaker = Undertaker::new(&options.node, store, kernel.clone(), living.clone());
    let drivers = Arc::new(Drivers {
        network: NetworkDriver::new(&options.node, store, kernel.clone(), undertaker.clone()),
        ipam: IpamDriver::new(&options.node, store, undertaker),
    });
    tracing::info!(node = options.node, plugins = %options.plugins.display(), "serving Docker's networks");
    let follower = Follower::new(&options.node, store, kernel, engine, living);
    tokio::select! {
        () = stop => {}
        never = serve(&both, drivers.clone()) => match never {},
        never = serve(&ipam, drivers) => match never {},
        () = follower.run(report) => {}
    }
    Ok(())
}
