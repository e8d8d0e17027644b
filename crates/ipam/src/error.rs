//! What can go wrong, one enum per kind of operation.
//!
//! Every message names the thing that failed, the cause and, where the user has one, the way out.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::{ConfigError, Family, HandleId, IntendedUse, Mismatch, Released, Timestamp};

/// Failures that any operation can meet on its way to the datastore.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The datastore failed, or holds a value that cannot be read.
    #[error(transparent)]
    Store(#[from] calico_store::Error),
    /// Others changed the same thing again and again.
    #[error("{what}: gave up after {tries} lost races with other writers; try again")]
    Busy {
        /// What was to be changed.
        what: String,
        /// How often it was tried.
        tries: u32,
    },
}

impl AccessError {
    /// The same call may succeed later without any change by the caller.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_unreachable() || error.is_conflict(),
            Self::Busy { .. } => true,
        }
    }
}

/// Why no pool can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The cluster has no usable pool of the family.
    #[error("there is no enabled {family} pool; add one or enable one")]
    NoneEnabled {
        /// The family asked for.
        family: Family,
    },
    /// A pool that was asked for is not there or not enabled.
    #[error("pool {pool} does not exist or is not enabled")]
    NotEnabled {
        /// The pool asked for.
        pool: IpNet,
    },
    /// A pool that was asked for is of the other family.
    #[error("pool {pool} is not an {family} pool")]
    WrongFamily {
        /// The pool asked for.
        pool: IpNet,
        /// The family it was asked for.
        family: Family,
    },
    /// No pool is for this node and namespace.
    #[error("no {family} pool is for node {host}: {}", reasons.join("; "))]
    NoneForNode {
        /// The node.
        host: String,
        /// The family asked for.
        family: Family,
        /// Why not, pool by pool.
        reasons: Vec<String>,
    },
    /// No pool may be used so.
    #[error("no {family} pool allows the use {usage} (looked at {})", list(pools))]
    NoneForUse {
        /// The use asked for.
        usage: IntendedUse,
        /// The family asked for.
        family: Family,
        /// The pools that were candidates.
        pools: Vec<IpNet>,
    },
}

/// Why an address was not assigned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AssignError {
    /// No pool can be used.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The host is not in the datastore, so it is unknown which pools are for it.
    #[error("node {host} does not exist; start the node before assigning addresses on it")]
    NoNode {
        /// The host.
        host: String,
    },
    /// The address asked for lies in no enabled pool.
    #[error("{address} is not in any enabled pool{}", hint(pools))]
    NotInPool {
        /// The address.
        address: IpAddr,
        /// The enabled pools of its family.
        pools: Vec<IpNet>,
    },
    /// The address's pool is not for this use.
    #[error("{address} is in pool {pool}, which does not allow the use {usage}")]
    UseNotAllowed {
        /// The address.
        address: IpAddr,
        /// Its pool.
        pool: IpNet,
        /// The use asked for.
        usage: IntendedUse,
    },
    /// Somebody has the address.
    #[error("{address} (pool {pool}) is already assigned{}", holder(handle))]
    Taken {
        /// The address.
        address: IpAddr,
        /// Its pool.
        pool: IpNet,
        /// Who has it.
        handle: Option<HandleId>,
    },
    /// The address was released a short while ago and is not used again yet.
    #[error(
        "{address} (pool {pool}) was released at {} and cools down; try again later",
        calico_model::timestamp(released_at.0)
    )]
    Cooling {
        /// The address.
        address: IpAddr,
        /// Its pool.
        pool: IpNet,
        /// When it was released.
        released_at: Timestamp,
    },
    /// Strict affinity, and the block is another's.
    #[error("{address} is in block {block} of {owner}, and strict affinity is on: only {owner} may use it")]
    OtherOwner {
        /// The address.
        address: IpAddr,
        /// Its block.
        block: IpNet,
        /// Who owns the block.
        owner: String,
    },
    /// Strict affinity, and the block is nobody's.
    #[error("{address} is in block {block}, which no host owns, and strict affinity is on")]
    NoOwner {
        /// The address.
        address: IpAddr,
        /// Its block.
        block: IpNet,
    },
    /// The pool's blocks had another size before, and those that are left have addresses of this block.
    #[error(
        "{address} would be in block {block}, but blocks of another size are in its place; release their addresses first"
    )]
    OtherBlockSize {
        /// The address.
        address: IpAddr,
        /// The block that it would be in.
        block: IpNet,
    },
    /// Another host claimed the address's block at the same moment.
    #[error("block {block} was claimed by {} at the same moment; try again", owner.as_deref().unwrap_or("nobody"))]
    LostClaim {
        /// The block.
        block: IpNet,
        /// Who owns it now.
        owner: Option<String>,
    },
    /// The pools have fewer free addresses than were asked for.
    #[error("{}", exhausted(*family, *requested, *obtained, *strict, pools))]
    Exhausted {
        /// The family asked for.
        family: Family,
        /// How many were asked for.
        requested: usize,
        /// How many there were.
        obtained: usize,
        /// Whether other hosts' blocks were out of bounds.
        strict: bool,
        /// The pools looked at.
        pools: Vec<IpNet>,
    },
    /// The host owns as many blocks as it may, and they are full.
    #[error(
        "{host} may own {limit} {family} blocks and has no address left in them ({obtained} of {requested} obtained); raise the limit or release addresses"
    )]
    BlockLimit {
        /// The host.
        host: String,
        /// The family asked for.
        family: Family,
        /// How many blocks it may own.
        limit: usize,
        /// How many addresses were asked for.
        requested: usize,
        /// How many there were.
        obtained: usize,
    },
    /// The host's blocks are full and blocks are not claimed automatically.
    #[error(
        "{host} has no {family} address left in its blocks ({obtained} of {requested} obtained), and automatic allocation of blocks is off"
    )]
    NoAutoAllocation {
        /// The host.
        host: String,
        /// The family asked for.
        family: Family,
        /// How many addresses were asked for.
        requested: usize,
        /// How many there were.
        obtained: usize,
    },
    /// The handle holds as many addresses as it may.
    #[error("{handle} may hold {limit} addresses and holds {}", list(held))]
    HandleLimit {
        /// The handle.
        handle: HandleId,
        /// How many it may hold per family.
        limit: usize,
        /// Which it holds.
        held: Vec<IpAddr>,
    },
    /// Addresses reserved per block are none, or more than a block has.
    #[error("{count} reserved addresses per {family} block make no sense")]
    ReservedCount {
        /// The family.
        family: Family,
        /// How many were to be reserved.
        count: usize,
    },
    /// The datastore failed, or too many races were lost.
    #[error(transparent)]
    Access(#[from] AccessError),
}

