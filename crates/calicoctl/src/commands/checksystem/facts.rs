//! What is found on this host by looking and trying.

use std::{collections::BTreeMap, path::Path, time::Duration};

use calico_dataplane::probe::{Feature, probe};
use calico_datastore::admin::{Client, StatusAnswer};
use calico_model::ClusterInformationSpec;
use calico_store::EtcdKv;

use crate::{
    context::Context,
    failure::{Failure, sentence},
    host::Host,
    runtime::Runtime,
    settings,
};

/// Where Docker finds our plugin.
const PLUGIN_SOCKET: &str = "/run/docker/plugins/calico.sock";

/// How long the datastore may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was found.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// `5.10.0-21-amd64`
    pub(super) kernel: String,
    /// What was tried, and why it did not work; why nothing could be tried.
    pub(super) features: Result<BTreeMap<Feature, Result<(), String>>, String>,
    /// Switched on for IPv4 and IPv6; `None` where the kernel has no such family.
    pub(super) forwarding: [Option<bool>; 2],
    /// How many connections the kernel follows at most; `None` before it follows any.
    pub(super) most_connections: Option<u64>,
    /// `net.ipv4.conf.all.rp_filter`
    pub(super) rp_filter: Option<u8>,
    /// The interface of the default route and its MTU.
    pub(super) uplink: Option<(String, u32)>,
    /// Files that this process may open.
    pub(super) most_files: Option<u64>,
    /// Why there is no Docker.
    pub(super) docker: Result<(), String>,
    /// Why there is no BIRD outside the image.
    pub(super) bird: Result<(), String>,
    /// Why BGP's port cannot be had.
    pub(super) bgp_port: Result<(), String>,
    /// Why the datastore does not answer.
    pub(super) datastore: Result<(), String>,
    /// Somebody has said where the datastore is.
    pub(super) datastore_is_named: bool,
    /// Each endpoint of the datastore: its version and size, or why it does not answer.
    pub(super) endpoints: Vec<(String, Result<String, String>)>,
    /// How the datastore is that this host keeps; `None` if none runs here.
    pub(super) kept: Option<Result<String, String>>,
    /// Why nobody serves Docker's networks; `None` where Docker does not run.
    pub(super) plugin: Option<Result<(), String>>,
}

/// Looks and tries.
pub(super) async fn gather(connected: Result<&Context, &Failure>, host: &dyn Host, runtime: &dyn Runtime) -> Facts {
    // Making rules and devices waits for the kernel; the runtime has nothing else to do meanwhile.
    let features = probe().map(|outcomes| outcomes.into_iter().collect());
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let switch = |path: &str| number(path).map(|value| value != 0);
    let docker = host.containers().await.map(drop).map_err(|error| error.to_string());
    Facts {
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        features,
        forwarding: [switch("/proc/sys/net/ipv4/ip_forward"), switch("/proc/sys/net/ipv6/conf/all/forwarding")],
        most_connections: number("/proc/sys/net/netfilter/nf_conntrack_max"),
        rp_filter: number("/proc/sys/net/ipv4/conf/all/rp_filter").and_then(|value| u8::try_from(value).ok()),
        uplink: uplink(),
        most_files: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        plugin: docker.is_ok().then(plugin),
        docker,
        bird: calico_startup::find_bird().map(drop).map_err(|error| error.to_string()),
        bgp_port: runtime.check_bgp_port().map_err(|error| error.to_string()),
        datastore: datastore(connected).await,
        datastore_is_named: is_named(),
        endpoints: endpoints().await,
        kept: kept(&Client::default()).await,
    }
}

/// What each endpoint of the settings says of itself. What is wrong with the settings is told with the datastore.
async fn endpoints() -> Vec<(String, Result<String, String>)> {
    let Some(kv) = settings::etcd(None).ok().and_then(|options| EtcdKv::new(options).ok()) else { return Vec::new() };
    let said = kv.member_status().await.into_iter();
    said.map(|(endpoint, status)| match status {
        Err(error) => (endpoint, Err(error.to_string())),
        Ok(status) if !status.faults.is_empty() => (endpoint, Err(status.faults.join("; "))),
        Ok(status) if !status.has_leader => (endpoint, Err("it knows of no leader, so nothing can be written".into())),
        Ok(status) => (endpoint, Ok(format!("version {}, {} KiB", status.version, status.bytes / 1024))),
    })
    .collect()
}

async fn kept(client: &Client) -> Option<Result<String, String>> {
    match client.status().await {
        Ok(status) => Some(of_status(&status)),
        Err(error) if error.is_not_running() => None,
        Err(error) => Some(Err(sentence(&error))),
    }
}

/// What the answer of the datastore's own process means.
pub(super) fn of_status(status: &StatusAnswer) -> Result<String, String> {
    let StatusAnswer { datastore, hosts, connected, .. } = status;
    if let Some(trouble) = &datastore.trouble {
        return Err(format!("it cannot be written any more: {trouble}"));
    }
    if datastore.full {
        return Err("its disk is full: only deletions are accepted".to_owned());
    }
    Ok(format!(
        "revision {}, {} of {} KiB in use, {hosts} hosts joined, {connected} of them connected",
        datastore.revision,
        datastore.bytes_in_use / 1024,
        datastore.bytes / 1024,
    ))
}

/// Whether somebody answers Docker at the plugin's socket.
fn plugin() -> Result<(), String> {
    std::os::unix::net::UnixStream::connect(PLUGIN_SOCKET)
        .map(drop)
        .map_err(|error| format!("nobody serves {PLUGIN_SOCKET}: {error}"))
}

async fn datastore(connected: Result<&Context, &Failure>) -> Result<(), String> {
    let ctx = connected.map_err(Failure::one_line)?;
    match tokio::time::timeout(PATIENCE, ctx.store.get::<ClusterInformationSpec>("default")).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if error.is_not_found() => Ok(()),
        Ok(Err(error)) => Err(Failure::from(error).one_line()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

/// True if the environment or a file says where the datastore is.
fn is_named() -> bool {
    let named = ["ETCD_ENDPOINTS", "ETCD_AUTHORITY", "CALICO_ETCD_ENDPOINTS", "CALICO_ETCD_AUTHORITY"];
    named.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
        || Path::new("/etc/calico/calicoctl.cfg").exists()
}

/// The interface of the IPv4 default route with the lowest metric.
fn uplink() -> Option<(String, u32)> {
    let table = std::fs::read_to_string("/proc/thread-self/net/route").ok()?;
    let interface = default_interface(&table)?;
    let mtu = std::fs::read_to_string(format!("/sys/class/net/{interface}/mtu")).ok()?;
    Some((interface, mtu.trim().parse().ok()?))
}

/// From the kernel's table: interface, destination, gateway, flags, use, references, metric, mask …, in hexadecimal.
pub(super) fn default_interface(table: &str) -> Option<String> {
    let routes = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let default = routes.filter(|fields| fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000"));
    let best = default.min_by_key(|fields| fields.get(6).and_then(|metric| metric.parse::<u32>().ok()));
    best.map(|fields| fields[0].to_owned())
}
