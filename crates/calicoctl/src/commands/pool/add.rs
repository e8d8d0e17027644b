//! `pool add` and `pool range add`
//!
//! A pool with the same CIDR that is there already is changed, as in the classic tool: the options that were given are
//! set, the others are switched off. Its name, block size and selectors stay.

use calico_ipam::Ipam;
use calico_model::{IPPool, IPPoolSpec};
use calico_store::{Error, Store};
use ipnet::IpNet;
use time::OffsetDateTime;

use super::{
    plan::{self, Wanted, meet},
    stored,
};
use crate::{
    args::PoolOptions,
    context::Context,
    failure::{Failure, sentence},
    output::Output,
    undo::Undo,
};

/// `pool add`
pub(super) async fn add(ctx: &Context, words: &[String], options: &PoolOptions) -> Result<Output, Failure> {
    let (mut cidrs, mut faults) = (Vec::new(), Vec::new());
    for word in words {
        match plan::cidr(word) {
            Ok(cidr) => cidrs.push(cidr),
            Err(failure) => faults.push(failure),
        }
    }
    let wanted = match Wanted::read(options) {
        Ok(wanted) => wanted,
        Err(failure) => {
            faults.push(failure);
            return Err(Failure::together(faults).expect("the options are a failure"));
        }
    };
    faults.extend(cidrs.iter().filter_map(|cidr| wanted.fault(*cidr)));
    for (index, cidr) in cidrs.iter().enumerate() {
        if let Some(other) = cidrs[..index].iter().find(|other| meet(*cidr, **other)) {
            let reason = format!("Cannot add IP pool {cidr} - pool overlaps with another new pool {other}");
            faults.push(Failure::new(reason));
        }
    }
    if let Some(failure) = Failure::together(faults) {
        return Err(failure);
    }
    let pools = stored(ctx).await?;
    let (mut present, mut faults) = (Vec::new(), Vec::new());
    for cidr in &cidrs {
        let same = pools.iter().find(|pool| pool.spec.cidr == *cidr);
        match same {
            Some(pool) => faults.extend(wanted.fault_of_change(pool)),
            None => {
                faults.extend(pools.iter().filter(|pool| meet(*cidr, pool.spec.cidr)).map(|pool| overlap(*cidr, pool)))
            }
        }
        present.push(same);
    }
    if let Some(failure) = Failure::together(faults) {
        return Err(failure);
    }
    write(ctx, &wanted, &cidrs.iter().copied().zip(present).collect::<Vec<_>>()).await
}

/// `pool range add`: only new pools.
pub(super) async fn add_range(ctx: &Context, start: &str, end: &str, options: &PoolOptions) -> Result<Output, Failure> {
    let (cidrs, wanted) = match (plan::range(start, end), Wanted::read(options)) {
        (Ok(cidrs), Ok(wanted)) => (cidrs, wanted),
        (cidrs, wanted) => {
            let faults = cidrs.err().into_iter().chain(wanted.err()).collect();
            return Err(Failure::together(faults).expect("one of the two is a failure"));
        }
    };
    let faults: Vec<Failure> = cidrs.iter().filter_map(|cidr| wanted.fault(*cidr)).collect();
    if let Some(failure) = Failure::together(faults) {
        let pieces: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
        return Err(failure
            .context("The range is split into pools, and one or more of them cannot be.")
            .because(format!("range given: {start} - {end}; pools: {}", pieces.join(", "))));
    }
    let pools = stored(ctx).await?;
    let conflicts = pools.iter().filter(|pool| cidrs.iter().any(|cidr| meet(*cidr, pool.spec.cidr)));
    let faults = conflicts.map(|pool| {
        Failure::new(format!("Cannot add range - range conflicts with pool {}", pool.spec.cidr))
            .because(format!("that is IPPool {}", pool.name()))
    });
    if let Some(failure) = Failure::together(faults.collect()) {
        return Err(failure);
    }
    write(ctx, &wanted, &cidrs.into_iter().map(|cidr| (cidr, None)).collect::<Vec<_>>()).await
}

fn overlap(cidr: IpNet, pool: &IPPool) -> Failure {
    let other = pool.spec.cidr;
    Failure::new(format!("Cannot add IP pool {cidr} - pool overlaps with an existing pool {other}"))
        .because(format!("{other} is IPPool {}", pool.name()))
        .hint("the pools are: calicoctl pool show -o wide")
}

