//! Addresses: from what was typed to what is reserved, and back.
//!
//! Each reservation carries the time of the call that made it. What a failed call gives back is exactly what bears
//! its own mark: an answer that was lost on the way is covered, and the addresses of another call are not touched.

use std::{collections::BTreeMap, net::IpAddr};

use calico_ipam::{
    AssignError, AssignIp, Assignment, AutoAssign, HandleId, IntendedUse, Ipam, LookupError, Pool, PoolError,
    ReleaseError, ReleaseRequest,
};
use calico_model::{IPPoolSpec, WorkloadEndpoint};
use ipnet::IpNet;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::workload::Workload;
use crate::{
    commands::race::Races,
    context::Context,
    failure::{Failure, sentence},
};

/// An address as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Any of a family.
    Ipv4,
    /// Any of a family.
    Ipv6,
    /// Any of a pool.
    Pool(IpNet),
    /// This one.
    Exact(IpAddr),
}

impl Wish {
    /// Reads an address, `ipv4`, `ipv6` or a CIDR, of which host bits are ignored.
    ///
    /// # Errors
    /// It is none of these.
    pub(super) fn parse(word: &str) -> Result<Self, Failure> {
        let bad = || {
            Failure::new("Invalid IP address specified. Argument must be a valid IP or CIDR.")
                .because(format!("{word:?} is neither"))
                .hint("give an address as 192.168.0.1 or fd80::1, `ipv4` or `ipv6` for a free one, or a pool's CIDR")
        };
        match word.to_ascii_lowercase().as_str() {
            "ipv4" => Ok(Self::Ipv4),
            "ipv6" => Ok(Self::Ipv6),
            text if text.contains('/') => text.parse::<IpNet>().map(|net| Self::Pool(net.trunc())).map_err(|_| bad()),
            text => text.parse().map(Self::Exact).map_err(|_| bad()),
        }
    }

    /// All of several.
    ///
    /// # Errors
    /// The first bad one, or an address that is there twice.
    pub(super) fn parse_all(words: &[String]) -> Result<Vec<Self>, Failure> {
        let wishes = words.iter().map(|word| Self::parse(word)).collect::<Result<Vec<_>, _>>()?;
        for (index, wish) in wishes.iter().enumerate() {
            if let Self::Exact(address) = wish
                && wishes[..index].contains(wish)
            {
                return Err(Failure::new(format!("IP address {address} was specified more than once.")));
            }
        }
        Ok(wishes)
    }

    /// Refuses, before anything is reserved, what no pool can give.
    pub(super) fn check(self, pools: &[Pool]) -> Result<(), Failure> {
        let of_family = |v4: bool| pools.iter().any(|pool| pool.enabled && pool.cidr.addr().is_ipv4() == v4);
        let none_of = |family: &str| {
            Failure::new(format!("There is no enabled {family} pool to take an address from."))
                .hint("`calicoctl node` makes one of each family unless NO_DEFAULT_POOLS is set")
        };
        match self {
            Self::Ipv4 if !of_family(true) => Err(none_of("IPv4")),
            Self::Ipv6 if !of_family(false) => Err(none_of("IPv6")),
            Self::Ipv4 | Self::Ipv6 => Ok(()),
            Self::Pool(cidr) => match pools.iter().find(|pool| pool.cidr == cidr) {
                None => {
                    Err(Failure::new(format!("Invalid CIDR specified for desired pool. No pool found for {cidr}."))
                        .hint(format!("it must be a whole pool; the pools are {}", list(pools))))
                }
                Some(pool) if !pool.enabled => {
                    Err(Failure::new(format!("Requested pool {cidr} is not configured or has wrong attributes."))
                        .because(format!("pool {} is disabled", pool.name)))
                }
                Some(_) => Ok(()),
            },
            Self::Exact(address) => {
                let mut containing = pools.iter().filter(|pool| pool.cidr.contains(&address)).peekable();
                let not_in_any = Failure::new(format!("{address} is not in any configured pools"));
                match containing.peek() {
                    None => Err(not_in_any.hint(format!("the pools are {}", list(pools)))),
                    Some(pool) => {
                        let cause = format!("pool {} ({}) is disabled", pool.name, pool.cidr);
                        if containing.any(|pool| pool.enabled) { Ok(()) } else { Err(not_in_any.because(cause)) }
                    }
                }
            }
        }
    }
}

