//! `calicoctl datastore …`

use crate::{args::DatastoreCommand, context::Context, failure::Failure, output::Output};

/// Does what was typed after `datastore`.
pub(crate) async fn run(_ctx: &Context, command: &DatastoreCommand) -> Result<Output, Failure> {
    match command {
        DatastoreCommand::Show(_) => Err(Failure::new("This build has no datastore commands.")),
    }
}
