//! A private etcd, certificates for it, and a proxy that can cut its connections.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::{
    fs,
    net::{Ipv4Addr, TcpListener as StdListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use calico_store::{ConnectOptions, Error, EtcdKv, Kv};
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep},
};

/// Long enough for a machine that builds nine other things meanwhile.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An etcd of one member on free ports of the loopback address, with its data in a temporary folder. Ends with the
/// value.
pub struct PrivateEtcd {
    dir: TempDir,
    client_port: u16,
    peer_port: u16,
    tls: Option<Tls>,
    child: Option<Child>,
}

#[derive(Clone)]
struct Tls {
    cert: PathBuf,
    key: PathBuf,
    /// Clients must show a certificate of this authority.
    client_ca: Option<PathBuf>,
}

impl PrivateEtcd {
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// With TLS by `server`'s certificate; with `client_ca` clients need a certificate too.
    pub async fn start_tls(server: &Pair, client_ca: Option<&Path>) -> Self {
        let client_ca = client_ca.map(Path::to_path_buf);
        Self::start_with(Some(Tls { cert: server.cert.clone(), key: server.key.clone(), client_ca })).await
    }

    async fn start_with(tls: Option<Tls>) -> Self {
        // A free port may be taken by somebody else before etcd binds it; then others are tried.
        for _ in 0..5 {
            let (client_port, peer_port) = (free_port(), free_port());
            let dir = tempfile::tempdir().unwrap();
            let mut etcd = Self { dir, client_port, peer_port, tls: tls.clone(), child: None };
            if etcd.run().await {
                return etcd;
            }
        }
        panic!("etcd does not start");
    }

    /// Starts the process and waits until it listens. False if it ended instead.
    pub async fn run(&mut self) -> bool {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let client = format!("{scheme}://127.0.0.1:{}", self.client_port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(self.dir.path().join("data"));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}")]);
        if let Some(tls) = &self.tls {
            command.arg("--cert-file").arg(&tls.cert).arg("--key-file").arg(&tls.key);
            if let Some(ca) = &tls.client_ca {
                command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(ca);
            }
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().expect("etcd cannot be run: is the package etcd-server installed?");
        let child = self.child.insert(child);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.client_port)).await.is_ok() {
                return true;
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("etcd does not listen:\n{}", fs::read_to_string(self.dir.path().join("log")).unwrap_or_default());
    }

    /// kill -9; its data stays.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn port(&self) -> u16 {
        self.client_port
    }

    pub async fn kv(&self) -> Arc<dyn Kv> {
        Arc::new(connect(&[("ETCD_ENDPOINTS", &format!("http://127.0.0.1:{}", self.client_port))]).await.unwrap())
    }

    /// Upstream's client without our layer, to do what a stranger would.
    pub async fn raw(&self) -> etcd_client::Client {
        etcd_client::Client::connect([format!("127.0.0.1:{}", self.client_port)], None).await.unwrap()
    }
}

impl Drop for PrivateEtcd {
    fn drop(&mut self) {
        self.kill();
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

pub fn free_port() -> u16 {
    StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Waits for a condition.
pub async fn wait_for<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(value) = check().await {
            return value;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("{what}: not within {PATIENCE:?}");
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
