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
    /// Who will hold it; see [`AutoAssign::handle`].
    pub handle: Option<HandleId>,
    /// Notes to store with it; see [`AutoAssign::attrs`].
    pub attrs: Option<BTreeMap<String, String>>,
    /// What it is for; `None` to not check whether the pool allows it.
    pub intended_use: Option<IntendedUse>,
    /// How many addresses per family the handle may hold. Asking for one that it holds already succeeds.
    pub max_alloc_per_handle: Option<usize>,
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
        let cidr = pool.block_of(request.ip);
        let owner = owner_for(&request.host, request.intended_use.unwrap_or_default());
        let config = self.get_config().await?;
        let mut claimed_here = false;
        let mut lost_writes = false;
        let mut retry = self.retry(format!("block {cidr}"));
        let result = loop {
            let block = match self.block(cidr, &config).await? {
                Some(block) => block,
                None => match self.claim_for(&owner, cidr, &config).await {
                    Ok(block) => {
                        claimed_here = true;
                        block
                    }
                    Err(ClaimError::Raced) => {
                        retry.lost().await?;
                        continue;
                    }
                    Err(ClaimError::Lost { owner }) => break Err(AssignError::LostClaim { block: cidr, owner }),
                    Err(ClaimError::Access(error)) => break Err(error.into()),
                },
            };
            match self.assign_chosen(&request, pool, &owner, block, &config).await {
                Err(AssignError::Access(AccessError::Store(error))) if is_race(&error) => {
                    lost_writes = true;
                    if let Err(error) = retry.lost().await {
                        break Err(error.into());
                    }
                }
                result => break result,
            }
        };
        if result.is_err() && claimed_here && lost_writes {
            // The block was claimed for this address only.
            let options = GiveUp { must_be_empty: true, sequence: None };
            if let Err(error) = self.give_up(&owner, cidr, options, &config).await {
                tracing::debug!(block = %cidr, %error, "the block stays claimed");
            }
        }
        result
    }

    async fn claim_for(&self, owner: &Owner, cidr: IpNet, config: &Config) -> Result<Stored<Block>, ClaimError> {
        let claim = self.begin_claim(owner, cidr).await?;
        self.create_claimed(claim, None, config).await
    }

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
        if let Err(holder) = block.value.take_one(ordinal, &attribute) {
            let pool = pool.cidr;
            return Err(match holder.released_at {
                Some(released_at) => AssignError::Cooling { address, pool, released_at },
                None => AssignError::Taken { address, pool, handle: holder.handle() },
            });
        }
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
