//! `ipam split`: several small pools in the place of a large one. Blocks, affinities and addresses stay as they are:
//! the small pools together cover what the large one did.
//!
//! All that can be refused is refused before anything is written. Then the pool is disabled, so that nobody claims
//! blocks of it, the small ones are made, and the large one is deleted; what fails on the way is undone.

use calico_model::{IPPool, IPPoolSpec, KindName, ResourceKey};
use calico_store::Error;
use ipnet::IpNet;
use serde_json::json;

use crate::{args::IpamSplit, commands::datastore::is_locked, context::Context, failure::Failure, output::Output};

/// Into more parts no pool is cut at once: each is a resource that every host reads.
const MOST_PARTS: u64 = 4096;

/// A pool's name has at most so many characters.
const LONGEST_NAME: usize = 253;

/// `ipam split`
pub(super) async fn split(ctx: &Context, args: &IpamSplit) -> Result<Output, Failure> {
    let number = &args.number;
    let parts: i64 = number.parse().map_err(|_| {
        Failure::new(format!("error reading number to split IP pools into. {number} is not a valid number"))
    })?;
    let old = find(ctx, args).await?;
    let cidrs = parts_of(old.spec.cidr, parts, old.spec.block_prefix_len()).map_err(|reason| {
        Failure::new(format!("error splitting the CIDR {} into {parts} CIDRs: {reason}", old.spec.cidr))
    })?;
    let _acting = ctx.interrupt.acting();
    let pools = replace(ctx, old.clone(), &cidrs).await?;

    let mut text = format!("IP Pool {} was successfully split into {parts} smaller pools.", old.name());
    for pool in &pools {
        text += &format!("Created {} with CIDR {}.\n", pool.name(), pool.spec.cidr);
    }
    text += "Please refer to the documentation for final steps.\n";
    let facts: Vec<_> = pools.iter().map(|pool| json!({ "name": pool.name(), "cidr": pool.spec.cidr })).collect();
    Ok(Output::of(text, json!({ "split": old.name(), "created": facts })))
}

/// The pool that was named, in a datastore that is locked.
async fn find(ctx: &Context, args: &IpamSplit) -> Result<IPPool, Failure> {
    let typed = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    let (name, cidr) = (typed(&args.name), typed(&args.cidr));
    if name.is_none() && cidr.is_none() {
        return Err(Failure::new("no name or CIDR provided. Provide a name or CIDR to denote the IP pool to split")
            .hint("see: calicoctl ipam show"));
    }
    if !is_locked(ctx).await? {
        return Err(Failure::new(
            "datastore is not locked. Run the `calicoctl datastore migrate lock` command in order split the IP pools",
        ));
    }
    if let Some(name) = name {
        return match ctx.store.get::<IPPoolSpec>(&name).await {
            Ok(pool) => Ok(pool),
            Err(error) if error.is_not_found() => {
                Err(Failure::new(format!("unable to find IP pool with name {name}")).hint("see: calicoctl ipam show"))
            }
            Err(error) => Err(error.into()),
        };
    }
    let cidr = cidr.unwrap_or_default();
    let (pools, _) = ctx.store.list::<IPPoolSpec>().await?;
    let range: Option<IpNet> = cidr.parse().ok();
    pools.into_iter().find(|pool| Some(pool.spec.cidr) == range).ok_or_else(|| {
        Failure::new(format!("unable to find IP pool  covering the specified CIDR {cidr}"))
            .hint("the CIDR must be that of a whole pool; see: calicoctl ipam show")
    })
}

/// The equal parts of a range.
///
/// # Errors
/// Why it cannot be cut so.
fn parts_of(cidr: IpNet, parts: i64, block_len: u8) -> Result<Vec<IpNet>, String> {
    let power = u64::try_from(parts).ok().filter(|parts| *parts > 1 && parts.is_power_of_two());
    let Some(power) = power else {
        return Err(format!("number to split CIDR into is not a valid power of 2: {parts}"));
    };
    let too_small = format!("the CIDR {cidr} is not large enough to be split into {parts} parts");
    let length = u64::from(cidr.prefix_len()) + u64::from(power.trailing_zeros());
    let Some(length) = u8::try_from(length).ok().filter(|length| *length <= cidr.max_prefix_len()) else {
        return Err(too_small);
    };
    if power > MOST_PARTS {
        return Err(format!("{parts} parts are too many; no more than {MOST_PARTS} are made at once"));
    }
    if length > block_len {
        return Err(format!("{too_small}: a part must hold a block, which is a /{block_len}"));
    }
    cidr.subnets(length).map(Iterator::collect).map_err(|_| too_small)
}

