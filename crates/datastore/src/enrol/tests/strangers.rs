//! Who is at the other end when it is not who it should be, on either side.

use std::sync::Arc;

use rustls::ServerConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use super::{
    super::{
        Token,
        join::{Address, Invitation, JoinError, join},
    },
    rig::{Hands, Rig, dial},
};
use crate::{
    pki::{Authority, Fingerprint, Identity},
    tls::provider,
};

async fn listener() -> (TcpListener, Address) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, Address { host: "127.0.0.1".into(), port })
}

/// TLS as the service speaks it to a host that wants to join, with `identity`.
fn acceptor(identity: Identity) -> TlsAcceptor {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(identity.chain, identity.key)
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// A server of TLS that shows `identity`; the task ends with what it was told after the first handshake.
async fn showing(identity: Identity) -> (Address, JoinHandle<Vec<u8>>) {
    let acceptor = acceptor(identity);
    let (listener, address) = listener().await;
    let told = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut told = Vec::new();
        if let Ok(mut stream) = acceptor.accept(stream).await {
            let _ = stream.read_to_end(&mut told).await;
        }
        told
    });
    (address, told)
}

async fn try_joining(address: Address, fingerprint: Fingerprint) -> JoinError {
    let invitation = Invitation { address, token: Token::new().unwrap(), fingerprint };
    let error = join(&invitation, "host-2", &Hands::default().clock()).await.unwrap_err();
    assert!(error.way_out().is_some(), "{error}");
    error
}

#[tokio::test]
async fn nobody_and_somebody_else_are_told_apart() {
    let authority = Authority::make("host-1", time::OffsetDateTime::now_utc()).unwrap();
    let fingerprint = authority.fingerprint();
    let (closed, address) = listener().await;
    drop(closed);
    let error = try_joining(address, fingerprint).await;
    assert!(matches!(error, JoinError::Unreachable { .. }), "{error}");
    assert!(error.way_out().unwrap().contains("firewall"));

    for greeting in ["SSH-2.0-OpenSSH_9.2\r\n", "HTTP/1.1 400 Bad Request\r\n\r\n", ""] {
        let (listener, address) = listener().await;
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(greeting.as_bytes()).await.unwrap();
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        });
        let error = try_joining(address, fingerprint).await;
        assert!(matches!(error, JoinError::NotCalico { .. }), "{greeting:?}: {error}");
    }
}

#[tokio::test]
async fn an_impostor_hears_nothing_whatever_certificate_it_shows() {
    let now = time::OffsetDateTime::now_utc();
    let (real, other) = (Authority::make("host-1", now).unwrap(), Authority::make("host-1", now).unwrap());
    let server = |authority: &Authority, name| authority.issue_server("host-1", [name], now).unwrap();
    let parse = |text: &str| Identity::from_pem("test", text).unwrap();

    // An authority of the same name.
    let (address, told) = showing(parse(&server(&other, "127.0.0.1"))).await;
    let error = try_joining(address, real.fingerprint()).await;
    assert!(matches!(error, JoinError::Fingerprint { .. }), "{error}");
    assert!(told.await.unwrap().is_empty());

    // The real authority's certificate put beside a server's that it never signed.
    let mut mixed = parse(&server(&other, "127.0.0.1"));
    mixed.chain[1] = real.certificate().clone();
    let (address, told) = showing(mixed).await;
    let error = try_joining(address, real.fingerprint()).await;
    assert!(matches!(error, JoinError::NotCalico { .. }), "{error}");
    assert!(told.await.unwrap().is_empty());

    // A host that belongs plays the datastore.
    let key = crate::pki::new_key().unwrap();
    let request = crate::pki::Request::parse(&crate::pki::Request::make("host-3", &key).unwrap()).unwrap();
    let host = real.issue_host(&request, "host-3", now).unwrap();
    let host = format!("{}{}{}", host.pem, real.certificate_pem(), key.serialize_pem());
    let (address, told) = showing(parse(&host)).await;
    let error = try_joining(address, real.fingerprint()).await;
    assert!(matches!(error, JoinError::NotCalico { .. }), "{error}");
    assert!(told.await.unwrap().is_empty());

    // The real server, under a name that is not its own.
    let (address, told) = showing(parse(&server(&real, "10.0.0.1"))).await;
    let error = try_joining(address, real.fingerprint()).await;
    assert!(matches!(&error, JoinError::Name { names, .. } if names == "10.0.0.1"), "{error}");
    assert!(told.await.unwrap().is_empty());

    // A certificate of the past, where both clocks are right.
    let old = now - time::Duration::days(200);
    let text = real.issue_server("host-1", ["127.0.0.1"], old).unwrap();
    let (address, _told) = showing_clock(parse(&text)).await;
    let error = try_joining(address, real.fingerprint()).await;
    assert!(matches!(error, JoinError::Lifetime { .. }), "{error}");
}

