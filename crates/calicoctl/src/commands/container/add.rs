//! `calicoctl container add`
//!
//! Everything is checked before anything is done: what was typed, root, the container, the node, the pools, the
//! names of the interfaces. Then, each step undone if a later one fails: addresses are reserved, the interface is
//! made, the endpoint is written. The endpoint has no profile, so nothing passes yet.

use std::{collections::BTreeMap, net::IpAddr};

use calico_model::{
    ClusterInformationSpec, MacAddress, Node, NodeSpec, Resource, WorkloadEndpoint, WorkloadEndpointSpec,
};
use calico_workload::{AttachError, Attachment, NetnsRef};

use super::{
    addresses::{Reservations, Wish, check_free, pools},
    workload::{Found, NAMESPACE, Workload, find},
};
use crate::{
    args::ContainerAdd,
    commands::endpoint::ANNOTATION_WORKLOAD,
    context::Context,
    failure::{Failure, sentence},
    labels,
    output::Output,
    undo::Undo,
};

/// What is going to be done; all of it has been checked.
struct Plan<'a> {
    typed: &'a str,
    workload: Workload,
    netns: NetnsRef,
    wishes: Vec<Wish>,
    gateways: Gateways,
    interface: &'a str,
    /// For the selectors of policies.
    labels: BTreeMap<String, String>,
}

/// Where default routes lead: the host's own addresses for BGP, where it has some.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gateways {
    v4: Option<std::net::Ipv4Addr>,
    v6: Option<std::net::Ipv6Addr>,
}

impl Gateways {
    /// Those of a node. A record of another tool may hold no address, or a bare one.
    pub(super) fn of(node: &Node) -> Self {
        let bgp = node.spec.bgp.as_ref();
        let address = |net: Option<&String>| net.and_then(|net| net.split('/').next()).map(str::to_owned);
        Self {
            v4: address(bgp.and_then(|bgp| bgp.ipv4_address.as_ref())).and_then(|text| text.parse().ok()),
            v6: address(bgp.and_then(|bgp| bgp.ipv6_address.as_ref())).and_then(|text| text.parse().ok()),
        }
    }

    /// That of an address's family.
    pub(super) fn for_address(self, address: IpAddr) -> IpAddr {
        if address.is_ipv4() {
            self.v4.unwrap_or(calico_workload::DEFAULT_GATEWAY4).into()
        } else {
            self.v6.unwrap_or(calico_workload::DEFAULT_GATEWAY6).into()
        }
    }
}

/// `container add`
pub(crate) async fn add(ctx: &Context, args: &ContainerAdd) -> Result<Output, Failure> {
    let wishes = Wish::parse_all(&args.addresses)?;
    let labels = labels::parse(&args.labels)?;
    ctx.require_root()?;
    let mut found = find(ctx, &args.container).await?;
    // Held until the end: of two calls for one container the second sees the first's endpoint.
    let _lock = ctx.host.lock(&found.workload.endpoint_id()).await?;
    found.read_again(ctx).await?;
    let plan = check(ctx, args, found, wishes, labels).await?;
    let _acting = ctx.interrupt.acting();
    let mut undo = Undo::new();
    match act(ctx, &plan, &mut undo).await {
        Ok(addresses) => Ok(Output::lines(addresses.iter().map(|ip| format!("IP {ip} added to {}", plan.typed)))),
        Err(failure) => Err(undo.roll_back(failure).await),
    }
}

