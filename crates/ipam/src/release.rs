//! Releasing addresses, by address or by handle.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{
    Block, Config, Family, HandleId, Ipam, Mismatch, OwnerKind,
    affinities::GiveUp,
    block::{Freed, Release},
    error::{AccessError, AffinityError, ReleaseError},
    ipam::Stored,
    retry::is_race,
};

/// One address to release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseRequest {
    /// The address.
    pub address: IpAddr,
    /// Who must hold it; not checked if `None`.
    pub handle: Option<HandleId>,
    /// The sequence number its allocation must have; not checked if `None`.
    pub sequence: Option<u64>,
}

impl From<IpAddr> for ReleaseRequest {
    fn from(address: IpAddr) -> Self {
        Self { address, handle: None, sequence: None }
    }
}

/// What became of addresses that were to be released. Each address is in one of the lists, once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Released now.
    pub released: Vec<IpAddr>,
    /// Free, or released before and cooling.
    pub already_free: Vec<IpAddr>,
    /// In no pool and no block.
    pub unknown: Vec<IpAddr>,
}

/// Why text is not an address to release.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// There is no text.
    #[error("an address is missing")]
    Missing,
    /// The text is something else.
    #[error("{0:?} is not an IP address")]
    Malformed(String),
}

/// Reads an address that somebody typed or stored.
///
/// # Errors
/// [`AddressError`].
pub fn parse_address(text: &str) -> Result<IpAddr, AddressError> {
    match text.trim() {
        "" => Err(AddressError::Missing),
        text => text.parse().map_err(|_| AddressError::Malformed(text.to_owned())),
    }
}

/// What a release from one block came to.
pub(crate) enum FromBlock {
    /// There is no such block.
    NoBlock,
    /// Nothing was released: the caller's knowledge is outdated.
    Mismatch(Mismatch),
    /// Released, or free before. The handles have not been lowered.
    Freed(Freed, Box<Block>),
}

/// The prefixes of all blocks, listed when first needed.
type Scan = Option<Vec<IpNet>>;

impl Ipam {
    /// Releases addresses. An address that is free already is not an error.
    ///
    /// Within one block all or none are released; each block is released whether or not others can be.
    ///
    /// # Errors
    /// [`ReleaseError::Mismatch`] once all blocks were tried; the datastore's.
    pub async fn release_ips(&self, requests: &[ReleaseRequest]) -> Result<Released, ReleaseError> {
        let config = self.get_config().await?;
        let (mut released, mut mismatches, mut scan) = (Released::default(), Vec::new(), None);
        let groups = self.by_block(requests, &mut scan, &mut released).await?;
        let mut work: VecDeque<_> = groups.into_iter().map(|(block, group)| (block, group, true)).collect();
        while let Some((cidr, group, may_be_elsewhere)) = work.pop_front() {
            match self.release_from(cidr, &group, &config).await? {
                FromBlock::Mismatch(mismatch) => mismatches.push(mismatch),
                FromBlock::Freed(freed, block) => {
                    self.lower_handles(cidr, &freed).await;
                    released.already_free.extend(freed.already_free.iter().map(|ordinal| block.address(*ordinal)));
                    released.released.extend(freed.ordinals.iter().map(|ordinal| block.address(*ordinal)));
                    self.tidy(&block, &config).await;
                }
                FromBlock::NoBlock if may_be_elsewhere => {
                    // Blocks from before the pool got another block size.
                    for request in group {
                        match self.find_block(request.address, &mut scan).await? {
                            Some(block) => work.push_back((block, vec![request], false)),
                            None => released.already_free.push(request.address),
                        }
                    }
                }
                FromBlock::NoBlock => released.already_free.extend(group.iter().map(|request| request.address)),
            }
        }
        for list in [&mut released.released, &mut released.already_free, &mut released.unknown] {
            list.sort_unstable();
            list.dedup();
        }
        if mismatches.is_empty() { Ok(released) } else { Err(ReleaseError::Mismatch { mismatches, released }) }
    }

    /// Sorts requests by block: the one that the address's pool says, disabled pools included, else the one found by
    /// looking at all blocks.
    async fn by_block(
        &self,
        requests: &[ReleaseRequest],
        scan: &mut Scan,
        released: &mut Released,
    ) -> Result<BTreeMap<IpNet, Vec<ReleaseRequest>>, AccessError> {
        let pools = self.pools().await?;
        let mut groups: BTreeMap<IpNet, Vec<ReleaseRequest>> = BTreeMap::new();
        for request in requests {
            let block = match pools.containing(request.address) {
                Some(pool) => Some(pool.block_of(request.address)),
                None => self.find_block(request.address, scan).await?,
            };
            match block {
                Some(block) => groups.entry(block).or_default().push(request.clone()),
                None => released.unknown.push(request.address),
            }
        }
        Ok(groups)
    }

