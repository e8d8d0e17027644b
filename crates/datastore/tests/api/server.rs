//! What a server must do that no other server shows: limits, its end, its size.

use calico_datastore::{ServeError, ServeOptions, SocketError, serve};
use etcd_client::{
    DeleteOptions, EventType, GetOptions, PutOptions, TxnOp, WatchOptions,
    proto::{PbPutRequest, PbPutResponse, PbRangeRequest, PbRangeResponse},
};
use tokio::time::timeout;
use tonic::Code;

use crate::{client::Client, etcd::PATIENCE, ours::Ours};

#[tokio::test]
async fn large_requests_are_refused_in_etcds_words() {
    let ours = Ours::start().await;
    let client = Client::of(&ours.endpoint());
    let put = async |size: usize| {
        let request = PbPutRequest { key: b"large".to_vec(), value: vec![0; size], ..PbPutRequest::default() };
        client.call::<_, PbPutResponse>("/etcdserverpb.KV/Put", request).await
    };
    assert!(put(1_500_000).await.is_ok());
    let error = put(1_600_000).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::InvalidArgument, "etcdserver: request is too large"));
    let error = put(2_200_000).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(error.message().contains("received message larger than max"), "{error}");
    // What is read has no limit.
    let mut raw = ours.raw().await;
    for key in ["large1", "large2", "large3", "large4"] {
        raw.put(key, vec![0; 1_500_000], None).await.unwrap();
    }
    let all = PbRangeRequest { key: vec![0], range_end: vec![0], ..PbRangeRequest::default() };
    let read: PbRangeResponse = client.call("/etcdserverpb.KV/Range", all).await.unwrap();
    assert_eq!(read.kvs.iter().map(|kv| kv.value.len()).sum::<usize>(), 5 * 1_500_000);
}

