//! What start-up writes, and what it refuses without writing.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use calico_model::{
    AsNumber, BGPConfigurationSpec, ClusterInformationSpec, FelixConfigurationSpec, IPPool, IPPoolSpec, Node, NodeBgp,
    NodeSpec, TierSpec,
};
use calico_store::{Injected, Kv, MemoryKv, Store, WriteKind};
use serde_json::{Value, json};

use crate::{Prepared, Progress, Request, StartupError, Step, Warning, address::Interface, host::Host, prepare_on};

/// A host with one interface.
struct Told {
    address: &'static str,
    ipv6: bool,
    forwards: AtomicBool,
    refuses: bool,
}

impl Told {
    fn at(address: &'static str) -> Self {
        Self { address, ipv6: true, forwards: AtomicBool::new(false), refuses: false }
    }
}

#[async_trait]
impl Host for Told {
    async fn interfaces(&self) -> Result<Vec<Interface>, StartupError> {
        let addresses = vec![self.address.parse().unwrap()];
        Ok(vec![Interface { index: 2, name: "eth0".into(), up: true, addresses, ..Interface::default() }])
    }

    async fn enable_forwarding(&self) -> Result<Vec<Warning>, StartupError> {
        if self.refuses {
            let (family, path, cause) = ("IPv4", "/proc/x".to_owned(), "no".to_owned());
            return Err(StartupError::Forwarding { family, path, cause });
        }
        self.forwards.store(true, Ordering::SeqCst);
        Ok(Vec::new())
    }

    fn has_ipv6(&self) -> bool {
        self.ipv6
    }
}

fn named(name: &str) -> Request {
    Request { name: Some(name.into()), ..Request::default() }
}

async fn start(host: &Told, kv: &MemoryKv, request: &Request) -> (Result<Prepared, StartupError>, Vec<Progress>) {
    let told = Mutex::new(Vec::new());
    let store = Store::new(Arc::new(kv.clone()));
    let result = prepare_on(host, &store, request, &mut |progress| told.lock().unwrap().push(progress)).await;
    (result, told.into_inner().unwrap())
}

async fn everything(kv: &MemoryKv) -> Vec<(String, Value)> {
    let listing = kv.behind().list("/").await.unwrap();
    let json = |value: &[u8]| serde_json::from_slice(value).unwrap();
    listing.entries.into_iter().map(|entry| (entry.key, json(&entry.value))).collect()
}

fn warnings(told: &[Progress]) -> Vec<String> {
    told.iter().filter(|progress| matches!(progress, Progress::Warning { .. })).map(ToString::to_string).collect()
}

const ROOT: &str = "/calico/resources/v3/projectcalico.org";

fn node_key(name: &str) -> String {
    format!("{ROOT}/nodes/{name}")
}

fn node(name: &str, ipv4: &str) -> Node {
    let bgp = NodeBgp { ipv4_address: Some(ipv4.into()), ..NodeBgp::default() };
    Node::new(name, NodeSpec { bgp: Some(bgp), ..NodeSpec::default() })
}

