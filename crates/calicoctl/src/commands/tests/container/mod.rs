//! `calicoctl container …`: what the tests share.

#![allow(clippy::unwrap_used)]

mod add;
mod change;

use std::net::IpAddr;

use calico_ipam::Ipam;
use calico_model::{
    ClusterInformationSpec, IPPoolSpec, ProfileName, Resource, ResourceKey, WorkloadEndpoint, WorkloadEndpointSpec,
};
use calico_store::{Injected, WriteKind};
use calico_workload::docker::Container;

use crate::{
    args::{self, Command},
    commands::container::run,
    failure::{Exit, Failure},
    output::{Format, Output},
    testing::{Bench, NODE, refusal, text},
};

/// A cluster with both default pools, this host as a node, and running containers `A` and `B`.
async fn bench() -> Bench {
    let bench = Bench::new();
    let cluster = ClusterInformationSpec { datastore_ready: Some(true), ..ClusterInformationSpec::default() };
    bench.put(Resource::new("default", cluster)).await;
    bench.node(NODE, "10.5.0.1/24", Some("fd00::1/64")).await;
    for (name, cidr) in [("default-ipv4-ippool", "192.168.0.0/16"), ("default-ipv6-ippool", "fd80:24e2:f998:72d6::/64")]
    {
        pool(&bench, name, cidr, false).await;
    }
    for name in ["A", "B"] {
        container(&bench, name, |_| {});
    }
    bench
}

async fn pool(bench: &Bench, name: &str, cidr: &str, disabled: bool) {
    let spec = IPPoolSpec { cidr: cidr.parse().unwrap(), disabled, ..IPPoolSpec::default() };
    bench.put(Resource::new(name, spec)).await;
}

fn id_of(name: &str) -> String {
    let byte = name.bytes().next().unwrap();
    format!("{byte:02x}").repeat(32)
}

fn container(bench: &Bench, name: &str, change: impl FnOnce(&mut Container)) {
    let mut container = Container {
        id: id_of(name),
        name: name.to_owned(),
        pid: 4711,
        running: true,
        network_mode: "none".into(),
        labels: Default::default(),
        image: "ubuntu".into(),
        started_at: None,
    };
    change(&mut container);
    bench.host.containers.lock().unwrap().as_mut().unwrap().insert(name.to_owned(), container);
}

/// Runs `calicoctl container <words>`.
async fn calicoctl(bench: &Bench, words: &str) -> Result<Output, Failure> {
    let line = format!("calicoctl container {words}");
    let cli = args::parse(line.split_whitespace().map(Into::into)).unwrap();
    let Some(Command::Container { command }) = cli.command else { panic!("{line}") };
    run(&bench.ctx, &command).await
}

async fn endpoints(bench: &Bench) -> Vec<WorkloadEndpoint> {
    bench.ctx.store.list::<WorkloadEndpointSpec>().await.unwrap().0
}

/// The addresses that a container's handle holds.
async fn held(bench: &Bench, name: &str) -> Vec<IpAddr> {
    let handle = format!("docker.{}", id_of(name)).as_str().into();
    Ipam::new(bench.ctx.store.clone()).ips_by_handle(&handle).await.unwrap_or_default()
}

/// Everything but the empty block that a host keeps after its last address was freed.
async fn without_blocks(bench: &Bench) -> Vec<(String, String)> {
    let is_block = |key: &str| key.contains("/block/");
    bench.everything().await.into_iter().filter(|(key, _)| !is_block(key)).collect()
}

/// No interface, endpoint or address is left of a container.
async fn assert_nothing_left(bench: &Bench, name: &str, about: &str) {
    assert_eq!(held(bench, name).await, Vec::<IpAddr>::new(), "{about}: addresses");
    let left: Vec<String> =
        endpoints(bench).await.iter().filter(|e| e.spec.workload == id_of(name)).map(|e| e.name().to_owned()).collect();
    assert!(left.is_empty(), "{about}: {left:?}");
    assert!(bench.host.attached.lock().unwrap().is_empty(), "{about}: interface");
    let handles = bench.everything().await.into_iter().filter(|(key, _)| key.contains("/handle/")).count();
    assert_eq!(handles, 0, "{about}: handle");
}
