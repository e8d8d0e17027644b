//! What only a real etcd can show: outages, several endpoints, TLS, credentials.

#![allow(clippy::unwrap_used)]

mod support;

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use calico_store::{Error, EtcdKv, Event, Kv, KvEvent, Syncer, SyncerHandle};
use support::{Authority, PATIENCE, PrivateEtcd, Proxy, connect, free_port, options, wait_for};
use tokio::time::timeout;

const PREFIX: &str = "/calico/ipam/v2/";

/// A syncer's consumer: what it holds, and how often it was told of an outage.
struct Mirror {
    syncer: SyncerHandle,
    held: BTreeMap<String, Vec<u8>>,
    puts: usize,
    in_sync: u32,
    lost: u32,
    back: u32,
}

impl Mirror {
    fn of(kv: Arc<dyn Kv>) -> Self {
        let syncer = Syncer::spawn(kv, vec![PREFIX.into()]);
        Self { syncer, held: BTreeMap::new(), puts: 0, in_sync: 0, lost: 0, back: 0 }
    }

    /// Takes events until `done`.
    async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let wait = async {
            while !done(self) {
                for event in self.syncer.next().await.unwrap() {
                    self.absorb(event);
                }
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}: not in time"));
    }

    fn absorb(&mut self, event: Event) {
        match event {
            Event::Raw(KvEvent::Put(entry)) => {
                self.puts += 1;
                self.held.insert(entry.key, entry.value);
            }
            Event::Raw(KvEvent::Delete { key, .. }) => {
                self.held.remove(&key).expect("only what was delivered is deleted");
            }
            Event::InSync => self.in_sync += 1,
            Event::Lost { .. } => self.lost += 1,
            Event::Back => self.back += 1,
            other => panic!("not expected here: {other:?}"),
        }
    }

    fn keys(&self) -> Vec<&str> {
        self.held.keys().map(|key| key.strip_prefix(PREFIX).unwrap()).collect()
    }
}

async fn put(kv: &Arc<dyn Kv>, name: &str, value: &str) {
    let key = format!("{PREFIX}{name}");
    match kv.get(&key).await.unwrap() {
        Some(entry) => kv.update(&key, value.into(), entry.revision).await.unwrap(),
        None => kv.create(&key, value.into()).await.unwrap(),
    };
}

async fn delete(kv: &Arc<dyn Kv>, name: &str) {
    let entry = kv.get(&format!("{PREFIX}{name}")).await.unwrap().unwrap();
    kv.delete(&entry.key, entry.revision).await.unwrap();
}

#[tokio::test]
async fn a_syncer_survives_kill_9_of_etcd() {
    let mut etcd = PrivateEtcd::start().await;
    let kv = etcd.kv().await;
    put(&kv, "stays", "1").await;
    put(&kv, "changes", "1").await;
    let mut mirror = Mirror::of(kv.clone());
    mirror.until("in sync", |mirror| mirror.in_sync == 1).await;

    etcd.kill();
    mirror.until("lost", |mirror| mirror.lost == 1).await;
    let error = kv.get("/x").await.unwrap_err();
    assert!(error.is_unreachable() && error.to_string().contains("is etcd running?"), "{error}");
    assert_eq!(mirror.keys(), ["changes", "stays"], "what is known stays");

    assert!(etcd.run().await, "etcd starts again on its data");
    wait_for("writing again", async || kv.create("/x", Vec::new()).await.ok()).await;
    put(&kv, "changes", "2").await;
    put(&kv, "new", "1").await;
    mirror.until("new", |mirror| mirror.back == 1 && mirror.keys() == ["changes", "new", "stays"]).await;
    mirror.until("changed", |mirror| mirror.held[&format!("{PREFIX}changes")] == b"2").await;
    assert_eq!((mirror.in_sync, mirror.lost), (1, 1));
    assert_eq!(mirror.puts, 4, "two at first, one changed, one new: what stayed was not delivered again");
}

