//! Who has addresses of a pool.

use std::{collections::BTreeMap, net::IpAddr};

use calico_ipam::{Attribute, Ipam};
use calico_model::{WorkloadEndpoint, WorkloadEndpointSpec, WorkloadName};
use ipnet::IpNet;
use serde::Serialize;

use crate::{
    commands::endpoint::ANNOTATION_WORKLOAD,
    context::Context,
    failure::{Failure, sentence},
};

/// An address in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Use {
    /// The address.
    pub(super) address: IpAddr,
    /// Who has it, in words.
    pub(super) holder: String,
    /// The container's name, if a container of this cluster has it: what `container remove` takes.
    pub(super) container: Option<String>,
}

/// What `docker ps` shows of a container's id.
const SHORT_ID: usize = 12;

/// The addresses of the range that are assigned, or that an endpoint has, ascending.
///
/// # Errors
/// The datastore's.
pub(super) async fn of(ctx: &Context, cidr: IpNet) -> Result<Vec<Use>, Failure> {
    let (endpoints, unreadable) = ctx.store.list::<WorkloadEndpointSpec>().await?;
    ctx.note_unreadable(&unreadable);
    let mut uses = BTreeMap::new();
    for endpoint in &endpoints {
        for address in addresses(endpoint).filter(|address| cidr.contains(address)) {
            uses.insert(address, of_endpoint(endpoint));
        }
    }
    let blocks = Ipam::new(ctx.store.clone()).all_blocks().await.map_err(|error| Failure::new(sentence(&error)))?;
    for block in &blocks {
        for address in block.in_use().filter(|address| cidr.contains(address)) {
            let attribute = block.ordinal(address).and_then(|ordinal| block.attribute(ordinal));
            // Released addresses only wait for their turn.
            if let Some(attribute) = attribute.filter(|attribute| attribute.released_at.is_none()) {
                uses.entry(address).or_insert_with(|| of_record(attribute));
            }
        }
    }
    Ok(uses.into_iter().map(|(address, (holder, container))| Use { address, holder, container }).collect())
}

fn addresses(endpoint: &WorkloadEndpoint) -> impl Iterator<Item = IpAddr> {
    let address = |net: &String| net.parse::<IpNet>().map(|net| net.addr()).or_else(|_| net.parse::<IpAddr>()).ok();
    endpoint.spec.ip_networks.iter().filter_map(address)
}

/// Who an endpoint is, and its container's name.
fn of_endpoint(endpoint: &WorkloadEndpoint) -> (String, Option<String>) {
    let parts = WorkloadName::of(&endpoint.spec);
    let typed = endpoint.metadata.annotations.get(ANNOTATION_WORKLOAD);
    if parts.orchestrator == "docker" || typed.is_some() {
        let name = typed.cloned().unwrap_or_else(|| parts.workload.chars().take(SHORT_ID).collect());
        return (format!("container {name} on host {}", parts.node), Some(name));
    }
    (format!("{} {} on host {}", parts.orchestrator, parts.workload, parts.node), None)
}

/// Who has an address that no endpoint has, by what was noted when it was assigned.
fn of_record(attribute: &Attribute) -> (String, Option<String>) {
    let noted = |name: &str| attribute.secondary.as_ref().and_then(|notes| notes.get(name)).map(String::as_str);
    let host = noted("node").map_or_else(String::new, |node| format!(" on host {node}"));
    let handle = attribute.handle_id.as_deref().unwrap_or_default();
    let holder = match (noted("type"), handle.strip_prefix("docker.")) {
        (Some(kind), _) if kind.ends_with("TunnelAddress") => format!("tunnel{host}"),
        (_, Some(id)) => {
            let id: String = id.chars().take(SHORT_ID).collect();
            format!("container {id}{host}, without an endpoint")
        }
        _ if !handle.is_empty() => format!("handle {handle}{host}"),
        _ => format!("nobody that is known{host}"),
    };
    (holder, None)
}
