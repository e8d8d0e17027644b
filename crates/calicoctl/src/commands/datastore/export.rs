//! `calicoctl datastore export`: everything below `/calico/`, at one revision, in one file.
//!
//! The file holds all that the datastore holds, secrets included: it is of its owner alone, and one that exists is never
//! written over. It is on the disk when the command says so.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use calico_startup::relocation::ROOT;
use serde_json::json;

use super::dump;
use crate::{args::Export, commands::resource::check_version, context::Context, failure::Failure, output::Output};

/// Writes the file.
pub(super) async fn run(ctx: &Context, export: &Export) -> Result<Output, Failure> {
    check_version(ctx, export.connection.allow_version_mismatch).await?;
    let kv = ctx.store.kv();
    let listing = kv.list(ROOT).await?;
    let (text, keys) = dump::render(&listing, &kv.location());
    if export.file == "-" {
        return Ok(Output::of(text, json!({ "keys": keys })));
    }
    let path = Path::new(&export.file);
    write(path, &text).map_err(|error| {
        let failure = Failure::new(format!("{} cannot be written.", path.display())).cause(&error);
        if error.kind() == io::ErrorKind::AlreadyExists {
            return failure.hint("name another file; one that exists is not written over");
        }
        failure
    })?;
    let revision = listing.revision.0;
    let words = format!("{keys} keys written to {}, as they were at revision {revision}.\n", path.display());
    Ok(Output::of(words, json!({ "file": export.file, "keys": keys, "revision": revision })))
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a file would be refused by its checksum, but need not lie about.
        let _ = fs::remove_file(path);
    }
    written
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing::{Bench, refusal, text};

    fn to(file: &Path) -> Export {
        Export { file: file.to_string_lossy().into_owned(), ..Export::default() }
    }

    #[tokio::test]
    async fn the_file_is_whole_and_of_its_owner_alone() {
        let bench = Bench::new();
        bench.kv.put("/calico/a", "1");
        bench.kv.put("/else", "2");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("export");
        let said = text(run(&bench.ctx, &to(&file)).await);
        assert!(said.contains("1 keys written to") && said.contains("revision 3"), "{said}");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let written = fs::read_to_string(&file).unwrap();
        assert_eq!(dump::parse(&written).unwrap(), [("/calico/a".to_owned(), b"1".to_vec())]);
        let on_stdout = Export { file: "-".into(), ..Export::default() };
        assert_eq!(text(run(&bench.ctx, &on_stdout).await), written);

        bench.kv.put("/calico/b", "2");
        assert!(refusal(run(&bench.ctx, &to(&file)).await).contains("not written over"));
        assert_eq!(fs::read_to_string(&file).unwrap(), written, "the earlier file is as it was");
        let nowhere = run(&bench.ctx, &to(&dir.path().join("no/such/folder"))).await;
        assert!(refusal(nowhere).contains("cannot be written"));
    }
}