/// Creates or changes the pools, all or none.
async fn write(ctx: &Context, wanted: &Wanted, pools: &[(IpNet, Option<&IPPool>)]) -> Result<Output, Failure> {
    let new: Vec<IPPool> =
        pools.iter().filter(|(_, present)| present.is_none()).map(|(cidr, _)| wanted.pool(*cidr)).collect();
    let mut faults: Vec<Failure> = new.iter().filter_map(invalid).collect();
    faults.extend(other_blocks(ctx, &new).await?);
    if let Some(failure) = Failure::together(faults) {
        return Err(failure);
    }
    let _acting = ctx.interrupt.acting();
    let mut undo = Undo::new();
    match write_each(ctx, wanted, pools, new, &mut undo).await {
        Ok(()) => {
            if wanted.is_ipip() {
                ctx.console.note(
                    "note: IP-in-IP is stored for hosts that run upstream's agent; hosts of this release carry no \
                     traffic in it, so containers on different hosts do not reach each other in such a pool. VXLAN \
                     does the same work: calicoctl pool add CIDR --vxlan",
                );
            }
            Ok(Output::of(String::new(), serde_json::Value::Null))
        }
        Err(failure) => Err(undo.roll_back(failure).await),
    }
}

async fn write_each<'a>(
    ctx: &'a Context,
    wanted: &Wanted,
    pools: &[(IpNet, Option<&IPPool>)],
    new: Vec<IPPool>,
    undo: &mut Undo<'a>,
) -> Result<(), Failure> {
    for pool in pools.iter().filter_map(|(_, present)| *present) {
        ctx.interrupt.check()?;
        undo.push(format!("the change of pool {}", pool.spec.cidr), restore(&ctx.store, pool.clone(), *wanted));
        let key = pool.key();
        let changed = ctx.store.modify::<IPPoolSpec, Error>(&key, |pool| {
            wanted.set(&mut pool.spec);
            Ok(())
        });
        changed.await?;
    }
    for mut pool in new {
        ctx.interrupt.check()?;
        // Known before it is written, so that it can be recognised even if the answer is lost.
        pool.metadata.stamp(OffsetDateTime::now_utc());
        let (key, cidr) = (pool.key(), pool.spec.cidr);
        undo.push(format!("pool {cidr}"), withdraw(&ctx.store, pool.clone()));
        ctx.store.create(pool).await.map_err(|error| match error {
            Error::AlreadyExists { .. } => Failure::new(format!("Cannot add IP pool {cidr}."))
                .because(format!("there is an IPPool {} already, with another CIDR", key.name))
                .hint("give the pool another name with calicoctl create -f"),
            error => error.into(),
        })?;
        // Two who add overlapping pools at the same moment do not see each other before they have written.
        let others = stored(ctx).await?;
        if let Some(other) = others.iter().find(|other| other.name() != key.name && meet(cidr, other.spec.cidr)) {
            return Err(overlap(cidr, other));
        }
    }
    Ok(())
}

/// Takes a change back, unless it did not take place or somebody has changed the pool since.
async fn restore(store: &Store, before: IPPool, wanted: Wanted) -> Result<(), Failure> {
    let mut after = before.spec.clone();
    wanted.set(&mut after);
    match store.get::<IPPoolSpec>(before.name()).await {
        Ok(pool) if pool.spec == after => Ok(store.update(IPPool { spec: before.spec, ..pool }).await.map(drop)?),
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Deletes a pool of ours, if it is there.
async fn withdraw(store: &Store, ours: IPPool) -> Result<(), Failure> {
    match store.get::<IPPoolSpec>(ours.name()).await {
        Ok(pool) if pool.metadata.uid == ours.metadata.uid => Ok(store.delete(&pool).await?),
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What v3 has against a pool.
fn invalid(pool: &IPPool) -> Option<Failure> {
    let invalid = pool.clone().prepare().err()?;
    let reasons: Vec<&str> = invalid.faults.iter().map(|fault| fault.reason.as_str()).collect();
    Some(Failure::new(format!("Cannot add IP pool {}: {}.", pool.spec.cidr, reasons.join("; "))))
}

/// Blocks of an earlier pool live on while their addresses are in use; a pool with blocks of another size would cut
/// through them.
async fn other_blocks(ctx: &Context, new: &[IPPool]) -> Result<Vec<Failure>, Failure> {
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let blocks = Ipam::new(ctx.store.clone()).all_blocks().await.map_err(|error| Failure::new(sentence(&error)))?;
    let faults = new.iter().filter_map(|pool| {
        let (cidr, size) = (pool.spec.cidr, pool.spec.block_prefix_len());
        let block = blocks.iter().find(|block| meet(cidr, block.cidr) && block.cidr.prefix_len() != size)?;
        let present = block.cidr.prefix_len();
        Some(
            Failure::new(format!("Cannot add IP pool {cidr} with blocks of /{size}."))
                .because(format!("addresses of block {} of an earlier pool are in use", block.cidr))
                .hint(format!("add it with --block-size={present}, or release those addresses first")),
        )
    });
    Ok(faults.collect())
}
