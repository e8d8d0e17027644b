//! A private etcd, certificates for it, and a proxy that can cut its connections.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

mod etcd;

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
};

use calico_store::{ConnectOptions, Error, EtcdKv, Kv};
pub use etcd::*;
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::{Duration, Instant, sleep},
};

impl PrivateEtcd {
    /// With TLS by `server`'s certificate; with `client_ca` clients need a certificate too.
    pub async fn start_tls(server: &Pair, client_ca: Option<&Path>) -> Self {
        let client_ca = client_ca.map(Path::to_path_buf);
        let tls = Tls { cert: server.cert.clone(), key: server.key.clone(), client_ca };
        Self::start_with(Some(tls), &[]).await
    }

    pub async fn kv(&self) -> Arc<dyn Kv> {
        Arc::new(connect(&[("ETCD_ENDPOINTS", &self.endpoint())]).await.unwrap())
    }

    /// Upstream's client without our layer, to do what a stranger would.
    pub async fn raw(&self) -> etcd_client::Client {
        etcd_client::Client::connect([format!("127.0.0.1:{}", self.port())], None).await.unwrap()
    }
}

pub fn options(pairs: &[(&str, &str)]) -> Result<ConnectOptions, Error> {
    ConnectOptions::from_lookup(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned()))
}

/// Connects, waiting for an etcd that listens already but has no leader yet.
pub async fn connect(pairs: &[(&str, &str)]) -> Result<EtcdKv, Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match EtcdKv::connect(options(pairs)?).await {
            Err(error) if error.to_string().contains("no leader") && Instant::now() < deadline => {
                sleep(Duration::from_millis(20)).await;
            }
            other => return other,
        }
    }
}

/// A TCP proxy on a port of its own.
pub struct Proxy {
    port: u16,
    target: u16,
    running: Option<JoinHandle<()>>,
}

impl Proxy {
    pub async fn to(target: u16) -> Self {
        let mut proxy = Self { port: free_port(), target, running: None };
        proxy.mend().await;
        proxy
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends all connections and accepts none.
    pub async fn cut(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
            let _ = running.await;
        }
    }

    /// Accepts connections again.
    pub async fn mend(&mut self) {
        let listener =
            wait_for("binding the proxy", async || TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await.ok())
                .await;
        let target = self.target;
        self.running = Some(tokio::spawn(async move {
            // Dropped with the task, and each connection with it.
            let mut connections = JoinSet::new();
            while let Ok((mut from, _)) = listener.accept().await {
                connections.spawn(async move {
                    if let Ok(mut to) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await {
                        let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                    }
                });
            }
        }));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}

/// A certificate authority of this test.
pub struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    dir: Arc<TempDir>,
    /// The authority's own certificate.
    pub file: PathBuf,
}

/// Files of a certificate and its key; they go with it and its authority.
pub struct Pair {
    _dir: Arc<TempDir>,
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let file = dir.path().join("ca.pem");
        fs::write(&file, cert.pem()).unwrap();
        Self { issuer: rcgen::Issuer::new(params, key), dir, file }
    }

    /// A certificate for servers and clients, for these names.
    pub fn issue(&self, name: &str, subjects: &[&str]) -> Pair {
        let subjects: Vec<String> = subjects.iter().map(|subject| (*subject).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(subjects).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let pair = Pair {
            _dir: self.dir.clone(),
            cert: self.dir.path().join(format!("{name}.pem")),
            key: self.dir.path().join(format!("{name}.key")),
        };
        fs::write(&pair.cert, cert.pem()).unwrap();
        fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }
}
