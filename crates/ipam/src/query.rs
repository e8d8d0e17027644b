//! Looking up who has what, and changing what is noted of a holder.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use crate::{
    Attribute, Block, Family, HandleId, Ipam, Reservations,
    error::{AccessError, LookupError},
    ipam::Stored,
    range::size,
    retry::is_race,
};

/// What is known of an assigned address.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// The address's block.
    pub block: IpNet,
    /// Who owns the block, as it is stored.
    pub block_owner: Option<String>,
    /// Changes whenever the address is assigned anew; see [`ReleaseRequest::sequence`](crate::ReleaseRequest).
    pub sequence: u64,
    /// The holder and its notes.
    pub attribute: Attribute,
}

/// A change to the notes about an address's owners. `None` leaves a part alone, an empty map clears it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnerUpdate {
    /// The present owner's notes.
    pub active: Option<BTreeMap<String, String>>,
    /// The notes of the owner that is to take over.
    pub alternate: Option<BTreeMap<String, String>>,
}

/// How much of something is in use. Counts are exact for every pool but `::/0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The range.
    pub cidr: IpNet,
    /// Its addresses.
    pub capacity: u128,
    /// Addresses assigned or cooling.
    pub in_use: u128,
    /// Addresses in reservations, in use or not.
    pub reserved: u128,
    /// Addresses that could be assigned automatically.
    pub available: u128,
}

/// One pool's usage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolUsage {
    /// The pool's name.
    pub name: String,
    /// All of the pool.
    pub usage: Usage,
    /// Its blocks, in key order.
    pub blocks: Vec<Usage>,
}

/// The whole cluster's usage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Utilization {
    /// By pool name.
    pub pools: Vec<PoolUsage>,
    /// Blocks outside of every pool.
    pub orphans: Vec<Usage>,
}

impl Ipam {
    /// The addresses that a handle holds, ascending.
    ///
    /// # Errors
    /// [`LookupError::NoHandle`], the datastore's.
    pub async fn ips_by_handle(&self, handle: &HandleId) -> Result<Vec<IpAddr>, LookupError> {
        let addresses = self.addresses_of(handle).await?;
        addresses.ok_or_else(|| LookupError::NoHandle { handle: handle.clone() })
    }

    /// As [`ips_by_handle`](Self::ips_by_handle); `None` if there is no such handle. Blocks that cannot be read are
    /// logged and left out.
    pub(crate) async fn addresses_of(&self, handle: &HandleId) -> Result<Option<Vec<IpAddr>>, AccessError> {
        let Some(stored) = self.handle(handle).await? else { return Ok(None) };
        let mut addresses = Vec::new();
        for cidr in stored.value.blocks() {
            match self.damaged_block(cidr).await {
                Ok(Some(block)) => addresses.extend(block.value.held_by(handle)),
                Ok(None) => tracing::debug!(%handle, block = %cidr, "the handle names a block that is gone"),
                Err(error @ calico_store::Error::Corrupt { .. }) => {
                    tracing::warn!(%handle, %error, "skipping a block that cannot be read");
                }
                Err(error) => return Err(error.into()),
            }
        }
        addresses.sort_unstable();
        Ok(Some(addresses))
    }

    /// The block of an address: where its pool says, disabled pools included, else wherever it is. What is free in it
    /// may be damaged.
    async fn locate(&self, address: IpAddr) -> Result<Option<Stored<Block>>, LookupError> {
        let pools = self.pools().await?;
        let pool = pools.containing(address);
        if let Some(pool) = pool
            && let Some(block) = self.damaged_block(pool.block_of(address)).await?
        {
            return Ok(Some(block));
        }
        match (self.find_block(address, &mut None).await?, pool) {
            (Some(block), _) => Ok(self.damaged_block(block).await?),
            (None, Some(_)) => Ok(None),
            (None, None) => Err(LookupError::NotInPool { address }),
        }
    }

    /// Who has an address.
    ///
    /// # Errors
    /// [`LookupError::NotInPool`], [`LookupError::Unassigned`], [`LookupError::Cooling`], the datastore's.
    pub async fn get_assignment_attributes(&self, address: IpAddr) -> Result<Assignment, LookupError> {
        let block = self.locate(address).await?;
        let found = block.and_then(|block| Some((block.value.ordinal(address)?, block.value)));
        let Some((ordinal, block)) = found else { return Err(LookupError::Unassigned { address }) };
        let attribute = assigned(&block, address, ordinal)?.clone();
        let sequence = block.sequence(ordinal);
        Ok(Assignment { block: block.cidr, block_owner: block.affinity, sequence, attribute })
    }

