//! A datastore on a socket of this host: it is used as one by TCP is, and what is wrong is said in words.

#![allow(clippy::unwrap_used)]

mod support;

use std::{fs, path::Path, sync::Arc};

use calico_store::{ConnectOptions, EtcdKv, Kv, KvEvent};
use support::{PATIENCE, PrivateEtcd, options, wait_for};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UnixListener},
    task::{JoinHandle, JoinSet},
    time::timeout,
};

/// Serves the etcd at `port` on `socket` until aborted; a socket file that is left is replaced.
fn bridge(socket: &Path, port: u16) -> JoinHandle<()> {
    let _ = fs::remove_file(socket);
    let listener = UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut from, _)) = listener.accept().await {
            connections.spawn(async move {
                if let Ok(mut to) = TcpStream::connect(("127.0.0.1", port)).await {
                    let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                }
            });
        }
    })
}

#[tokio::test]
async fn a_socket_is_used_as_any_endpoint_and_found_again_after_a_loss() {
    let etcd = PrivateEtcd::start().await;
    etcd.kv().await;
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let serving = bridge(&socket, etcd.port());
    let kv = Arc::new(EtcdKv::connect(ConnectOptions::embedded(&socket)).await.unwrap());
    let mut watch = kv.watch("/k", Default::default()).await.unwrap();
    let revision = kv.create("/k", b"1".to_vec()).await.unwrap();
    let events = timeout(PATIENCE, watch.next()).await.unwrap().unwrap();
    assert!(matches!(&events[..], [KvEvent::Put(entry)] if entry.revision == revision), "{events:?}");

    serving.abort();
    let _ = serving.await;
    let broken = timeout(PATIENCE, watch.next()).await.unwrap().unwrap_err().to_string();
    assert!(broken.contains("calico-node, which keeps the datastore of this host"), "{broken}");
    assert!(kv.update("/k", b"2".to_vec(), revision).await.unwrap_err().is_unreachable());
    let _serving = bridge(&socket, etcd.port());
    wait_for("the socket again", async || kv.get("/k").await.ok()).await;
    kv.update("/k", b"3".to_vec(), revision).await.unwrap();

    let given = format!("unix://{}", socket.display());
    let explicit = EtcdKv::connect(options(&[("ETCD_ENDPOINTS", &given)]).unwrap()).await.unwrap();
    assert_eq!(explicit.get("/k").await.unwrap().unwrap().value, b"3");
}

#[tokio::test]
async fn what_is_wrong_with_the_socket_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let words = async || {
        let error = EtcdKv::connect(ConnectOptions::embedded(&socket)).await.err().unwrap();
        assert!(error.is_unreachable(), "{error}");
        let text = error.to_string();
        let place = format!("the datastore at unix://{} is unreachable: calico-node, which keeps", socket.display());
        assert!(text.starts_with(&place), "{text}");
        text
    };
    let nobody = words().await;
    assert!(nobody.contains("does not run or does not answer: No such file"), "{nobody}");

    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let silent = words().await;
    assert!(silent.contains("no answer from unix://"), "{silent}");
    drop(listener);
    let stale = words().await;
    assert!(stale.contains("Connection refused"), "{stale}");

    fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let _stranger = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\nwho is there?").await;
        }
    });
    let stranger = words().await;
    assert!(stranger.contains("does another program serve this socket?"), "{stranger}");
}

#[tokio::test]
async fn certificates_are_read_anew_for_each_connection() {
    let authority = support::Authority::new();
    let server = authority.issue("etcd", &["127.0.0.1"]);
    let etcd = PrivateEtcd::start_tls(&server, Some(&authority.file)).await;
    let endpoint = format!("https://127.0.0.1:{}", etcd.port());
    let (good, bad) = (authority.issue("own", &["client"]), support::Authority::new().issue("other", &["client"]));
    let dir = tempfile::tempdir().unwrap();
    let both = dir.path().join("host.pem");
    let put = |pair: &support::Pair| {
        let text = fs::read_to_string(&pair.cert).unwrap() + &fs::read_to_string(&pair.key).unwrap();
        fs::write(&both, text).unwrap();
    };
    put(&good);
    let (ca, pair) = (authority.file.to_str().unwrap(), both.to_str().unwrap());
    let pairs = [
        ("ETCD_ENDPOINTS", endpoint.as_str()),
        ("ETCD_CA_CERT_FILE", ca),
        ("ETCD_CERT_FILE", pair),
        ("ETCD_KEY_FILE", pair),
    ];
    support::connect(&pairs).await.unwrap();
    put(&bad);
    let kv = EtcdKv::new(options(&pairs).unwrap()).unwrap();
    assert!(kv.get("/k").await.is_err(), "a certificate that etcd does not know");
    put(&good);
    wait_for("the renewed certificate", async || kv.get("/k").await.ok()).await;
}
