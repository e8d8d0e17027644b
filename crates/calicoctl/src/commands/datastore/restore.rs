//! `calicoctl datastore restore`: a backup in place of the datastore that this host keeps.

use std::path::Path;

use crate::{
    args::DatastoreBackup,
    context::Context,
    failure::{Failure, sentence},
    output::Output,
};

/// `datastore restore`
pub(super) async fn run(ctx: &Context, args: &DatastoreBackup, dir: &Path) -> Result<Output, Failure> {
    ctx.require_root()?;
    let restored = calico_datastore::restore(&args.file, dir).map_err(|error| Failure::new(sentence(&error)))?;
    let mut text = format!(
        "{} is restored (revision {}; it goes on at {}). Start the service: calicoctl node\n",
        args.file.display(),
        restored.backup_revision,
        restored.revision
    );
    if let Some(kept) = &restored.kept {
        text.push_str(&format!("What was there before is kept: {}\n", kept.display()));
    }
    Ok(Output::of(text, &restored))
}
