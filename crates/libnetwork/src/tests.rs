//! The plugin over its sockets, with a datastore in memory and a kernel and a Docker that only take notes; the requests
//! are those that Docker 20.10 was recorded to send.
#![allow(clippy::unwrap_used)]

mod given_back;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use calico_ipam::Ipam;
use calico_model::{
    AgentHealth, IPPool, IPPoolSpec, IPReservationSpec, Node, NodeSpec, ProfileSpec, Resource, WorkloadEndpoint,
    WorkloadEndpointSpec,
};
use calico_store::{MemoryKv, Store};
use calico_workload::LoosePair;
use futures::stream::BoxStream;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode, body::Bytes};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::UnixStream, sync::mpsc};

use crate::{
    NetworkRecord, Options, RunError, SocketError,
    docker::{Container, Endpoint, Engine, LABEL_MADE_BY, MADE_BY, Network, State},
    endpoint::HostPort,
    kernel::Kernel,
    record, run_with,
};

/// Ids as Docker draws them.
const NETWORK: &str = "c08851c60d538536300cf5c44d13a0bbc5d1fe3d450c9eb5105f6d848addd86b";
const ENDPOINT: &str = "9071df0b05e79ed8567c8bac25d85a6fcc4ca221474392b6b3e7d3d003c1b8fb";
const CONTAINER: &str = "03d12259459d1bb7e738e0aaede0c20170b5cacea2a4ff2fd7a53e353aa3a801";

/// Interfaces by name.
#[derive(Default)]
struct NotedKernel(Mutex<BTreeSet<String>>);

#[async_trait]
impl Kernel for NotedKernel {
    async fn make(&self, pair: &LoosePair) -> Result<(), String> {
        self.0.lock().unwrap().insert(pair.host_interface.clone());
        Ok(())
    }

    async fn remove(&self, host_interface: &str) -> Result<bool, String> {
        Ok(self.0.lock().unwrap().remove(host_interface))
    }

    fn exists(&self, host_interface: &str) -> bool {
        self.0.lock().unwrap().contains(host_interface)
    }

    fn dynamic_ports(&self) -> RangeInclusive<u16> {
        40_000..=40_009
    }

    fn probe(&self, _port: HostPort) -> Result<(), String> {
        Ok(())
    }
}

/// A Docker that says what it is told to, and takes note of networks.
struct NotedDocker {
    state: Mutex<State>,
    ring: Mutex<Vec<mpsc::UnboundedSender<()>>>,
    away: AtomicBool,
}

impl NotedDocker {
    /// Changes what is there, and says so.
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.ring.lock().unwrap().retain(|bell| bell.send(()).is_ok());
    }

    /// Ends all connections. `away`: and takes no new ones.
    fn hang_up(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
        self.ring.lock().unwrap().clear();
    }

    fn answers(&self) -> Result<(), String> {
        if self.away.load(Ordering::SeqCst) { Err("Docker is away".to_owned()) } else { Ok(()) }
    }
}

#[async_trait]
impl Engine for NotedDocker {
    async fn look(&self) -> Result<State, String> {
        self.answers()?;
        Ok(self.state.lock().unwrap().clone())
    }

    async fn create_network(&self, record: &NetworkRecord) -> Result<(), String> {
        let labels = BTreeMap::from([(LABEL_MADE_BY.to_owned(), MADE_BY.to_owned())]);
        let network = Network { id: format!("copy of {}", record.name), labels, ..network(&record.name) };
        self.change(|state| state.networks.push(network));
        Ok(())
    }

    async fn remove_network(&self, id: &str) -> Result<(), String> {
        self.change(|state| state.networks.retain(|network| network.id != id));
        Ok(())
    }

    async fn events(&self) -> Result<BoxStream<'static, ()>, String> {
        self.answers()?;
        let (bell, rings) = mpsc::unbounded_channel();
        self.ring.lock().unwrap().push(bell);
        Ok(Box::pin(futures::stream::unfold(rings, |mut rings| async { Some((rings.recv().await?, rings)) })))
    }
}

