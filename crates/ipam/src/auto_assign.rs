//! Assigning addresses wherever there are some.
//!
//! Per family: the owner's own blocks, then new ones up to the limit, then, unless affinity is strict, other owners'
//! blocks. Every address is obtained by one compare-and-swap of its block.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use crate::{
    Block, Config, Family, HandleId, IntendedUse, Ipam, Owner, Reservations,
    assign::{owner_for, some_handle},
    block::{Attribute, Ordinal},
    error::{AccessError, AssignError, PoolError},
    hunt::{Hunt, HuntError},
    ipam::Stored,
    order::BlockOrder,
    range::nth_address,
    release::ReleaseRequest,
    retry::is_race,
};

/// A request for addresses wherever there are some.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AutoAssign {
    /// The host on which the addresses are used; for [`IntendedUse::LoadBalancer`] the load balancer.
    pub host: String,
    /// How many IPv4 addresses.
    pub num4: usize,
    /// How many IPv6 addresses.
    pub num6: usize,
    /// Who will hold them. Without a handle an address can be released by address only, and one whose assignment was
    /// cut short by a failing datastore stays assigned without anybody knowing: give one.
    pub handle: Option<HandleId>,
    /// Notes to store with the addresses. `node` should always be there: the agents route borrowed addresses by it.
    pub attrs: Option<BTreeMap<String, String>>,
    /// IPv4 pools to use, in this order; all that are for the node if empty.
    pub pools4: Vec<IpNet>,
    /// The same for IPv6.
    pub pools6: Vec<IpNet>,
    /// How many blocks per family the host may own after this; see [`Config::block_limit`].
    pub max_blocks: Option<u32>,
    /// What the addresses are for.
    pub intended_use: IntendedUse,
    /// The labels of the workload's namespace, for pools that select namespaces.
    pub namespace_labels: BTreeMap<String, String>,
    /// How many addresses per family the handle may hold. A handle that holds so many gets those again.
    pub max_alloc_per_handle: Option<usize>,
}

/// Addresses that were assigned, in order, each with the prefix length of its block (or a full one if the handle
/// held it before).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    /// IPv4.
    pub v4: Vec<IpNet>,
    /// IPv6.
    pub v6: Vec<IpNet>,
}

impl Assigned {
    fn family_mut(&mut self, family: Family) -> &mut Vec<IpNet> {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

/// What one write to one block assigned, with all that is needed to take it back.
#[derive(Debug)]
struct Grant {
    block: IpNet,
    ordinals: Vec<Ordinal>,
    /// Of the allocations.
    sequence: u64,
    /// By how much the handle was raised.
    counted: usize,
}

/// One family's half of a request.
struct Half<'a> {
    request: &'a AutoAssign,
    family: Family,
    owner: Owner,
    attribute: Attribute,
    config: Config,
    reservations: Reservations,
}

impl AutoAssign {
    fn count(&self, family: Family) -> usize {
        match family {
            Family::V4 => self.num4,
            Family::V6 => self.num6,
        }
    }

    fn pools(&self, family: Family) -> &[IpNet] {
        match family {
            Family::V4 => &self.pools4,
            Family::V6 => &self.pools6,
        }
    }
}

impl Ipam {
    /// Assigns all the addresses asked for, or none: when one is missing, what was obtained is given back.
    ///
    /// # Errors
    /// Everything in [`AssignError`] but what concerns chosen addresses. If the datastore fails in the middle,
    /// addresses may stay assigned to the handle; release it once the datastore is back.
    pub async fn auto_assign(&self, request: AutoAssign) -> Result<Assigned, AssignError> {
        let (assigned, grants, error) = self.assign_all(&request).await;
        match error {
            None => Ok(assigned),
            Some(error) => {
                self.take_back(some_handle(&request.handle), grants).await;
                Err(error)
            }
        }
    }

    /// Assigns as many of the addresses asked for as there are, IPv4 first. With an error, that of the first family
    /// that fell short, the result is what was obtained; it stays assigned.
    ///
    /// IPv6 is tried after IPv4 addresses ran out, but not after any other failure.
    pub async fn auto_assign_partial(&self, request: AutoAssign) -> (Assigned, Option<AssignError>) {
        let (assigned, _, error) = self.assign_all(&request).await;
        (assigned, error)
    }

