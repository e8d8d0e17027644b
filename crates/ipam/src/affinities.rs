//! Claiming and giving up blocks on request: ranges, whole hosts, whole pools.

use calico_model::Revision;
use ipnet::IpNet;

use crate::{
    AffinityKey, AffinityState, Block, Config, Family, Ipam, Owner, Pool,
    claim::ClaimError,
    error::{AccessError, AffinityError},
    range::{block_count, nth_block},
    retry::is_race,
};

/// Under which conditions a block is given up.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GiveUp {
    /// No address may be in use.
    pub must_be_empty: bool,
    /// The block must not have changed since it had this sequence number.
    pub sequence: Option<u64>,
}

/// What became of a block that was to be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GivenUp {
    /// The owner has it no longer.
    Done,
    /// The owner did not claim it.
    Nothing,
    /// It was another's; an outdated affinity was removed.
    NotOurs,
}

/// Blocks of a range that were claimed, and those that others have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claimed {
    /// The owner's now, or before already.
    pub claimed: Vec<IpNet>,
    /// Another's, or nobody's but in use, or in the way of blocks of another size.
    pub failed: Vec<IpNet>,
}

impl Ipam {
    /// Claims all blocks of a range for a host, as far as nobody else has them.
    ///
    /// # Errors
    /// [`AffinityError::NotInPool`], [`AffinityError::TooSmall`], the datastore's.
    pub async fn claim_affinity(&self, owner: &Owner, cidr: IpNet) -> Result<Claimed, AffinityError> {
        let config = self.get_config().await?;
        let mut result = Claimed::default();
        let (block_len, blocks) = self.blocks_of(cidr).await?;
        let unusable = self.in_other_blocks(Family::of_net(cidr), block_len).await?;
        for block in blocks {
            if !unusable.touches(block) && self.claim_block(owner, block, &config).await? {
                result.claimed.push(block);
            } else {
                result.failed.push(block);
            }
        }
        Ok(result)
    }

    async fn claim_block(&self, owner: &Owner, block: IpNet, config: &Config) -> Result<bool, AffinityError> {
        let mut retry = self.retry(format!("block {block}"));
        loop {
            let claimed = match self.begin_claim(owner, block).await {
                Ok(claim) => self.create_claimed(claim, None, config).await,
                Err(error) => Err(error),
            };
            match claimed {
                Ok(_) => return Ok(true),
                Err(ClaimError::Lost { .. }) => return Ok(false),
                Err(ClaimError::Raced) => retry.lost().await?,
                Err(ClaimError::Access(error)) => return Err(error.into()),
            }
        }
    }

    /// Gives up all blocks of a range that a host claims. Addresses in use stay assigned.
    ///
    /// # Errors
    /// [`AffinityError::NotInPool`], [`AffinityError::TooSmall`]; [`AffinityError::NotEmpty`] with
    /// `must_be_empty`, at the first such block; the datastore's.
    pub async fn release_affinity(&self, owner: &Owner, cidr: IpNet, must_be_empty: bool) -> Result<(), AffinityError> {
        let config = self.get_config().await?;
        for block in self.blocks_of(cidr).await?.1 {
            self.give_up(owner, block, GiveUp { must_be_empty, sequence: None }, &config).await?;
        }
        Ok(())
    }

    /// Gives up all blocks of a host, or of a load balancer. A block that cannot be given up does not keep the others.
    ///
    /// # Errors
    /// [`AffinityError::NotEmpty`] and [`AffinityError::Several`] once all blocks were tried; the datastore's.
    pub async fn release_host_affinities(&self, owner: &Owner, must_be_empty: bool) -> Result<(), AffinityError> {
        let config = self.get_config().await?;
        let mut errors = Vec::new();
        for family in Family::ALL {
            for block in self.affine_blocks(owner, family).await? {
                if let Err(error) = self.give_up(owner, block, GiveUp { must_be_empty, sequence: None }, &config).await
                {
                    errors.push(error);
                }
            }
        }
        all_done(errors)
    }

