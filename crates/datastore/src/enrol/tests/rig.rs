//! A datastore's registrar on loopback, with a clock that a test sets.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::{net::TcpStream, sync::mpsc};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::super::{
    Clock, Registrar, RegistrarOptions,
    join::{Address, Invitation, JoinError, Joined, join},
};
use crate::{
    pki::Identity,
    tls::{Connection, Listener, Peer, provider},
};

/// Long enough for a busy machine; a test that waits so long has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Rig {
    pub(super) dir: TempDir,
    pub(super) registrar: Registrar,
    pub(super) clock: Hands,
    handed_out: mpsc::UnboundedReceiver<(Connection, Peer)>,
    server: tokio::task::JoinHandle<()>,
}

/// A clock that runs with the system's, set off by some seconds.
#[derive(Clone, Default)]
pub(super) struct Hands(Arc<AtomicI64>);

impl Hands {
    pub(super) fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }

    pub(super) fn clock(&self) -> Clock {
        let shift = self.0.clone();
        Arc::new(move || OffsetDateTime::now_utc() + time::Duration::seconds(shift.load(Ordering::SeqCst)))
    }
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::on(tempfile::tempdir().unwrap(), Hands::default())
    }

    fn on(dir: TempDir, clock: Hands) -> Self {
        let registrar = Registrar::open(options(dir.path(), &clock)).unwrap();
        let mut listener = Listener::new(registrar.clone());
        let (sender, handed_out) = mpsc::unbounded_channel();
        let server = tokio::spawn(async move {
            loop {
                if sender.send(listener.accept().await).is_err() {
                    break;
                }
            }
        });
        Self { dir, registrar, clock, handed_out, server }
    }

    /// Ends it and begins anew with what is on disk.
    pub(super) async fn restart(self) -> Self {
        let Self { dir, clock, server, registrar, handed_out } = self;
        server.abort();
        let _ = server.await;
        drop((registrar, handed_out));
        Self::on(dir, clock)
    }

    pub(super) fn invite(&self) -> Invitation {
        let invited = self.registrar.invite(Duration::from_secs(600), "127.0.0.1").unwrap();
        let address = Address { host: "127.0.0.1".into(), port: invited.port };
        Invitation { address, token: invited.token, fingerprint: invited.fingerprint }
    }

    pub(super) async fn join(&self, invitation: &Invitation, host: &str) -> Result<Joined, JoinError> {
        join(invitation, host, &self.clock.clock()).await
    }

    pub(super) async fn joined(&self, host: &str) -> Joined {
        self.join(&self.invite(), host).await.unwrap()
    }

    /// The next connection that is given to the datastore.
    pub(super) async fn next(&mut self) -> (Connection, Peer) {
        tokio::time::timeout(PATIENCE, self.handed_out.recv()).await.unwrap().unwrap()
    }

    pub(super) fn nobody_came(&mut self) -> bool {
        self.handed_out.try_recv().is_err()
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.registrar.listens_on().unwrap()
    }
}

pub(super) fn options(dir: &Path, clock: &Hands) -> RegistrarOptions {
    RegistrarOptions {
        bind: Some(IpAddr::from(Ipv4Addr::LOCALHOST)),
        clock: clock.clock(),
        ..RegistrarOptions::new(dir, "host-1", 0)
    }
}

/// Connects as a client of gRPC does; `identity` is the host's, if it has one.
pub(super) async fn dial(
    address: SocketAddr,
    authority: &str,
    identity: Option<&str>,
    alpn: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        Some(identity) => {
            let Identity { chain, key } = Identity::from_pem("test", identity).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(address.ip().to_string()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}