    async fn assign_all(&self, request: &AutoAssign) -> (Assigned, Vec<Grant>, Option<AssignError>) {
        let (mut assigned, mut grants, mut first_error) = (Assigned::default(), Vec::new(), None);
        for family in Family::ALL.into_iter().filter(|family| request.count(*family) > 0) {
            let known = grants.len();
            let result = self.assign_half(request, family, &mut grants, assigned.family_mut(family)).await;
            for grant in &grants[known..] {
                let addresses = grant.ordinals.iter().map(|ordinal| nth_address(grant.block, *ordinal));
                let nets =
                    addresses.map(|ip| IpNet::new(ip, grant.block.prefix_len()).expect("the block's own length"));
                assigned.family_mut(family).extend(nets);
            }
            let Err(error) = result else { continue };
            let go_on = matches!(error, AssignError::Exhausted { .. });
            first_error.get_or_insert(error);
            if !go_on {
                break;
            }
        }
        (assigned, grants, first_error)
    }

    async fn assign_half(
        &self,
        request: &AutoAssign,
        family: Family,
        grants: &mut Vec<Grant>,
        held_before: &mut Vec<IpNet>,
    ) -> Result<(), AssignError> {
        let requested = request.pools(family);
        if let Some(pool) = requested.iter().find(|pool| Family::of_net(**pool) != family) {
            return Err(PoolError::WrongFamily { pool: *pool, family }.into());
        }
        let mut half = Half {
            request,
            family,
            owner: owner_for(&request.host, request.intended_use),
            attribute: Attribute::new(some_handle(&request.handle), request.attrs.as_ref()),
            config: self.get_config().await?,
            reservations: self.reservations().await?,
        };
        let selected = self
            .select_pools(&half.owner, family, request.intended_use, requested, &request.namespace_labels, None)
            .await?;
        let affine = self.affine_and_usable(&half.owner, family, &selected, &half.config).await?;
        let mut count = request.count(family);
        let limited = self.handle_room(&half, &mut count, held_before).await?;
        if count == 0 {
            return Ok(());
        }
        let mut hunt = Hunt {
            ipam: self,
            config: half.config.clone(),
            owner: half.owner.clone(),
            family,
            owned: affine.len(),
            affine: affine.into(),
            limit: half.config.block_limit(request.max_blocks),
            pools: selected.usable,
            reservations: std::mem::take(&mut half.reservations),
            reserved: None,
        };
        self.fill(&half, &mut hunt, count, grants).await?;
        limited.map_or(Ok(()), Err)
    }

    /// Lowers `count` to what the handle may still get. A handle that has all it may have gets that, and nothing new.
    async fn handle_room(
        &self,
        half: &Half<'_>,
        count: &mut usize,
        held_before: &mut Vec<IpNet>,
    ) -> Result<Option<AssignError>, AssignError> {
        let (Some(limit), Some(handle)) = (half.request.max_alloc_per_handle, some_handle(&half.request.handle)) else {
            return Ok(None);
        };
        let held = self.held(handle, half.family).await?;
        if held.len() >= limit {
            held_before.extend(held.into_iter().map(IpNet::from));
            *count = 0;
            return Ok(None);
        }
        let room = limit - held.len();
        let short = *count > room;
        *count = (*count).min(room);
        Ok(short.then(|| AssignError::HandleLimit { handle: handle.clone(), limit, held }))
    }

    /// The addresses of a family that a handle holds, ascending.
    pub(crate) async fn held(&self, handle: &HandleId, family: Family) -> Result<Vec<IpAddr>, AccessError> {
        let held = self.addresses_of(handle).await?.unwrap_or_default();
        Ok(held.into_iter().filter(|address| Family::of(*address) == family).collect())
    }