fn list(pools: &[Pool]) -> String {
    match pools {
        [] => "none".to_owned(),
        pools => pools.iter().map(|pool| pool.cidr.to_string()).collect::<Vec<_>>().join(", "),
    }
}

/// The pools, disabled ones too.
pub(super) async fn pools(ctx: &Context) -> Result<Vec<Pool>, Failure> {
    let (resources, unreadable) = ctx.store.list::<IPPoolSpec>().await?;
    ctx.note_unreadable(&unreadable);
    let usable = |resource: &calico_model::IPPool| match Pool::new(resource) {
        Ok(pool) => Some(pool),
        Err(reason) => {
            ctx.console.note(&format!("warning: skipped: {reason}"));
            None
        }
    };
    Ok(resources.iter().filter_map(usable).collect())
}

/// Refuses an address that somebody has. Another may still take it before this call does.
pub(super) async fn check_free(ctx: &Context, wish: Wish) -> Result<(), Failure> {
    let Wish::Exact(address) = wish else { return Ok(()) };
    match Ipam::new(ctx.store.clone()).get_assignment_attributes(address).await {
        Ok(assignment) => {
            let pools = pools(ctx).await?;
            let pool = pools.iter().find(|pool| pool.cidr.contains(&address));
            let cidr = pool.map_or(assignment.block, |pool| pool.cidr);
            let attribute = assignment.attribute;
            let node = attribute.secondary.as_ref().and_then(|secondary| secondary.get("node"));
            Err(taken(cidr, address, attribute.handle_id.as_deref(), node.map(String::as_str)))
        }
        Err(LookupError::Access(error)) => Err(Failure::new(sentence(&error)).hint(DATASTORE_HINT)),
        Err(_) => Ok(()),
    }
}

const DATASTORE_HINT: &str = "does the datastore run (calicoctl status), or does ETCD_ENDPOINTS say where it is?";

fn taken(pool: IpNet, address: IpAddr, handle: Option<&str>, node: Option<&str>) -> Failure {
    let owner = match handle.map(|handle| handle.strip_prefix("docker.").ok_or(handle)) {
        // As `docker ps` shows it.
        Some(Ok(id)) => format!("container {}", id.get(..12).unwrap_or(id)),
        Some(Err(handle)) => handle.to_owned(),
        None => "somebody".to_owned(),
    };
    let place = node.map_or_else(String::new, |node| format!(" on {node}"));
    Failure::new(format!("IP address is already assigned in pool {pool}."))
        .because(format!("{address} belongs to {owner}{place}"))
        .hint("choose another address, or leave it out to get a free one")
}

/// One call's reservations for one workload.
pub(super) struct Reservations<'a> {
    ctx: &'a Context,
    ipam: Ipam,
    handle: HandleId,
    /// What every address of this call is marked with.
    attributes: BTreeMap<String, String>,
}

/// The attribute that tells one call from another.
const TIMESTAMP: &str = "timestamp";

impl<'a> Reservations<'a> {
    /// Nothing reserved yet.
    pub(super) fn new(ctx: &'a Context, workload: &Workload) -> Self {
        let now = OffsetDateTime::now_utc();
        let timestamp = now.format(&Rfc3339).unwrap_or_else(|_| calico_model::timestamp(now));
        let attributes = [("node", ctx.node.clone()), (TIMESTAMP, timestamp), ("workload", workload.id.clone())];
        Self {
            ctx,
            ipam: Ipam::new(ctx.store.clone()),
            handle: workload.handle(),
            attributes: attributes.map(|(name, value)| (name.to_owned(), value)).into(),
        }
    }