    /// The existing block that holds an address, whatever its size.
    pub(crate) async fn find_block(&self, address: IpAddr, scan: &mut Scan) -> Result<Option<IpNet>, AccessError> {
        if scan.is_none() {
            let mut all = Vec::new();
            for family in Family::ALL {
                all.extend(self.block_entries(family).await?.into_keys());
            }
            *scan = Some(all);
        }
        Ok(scan.iter().flatten().copied().find(|block| block.contains(&address)))
    }

    /// Releases addresses of one block, all or none, and deletes the block if nobody owns or uses it any more.
    pub(crate) async fn release_from(
        &self,
        cidr: IpNet,
        requests: &[ReleaseRequest],
        config: &Config,
    ) -> Result<FromBlock, AccessError> {
        let mut retry = self.retry(format!("block {cidr}"));
        loop {
            let Some(mut block) = self.block_to_release(cidr, config).await? else { return Ok(FromBlock::NoBlock) };
            let ordinals = requests.iter().filter_map(|request| {
                let ordinal = block.value.ordinal(request.address)?;
                let handle = request.handle.clone().filter(|handle| !handle.is_empty());
                Some(Release { ordinal, handle, sequence: request.sequence })
            });
            let ordinals: Vec<Release> = ordinals.collect();
            let now = self.now();
            let freed = match block.value.release(&ordinals, now) {
                Ok(freed) => freed,
                Err(mismatch) => return Ok(FromBlock::Mismatch(mismatch)),
            };
            if freed.ordinals.is_empty() {
                return Ok(FromBlock::Freed(freed, Box::new(block.value)));
            }
            block.value.collect(config.cooldown(), now);
            match self.write_released(block.clone()).await {
                Ok(()) => return Ok(FromBlock::Freed(freed, Box::new(block.value))),
                Err(error) if is_race(&error) => retry.lost().await?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes a block from which addresses were freed, or deletes it if it is empty and nobody's.
    pub(crate) async fn write_released(&self, block: Stored<Block>) -> Result<(), calico_store::Error> {
        if block.value.is_empty() && block.value.affinity.is_none() {
            self.delete_block(&block).await
        } else {
            self.update_block(block).await.map(|_| ())
        }
    }

    async fn lower_handles(&self, block: IpNet, freed: &Freed) {
        for (handle, count) in &freed.by_handle {
            self.decrement(handle, block, *count).await;
        }
    }

    /// Gives up a block that has become empty and whose pool no longer selects the owner's node. The release is
    /// done, so failures are logged only.
    async fn tidy(&self, block: &Block, config: &Config) {
        let Some(owner) = block.owner().filter(|owner| owner.kind == OwnerKind::Host && block.is_empty()) else {
            return;
        };
        let unselected = async {
            let pools = self.pools().await?;
            let Some(pool) = pools.containing(block.cidr.network()) else { return Ok(false) };
            let Some(labels) = self.node_labels(&owner.name).await? else { return Ok(false) };
            Ok::<_, AffinityError>(!pool.selects_node(&labels).unwrap_or(true))
        };
        let result = match unselected.await {
            Ok(false) => return,
            Ok(true) => {
                let options = GiveUp { must_be_empty: true, sequence: None };
                self.give_up(&owner, block.cidr, options, config).await.map(|_| ())
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => tracing::info!(block = %block.cidr, %owner, "gave up an empty block outside the owner's pools"),
            Err(error) => tracing::warn!(block = %block.cidr, %owner, %error, "could not give up an empty block"),
        }
    }

    /// Releases all addresses of a handle and returns them.
    ///
    /// The handle may survive with counts that say too much; releasing it again then changes nothing.
    ///
    /// # Errors
    /// [`ReleaseError::NoHandle`], the datastore's. Blocks before the one that failed are released.
    pub async fn release_by_handle(&self, handle: &HandleId) -> Result<Vec<IpAddr>, ReleaseError> {
        let config = self.get_config().await?;
        let Some(stored) = self.handle(handle).await? else {
            return Err(ReleaseError::NoHandle { handle: handle.clone() });
        };
        let mut released = Vec::new();
        for cidr in stored.value.blocks() {
            released.extend(self.release_handle_from(cidr, handle, &config).await?);
        }
        Ok(released)
    }

    async fn release_handle_from(
        &self,
        cidr: IpNet,
        handle: &HandleId,
        config: &Config,
    ) -> Result<Vec<IpAddr>, AccessError> {
        let mut retry = self.retry(format!("block {cidr}"));
        loop {
            let Some(mut block) = self.block_to_release(cidr, config).await? else {
                self.forget_block(handle, cidr).await?;
                return Ok(Vec::new());
            };
            let addresses = block.value.held_by(handle);
            let now = self.now();
            if block.value.release_handle(handle, now) == 0 {
                return Ok(addresses);
            }
            block.value.collect(config.cooldown(), now);
            match self.write_released(block.clone()).await {
                Ok(()) => {
                    self.decrement(handle, cidr, addresses.len()).await;
                    self.tidy(&block.value, config).await;
                    return Ok(addresses);
                }
                Err(error) if is_race(&error) => retry.lost().await?,
                Err(error) => return Err(error.into()),
            }
        }
    }
}
