//! `calicoctl ipam …`
//!
//! The words, tables and files are those of upstream's calicoctl, so that scripts and reports work with either;
//! where ours differ, `vectors/DIFFERENCES.md` says so. What stands where:
//!
//! - [`show`](mod@show) and [`classic`] look;
//! - [`check`](mod@check) compares allocations with their users, [`report`] is what it writes for programs;
//! - [`release`](mod@release), [`configure`](mod@configure), [`split`](mod@split) and [`repair`](mod@repair) change;
//! - [`sheet`] draws the tables.

mod check;
mod classic;
mod configure;
mod release;
mod repair;
mod report;
mod sheet;
mod show;
mod split;

use std::net::IpAddr;

use calico_ipam::Ipam;

use super::resource::check_version;
use crate::{
    args::IpamCommand,
    context::Context,
    failure::{Exit, Failure},
    output::Output,
};

/// Does what was typed after `ipam`.
pub(crate) async fn run(ctx: &Context, command: &IpamCommand) -> Result<Output, Failure> {
    let allow = command.connection().is_some_and(|connection| connection.allow_version_mismatch);
    check_version(ctx, allow).await?;
    let ipam = Ipam::new(ctx.store.clone());
    match command {
        IpamCommand::Show(args) => show::show(&ipam, args).await,
        IpamCommand::Info(args) => classic::info(&ipam, &args.address).await,
        IpamCommand::Check(args) => check::check(ctx, &ipam, args).await,
        IpamCommand::Release(args) => release::release(ctx, &ipam, args).await,
        IpamCommand::Configure(args) => configure::configure(&ipam, args).await,
        IpamCommand::Split(args) => split::split(ctx, args).await,
        IpamCommand::Repair(args) => repair::repair(ctx, &ipam, args).await,
    }
}

/// An address that was typed. Its refusal goes to standard output, as upstream's does.
fn address(text: &str) -> Result<IpAddr, Box<Output>> {
    let refusal = || Output::line(format!("Error executing command: invalid IP address specified: {text}"));
    text.parse().map_err(|_| Box::new(refusal().exit(Exit::Failed)))
}

#[cfg(test)]
mod tests;
