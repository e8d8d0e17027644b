//! What dead endpoints hold, and what living ones and networks keep whatever Docker gives back.

use std::collections::BTreeSet;

use calico_ipam::{AssignIp, IntendedUse, Ipam};
use calico_model::{IPPool, IPPoolSpec, WorkloadEndpointSpec};
use serde_json::json;

use super::{ENDPOINT, NETWORK, Rig};
use crate::ipam::{HANDLE_PREFIX, TIMESTAMP};

/// The host lost its power: interfaces are gone, and `--ip` asks for the address that the dead endpoint has.
#[tokio::test]
async fn a_dead_endpoint_s_address_can_be_asked_for() {
    let rig = Rig::start().await;
    rig.create_network().await;
    let address = rig.run_container(&[]).await;
    let fixed = json!({ "PoolID": "any-ipv4", "Address": address, "Options": {} });
    assert!(rig.refused("IpamDriver.RequestAddress", fixed.clone()).await.contains("is in use by"));
    rig.kernel.0.lock().unwrap().clear();
    let refused = rig.refused("IpamDriver.RequestAddress", fixed.clone()).await;
    assert!(refused.contains("is in use by"), "it may be one that is just being made: {refused}");
    rig.age_endpoint().await;
    rig.ask("IpamDriver.RequestAddress", fixed).await;
    assert_eq!((rig.in_use().await, rig.endpoint().await), (1, None), "it is the new one's");
}

