//! Finding a block with free addresses: the owner's blocks first, then a new one, then another owner's empty one.

use std::collections::VecDeque;

use calico_store::Entry;
use ipnet::IpNet;
use time::Duration;

use crate::{
    Block, Config, Family, Ipam, Owner, Pool, Reservations,
    affinities::{GiveUp, GivenUp},
    block::HostReserved,
    claim::ClaimError,
    error::{AccessError, AffinityError},
    ipam::Stored,
    order::BlockOrder,
    retry::is_race,
};

/// How long an empty block stays with its owner before another one may take it. Without this, two owners could take
/// a block from each other for ever, neither getting to use it.
const MIN_RECLAIM_AGE: Duration = Duration::MINUTE;

/// Why no block was found although there may be some.
#[derive(Debug)]
pub(crate) enum HuntError {
    /// The owner has as many blocks as it may.
    Limit(usize),
    /// Blocks are not claimed automatically.
    NoAutoAllocation,
    /// The datastore failed.
    Access(AccessError),
}

impl<E: Into<AccessError>> From<E> for HuntError {
    fn from(error: E) -> Self {
        Self::Access(error.into())
    }
}

/// The state of a search that may need several blocks.
pub(crate) struct Hunt<'a> {
    pub ipam: &'a Ipam,
    pub config: Config,
    pub owner: Owner,
    pub family: Family,
    /// Pools to claim from, in order.
    pub pools: Vec<Pool>,
    /// The owner's blocks in these pools not tried yet, in order.
    pub affine: VecDeque<IpNet>,
    /// How many blocks the owner has in these pools.
    pub owned: usize,
    /// How many it may have.
    pub limit: Option<usize>,
    pub reservations: Reservations,
    /// What to set aside in new blocks.
    pub reserved: Option<&'a HostReserved>,
}