#[tokio::test]
async fn what_is_not_served_says_what_there_is_instead() {
    let ours = Ours::start().await;
    let client = Client::of(&ours.endpoint());
    let nothing = PbRangeRequest::default;
    let error = client.call::<_, PbRangeResponse>("/v3lockpb.Lock/Lock", nothing()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
    assert!(error.message().contains("/v3lockpb.Lock/Lock"), "{error}");
    let error = client.call::<_, PbRangeResponse>("/etcdserverpb.KV/NoSuchCall", nothing()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
    // Upstream's client goes on without a token on this answer.
    let error = client.call::<_, PbRangeResponse>("/etcdserverpb.Auth/Authenticate", nothing()).await.unwrap_err();
    assert_eq!(error.message(), "etcdserver: authentication is not enabled");
    let error = ours.raw().await.snapshot().await.unwrap_err();
    assert!(error.to_string().contains("calicoctl datastore backup"), "{error}");
}

#[tokio::test]
async fn the_end_of_the_server_is_told_to_every_stream() {
    let ours = Ours::start().await;
    let mut raw = ours.raw().await;
    let mut watch = raw.watch("k", None).await.unwrap();
    watch.message().await.unwrap();
    let lease = raw.lease_grant(500, None).await.unwrap().id();
    let (mut keeper, mut kept) = raw.lease_keep_alive(lease).await.unwrap();
    keeper.keep_alive().await.unwrap();
    assert_eq!(kept.message().await.unwrap().unwrap().ttl(), 500);
    let socket = ours.socket();
    let (watched, kept, ()) = tokio::join!(watch.message(), kept.message(), ours.stop());
    for error in [watched.err().unwrap(), kept.err().unwrap()] {
        assert!(error.to_string().contains("etcdserver: server stopped"), "{error}");
    }
    assert!(!socket.exists());
}

#[tokio::test]
async fn nobody_is_put_out_of_his_socket_or_his_database() {
    let ours = Ours::start().await;
    let options = |dir: &std::path::Path, socket: &str| ServeOptions {
        dir: dir.join("datastore"),
        socket: ours.folder().join(socket),
        admin_socket: ours.folder().join("admin2"),
        name: "second".to_owned(),
        listen_port: 0,
    };
    let elsewhere = tempfile::tempdir().unwrap();
    let served = |options| timeout(PATIENCE, serve(options, std::future::pending(), |_| {}));
    let error = served(options(elsewhere.path(), "socket")).await.unwrap().unwrap_err();
    assert!(matches!(error, ServeError::Socket(SocketError::Taken { .. })), "{error}");
    let error = served(options(ours.folder(), "socket2")).await.unwrap().unwrap_err();
    assert!(matches!(error, ServeError::Open(calico_datastore::OpenError::Locked { .. })), "{error}");
    ours.raw().await.put("still", "served", None).await.unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_misses_nothing() {
    let ours = Ours::start().await;
    let mut raw = ours.raw().await;
    let mut watch = raw.watch("k", Some(WatchOptions::new().with_prev_key())).await.unwrap();
    watch.message().await.unwrap();
    // More than the stream's and the connection's windows hold.
    let value = vec![7; 100_000];
    for _ in 0..100 {
        raw.put("k", value.clone(), None).await.unwrap();
    }
    let mut versions = Vec::new();
    while versions.len() < 100 {
        let answer = timeout(PATIENCE, watch.message()).await.unwrap().unwrap().unwrap();
        versions.extend(answer.events().iter().map(|event| event.kv().unwrap().version()));
    }
    assert!(versions.iter().copied().eq(1..=100));
    // And one that never reads keeps nobody from his work.
    let mut never = raw.watch("k", Some(WatchOptions::new().with_start_revision(2))).await.unwrap();
    raw.put("k", value, None).await.unwrap();
    assert!(timeout(PATIENCE, never.message()).await.unwrap().unwrap().unwrap().created());
}

#[tokio::test]
async fn a_large_revision_comes_in_fragments_for_who_wants_them() {
    let ours = Ours::start().await;
    let mut raw = ours.raw().await;
    for part in 0..4 {
        raw.put(format!("/f/{part}"), vec![1; 1_000_000], None).await.unwrap();
    }
    let revision = raw.delete("/f/", Some(DeleteOptions::new().with_prefix())).await.unwrap();
    let revision = revision.header().unwrap().revision();
    let options = WatchOptions::new().with_prefix().with_prev_key().with_fragment().with_start_revision(revision);
    let mut watch = raw.watch_client().max_decoding_message_size(4_000_000).watch("/f/", Some(options)).await.unwrap();
    let mut keys = Vec::new();
    while keys.len() < 4 {
        let answer = timeout(PATIENCE, watch.message()).await.unwrap().unwrap().unwrap();
        keys.extend(answer.events().iter().map(|event| event.kv().unwrap().key_str().unwrap().to_owned()));
    }
    assert_eq!(keys, ["/f/0", "/f/1", "/f/2", "/f/3"]);
}

/// 100,000 keys, in transactions of as many operations as etcd takes.
const KEYS: usize = 100_000;
const AT_ONCE: usize = 125;

#[tokio::test]
async fn a_hundred_thousand_keys_are_written_listed_and_watched() {
    let ours = Ours::start().await;
    let mut raw = ours.raw().await;
    let keys: Vec<String> = (0..KEYS).map(|n| format!("/keys/{n:06}")).collect();
    for chunk in keys.chunks(AT_ONCE) {
        let puts: Vec<TxnOp> = chunk.iter().map(|key| TxnOp::put(key.as_str(), vec![b'v'; 200], None)).collect();
        raw.txn(etcd_client::Txn::new().and_then(puts)).await.unwrap();
    }
    let everything = GetOptions::new().with_prefix();
    let counted = raw.get("/keys/", Some(everything.clone().with_count_only())).await.unwrap();
    assert_eq!(counted.count(), i64::try_from(KEYS).unwrap());
    let revision = counted.header().unwrap().revision();
    assert_eq!(revision, 1 + i64::try_from(KEYS / AT_ONCE).unwrap());

    // In pages of one revision, while somebody writes.
    let (mut listed, mut from) = (Vec::with_capacity(KEYS), b"/keys/".to_vec());
    let mut client = raw.kv_client().max_decoding_message_size(usize::MAX);
    loop {
        raw.put("/keys/000000", "meanwhile", Some(PutOptions::new())).await.unwrap();
        let page = GetOptions::new().with_range("/keys0").with_limit(10_000).with_revision(revision);
        let page = client.get(from.clone(), Some(page)).await.unwrap();
        listed.extend(page.kvs().iter().map(|kv| kv.key_str().unwrap().to_owned()));
        if !page.more() {
            break;
        }
        from = listed.last().unwrap().clone().into_bytes();
        from.push(0);
    }
    assert!(listed == keys, "all keys, each once, in order");

    // All that happened, from the beginning.
    let options = WatchOptions::new().with_prefix().with_start_revision(1);
    let mut watch =
        raw.watch_client().max_decoding_message_size(usize::MAX).watch("/keys/", Some(options)).await.unwrap();
    let mut seen = 0;
    while seen < KEYS {
        let answer = timeout(PATIENCE, watch.message()).await.unwrap().unwrap().unwrap();
        for event in answer.events() {
            if event.kv().unwrap().mod_revision() <= revision {
                assert_eq!(event.event_type(), EventType::Put);
                assert_eq!(event.kv().unwrap().key(), keys[seen].as_bytes());
                seen += 1;
            }
        }
    }
    raw.delete("/keys/", Some(DeleteOptions::new().with_prefix())).await.unwrap();
    let mut gone = 0;
    while gone < KEYS {
        let answer = timeout(PATIENCE, watch.message()).await.unwrap().unwrap().unwrap();
        gone += answer.events().iter().filter(|event| event.event_type() == EventType::Delete).count();
    }
}
