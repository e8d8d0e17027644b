//! The IPAM driver: pools and addresses for Docker's networks.
//!
//! An address is asked for before anything is known of its endpoint, so it is held by a handle of its own,
//! `libnetwork.<node>.<random>`, and says on which node and when. That is enough for the reconciler to tell one whose
//! endpoint never came from one whose endpoint is just being made.

use std::{collections::BTreeMap, net::IpAddr};

use calico_ipam::{
    AssignError, AssignIp, AutoAssign, Block, Family, HandleId, IntendedUse, Ipam, LookupError, Owner, ReleaseRequest,
};
use calico_model::{IPPool, IPPoolSpec, NodeSpec, WorkloadEndpointSpec};
use calico_store::{Error, Store};
use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::{
    dead::Undertaker,
    endpoint::{ANNOTATION_WORKLOAD, stored_addresses},
    part::{Held, candidates},
    pools::{Choice, PoolId, choose},
    protocol::{GATEWAY, PoolAnswer, RequestAddress, RequestPool},
    retire,
};

/// The address space of both scopes; the network driver knows by it whose addresses a network has.
pub(crate) const ADDRESS_SPACE: &str = "calico";

/// The beginning of all handles of addresses of Docker's networks.
pub(crate) const HANDLE_PREFIX: &str = "libnetwork.";

/// The note that says when an address was asked for.
pub(crate) const TIMESTAMP: &str = "timestamp";

/// How many addresses of a part of a pool are tried that others may take at the same moment.
const CANDIDATES: usize = 64;

/// How often an address is tried for whose block somebody else claims at the same moment.
const TRIES: usize = 5;

/// The driver. Addresses are assigned and released one after another: a host's requests would only meet at the same block.
pub(crate) struct IpamDriver {
    node: String,
    store: Store,
    ipam: Ipam,
    undertaker: Undertaker,
    turn: Mutex<()>,
}

impl IpamDriver {
    pub(crate) fn new(node: &str, store: &Store, undertaker: Undertaker) -> Self {
        let ipam = Ipam::new(store.clone());
        Self { node: node.to_owned(), store: store.clone(), ipam, undertaker, turn: Mutex::new(()) }
    }

    /// `RequestPool`: says which pool a network has, and makes it one if it has to.
    pub(crate) async fn request_pool(&self, request: &RequestPool) -> Result<Value, String> {
        let id = if request.pool.is_empty() {
            self.any_pool(if request.v6 { Family::V6 } else { Family::V4 }).await?
        } else {
            self.range(&request.pool).await?
        };
        let id = id.narrowed(&request.sub_pool)?;
        let gateway = Value::String(id.gateway().to_owned());
        let data = [(GATEWAY.to_owned(), gateway)].into_iter().collect();
        let answer = PoolAnswer { pool_id: id.to_string(), pool: id.shown(), data };
        Ok(serde_json::to_value(answer).expect("an answer has string keys only"))
    }

    async fn any_pool(&self, family: Family) -> Result<PoolId, String> {
        let pools = self.pools().await?;
        let usable = |pool: &&IPPool| Family::of_net(pool.spec.cidr) == family && !pool.spec.disabled;
        if pools.iter().any(|pool| usable(&pool) && pool.spec.assignment_mode != "Manual") {
            return Ok(PoolId::Any(family));
        }
        Err(format!("there is no enabled {family} pool; add one (calicoctl pool add CIDR), or give --subnet"))
    }

    async fn range(&self, typed: &str) -> Result<PoolId, String> {
        let pools = self.pools().await?;
        match choose(typed, &pools, &self.hosts().await?)? {
            Choice::Existing(net) => Ok(PoolId::Range(net)),
            Choice::New(pool) => {
                let cidr = pool.spec.cidr;
                match self.store.create(*pool).await {
                    Ok(pool) => tracing::info!(pool = pool.name(), %cidr, "a network's subnet becomes a pool"),
                    // Another host made it at the same moment.
                    Err(Error::AlreadyExists { .. }) => {}
                    Err(error) => return Err(format!("subnet {cidr} cannot become a pool: {error}")),
                }
                Ok(PoolId::Range(cidr))
            }
        }
    }

    async fn pools(&self) -> Result<Vec<IPPool>, String> {
        let (pools, unreadable) = self.store.list::<IPPoolSpec>().await.map_err(|error| error.to_string())?;
        for error in unreadable {
            tracing::warn!(%error, "skipping a pool that cannot be read");
        }
        Ok(pools)
    }

