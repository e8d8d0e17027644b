//! `calicoctl bgp …`

use crate::{args::BgpCommand, context::Context, failure::Failure, output::Output};

/// Does what was typed after `bgp`.
pub(crate) async fn run(_ctx: &Context, command: &BgpCommand) -> Result<Output, Failure> {
    match command {
        BgpCommand::Show(_) => Err(Failure::new("This build has no bgp commands.")),
    }
}
