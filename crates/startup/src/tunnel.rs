//! This host's tunnel addresses: one for each family in which a pool uses VXLAN and the host has an address, taken from
//! such a pool.
//!
//! Hosts know each other's VXLAN devices by these addresses, and find them in the Nodes. They are IPAM's like a
//! workload's, held by a handle of this host, and given back when no pool needs them any more.
//!
//! Invariants: an address is in the Node only while the handle holds it: it is taken first and written then, and taken
//! out of the Node first and given back then. Whoever stops in between leaves an address with the handle, and the next
//! run goes on with that one.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use calico_ipam::{AssignError, AssignIp, AutoAssign, HandleId, IntendedUse, Ipam, LookupError, Pool, ReleaseError};
use calico_model::{EncapMode, IPPool, IPPoolSpec, KindName, Node, NodeSpec, ResourceKey};
use calico_store::{Error, Event, Store, Syncer};
use ipnet::IpNet;
use tokio::time::{Instant, sleep_until};

/// First and longest wait after a failure.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// One address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn is_of(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }

    /// As upstream names it.
    fn handle(self, node: &str) -> HandleId {
        match self {
            Self::V4 => HandleId::from(format!("vxlan-tunnel-addr-{node}")),
            Self::V6 => HandleId::from(format!("vxlan-v6-tunnel-addr-{node}")),
        }
    }

    /// Upstream's notes.
    fn notes(self, node: &str) -> BTreeMap<String, String> {
        let kind = if self == Self::V4 { "vxlanTunnelAddress" } else { "vxlanV6TunnelAddress" };
        BTreeMap::from([("node".to_owned(), node.to_owned()), ("type".to_owned(), kind.to_owned())])
    }

    /// Whether other hosts reach this one in the family.
    fn has_host_address(self, spec: &NodeSpec) -> bool {
        let bgp = spec.bgp.as_ref();
        bgp.is_some_and(|bgp| if self == Self::V4 { bgp.ipv4_address.is_some() } else { bgp.ipv6_address.is_some() })
    }

    fn field(self, spec: &mut NodeSpec) -> &mut Option<String> {
        match self {
            Self::V4 => &mut spec.ipv4_vxlan_tunnel_addr,
            Self::V6 => &mut spec.ipv6_vxlan_tunnel_addr,
        }
    }
}

/// Why a tunnel address could not be settled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// No VXLAN pool has a free address for this host.
    #[error("no address for the {family} VXLAN tunnel of {node}; the pools are {pools}")]
    NoAddress {
        /// The host.
        node: String,
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// Where it was looked for.
        pools: String,
        /// IPAM's word.
        #[source]
        source: AssignError,
    },
    /// There are VXLAN pools, but none may be used for it.
    #[error(
        "no {family} VXLAN pool gives {node} a tunnel address: each is disabled, not for this host, or without the use \
         Tunnel"
    )]
    NoPool {
        /// The host.
        node: String,
        /// `IPv4` or `IPv6`.
        family: &'static str,
    },
    /// The datastore failed.
    #[error(transparent)]
    Datastore(#[from] Error),
    /// An address could not be looked up.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// An address could not be given back.
    #[error(transparent)]
    Release(#[from] ReleaseError),
}

/// Keeps this host's tunnel addresses as the pools need them, for ever: whenever a pool or the Node changes, and again
/// after a failure, with growing pauses. Waits for the Node to be there.
pub async fn keep_tunnel_addresses(store: &Store, node: &str) {
    let own = ResourceKey::new(KindName::Node, None, node).to_string();
    let mut changes = Syncer::spawn(store.kv().clone(), vec![ResourceKey::prefix(KindName::IPPool), own]);
    let (mut in_sync, mut wait, mut retry_at) = (false, RETRY.0, None);
    loop {
        tokio::select! {
            events = changes.next() => match events {
                Some(events) => in_sync |= events.iter().any(|event| matches!(event, Event::InSync)),
                // The syncer lives as long as its handle; pending keeps a bug there from becoming a busy loop.
                None => std::future::pending().await,
            },
            () = sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => {}
        }
        if !in_sync {
            continue;
        }
        match settle_tunnel_addresses(store, node).await {
            Ok(()) => (wait, retry_at) = (RETRY.0, None),
            Err(error) => {
                tracing::warn!(%error, cause = ?std::error::Error::source(&error).map(ToString::to_string), ?wait,
                    "this host's tunnel address is not settled; trying again");
                retry_at = Some(Instant::now() + wait);
                wait = (wait * 2).min(RETRY.1);
            }
        }
    }
}

/// Takes, keeps or gives back this host's tunnel addresses, once. A host without a Node gets none.
///
/// # Errors
/// The first family's failure; the other one is settled all the same.
pub async fn settle_tunnel_addresses(store: &Store, node: &str) -> Result<(), TunnelError> {
    let record = match store.get::<NodeSpec>(node).await {
        Err(error) if error.is_not_found() => return Ok(()),
        other => other?,
    };
    let (pools, unreadable) = store.list::<IPPoolSpec>().await?;
    for error in &unreadable {
        tracing::warn!(%error, "a pool is left out of the choice of tunnel addresses");
    }
    let all_read = unreadable.is_empty();
    let mut outcome = Ok(());
    for family in [Family::V4, Family::V6] {
        let settling = Settling { store, ipam: Ipam::new(store.clone()), node, family, all_read };
        outcome = outcome.and(settling.settle(&record, &pools).await);
    }
    outcome
}

struct Settling<'a> {
    store: &'a Store,
    ipam: Ipam,
    node: &'a str,
    family: Family,
    /// There is no pool that cannot be read, and might use VXLAN.
    all_read: bool,
}