    /// The addresses of all hosts: no pool may lie over them.
    async fn hosts(&self) -> Result<Vec<IpAddr>, String> {
        let (nodes, _) = self.store.list::<NodeSpec>().await.map_err(|error| error.to_string())?;
        let of = |text: &Option<String>| text.as_ref()?.split('/').next()?.parse().ok();
        Ok(nodes
            .iter()
            .filter_map(|node| node.spec.bgp.as_ref())
            .flat_map(|bgp| [of(&bgp.ipv4_address), of(&bgp.ipv6_address)])
            .flatten()
            .collect())
    }

    /// `ReleasePool`: a pool that was made for networks goes with the last of them.
    pub(crate) async fn release_pool(&self, pool_id: &str) -> Result<Value, String> {
        if let Some(cidr) = pool_id.parse().ok().and_then(PoolId::range)
            && let Err(error) = retire::pool(&self.store, &self.ipam, cidr).await
        {
            // Docker cannot do anything about it; the reconciler tries again.
            tracing::warn!(%cidr, error, "the pool of a removed network stays for now");
        }
        Ok(json!({}))
    }

    /// `RequestAddress`
    pub(crate) async fn request_address(&self, request: &RequestAddress) -> Result<Value, String> {
        let id: PoolId = request.pool_id.parse()?;
        if request.is_gateway() {
            // Each endpoint has a gateway of its own. One that somebody chose takes no address either: answered as typed,
            // its release with the network would be that of a container's address.
            return Ok(json!({ "Address": id.gateway(), "Data": {} }));
        }
        let _turn = self.turn.lock().await;
        let address = match request.address.is_empty() {
            true => self.assign_any(id).await?,
            false => self.assign_exact(id, exact(&request.address)?).await?,
        };
        Ok(json!({ "Address": IpNet::from(address).to_string(), "Data": {} }))
    }

    /// A handle and notes that nothing else has.
    fn holder(&self) -> (HandleId, BTreeMap<String, String>) {
        let now = time::OffsetDateTime::now_utc();
        let handle = format!("{HANDLE_PREFIX}{}.{}", self.node, uuid::Uuid::new_v4().simple());
        let notes = [("node", self.node.clone()), (TIMESTAMP, calico_model::timestamp(now))];
        (handle.into(), notes.map(|(name, value)| (name.to_owned(), value)).into())
    }

    async fn assign_any(&self, id: PoolId) -> Result<IpAddr, String> {
        if let PoolId::Part(net, part) = id {
            return self.assign_part(net, part).await;
        }
        let (handle, notes) = self.holder();
        let mut request =
            AutoAssign { host: self.node.clone(), handle: Some(handle), attrs: Some(notes), ..AutoAssign::default() };
        let (count, pools) = match id.family() {
            Family::V4 => (&mut request.num4, &mut request.pools4),
            Family::V6 => (&mut request.num6, &mut request.pools6),
        };
        *count = 1;
        if let PoolId::Range(net) = id {
            pools.push(net);
        }
        let assigned = self.ipam.auto_assign(request).await.map_err(|error| error.to_string())?;
        let first = assigned.v4.first().or(assigned.v6.first());
        first.map(IpNet::addr).ok_or_else(|| format!("no address of {id} was assigned"))
    }

