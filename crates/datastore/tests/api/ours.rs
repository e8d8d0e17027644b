//! Our datastore, served in this process.

use std::path::{Path, PathBuf};

use calico_datastore::{ServeOptions, serve};
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle};
use tonic::transport::Endpoint;

use crate::etcd::wait_for;

/// A served datastore. Ends with the value.
pub struct Ours {
    dir: TempDir,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
}

impl Ours {
    /// An empty one.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = ServeOptions {
            dir: dir.path().join("datastore"),
            socket: dir.path().join("socket"),
            admin_socket: dir.path().join("admin"),
            name: "default".to_owned(),
            listen_port: 0,
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            serve(options, stopped, |_| {}).await.unwrap();
        });
        let ours = Self { dir, stop: Some(stop), running };
        wait_for("the socket", async || ours.socket().exists().then_some(())).await;
        ours
    }

    /// The Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// Where clients find it.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The folder of the database and the sockets.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// Upstream's client.
    pub async fn raw(&self) -> etcd_client::Client {
        let channel = Endpoint::from_shared(self.endpoint()).unwrap().connect_lazy();
        etcd_client::Client::from_channel(etcd_client::Channel::Tonic(channel), None).await.unwrap()
    }

    /// Ends it as SIGTERM would, and waits for that.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        (&mut self.running).await.unwrap();
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.running.abort();
    }
}