async fn check<'a>(
    ctx: &Context,
    args: &'a ContainerAdd,
    found: Found,
    wishes: Vec<Wish>,
    labels: BTreeMap<String, String>,
) -> Result<Plan<'a>, Failure> {
    let typed = args.container.as_str();
    let Some(netns) = found.netns.clone() else {
        return Err(match found.container {
            None if typed.starts_with('/') => Failure::new(format!("{typed} does not exist."))
                .hint("a path names a network namespace, as /var/run/netns/NAME; containers are named without a slash"),
            None => Failure::new(format!("Container {typed} was not found.")).hint("see: docker ps -a"),
            Some(_) => Failure::new(format!("{typed} is not currently running.")).hint(format!("docker start {typed}")),
        });
    };
    if found.container.as_ref().is_some_and(|container| container.network_mode == "host") {
        return Err(Failure::new(format!("Can't add {typed} to Calico because it is running NetworkMode = host."))
            .hint("run it with --net=none"));
    }
    if !found.endpoints.is_empty() {
        return Err(match found.check_connected(ctx, typed).await {
            Ok(()) => already_added(typed),
            Err(lost) => lost.context(ALREADY.replace("{}", typed)),
        });
    }
    let node = check_node(ctx).await?;
    let pools = pools(ctx).await?;
    for wish in &wishes {
        wish.check(&pools)?;
    }
    // What was typed comes before what the container itself says.
    let mut all = found.container.as_ref().map(labels::of_container).unwrap_or_default();
    all.extend(labels);
    let plan = Plan {
        typed,
        labels: all,
        workload: found.workload,
        netns,
        gateways: Gateways::of(&node),
        interface: &args.interface,
        wishes,
    };
    plan.check_labels(&ctx.node)?;
    let exact = plan.wishes.iter().filter_map(|wish| match wish {
        Wish::Exact(address) => Some(*address),
        _ => None,
    });
    let attachment = plan.attachment(exact.collect());
    ctx.host.check(&plan.netns, &attachment).await.map_err(|error| refused(&plan, &error))?;
    for wish in &plan.wishes {
        check_free(ctx, *wish).await?;
    }
    Ok(plan)
}

/// What users of the classic tool know, about `{}`.
const ALREADY: &str = "{} has already been configured with Calico Networking.";

fn already_added(typed: &str) -> Failure {
    Failure::new(ALREADY.replace("{}", typed)).hint(format!(
        "see: calicoctl container {typed} endpoint show; for another address: calicoctl container {typed} ip add"
    ))
}

/// The record of this host, in a datastore that is ready.
pub(super) async fn check_node(ctx: &Context) -> Result<Node, Failure> {
    const HINT: &str = "start the service on this host first: calicoctl node";
    match ctx.store.get::<ClusterInformationSpec>("default").await {
        Ok(cluster) if cluster.spec.datastore_ready == Some(true) => {}
        Ok(_) => {
            return Err(Failure::new("The datastore is not ready.")
                .because("ClusterInformation default has datastoreReady: false")
                .hint("wait until its maintenance is over"));
        }
        Err(error) if error.is_not_found() => {
            return Err(Failure::new("The datastore is not initialised.").hint(HINT));
        }
        Err(error) => return Err(error.into()),
    }
    match ctx.store.get::<NodeSpec>(&ctx.node).await {
        Ok(node) => Ok(node),
        Err(error) if error.is_not_found() => {
            Err(Failure::new(format!("Node {} is not in the datastore.", ctx.node)).hint(HINT))
        }
        Err(error) => Err(error.into()),
    }
}

impl Plan<'_> {
    /// Refuses labels that the endpoint could not be stored with. Left out they would make policy reach less, or more,
    /// than the container's owner believes.
    fn check_labels(&self, node: &str) -> Result<(), Failure> {
        let reserved: Vec<String> = self.labels.keys().filter_map(|key| labels::reserved(key)).collect();
        if !reserved.is_empty() {
            return Err(Failure::all(reserved));
        }
        match self.endpoint(node, &[], MacAddress([2, 0, 0, 0, 0, 0])).prepare() {
            Err(invalid) => labels::check(&invalid.faults),
            Ok(()) => Ok(()),
        }
    }

    fn attachment(&self, addresses: Vec<IpAddr>) -> Attachment {
        Attachment {
            host_interface: self.workload.interface(),
            container_interface: self.interface.to_owned(),
            addresses,
            gateway4: self.gateways.v4,
            gateway6: self.gateways.v6,
            mtu: None,
        }
    }

    fn endpoint(&self, node: &str, addresses: &[IpAddr], mac: MacAddress) -> WorkloadEndpoint {
        let gateway = |v4: bool| {
            let of_family = addresses.iter().find(|address| address.is_ipv4() == v4);
            of_family.map(|address| self.gateways.for_address(*address).to_string())
        };
        let spec = WorkloadEndpointSpec {
            orchestrator: self.workload.orchestrator.to_owned(),
            workload: self.workload.id.clone(),
            node: node.to_owned(),
            endpoint: self.workload.endpoint_id(),
            ip_networks: addresses.iter().map(|address| ipnet::IpNet::from(*address).to_string()).collect(),
            ipv4_gateway: gateway(true).unwrap_or_default(),
            ipv6_gateway: gateway(false).unwrap_or_default(),
            interface_name: self.workload.interface(),
            mac: mac.to_string(),
            ..WorkloadEndpointSpec::default()
        };
        let mut endpoint = Resource::namespaced(NAMESPACE, "", spec);
        endpoint.metadata.labels.clone_from(&self.labels);
        endpoint.metadata.annotations.insert(ANNOTATION_WORKLOAD.to_owned(), self.typed.to_owned());
        // Known before it is written, so that undoing can tell our endpoint from another's.
        endpoint.metadata.uid = Some(uuid::Uuid::new_v4().to_string());
        endpoint
    }
}

