//! `calicoctl datastore …`: what concerns the data as a whole, not single resources.
//!
//! `status`, `check`, `backup`, `restore` and `compact` are about the datastore that this host keeps itself, and ask it
//! on its own socket; the others are about any.

mod backup;
mod check;
mod compact;
mod dump;
mod export;
mod import;
mod lock;
mod migrate;
mod restore;
mod status;

use std::path::Path;

use calico_datastore::admin::Client;

use super::Caller;
use crate::{
    args::{DatastoreCommand, MigrateCommand},
    context::Context,
    failure::Failure,
    output::Output,
};
pub(crate) use lock::is_locked;

/// Does what was typed after `datastore`.
pub(crate) async fn run(ctx: &Context, command: &DatastoreCommand, caller: &Caller) -> Result<Output, Failure> {
    let (client, source) = (Client::default(), caller.etcd.source());
    let dir = Path::new(calico_store::DATASTORE_DIR);
    match command {
        DatastoreCommand::Status(_) => status::run(ctx, &client, source).await,
        DatastoreCommand::Check(args) => check::run(ctx, args, &client, source, dir).await,
        DatastoreCommand::Backup(args) => backup::run(ctx, args, &client, source).await,
        DatastoreCommand::Restore(args) => restore::run(ctx, args, dir).await,
        DatastoreCommand::Compact(args) => compact::run(ctx, args, &client, source).await,
        DatastoreCommand::Export(export) => export::run(ctx, export).await,
        DatastoreCommand::Import(import) => import::run(ctx, import).await,
        DatastoreCommand::Migrate(migrate) => match &migrate.command {
            Some(MigrateCommand::Lock(lock)) => lock::set(ctx, lock, false).await,
            Some(MigrateCommand::Unlock(lock)) => lock::set(ctx, lock, true).await,
            None => migrate::run(ctx, migrate).await,
        },
    }
}
