//! `calicoctl endpoint show` and the search for endpoints that all endpoint commands share.

use std::collections::{BTreeMap, BTreeSet};

use calico_model::{WorkloadEndpoint, WorkloadEndpointSpec, WorkloadName};

use crate::{
    args::{EndpointFilter, EndpointShow},
    context::Context,
    failure::Failure,
    names::TypedNames,
    output::{Cell, Column, Output, Table},
};

pub(crate) use calico_explain::why::ANNOTATION_WORKLOAD;

/// What an endpoint is sorted by.
pub(crate) fn order(endpoint: &WorkloadEndpoint) -> [&str; 4] {
    let parts = WorkloadName::of(&endpoint.spec);
    [parts.node, parts.orchestrator, parts.workload, parts.endpoint]
}

/// `active` for a stored endpoint; `inactive` for one of this host whose interface is gone.
///
/// v3 has no switch for an endpoint, so every stored one is in force as far as other hosts can tell.
pub(crate) fn state(ctx: &Context, endpoint: &WorkloadEndpoint) -> &'static str {
    let is_ours = endpoint.spec.node == ctx.node;
    if is_ours && !ctx.host.interface_exists(&endpoint.spec.interface_name) { "inactive" } else { "active" }
}

/// The endpoints that match, sorted by host, orchestrator, workload and id.
pub(crate) async fn find(
    ctx: &Context,
    filter: &EndpointFilter,
    endpoint_id: Option<&str>,
) -> Result<Vec<WorkloadEndpoint>, Failure> {
    let (mut endpoints, unreadable) = ctx.store.list::<WorkloadEndpointSpec>().await?;
    ctx.note_unreadable(&unreadable);
    let host = filter.host.as_deref().map(str::to_lowercase);
    let is = |wanted: Option<&str>, found: &str| wanted.is_none_or(|wanted| wanted == found);
    endpoints.retain(|endpoint| {
        let parts = WorkloadName::of(&endpoint.spec);
        is(host.as_deref(), parts.node)
            && is(filter.orchestrator.as_deref(), parts.orchestrator)
            && is(filter.workload.as_deref(), parts.workload)
            && is(endpoint_id, parts.endpoint)
    });
    endpoints.sort_by(|a, b| order(a).cmp(&order(b)));
    Ok(endpoints)
}

const SUMMARY: &[Column] = &[
    Column::new("Hostname", "hostname"),
    Column::new("Orchestrator ID", "orchestrator"),
    Column::new("Number of Workloads", "workloads"),
    Column::new("Number of Endpoints", "endpoints"),
];

/// Why an endpoint lets nothing pass, whatever its profiles and policies say.
const ANNOTATION_CLOSED: &str = "org.projectcalico/closed-because";

/// Columns only where there is something in them.
const PUBLISHED: Column = Column::hidden("published");
const NAME: Column = Column::hidden("workloadName");
const CLOSED: Column = Column::hidden("closedBecause");

const DETAILED: &[Column] = &[
    Column::new("Hostname", "hostname"),
    Column::new("Orchestrator ID", "orchestrator"),
    Column::new("Workload ID", "workload"),
    Column::new("Endpoint ID", "endpoint"),
    Column::new("Addresses", "addresses"),
    Column::new("MAC", "mac"),
    Column::new("Profiles", "profiles"),
    Column::new("State", "state"),
    PUBLISHED,
    Column::hidden("interface"),
    NAME,
    CLOSED,
    Column::hidden("labels"),
];

/// `endpoint show`
pub(crate) async fn show(ctx: &Context, args: &EndpointShow) -> Result<Output, Failure> {
    let endpoints = find(ctx, &args.filter, args.endpoint.as_deref()).await?;
    if args.detailed { detailed(ctx, &endpoints).await } else { Ok(summary(&endpoints)) }
}

