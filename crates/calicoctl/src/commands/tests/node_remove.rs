#![allow(clippy::unwrap_used)]
use std::net::IpAddr;

use calico_ipam::{AutoAssign, Ipam};
use calico_model::{
    AsNumber, BGPConfigurationSpec, BGPPeerSpec, CalicoNodeStatusSpec, FelixConfigurationSpec, HostEndpointSpec,
    IPPoolSpec, NodeSpec, Resource, WorkloadEndpointSpec,
};
use calico_store::{Injected, WriteKind};

use crate::{
    args::NodeRemove,
    commands::{node_remove::remove, node_start::CONTAINER},
    health::Health,
    testing::{Bench, NODE, refusal, text},
};

/// Two hosts with one endpoint each and everything else that may be stored of a host.
async fn bench() -> Bench {
    let bench = Bench::new();
    let spec = IPPoolSpec { cidr: "192.168.0.0/16".parse().unwrap(), ..IPPoolSpec::default() };
    bench.put(Resource::new("default-ipv4-ippool", spec)).await;
    for (node, ip) in [(NODE, "10.5.0.1/24"), ("host-2", "10.5.0.2/24")] {
        bench.node(node, ip, None).await;
        let endpoint = bench.endpoint(node, &format!("workload{node}"), &"ab".repeat(16), &[]).await;
        let address = assign(&bench, node, &format!("docker.workload{node}")).await;
        let address = ipnet::IpNet::from(address).to_string();
        let set = |endpoint: &mut calico_model::WorkloadEndpoint| {
            endpoint.spec.ip_networks = vec![address.clone()];
            Ok::<(), calico_store::Error>(())
        };
        bench.ctx.store.modify::<WorkloadEndpointSpec, _>(&endpoint.key(), set).await.unwrap();
        assign(&bench, node, &format!("ipip-tunnel-addr-{node}")).await;
        bench.put(Resource::new(format!("node.{node}"), FelixConfigurationSpec::default())).await;
        bench.put(Resource::new(format!("node.{node}"), BGPConfigurationSpec::default())).await;
        let peer = BGPPeerSpec {
            node: node.into(),
            peer_ip: "10.9.0.1".into(),
            as_number: Some(AsNumber(65000)),
            ..BGPPeerSpec::default()
        };
        bench.put(Resource::new(format!("peer-{node}"), peer)).await;
        let endpoint =
            HostEndpointSpec { node: node.into(), interface_name: "eth0".into(), ..HostEndpointSpec::default() };
        bench.put(Resource::new(format!("host-endpoint-{node}"), endpoint)).await;
        let status = CalicoNodeStatusSpec {
            node: node.into(),
            classes: vec!["BGP".into()],
            update_period_seconds: Some(10),
            ..CalicoNodeStatusSpec::default()
        };
        bench.put(Resource::new(format!("status-{node}"), status)).await;
        for report in ["v2/no-region/host", "v1/host"] {
            let key = format!("/calico/felix/{report}/{node}/status");
            bench.ctx.store.kv().create(&key, b"{}".to_vec()).await.unwrap();
        }
    }
    bench
}

async fn assign(bench: &Bench, node: &str, handle: &str) -> IpAddr {
    let request = AutoAssign { host: node.into(), num4: 1, handle: Some(handle.into()), ..AutoAssign::default() };
    Ipam::new(bench.ctx.store.clone()).auto_assign(request).await.unwrap().v4[0].addr()
}

fn of(hostname: Option<&str>, remove_endpoints: bool) -> NodeRemove {
    NodeRemove { hostname: hostname.map(str::to_owned), remove_endpoints }
}

/// Keys that speak of a host.
async fn keys_of(bench: &Bench, node: &str) -> Vec<String> {
    let doubled = node.replace('-', "--");
    let all = bench.everything().await;
    let of_node = all
        .into_iter()
        .filter(|(key, value)| key.contains(node) || key.contains(&doubled) || value.contains(&format!("{node}\"")));
    of_node.map(|(key, _)| key).collect()
}

#[tokio::test]
async fn everything_of_the_host_goes_and_nothing_of_others() {
    for node in [NODE, "host-2"] {
        let (bench, other) = (bench().await, if node == NODE { "host-2" } else { NODE });
        let kept = keys_of(&bench, other).await;
        bench.host.attached.lock().unwrap().insert(
            "caliabababababa".into(),
            calico_workload::Attachment {
                host_interface: "caliabababababa".into(),
                container_interface: "eth1".into(),
                addresses: Vec::new(),
                gateway4: None,
                gateway6: None,
                mtu: None,
            },
        );
        let hostname = (node != NODE).then_some("HOST-2");
        assert_eq!(text(remove(&bench.ctx, &of(hostname, true)).await), "Node configuration removed\n");
        assert_eq!(keys_of(&bench, node).await, Vec::<String>::new(), "{node}");
        assert_eq!(keys_of(&bench, other).await, kept, "{node}");
        // A remote host's endpoint may have an interface of the same name here.
        assert_eq!(bench.host.attached.lock().unwrap().len(), usize::from(node != NODE), "{node}");
    }
}