fn network(name: &str) -> Network {
    Network {
        id: NETWORK.to_owned(),
        name: name.to_owned(),
        driver: "calico".to_owned(),
        ipam_driver: "calico-ipam".to_owned(),
        ..Network::default()
    }
}

/// The plugin of node `h1`, running on a task.
struct Rig {
    store: Store,
    kernel: Arc<NotedKernel>,
    docker: Arc<NotedDocker>,
    folder: tempfile::TempDir,
    health: Arc<Mutex<AgentHealth>>,
    task: tokio::task::JoinHandle<Result<(), RunError>>,
}

impl Rig {
    async fn start() -> Self {
        let store = Store::new(Arc::new(MemoryKv::new()));
        let cidr = "10.10.0.0/24".parse().unwrap();
        store.create(IPPool::new("pool", IPPoolSpec { cidr, ..IPPoolSpec::default() })).await.unwrap();
        store.create(Node::new("h1", NodeSpec::default())).await.unwrap();
        let docker = Arc::new(NotedDocker { state: Mutex::default(), ring: Mutex::default(), away: false.into() });
        let (kernel, health) = (Arc::new(NotedKernel::default()), Arc::new(Mutex::new(AgentHealth::default())));
        let folder = tempfile::tempdir().unwrap();
        let options = Options { node: "h1".to_owned(), plugins: folder.path().to_owned(), docker: String::new() };
        let (store2, kernel2, docker2, health2) = (store.clone(), kernel.clone(), docker.clone(), health.clone());
        let task = tokio::spawn(async move {
            let report = |told: &AgentHealth| *health2.lock().unwrap() = told.clone();
            run_with(&store2, options, kernel2, docker2, report, std::future::pending()).await
        });
        let rig = Self { store, kernel, docker, folder, health, task };
        rig.eventually("both sockets", async || rig.folder.path().join("calico-ipam.sock").exists()).await;
        rig
    }