/// Puts pools with these ranges in the place of one.
async fn replace(ctx: &Context, old: IPPool, cidrs: &[IpNet]) -> Result<Vec<IPPool>, Failure> {
    let disabled = set_disabled(ctx, old.name(), true).await?;
    let mut made = Vec::new();
    for (number, cidr) in cidrs.iter().enumerate() {
        match ctx.store.create(part(&old, number, *cidr)).await {
            Ok(pool) => made.push(pool),
            Err(error) => {
                // Whoever does not answer may have made it all the same.
                let name = part(&old, number, *cidr).name().to_owned();
                if error.is_unreachable()
                    && let Ok(pool) = ctx.store.get::<IPPoolSpec>(&name).await
                    && pool.spec.cidr == *cidr
                {
                    made.push(pool);
                }
                return Err(undo(ctx, &old, made, error).await);
            }
        }
    }
    match ctx.store.delete(&disabled).await {
        Ok(()) => Ok(made),
        // Somebody else deleted it meanwhile.
        Err(error) if error.is_not_found() => Ok(made),
        // Whoever does not answer may have deleted it all the same; without it the small ones must stay.
        Err(error) if error.is_unreachable() && is_gone(ctx, &old).await => Ok(made),
        Err(error) => Err(undo(ctx, &old, made, error).await),
    }
}

/// Whether a pool is known to be there no more.
async fn is_gone(ctx: &Context, pool: &IPPool) -> bool {
    ctx.store.get::<IPPoolSpec>(pool.name()).await.is_err_and(|error| error.is_not_found())
}

async fn set_disabled(ctx: &Context, name: &str, disabled: bool) -> Result<IPPool, Error> {
    let key = ResourceKey::new(KindName::IPPool, None, name);
    ctx.store
        .modify::<IPPoolSpec, Error>(&key, |pool| {
            pool.spec.disabled = disabled;
            Ok(())
        })
        .await
}

fn part(old: &IPPool, number: usize, cidr: IpNet) -> IPPool {
    let number = format!("-{number}");
    let room = LONGEST_NAME.saturating_sub("split-".len() + number.len());
    // Names of pools are ASCII.
    let name = old.name().get(..room).unwrap_or(old.name()).trim_end_matches(['-', '.']);
    let spec = IPPoolSpec { cidr, disabled: false, ..old.spec.clone() };
    let mut pool = IPPool::new(format!("split-{name}{number}"), spec);
    pool.metadata.labels = old.metadata.labels.clone();
    pool.metadata.annotations = old.metadata.annotations.clone();
    pool
}

/// Takes back what was written, and says so if even that fails.
async fn undo(ctx: &Context, old: &IPPool, made: Vec<IPPool>, error: Error) -> Failure {
    let mut failure = Failure::from(error).context(format!("IP Pool {} is not split.", old.name()));
    for pool in &made {
        if let Err(error) = ctx.store.delete(pool).await {
            failure = failure.because(format!("IPPool {} is left behind: {error}", pool.name()));
        }
    }
    if let Err(error) = set_disabled(ctx, old.name(), old.spec.disabled).await {
        failure = failure.because(format!("IPPool {} is left disabled: {error}", old.name()));
    }
    failure
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parts(cidr: &str, parts: i64, block_len: u8) -> Result<String, String> {
        let parts = parts_of(cidr.parse().unwrap(), parts, block_len)?;
        Ok(parts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn ranges_are_cut_into_powers_of_two_no_smaller_than_a_block() {
        assert_eq!(parts("10.0.0.0/24", 2, 26).unwrap(), "10.0.0.0/25 10.0.0.128/25");
        assert_eq!(parts("fd00::/122", 2, 128).unwrap(), "fd00::/123 fd00::20/123");
        for bad in [-2, 0, 1, 3, 6, i64::MAX] {
            assert!(parts("10.0.0.0/24", bad, 26).unwrap_err().contains("not a valid power of 2"), "{bad}");
        }
        assert!(parts("10.0.0.0/24", 8, 26).unwrap_err().contains("a part must hold a block"));
        assert!(parts("10.0.0.0/24", 1 << 40, 26).unwrap_err().ends_with("parts"));
        assert!(parts("fd00::/48", 1 << 40, 122).unwrap_err().contains("too many"));
    }

    #[test]
    fn long_names_are_cut() {
        let old =
            IPPool::new("p".repeat(253), IPPoolSpec { cidr: "10.0.0.0/24".parse().unwrap(), ..Default::default() });
        let name = part(&old, 12, old.spec.cidr).name().to_owned();
        assert!(name.len() == LONGEST_NAME && name.ends_with("pp-12"), "{name}");
    }
}
