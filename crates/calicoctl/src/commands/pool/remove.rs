//! `pool remove`
//!
//! As upstream removes pools: the pool is disabled, so that nobody takes a block or an address of it any more; after a
//! moment in which every host has noticed, the hosts' claims on its blocks are let go; then the pool is deleted.
//! Addresses in use stay assigned in blocks without an owner, and their containers keep them.

use std::time::Duration;

use calico_ipam::Ipam;
use calico_model::{IPPool, IPPoolSpec};
use calico_store::Error;
use serde_json::json;

use super::{
    plan, stored,
    uses::{self, Use},
};
use crate::{
    commands::race,
    context::Context,
    failure::{Exit, Failure, sentence},
    output::{Format, Output},
};

/// How long hosts may take to notice that a pool is disabled.
const NOTICE: Duration = Duration::from_millis(500);

/// How many addresses are listed.
const LISTED: usize = 20;

/// `pool remove`
pub(super) async fn remove(ctx: &Context, words: &[String], format: Format) -> Result<Output, Failure> {
    let pools = stored(ctx).await?;
    let (mut chosen, mut faults): (Vec<&IPPool>, Vec<Failure>) = (Vec::new(), Vec::new());
    for word in words {
        match find(&pools, word) {
            Ok(pool) if chosen.iter().any(|chosen| chosen.name() == pool.name()) => {}
            Ok(pool) => chosen.push(pool),
            Err(failure) => faults.push(failure),
        }
    }
    if let Some(failure) = Failure::together(faults) {
        return Err(failure);
    }
    let _acting = ctx.interrupt.acting();
    // A document must have nothing before it.
    let progress = |line: &str| {
        if format == Format::Table {
            ctx.console.say(line)
        }
    };
    let (mut text, mut removed) = (String::new(), Vec::new());
    for pool in chosen {
        match remove_one(ctx, pool, progress).await {
            Ok(uses) => {
                let lines = [vec![format!("Deleted IP Pool {}", pool.spec.cidr)], left(pool, &uses)].concat();
                text.extend(lines.iter().map(|line| format!("{line}\n")));
                removed.push(json!({ "cidr": pool.spec.cidr, "name": pool.name(), "stillInUse": uses }));
            }
            Err(failure) if removed.is_empty() => return Err(failure),
            // What is done stays done.
            Err(failure) => return Ok(Output::of(text, removed).but(failure).exit(Exit::Failed)),
        }
    }
    Ok(Output::of(text, removed))
}

/// Removes a pool; what still has addresses of it.
async fn remove_one(ctx: &Context, pool: &IPPool, progress: impl Fn(&str)) -> Result<Vec<Use>, Failure> {
    ctx.interrupt.check()?;
    progress("Disabling IP Pool");
    disable(ctx, pool).await?;
    progress("Removing IPAM configuration for pool");
    let_go(ctx, pool).await?;
    race::delete(ctx, &format!("IPPool {}", pool.name()), &pool.key().to_string(), None).await?;
    uses::of(ctx, pool.spec.cidr).await.map_err(|failure| {
        failure.context(format!("Pool {} is deleted; what still has addresses of it cannot be told.", pool.spec.cidr))
    })
}

/// The pool of a CIDR or of a name.
fn find<'a>(pools: &'a [IPPool], word: &str) -> Result<&'a IPPool, Failure> {
    if let Some(pool) = pools.iter().find(|pool| pool.name() == word) {
        return Ok(pool);
    }
    let cidr = plan::cidr(word)?;
    pools.iter().find(|pool| pool.spec.cidr == cidr).ok_or_else(|| {
        let present: Vec<String> = pools.iter().map(|pool| pool.spec.cidr.to_string()).collect();
        let hint = match &present[..] {
            [] => "there are no pools".to_owned(),
            present => format!("the pools are {}", present.join(", ")),
        };
        Failure::new(format!("{cidr} is not a configured pool.")).hint(hint)
    })
}

/// Ends the allocation from a pool that is to be deleted: nobody takes addresses from it, and no host claims a block
/// of it any more. Addresses in use stay in use.
///
/// # Errors
/// The datastore's; a block that cannot be let go.
pub(crate) async fn end_allocation(ctx: &Context, pool: &IPPool) -> Result<(), Failure> {
    disable(ctx, pool).await?;
    let_go(ctx, pool).await
}

/// Disables the pool, and waits until everybody must have noticed.
async fn disable(ctx: &Context, pool: &IPPool) -> Result<(), Failure> {
    let key = pool.key();
    let disabled = ctx.store.modify::<IPPoolSpec, Error>(&key, |pool| {
        pool.spec.disabled = true;
        Ok(())
    });
    match disabled.await {
        Ok(_) => tokio::time::sleep(NOTICE).await,
        // One that is gone meanwhile, or that could not be stored today: nobody allocates from either.
        Err(Error::NotFound { .. } | Error::Invalid(_)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Takes the hosts' claims on the pool's blocks away.
async fn let_go(ctx: &Context, pool: &IPPool) -> Result<(), Failure> {
    Ipam::new(ctx.store.clone()).release_pool_affinities(pool.spec.cidr).await.map_err(|error| {
        Failure::new(sentence(&error)).hint(format!("pool {} is disabled now; run the command again", pool.spec.cidr))
    })
}

/// What still has addresses of a pool that is gone, and how to go on.
fn left(pool: &IPPool, uses: &[Use]) -> Vec<String> {
    let cidr = pool.spec.cidr;
    let Some(first) = uses.first() else { return Vec::new() };
    let mut lines = vec![match uses.len() {
        1 => format!("1 address of {cidr} is still in use:"),
        count => format!("{count} addresses of {cidr} are still in use:"),
    }];
    lines.extend(uses.iter().take(LISTED).map(|using| format!("  {}  {}", using.address, using.holder)));
    if uses.len() > LISTED {
        lines.push(format!("  … and {} more", uses.len() - LISTED));
    }
    lines.push(
        "They stay with their holders, but other hosts do not learn their routes any more and nothing masquerades them."
            .to_owned(),
    );
    lines.push("To go on:".to_owned());
    let container = uses.iter().find_map(|using| Some((using.container.as_deref()?, using.address)));
    match container {
        Some((name, address)) => lines.push(format!(
            "  take them back: on the container's host, calicoctl container {name} ip remove {address}, or calicoctl \
             container remove {name}"
        )),
        None => lines.push(format!("  take them back: calicoctl ipam release {}", first.address)),
    }
    let options = super::show::options(&pool.spec).into_iter().filter(|option| option != "disabled");
    let mut options: String = options.map(|option| format!(" --{option}")).collect();
    // Blocks in use keep their size, and a pool with another is refused.
    let usual = IPPoolSpec { cidr, ..IPPoolSpec::default() }.block_prefix_len();
    let size = pool.spec.block_prefix_len();
    if size != usual {
        options += &format!(" --block-size={size}");
    }
    lines.push(format!("  or keep them in use: calicoctl pool add {cidr}{options}"));
    lines
}