#[tokio::test]
async fn the_first_start_fills_an_empty_datastore() {
    let kv = MemoryKv::new();
    let host = Told::at("10.5.0.1/24");
    let request = Request { ip6: Some("fd05::1".parse().unwrap()), ..named("H1") };
    let (prepared, told) = start(&host, &kv, &request).await;
    let prepared = prepared.unwrap();
    assert_eq!((prepared.node.as_str(), prepared.ipv4.to_string().as_str()), ("h1", "10.5.0.1/24"));
    assert_eq!(prepared.ipv6.unwrap().to_string(), "fd05::1/128");
    assert!(host.forwards.load(Ordering::SeqCst));

    let expected = [
        (
            "bgpconfigurations/default",
            json!({
                "logSeverityScreen": "Info", "nodeToNodeMeshEnabled": true, "asNumber": 64512,
                "serviceLoadBalancerAggregation": "Enabled",
            }),
        ),
        ("clusterinformations/default", json!({ "clusterGUID": "<guid>", "datastoreReady": true })),
        ("felixconfigurations/default", json!({ "logSeverityScreen": "Info", "reportingInterval": "0s" })),
        ("felixconfigurations/node.h1", json!({ "defaultEndpointToHostAction": "Return" })),
        (
            "ippools/default-ipv4-ippool",
            json!({
                "cidr": "192.168.0.0/16", "vxlanMode": "Never", "ipipMode": "Never", "blockSize": 26,
                "nodeSelector": "all()", "allowedUses": ["Workload", "Tunnel"], "assignmentMode": "Automatic",
            }),
        ),
        (
            "ippools/default-ipv6-ippool",
            json!({
                "cidr": "fd80:24e2:f998:72d6::/64", "vxlanMode": "Never", "ipipMode": "Never", "blockSize": 122,
                "nodeSelector": "all()", "allowedUses": ["Workload", "Tunnel"], "assignmentMode": "Automatic",
            }),
        ),
        (
            "nodes/h1",
            json!({
                "bgp": { "ipv4Address": "10.5.0.1/24", "ipv6Address": "fd05::1/128" },
            }),
        ),
        ("tiers/default", json!({ "order": 1_000_000, "defaultAction": "Deny" })),
        ("tiers/kube-admin", json!({ "order": 1_000, "defaultAction": "Pass" })),
        ("tiers/kube-baseline", json!({ "order": 10_000_000, "defaultAction": "Pass" })),
    ];
    let mut found = everything(&kv).await;
    for (key, value) in &mut found {
        let spec = value["spec"].as_object_mut().unwrap();
        if let Some(guid) = spec.get_mut("clusterGUID") {
            let text = guid.as_str().unwrap();
            assert!(text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()));
            *guid = "<guid>".into();
        }
        if key.contains("felixconfigurations") {
            // Which defaults every write adds is the model's business, and tested there.
            spec.retain(|name, _| {
                ["logSeverityScreen", "reportingInterval", "defaultEndpointToHostAction"].contains(&name.as_str())
            });
        }
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for ((key, value), (path, spec)) in found.iter().zip(expected) {
        assert_eq!((key.as_str(), &value["spec"]), (format!("{ROOT}/{path}").as_str(), &spec));
    }

    // Each step is told twice, in order, with nothing in between but the warning that fd05::1 is on no interface.
    let steps: Vec<Step> = told
        .iter()
        .filter_map(|progress| match progress {
            Progress::Done { step, .. } => Some(*step),
            _ => None,
        })
        .collect();
    assert_eq!(steps, Step::ALL);
    assert_eq!(told.len(), 2 * Step::ALL.len() + 1);
    assert!(warnings(&told)[0].contains("fd05::1"));
}

#[tokio::test]
async fn a_second_start_writes_nothing() {
    let kv = MemoryKv::new();
    start(&Told::at("10.5.0.1/24"), &kv, &named("h1")).await.0.unwrap();
    let (before, revision) = (everything(&kv).await, kv.revision());
    kv.inject(|_, write| panic!("{:?} of {}", write.kind, write.key));
    start(&Told::at("10.5.0.1/24"), &kv, &named("h1")).await.0.unwrap();
    assert_eq!((everything(&kv).await, kv.revision()), (before, revision));
}

#[tokio::test]
async fn what_an_operator_changed_stays() {
    let kv = MemoryKv::new();
    let store = Store::new(Arc::new(kv.clone()));
    start(&Told::at("10.5.0.1/24"), &kv, &named("h1")).await.0.unwrap();
    let mut bgp = store.get::<BGPConfigurationSpec>("default").await.unwrap();
    bgp.spec.node_to_node_mesh_enabled = Some(false);
    bgp.spec.as_number = Some(AsNumber(65001));
    let bgp = store.update(bgp).await.unwrap();
    let mut felix = store.get::<FelixConfigurationSpec>("node.h1").await.unwrap();
    felix.spec.default_endpoint_to_host_action = Some("Drop".into());
    let felix = store.update(felix).await.unwrap();
    let mut global = store.get::<FelixConfigurationSpec>("default").await.unwrap();
    global.spec.log_severity_screen = Some("Debug".into());
    global.spec.extra.remove("reportingInterval");
    store.update(global).await.unwrap();
    let tier = store.get::<TierSpec>("kube-admin").await.unwrap();
    start(&Told::at("10.5.0.1/24"), &kv, &named("h1")).await.0.unwrap();
    assert_eq!(store.get::<BGPConfigurationSpec>("default").await.unwrap(), bgp);
    assert_eq!(store.get::<FelixConfigurationSpec>("node.h1").await.unwrap(), felix);
    assert_eq!(store.get::<TierSpec>("kube-admin").await.unwrap(), tier);
    // What was missing is filled in beside what was set.
    let global = store.get::<FelixConfigurationSpec>("default").await.unwrap().spec;
    assert_eq!(global.log_severity_screen.as_deref(), Some("Debug"));
    assert_eq!(global.extra["reportingInterval"], "0s");
}

