//! All resources of the datastore at one moment, as the agents see them: what cannot be used is there as such.

use calico_explain::Cluster;
use calico_model::RESOURCE_ROOT;
use calico_store::{Event, Syncer};

use crate::{context::Context, failure::Failure};

/// Reads everything.
///
/// # Errors
/// The datastore does not answer.
pub(crate) async fn load(ctx: &Context) -> Result<Cluster, Failure> {
    // A single call first: it says at once, and in full, why the datastore does not answer.
    ctx.store.kv().get(RESOURCE_ROOT).await?;
    let mut syncer = Syncer::spawn(ctx.store.kv().clone(), vec![RESOURCE_ROOT.to_owned()]);
    let mut cluster = Cluster::default();
    while let Some(events) = syncer.next().await {
        for event in events {
            match event {
                Event::Change(change) => cluster.absorb(change),
                Event::Unreadable(error) => {
                    tracing::debug!(%error, "what this record governs is closed");
                    cluster.absorb(error.into());
                }
                Event::Raw(_) | Event::Back => {}
                Event::InSync => return Ok(cluster),
                Event::Lost { cause } => {
                    return Err(Failure::new("The datastore went away while it was read.").because(cause));
                }
            }
        }
    }
    Err(Failure::new("The datastore could not be read."))
}