/// A server that tells the right time and nothing else.
async fn showing_clock(identity: Identity) -> (Address, JoinHandle<()>) {
    let acceptor = acceptor(identity);
    let (listener, address) = listener().await;
    let task = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = acceptor.accept(stream).await.unwrap();
        let _ = stream.read(&mut [0; 4096]).await;
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        let body = format!("{{\"service\":\"calico-datastore\",\"now\":{now}}}");
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    (address, task)
}

#[tokio::test]
async fn nobody_without_a_certificate_that_counts_reaches_the_datastore() {
    let mut rig = Rig::new();
    let joined = rig.joined("host-2").await;
    let authority = joined.authority.as_str();
    // Without one: gRPC is closed, joining is open.
    let mut none = dial(rig.address(), authority, None, b"h2").await.unwrap();
    let _ = none.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert_eq!(none.read(&mut [0; 16]).await.unwrap_or(0), 0);
    for (request, status) in [
        ("GET /v1/whoami HTTP/1.1\r\nhost: x\r\n\r\n", "403"),
        ("POST /v1/renew HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}", "403"),
        ("GET /v1/clock HTTP/1.1\r\nhost: x\r\n\r\n", "200"),
        ("POST /v1/enrol HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}", "400"),
        ("GET /v3/kv/range HTTP/1.1\r\nhost: x\r\n\r\n", "400"),
        ("nonsense\r\n\r\n", "400"),
    ] {
        let mut stream = dial(rig.address(), authority, None, b"http/1.1").await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer[9..]), status, "{request}");
    }
    // With one that another authority signed, and with one that this authority signed but that is not in the book.
    let now = time::OffsetDateTime::now_utc();
    let own = std::fs::read_to_string(rig.dir.path().join("pki/ca.pem")).unwrap();
    for authority_of_it in [Authority::make("host-1", now).unwrap(), Authority::from_pem("ca.pem", &own).unwrap()] {
        let key = crate::pki::new_key().unwrap();
        let request = crate::pki::Request::parse(&crate::pki::Request::make("host-2", &key).unwrap()).unwrap();
        let issued = authority_of_it.issue_host(&request, "host-2", now).unwrap();
        let forged = format!("{}{}", issued.pem, key.serialize_pem());
        for alpn in [b"h2".as_slice(), b"http/1.1"] {
            let outcome = match dial(rig.address(), authority, Some(&forged), alpn).await {
                Ok(mut stream) => {
                    let _ = stream.write_all(b"GET /v1/whoami HTTP/1.1\r\nhost: x\r\n\r\n").await;
                    stream.read(&mut [0; 16]).await
                }
                Err(error) => Err(error),
            };
            assert!(matches!(outcome, Ok(0) | Err(_)), "{outcome:?}");
        }
    }
    // A request that has no end is not read to the end.
    let mut stream = dial(rig.address(), authority, None, b"http/1.1").await.unwrap();
    let head = "POST /v1/enrol HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    let (mut reader, mut writer) = tokio::io::split(stream);
    let feed = tokio::spawn(async move { while writer.write_all(&[b' '; 1024]).await.is_ok() {} });
    reader.read_exact(&mut answer).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&answer[9..]), "400");
    feed.abort();
    assert!(rig.nobody_came());
}
