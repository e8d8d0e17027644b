//! `calicoctl pool …`

use crate::{args::PoolCommand, context::Context, failure::Failure, output::Output};

/// Does what was typed after `pool`.
pub(crate) async fn run(_ctx: &Context, command: &PoolCommand) -> Result<Output, Failure> {
    match command {
        PoolCommand::Show(_) => Err(Failure::new("This build has no pool commands.")),
    }
}