#[tokio::test]
async fn hosts_that_start_at_the_same_moment_all_succeed() {
    const HOSTS: [&str; 3] = ["10.5.0.1/24", "10.5.0.2/24", "10.5.0.3/24"];
    // Before each creation of the first host another one creates the same: the worst order there is.
    let kv = MemoryKv::new();
    kv.inject(|behind, write| {
        if write.kind == WriteKind::Create && !write.key.contains("/nodes/") && !write.key.contains("node.") {
            behind.put(write.key, write.value.unwrap());
        }
        Injected::Proceed
    });
    start(&Told::at(HOSTS[0]), &kv, &named("h0")).await.0.unwrap();

    let kv = MemoryKv::new();
    let hosts = HOSTS.map(Told::at);
    let requests = ["h1", "h2", "h3"].map(named);
    let starts = hosts.iter().zip(&requests).map(|(host, request)| start(host, &kv, request));
    for (result, _) in futures::future::join_all(starts).await {
        result.unwrap();
    }
    let store = Store::new(Arc::new(kv));
    assert_eq!(store.list::<NodeSpec>().await.unwrap().0.len(), 3);
    assert_eq!(store.list::<IPPoolSpec>().await.unwrap().0.len(), 2);
}

#[tokio::test]
async fn the_address_of_another_node_is_refused_before_anything_changes() {
    for (ours, theirs) in [
        (named("h1"), node("h2", "10.5.0.1/24")),
        // Without a length, as other tools may write it.
        (named("h1"), node("h2", "10.5.0.1")),
        (Request { ip6: Some("fd05::1".parse().unwrap()), ..named("h1") }, {
            let mut other = node("h2", "10.5.0.2/24");
            other.spec.bgp.as_mut().unwrap().ipv6_address = Some("fd05::1/64".into());
            other
        }),
    ] {
        let kv = MemoryKv::new();
        Store::new(Arc::new(kv.clone())).create(theirs).await.unwrap();
        let before = everything(&kv).await;
        let host = Told::at("10.5.0.1/24");
        let (result, told) = start(&host, &kv, &ours).await;
        let error = result.expect_err("the address is taken");
        assert!(matches!(&error, StartupError::AddressInUse { holder, .. } if holder == "h2"), "{error}");
        assert!(error.way_out().unwrap().contains("--ip"));
        assert_eq!(everything(&kv).await, before);
        assert!(!host.forwards.load(Ordering::SeqCst));
        let last = told.last().unwrap();
        assert!(matches!(last, Progress::Failed { step: Step::OtherNodes, .. }), "{last:?}");
    }
}

#[tokio::test]
async fn of_two_hosts_that_claim_an_address_at_the_same_moment_the_second_takes_back() {
    // Both compare before either writes; h2's record lands just before, or just after, that of h1.
    for (h2_first, known_before) in [(true, false), (true, true), (false, false)] {
        let kv = MemoryKv::new();
        let store = Store::new(Arc::new(kv.clone()));
        if known_before {
            store.create(node("h1", "10.5.0.9/24")).await.unwrap();
        }
        let other = node("h2", "10.5.0.1/24").to_json();
        kv.inject(move |behind, write| {
            if write.key == node_key("h1") {
                if h2_first {
                    behind.put(&node_key("h2"), &other);
                } else {
                    // Ours first: written here with the value that the refused creation would have had.
                    behind.put(&node_key("h1"), write.value.unwrap());
                    behind.put(&node_key("h2"), &other);
                }
            }
            Injected::Proceed
        });
        let (result, _) = start(&Told::at("10.5.0.1/24"), &kv, &named("h1")).await;
        kv.stop_injecting();
        let own = store.get::<NodeSpec>("h1").await.ok().map(|node| node.spec.bgp.unwrap().ipv4_address.unwrap());
        match (h2_first, known_before) {
            (true, false) => {
                assert!(matches!(result, Err(StartupError::AddressInUse { .. })), "{result:?}");
                assert_eq!(own, None);
            }
            (true, true) => {
                assert!(matches!(result, Err(StartupError::AddressInUse { .. })), "{result:?}");
                assert_eq!(own.as_deref(), Some("10.5.0.9/24"));
            }
            (false, _) => {
                result.unwrap();
                assert_eq!(own.as_deref(), Some("10.5.0.1/24"));
            }
        }
    }
}