async fn act<'a>(ctx: &'a Context, plan: &Plan<'_>, undo: &mut Undo<'a>) -> Result<Vec<IpAddr>, Failure> {
    let reservations = std::sync::Arc::new(Reservations::new(ctx, &plan.workload));
    let marked = reservations.clone();
    undo.push(format!("an address of {}", plan.workload.handle()), async move { marked.give_back().await });
    let mut addresses = Vec::new();
    for wish in &plan.wishes {
        ctx.interrupt.check()?;
        addresses.push(reservations.reserve(*wish).await?);
    }
    // IPv4 first, as upstream orders an endpoint's addresses.
    addresses.sort_by_key(IpAddr::is_ipv6);

    ctx.interrupt.check()?;
    let attachment = plan.attachment(addresses.clone());
    let attached = ctx.host.attach(&plan.netns, &attachment).await.map_err(|error| refused(plan, &error))?;
    let interface = attachment.host_interface.clone();
    undo.push(format!("interface {interface}"), async move {
        ctx.host.detach(&interface).await.map(|_| ()).map_err(|error| Failure::new(sentence(&error)))
    });

    ctx.interrupt.check()?;
    let mut endpoint = plan.endpoint(&ctx.node, &addresses, attached.mac);
    endpoint.prepare().map_err(|error| Failure::from(calico_store::Error::from(error)))?;
    undo.push(format!("endpoint {}", endpoint.spec.endpoint), delete_ours(ctx, endpoint.clone()));
    match ctx.store.create(endpoint).await {
        Ok(_) => Ok(addresses),
        Err(calico_store::Error::AlreadyExists { .. }) => Err(already_added(plan.typed)),
        Err(error) => Err(Failure::from(error).context(format!("{} could not be added.", plan.typed))),
    }
}

/// Deletes the endpoint if it is there and is the one that this call wrote.
async fn delete_ours(ctx: &Context, endpoint: WorkloadEndpoint) -> Result<(), Failure> {
    match ctx.store.get_key::<WorkloadEndpointSpec>(&endpoint.key()).await {
        Ok(stored) if stored.metadata.uid == endpoint.metadata.uid => match ctx.store.delete(&stored).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => Ok(other?),
        },
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A refused or failed attachment.
fn refused(plan: &Plan<'_>, error: &AttachError) -> Failure {
    let typed = plan.typed;
    match error {
        AttachError::HostInterfaceTaken { name } => {
            Failure::new(format!("{typed} has an interface of Calico's already, but no endpoint."))
                .because(format!("{name} exists: another call is at work, or one was cut short"))
                .hint(format!("if no other call is at work: calicoctl container remove {typed}, then add it again"))
        }
        AttachError::InterfaceTaken { name } => Failure::new(format!("{typed} already has an interface {name}."))
            .hint("choose another name with --interface"),
        AttachError::InterfaceName { name, .. } => Failure::new(format!("Invalid interface name specified: {name:?}."))
            .cause(error)
            .hint("leave it out for eth1, or give another name such as --interface=eth2"),
        AttachError::HostNamespace { .. } => {
            Failure::new(format!("Can't add {typed} to Calico because it is running NetworkMode = host.")).cause(error)
        }
        _ => Failure::new(format!("{typed} could not be connected.")).cause(error),
    }
}