impl Settling<'_> {
    async fn settle(&self, record: &Node, pools: &[IPPool]) -> Result<(), TunnelError> {
        let vxlan: Vec<&IPPool> = pools.iter().filter(|pool| self.uses_vxlan(pool)).collect();
        let is_inside = |address: &IpAddr| vxlan.iter().any(|pool| pool.spec.cidr.contains(address));
        let written = self.family.field(&mut record.spec.clone()).clone();
        let present: Option<IpAddr> = written.as_deref().and_then(|text| text.parse().ok());
        if vxlan.is_empty() || !self.family.has_host_address(&record.spec) {
            if !self.all_read {
                return Ok(());
            }
            if written.is_some() {
                self.write(None).await?;
            }
            return self.give_back_all().await;
        }
        let held = self.held().await?;
        // What a pool that is disabled now gave once is still good.
        let kept = present.filter(|address| held.contains(address)).filter(is_inside);
        let kept = kept.or_else(|| held.iter().copied().find(is_inside));
        let address = match kept {
            Some(address) => address,
            None => {
                if !held.is_empty() {
                    // Of a pool that does not use VXLAN (any more).
                    self.write(None).await?;
                    self.give_back_all().await?;
                }
                self.take(present.filter(is_inside), record, &vxlan).await?
            }
        };
        if present == Some(address) { Ok(()) } else { self.write(Some(address)).await }
    }

    fn uses_vxlan(&self, pool: &IPPool) -> bool {
        self.family.is_of(pool.spec.cidr.addr()) && pool.spec.vxlan_mode.is_some_and(|mode| mode != EncapMode::Never)
    }

    /// The addresses that the handle holds.
    async fn held(&self) -> Result<Vec<IpAddr>, TunnelError> {
        match self.ipam.ips_by_handle(&self.family.handle(self.node)).await {
            Ok(addresses) => Ok(addresses.into_iter().filter(|address| self.family.is_of(*address)).collect()),
            Err(LookupError::NoHandle { .. }) => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// The address that the Node says, if nobody else has it; else any.
    async fn take(&self, said: Option<IpAddr>, record: &Node, vxlan: &[&IPPool]) -> Result<IpAddr, TunnelError> {
        let (handle, attrs) = (Some(self.family.handle(self.node)), Some(self.family.notes(self.node)));
        if let Some(ip) = said {
            let request = AssignIp {
                ip,
                host: self.node.to_owned(),
                handle: handle.clone(),
                attrs: attrs.clone(),
                intended_use: Some(IntendedUse::Tunnel),
                max_alloc_per_handle: Some(1),
            };
            match self.ipam.assign_ip(request).await {
                Ok(()) => return Ok(ip),
                Err(error) => {
                    tracing::warn!(address = %ip, %error, "the Node's tunnel address is not to be had; taking another");
                }
            }
        }
        let usable = |pool: &&&IPPool| {
            let labels = &record.metadata.labels;
            Pool::new(pool).is_ok_and(|pool| {
                pool.enabled && pool.allows(IntendedUse::Tunnel) && pool.selects_node(labels).unwrap_or(false)
            })
        };
        let nets: Vec<IpNet> = vxlan.iter().filter(usable).map(|pool| pool.spec.cidr).collect();
        let (node, v4) = (self.node.to_owned(), self.family == Family::V4);
        let family = if v4 { "IPv4" } else { "IPv6" };
        if nets.is_empty() {
            return Err(TunnelError::NoPool { node, family });
        }
        let pools = nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let request = AutoAssign {
            host: node.clone(),
            num4: usize::from(v4),
            num6: usize::from(!v4),
            handle,
            attrs,
            pools4: if v4 { nets.clone() } else { Vec::new() },
            pools6: if v4 { Vec::new() } else { nets },
            intended_use: IntendedUse::Tunnel,
            max_alloc_per_handle: Some(1),
            ..AutoAssign::default()
        };
        let assigned = self.ipam.auto_assign(request).await;
        let assigned = assigned.map_err(|source| TunnelError::NoAddress { node, family, pools, source })?;
        let net = assigned.v4.first().or(assigned.v6.first()).expect("all that is asked for is assigned, or an error");
        tracing::info!(address = %net.addr(), family, "tunnel address taken");
        Ok(net.addr())
    }

    /// Says in the Node what the address is.
    async fn write(&self, address: Option<IpAddr>) -> Result<(), TunnelError> {
        let text = address.map(|address| address.to_string());
        let key = ResourceKey::new(KindName::Node, None, self.node);
        let change = |node: &mut Node| {
            self.family.field(&mut node.spec).clone_from(&text);
            Ok::<_, Error>(())
        };
        match self.store.modify(&key, change).await {
            // A host that was removed meanwhile.
            Err(error) if error.is_not_found() => self.give_back_all().await,
            other => Ok(other.map(drop)?),
        }
    }

    async fn give_back_all(&self) -> Result<(), TunnelError> {
        match self.ipam.release_by_handle(&self.family.handle(self.node)).await {
            Ok(addresses) if addresses.is_empty() => Ok(()),
            Ok(addresses) => {
                tracing::info!(?addresses, "tunnel address given back");
                Ok(())
            }
            Err(ReleaseError::NoHandle { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