impl Hunt<'_> {
    /// The next block of the owner with at least `min_free` free addresses; `None` if every pool is used up.
    pub(crate) async fn next_block(&mut self, min_free: usize) -> Result<Option<Stored<Block>>, HuntError> {
        while let Some(cidr) = self.affine.pop_front() {
            if self.reservations.covers(cidr).is_some() {
                continue;
            }
            match self.affine_block(cidr).await? {
                Some(block) if block.value.free(&self.reservations) >= min_free => return Ok(Some(block)),
                _ => {}
            }
        }
        match self.limit {
            Some(limit) if self.owned >= limit => return Err(HuntError::Limit(limit)),
            _ if !self.config.auto_allocate_blocks => return Err(HuntError::NoAutoAllocation),
            _ => {}
        }
        let mut retry = self.ipam.retry(format!("a new block for {}", self.owner));
        loop {
            let Some(cidr) = self.pick().await? else { return Ok(None) };
            match self.claim(cidr).await? {
                Some(block) if block.value.free(&self.reservations) >= min_free => {
                    self.owned += 1;
                    return Ok(Some(block));
                }
                _ => retry.lost().await?,
            }
        }
    }

    /// One of the owner's blocks; `None` if it turned out not to be, or cannot be used.
    async fn affine_block(&self, cidr: IpNet) -> Result<Option<Stored<Block>>, AccessError> {
        let mut retry = self.ipam.retry(format!("block {cidr}"));
        loop {
            let loaded = match self.ipam.resume_claim(&self.owner, cidr).await {
                Ok(None) => return Ok(None),
                Ok(Some(claim)) => self.ipam.load_block(claim, self.reserved, &self.config).await,
                Err(error) => Err(error),
            };
            match loaded {
                Ok(block) => return Ok(Some(block)),
                Err(ClaimError::Raced) => retry.lost().await?,
                Err(ClaimError::Lost { owner }) => {
                    tracing::warn!(block = %cidr, claimant = %self.owner, ?owner, "removed an outdated affinity");
                    return Ok(None);
                }
                Err(ClaimError::Access(AccessError::Store(error @ calico_store::Error::Corrupt { .. }))) => {
                    tracing::warn!(%error, "skipping a block that cannot be read");
                    return Ok(None);
                }
                Err(ClaimError::Access(error)) => return Err(error),
            }
        }
    }

    /// Claims a block that was picked; `None` if somebody else was faster.
    async fn claim(&self, cidr: IpNet) -> Result<Option<Stored<Block>>, AccessError> {
        let mut retry = self.ipam.retry(format!("block {cidr}"));
        loop {
            let claimed = match self.ipam.begin_claim(&self.owner, cidr).await {
                Ok(claim) => self.ipam.load_block(claim, self.reserved, &self.config).await,
                Err(error) => Err(error),
            };
            match claimed {
                Ok(block) => return Ok(Some(block)),
                Err(ClaimError::Raced) => retry.lost().await?,
                Err(ClaimError::Lost { owner }) => {
                    tracing::debug!(block = %cidr, claimant = %self.owner, ?owner, "somebody else has the block");
                    return Ok(None);
                }
                Err(ClaimError::Access(error)) => return Err(error),
            }
        }
    }

    /// A block to claim: the first in the owner's order that does not exist, or that exists, is the owner's and has
    /// free addresses (another process of the same host was faster); failing that, an empty block taken back from
    /// another owner.
    async fn pick(&self) -> Result<Option<IpNet>, AccessError> {
        let entries = self.ipam.block_entries(self.family).await?;
        let used = Reservations::new(entries.keys().copied());
        let mut empty = Vec::new();
        for pool in &self.pools {
            let order = BlockOrder::new(pool.cidr, pool.block_len, &self.owner.name, self.entropy());
            let found = order.find(&self.reservations, |cidr| match entries.get(&cidr) {
                Some(entry) => self.is_own_with_space(cidr, entry, &mut empty),
                // Blocks of another size, from before the pool got this one, must not be handed out twice.
                None => !used.touches(cidr),
            });
            if found.is_some() {
                return Ok(found);
            }
        }
        self.reclaim(empty).await
    }

    fn is_own_with_space(&self, cidr: IpNet, entry: &Entry, empty: &mut Vec<(IpNet, Stored<Block>)>) -> bool {
        let mut stored = match Stored::decode(entry, Block::from_json) {
            Ok(stored) => stored,
            Err(error) => {
                tracing::warn!(%error, "skipping a block that cannot be read");
                return false;
            }
        };
        stored.value.collect(self.config.cooldown(), self.ipam.now());
        if stored.value.free(&self.reservations) == 0 {
            return false;
        }
        if stored.value.is_owned_by(&self.owner) {
            return true;
        }
        if stored.value.is_empty() {
            empty.push((cidr, stored));
        }
        false
    }

    /// Takes back the first empty block whose owner has had it for a while.
    async fn reclaim(&self, empty: Vec<(IpNet, Stored<Block>)>) -> Result<Option<IpNet>, AccessError> {
        for (cidr, block) in empty {
            let age = block.value.affinity_claim_time.map(|claimed| self.ipam.now() - claimed.0);
            if age.is_some_and(|age| age < MIN_RECLAIM_AGE) {
                tracing::debug!(block = %cidr, "empty, but claimed only just now; left to its owner");
                continue;
            }
            if self.take_back(cidr, &block).await? {
                tracing::info!(block = %cidr, from = ?block.value.affinity, to = %self.owner, "took an empty block");
                return Ok(Some(cidr));
            }
        }
        Ok(None)
    }

    /// Makes a foreign empty block vanish. The sequence number must be the one seen: two owners that do this at the
    /// same time must not free the block that one of them has just made anew.
    async fn take_back(&self, cidr: IpNet, block: &Stored<Block>) -> Result<bool, AccessError> {
        let given_up = match block.value.owner() {
            None => GivenUp::Nothing,
            Some(owner) => {
                let options = GiveUp { must_be_empty: true, sequence: Some(block.value.sequence_number) };
                match self.ipam.give_up(&owner, cidr, options, &self.config).await {
                    Ok(given_up) => given_up,
                    Err(AffinityError::Access(error @ AccessError::Store(_))) => return Err(error),
                    Err(error) => {
                        tracing::debug!(%error, "could not take back the block");
                        return Ok(false);
                    }
                }
            }
        };
        match given_up {
            GivenUp::Done => Ok(true),
            // Without strict affinity anybody can borrow from a block that nobody claims; with it nobody could ever
            // use it again.
            GivenUp::Nothing if self.config.strict_affinity => match self.ipam.delete_block(block).await {
                Ok(()) => Ok(true),
                Err(error) if is_race(&error) => Ok(false),
                Err(error) => Err(error.into()),
            },
            GivenUp::Nothing | GivenUp::NotOurs => Ok(false),
        }
    }

    /// Changes from call to call; used for blocks of one address.
    pub(crate) fn entropy(&self) -> u64 {
        self.ipam.now().unix_timestamp_nanos() as u64
    }
}
