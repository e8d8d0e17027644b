//! The datastore as a process: opens the database, serves it, and says how it is.
//!
//! Local processes reach it by a Unix socket that only root may use. Other hosts reach it by TLS, by a port that
//! [`tls`] opens once there is somebody to let in.
//!
//! - The socket appears, complete and closed to others, in one step, and only when the database is open: who can
//!   connect is served. One that a dead process left behind is replaced; one that a living process serves is not
//!   touched.
//! - When nothing can be written any more because the writer has ended, the process ends too, so that calico-node starts
//!   another. (A disk that failed is something else: reading goes on, and an operator is asked for.)
//! - At the end no client hangs: streams are ended with etcd's word for it, calls that run are answered, and after
//!   [`PATIENCE`] what is left is dropped. Every write that was acknowledged is on the disk whatever happens.

mod authority;
mod health;
pub(crate) mod socket;

use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};

use authority::Anonymous;
use calico_model::AgentHealth;
use futures::{TryStreamExt as _, future};
use tokio::{sync::watch as cell, time};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

pub use socket::SocketError;

use crate::{
    Datastore, OpenError, admin,
    api::{Api, Identity},
    enrol, tls,
};

/// How long clients have to take their last answers.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often another host is asked whether it is still there, and how long it has to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// What to serve, and where.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The folder of the database.
    pub dir: PathBuf,
    /// The socket for etcd's API.
    pub socket: PathBuf,
    /// The socket for `calicoctl`'s wishes.
    pub admin_socket: PathBuf,
    /// The host's name.
    pub name: String,
    /// The TCP port for other hosts.
    pub listen_port: u16,
}

/// Why the datastore cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The database cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The socket cannot be had.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// What is known of other hosts cannot be read.
    #[error(transparent)]
    Enrol(#[from] enrol::OpenError),
    /// Nothing can be written any more; a new process may do better.
    #[error("the datastore ends so that it is started anew: {0}")]
    Writer(String),
    /// A server ended by itself.
    #[error("the server on {listener} ended")]
    Ended {
        /// Where it listened.
        listener: String,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
}

/// Serves the datastore until `stop` is done. `report` is called with every change of its health, and at least every
/// few seconds.
///
/// # Errors
/// [`ServeError`], before anything is served or when a server ends by itself.
pub async fn serve(
    options: ServeOptions,
    stop: impl Future<Output = ()>,
    report: impl FnMut(&AgentHealth),
) -> Result<(), ServeError> {
    socket::check(&options.socket)?;
    let dir = options.dir.clone();
    let datastore = tokio::task::spawn_blocking(move || Datastore::open(&dir)).await;
    // The task is never cancelled, and a panic of the database is one of this process.
    let datastore = datastore.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    let registrar = enrol::Registrar::open(enrol::RegistrarOptions::new(
        options.dir.clone(),
        options.name.clone(),
        options.listen_port,
    ))?;
    let (stopping, stopped) = cell::channel(false);
    let doors = registrar.clone();
    let identity = Identity {
        name: options.name.clone(),
        socket: options.socket.clone(),
        remote: Arc::new(move || doors.client_urls()),
    };
    let routes = Api::new(datastore.clone(), identity, stopped.clone()).routes();
    let socket = socket::bind(&options.socket)?;
    tracing::info!(socket = %options.socket.display(), dir = %options.dir.display(), "the datastore is served");

    let local = Server::builder().serve_with_incoming_shutdown(
        routes.clone(),
        UnixListenerStream::new(socket.listen()?).map_ok(Anonymous::new),
        until(stopped.clone()),
    );
    let local = ended(local, options.socket.display().to_string());
    let listener = tls::Listener::new(registrar.clone());
    let remote = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
        .serve_with_incoming_shutdown(routes, listener.incoming(), until(stopped.clone()));
    let remote = ended(remote, format!("TCP port {}", options.listen_port));
    let admin = async {
        let stop = until(stopped.clone());
        Ok(admin::serve(&options.admin_socket, registrar, datastore.clone(), stop).await?)
    };
    let servers = future::try_join3(local, remote, admin);
    run(servers, stop, stopping, &datastore, report).await
}

/// Runs the servers until `stop`, or until nothing can be written any more, then ends them; reports meanwhile.
async fn run<T>(
    servers: impl Future<Output = Result<T, ServeError>>,
    stop: impl Future<Output = ()>,
    stopping: cell::Sender<bool>,
    datastore: &Datastore,
    report: impl FnMut(&AgentHealth),
) -> Result<(), ServeError> {
    let mut servers = std::pin::pin!(servers);
    let end = tokio::select! {
        ended = &mut servers => return ended.map(|_| ()),
        () = stop => Ok(()),
        why = datastore.writer_ended() => Err(ServeError::Writer(why)),
        never = health::report(datastore, report) => match never {},
    };
    stopping.send_replace(true);
    match time::timeout(PATIENCE, servers).await {
        Ok(ended) => end.and(ended.map(|_| ())),
        Err(_) => {
            tracing::info!("some clients have not taken their last answers; they are left");
            end
        }
    }
}

async fn ended(
    server: impl Future<Output = Result<(), tonic::transport::Error>>,
    listener: String,
) -> Result<(), ServeError> {
    server.await.map_err(|source| ServeError::Ended { listener, source })
}

async fn until(mut stopped: cell::Receiver<bool>) {
    // The sender going away means the same.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

#[cfg(test)]
mod tests;
