//! `calicoctl config …`

use crate::{args::ConfigCommand, context::Context, failure::Failure, output::Output};

/// Does what was typed after `config`.
pub(crate) async fn run(_ctx: &Context, command: &ConfigCommand) -> Result<Output, Failure> {
    match command {
        ConfigCommand::Show(_) => Err(Failure::new("This build has no config commands.")),
    }
}
