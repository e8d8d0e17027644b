//! Mending what an audit found, one finding at a time.
//!
//! Each step looks again before it writes, and writes by compare-and-swap: a finding that is outdated, or was mended
//! by somebody else, changes nothing. No step frees an address or takes one from its holder; leaks are released as
//! such, with the sequence number that the audit saw.
//!
//! Counts of handles and abandoned claims look the same as those of an assignment that is under way. Whoever mends
//! them makes sure that nobody assigns meanwhile.

use calico_model::NodeSpec;
use ipnet::IpNet;

use super::Finding;
use crate::{
    AffinityKey, Block, Handle, HandleId, Ipam, Owner,
    claim::ClaimError,
    error::{AccessError, AffinityError},
    ipam::Stored,
    retry::is_race,
};

impl Ipam {
    /// Mends what a finding tells of. Returns whether anything was changed; `false` also for what only a person can
    /// decide (addresses with two users, blocks outside of pools, values that cannot be read).
    ///
    /// The caller must know that nobody assigns addresses meanwhile, as with a locked datastore.
    ///
    /// # Errors
    /// The datastore's.
    pub async fn repair(&self, finding: &Finding) -> Result<bool, AffinityError> {
        match finding {
            Finding::DamagedBlock { block, .. } => Ok(self.mend_block(*block).await?),
            Finding::Abandoned { block } => Ok(self.drop_abandoned(*block).await?),
            Finding::NoBlock { owner, block, .. } | Finding::ForeignAffinity { owner, block, .. } => {
                let Ok(owner) = owner.parse::<Owner>() else { return Ok(false) };
                Ok(self.drop_affinity(&AffinityKey::new(&owner, *block)).await?)
            }
            Finding::Unfinished { owner, block, .. } | Finding::NoAffinity { owner, block } => {
                let Ok(owner) = owner.parse::<Owner>() else { return Ok(false) };
                self.finish_claim(&owner, *block).await
            }
            Finding::NoNode { node, .. } => self.forget_host(node).await,
            Finding::WrongCount { handle, block, .. } => Ok(self.recount(&handle.as_str().into(), *block).await?),
            Finding::DoubleUse { .. }
            | Finding::DoubleAllocation { .. }
            | Finding::Orphan { .. }
            | Finding::Unreadable { .. } => Ok(false),
        }
    }

    /// Takes away what a host claims that is no node. One that cannot be read is a node all the same.
    async fn forget_host(&self, host: &str) -> Result<bool, AffinityError> {
        match self.store().get::<NodeSpec>(host).await {
            Err(error) if error.is_not_found() => {}
            Ok(_) | Err(calico_store::Error::Corrupt { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        self.remove_host(host).await?;
        Ok(true)
    }

    async fn mend_block(&self, cidr: IpNet) -> Result<bool, AccessError> {
        let mut retry = self.retry(format!("block {cidr}"));
        loop {
            let Some(entry) = self.kv().get(&crate::block_key(cidr)).await? else { return Ok(false) };
            let mut stored = Stored::decode(&entry, Block::from_json_unchecked)?;
            match stored.value.mend() {
                Ok(false) => return Ok(false),
                Ok(true) => {}
                Err(fault) => {
                    return Err(calico_store::Error::Corrupt { key: entry.key, cause: fault.to_string() }.into());
                }
            }
            match self.update_block(stored).await {
                Ok(_) => return Ok(true),
                Err(error) if is_race(&error) => retry.lost().await?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Deletes a block that is empty and nobody's.
    async fn drop_abandoned(&self, cidr: IpNet) -> Result<bool, AccessError> {
        let Some(block) = self.raw_block(cidr).await? else { return Ok(false) };
        if block.value.affinity.is_some() || !block.value.is_empty() {
            return Ok(false);
        }
        changed(self.delete_block(&block).await)
    }

    /// Deletes an affinity whose block does not exist, or is not its owner's.
    async fn drop_affinity(&self, key: &AffinityKey) -> Result<bool, AccessError> {
        let Some(affinity) = self.affinity(key).await? else { return Ok(false) };
        if self.damaged_block(key.block).await?.is_some_and(|block| block.value.is_owned_by(&key.owner)) {
            return Ok(false);
        }
        changed(self.kv().delete(&key.to_string(), affinity.revision).await)
    }

    /// Confirms the affinity of an owner for its own block, as the next assignment on that host would.
    async fn finish_claim(&self, owner: &Owner, cidr: IpNet) -> Result<bool, AffinityError> {
        let config = self.get_config().await?;
        let mut retry = self.retry(format!("block {cidr}"));
        loop {
            let block = self.raw_block(cidr).await?;
            if !block.is_some_and(|block| block.value.is_owned_by(owner)) {
                return Ok(false);
            }
            let finished = match self.begin_claim(owner, cidr).await {
                Ok(claim) => self.load_block(claim, None, &config).await,
                Err(error) => Err(error),
            };
            match finished {
                Ok(_) => return Ok(true),
                Err(ClaimError::Lost { .. }) => return Ok(false),
                Err(ClaimError::Raced) => retry.lost().await?,
                Err(ClaimError::Access(error)) => return Err(error.into()),
            }
        }
    }

    /// Makes a handle's count for a block what it holds there. The handle is read first: whoever assigns after that
    /// raises it, so that this write is refused.
    async fn recount(&self, id: &HandleId, cidr: IpNet) -> Result<bool, AccessError> {
        let mut retry = self.retry(format!("handle {id}"));
        loop {
            let stored = self.handle(id).await?;
            let held = self.damaged_block(cidr).await?.map_or(0, |block| block.value.held_by(id).len());
            let (mut handle, revision) = stored.map_or((Handle::default(), None), |s| (s.value, Some(s.revision)));
            if !handle.set(cidr, held) {
                return Ok(false);
            }
            let written = match revision {
                None => self.kv().create(&id.key(), handle.to_json()).await.map(|_| ()),
                Some(revision) if handle.is_empty() => self.kv().delete(&id.key(), revision).await,
                Some(revision) => self.kv().update(&id.key(), handle.to_json(), revision).await.map(|_| ()),
            };
            match written {
                Ok(()) => return Ok(true),
                Err(error) if is_race(&error) => retry.lost().await?,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A lost race means that somebody else has seen to it.
fn changed(written: Result<(), calico_store::Error>) -> Result<bool, AccessError> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if is_race(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
