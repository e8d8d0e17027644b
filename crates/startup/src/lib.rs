//! What happens before a host is a node: its name and address are settled, the datastore holds what every cluster
//! needs, the node is announced, the kernel forwards.
//!
//! Used by `calico-node run` and by `calicoctl node --runtime=none`. Everything that can refuse comes before
//! everything that changes: a host with a bad name, without a usable address, or with the address of another node
//! leaves the datastore and the kernel as they were.
//!
//! Each step is reported while it happens ([`Progress`]), so that whoever waits sees which one failed, why, and what
//! helps.
//!
//! Invariants:
//! - defaults are created only where nothing is, never overwritten; two hosts that start at the same moment both
//!   succeed;
//! - of a Node only the fields that start-up decides are written, by compare-and-swap; all others are kept;
//! - of two hosts that claim one address at the same moment, exactly one gets it;
//! - an IPv6 address is never guessed.
//!
//! ```no_run
//! # async fn example(store: calico_store::Store) -> Result<(), Box<dyn std::error::Error>> {
//! use calico_startup::{Progress, Request, prepare};
//!
//! let request = Request::from_environment(|name| std::env::var(name).ok())?;
//! let prepared = prepare(&store, &request, &mut |progress: Progress| println!("{progress}")).await?;
//! println!("{} has {}", prepared.node, prepared.ipv4);
//! # Ok(())
//! # }
//! ```
//!
//! A node needs one thing more while a pool uses VXLAN, and pools may change at any time: an address for its tunnel.
//! [`keep_tunnel_addresses`] sees to that for as long as the service runs.
//!
//! Names to know: [`Request`] is what was asked for, [`Prepared`] what came of it, [`Step`] the steps in order.

use calico_model::AsNumber;
use calico_store::Store;
use ipnet::{Ipv4Net, Ipv6Net};

mod address;
mod bgp;
mod defaults;
mod error;
mod forwarding;
mod host;
mod name;
mod node;
mod progress;
pub mod relocation;
mod request;
#[cfg(test)]
mod tests;
mod tunnel;

pub use bgp::{check_bgp_port, find_bird};
pub use error::StartupError;
pub use forwarding::enable_forwarding;
pub use name::node_name;
pub use progress::{Progress, Step, Warning};
pub use request::Request;
pub use tunnel::{TunnelError, keep_tunnel_addresses, settle_tunnel_addresses};

use crate::{
    address::Addresses,
    host::{Host, ThisHost},
    progress::Reporter,
};

/// What a host says that keeps the datastore itself.
pub const KEEPS_DATASTORE: &str = "no ETCD_ENDPOINTS: this host keeps the datastore, in /var/lib/calico/datastore; \
                                   add hosts with `calicoctl node invite`";

/// A host that is a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The node's name.
    pub node: String,
    /// Its IPv4 address with the prefix length of its subnet.
    pub ipv4: Ipv4Net,
    /// Its IPv6 address with the prefix length of its subnet.
    pub ipv6: Option<Ipv6Net>,
    /// The AS number of its own; `None` is the cluster's.
    pub as_number: Option<AsNumber>,
}

/// Makes this host a node. Needs root.
///
/// May be repeated: a second call finds everything in place, or brings the node up to date with a changed request.
///
/// # Errors
/// The failure of the first step that failed; it was reported as [`Progress::Failed`] too.
pub async fn prepare(
    store: &Store,
    request: &Request,
    report: &mut (dyn FnMut(Progress) + Send),
) -> Result<Prepared, StartupError> {
    prepare_on(&ThisHost, store, request, report).await
}

/// Makes an empty datastore one that programs can work with: the cluster's identity, and the tiers that every cluster
/// has. What is there already stays as it is.
///
/// # Errors
/// Those of the datastore.
pub async fn initialise(store: &Store) -> Result<Vec<Warning>, StartupError> {
    defaults::cluster(store).await
}

async fn prepare_on(
    host: &dyn Host,
    store: &Store,
    request: &Request,
    report: &mut (dyn FnMut(Progress) + Send),
) -> Result<Prepared, StartupError> {
    let mut reporter = Reporter::new(report);

    let mut step = reporter.start(Step::Name);
    let named = name::settle(request.name.as_deref());
    let node = step.done(named, |(name, warning)| (name.clone(), warning.clone()))?.0;

    let mut step = reporter.start(Step::Address);
    let settled = host.interfaces().await.and_then(|interfaces| address::settle(request, &interfaces));
    let Addresses { ipv4, ipv6, .. } = step.done(settled, |found| (found.to_string(), found.warnings.clone()))?;
    let prepared = Prepared { node, ipv4, ipv6, as_number: request.as_number };

    let mut step = reporter.start(Step::OtherNodes);
    let compared = node::compare(store, &prepared).await;
    step.done(compared, |others| (others.to_string(), others.warnings.clone()))?;

    let mut step = reporter.start(Step::Forwarding);
    step.done(host.enable_forwarding().await, |warnings| ("on".into(), warnings.clone()))?;

    let mut step = reporter.start(Step::Cluster);
    step.done(defaults::cluster(store).await, |warnings| ("in place".into(), warnings.clone()))?;

    let mut step = reporter.start(Step::Settings);
    step.done(defaults::settings(store, &prepared.node).await, |()| ("in place".into(), Vec::new()))?;

    let mut step = reporter.start(Step::Pools);
    let pools = defaults::pools(store, request.no_default_pools, host.has_ipv6(), ipv4).await;
    step.done(pools, |pools| (pools.to_string(), pools.warnings.clone()))?;

    let mut step = reporter.start(Step::Node);
    step.done(node::announce(store, &prepared).await, |announced| (announced.to_string(), Vec::new()))?;
    Ok(prepared)
}
