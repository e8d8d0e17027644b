//! Comparing what is allocated with what is used, and the parts of IPAM with each other.
//!
//! [`Ipam::snapshot`] reads, [`Audit::of`] judges without I/O, [`Ipam::repair`] mends single findings. The first half
//! of an audit is what upstream's `ipam check` finds (leaks, addresses in use that nobody allocated, handles without
//! addresses, addresses without handle, damaged blocks); the second half, [`Audit::findings`], is what it does not
//! look at.

mod finding;
mod repair;
mod snapshot;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use time::OffsetDateTime;

use crate::{AffinityKey, Attribute, Block, BlockFault, HandleId, Owner, OwnerKind, range};
pub use finding::Finding;
pub use snapshot::{Snapshot, StoredBlock, Use, User};

/// One allocated address.
#[derive(Clone, Debug, PartialEq)]
pub struct Allocation {
    /// The address.
    pub address: IpAddr,
    /// Its block.
    pub block: IpNet,
    /// Who owns the block, as it is stored.
    pub block_owner: Option<String>,
    /// What is known of the holder; `None` if the block is damaged and names nothing.
    pub attribute: Option<Attribute>,
    /// The sequence number of the allocation.
    pub sequence: u64,
    /// Who uses the address.
    pub users: Vec<User>,
}

impl Allocation {
    /// The handle that holds the address; what Windows hosts set aside has none.
    pub fn handle(&self) -> Option<HandleId> {
        self.attribute.as_ref().filter(|attribute| !attribute.is_windows_reserved())?.handle()
    }

    /// What the holder noted under a name.
    pub fn note(&self, name: &str) -> Option<&str> {
        self.attribute.as_ref()?.secondary.as_ref()?.get(name).map(String::as_str).filter(|note| !note.is_empty())
    }

    fn block_host(&self) -> &str {
        self.block_owner.as_deref().and_then(|owner| owner.strip_prefix("host:")).unwrap_or_default()
    }

    /// The host that the address is on: what the holder noted, else the block's; empty if neither says.
    pub fn node(&self) -> &str {
        self.note("node").unwrap_or_else(|| self.block_host())
    }

    /// True if the address is on another host than the block's.
    pub fn is_borrowed(&self) -> bool {
        self.node() != self.block_host()
    }

    /// True if the address was released and is not free yet.
    pub fn is_cooling(&self) -> bool {
        self.attribute.as_ref().is_some_and(|attribute| attribute.released_at.is_some())
    }
}

/// What an audit found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Audit {
    /// Every allocated address, by block and address.
    pub allocations: Vec<Allocation>,
    /// Addresses that are allocated and that nobody uses.
    pub leaked: BTreeSet<IpAddr>,
    /// Addresses in use, with their users.
    pub used: BTreeMap<IpAddr, Vec<User>>,
    /// Addresses in use that are in no enabled pool and that nobody allocated.
    pub outside: BTreeSet<IpAddr>,
    /// Addresses in use that are in an enabled pool and that nobody allocated.
    pub unallocated: BTreeSet<IpAddr>,
    /// Handles without an address.
    pub idle_handles: BTreeSet<HandleId>,
    /// How many handles have addresses.
    pub good_handles: usize,
    /// Handles that hold addresses and do not exist.
    pub missing_handles: BTreeSet<HandleId>,
    /// Damaged blocks, each with the first fault, in the order of the snapshot.
    pub damaged: Vec<(IpNet, String)>,
    /// What else is not as it should be.
    pub findings: Vec<Finding>,
}

impl Audit {
    /// Judges a snapshot. `now` is when it was taken.
    pub fn of(snapshot: &Snapshot, now: OffsetDateTime) -> Self {
        let allocations = snapshot.readable_blocks().flat_map(allocations).collect();
        let mut audit = Self { allocations, ..Self::default() };
        audit.attribute_uses(snapshot);
        audit.compare_uses(snapshot);
        audit.compare_handles(snapshot);
        for stored in &snapshot.blocks {
            let fault = match &stored.block {
                Ok(block) => block.faults(now).first().map(BlockFault::to_string),
                Err(cause) => Some(cause.clone()),
            };
            audit.damaged.extend(fault.map(|fault| (stored.cidr, fault)));
        }
        audit.find(snapshot, now);
        audit
    }

