//! `calicoctl pool …`
//!
//! A pool is known by its CIDR, as in the classic tool, though v3 gives it a name: a new one is called as upstream's
//! migration calls it (`192-168-0-0-16`), and one that is there is found whatever its name is.
//!
//! Everything that was typed is checked before anything is written; what a failure leaves half done is undone.

mod add;
mod plan;
mod remove;
mod show;
#[cfg(test)]
mod tests;
mod uses;

use calico_model::{IPPool, IPPoolSpec};
pub(crate) use remove::end_allocation;

use crate::{
    args::{PoolCommand, PoolRangeCommand},
    context::Context,
    failure::Failure,
    output::Output,
};

/// Does what was typed after `pool`.
pub(crate) async fn run(ctx: &Context, command: &PoolCommand) -> Result<Output, Failure> {
    match command {
        PoolCommand::Add { cidrs, options } => add::add(ctx, cidrs, options).await,
        PoolCommand::Range { command: PoolRangeCommand::Add { start, end, options } } => {
            add::add_range(ctx, start, end, options).await
        }
        PoolCommand::Remove { cidrs, output } => remove::remove(ctx, cidrs, output.format).await,
        PoolCommand::Show { ipv4, ipv6, output } => show::show(ctx, *ipv4, *ipv6, *output).await,
    }
}

/// All pools that can be read; the others are told.
async fn stored(ctx: &Context) -> Result<Vec<IPPool>, Failure> {
    let (pools, unreadable) = ctx.store.list::<IPPoolSpec>().await?;
    ctx.note_unreadable(&unreadable);
    Ok(pools)
}