fn summary(endpoints: &[WorkloadEndpoint]) -> Output {
    let mut groups: BTreeMap<(&str, &str), (BTreeSet<&str>, usize)> = BTreeMap::new();
    for endpoint in endpoints {
        let parts = WorkloadName::of(&endpoint.spec);
        let (workloads, count) = groups.entry((parts.node, parts.orchestrator)).or_default();
        workloads.insert(parts.workload);
        *count += 1;
    }
    let mut table = Table::new(SUMMARY);
    let number = |number: usize| Cell::Both(number.to_string(), number.into());
    for ((node, orchestrator), (workloads, count)) in groups {
        table.push(vec![node.into(), orchestrator.into(), number(workloads.len()), number(count)]);
    }
    table.into()
}

/// One row for each endpoint.
pub(crate) async fn detailed(ctx: &Context, endpoints: &[WorkloadEndpoint]) -> Result<Output, Failure> {
    let names = TypedNames::read(ctx).await?;
    let mut table = Table::new(&columns(endpoints));
    for endpoint in endpoints {
        let parts = WorkloadName::of(&endpoint.spec);
        let spec = &endpoint.spec;
        let or_absent = |text: &str| Cell::or_absent((!text.is_empty()).then_some(text));
        table.push(vec![
            parts.node.into(),
            parts.orchestrator.into(),
            parts.workload.into(),
            parts.endpoint.into(),
            Cell::lines(spec.ip_networks.iter().map(|net| with_length(net))),
            or_absent(&spec.mac),
            Cell::Commas(spec.profiles.iter().map(|stored| names.shown(stored).to_owned()).collect()),
            state(ctx, endpoint).into(),
            Cell::lines(published(endpoint)),
            or_absent(&spec.interface_name),
            Cell::or_absent(endpoint.metadata.annotations.get(ANNOTATION_WORKLOAD)),
            Cell::or_absent(endpoint.metadata.annotations.get(ANNOTATION_CLOSED)),
            Cell::Both(String::new(), serde_json::json!(endpoint.metadata.labels)),
        ]);
    }
    Ok(table.into())
}

/// The columns for these endpoints.
fn columns(endpoints: &[WorkloadEndpoint]) -> Vec<Column> {
    // All of Docker's networks have the same workload, so only the name tells their containers apart.
    let needs_name = |endpoint: &WorkloadEndpoint| {
        endpoint.spec.orchestrator == "libnetwork" && endpoint.metadata.annotations.contains_key(ANNOTATION_WORKLOAD)
    };
    let is_closed = |endpoint: &WorkloadEndpoint| endpoint.metadata.annotations.contains_key(ANNOTATION_CLOSED);
    let shown = [
        (PUBLISHED, Column::new("Published", "published"), endpoints.iter().any(|e| published(e).next().is_some())),
        (NAME, Column::new("Container", "workloadName"), endpoints.iter().any(needs_name)),
        (CLOSED, Column::new("Closed because", "closedBecause"), endpoints.iter().any(is_closed)),
    ];
    let mut columns = DETAILED.to_vec();
    for (hidden, visible, _) in shown.into_iter().filter(|(_, _, wanted)| *wanted) {
        let column = columns.iter_mut().find(|column| **column == hidden);
        *column.expect("it is among them") = visible;
    }
    columns
}

/// Ports of the host that are to lead to an endpoint, as Docker writes them: `192.0.2.1:8080->80/tcp`.
fn published(endpoint: &WorkloadEndpoint) -> impl Iterator<Item = String> {
    endpoint.spec.ports.iter().filter_map(|port| {
        let host_port = port.host_port.filter(|host_port| *host_port > 0)?;
        let host = match port.host_ip.as_deref().unwrap_or_default() {
            "" => String::new(),
            host if host.contains(':') => format!("[{host}]:"),
            host => format!("{host}:"),
        };
        Some(format!("{host}{host_port}->{}/{}", port.port, port.protocol.to_string().to_lowercase()))
    })
}

/// An address with its prefix length; upstream tolerates addresses stored without.
fn with_length(net: &str) -> String {
    match net.parse::<std::net::IpAddr>() {
        Ok(address) => ipnet::IpNet::from(address).to_string(),
        Err(_) => net.to_owned(),
    }
}