/// What Docker does after a power cut: it gives up what it had without a word to the network driver.
#[tokio::test]
async fn a_dead_endpoint_holds_neither_its_port_nor_its_address() {
    let rig = Rig::start().await;
    rig.create_network().await;
    let address = rig.run_container(&[]).await;
    let ports = json!([{ "Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 8080, "HostPortEnd": 8080 }]);
    let publish = |id: &str| {
        let options = json!({ "com.docker.network.portmap": ports });
        ("NetworkDriver.ProgramExternalConnectivity", json!({ "EndpointID": id, "Options": options }))
    };
    let create = |id: &str, address: &str| {
        let interface = json!({ "Address": address, "AddressIPv6": "", "MacAddress": "" });
        let body = json!({ "NetworkID": NETWORK, "EndpointID": id, "Interface": interface });
        ("NetworkDriver.CreateEndpoint", body)
    };
    let ids = async || {
        let (endpoints, _) = rig.store.list::<WorkloadEndpointSpec>().await.unwrap();
        endpoints.into_iter().map(|endpoint| endpoint.spec.endpoint).collect::<Vec<_>>()
    };
    let (method, body) = publish(ENDPOINT);
    rig.ask(method, body).await;
    let [second, third] = ["8", "7"].map(|digit| ENDPOINT.replace('9', digit));

    let (method, body) = create(&second, "10.10.0.99/32");
    rig.ask(method, body).await;
    let (method, body) = publish(&second);
    let refused = rig.refused(method, body.clone()).await;
    assert!(refused.contains("already allocated"), "{refused}");
    rig.kernel.0.lock().unwrap().clear();
    rig.ask(method, body).await;
    assert_eq!(ids().await, [second.as_str()], "the dead endpoint of {address} is gone");

    assert_eq!(rig.in_use().await, 0, "nor its address");

    rig.docker_dies().await;
    let released = json!({ "PoolID": "any-ipv4", "Address": "10.10.0.99" });
    rig.ask("IpamDriver.ReleaseAddress", released).await;
    let (method, body) = create(&third, "10.10.0.99/32");
    rig.ask(method, body).await;
    assert_eq!(ids().await, [third.as_str()], "nothing else has the address any more");
}

/// A dead endpoint that is in nobody's way is left to the reconciler, and one that is takes all its addresses along.
#[tokio::test]
async fn only_what_is_in_the_way_is_buried_and_whole() {
    let rig = Rig::start().await;
    let cidr = "fd00:7::/64".parse().unwrap();
    rig.store.create(IPPool::new("pool6", IPPoolSpec { cidr, ..IPPoolSpec::default() })).await.unwrap();
    let both = async |id: &str| {
        let request = async |pool: &str| {
            let asked = json!({ "PoolID": pool, "Address": "", "Options": null });
            rig.ask("IpamDriver.RequestAddress", asked).await["Address"].clone()
        };
        let (v4, v6) = (request("any-ipv4").await, request("any-ipv6").await);
        let interface = json!({ "Address": v4, "AddressIPv6": v6, "MacAddress": "" });
        let body = json!({ "NetworkID": NETWORK, "EndpointID": id, "Interface": interface });
        rig.ask("NetworkDriver.CreateEndpoint", body).await;
    };
    let publish = async |id: &str, port: u16| {
        let port = json!({ "Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": port, "HostPortEnd": port });
        let body = json!({ "EndpointID": id, "Options": { "com.docker.network.portmap": [port] } });
        rig.ask("NetworkDriver.ProgramExternalConnectivity", body).await;
    };
    let [first, second, third] = ["9", "8", "7"].map(|digit| ENDPOINT.replace('9', digit));
    both(&first).await;
    publish(&first, 8080).await;
    both(&second).await;
    publish(&second, 8081).await;
    both(&third).await;
    assert_eq!(rig.in_use().await, 6);
    publish(&third, 8080).await;
    let (endpoints, _) = rig.store.list::<WorkloadEndpointSpec>().await.unwrap();
    let left: BTreeSet<&str> = endpoints.iter().map(|endpoint| endpoint.spec.endpoint.as_str()).collect();
    assert_eq!(left, [second.as_str(), third.as_str()].into(), "port 8081 is another one");
    assert_eq!(rig.in_use().await, 4, "both its addresses are free");
}

/// Docker gives back a network's gateway, which in older versions nobody had asked for, and it is a container's address.
#[tokio::test]
async fn an_endpoint_that_docker_shows_keeps_its_address() {
    let rig = Rig::start().await;
    rig.create_network().await;
    let address = rig.run_container(&[]).await;
    let released = json!({ "PoolID": "any-ipv4", "Address": address.split('/').next() });
    let all_there = async |when: &str| {
        assert_eq!(rig.kernel.0.lock().unwrap().len(), 1, "{when}: the interface");
        assert_eq!((rig.in_use().await, rig.endpoint().await.is_some()), (1, true), "{when}: address and record");
    };
    rig.ask("IpamDriver.ReleaseAddress", released.clone()).await;
    all_there("just made").await;
    rig.eventually("the endpoint to open", async || {
        rig.endpoint().await.is_some_and(|endpoint| endpoint.spec.profiles == ["app"])
    })
    .await;
    rig.age_endpoint().await;
    rig.ask("IpamDriver.ReleaseAddress", released.clone()).await;
    all_there("shown by Docker").await;

    rig.docker_dies().await;
    rig.ask("IpamDriver.ReleaseAddress", released).await;
    assert!(rig.kernel.0.lock().unwrap().is_empty(), "it died with Docker, though its interface was still there");
    assert_eq!((rig.in_use().await, rig.endpoint().await), (0, None));
}

/// `docker network create --aux-address`: an address that Docker has asked for and gives to no container.
#[tokio::test]
async fn an_auxiliary_address_is_in_use_as_long_as_its_network_is_there() {
    let rig = Rig::start().await;
    rig.create_network().await;
    let (kept, lost) = ("10.10.0.5".parse().unwrap(), "10.10.0.6".parse().unwrap());
    rig.docker.change(|state| state.networks[0].auxiliary = vec![kept]);
    let ipam = Ipam::new(rig.store.clone());
    for ip in [kept, lost] {
        let notes = [("node", "h1"), (TIMESTAMP, "2026-01-01T00:00:00Z")];
        let request = AssignIp {
            ip,
            host: "h1".to_owned(),
            handle: Some(format!("{}h1.{}", HANDLE_PREFIX, ip.to_string().replace('.', "")).into()),
            attrs: Some(notes.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
            intended_use: Some(IntendedUse::Workload),
            max_alloc_per_handle: None,
        };
        ipam.assign_ip(request).await.unwrap();
    }
    // What is unused is looked for whenever Docker is found.
    rig.docker.hang_up(false);
    rig.eventually("the other one to go", async || ipam.get_assignment_attributes(lost).await.is_err()).await;
    assert!(ipam.get_assignment_attributes(kept).await.is_ok(), "its network has it");
    rig.docker.change(|state| state.networks.clear());
    rig.docker.hang_up(false);
    rig.eventually("it to go with its network", async || ipam.get_assignment_attributes(kept).await.is_err()).await;
}
