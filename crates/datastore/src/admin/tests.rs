#![allow(clippy::unwrap_used)]

use std::{net::IpAddr, os::unix::fs::PermissionsExt, time::Duration};

use calico_store::mvcc::{Op, Txn};
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::*;
use crate::{
    Datastore,
    enrol::{Registrar, RegistrarOptions},
};

struct Rig {
    dir: TempDir,
    client: Client,
    datastore: Datastore,
    registrar: Registrar,
    stop: oneshot::Sender<()>,
    server: tokio::task::JoinHandle<()>,
}

async fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let datastore = Datastore::open(dir.path()).unwrap();
    let options =
        RegistrarOptions { bind: Some(IpAddr::from([127, 0, 0, 1])), ..RegistrarOptions::new(dir.path(), "host-1", 0) };
    let registrar = Registrar::open(options).unwrap();
    let path = dir.path().join("admin.sock");
    let (stop, stopped) = oneshot::channel();
    let client = Client::new(&path);
    let server = tokio::spawn({
        let (registrar, datastore) = (registrar.clone(), datastore.clone());
        async move { serve(&path, registrar, datastore, async { drop(stopped.await) }).await.unwrap() }
    });
    let rig = Rig { dir, client, datastore, registrar, stop, server };
    while rig.client.status().await.is_err_and(|error| error.is_not_running()) {
        assert!(!rig.server.is_finished());
        tokio::task::yield_now().await;
    }
    rig
}

async fn put(datastore: &Datastore, key: &str, value: &str) {
    let put = Op::put(key, value);
    datastore.txn(Txn { then: vec![put], ..Txn::default() }).await.unwrap();
}

#[tokio::test]
async fn the_socket_is_roots_and_goes_with_the_server() {
    let rig = rig().await;
    let path = rig.dir.path().join("admin.sock");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    rig.stop.send(()).unwrap();
    rig.server.await.unwrap();
    let error = rig.client.status().await.unwrap_err();
    assert!(error.is_not_running() && error.to_string().contains("admin.sock"), "{error}");
}

#[tokio::test]
async fn a_host_is_invited_with_all_that_it_needs() {
    let rig = rig().await;
    let request = InviteRequest { ttl_seconds: 60, address: Some("fd00::1".into()) };
    let invited = rig.client.invite(&request).await.unwrap();
    let port = rig.registrar.listens_on().unwrap().port();
    assert_eq!((invited.address, invited.port, invited.opened), (format!("[fd00::1]:{port}"), port, true));
    assert!(invited.fingerprint.parse::<crate::pki::Fingerprint>().is_ok());
    assert!(invited.token.parse::<crate::enrol::Token>().is_ok());
    let status = rig.client.status().await.unwrap();
    assert_eq!((status.invitations, status.hosts, status.listens_on), (1, 0, rig.registrar.listens_on()));
    let request = InviteRequest { ttl_seconds: 0, address: None };
    let AdminError::Refused { message, .. } = rig.client.invite(&request).await.unwrap_err() else { panic!("taken") };
    assert!(message.contains("1 second to 7 days"), "{message}");
    let revoked = rig.client.revoke("host-9").await.unwrap();
    assert_eq!(revoked, RevokeAnswer { known: false, connections: 0 });
    assert_eq!(rig.client.hosts().await.unwrap(), []);
}

#[tokio::test]
async fn a_backup_arrives_whole_and_leaves_nothing() {
    let rig = rig().await;
    for number in 0..50 {
        put(&rig.datastore, &format!("/key/{number}"), &"x".repeat(10_000)).await;
    }
    let before = std::fs::read_dir(rig.dir.path()).unwrap().count();
    let to = tempfile::tempdir().unwrap();
    let path = to.path().join("backup");
    let mut file = tokio::fs::File::create(&path).await.unwrap();
    let (revision, bytes) = rig.client.backup(&mut file).await.unwrap();
    assert_eq!((revision, bytes), (rig.datastore.durable(), std::fs::metadata(&path).unwrap().len()));
    assert_eq!(std::fs::read_dir(rig.dir.path()).unwrap().count(), before);
    let report = crate::check(&path).unwrap();
    assert!(report.is_whole() && report.keys == 50, "{report:?}");
    let checked = rig.client.check().await.unwrap();
    assert_eq!((checked.problems, checked.keys), (vec![], 50));
}

#[tokio::test]
async fn history_is_given_up_when_asked() {
    let rig = rig().await;
    for _ in 0..10 {
        put(&rig.datastore, "/key", "value").await;
    }
    let compacted = rig.client.compact(Some(3)).await.unwrap();
    assert_eq!(compacted.compacted, 3);
    let AdminError::Refused { message, .. } = rig.client.compact(Some(2)).await.unwrap_err() else { panic!("done") };
    assert!(message.contains("compacted"), "{message}");
    for _ in 0..2 {
        assert_eq!(rig.client.compact(None).await.unwrap().compacted, rig.datastore.durable());
    }
}

#[tokio::test]
async fn what_is_not_understood_is_refused_in_words() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let rig = rig().await;
    for (request, words) in [
        ("POST /v1/invite HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\nconnection: close\r\n\r\n{", "not understood"),
        ("GET /v1/nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "offers no GET"),
    ] {
        let mut stream = tokio::net::UnixStream::connect(rig.dir.path().join("admin.sock")).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(Duration::from_secs(60), stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.contains(words), "{answer}");
    }
}