    /// Waits for a condition; time is virtual where nothing else is to be done.
    async fn eventually(&self, what: &str, mut condition: impl AsyncFnMut() -> bool) {
        for _ in 0..2000 {
            if condition().await {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("{what} did not come about; {:?}", self.health.lock().unwrap());
    }

    async fn send(&self, socket: &str, method: &str, body: &[u8]) -> (StatusCode, Value) {
        let stream = UnixStream::connect(self.folder.path().join(format!("{socket}.sock"))).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post(format!("/{method}")).header("host", "plugin");
        let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn ask(&self, method: &str, body: Value) -> Value {
        let (status, answer) = self.send("calico", method, body.to_string().as_bytes()).await;
        assert_eq!(status, StatusCode::OK, "{method}: {answer}");
        answer
    }

    async fn refused(&self, method: &str, body: Value) -> String {
        let (status, answer) = self.send("calico", method, body.to_string().as_bytes()).await;
        assert_ne!(status, StatusCode::OK, "{method}: {answer}");
        answer["Err"].as_str().unwrap().to_owned()
    }

    /// What Docker does for `docker run --net app`, up to the moment when the process starts; the address.
    async fn run_container(&self, labels: &[(&str, &str)]) -> String {
        let asked = json!({ "PoolID": "any-ipv4", "Address": "", "Options": null });
        let address = self.ask("IpamDriver.RequestAddress", asked).await["Address"].as_str().unwrap().to_owned();
        let interface = json!({ "Address": address, "AddressIPv6": "", "MacAddress": "" });
        let create = json!({ "NetworkID": NETWORK, "EndpointID": ENDPOINT, "Interface": interface, "Options": {} });
        self.ask("NetworkDriver.CreateEndpoint", create.clone()).await;
        assert!(self.endpoint().await.unwrap().spec.profiles.is_empty(), "closed until it is known whose it is");
        self.ask("NetworkDriver.CreateEndpoint", create).await;
        let join = json!({ "NetworkID": NETWORK, "EndpointID": ENDPOINT, "SandboxKey": "/s", "Options": {} });
        let joined = self.ask("NetworkDriver.Join", join.clone()).await;
        assert_eq!(joined["InterfaceName"], json!({ "SrcName": "temp9071df0b05e", "DstPrefix": "eth" }));
        assert_eq!(joined["StaticRoutes"][0]["Destination"], format!("{}/32", joined["Gateway"].as_str().unwrap()));
        assert_eq!(self.ask("NetworkDriver.Join", join).await, joined, "a request may come twice");
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let endpoint =
            Endpoint { container: Some(CONTAINER.to_owned()), address4: address.clone(), ..Endpoint::default() };
        self.docker.change(|state| {
            state.containers.insert(CONTAINER.to_owned(), Container { name: "db".to_owned(), labels });
            state.networks[0].endpoints.insert(ENDPOINT.to_owned(), endpoint);
        });
        address
    }

    /// Docker dies, and calico-node has seen it.
    async fn docker_dies(&self) {
        self.docker.hang_up(true);
        self.eventually("word of Docker's end", async || self.health.lock().unwrap().reason == "Docker is away").await;
    }

    /// Makes the endpoint one that was stored long ago.
    async fn age_endpoint(&self) {
        self.eventually("an old record", async || {
            let mut old = self.endpoint().await.unwrap();
            old.metadata.creation_timestamp = Some("2026-01-01T00:00:00Z".to_owned());
            // The follower opens it at the same time.
            self.store.update(old).await.is_ok()
        })
        .await;
    }

    async fn endpoint(&self) -> Option<WorkloadEndpoint> {
        let (endpoints, _) = self.store.list::<WorkloadEndpointSpec>().await.unwrap();
        endpoints.into_iter().next()
    }

    /// Addresses in use.
    async fn in_use(&self) -> usize {
        let blocks = Ipam::new(self.store.clone()).all_blocks().await.unwrap();
        blocks.iter().map(|block| block.in_use().count()).sum()
    }

    async fn records(&self) -> BTreeMap<String, record::Stored> {
        record::list(&**self.store.kv()).await.unwrap().0
    }

    /// `docker network create app`, as the plugin and then the follower see it.
    async fn create_network(&self) {
        let data = json!([{ "AddressSpace": "calico", "Gateway": "169.254.1.1/32", "Pool": "0.0.0.0/0" }]);
        let options = json!({ "com.docker.network.enable_ipv6": false, "com.docker.network.generic": {} });
        let body = json!({ "NetworkID": NETWORK, "Options": options, "IPv4Data": data, "IPv6Data": [] });
        self.ask("NetworkDriver.CreateNetwork", body).await;
        self.docker.change(|state| state.networks.push(network("app")));
        self.eventually("the record", async || self.records().await.contains_key("app")).await;
        self.eventually("the profile", async || self.store.get::<ProfileSpec>("app").await.is_ok()).await;
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn a_container_lives_and_leaves_nothing() {
    let rig = Rig::start().await;
    rig.create_network().await;
    let address = rig.run_container(&[("org.projectcalico.label.role", "db"), ("other", "x")]).await;
    rig.eventually("the endpoint to open", async || {
        rig.endpoint().await.is_some_and(|endpoint| endpoint.spec.profiles == ["app"])
    })
    .await;
    let endpoint = rig.endpoint().await.unwrap();
    assert_eq!(endpoint.name(), format!("h1-libnetwork-libnetwork-{ENDPOINT}"));
    assert_eq!(endpoint.metadata.labels.get("role").map(String::as_str), Some("db"));
    assert!(!endpoint.metadata.labels.contains_key("other"));
    assert_eq!(endpoint.spec.ip_networks, [address.as_str()]);
    assert_eq!(rig.kernel.0.lock().unwrap().len(), 1);

    rig.docker.change(|state| state.containers.get_mut(CONTAINER).unwrap().name = "database".to_owned());
    rig.eventually("the new name", async || {
        let endpoint = rig.endpoint().await.unwrap();
        endpoint.metadata.annotations.get(crate::endpoint::ANNOTATION_WORKLOAD).is_some_and(|name| name == "database")
    })
    .await;

    let body = json!({ "NetworkID": NETWORK, "EndpointID": ENDPOINT });
    for _ in 0..2 {
        rig.ask("NetworkDriver.Leave", body.clone()).await;
        rig.ask("NetworkDriver.DeleteEndpoint", body.clone()).await;
        let bare = address.split('/').next().unwrap();
        rig.ask("IpamDriver.ReleaseAddress", json!({ "PoolID": "any-ipv4", "Address": bare })).await;
    }
    rig.docker.change(|state| state.networks.clear());
    rig.ask("NetworkDriver.DeleteNetwork", json!({ "NetworkID": NETWORK })).await;
    assert!(rig.kernel.0.lock().unwrap().is_empty());
    assert_eq!((rig.in_use().await, rig.endpoint().await), (0, None));
    rig.eventually("record and profile to go", async || {
        rig.records().await.is_empty() && rig.store.get::<ProfileSpec>("app").await.is_err()
    })
    .await;
}

#[tokio::test]
async fn what_docker_shows_after_it_was_deleted_is_not_made_anew() {
    let rig = Rig::start().await;
    rig.create_network().await;
    rig.run_container(&[]).await;
    let body = json!({ "NetworkID": NETWORK, "EndpointID": ENDPOINT });
    rig.ask("NetworkDriver.Leave", body.clone()).await;
    rig.ask("NetworkDriver.DeleteEndpoint", body).await;
    // Docker has not forgotten it yet. A network's record shows that a round has begun, the next one's that it has ended.
    for name in ["second", "third"] {
        rig.docker.change(|state| state.networks.push(Network { id: name.to_owned(), ..network(name) }));
        rig.eventually("a round", async || rig.records().await.contains_key(name)).await;
    }
    assert_eq!(rig.endpoint().await, None);
}

#[tokio::test]
async fn a_bad_label_leaves_the_container_closed_and_says_why() {
    let rig = Rig::start().await;
    rig.create_network().await;
    rig.run_container(&[("org.projectcalico.label.role", "not a value!")]).await;
    rig.eventually("the reason", async || {
        let endpoint = rig.endpoint().await.unwrap();
        endpoint.metadata.annotations.contains_key(crate::endpoint::ANNOTATION_CLOSED)
    })
    .await;
    assert!(rig.endpoint().await.unwrap().spec.profiles.is_empty());
    rig.eventually("the problem in the health", async || {
        rig.health.lock().unwrap().problems.iter().any(|problem| problem.contains("container db is closed"))
    })
    .await;
}

#[tokio::test]
async fn a_network_of_another_host_comes_and_goes() {
    let rig = Rig::start().await;
    let theirs = NetworkRecord { name: "far".to_owned(), origin: "h2".to_owned(), ..NetworkRecord::default() };
    assert!(record::create(&**rig.store.kv(), &theirs).await.unwrap());
    let names = || rig.docker.state.lock().unwrap().networks.iter().map(|n| n.name.clone()).collect::<Vec<_>>();
    rig.eventually("the copy", async || names() == ["far"]).await;
    rig.eventually("the profile", async || rig.store.get::<ProfileSpec>("far").await.is_ok()).await;
    let stored = rig.records().await.remove("far").unwrap();
    assert!(record::delete(&**rig.store.kv(), &stored).await.unwrap());
    rig.eventually("the copy to go", async || names().is_empty()).await;
    rig.eventually("its profile to go", async || rig.store.get::<ProfileSpec>("far").await.is_err()).await;
}

#[tokio::test]
async fn a_network_of_the_name_by_another_driver_is_left_alone() {
    let rig = Rig::start().await;
    let bridge = Network { driver: "bridge".to_owned(), ..network("far") };
    rig.docker.change(|state| state.networks.push(bridge.clone()));
    let theirs = NetworkRecord { name: "far".to_owned(), origin: "h2".to_owned(), ..NetworkRecord::default() };
    assert!(record::create(&**rig.store.kv(), &theirs).await.unwrap());
    rig.eventually("the problem", async || {
        rig.health.lock().unwrap().problems.iter().any(|problem| problem.contains("by driver bridge"))
    })
    .await;
    assert_eq!(rig.docker.state.lock().unwrap().networks, [bridge]);
}

#[tokio::test]
async fn subnets_and_addresses_are_pools_or_refused_in_words() {
    let rig = Rig::start().await;
    let pool = |subnet: &str| json!({ "AddressSpace": "calico", "Pool": subnet, "SubPool": "", "V6": false });
    assert_eq!(rig.ask("IpamDriver.RequestPool", pool("")).await["Pool"], "0.0.0.0/0");
    assert_eq!(rig.ask("IpamDriver.RequestPool", pool("10.20.0.0/16")).await["PoolID"], "10.20.0.0/16");
    assert!(rig.refused("IpamDriver.RequestPool", pool("10.10.0.0/28")).await.contains("overlaps pool 10.10.0.0/24"));
    let address = |address: &str| json!({ "PoolID": "10.20.0.0/16", "Address": address, "Options": {} });
    let gateway = json!({
        "PoolID": "10.20.0.0/16", "Address": "10.20.0.1",
        "Options": { "RequestAddressType": "com.docker.network.gateway" },
    });
    assert_eq!(rig.ask("IpamDriver.RequestAddress", gateway).await["Address"], "169.254.1.1/32");
    assert_eq!(rig.in_use().await, 0, "a gateway takes no address, and with its network gives none back");
    assert_eq!(rig.ask("IpamDriver.RequestAddress", address("10.20.0.9")).await["Address"], "10.20.0.9/32");
    assert!(rig.refused("IpamDriver.RequestAddress", address("10.20.0.9")).await.contains("already assigned"));
    assert!(
        rig.refused("IpamDriver.RequestAddress", address("10.21.0.9")).await.contains("not in the network's subnet")
    );
    rig.ask("IpamDriver.ReleasePool", json!({ "PoolID": "10.20.0.0/16" })).await;
    assert!(rig.store.get::<IPPoolSpec>("libnetwork-10-20-0-0-16").await.is_ok(), "an address is in use");
    rig.ask("IpamDriver.ReleaseAddress", json!({ "PoolID": "10.20.0.0/16", "Address": "10.20.0.9" })).await;
    rig.ask("IpamDriver.ReleasePool", json!({ "PoolID": "10.20.0.0/16" })).await;
    assert!(rig.store.get::<IPPoolSpec>("libnetwork-10-20-0-0-16").await.is_err());
    assert!(rig.store.get::<IPPoolSpec>("pool").await.is_ok(), "pools of people stay");
}

#[tokio::test]
async fn addresses_come_from_the_range_that_was_asked_for() {
    let rig = Rig::start().await;
    let pool =
        |subnet: &str, part: &str| json!({ "AddressSpace": "calico", "Pool": subnet, "SubPool": part, "V6": false });
    let asked = rig.ask("IpamDriver.RequestPool", pool("10.20.0.0/16", "10.20.7.8/30")).await;
    assert_eq!(asked["Pool"], "10.20.0.0/16");
    let address = |address: &str| json!({ "PoolID": asked["PoolID"], "Address": address, "Options": {} });
    for wanted in ["10.20.7.8/32", "10.20.7.9/32", "10.20.7.10/32"] {
        assert_eq!(rig.ask("IpamDriver.RequestAddress", address("")).await["Address"], wanted);
    }
    assert_eq!(rig.ask("IpamDriver.RequestAddress", address("10.20.9.9")).await["Address"], "10.20.9.9/32");
    let spec = IPReservationSpec { reserved_cidrs: vec!["10.20.7.11/32".to_owned()], ..IPReservationSpec::default() };
    rig.store.create(Resource::new("kept", spec)).await.unwrap();
    let refused = rig.refused("IpamDriver.RequestAddress", address("")).await;
    assert!(refused.contains("no address of --ip-range 10.20.7.8/30 is free"), "{refused}");
    rig.ask("IpamDriver.ReleaseAddress", json!({ "PoolID": asked["PoolID"], "Address": "10.20.7.9" })).await;
    assert_eq!(rig.ask("IpamDriver.RequestAddress", address("")).await["Address"], "10.20.7.9/32");
    let outside = rig.refused("IpamDriver.RequestPool", pool("10.20.0.0/16", "10.21.0.0/24")).await;
    assert!(outside.contains("is not within --subnet 10.20.0.0/16"), "{outside}");
}

#[tokio::test]
async fn whatever_is_sent_gets_an_answer() {
    let rig = Rig::start().await;
    for (method, body, status) in [
        ("NetworkDriver.Join", &b"not json"[..], StatusCode::BAD_REQUEST),
        ("NetworkDriver.CreateEndpoint", b"\xff\xfe", StatusCode::BAD_REQUEST),
        ("NetworkDriver.Nonsense", b"{}", StatusCode::NOT_FOUND),
        ("NetworkDriver.Join", b"{}", StatusCode::INTERNAL_SERVER_ERROR),
        ("NetworkDriver.DeleteEndpoint", br#"{"EndpointID":"../../etc"}"#, StatusCode::INTERNAL_SERVER_ERROR),
    ] {
        let (found, answer) = rig.send("calico", method, body).await;
        assert_eq!(found, status, "{method}: {answer}");
        assert!(!answer["Err"].as_str().unwrap().is_empty());
    }
    let (_, both) = rig.send("calico", "Plugin.Activate", b"").await;
    assert_eq!(both["Implements"], json!(["NetworkDriver", "IpamDriver"]));
    let (_, ipam) = rig.send("calico-ipam", "Plugin.Activate", b"").await;
    assert_eq!(ipam["Implements"], json!(["IpamDriver"]));
    let foreign =
        json!({ "NetworkID": NETWORK, "IPv4Data": [{ "AddressSpace": "LocalDefault", "Pool": "172.18.0.0/16" }] });
    assert!(rig.refused("NetworkDriver.CreateNetwork", foreign).await.contains("--ipam-driver calico-ipam"));
}

#[tokio::test]
async fn a_socket_that_somebody_serves_is_refused_and_a_left_one_replaced() {
    let rig = Rig::start().await;
    let options = Options { node: "h1".to_owned(), plugins: rig.folder.path().to_owned(), docker: String::new() };
    let again = || async {
        let (kernel, docker) = (rig.kernel.clone(), rig.docker.clone());
        run_with(&rig.store, options.clone(), kernel, docker, |_| {}, std::future::ready(())).await
    };
    let taken = again().await.unwrap_err();
    assert!(
        matches!(&taken, RunError::Socket(SocketError::Taken { path }) if path.ends_with("calico.sock")),
        "{taken}"
    );
    rig.task.abort();
    let left = rig.folder.path().join("calico.sock");
    rig.eventually("the plugin to end", async || !left.exists()).await;
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    assert!(left.exists(), "nobody serves it, and it is there");
    again().await.unwrap();
    assert!(!left.exists(), "taken away in the end");
}

#[tokio::test]
async fn published_ports_are_the_endpoint_s_and_given_once() {
    let rig = Rig::start().await;
    rig.create_network().await;
    rig.run_container(&[]).await;
    let ports = json!([{ "Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 8080, "HostPortEnd": 8080 }]);
    let body = |id: &str| json!({ "NetworkID": NETWORK, "EndpointID": id, "Options": { "com.docker.network.portmap": ports } });
    rig.ask("NetworkDriver.ProgramExternalConnectivity", body(ENDPOINT)).await;
    rig.ask("NetworkDriver.ProgramExternalConnectivity", body(ENDPOINT)).await;
    let endpoint = rig.endpoint().await.unwrap();
    let port = &endpoint.spec.ports[0];
    assert_eq!((endpoint.spec.ports.len(), port.name.as_str(), port.port), (1, "published-tcp", 80));
    assert_eq!(port.host_port, Some(8080));

    let other = ENDPOINT.replace('9', "8");
    let interface = json!({ "Address": "10.10.0.99/32", "AddressIPv6": "", "MacAddress": "" });
    rig.ask(
        "NetworkDriver.CreateEndpoint",
        json!({ "NetworkID": NETWORK, "EndpointID": other, "Interface": interface }),
    )
    .await;
    let refused = rig.refused("NetworkDriver.ProgramExternalConnectivity", body(&other)).await;
    assert!(refused.contains("0.0.0.0:8080 failed: port is already allocated"), "{refused}");
    rig.ask("NetworkDriver.RevokeExternalConnectivity", json!({ "EndpointID": ENDPOINT })).await;
    assert!(rig.endpoint().await.unwrap().spec.ports.is_empty());
    rig.ask("NetworkDriver.ProgramExternalConnectivity", body(&other)).await;
}
