//! What all ways of assigning share: which pools and blocks a request may use, and the write that assigns.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::{
    Block, Config, Family, HandleId, IntendedUse, Ipam, Owner, Pool, Pools,
    affinities::GiveUp,
    error::{AccessError, AffinityError, AssignError},
    ipam::Stored,
    pool::{Requester, Selected},
    retry::is_ambiguous,
};

/// Who owns the blocks for a use.
pub(crate) fn owner_for(host: &str, usage: IntendedUse) -> Owner {
    match usage {
        IntendedUse::LoadBalancer => Owner::load_balancer(host),
        IntendedUse::Workload | IntendedUse::Tunnel => Owner::host(host),
    }
}

pub(crate) fn some_handle(handle: &Option<HandleId>) -> Option<&HandleId> {
    handle.as_ref().filter(|handle| !handle.is_empty())
}

/// Pools that a request may use, and what was read to find them.
pub(crate) struct SelectedFor {
    pub usable: Vec<Pool>,
    pub selecting: Vec<Pool>,
    pub pools: Pools,
    pub node_labels: BTreeMap<String, String>,
}

impl Ipam {
    /// The pools that a request may use.
    pub(crate) async fn select_pools(
        &self,
        owner: &Owner,
        family: Family,
        usage: IntendedUse,
        requested: &[IpNet],
        namespace_labels: &BTreeMap<String, String>,
        max_block_len: Option<u8>,
    ) -> Result<SelectedFor, AssignError> {
        let node_labels = match usage {
            IntendedUse::LoadBalancer => BTreeMap::new(),
            IntendedUse::Workload | IntendedUse::Tunnel => {
                let labels = self.node_labels(&owner.name).await?;
                labels.ok_or_else(|| AssignError::NoNode { host: owner.name.clone() })?
            }
        };
        let pools = self.pools().await?;
        let max_block_len = max_block_len.unwrap_or(family.bits());
        let (host, node_labels_ref) = (owner.name.as_str(), &node_labels);
        let requester =
            Requester { host, family, usage, node_labels: node_labels_ref, namespace_labels, max_block_len };
        let Selected { usable, selecting } = pools.select(&requester, requested)?;
        Ok(SelectedFor { usable, selecting, pools, node_labels })
    }

    /// The owner's blocks that a request may use, in order. Empty blocks in pools that no longer select the node are
    /// given up on the way.
    pub(crate) async fn affine_and_usable(
        &self,
        owner: &Owner,
        family: Family,
        selected: &SelectedFor,
        config: &Config,
    ) -> Result<Vec<IpNet>, AssignError> {
        let inside = |pools: &[Pool], block: &IpNet| pools.iter().any(|pool| pool.cidr.contains(block));
        let affine = self.affine_blocks(owner, family).await?;
        let (usable, others): (Vec<_>, Vec<_>) = affine.into_iter().partition(|block| inside(&selected.usable, block));
        for block in others.into_iter().filter(|block| !inside(&selected.selecting, block)) {
            let pool = selected.pools.enabled_containing(block.network());
            if pool.is_none_or(|pool| pool.selects_node(&selected.node_labels).unwrap_or(true)) {
                continue;
            }
            match self.give_up(owner, block, GiveUp { must_be_empty: true, sequence: None }, config).await {
                Ok(_) => tracing::info!(%block, %owner, "gave up an empty block whose pool no longer selects the node"),
                Err(AffinityError::NotEmpty { .. }) => {}
                Err(error) => tracing::warn!(%block, %owner, %error, "could not give up a block"),
            }
        }
        Ok(usable)
    }

    /// Raises the handle, then writes the block; lowers the handle again if the block was not written. Whether it
    /// was is unknown when the datastore stopped answering: then the handle keeps its count, so that the address, if
    /// it was assigned, can be found by it.
    pub(crate) async fn write_assignment(
        &self,
        block: Stored<Block>,
        handle: Option<&HandleId>,
        count: usize,
    ) -> Result<(), AccessError> {
        let cidr = block.value.cidr;
        if let Some(handle) = handle {
            self.increment(handle, cidr, count).await?;
        }
        let Err(error) = self.update_block(block).await else { return Ok(()) };
        match handle {
            Some(handle) if !is_ambiguous(&error) => self.decrement(handle, cidr, count).await,
            _ => tracing::warn!(block = %cidr, %error, "it is unknown whether addresses were assigned"),
        }
        Err(error.into())
    }
}
