//! `calicoctl ipam …`

use crate::{args::IpamCommand, context::Context, failure::Failure, output::Output};

/// Does what was typed after `ipam`.
pub(crate) async fn run(_ctx: &Context, command: &IpamCommand) -> Result<Output, Failure> {
    match command {
        IpamCommand::Show(_) => Err(Failure::new("This build has no ipam commands.")),
    }
}
