//! Claiming a block for an owner, and finishing a claim that was begun.
//!
//! The steps and why their order is safe stand in [`affinity`](crate::affinity). Two more rules matter here. Who finds
//! an affinity without its block marks it pending before creating the block, so that a releaser who read the old
//! value loses its compare-and-swap. Who finds its block under an unconfirmed affinity rewrites the block, so that a
//! releaser who read the old block does.

use calico_store::Error;
use ipnet::IpNet;

use crate::{
    Affinity, AffinityKey, AffinityState, Block, Config, Owner,
    block::HostReserved,
    error::AccessError,
    ipam::{Ipam, Stored},
    retry::is_race,
};

/// Why a claim did not succeed.
#[derive(Debug)]
pub(crate) enum ClaimError {
    /// The block is another's; the affinity was removed.
    Lost { owner: Option<String> },
    /// A compare-and-swap came too late; look again.
    Raced,
    /// The datastore failed.
    Access(AccessError),
}

impl From<Error> for ClaimError {
    fn from(error: Error) -> Self {
        if is_race(&error) { Self::Raced } else { Self::Access(error.into()) }
    }
}

/// An affinity as it was read or written, with its place.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    key: AffinityKey,
    affinity: Stored<Affinity>,
}

impl Ipam {
    /// Begins a claim: creates a pending affinity, or takes up the one that is there. A confirmed one stays so.
    pub(crate) async fn begin_claim(&self, owner: &Owner, block: IpNet) -> Result<Claim, ClaimError> {
        let key = AffinityKey::new(owner, block);
        let pending = Affinity::pending();
        match self.kv().create(&key.to_string(), pending.to_json()).await {
            Ok(revision) => Ok(Claim { key, affinity: Stored { value: pending, revision } }),
            Err(Error::AlreadyExists { existing, .. }) => {
                let affinity = Stored::decode(&existing, Affinity::from_json)?;
                let mut claim = Claim { key, affinity };
                if claim.affinity.value.state != AffinityState::Confirmed {
                    self.advance(&mut claim, AffinityState::Pending).await?;
                }
                Ok(claim)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes up an affinity that exists; `None` if it does not.
    pub(crate) async fn resume_claim(&self, owner: &Owner, block: IpNet) -> Result<Option<Claim>, ClaimError> {
        let key = AffinityKey::new(owner, block);
        Ok(self.affinity(&key).await?.map(|affinity| Claim { key, affinity }))
    }

    /// Writes the state of the claim's affinity.
    async fn advance(&self, claim: &mut Claim, state: AffinityState) -> Result<(), Error> {
        claim.affinity.revision = self.mark(&claim.key, &claim.affinity, state.clone()).await?;
        claim.affinity.value.state = state;
        Ok(())
    }

    /// Confirms an affinity whose block is the owner's. Somebody else's confirmation is as good.
    async fn confirm(&self, claim: &mut Claim) -> Result<(), ClaimError> {
        let Err(error) = self.advance(claim, AffinityState::Confirmed).await else { return Ok(()) };
        if !is_race(&error) {
            return Err(error.into());
        }
        match self.affinity(&claim.key).await? {
            Some(affinity) if affinity.value.state == AffinityState::Confirmed => {
                claim.affinity = affinity;
                Ok(())
            }
            _ => Err(ClaimError::Raced),
        }
    }

    /// Removes an affinity for a block that is not the owner's. If somebody changed it meanwhile, it is theirs.
    async fn abandon(&self, claim: &Claim, owner: Option<String>) -> ClaimError {
        match self.kv().delete(&claim.key.to_string(), claim.affinity.revision).await {
            Err(error) if !is_race(&error) => error.into(),
            _ => ClaimError::Lost { owner },
        }
    }

    /// The block of an affinity: created, confirmed or just read, as the state of both demands.
    pub(crate) async fn load_block(
        &self,
        mut claim: Claim,
        reserved: Option<&HostReserved>,
        config: &Config,
    ) -> Result<Stored<Block>, ClaimError> {
        let Some(block) = self.block(claim.key.block, config).await? else {
            self.advance(&mut claim, AffinityState::Pending).await?;
            return self.create_claimed(claim, reserved, config).await;
        };
        if !block.value.is_owned_by(&claim.key.owner) {
            return Err(self.abandon(&claim, block.value.affinity).await);
        }
        if claim.affinity.value.is_confirmed() {
            return Ok(block);
        }
        self.advance(&mut claim, AffinityState::Pending).await?;
        let block = self.update_block(block).await?;
        self.advance(&mut claim, AffinityState::Confirmed).await?;
        Ok(block)
    }

    /// Creates the block of a pending affinity and confirms the affinity. A block that is there already and is the
    /// owner's, from another process of the same host, is as good.
    pub(crate) async fn create_claimed(
        &self,
        mut claim: Claim,
        reserved: Option<&HostReserved>,
        config: &Config,
    ) -> Result<Stored<Block>, ClaimError> {
        let block = Block::new(claim.key.block, &claim.key.owner, reserved, self.now());
        match self.create_block(&block).await {
            Ok(revision) => {
                self.confirm(&mut claim).await?;
                Ok(Stored { value: block, revision })
            }
            Err(Error::AlreadyExists { existing, .. }) => {
                let mut block = Stored::decode(&existing, Block::from_json)?;
                if !block.value.is_owned_by(&claim.key.owner) {
                    return Err(self.abandon(&claim, block.value.affinity).await);
                }
                block.value.collect(config.cooldown(), self.now());
                self.confirm(&mut claim).await?;
                Ok(block)
            }
            Err(error) => Err(error.into()),
        }
    }
}