#[tokio::test]
async fn endpoints_hold_the_host_unless_told_otherwise() {
    let bench = bench().await;
    let before = bench.everything().await;
    let said = refusal(remove(&bench.ctx, &of(None, false)).await);
    assert!(said.contains("active Calico endpoints") && said.contains("--remove-endpoints"), "{said}");
    assert_eq!(bench.everything().await, before);
}

#[tokio::test]
async fn a_running_host_is_not_removed() {
    let bench = bench().await;
    let before = bench.everything().await;
    bench.runtime.run_container(CONTAINER);
    let said = refusal(remove(&bench.ctx, &of(None, true)).await);
    assert!(said.contains("cannot be removed while it is running") && said.contains("calicoctl node stop"), "{said}");
    bench.runtime.without_docker();
    *bench.runtime.outside.lock().unwrap() = Some(Health::default());
    assert!(refusal(remove(&bench.ctx, &of(None, true)).await).contains("while it is running"));
    assert_eq!(bench.everything().await, before);
    text(remove(&bench.ctx, &of(Some("host-2"), true)).await);
}

#[tokio::test]
async fn a_host_that_nobody_knows_is_removed_all_the_same() {
    let bench = Bench::new();
    assert_eq!(text(remove(&bench.ctx, &of(Some("ghost"), false)).await), "Node configuration removed\n");
}

#[tokio::test]
async fn a_name_that_no_host_has_removes_nothing() {
    let bench = bench().await;
    // A peer of all hosts names none.
    let peer = BGPPeerSpec { peer_ip: "10.9.0.2".into(), as_number: Some(AsNumber(65000)), ..BGPPeerSpec::default() };
    bench.put(Resource::new("global", peer)).await;
    let before = bench.everything().await;
    for name in ["", " ", "host-2/ipv4/block/192-168-0-0-26", "host_2"] {
        let said = refusal(remove(&bench.ctx, &of(Some(name), true)).await);
        assert!(said.contains("Invalid node name specified with --hostname"), "{name:?}: {said}");
        assert_eq!(bench.everything().await, before, "{name:?}");
    }
}

#[tokio::test]
async fn what_another_host_has_been_given_meanwhile_stays() {
    let bench = bench().await;
    let key = bench.ctx.store.get::<BGPPeerSpec>("peer-host-1").await.unwrap().key().to_string();
    let stored = bench.ctx.store.kv().get(&key).await.unwrap().unwrap().value;
    let value = String::from_utf8(stored).unwrap().replace(r#""node":"host-1""#, r#""node":"host-2""#);
    let mut once = true;
    bench.kv.inject(move |behind, write| {
        if write.kind == WriteKind::Delete && write.key == key && std::mem::take(&mut once) {
            behind.put(write.key, &value);
        }
        Injected::Proceed
    });
    text(remove(&bench.ctx, &of(None, true)).await);
    assert_eq!(bench.ctx.store.get::<BGPPeerSpec>("peer-host-1").await.unwrap().spec.node, "host-2");
}

#[tokio::test]
async fn what_fails_is_told_and_a_second_call_finds_it() {
    let bench = bench().await;
    bench.kv.inject(|_, write| if write.key.contains("/bgppeers/") { Injected::FailBefore } else { Injected::Proceed });
    let said = refusal(remove(&bench.ctx, &of(None, true)).await);
    assert!(said.contains("Node host-1 is not removed completely.") && said.contains("unreachable"), "{said}");
    assert!(bench.ctx.store.get::<NodeSpec>(NODE).await.is_ok(), "the node goes last");
    bench.kv.stop_injecting();
    text(remove(&bench.ctx, &of(None, true)).await);
    assert_eq!(keys_of(&bench, NODE).await, Vec::<String>::new());
}

#[tokio::test]
async fn an_address_that_is_somebody_elses_by_now_stays() {
    let bench = bench().await;
    let foreign = assign(&bench, "host-2", "docker.another").await;
    let (endpoints, _) = bench.ctx.store.list::<WorkloadEndpointSpec>().await.unwrap();
    let ours = endpoints.iter().find(|endpoint| endpoint.spec.node == NODE).unwrap();
    let poison = |endpoint: &mut calico_model::WorkloadEndpoint| {
        endpoint.spec.ip_networks.push(ipnet::IpNet::from(foreign).to_string());
        Ok::<(), calico_store::Error>(())
    };
    bench.ctx.store.modify::<WorkloadEndpointSpec, _>(&ours.key(), poison).await.unwrap();
    text(remove(&bench.ctx, &of(None, true)).await);
    let assignment = Ipam::new(bench.ctx.store.clone()).get_assignment_attributes(foreign).await.unwrap();
    assert_eq!(assignment.attribute.handle_id.as_deref(), Some("docker.another"));
    assert!(bench.said().iter().any(|line| line.contains("stays reserved")));
}

#[tokio::test]
async fn only_root_may_remove_this_host_and_anybody_another() {
    let bench = Bench::not_root();
    let failure = remove(&bench.ctx, &of(None, false)).await.unwrap_err();
    assert_eq!(failure.message(), "This command must be run as root.");
    text(remove(&bench.ctx, &of(Some("ghost"), false)).await);
}
