//! The Node: compared with the others before anything is written, then announced.
//!
//! The comparison and the write are not one transaction, so two hosts that claim one address at the same moment may
//! both find it free. After its write each looks again: the one whose record is the younger takes it back. etcd orders
//! all writes, so there is exactly one younger record.

use std::{fmt, net::IpAddr, time::Duration};

use calico_model::{Node, NodeSpec};
use calico_store::{Error, Store};

use crate::{Prepared, StartupError, Warning};

/// How often a lost race for the Node is taken up again.
const TRIES: u32 = 10;

/// The wait after the first lost race; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(10);

/// What the comparison found.
#[derive(Debug)]
pub(crate) struct Others {
    count: usize,
    pub(crate) warnings: Vec<Warning>,
}

impl fmt::Display for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            0 => f.write_str("no other nodes"),
            1 => f.write_str("1 other node"),
            count => write!(f, "{count} other nodes"),
        }
    }
}

/// Refuses an address that another node has.
pub(crate) async fn compare(store: &Store, prepared: &Prepared) -> Result<Others, StartupError> {
    let (nodes, unreadable) = store.list::<NodeSpec>().await?;
    let mut warnings: Vec<Warning> = unreadable
        .iter()
        .map(|error| Warning::new(format!("a node is left out of the comparison: {error}"), "repair or delete it"))
        .collect();
    let own = nodes.iter().find(|node| node.name() == prepared.node);
    if let Some(before) = own.and_then(ipv4_of).filter(|before| *before != IpAddr::V4(prepared.ipv4.addr())) {
        let message =
            format!("node {} was known by the address {before} and is now {}", prepared.node, prepared.ipv4.addr());
        warnings.push(Warning::new(message, "if that is another host, give this one a name of its own with --name"));
    }
    if let Some((address, holder)) = clash(&nodes, prepared) {
        return Err(StartupError::AddressInUse { address, holder: holder.name().to_owned() });
    }
    Ok(Others { count: nodes.len() - usize::from(own.is_some()), warnings })
}

/// Another node that has one of our addresses.
fn clash<'a>(nodes: &'a [Node], prepared: &Prepared) -> Option<(IpAddr, &'a Node)> {
    let ours = [Some(IpAddr::V4(prepared.ipv4.addr())), prepared.ipv6.map(|ipv6| IpAddr::V6(ipv6.addr()))];
    nodes.iter().filter(|node| node.name() != prepared.node).find_map(|node| {
        let theirs: Vec<IpAddr> = addresses_of(node).collect();
        let address = ours.into_iter().flatten().find(|address| theirs.contains(address))?;
        Some((address, node))
    })
}

fn ipv4_of(node: &Node) -> Option<IpAddr> {
    address(node.spec.bgp.as_ref()?.ipv4_address.as_deref()?)
}

/// The addresses by which other hosts know a node.
fn addresses_of(node: &Node) -> impl Iterator<Item = IpAddr> {
    let bgp = node.spec.bgp.iter().flat_map(|bgp| [&bgp.ipv4_address, &bgp.ipv6_address]);
    bgp.flatten().filter_map(|text| address(text))
}

/// The address of `address` or `address/length`.
fn address(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

/// How the node was announced.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Announced {
    Created,
    Updated,
    Unchanged,
}

impl fmt::Display for Announced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Unchanged => "up to date",
        })
    }
}

/// Writes the node's record where it differs, and takes it back if another host was first with one of the addresses.
pub(crate) async fn announce(store: &Store, prepared: &Prepared) -> Result<Announced, StartupError> {
    let mut wait = FIRST_WAIT;
    for tried in 1.. {
        let before = match store.get::<NodeSpec>(&prepared.node).await {
            Ok(node) => Some(node),
            Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let mut wanted = before.clone().unwrap_or_else(|| Node::new(&prepared.node, NodeSpec::default()));
        change(&mut wanted.spec, prepared);
        if before.as_ref().is_some_and(|before| before.spec == wanted.spec) {
            return Ok(Announced::Unchanged);
        }
        let written = match &before {
            Some(_) => store.update(wanted).await,
            None => store.create(wanted).await,
        };
        match written {
            Ok(written) => {
                let announced = if before.is_some() { Announced::Updated } else { Announced::Created };
                return keep_or_take_back(store, prepared, before, written).await.map(|()| announced);
            }
            Err(error) if tried < TRIES && (error.is_conflict() || error.is_not_found()) => {
                tracing::info!(node = prepared.node, tried, "the node's record was changed meanwhile; again");
                tokio::time::sleep(wait).await;
                wait *= 2;
            }
            Err(error) => return Err(error.into()),
        }
    }
    unreachable!("the last try returns")
}

/// Sets what start-up decides; everything else stays as it was found. (`spec.addresses` is upstream's list for its
/// Kubernetes datastore; on etcd its node does not write it either.)
fn change(spec: &mut NodeSpec, prepared: &Prepared) {
    let bgp = spec.bgp.get_or_insert_default();
    bgp.ipv4_address = Some(prepared.ipv4.to_string());
    bgp.ipv6_address = prepared.ipv6.map(|ipv6| ipv6.to_string());
    bgp.as_number = prepared.as_number;
}

async fn keep_or_take_back(
    store: &Store,
    prepared: &Prepared,
    before: Option<Node>,
    written: Node,
) -> Result<(), StartupError> {
    let (nodes, _) = store.list::<NodeSpec>().await?;
    let Some((address, winner)) = clash(&nodes, prepared) else { return Ok(()) };
    if winner.revision > written.revision {
        // The other host's record is the younger; it takes its own back.
        return Ok(());
    }
    let lost = StartupError::AddressInUse { address, holder: winner.name().to_owned() };
    let taken_back = match before {
        None => store.delete(&written).await,
        Some(before) => store.update(Node { revision: written.revision, ..before }).await.map(drop),
    };
    if let Err(error) = taken_back {
        tracing::warn!(node = prepared.node, %error, "the node's record could not be taken back");
    }
    Err(lost)
}
