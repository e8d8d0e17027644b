//! `calicoctl datastore backup`: a copy of the datastore that this host keeps.
//!
//! It is received beside its place, checked, and only then given its name, so a file of that name is always a whole
//! backup; one that is there already is never replaced.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use calico_datastore::admin::Client;
use calico_store::Source;
use tokio::fs::OpenOptions;

use super::{super::keeper, check, status::size};
use crate::{args::DatastoreBackup, context::Context, failure::Failure, output::Output};

/// `datastore backup`
pub(super) async fn run(
    ctx: &Context,
    args: &DatastoreBackup,
    client: &Client,
    source: &Source,
) -> Result<Output, Failure> {
    ctx.require_root()?;
    keeper::must_be_here(source, "look after it")?;
    let to = &args.file;
    if to.symlink_metadata().is_ok() {
        return Err(exists(to));
    }
    remove_abandoned(to);
    let partial = Partial::beside(to);
    let (revision, bytes) = receive(client, &partial.0).await?;
    let found = check::offline(&partial.0)?;
    if !found.problems.is_empty() || found.revision != revision {
        let failure = Failure::new("What arrived is not a whole backup; it was not kept.");
        return Err(found.problems.into_iter().fold(failure, Failure::because).hint("run the command again"));
    }
    // Unlike a rename this never replaces a file.
    fs::hard_link(&partial.0, to).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => exists(to),
        _ => unwritten(to, &error),
    })?;
    let text = format!("{}: {} keys at revision {revision}, {}.\n", to.display(), found.keys, size(bytes));
    let data = serde_json::json!({ "file": to, "revision": revision, "bytes": bytes, "keys": found.keys });
    Ok(Output::of(text, data))
}

/// A file that goes when this does.
struct Partial(PathBuf);

const PARTIAL: &str = ".partial-";

impl Partial {
    fn beside(to: &Path) -> Self {
        let mut name = to.as_os_str().to_owned();
        name.push(format!("{PARTIAL}{}", std::process::id()));
        Self(name.into())
    }
}

/// Removes what backups to this name left that were killed: a file whose process is gone.
fn remove_abandoned(to: &Path) {
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Some(name) = to.file_name().map(|name| name.to_string_lossy().into_owned()) else { return };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        let process = file.strip_prefix(&name).and_then(|rest| rest.strip_prefix(PARTIAL)).map(str::parse::<u32>);
        if let Some(Ok(process)) = process
            && !Path::new(&format!("/proc/{process}")).exists()
        {
            // What cannot be removed harms nobody: the next one has another name.
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

async fn receive(client: &Client, path: &Path) -> Result<(i64, u64), Failure> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).await;
    let mut file = opened.map_err(|error| unwritten(path, &error))?;
    let received = client.backup(&mut file).await.map_err(keeper::failure)?;
    file.sync_all().await.map_err(|error| unwritten(path, &error))?;
    Ok(received)
}

fn exists(to: &Path) -> Failure {
    Failure::new(format!("{} exists, and a backup never replaces a file.", to.display())).hint("choose another name")
}

fn unwritten(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("{} cannot be written.", path.display())).cause(error)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use calico_store::mvcc::{Op, Txn};

    use super::{
        super::{check, restore},
        *,
    };
    use crate::{
        args::DatastoreCheck,
        commands::node_join::keeper_for_tests::Keeper,
        testing::{Bench, refusal, text},
    };

    fn file(path: &Path) -> DatastoreBackup {
        DatastoreBackup { file: path.to_owned(), ..DatastoreBackup::default() }
    }

    #[tokio::test]
    async fn a_backup_is_whole_private_and_replaces_nothing() {
        let (bench, keeper) = (Bench::new(), Keeper::start().await);
        let put = Txn { then: vec![Op::put("/key", "value")], ..Txn::default() };
        keeper.datastore.txn(put).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("monday");
        // What one left that was killed goes; what one has that runs stays.
        let (abandoned, running) =
            (folder.path().join("monday.partial-4294967295"), folder.path().join("monday.partial-1"));
        fs::write(&abandoned, "half").unwrap();
        fs::write(&running, "half").unwrap();
        let said = text(run(&bench.ctx, &file(&to), &keeper.client, &Source::Embedded).await);
        assert!(said.contains("monday: 1 keys at revision 2"), "{said}");
        assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(running.exists() && fs::remove_file(&running).is_ok());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no part of it is left");
        let said = refusal(run(&bench.ctx, &file(&to), &keeper.client, &Source::Embedded).await);
        assert!(said.contains("never replaces"), "{said}");
        let missing = folder.path().join("no/such");
        let said = refusal(run(&bench.ctx, &file(&missing), &keeper.client, &Source::Embedded).await);
        assert!(said.contains("cannot be written"), "{said}");

        // It can be looked at, and put in place of a datastore that nobody has open.
        let looked = DatastoreCheck { file: Some(to.clone()), ..DatastoreCheck::default() };
        let said = check::run(&bench.ctx, &looked, &keeper.client, &Source::Environment, folder.path()).await;
        assert!(text(said).contains("is whole: 1 keys"));
        let said = refusal(restore::run(&bench.ctx, &file(&to), keeper.dir()).await);
        assert!(said.contains("in use") && said.contains("calicoctl node stop"), "{said}");
        let other = folder.path().join("datastore");
        let said = text(restore::run(&bench.ctx, &file(&to), &other).await);
        assert!(said.contains("calicoctl node"), "{said}");
        let said = check::run(&bench.ctx, &DatastoreCheck::default(), &nobody(), &Source::Embedded, &other).await;
        assert!(text(said).contains("is whole: 1 keys"));

        let mut bytes = fs::read(&to).unwrap();
        let middle = bytes.len() / 2;
        bytes.truncate(middle);
        fs::write(&to, bytes).unwrap();
        let said = check::run(&bench.ctx, &looked, &nobody(), &Source::Embedded, folder.path()).await;
        let damaged = match said {
            Ok(output) => output.failure.map(|failure| failure.to_string()).unwrap_or_default(),
            Err(failure) => failure.to_string(),
        };
        assert!(damaged.contains("damaged"), "{damaged}");
    }

    fn nobody() -> Client {
        Client::new(Path::new("/nonexistent/socket"))
    }
}