#[tokio::test]
async fn of_a_node_only_what_start_up_decides_is_written() {
    let kv = MemoryKv::new();
    let store = Store::new(Arc::new(kv.clone()));
    let before = json!({
        "kind": "Node", "apiVersion": "projectcalico.org/v3",
        "metadata": { "name": "h1", "uid": "u", "labels": { "rack": "1" }, "generation": 7 },
        "spec": {
            "bgp": { "asNumber": 65001, "ipv4Address": "10.5.0.9/24", "ipv6Address": "fd05::9/64",
                     "routeReflectorClusterID": "10.0.0.9", "ipv4IPIPTunnelAddr": "192.168.1.1", "future": true },
            "addresses": [{ "address": "10.5.0.9", "type": "InternalIP" }],
            "orchRefs": [{ "nodeName": "h1", "orchestrator": "k8s" }],
        },
        "status": { "podCIDRs": ["10.1.0.0/24"] },
    });
    kv.put(&node_key("h1"), before.to_string());
    let (result, told) = start(&Told::at("10.5.0.1/24"), &kv, &named("h1")).await;
    result.unwrap();
    assert!(warnings(&told)[0].contains("10.5.0.9") && warnings(&told)[0].contains("--name"));

    let mut expected = before;
    let spec = &mut expected["spec"];
    spec["bgp"]["ipv4Address"] = "10.5.0.1/24".into();
    spec["bgp"].as_object_mut().unwrap().retain(|name, _| name != "asNumber" && name != "ipv6Address");
    let found = everything(&kv).await.into_iter().find(|(key, _)| *key == node_key("h1")).unwrap().1;
    assert_eq!(found, expected);

    // An AS number is set when given, and cleared when not.
    let with_as = Request { as_number: Some(AsNumber(64600)), ..named("h1") };
    for (request, expected) in [(with_as, Some(AsNumber(64600))), (named("h1"), None)] {
        start(&Told::at("10.5.0.1/24"), &kv, &request).await.0.unwrap();
        assert_eq!(store.get::<NodeSpec>("h1").await.unwrap().spec.bgp.unwrap().as_number, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn lost_races_for_the_node_are_taken_up_again_but_not_for_ever() {
    for (times, succeeds) in [(3, true), (usize::MAX, false)] {
        let kv = MemoryKv::new();
        let store = Store::new(Arc::new(kv.clone()));
        store.create(node("h1", "10.5.0.9/24")).await.unwrap();
        let mut left = times;
        kv.inject(move |behind, write| {
            if write.key == node_key("h1") && left > 0 {
                left -= 1;
                let mut other = node("h1", "10.5.0.9/24");
                other.metadata.labels.insert("n".into(), left.to_string());
                behind.put(write.key, other.to_json());
            }
            Injected::Proceed
        });
        let (result, _) = start(&Told::at("10.5.0.1/24"), &kv, &named("h1")).await;
        assert_eq!(result.is_ok(), succeeds, "{result:?}");
        let found = store.get::<NodeSpec>("h1").await.unwrap();
        assert!(found.metadata.labels.contains_key("n"), "the other's change survives");
    }
}

#[tokio::test]
async fn pools_are_created_for_a_family_that_has_none() {
    let pool =
        |name: &str, cidr: &str| IPPool::new(name, IPPoolSpec { cidr: cidr.parse().unwrap(), ..IPPoolSpec::default() });
    for (what, present, unwanted, ipv6, created) in [
        ("none", vec![], false, true, &["default-ipv4-ippool", "default-ipv6-ippool"][..]),
        ("an IPv4 pool", vec![pool("a", "10.0.0.0/16")], false, true, &["default-ipv6-ippool"]),
        ("an IPv6 pool", vec![pool("a", "fd00::/64")], false, true, &["default-ipv4-ippool"]),
        ("both", vec![pool("a", "10.0.0.0/16"), pool("b", "fd00::/64")], false, true, &[]),
        ("unwanted", vec![], true, true, &[]),
        ("a kernel without IPv6", vec![], false, false, &["default-ipv4-ippool"]),
    ] {
        let kv = MemoryKv::new();
        let store = Store::new(Arc::new(kv.clone()));
        for pool in &present {
            store.create(pool.clone()).await.unwrap();
        }
        let request = Request { no_default_pools: unwanted, ..named("h1") };
        start(&Told { ipv6, ..Told::at("10.5.0.1/24") }, &kv, &request).await.0.unwrap();
        let (pools, _) = store.list::<IPPoolSpec>().await.unwrap();
        let names: Vec<&str> = pools.iter().map(|pool| pool.name()).filter(|name| name.len() > 1).collect();
        assert_eq!(names, created, "{what}");
        assert!(pools.iter().all(|pool| !pool.spec.nat_outgoing));
    }
}

#[tokio::test]
async fn a_default_pool_that_covers_the_hosts_own_network_is_told() {
    let (result, told) = start(&Told::at("192.168.1.5/24"), &MemoryKv::new(), &named("h1")).await;
    result.unwrap();
    assert!(warnings(&told)[0].contains("192.168.1.0/24"), "{told:?}");
    let (_, told) = start(&Told::at("192.169.1.5/24"), &MemoryKv::new(), &named("h1")).await;
    assert!(warnings(&told).is_empty());
}

#[tokio::test]
async fn records_that_cannot_be_read_are_told_and_stay() {
    let kv = MemoryKv::new();
    let bad = [format!("{ROOT}/ippools/bad"), node_key("h2"), format!("{ROOT}/bgpconfigurations/default")];
    for key in &bad {
        kv.put(key, "{");
    }
    let (result, told) = start(&Told::at("10.5.0.1/24"), &kv, &named("h1")).await;
    result.unwrap();
    let told = warnings(&told).join("\n");
    assert!(told.contains("ippools/bad") && told.contains("nodes/h2"), "{told}");
    for key in &bad {
        assert_eq!(kv.get(key).await.unwrap().unwrap().value, b"{");
    }
    // No pool was created beside one that may cover anything.
    assert_eq!(kv.list(&format!("{ROOT}/ippools/")).await.unwrap().entries.len(), 1);

    // Its own record is another matter: it must be right.
    kv.put(&node_key("h1"), "{");
    let error = start(&Told::at("10.5.0.1/24"), &kv, &named("h1")).await.0.expect_err("the node is unreadable");
    assert!(error.way_out().unwrap().contains(&node_key("h1")), "{error}");
}

#[tokio::test]
async fn an_incomplete_cluster_information_is_completed_and_a_closed_one_stays_closed() {
    let kv = MemoryKv::new();
    let store = Store::new(Arc::new(kv.clone()));
    let key = format!("{ROOT}/clusterinformations/default");
    let with = |spec: Value| json!({ "metadata": { "name": "default" }, "spec": spec }).to_string();
    kv.put(&key, with(json!({ "clusterType": "k8s,bgp", "calicoVersion": "v3.32.0" })));
    start(&Told::at("10.5.0.1/24"), &kv, &named("h1")).await.0.unwrap();
    let info = store.get::<ClusterInformationSpec>("default").await.unwrap().spec;
    assert_eq!((info.cluster_guid.len(), info.datastore_ready), (32, Some(true)));
    assert_eq!((info.cluster_type.as_str(), info.calico_version.as_str()), ("k8s,bgp", "v3.32.0"));

    kv.put(&key, with(json!({ "clusterGUID": "0123456789abcdef0123456789abcdef", "datastoreReady": false })));
    let (result, told) = start(&Told::at("10.5.0.1/24"), &kv, &named("h1")).await;
    result.unwrap();
    assert!(warnings(&told)[0].contains("not ready"), "{told:?}");
    let info = store.get::<ClusterInformationSpec>("default").await.unwrap().spec;
    assert_eq!(info.datastore_ready, Some(false));
}

#[tokio::test]
async fn the_step_that_failed_is_told() {
    let kv = MemoryKv::new();
    let (result, told) = start(&Told::at("10.5.0.1/24"), &kv, &named("a_b")).await;
    assert!(matches!(result, Err(StartupError::Name { .. })));
    assert!(matches!(told.last(), Some(Progress::Failed { step: Step::Name, way_out: Some(_), .. })), "{told:?}");

    let (result, told) = start(&Told::at("127.0.0.1/8"), &kv, &named("h1")).await;
    assert!(matches!(result, Err(StartupError::NoAddress { .. })));
    assert!(matches!(told.last(), Some(Progress::Failed { step: Step::Address, .. })), "{told:?}");

    let refuses = Told { refuses: true, ..Told::at("10.5.0.1/24") };
    let (result, told) = start(&refuses, &kv, &named("h1")).await;
    assert!(matches!(result, Err(StartupError::Forwarding { .. })));
    assert!(matches!(told.last(), Some(Progress::Failed { step: Step::Forwarding, .. })), "{told:?}");
    assert!(everything(&kv).await.is_empty(), "nothing is written before everything else is right");

    kv.set_down(true);
    let (result, told) = start(&Told::at("10.5.0.1/24"), &kv, &named("h1")).await;
    let error = result.expect_err("the datastore is down");
    assert!(error.is_unreachable() && error.way_out().unwrap().contains("ETCD_ENDPOINTS"));
    assert!(matches!(told.last(), Some(Progress::Failed { step: Step::OtherNodes, .. })), "{told:?}");
}