#[tokio::test]
async fn a_syncer_catches_up_over_a_compaction() {
    let etcd = PrivateEtcd::start().await;
    let behind = etcd.kv().await;
    let mut proxy = Proxy::to(etcd.port()).await;
    for name in ["changed", "gone", "gone-last", "same"] {
        put(&behind, name, "1").await;
    }
    let kv = connect(&[("ETCD_ENDPOINTS", &format!("http://127.0.0.1:{}", proxy.port()))]).await.unwrap();
    let mut mirror = Mirror::of(Arc::new(kv));
    mirror.until("in sync", |mirror| mirror.in_sync == 1).await;

    proxy.cut().await;
    mirror.until("lost", |mirror| mirror.lost == 1).await;
    delete(&behind, "gone").await;
    put(&behind, "changed", "2").await;
    put(&behind, "new", "1").await;
    // A deletion exactly at the compacted revision, which this etcd's watches would not show.
    delete(&behind, "gone-last").await;
    let revision = behind.list(PREFIX).await.unwrap().revision;
    etcd.raw().await.compact(revision.0, None).await.unwrap();
    proxy.mend().await;

    mirror.until("back", |mirror| mirror.back == 1).await;
    assert_eq!(mirror.keys(), ["changed", "new", "same"]);
    assert_eq!(mirror.held[&format!("{PREFIX}changed")], b"2");
    assert_eq!(mirror.puts, 6, "four at first, one changed, one new");
    put(&behind, "after", "1").await;
    mirror.until("the watch runs", |mirror| mirror.keys().contains(&"after")).await;
}

#[tokio::test]
async fn dead_endpoints_fail_fast_and_say_where() {
    let port = free_port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let error = EtcdKv::connect(options(&[("ETCD_ENDPOINTS", &endpoint)]).unwrap()).await.err().unwrap();
    let text = error.to_string();
    assert!(!text.contains("no answer"), "the refusal ends it, not the limit of a request: {text}");
    assert!(error.is_unreachable() && text.contains(&endpoint) && text.contains("is etcd running?"), "{text}");
}

#[tokio::test]
async fn a_peer_that_never_answers_is_given_up() {
    // Accepts connections by its backlog, and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let kv = EtcdKv::new(options(&[("ETCD_ENDPOINTS", &endpoint)]).unwrap()).unwrap();
    let error = timeout(PATIENCE, kv.create("/k", b"v".to_vec())).await.expect("it ends").unwrap_err();
    assert!(error.is_unreachable() && error.to_string().contains("no answer"), "{error}");
    assert!(timeout(PATIENCE, kv.watch("/", Default::default())).await.expect("it ends").is_err());
}

#[tokio::test]
async fn another_endpoint_takes_over() {
    let etcd = PrivateEtcd::start().await;
    let mut proxy = Proxy::to(etcd.port()).await;
    let endpoints =
        format!("http://127.0.0.1:{},http://127.0.0.1:{},http://127.0.0.1:{}", free_port(), proxy.port(), etcd.port());
    let kv = connect(&[("ETCD_ENDPOINTS", &endpoints)]).await.unwrap();
    let revision = kv.create("/k", b"1".to_vec()).await.unwrap();
    proxy.cut().await;
    wait_for("the other endpoint", async || kv.get("/k").await.ok()).await;
    kv.update("/k", b"2".to_vec(), revision).await.unwrap();
    assert_eq!(kv.get("/k").await.unwrap().unwrap().value, b"2");
}

#[tokio::test]
async fn a_silent_endpoint_leaves_time_for_another() {
    let etcd = PrivateEtcd::start().await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoints = format!("http://{},http://127.0.0.1:{}", silent.local_addr().unwrap(), etcd.port());
    let started = Instant::now();
    let kv = connect(&[("ETCD_ENDPOINTS", &endpoints)]).await.unwrap();
    let first = started.elapsed();
    let started = Instant::now();
    kv.create("/k", b"v".to_vec()).await.unwrap();
    let second = started.elapsed();
    // The first call waited for the silent one.
    assert!(second < first, "{second:?} after {first:?}: the one that answered is asked first now");
}

#[tokio::test]
async fn a_write_goes_on_from_an_endpoint_that_refuses_connections() {
    let etcd = PrivateEtcd::start().await;
    etcd.kv().await;
    let endpoints = format!("http://127.0.0.1:{},http://127.0.0.1:{}", free_port(), etcd.port());
    let kv = EtcdKv::new(options(&[("ETCD_ENDPOINTS", &endpoints)]).unwrap()).unwrap();
    kv.create("/k", b"v".to_vec()).await.unwrap();
}

/// The error of a first call with these settings.
async fn refusal(pairs: &[(&str, &str)]) -> String {
    let error = match options(pairs).and_then(EtcdKv::new) {
        Ok(kv) => kv.get("/k").await.unwrap_err(),
        Err(error) => error,
    };
    assert!(!error.to_string().contains("PRIVATE"), "no key in {error}");
    error.to_string()
}

