//! `calicoctl datastore migrate lock|unlock`: holds the cluster still while somebody looks after its data.
//!
//! The lock is the member `datastoreReady` of the ClusterInformation, as upstream's programs read it: felix leaves
//! the kernel as it is, and nobody gives out addresses.

use calico_model::{ClusterInformationSpec, KindName, ResourceKey};
use calico_store::Error;

use super::resource::check_version;
use crate::{
    args::{DatastoreCommand, MigrateCommand},
    context::Context,
    failure::Failure,
    output::Output,
};

/// Does what was typed after `datastore`.
pub(crate) async fn run(ctx: &Context, command: &DatastoreCommand) -> Result<Output, Failure> {
    let DatastoreCommand::Migrate { command } = command;
    let (migrate, ready, done) = match command {
        MigrateCommand::Lock(migrate) => (migrate, false, "Datastore locked."),
        MigrateCommand::Unlock(migrate) => (migrate, true, "Datastore unlocked."),
    };
    check_version(ctx, migrate.connection.allow_version_mismatch).await?;
    let key = ResourceKey::new(KindName::ClusterInformation, None, "default");
    let set = ctx.store.modify::<ClusterInformationSpec, Error>(&key, |cluster| {
        cluster.spec.datastore_ready = Some(ready);
        Ok(())
    });
    match set.await {
        Ok(_) => Ok(Output::line(done)),
        Err(error) if error.is_not_found() => {
            Err(Failure::new("The datastore holds no cluster yet.").hint("start a host first: calicoctl node"))
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether the cluster is held still. A cluster that says nothing is not.
///
/// # Errors
/// The datastore's.
pub(crate) async fn is_locked(ctx: &Context) -> Result<bool, Failure> {
    match ctx.store.get::<ClusterInformationSpec>("default").await {
        Ok(cluster) => Ok(cluster.spec.datastore_ready == Some(false)),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use calico_model::ClusterInformation;

    use super::*;
    use crate::{
        args::Migrate,
        testing::{Bench, refusal, text},
    };

    fn command(lock: bool) -> DatastoreCommand {
        let migrate = Migrate::default();
        let command = if lock { MigrateCommand::Lock(migrate) } else { MigrateCommand::Unlock(migrate) };
        DatastoreCommand::Migrate { command }
    }

    #[tokio::test]
    async fn the_lock_is_set_and_taken_off() {
        let bench = Bench::new();
        assert!(refusal(run(&bench.ctx, &command(true)).await).contains("holds no cluster yet"));
        bench.put(ClusterInformation::new("default", ClusterInformationSpec::default())).await;
        assert!(matches!(is_locked(&bench.ctx).await, Ok(false)));
        assert_eq!(text(run(&bench.ctx, &command(true)).await), "Datastore locked.\n");
        assert!(matches!(is_locked(&bench.ctx).await, Ok(true)));
        assert_eq!(text(run(&bench.ctx, &command(false)).await), "Datastore unlocked.\n");
        assert!(matches!(is_locked(&bench.ctx).await, Ok(false)));
    }
}
