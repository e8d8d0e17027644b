//! Address management: who holds which address, and which host owns which block.
//!
//! Pools are cut into blocks of addresses; a host claims blocks and assigns from them, so that hosts seldom meet and a
//! block is one route. The keys and JSON are those of Calico v3 in etcd, shared with upstream's own programs.
//!
//! This crate decides which address is given out, and nothing else: it configures no interface and no route. It
//! needs no lock and no leader. Every write is a compare-and-swap of one key against the revision that was read,
//! and the order of writes is such that a process may stop between any two of them: no address is ever held twice,
//! and none is lost for good, because whoever comes next finishes or undoes what was begun.
//!
//! The three kinds of objects, each with its own page: the [`Block`] is the truth; the [`Affinity`] says which host
//! claims a block; the [`Handle`] says in which blocks a workload holds addresses. Around them [`Config`] has the
//! cluster's settings, an [`Audit`] compares all of it with who uses addresses, and [`Ipam`] is the client:
//!
//! ```
//! use std::sync::Arc;
//! use calico_ipam::{AutoAssign, Ipam};
//! use calico_model::{IPPool, IPPoolSpec, Node, NodeSpec};
//! use calico_store::{MemoryKv, Store};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let store = Store::new(Arc::new(MemoryKv::new()));
//! let cidr = "10.10.0.0/24".parse()?;
//! store.create(IPPool::new("pool", IPPoolSpec { cidr, block_size: Some(29), ..Default::default() })).await?;
//! store.create(Node::new("node1", NodeSpec::default())).await?;
//!
//! let ipam = Ipam::new(store);
//! let request = AutoAssign { host: "node1".into(), num4: 1, handle: Some("net1.c1".into()), ..Default::default() };
//! let assigned = ipam.auto_assign(request).await?;
//! assert_eq!(assigned.v4, ["10.10.0.208/29".parse()?]);
//! assert_eq!(ipam.release_by_handle(&"net1.c1".into()).await?, ["10.10.0.208".parse::<std::net::IpAddr>()?]);
//! # Ok::<(), Box<dyn std::error::Error>>(()) }).unwrap();
//! ```
//!
//! Names to know: an [`Owner`] is a host or a load balancer; an ordinal is an address's place in its block; strict
//! affinity forbids a host other owners' blocks, without it hosts borrow from them when pools run out.

mod affinities;
mod affinity;
mod assign;
mod assign_ip;
mod audit;
mod auto_assign;
mod block;
mod claim;
mod config;
mod ensure_block;
mod error;
mod forget;
mod handle;
mod handle_count;
mod hunt;
mod ipam;
mod order;
mod pool;
mod query;
mod range;
mod release;
mod reservation;
mod retry;
mod wire;

pub use affinities::Claimed;
pub use affinity::{Affinity, AffinityKey, AffinityKeyError, AffinityState, Owner, OwnerError, OwnerKind};
pub use assign_ip::AssignIp;
pub use audit::{Allocation, Audit, Finding, Snapshot, StoredBlock, Use, User};
pub use auto_assign::{Assigned, AutoAssign};
pub use block::{
    Attribute, BLOCK_ROOT, Block, BlockFault, HostReserved, Mismatch, Ordinal, Sequences, WINDOWS_RESERVED_HANDLE,
    block_key, parse_block_key,
};
pub use config::{CONFIG_KEY, Config, ConfigError, DEFAULT_MAX_BLOCKS};
pub use error::{AccessError, AffinityError, AssignError, ConfigureError, LookupError, PoolError, ReleaseError};
pub use handle::{HANDLE_ROOT, Handle, HandleId};
pub use ipam::{Clock, Ipam};
pub use pool::{IntendedUse, IntendedUseError, Pool, Pools};
pub use query::{Assignment, OwnerUpdate, PoolUsage, Usage, Utilization};
pub use range::Family;
pub use release::{AddressError, ReleaseRequest, Released, parse_address};
pub use reservation::Reservations;
pub use retry::Backoff;
pub use wire::Timestamp;