#[tokio::test]
async fn tls_with_an_authority_only() {
    let authority = Authority::new();
    let etcd = PrivateEtcd::start_tls(&authority.issue("etcd", &["127.0.0.1"]), None).await;
    let endpoint = format!("https://127.0.0.1:{}", etcd.port());
    let ca = authority.file.to_str().unwrap();
    let kv = connect(&[("ETCD_ENDPOINTS", &endpoint), ("ETCD_CA_CERT_FILE", ca)]).await.unwrap();
    kv.create("/k", b"v".to_vec()).await.unwrap();
    let mut watch = kv.watch("/k", Default::default()).await.unwrap();
    assert_eq!(timeout(PATIENCE, watch.next()).await.unwrap().unwrap().len(), 1);

    let other = Authority::new();
    let other_ca = other.file.to_str().unwrap();
    let text = refusal(&[("ETCD_ENDPOINTS", &endpoint), ("ETCD_CA_CERT_FILE", other_ca)]).await;
    assert!(text.contains("the server's certificate is not signed by") && text.contains(other_ca), "{text}");

    let plain = endpoint.replace("https", "http");
    let text = refusal(&[("ETCD_ENDPOINTS", &plain)]).await;
    assert!(text.contains(&plain) && text.contains("does it want https://?"), "{text}");

    let named = endpoint.replace("127.0.0.1", "localhost");
    let text = refusal(&[("ETCD_ENDPOINTS", &named), ("ETCD_CA_CERT_FILE", ca)]).await;
    assert!(text.contains("the server's certificate is for another name"), "{text}");
}

#[tokio::test]
async fn https_to_a_plain_server() {
    let etcd = PrivateEtcd::start().await;
    let authority = Authority::new();
    let endpoint = format!("https://127.0.0.1:{}", etcd.port());
    let text = refusal(&[("ETCD_ENDPOINTS", &endpoint), ("ETCD_CA_CERT_FILE", authority.file.to_str().unwrap())]).await;
    assert!(text.contains("does it not speak TLS?") || text.contains("does not speak TLS"), "{text}");
}

#[tokio::test]
async fn mutual_tls() {
    let authority = Authority::new();
    let server = authority.issue("etcd", &["127.0.0.1"]);
    let etcd = PrivateEtcd::start_tls(&server, Some(&authority.file)).await;
    let endpoint = format!("https://127.0.0.1:{}", etcd.port());
    let ca = authority.file.to_str().unwrap();
    let base = [("ETCD_ENDPOINTS", endpoint.as_str()), ("ETCD_CA_CERT_FILE", ca)];

    let own = authority.issue("own", &["client"]);
    let (cert, key) = (own.cert.to_str().unwrap(), own.key.to_str().unwrap());
    let with = |cert, key| [base[0], base[1], ("ETCD_CERT_FILE", cert), ("ETCD_KEY_FILE", key)];
    let kv = connect(&with(cert, key)).await.unwrap();
    kv.create("/k", b"v".to_vec()).await.unwrap();

    let text = refusal(&base).await;
    assert!(text.contains("ETCD_CERT_FILE"), "{text}");

    let foreign = Authority::new().issue("foreign", &["client"]);
    let (foreign_cert, foreign_key) = (foreign.cert.to_str().unwrap(), foreign.key.to_str().unwrap());
    let text = refusal(&with(foreign_cert, foreign_key)).await;
    assert!(text.contains("ETCD_CERT_FILE") && text.contains(foreign_cert), "{text}");

    let text = refusal(&with(cert, foreign_key)).await;
    assert!(text.contains("ETCD_CERT_FILE") && text.contains("does not fit the key"), "{text}");
}

#[tokio::test]
async fn credentials() {
    let etcd = PrivateEtcd::start().await;
    etcd.kv().await;
    let mut root = etcd.raw().await;
    root.user_add("root", "r00t-pass", None).await.unwrap();
    root.user_grant_role("root", "root").await.unwrap();
    root.auth_enable().await.unwrap();

    let endpoint = format!("http://127.0.0.1:{}", etcd.port());
    let with =
        |password| [("ETCD_ENDPOINTS", endpoint.as_str()), ("ETCD_USERNAME", "root"), ("ETCD_PASSWORD", password)];
    let kv = connect(&with("r00t-pass")).await.unwrap();
    kv.create("/k", b"v".to_vec()).await.unwrap();

    let text = refusal(&with("wr0ng-pass")).await;
    assert!(text.contains("ETCD_USERNAME") && !text.contains("wr0ng-pass"), "{text}");
    let anonymous = EtcdKv::new(options(&[("ETCD_ENDPOINTS", &endpoint)]).unwrap()).unwrap();
    let error = anonymous.get("/k").await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }) && error.to_string().contains("ETCD_USERNAME"), "{error}");
}
