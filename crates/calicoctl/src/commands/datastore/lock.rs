//! `calicoctl datastore migrate lock|unlock`: holds the cluster still while somebody looks after its data.
//!
//! The lock is the member `datastoreReady` of the ClusterInformation, as upstream's programs read it: felix leaves
//! the kernel as it is, and nobody gives out addresses.

use calico_model::{ClusterInformationSpec, KindName, ResourceKey};
use calico_store::Error;

use crate::{args::Lock, commands::resource::check_version, context::Context, failure::Failure, output::Output};

/// Locks the cluster, or unlocks it.
pub(super) async fn set(ctx: &Context, lock: &Lock, ready: bool) -> Result<Output, Failure> {
    check_version(ctx, lock.connection.allow_version_mismatch).await?;
    let key = ResourceKey::new(KindName::ClusterInformation, None, "default");
    let set = ctx.store.modify::<ClusterInformationSpec, Error>(&key, |cluster| {
        cluster.spec.datastore_ready = Some(ready);
        Ok(())
    });
    match set.await {
        Ok(_) => Ok(Output::line(if ready { "Datastore unlocked." } else { "Datastore locked." })),
        Err(error) if error.is_not_found() => Err(no_cluster()),
        Err(error) => Err(error.into()),
    }
}

/// There is nothing to lock or to move.
pub(super) fn no_cluster() -> Failure {
    Failure::new("The datastore holds no cluster yet.").hint("start a host first: calicoctl node")
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
    use crate::testing::{Bench, refusal, text};

    #[tokio::test]
    async fn the_lock_is_set_and_taken_off() {
        let (bench, lock) = (Bench::new(), Lock::default());
        assert!(refusal(set(&bench.ctx, &lock, false).await).contains("holds no cluster yet"));
        bench.put(ClusterInformation::new("default", ClusterInformationSpec::default())).await;
        assert!(matches!(is_locked(&bench.ctx).await, Ok(false)));
        assert_eq!(text(set(&bench.ctx, &lock, false).await), "Datastore locked.\n");
        assert!(matches!(is_locked(&bench.ctx).await, Ok(true)));
        assert_eq!(text(set(&bench.ctx, &lock, true).await), "Datastore unlocked.\n");
        assert!(matches!(is_locked(&bench.ctx).await, Ok(false)));
    }
}