    /// Reserves an address.
    pub(super) async fn reserve(&self, wish: Wish) -> Result<IpAddr, Failure> {
        let handle = Some(self.handle.clone());
        let attrs = Some(self.attributes.clone());
        let host = self.ctx.node.clone();
        let auto =
            AutoAssign { host: host.clone(), handle: handle.clone(), attrs: attrs.clone(), ..AutoAssign::default() };
        let request = match wish {
            Wish::Exact(ip) => {
                let intended_use = Some(IntendedUse::Workload);
                let request = AssignIp { ip, host, handle, attrs, intended_use, max_alloc_per_handle: None };
                return self.assign_exact(request).await;
            }
            Wish::Ipv4 => AutoAssign { num4: 1, ..auto },
            Wish::Ipv6 => AutoAssign { num6: 1, ..auto },
            Wish::Pool(pool @ IpNet::V4(_)) => AutoAssign { num4: 1, pools4: vec![pool], ..auto },
            Wish::Pool(pool @ IpNet::V6(_)) => AutoAssign { num6: 1, pools6: vec![pool], ..auto },
        };
        let assigned = self.ipam.auto_assign(request).await.map_err(refused)?;
        let address = assigned.v4.first().or(assigned.v6.first()).map(IpNet::addr);
        address.ok_or_else(|| exhausted(wish))
    }

    async fn assign_exact(&self, request: AssignIp) -> Result<IpAddr, Failure> {
        let mut races = Races::new(format!("The block of {}", request.ip));
        loop {
            match self.ipam.assign_ip(request.clone()).await {
                Ok(()) => return Ok(request.ip),
                // The block is there now, and whoever has it, its addresses can be had by all.
                Err(AssignError::LostClaim { .. }) => races.lost().await?,
                Err(error) => return Err(refused(error)),
            }
        }
    }

    /// Gives back what this call has reserved.
    pub(super) async fn give_back(&self) -> Result<(), Failure> {
        let held = match self.ipam.ips_by_handle(&self.handle).await {
            Ok(held) => held,
            Err(LookupError::NoHandle { .. }) => return Ok(()),
            Err(error) => return Err(Failure::new(sentence(&error))),
        };
        let ours = self.ours(held).await?;
        if !ours.is_empty() {
            self.ipam.release_ips(&ours).await.map_err(|error| Failure::new(sentence(&error)))?;
        }
        // A call that was cut short counts an address that it never got. The workload is locked: nobody else
        // assigns for it now.
        self.ipam.forget_handle(&self.handle).await.map(|_| ()).map_err(|error| Failure::new(sentence(&error)))
    }

    /// Those that bear this call's mark.
    async fn ours(&self, held: Vec<IpAddr>) -> Result<Vec<ReleaseRequest>, Failure> {
        let mut ours = Vec::new();
        for address in held {
            let assignment = match self.ipam.get_assignment_attributes(address).await {
                Ok(assignment) => assignment,
                Err(LookupError::Access(error)) => return Err(Failure::new(sentence(&error))),
                // Released meanwhile.
                Err(_) => continue,
            };
            let marked = assignment.attribute.secondary.as_ref().and_then(|secondary| secondary.get(TIMESTAMP));
            if marked == self.attributes.get(TIMESTAMP) {
                let (handle, sequence) = (Some(self.handle.clone()), Some(assignment.sequence));
                ours.push(ReleaseRequest { address, handle, sequence });
            }
        }
        Ok(ours)
    }
}

fn exhausted(wish: Wish) -> Failure {
    let (v4, v6) = match wish {
        Wish::Ipv4 | Wish::Pool(IpNet::V4(_)) | Wish::Exact(IpAddr::V4(_)) => (1, 0),
        Wish::Ipv6 | Wish::Pool(IpNet::V6(_)) | Wish::Exact(IpAddr::V6(_)) => (0, 1),
    };
    let pools = match wish {
        Wish::Pool(pool) => format!("Pool {pool} is likely exhausted."),
        _ => "Pools are likely exhausted.".to_owned(),
    };
    Failure::new(format!("Failed to allocate any IPs (requested {v4} IPv4s and {v6} IPv6s). {pools}"))
}

