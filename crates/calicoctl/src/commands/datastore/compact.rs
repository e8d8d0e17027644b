//! `calicoctl datastore compact`: gives up history, and the space that it took.

use calico_datastore::admin::Client;
use calico_store::Source;

use super::{super::keeper, status::size};
use crate::{args::DatastoreCompact, context::Context, failure::Failure, output::Output};

/// `datastore compact`
pub(super) async fn run(
    ctx: &Context,
    args: &DatastoreCompact,
    client: &Client,
    source: &Source,
) -> Result<Output, Failure> {
    ctx.require_root()?;
    keeper::must_be_here(source, "look after it")?;
    let compacted = client.compact(args.revision).await.map_err(keeper::failure)?;
    let text = format!(
        "History begins at revision {} now; the file has {} of {} before.\n",
        compacted.compacted,
        size(compacted.after),
        size(compacted.before)
    );
    Ok(Output::of(text, compacted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        commands::node_join::keeper_for_tests::Keeper,
        testing::{Bench, refusal, text},
    };

    #[tokio::test]
    async fn history_goes_and_what_never_was_is_refused() {
        let (bench, keeper) = (Bench::new(), Keeper::start().await);
        let args = |revision| DatastoreCompact { revision, ..DatastoreCompact::default() };
        let said = refusal(run(&bench.ctx, &args(Some(1000)), &keeper.client, &Source::Embedded).await);
        assert!(said.contains("future revision"), "{said}");
        let said = text(run(&bench.ctx, &args(None), &keeper.client, &Source::Embedded).await);
        assert!(said.contains("History begins at revision 1 now"), "{said}");
    }
}
