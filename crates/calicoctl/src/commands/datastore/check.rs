//! `calicoctl datastore check`: is it whole?

use std::path::Path;

use calico_datastore::{Report, admin::Client};
use calico_store::Source;

use super::{super::keeper, status::size};
use crate::{
    args::DatastoreCheck,
    context::Context,
    failure::{Exit, Failure, sentence},
    output::Output,
};

/// `datastore check`
pub(super) async fn run(
    ctx: &Context,
    args: &DatastoreCheck,
    client: &Client,
    source: &Source,
    dir: &Path,
) -> Result<Output, Failure> {
    ctx.require_root()?;
    let found = match &args.file {
        Some(file) => offline(file)?,
        None => {
            keeper::must_be_here(source, "look after it")?;
            match client.check().await {
                Ok(found) => found,
                // It does not run, so nobody has its file open.
                Err(error) if error.is_not_running() && dir.join("data.redb").exists() => offline(dir)?,
                Err(error) => return Err(keeper::failure(error)),
            }
        }
    };
    Ok(output(&found))
}

pub(super) fn offline(path: &Path) -> Result<Report, Failure> {
    calico_datastore::check(path).map_err(|error| Failure::new(sentence(&error)))
}

fn output(found: &Report) -> Output {
    let path = found.path.display();
    if !found.is_whole() {
        let text = format!("{path} is damaged.\n");
        let failure = found
            .problems
            .iter()
            .fold(Failure::new(format!("{path} is damaged.")), |failure, problem| failure.because(problem.clone()));
        let failure = failure.hint("put a backup in its place: calicoctl node stop; calicoctl datastore restore FILE");
        return Output::of(text, found).but(failure).exit(Exit::Failed);
    }
    let mut text = format!(
        "{path} is whole: {} keys at revision {}, {} changes since revision {}, {}.\n",
        found.keys,
        found.revision,
        found.changes,
        found.compacted,
        size(found.bytes_in_use)
    );
    if found.unclean {
        text.push_str("Whoever wrote it did not close it; the next start mends that.\n");
    }
    Output::of(text, found)
}