    /// Obtains `count` addresses from the owner's blocks, then from new ones, then, unless affinity is strict, from
    /// anybody's.
    async fn fill(
        &self,
        half: &Half<'_>,
        hunt: &mut Hunt<'_>,
        count: usize,
        grants: &mut Vec<Grant>,
    ) -> Result<(), AssignError> {
        let known = grants.len();
        let obtained = |grants: &Vec<Grant>| grants[known..].iter().map(|grant| grant.ordinals.len()).sum::<usize>();
        let (host, family, requested) = (half.request.host.clone(), half.family, half.request.count(half.family));
        while obtained(grants) < count {
            let block = match hunt.next_block(1).await {
                Ok(Some(block)) => block,
                Ok(None) => break,
                Err(HuntError::Limit(limit)) => {
                    return Err(AssignError::BlockLimit { host, family, limit, requested, obtained: obtained(grants) });
                }
                Err(HuntError::NoAutoAllocation) => {
                    return Err(AssignError::NoAutoAllocation { host, family, requested, obtained: obtained(grants) });
                }
                Err(HuntError::Access(error)) => return Err(error.into()),
            };
            let want = count - obtained(grants);
            let strict = half.config.strict_affinity;
            grants.extend(self.assign_from(half, block, want, strict, &hunt.reservations).await?);
        }
        if obtained(grants) < count && !half.config.strict_affinity {
            self.borrow(half, hunt, count - obtained(grants), grants).await?;
        }
        match obtained(grants) {
            obtained if obtained < count => {
                let pools = hunt.pools.iter().map(|pool| pool.cidr).collect();
                let strict = half.config.strict_affinity;
                Err(AssignError::Exhausted { family, requested, obtained, strict, pools })
            }
            _ => Ok(()),
        }
    }

    /// Obtains addresses from blocks that exist, whoever owns them; they stay with their owners.
    async fn borrow(
        &self,
        half: &Half<'_>,
        hunt: &Hunt<'_>,
        mut want: usize,
        grants: &mut Vec<Grant>,
    ) -> Result<(), AssignError> {
        let existing = self.block_entries(half.family).await?;
        for pool in &hunt.pools {
            let order = BlockOrder::new(pool.cidr, pool.block_len, &half.owner.name, hunt.entropy());
            for cidr in order.sort(existing.keys().copied()) {
                if want == 0 {
                    return Ok(());
                }
                let block = match self.block(cidr, &half.config).await {
                    Ok(Some(block)) => block,
                    Ok(None) => continue,
                    Err(error @ calico_store::Error::Corrupt { .. }) => {
                        tracing::warn!(%error, "skipping a block that cannot be read");
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                if let Some(grant) = self.assign_from(half, block, want, false, &hunt.reservations).await? {
                    want -= grant.ordinals.len();
                    grants.push(grant);
                }
            }
        }
        Ok(())
    }

    /// Takes up to `want` addresses from one block; `None` if it has none to give.
    async fn assign_from(
        &self,
        half: &Half<'_>,
        mut block: Stored<Block>,
        want: usize,
        strict: bool,
        reservations: &Reservations,
    ) -> Result<Option<Grant>, AccessError> {
        let cidr = block.value.cidr;
        let handle = some_handle(&half.request.handle);
        let mut retry = self.retry(format!("block {cidr}"));
        loop {
            if strict && !block.value.is_owned_by(&half.owner) {
                return Ok(None);
            }
            let sequence = block.value.sequence_number;
            let ordinals = block.value.take(want, &half.attribute, reservations);
            if ordinals.is_empty() {
                return Ok(None);
            }
            match self.write_assignment(block, handle, want).await {
                Ok(()) => return Ok(Some(Grant { block: cidr, ordinals, sequence, counted: want })),
                Err(AccessError::Store(error)) if is_race(&error) => retry.lost().await?,
                Err(error) => return Err(error),
            }
            match self.block(cidr, &half.config).await? {
                Some(current) => block = current,
                None => return Ok(None),
            }
        }
    }

    /// Gives back what a request that failed had obtained.
    async fn take_back(&self, handle: Option<&HandleId>, grants: Vec<Grant>) {
        for grant in grants {
            let address = |ordinal: &Ordinal| nth_address(grant.block, *ordinal);
            let requests: Vec<ReleaseRequest> = grant
                .ordinals
                .iter()
                .map(|ordinal| ReleaseRequest {
                    address: address(ordinal),
                    handle: handle.cloned(),
                    sequence: Some(grant.sequence),
                })
                .collect();
            let released = match self.get_config().await {
                Ok(config) => self.release_from(grant.block, &requests, &config).await.map(|_| ()),
                Err(error) => Err(error.into()),
            };
            match (released, handle) {
                (Err(error), _) => {
                    tracing::warn!(block = %grant.block, %error, "addresses of a failed request stay assigned");
                }
                (Ok(()), Some(handle)) => self.decrement(handle, grant.block, grant.counted).await,
                (Ok(()), None) => {}
            }
        }
    }
}
