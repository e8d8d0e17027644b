//! A host that keeps a datastore, on loopback.

#![allow(clippy::unwrap_used)]

use std::{net::IpAddr, path::Path, sync::Arc, time::Duration};

use calico_datastore::{
    Datastore,
    admin::{self, Client},
    enrol::{
        Registrar, RegistrarOptions,
        join::{Address, Invitation, Joined, join},
    },
    tls::Listener,
};
use tempfile::TempDir;
use time::OffsetDateTime;

/// Its datastore, who decides about hosts, and how to ask it.
pub(in crate::commands) struct Keeper {
    pub(in crate::commands) dir: TempDir,
    pub(in crate::commands) client: Client,
    pub(in crate::commands) datastore: Datastore,
    pub(in crate::commands) registrar: Registrar,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Keeper {
    pub(in crate::commands) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let datastore = Datastore::open(dir.path()).unwrap();
        let options = RegistrarOptions {
            bind: Some(IpAddr::from([127, 0, 0, 1])),
            ..RegistrarOptions::new(dir.path(), "host-1", 0)
        };
        let registrar = Registrar::open(options).unwrap();
        let socket = dir.path().join("admin.sock");
        let client = Client::new(&socket);
        let served = tokio::spawn({
            let (registrar, datastore) = (registrar.clone(), datastore.clone());
            async move { admin::serve(&socket, registrar, datastore, std::future::pending()).await.unwrap() }
        });
        let mut listener = Listener::new(registrar.clone());
        // Nobody speaks gRPC here.
        let accepted = tokio::spawn(async move {
            loop {
                drop(listener.accept().await);
            }
        });
        while client.status().await.is_err_and(|error| error.is_not_running()) {
            assert!(!served.is_finished());
            tokio::task::yield_now().await;
        }
        Self { dir, client, datastore, registrar, tasks: vec![served, accepted] }
    }

    pub(in crate::commands) fn invite(&self) -> Invitation {
        let invited = self.registrar.invite(Duration::from_secs(600), "127.0.0.1").unwrap();
        let address = Address { host: "127.0.0.1".into(), port: invited.port };
        Invitation { address, token: invited.token, fingerprint: invited.fingerprint }
    }

    pub(in crate::commands) async fn join(&self, host: &str) -> Joined {
        join(&self.invite(), host, &(Arc::new(OffsetDateTime::now_utc) as _)).await.unwrap()
    }

    pub(in crate::commands) fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