    /// How many problems upstream's `ipam check` would count. Missing handles are told there, but not counted.
    pub fn problems(&self) -> usize {
        self.leaked.len() + self.outside.len() + self.unallocated.len() + self.idle_handles.len() + self.damaged.len()
    }

    /// Says of every allocation and of every address who uses it.
    fn attribute_uses(&mut self, snapshot: &Snapshot) {
        for allocation in &self.allocations {
            if allocation.attribute.as_ref().is_some_and(Attribute::is_windows_reserved) {
                self.used.entry(allocation.address).or_default().push(User::Windows);
            }
        }
        for Use { address, user } in snapshot.node_uses.iter().chain(&snapshot.workload_uses) {
            self.used.entry(*address).or_default().push(user.clone());
        }
        for allocation in &mut self.allocations {
            allocation.users = self.used.get(&allocation.address).cloned().unwrap_or_default();
        }
    }

    fn compare_uses(&mut self, snapshot: &Snapshot) {
        let allocated: BTreeSet<IpAddr> = self.allocations.iter().map(|allocation| allocation.address).collect();
        let kept = |allocation: &&Allocation| !allocation.users.is_empty() || allocation.is_cooling();
        let kept: BTreeSet<IpAddr> =
            self.allocations.iter().filter(kept).map(|allocation| allocation.address).collect();
        self.leaked = &allocated - &kept;
        for address in self.used.keys().filter(|address| !allocated.contains(address)) {
            let in_pool = snapshot.pools.iter().any(|(pool, enabled)| *enabled && pool.contains(address));
            if in_pool {
                self.unallocated.insert(*address)
            } else {
                self.outside.insert(*address)
            };
        }
    }

    fn compare_handles(&mut self, snapshot: &Snapshot) {
        let active: BTreeSet<HandleId> = self.allocations.iter().filter_map(Allocation::handle).collect();
        let (good, idle) = snapshot.handles.keys().cloned().partition::<BTreeSet<_>, _>(|id| active.contains(id));
        self.good_handles = good.len();
        self.idle_handles = idle;
        self.missing_handles = active.into_iter().filter(|id| !snapshot.handles.contains_key(id)).collect();
    }

    fn find(&mut self, snapshot: &Snapshot, now: OffsetDateTime) {
        let mut findings = Vec::new();
        self.find_doubles(&mut findings);
        for stored in &snapshot.blocks {
            match &stored.block {
                Ok(block) => find_in_block(block, snapshot, now, &mut findings),
                Err(cause) => {
                    findings.push(Finding::Unreadable { key: crate::block_key(stored.cidr), cause: cause.clone() })
                }
            }
        }
        find_in_affinities(snapshot, &mut findings);
        find_hosts(snapshot, &mut findings);
        self.find_counts(snapshot, &mut findings);
        let unreadable = snapshot.unreadable.iter().cloned();
        findings.extend(unreadable.map(|(key, cause)| Finding::Unreadable { key, cause }));
        self.findings = findings;
    }

    fn find_doubles(&self, findings: &mut Vec<Finding>) {
        for (&address, users) in &self.used {
            let users: BTreeSet<&User> = users.iter().collect();
            if users.len() > 1 {
                findings.push(Finding::DoubleUse { address, users: users.into_iter().map(User::to_string).collect() });
            }
        }
        let mut blocks: BTreeMap<IpAddr, Vec<IpNet>> = BTreeMap::new();
        for allocation in &self.allocations {
            blocks.entry(allocation.address).or_default().push(allocation.block);
        }
        let doubles = blocks.into_iter().filter(|(_, blocks)| blocks.len() > 1);
        findings.extend(doubles.map(|(address, blocks)| Finding::DoubleAllocation { address, blocks }));
    }