/// Why addresses were not released.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// Nothing is known of the handle.
    #[error("handle {handle} does not exist")]
    NoHandle {
        /// The handle.
        handle: HandleId,
    },
    /// The caller's knowledge is outdated for some addresses; those of other blocks were released.
    #[error("not released: {}", list(mismatches))]
    Mismatch {
        /// What does not agree.
        mismatches: Vec<Mismatch>,
        /// What was released or free already.
        released: Released,
    },
    /// The datastore failed, or too many races were lost.
    #[error(transparent)]
    Access(#[from] AccessError),
}

/// Why an affinity was not claimed or given up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AffinityError {
    /// The range lies in no enabled pool.
    #[error("{cidr} is not in any enabled pool")]
    NotInPool {
        /// The range.
        cidr: IpNet,
    },
    /// The range is smaller than a block of its pool.
    #[error("{cidr} is smaller than a block of its pool, which is a /{block_len}")]
    TooSmall {
        /// The range.
        cidr: IpNet,
        /// The prefix length of the pool's blocks.
        block_len: u8,
    },
    /// Addresses of the block are in use.
    #[error("block {block} is not empty: {} in use", list(in_use))]
    NotEmpty {
        /// The block.
        block: IpNet,
        /// Its addresses in use.
        in_use: Vec<IpAddr>,
    },
    /// The block changed since the caller looked.
    #[error("block {block} changed meanwhile")]
    Changed {
        /// The block.
        block: IpNet,
    },
    /// Several blocks failed; the others are done.
    #[error("{}", list(errors))]
    Several {
        /// One per block.
        errors: Vec<AffinityError>,
    },
    /// The datastore failed, or too many races were lost.
    #[error(transparent)]
    Access(#[from] AccessError),
}

/// Why a question about an address or a handle has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LookupError {
    /// The address lies in no pool and no block.
    #[error("{address} is not in any pool")]
    NotInPool {
        /// The address.
        address: IpAddr,
    },
    /// Nobody has the address.
    #[error("{address} is not assigned")]
    Unassigned {
        /// The address.
        address: IpAddr,
    },
    /// The address was released and cools down.
    #[error("{address} was released at {} and cools down", calico_model::timestamp(released_at.0))]
    Cooling {
        /// The address.
        address: IpAddr,
        /// When it was released.
        released_at: Timestamp,
    },
    /// Another handle has the address.
    #[error("{address} is not held by {expected} but by {}", found.as_ref().map_or("no handle", HandleId::as_str))]
    OtherHandle {
        /// The address.
        address: IpAddr,
        /// The handle that was said to have it.
        expected: HandleId,
        /// Who has it.
        found: Option<HandleId>,
    },
    /// Nothing is known of the handle.
    #[error("handle {handle} does not exist")]
    NoHandle {
        /// The handle.
        handle: HandleId,
    },
    /// The datastore failed, or too many races were lost.
    #[error(transparent)]
    Access(#[from] AccessError),
}

/// Why settings were not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigureError {
    /// They contradict each other.
    #[error(transparent)]
    Invalid(#[from] ConfigError),
    /// The datastore failed, or too many races were lost.
    #[error(transparent)]
    Access(#[from] AccessError),
}

macro_rules! from_store {
    ($($error:ty),+) => { $(
        impl From<calico_store::Error> for $error {
            fn from(error: calico_store::Error) -> Self {
                Self::Access(error.into())
            }
        }
        impl $error {
            /// The datastore cannot be reached; nothing is wrong with the request.
            pub fn is_unreachable(&self) -> bool {
                matches!(self, Self::Access(AccessError::Store(error)) if error.is_unreachable())
            }
        }
    )+ };
}

from_store!(AssignError, ReleaseError, AffinityError, LookupError, ConfigureError);

impl AssignError {
    /// The same call may succeed at once: a race was lost, nothing is wrong with the request.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::LostClaim { .. } => true,
            Self::Access(error) => error.is_retryable(),
            _ => false,
        }
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    match items {
        [] => "none".to_owned(),
        items => items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

fn hint(pools: &[IpNet]) -> String {
    if pools.is_empty() { String::new() } else { format!("; enabled pools are {}", list(pools)) }
}

fn holder(handle: &Option<HandleId>) -> String {
    handle.as_ref().map(|handle| format!(" to {handle}")).unwrap_or_default()
}

fn exhausted(family: Family, requested: usize, obtained: usize, strict: bool, pools: &[IpNet]) -> String {
    let scope = if strict { " in blocks this host may use (strict affinity is on)" } else { "" };
    let pools = list(pools);
    format!("{requested} {family} addresses requested, {obtained} free{scope} in {pools}: release some or add a pool")
}
