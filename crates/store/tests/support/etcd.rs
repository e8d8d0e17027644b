//! A private etcd for the tests of any crate.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    net::TcpStream,
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
    arguments: &'static [&'static str],
    child: Option<Child>,
}

/// What an etcd with TLS needs.
#[derive(Clone)]
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Clients must show a certificate of this authority.
    pub client_ca: Option<PathBuf>,
}

impl PrivateEtcd {
    pub async fn start() -> Self {
        Self::start_with(None, &[]).await
    }

    /// With further arguments of etcd.
    pub async fn start_with(tls: Option<Tls>, arguments: &'static [&'static str]) -> Self {
        // A free port may be taken by somebody else before etcd binds it; then others are tried.
        for _ in 0..5 {
            let (client_port, peer_port) = (free_port(), free_port());
            let dir = tempfile::tempdir().unwrap();
            let mut etcd = Self { dir, client_port, peer_port, tls: tls.clone(), arguments, child: None };
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
        command.arg("--data-dir").arg(self.dir.path().join("data")).args(self.arguments);
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

    /// Where clients find it, without TLS.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }
}

impl Drop for PrivateEtcd {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
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
