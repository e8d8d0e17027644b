//! From the datastore to the kernel: an endpoint's profile list is written to etcd, and the time until the kernel says
//! that the endpoint's rules were switched is taken. The kernel's own notification is waited for, nothing is polled.

use std::time::{Duration, Instant};

use calico_lab::{Host, Lab, LabOptions, Running, wait_until};
use calico_model::{
    ClusterInformation, ClusterInformationSpec, Profile, ProfileName, ResourceKey, WorkloadEndpoint,
    WorkloadEndpointSpec,
};
use calico_store::{ConnectOptions, EtcdKv, Store};
use miette::{IntoDiagnostic, Result, miette};
use nlink::netlink::{
    Connection, Nftables,
    nftables::{NftablesEvent, NftablesGroup},
};
use tokio_stream::StreamExt;

use crate::report::Report;

/// Samples for each size.
const SAMPLES: usize = 200;
/// Numbers of local endpoints.
pub(crate) const SIZES: [usize; 2] = [10, 1000];
/// Room for the kernel's notifications, in bytes.
const RECEIVE_BUFFER: usize = 64 << 20;
/// Felix is slower than this only if it hangs.
const LIMIT: Duration = Duration::from_secs(10);

pub(crate) fn measure(report: &mut Report) -> Result<()> {
    for size in SIZES {
        let lab = Lab::up(&LabOptions { docker: false, ..LabOptions::hosts(1) }).into_diagnostic()?;
        let host = lab.host(1);
        let endpoints = lab.etcd().endpoints();
        inside(host, || fill(&endpoints, size))?;
        let _felix = start_felix(host, size)?;
        let (changes, writes) = inside(host, || sample(&endpoints))?;
        let ours = changes.iter().zip(&writes).map(|(change, write)| change.saturating_sub(*write)).collect();
        let write =
            report.add_times(&format!("felix/etcd_write/{size}"), writes, "yardstick: the same write to etcd alone");
        let name = format!("felix/write_to_kernel/{size}");
        let detail = format!("one of {size} endpoints gets another profile; the etcd write alone takes {write:.2} ms");
        report.add_times(&name, changes, &detail);
        let name = format!("felix/event_to_kernel/{size}");
        report.add_times(&name, ours, "the same, from etcd's answer to the writer on: what felix and the kernel take");
    }
    Ok(())
}

/// Runs asynchronous work in a host's network.
pub(crate) fn inside<T: Send, F: Future<Output = Result<T>>>(
    host: &Host,
    work: impl FnOnce() -> F + Send,
) -> Result<T> {
    let outcome = host.in_network(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(runtime.into_diagnostic().and_then(|runtime| runtime.block_on(work())))
    });
    outcome.into_diagnostic()?
}

pub(crate) fn store(endpoints: &str) -> Result<Store> {
    let variable = |name: &str| (name == "ETCD_ENDPOINTS").then(|| endpoints.to_owned());
    let options = ConnectOptions::from_lookup(variable).into_diagnostic()?;
    Ok(Store::new(std::sync::Arc::new(EtcdKv::new(options).into_diagnostic()?)))
}

/// A cluster with `size` endpoints of `host1`, which share two profiles.
pub(crate) async fn fill(endpoints: &str, size: usize) -> Result<()> {
    let store = store(endpoints)?;
    let spec = ClusterInformationSpec { datastore_ready: Some(true), ..Default::default() };
    store.create(ClusterInformation::new("default", spec)).await.into_diagnostic()?;
    fill_endpoints(endpoints, size).await
}

/// The endpoints and profiles of [`fill`], in a cluster that is initialised.
pub(crate) async fn fill_endpoints(endpoints: &str, size: usize) -> Result<()> {
    let store = store(endpoints)?;
    for profile in ["one", "two"] {
        let name = ProfileName::typed(profile).into_diagnostic()?;
        store.create(Profile::classic_default(&name)).await.into_diagnostic()?;
    }
    for index in 0..size {
        store.create(endpoint(index)).await.into_diagnostic()?;
    }
    Ok(())
}

fn endpoint(index: usize) -> WorkloadEndpoint {
    let spec = WorkloadEndpointSpec {
        orchestrator: "docker".into(),
        workload: format!("w{index}"),
        node: "host1".into(),
        endpoint: "eth1".into(),
        interface_name: format!("cali{index}"),
        ip_networks: vec![format!("10.65.{}.{}/32", index / 250, index % 250 + 1)],
        profiles: vec!["one".into()],
        ..Default::default()
    };
    let mut endpoint = WorkloadEndpoint::namespaced("default", "", spec);
    endpoint.metadata.name = format!("host1-docker-w{index}-eth1");
    endpoint
}

/// Starts felix alone and waits until all endpoints are in force.
pub(crate) fn start_felix(host: &Host, size: usize) -> Result<Running> {
    let felix = host.spawn("exec calico-felix --name host1");
    let wanted = format!("\"ready\":true,\"reason\":\"{size} local endpoints in force\"");
    wait_until(Duration::from_secs(60), "felix to be in sync", || felix.stdout().contains(&wanted))
        .into_diagnostic()?;
    Ok(felix)
}

/// Switches one endpoint's profile to and fro. Returns the times until the kernel holds the change, and those of the
/// writes themselves.
async fn sample(endpoints: &str) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let store = store(endpoints)?;
    let kernel = Connection::<Nftables>::new().into_diagnostic()?;
    // Felix' first write of a thousand endpoints is still being told when we subscribe.
    kernel.socket().set_rcvbuf(RECEIVE_BUFFER).into_diagnostic()?;
    kernel.subscribe(&[NftablesGroup::All]).into_diagnostic()?;
    let mut events = kernel.events().await;
    let spec = endpoint(3);
    let key = ResourceKey::new(calico_model::KindName::WorkloadEndpoint, Some("default"), spec.name());
    let mut current: WorkloadEndpoint = store.get_key(&key).await.into_diagnostic()?;
    let (mut changes, mut writes) = (Vec::new(), Vec::new());
    for round in 0..SAMPLES {
        current.spec.profiles = vec![if round % 2 == 0 { "two".into() } else { "one".into() }];
        let start = Instant::now();
        current = store.update(current).await.into_diagnostic()?;
        writes.push(start.elapsed());
        let switched = async {
            while let Some(event) = events.next().await {
                if matches!(event.into_diagnostic()?, NftablesEvent::NewSetElements(elements) if elements.set == "wl-to")
                {
                    return Ok(());
                }
            }
            Err(miette!("the kernel's notifications ended"))
        };
        tokio::time::timeout(LIMIT, switched)
            .await
            .map_err(|_| miette!("felix did not program a change within {LIMIT:?}"))??;
        changes.push(start.elapsed());
        // The third phase of the change before must not overlap with the next sample.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok((changes, writes))
}