    /// Changes what is noted of the owners of an address that `handle` holds. Other addresses with the same notes
    /// keep theirs.
    ///
    /// # Errors
    /// [`LookupError::OtherHandle`], and those of [`get_assignment_attributes`](Self::get_assignment_attributes).
    pub async fn set_owner_attributes(
        &self,
        address: IpAddr,
        handle: &HandleId,
        update: &OwnerUpdate,
    ) -> Result<(), LookupError> {
        let mut retry = self.retry(format!("address {address}"));
        loop {
            let Some(mut block) = self.locate(address).await? else { return Err(LookupError::Unassigned { address }) };
            let ordinal = block.value.ordinal(address).ok_or(LookupError::Unassigned { address })?;
            let mut attribute = assigned(&block.value, address, ordinal)?.clone();
            let found = attribute.handle();
            if found.as_ref() != Some(handle) {
                return Err(LookupError::OtherHandle { address, expected: handle.clone(), found });
            }
            let nonempty = |notes: &BTreeMap<String, String>| Some(notes.clone()).filter(|notes| !notes.is_empty());
            if let Some(active) = &update.active {
                attribute.secondary = nonempty(active);
            }
            if let Some(alternate) = &update.alternate {
                attribute.alternate = nonempty(alternate);
            }
            block
                .value
                .check_queue()
                .map_err(|fault| calico_store::Error::Corrupt { key: block.value.key(), cause: fault.to_string() })?;
            block.value.replace_attribute(ordinal, &attribute);
            match self.update_block(block).await {
                Ok(_) => return Ok(()),
                Err(error) if is_race(&error) => retry.lost().await?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Frees addresses of a block whose cool-down is over, without waiting for the next assignment from it; a block
    /// that is empty then and nobody's is deleted. Returns whether there were any.
    ///
    /// # Errors
    /// The datastore's.
    pub async fn garbage_collect(&self, cidr: IpNet) -> Result<bool, AccessError> {
        let config = self.get_config().await?;
        let mut retry = self.retry(format!("block {cidr}"));
        loop {
            let Some(mut block) = self.raw_block(cidr).await? else { return Ok(false) };
            if !block.value.collect(config.cooldown(), self.now()) {
                return Ok(false);
            }
            match self.write_released(block).await {
                Ok(()) => return Ok(true),
                Err(error) if is_race(&error) => retry.lost().await?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// How full the pools and their blocks are.
    ///
    /// # Errors
    /// The datastore's.
    pub async fn get_utilization(&self) -> Result<Utilization, AccessError> {
        let pools = self.pools().await?;
        let reservations = self.reservations().await?;
        let mut pools: Vec<(IpNet, PoolUsage)> = pools
            .0
            .into_iter()
            .map(|pool| {
                (pool.cidr, PoolUsage { name: pool.name, usage: empty(pool.cidr, &reservations), blocks: vec![] })
            })
            .collect();
        let mut orphans = Vec::new();
        for block in self.countable_blocks().await? {
            let usage = block_usage(&block, &reservations);
            match pools.iter_mut().find(|(cidr, _)| cidr.contains(&block.cidr)) {
                Some((_, pool)) => {
                    pool.usage.add(&usage, &reservations);
                    pool.blocks.push(usage);
                }
                None => orphans.push(usage),
            }
        }
        Ok(Utilization { pools: pools.into_iter().map(|(_, pool)| pool).collect(), orphans })
    }

    /// All blocks that can be used, in key order, IPv4 first.
    ///
    /// # Errors
    /// The datastore's.
    pub async fn all_blocks(&self) -> Result<Vec<Block>, AccessError> {
        self.blocks_read_by(Block::from_json).await
    }

    /// All blocks that can be read, damaged ones included.
    async fn countable_blocks(&self) -> Result<Vec<Block>, AccessError> {
        self.blocks_read_by(Block::from_json_unchecked).await
    }

    async fn blocks_read_by(&self, parse: fn(&[u8]) -> Result<Block, String>) -> Result<Vec<Block>, AccessError> {
        let listing = self.kv().list(crate::block::BLOCK_ROOT).await?;
        let decode = |entry| match Stored::decode(entry, parse) {
            Ok(stored) => Some(stored.value),
            Err(error) => {
                tracing::warn!(%error, "skipping a block that cannot be read");
                None
            }
        };
        let of = |family| move |block: &Block| Family::of_net(block.cidr) == family;
        let (mut blocks, v6): (Vec<_>, Vec<_>) = listing.entries.iter().filter_map(decode).partition(of(Family::V4));
        blocks.extend(v6);
        Ok(blocks)
    }
}

/// The attribute of an assigned address.
fn assigned(block: &Block, address: IpAddr, ordinal: usize) -> Result<&Attribute, LookupError> {
    match block.attribute(ordinal) {
        None => Err(LookupError::Unassigned { address }),
        Some(Attribute { released_at: Some(released_at), .. }) => {
            Err(LookupError::Cooling { address, released_at: *released_at })
        }
        Some(attribute) => Ok(attribute),
    }
}

fn empty(cidr: IpNet, reservations: &Reservations) -> Usage {
    let (capacity, reserved) = (size(cidr), reservations.count_in(cidr));
    Usage { cidr, capacity, in_use: 0, reserved, available: capacity - reserved.min(capacity) }
}

/// What is not in the queue counts as in use, which of a damaged block is what upstream counts.
fn block_usage(block: &Block, reservations: &Reservations) -> Usage {
    let (in_queue, available) = (block.unallocated.len() as u128, block.free(reservations) as u128);
    let empty = empty(block.cidr, reservations);
    Usage { in_use: empty.capacity.saturating_sub(in_queue), available, ..empty }
}

impl Usage {
    /// Counts a block into its pool, which until now counted the block's addresses as unused.
    fn add(&mut self, block: &Usage, reservations: &Reservations) {
        self.in_use = self.in_use.saturating_add(block.in_use);
        let unused = empty(block.cidr, reservations).available;
        self.available = self.available.saturating_sub(unused).saturating_add(block.available);
    }
}
