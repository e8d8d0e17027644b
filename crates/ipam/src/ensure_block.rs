//! Claiming a block ahead of the first address, with addresses of it set aside: Windows hosts need this.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::{
    Family, IntendedUse, Ipam, Owner,
    block::HostReserved,
    error::AssignError,
    hunt::{Hunt, HuntError},
    range::MAX_BLOCK_BITS,
};

impl Ipam {
    /// Makes sure that a host owns a block of each family for which something is to be set aside in its blocks, as
    /// Windows hosts need before their first workload. Returns the blocks.
    ///
    /// # Errors
    /// [`AssignError::ReservedCount`], and those of [`auto_assign`](Self::auto_assign). A block that was claimed
    /// before the error stays.
    pub async fn ensure_block(
        &self,
        host: &str,
        reserved4: Option<&HostReserved>,
        reserved6: Option<&HostReserved>,
        pools4: &[IpNet],
        pools6: &[IpNet],
    ) -> Result<Vec<IpNet>, AssignError> {
        let mut blocks = Vec::new();
        for (family, reserved, requested) in [(Family::V4, reserved4, pools4), (Family::V6, reserved6, pools6)] {
            let Some(reserved) = reserved else { continue };
            blocks.push(self.ensure_family(host, family, reserved, requested).await?);
        }
        Ok(blocks)
    }

    async fn ensure_family(
        &self,
        host: &str,
        family: Family,
        reserved: &HostReserved,
        requested: &[IpNet],
    ) -> Result<IpNet, AssignError> {
        let count = reserved.start + reserved.end;
        if count == 0 || count >= 1 << MAX_BLOCK_BITS {
            return Err(AssignError::ReservedCount { family, count });
        }
        let (owner, usage, config) = (Owner::host(host), IntendedUse::Workload, self.get_config().await?);
        let host_bits = usize::BITS - count.leading_zeros();
        let max_block_len = Some(family.bits() - host_bits as u8);
        let selected = self.select_pools(&owner, family, usage, requested, &BTreeMap::new(), max_block_len).await?;
        let affine = self.affine_and_usable(&owner, family, &selected, &config).await?;
        let limit = config.block_limit(None);
        let mut hunt = Hunt {
            ipam: self,
            config,
            owner,
            family,
            owned: affine.len(),
            affine: affine.into(),
            limit,
            pools: selected.usable,
            reservations: self.reservations().await?,
            reserved: Some(reserved),
        };
        let (host, requested, obtained) = (host.to_owned(), 0, 0);
        match hunt.next_block(0).await {
            Ok(Some(block)) => Ok(block.value.cidr),
            Ok(None) => {
                let pools = hunt.pools.iter().map(|pool| pool.cidr).collect();
                Err(AssignError::Exhausted { family, requested, obtained, strict: true, pools })
            }
            Err(HuntError::Limit(limit)) => Err(AssignError::BlockLimit { host, family, limit, requested, obtained }),
            Err(HuntError::NoAutoAllocation) => {
                Err(AssignError::NoAutoAllocation { host, family, requested, obtained })
            }
            Err(HuntError::Access(error)) => Err(error.into()),
        }
    }
}
