//! Assigning one chosen address.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use crate::{
    Block, Config, Family, HandleId, IntendedUse, Ipam, Owner, Pool, Pools,
    affinities::GiveUp,
    assign::{owner_for, some_handle},
    block::Attribute,
    claim::ClaimError,
    error::{AccessError, AssignError},
    ipam::Stored,
    retry::is_race,
};

/// A request for one chosen address. Reservations and the pool's selectors do not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignIp {
    /// The address.
    pub ip: IpAddr,
    /// The host on which it is used; for [`IntendedUse::LoadBalancer`] the load balancer.
    pub host: String,
    /// Who will hold it; see [`AutoAssign::handle`](crate::AutoAssign::handle).
    pub handle: Option<HandleId>,
    /// Notes to store with it; see [`AutoAssign::attrs`](crate::AutoAssign::attrs).
    pub attrs: Option<BTreeMap<String, String>>,
    /// What it is for; `None` to not check whether the pool allows it.
    pub intended_use: Option<IntendedUse>,
    /// How many addresses per family the handle may hold. Asking for one that it holds already succeeds.
    pub max_alloc_per_handle: Option<usize>,
}

/// What happened on the way to a chosen address.
#[derive(Debug, Default)]
struct Past {
    /// The block did not exist and was claimed.
    claimed: bool,
    /// Somebody else changed the block before our write.
    lost_write: bool,
}

impl Ipam {
    /// Assigns one chosen address, claiming its block if nobody has it.
    ///
    /// # Errors
    /// [`AssignError::NotInPool`], [`AssignError::UseNotAllowed`], [`AssignError::Taken`], [`AssignError::Cooling`],
    /// with strict affinity [`AssignError::OtherOwner`] and [`AssignError::NoOwner`], [`AssignError::LostClaim`],
    /// [`AssignError::HandleLimit`], and the datastore's.
    pub async fn assign_ip(&self, request: AssignIp) -> Result<(), AssignError> {
        let pools = self.pools().await?;
        let pool = pool_for(&pools, &request)?;
        let owner = owner_for(&request.host, request.intended_use.unwrap_or_default());
        let config = self.get_config().await?;
        let mut past = Past::default();
        let result = self.try_chosen(&request, pool, &owner, &config, &mut past).await;
        if result.is_err() && past.claimed && past.lost_write {
            // The block was claimed for this address only.
            let options = GiveUp { must_be_empty: true, sequence: None };
            let cidr = pool.block_of(request.ip);
            if let Err(error) = self.give_up(&owner, cidr, options, &config).await {
                tracing::debug!(block = %cidr, %error, "the block stays claimed");
            }
        }
        result
    }

    /// Looks at the block, claims it if it does not exist, and assigns; again after each lost race.
    async fn try_chosen(
        &self,
        request: &AssignIp,
        pool: &Pool,
        owner: &Owner,
        config: &Config,
        past: &mut Past,
    ) -> Result<(), AssignError> {
        let cidr = pool.block_of(request.ip);
        let mut retry = self.retry(format!("block {cidr}"));
        loop {
            let block = match self.block(cidr, config).await? {
                Some(block) => block,
                None => match self.claim_for(owner, cidr, config).await {
                    Ok(Some(block)) => {
                        past.claimed = true;
                        block
                    }
                    Ok(None) => return Err(AssignError::OtherBlockSize { address: request.ip, block: cidr }),
                    Err(ClaimError::Raced) => {
                        retry.lost().await?;
                        continue;
                    }
                    Err(ClaimError::Lost { owner }) => return Err(AssignError::LostClaim { block: cidr, owner }),
                    Err(ClaimError::Access(error)) => return Err(error.into()),
                },
            };
            match self.assign_chosen(request, pool, owner, block, config).await {
                Err(AssignError::Access(AccessError::Store(error))) if is_race(&error) => {
                    past.lost_write = true;
                    retry.lost().await?;
                }
                result => return result,
            }
        }
    }

    /// Claims a block that does not exist; `None` if blocks of another size are in its way.
    async fn claim_for(
        &self,
        owner: &Owner,
        cidr: IpNet,
        config: &Config,
    ) -> Result<Option<Stored<Block>>, ClaimError> {
        if self.in_other_blocks(Family::of_net(cidr), cidr.prefix_len()).await?.touches(cidr) {
            return Ok(None);
        }
        let claim = self.begin_claim(owner, cidr).await?;
        self.create_claimed(claim, None, config).await.map(Some)
    }

    /// Assigns the address from the block as it was read.
    async fn assign_chosen(
        &self,
        request: &AssignIp,
        pool: &Pool,
        owner: &Owner,
        mut block: Stored<Block>,
        config: &Config,
    ) -> Result<(), AssignError> {
        let (address, handle) = (request.ip, some_handle(&request.handle));
        if let (Some(limit), Some(handle)) = (request.max_alloc_per_handle, handle) {
            let held = self.held(handle, Family::of(address)).await?;
            if held.contains(&address) {
                return Ok(());
            }
            if held.len() >= limit {
                return Err(AssignError::HandleLimit { handle: handle.clone(), limit, held });
            }
        }
        if config.strict_affinity && !block.value.is_owned_by(owner) {
            return Err(match block.value.affinity {
                Some(owner) => AssignError::OtherOwner { address, block: block.value.cidr, owner },
                None => AssignError::NoOwner { address, block: block.value.cidr },
            });
        }
        let ordinal = block.value.ordinal(address).expect("the block was computed from the address");
        let attribute = Attribute::new(handle, request.attrs.as_ref());
        if let Some(holder) = block.value.attribute(ordinal) {
            let pool = pool.cidr;
            return Err(match holder.released_at {
                Some(released_at) => AssignError::Cooling { address, pool, released_at },
                None => AssignError::Taken { address, pool, handle: holder.handle() },
            });
        }
        block.value.take_one(ordinal, &attribute);
        Ok(self.write_assignment(block, handle, 1).await?)
    }
}

fn pool_for<'a>(pools: &'a Pools, request: &AssignIp) -> Result<&'a Pool, AssignError> {
    let address = request.ip;
    let Some(pool) = pools.enabled_containing(address) else {
        let pools = pools.enabled(Family::of(address)).map(|pool| pool.cidr).collect();
        return Err(AssignError::NotInPool { address, pools });
    };
    match request.intended_use {
        Some(usage) if !pool.allows(usage) => Err(AssignError::UseNotAllowed { address, pool: pool.cidr, usage }),
        _ => Ok(pool),
    }
}