    /// Removes everything IPAM knows of a host. Addresses in use stay assigned: who knows the workloads releases
    /// them by handle.
    ///
    /// # Errors
    /// As for [`release_host_affinities`](Self::release_host_affinities).
    pub async fn remove_host(&self, host: &str) -> Result<(), AffinityError> {
        self.release_host_affinities(&Owner::host(host), false).await?;
        let key = format!("/calico/ipam/v2/host/{host}");
        let mut retry = self.retry(format!("host {host}"));
        while let Some(entry) = self.kv().get(&key).await? {
            match self.kv().delete(&key, entry.revision).await {
                Ok(()) => break,
                Err(error) if is_race(&error) => retry.lost().await?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Gives up all hosts' blocks of a pool, as must happen before the pool is deleted (and after it was disabled,
    /// so that no host claims new ones). Blocks of load balancers stay.
    ///
    /// # Errors
    /// Those of single blocks, once all were tried; the datastore's.
    pub async fn release_pool_affinities(&self, pool: IpNet) -> Result<(), AffinityError> {
        let config = self.get_config().await?;
        let listing = self.kv().list("/calico/ipam/v2/host/").await?;
        let keys = listing.entries.iter().filter_map(|entry| entry.key.parse::<AffinityKey>().ok());
        let mut errors = Vec::new();
        for AffinityKey { owner, block } in keys.filter(|key| pool.contains(&key.block)) {
            if let Err(error) = self.give_up(&owner, block, GiveUp::default(), &config).await {
                errors.push(error);
            }
        }
        all_done(errors)
    }

    /// The blocks of a range, which must lie in an enabled pool and be at least as large as a block, and their length.
    async fn blocks_of(&self, cidr: IpNet) -> Result<(u8, impl Iterator<Item = IpNet> + use<>), AffinityError> {
        let cidr = cidr.trunc();
        let pools = self.pools().await?;
        let pool: &Pool = pools.enabled_containing(cidr.network()).ok_or(AffinityError::NotInPool { cidr })?;
        let block_len = pool.block_len;
        if cidr.prefix_len() > block_len {
            return Err(AffinityError::TooSmall { cidr, block_len });
        }
        let range = if pool.cidr.contains(&cidr) { cidr } else { pool.cidr };
        Ok((block_len, (0..block_count(range, block_len)).map(move |n| nth_block(range, block_len, n))))
    }

    /// Gives up one block: marks the affinity, deletes the block or takes its owner away, deletes the affinity. A
    /// crash in between leaves something that the next claim or release of the same owner finishes. A block that is
    /// used again between the first and the second step, and so may not be given up, gets its mark back: routing
    /// ignores blocks that are marked.
    pub(crate) async fn give_up(
        &self,
        owner: &Owner,
        block: IpNet,
        options: GiveUp,
        config: &Config,
    ) -> Result<GivenUp, AffinityError> {
        let mut retry = self.retry(format!("block {block}"));
        let mut marked = None;
        loop {
            match self.try_give_up(owner, block, options, config, &mut marked).await {
                Err(AffinityError::Access(AccessError::Store(error))) if is_race(&error) => retry.lost().await?,
                result => return result,
            }
        }
    }

    async fn try_give_up(
        &self,
        owner: &Owner,
        cidr: IpNet,
        options: GiveUp,
        config: &Config,
        marked: &mut Option<Revision>,
    ) -> Result<GivenUp, AffinityError> {
        let key = AffinityKey::new(owner, cidr);
        let Some(affinity) = self.affinity(&key).await? else { return Ok(GivenUp::Nothing) };
        let Some(mut block) = self.block(cidr, config).await? else {
            // The claim never got to the block, or the release got past it.
            self.kv().delete(&key.to_string(), affinity.revision).await?;
            return Ok(GivenUp::Done);
        };
        let refusal = refusal(&block.value, options);
        if let Some(error) = &refusal
            && block.value.is_owned_by(owner)
            && *marked == Some(affinity.revision)
        {
            tracing::debug!(block = %cidr, %error, "used again while it was given up");
            self.mark(&key, &affinity, AffinityState::Confirmed).await?;
        }
        if let Some(error @ AffinityError::Changed { .. }) = refusal {
            return Err(error);
        }
        if !block.value.is_owned_by(owner) {
            self.kv().delete(&key.to_string(), affinity.revision).await?;
            return Ok(GivenUp::NotOurs);
        }
        if let Some(error) = refusal {
            return Err(error);
        }
        let revision = self.mark(&key, &affinity, AffinityState::PendingDeletion).await?;
        *marked = Some(revision);
        if block.value.is_empty() {
            self.delete_block(&block).await?;
        } else {
            block.value.disown();
            self.update_block(block).await?;
        }
        match self.kv().delete(&key.to_string(), revision).await {
            // Somebody claims it again or finished our work: the block is given up in any case.
            Err(error) if !is_race(&error) => Err(error.into()),
            _ => Ok(GivenUp::Done),
        }
    }
}

/// Why a block must not be given up. The sequence number is looked at first.
fn refusal(block: &Block, options: GiveUp) -> Option<AffinityError> {
    if options.sequence.is_some_and(|sequence| sequence != block.sequence_number) {
        return Some(AffinityError::Changed { block: block.cidr });
    }
    (options.must_be_empty && !block.is_empty())
        .then(|| AffinityError::NotEmpty { block: block.cidr, in_use: block.in_use().collect() })
}

fn all_done(mut errors: Vec<AffinityError>) -> Result<(), AffinityError> {
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        _ => Err(AffinityError::Several { errors }),
    }
}