    /// Counts that are not what blocks say. A handle without any address is told as such and not here.
    fn find_counts(&self, snapshot: &Snapshot, findings: &mut Vec<Finding>) {
        let mut held: BTreeMap<(HandleId, IpNet), usize> = BTreeMap::new();
        for allocation in &self.allocations {
            if let Some(handle) = allocation.handle() {
                *held.entry((handle, allocation.block)).or_default() += 1;
            }
        }
        for (id, (handle, _)) in &snapshot.handles {
            for block in handle.blocks().filter(|_| !self.idle_handles.contains(id)) {
                held.entry((id.clone(), block)).or_default();
            }
        }
        for ((id, block), held) in held {
            let counted = snapshot.handles.get(&id).map_or(0, |(handle, _)| handle.count(block));
            if usize::try_from(counted) != Ok(held) {
                findings.push(Finding::WrongCount { handle: id.to_string(), block, counted, held });
            }
        }
    }
}

/// The allocated addresses of a block, as far as it has addresses.
fn allocations(block: &Block) -> impl Iterator<Item = Allocation> + '_ {
    let size = usize::try_from(range::size(block.cidr)).unwrap_or(usize::MAX);
    let allocated = (0..block.allocations.len().min(size)).filter(|ordinal| block.allocations[*ordinal].is_some());
    allocated.map(|ordinal| Allocation {
        address: block.address(ordinal),
        block: block.cidr,
        block_owner: block.affinity.clone(),
        attribute: block.attribute(ordinal).cloned(),
        sequence: block.sequence(ordinal),
        users: Vec::new(),
    })
}

fn find_in_block(block: &Block, snapshot: &Snapshot, now: OffsetDateTime, findings: &mut Vec<Finding>) {
    let cidr = block.cidr;
    let faults: Vec<String> = block.faults(now).iter().map(BlockFault::to_string).collect();
    if !faults.is_empty() {
        findings.push(Finding::DamagedBlock { block: cidr, faults });
    }
    if !snapshot.pools.iter().any(|(pool, _)| pool.contains(&cidr)) {
        findings.push(Finding::Orphan { block: cidr, in_use: block.in_use().count() });
    }
    match block.owner() {
        None if block.affinity.is_none() && block.is_empty() => findings.push(Finding::Abandoned { block: cidr }),
        Some(owner) if !snapshot.affinities.contains_key(&AffinityKey::new(&owner, cidr)) => {
            findings.push(Finding::NoAffinity { block: cidr, owner: owner.to_string() });
        }
        _ => {}
    }
}

fn find_in_affinities(snapshot: &Snapshot, findings: &mut Vec<Finding>) {
    let blocks: BTreeMap<IpNet, &StoredBlock> = snapshot.blocks.iter().map(|stored| (stored.cidr, stored)).collect();
    for (AffinityKey { owner, block: cidr }, affinity) in &snapshot.affinities {
        let (name, state, block) = (owner.to_string(), affinity.state.to_string(), *cidr);
        let Some(stored) = blocks.get(cidr) else {
            findings.push(Finding::NoBlock { owner: name, block, state });
            continue;
        };
        // Of a block that cannot be read nobody knows the owner; that it cannot be read is told.
        let Ok(found) = &stored.block else { continue };
        if !found.is_owned_by(owner) {
            let block_owner = found.affinity.clone();
            findings.push(Finding::ForeignAffinity { owner: name, block, state, block_owner });
        } else if !affinity.is_confirmed() {
            findings.push(Finding::Unfinished { owner: name, block, state });
        }
    }
}

/// Hosts that own blocks, or claim some, and are no nodes.
fn find_hosts(snapshot: &Snapshot, findings: &mut Vec<Finding>) {
    let owners = snapshot.readable_blocks().filter_map(|block| Some((block.owner()?, block.cidr)));
    let claims = snapshot.affinities.keys().map(|key| (key.owner.clone(), key.block));
    let mut gone: BTreeMap<Owner, BTreeSet<IpNet>> = BTreeMap::new();
    for (owner, block) in owners.chain(claims) {
        if owner.kind == OwnerKind::Host && !snapshot.nodes.contains(&owner.name) {
            gone.entry(owner).or_default().insert(block);
        }
    }
    let finding = |(owner, blocks): (Owner, BTreeSet<IpNet>)| Finding::NoNode {
        node: owner.name,
        blocks: blocks.into_iter().collect(),
    };
    findings.extend(gone.into_iter().map(finding));
}

#[cfg(test)]
mod tests;