    async fn assign_exact(&self, id: PoolId, address: IpAddr) -> Result<IpAddr, String> {
        if let Some(net) = id.range()
            && !net.contains(&address)
        {
            return Err(format!("{address} is not in the network's subnet {net}"));
        }
        let request = self.request_of(address);
        for _ in 0..TRIES {
            match self.ipam.assign_ip(request.clone()).await {
                Ok(()) => return Ok(address),
                // The block is there now, and whoever has it, its addresses can be had by all.
                Err(AssignError::LostClaim { .. }) => {}
                Err(error @ AssignError::Taken { .. }) => {
                    if !self.undertaker.bury_dead_owner(address).await? {
                        return Err(self.taken(address, &error).await);
                    }
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Err(format!("the block of {address} was claimed by others {TRIES} times; try again"))
    }

    fn request_of(&self, address: IpAddr) -> AssignIp {
        let (handle, notes) = self.holder();
        AssignIp {
            ip: address,
            host: self.node.clone(),
            handle: Some(handle),
            attrs: Some(notes),
            intended_use: Some(IntendedUse::Workload),
            max_alloc_per_handle: None,
        }
    }

    /// Any address of a part of a pool.
    async fn assign_part(&self, net: IpNet, part: IpNet) -> Result<IpAddr, String> {
        let pools = self.pools().await?;
        let pool = pools.iter().find(|pool| pool.spec.cidr.trunc() == net);
        let length =
            pool.ok_or_else(|| format!("the network's subnet {net} is no pool any more"))?.spec.block_prefix_len();
        let held = self.held(part).await?;
        let reserved = self.ipam.reservations().await.map_err(|error| error.to_string())?;
        let found: Vec<IpAddr> = candidates(part, length, &held, &reserved).take(CANDIDATES).collect();
        for address in found {
            match self.ipam.assign_ip(self.request_of(address)).await {
                Ok(()) => return Ok(address),
                // Another node was faster, or the block is not to be shared: the next one.
                Err(
                    AssignError::Taken { .. }
                    | AssignError::Cooling { .. }
                    | AssignError::LostClaim { .. }
                    | AssignError::OtherOwner { .. }
                    | AssignError::NoOwner { .. }
                    | AssignError::OtherBlockSize { .. },
                ) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Err(format!("no address of --ip-range {part} is free"))
    }

    /// The blocks of a range that exist, with what cannot be had of them.
    async fn held(&self, part: IpNet) -> Result<Vec<Held>, String> {
        let own = Owner::host(&self.node);
        let blocks = self.ipam.all_blocks().await.map_err(|error| error.to_string())?;
        let touched = blocks.iter().filter(|block| block.cidr.contains(&part) || part.contains(&block.cidr));
        let of =
            |block: &Block| Held { cidr: block.cidr, own: block.is_owned_by(&own), used: block.in_use().collect() };
        Ok(touched.map(of).collect())
    }

    /// The refusal of an address, with the name of who has it where it is known.
    async fn taken(&self, address: IpAddr, error: &AssignError) -> String {
        let Ok((endpoints, _)) = self.store.list::<WorkloadEndpointSpec>().await else { return error.to_string() };
        let holder = endpoints.iter().find(|endpoint| stored_addresses(endpoint).any(|found| found == address));
        match holder {
            Some(holder) => {
                let name = holder.metadata.annotations.get(ANNOTATION_WORKLOAD).map_or(holder.name(), String::as_str);
                format!("{address} is in use by {name} on {}", holder.spec.node)
            }
            None => error.to_string(),
        }
    }

    /// `ReleaseAddress`: only what this driver assigned on this node, so that a late or repeated request takes nothing
    /// from anybody. An endpoint that still has the address lives, and keeps it, or is one of whose end Docker said
    /// nothing, and goes first.
    pub(crate) async fn release_address(&self, address: &str) -> Result<Value, String> {
        let address = exact(address)?;
        let _turn = self.turn.lock().await;
        if self.undertaker.bury_owners(address).await? {
            let assigned = assignment(&self.ipam, &self.node, address).await?;
            give_back(&self.ipam, assigned.as_slice()).await?;
        }
        Ok(json!({}))
    }
}

/// What this driver assigned on a node of an address, so that this and nothing later is given back; `None` if nothing.
pub(crate) async fn assignment(ipam: &Ipam, node: &str, address: IpAddr) -> Result<Option<ReleaseRequest>, String> {
    let held = match ipam.get_assignment_attributes(address).await {
        Ok(held) => held,
        Err(LookupError::NotInPool { .. } | LookupError::Unassigned { .. } | LookupError::Cooling { .. }) => {
            return Ok(None);
        }
        Err(error) => return Err(error.to_string()),
    };
    let Some(handle) = held.attribute.handle().filter(|handle| is_ours(handle, node)) else {
        tracing::debug!(%address, "not released: it is held by somebody else by now");
        return Ok(None);
    };
    Ok(Some(ReleaseRequest { address, handle: Some(handle), sequence: Some(held.sequence) }))
}

/// Gives back what was assigned; what was assigned anew meanwhile stays.
pub(crate) async fn give_back(ipam: &Ipam, assigned: &[ReleaseRequest]) -> Result<(), String> {
    if assigned.is_empty() {
        return Ok(());
    }
    match ipam.release_ips(assigned).await {
        Ok(_) | Err(calico_ipam::ReleaseError::Mismatch { .. }) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// True if a handle is one of this driver's on a node.
pub(crate) fn is_ours(handle: &HandleId, node: &str) -> bool {
    let rest = handle.as_str().strip_prefix(HANDLE_PREFIX).and_then(|rest| rest.strip_prefix(node));
    rest.is_some_and(|rest| rest.starts_with('.') && !rest[1..].contains('.'))
}

/// An address, with or without a prefix length.
fn exact(text: &str) -> Result<IpAddr, String> {
    let bare = text.split('/').next().unwrap_or_default();
    bare.parse().map_err(|_| format!("{text:?} is not an address"))
}