/// A refused assignment in the words that users of the classic tool know.
fn refused(error: AssignError) -> Failure {
    match &error {
        AssignError::Taken { address, pool, handle } => {
            taken(*pool, *address, handle.as_ref().map(HandleId::as_str), None)
        }
        AssignError::NotInPool { address, pools } => {
            let pools = pools.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            Failure::new(format!("{address} is not in any configured pools")).hint(format!("the pools are {pools}"))
        }
        AssignError::Exhausted { family, .. } => exhausted(match family {
            calico_ipam::Family::V4 => Wish::Ipv4,
            calico_ipam::Family::V6 => Wish::Ipv6,
        })
        .because(error.to_string())
        .hint("release addresses with calicoctl container remove, or add a pool"),
        AssignError::Pool(PoolError::NotEnabled { pool }) => {
            Failure::new(format!("Requested pool {pool} is not configured or has wrong attributes.")).cause(&error)
        }
        AssignError::Access(_) => Failure::new("The address could not be reserved.").cause(&error).hint(DATASTORE_HINT),
        _ => Failure::new(sentence(&error)),
    }
}

/// Frees every address of a workload: those of its handle, and those that its endpoints name and nobody's handle
/// holds (an endpoint may have been made by another tool). Addresses that belong to somebody else stay.
pub(super) async fn free_all(
    ctx: &Context,
    workload: &Workload,
    endpoints: &[WorkloadEndpoint],
) -> Result<Vec<IpAddr>, Failure> {
    let ipam = Ipam::new(ctx.store.clone());
    let mut freed = match ipam.release_by_handle(&workload.handle()).await {
        Ok(freed) => freed,
        Err(ReleaseError::NoHandle { .. }) => Vec::new(),
        Err(error) => return Err(Failure::new(sentence(&error))),
    };
    for address in endpoints.iter().flat_map(of_endpoint) {
        if freed.contains(&address) {
            continue;
        }
        match ipam.get_assignment_attributes(address).await {
            Ok(assignment) if is_its(&assignment, workload) => {
                let request = ReleaseRequest { address, handle: None, sequence: Some(assignment.sequence) };
                ipam.release_ips(&[request]).await.map_err(|error| Failure::new(sentence(&error)))?;
                freed.push(address);
            }
            Err(LookupError::Access(error)) => return Err(Failure::new(sentence(&error))),
            // Free, outside every pool, or somebody else's.
            _ => {}
        }
    }
    // See `Reservations::give_back`.
    ipam.forget_handle(&workload.handle()).await.map_err(|error| Failure::new(sentence(&error)))?;
    Ok(freed)
}

/// True for an address of the workload's handle, or of no handle at all.
fn is_its(assignment: &Assignment, workload: &Workload) -> bool {
    assignment.attribute.handle_id.as_deref().is_none_or(|holder| holder == workload.handle().as_str())
}

/// Frees one address of a workload.
pub(super) async fn free(ctx: &Context, workload: &Workload, address: IpAddr) -> Result<(), Failure> {
    let ipam = Ipam::new(ctx.store.clone());
    let assignment = match ipam.get_assignment_attributes(address).await {
        Ok(assignment) => assignment,
        Err(LookupError::Access(error)) => return Err(Failure::new(sentence(&error))),
        Err(_) => return Ok(()),
    };
    if !is_its(&assignment, workload) {
        return Ok(());
    }
    let request = ReleaseRequest { address, handle: None, sequence: Some(assignment.sequence) };
    ipam.release_ips(&[request]).await.map(|_| ()).map_err(|error| Failure::new(sentence(&error)))
}

/// The addresses that an endpoint names.
pub(in crate::commands) fn of_endpoint(endpoint: &WorkloadEndpoint) -> Vec<IpAddr> {
    let address = |net: &String| net.split('/').next().and_then(|address| address.parse().ok());
    endpoint.spec.ip_networks.iter().filter_map(address).collect()
}
