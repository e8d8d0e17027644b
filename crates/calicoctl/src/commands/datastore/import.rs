//! `calicoctl datastore import`: what `export` wrote, into a datastore that holds nothing of ours yet.
//!
//! The file is checked as a whole before anything is written. A datastore that holds something is refused, unless that is
//! the beginning of this very import, which was interrupted; with `--replace` it becomes what the file says, to the key.
//!
//! While it is written the cluster is locked, if there is one, and the ClusterInformation of the file comes last: no
//! felix acts on half of it. Whoever interrupts it runs it again.

use std::{fs::File, io::Read, path::Path};

use calico_model::{ClusterInformationSpec, KindName, ResourceKey, Revision};
use calico_startup::relocation::{Difference, ROOT, differences, is_about_migration, read_record};
use calico_store::{Entry, Error, Kv};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::json;

use super::dump::{self, Pair};
use crate::{args::Import, commands::resource::check_version, context::Context, failure::Failure, output::Output};

/// How many keys are written at once.
const AT_ONCE: usize = 32;
/// Bytes. A file of a million keys is smaller.
const LARGEST: u64 = 2 << 30;

/// Reads the file and writes what it holds.
pub(super) async fn run(ctx: &Context, import: &Import) -> Result<Output, Failure> {
    let file = &import.file;
    let refuse =
        |cause: String| Failure::new(format!("{file} cannot be imported; nothing was changed.")).because(cause);
    let text = if file == "-" { ctx.console.input() } else { read(Path::new(file)) };
    let pairs = dump::parse(&text.map_err(|error| refuse(error.to_string()))?).map_err(refuse)?;
    check_version(ctx, import.connection.allow_version_mismatch).await?;
    let kv = ctx.store.kv().as_ref();
    if let Some((record, _)) = read_record(kv).await? {
        return Err(refuse(format!("a migration to {} is under way", record.to))
            .hint("finish it, or take it back: calicoctl datastore migrate --abort"));
    }
    let present = kv.list(ROOT).await?.entries;
    let strangers = strangers(&present, &pairs);
    if !import.replace && strangers > 0 {
        return Err(refuse(format!("the datastore at {} holds {strangers} keys of its own", kv.location()))
            .hint("import into an empty one, or let the file replace everything: --replace"));
    }
    let wanted: Vec<Entry> = pairs
        .iter()
        .map(|(key, value)| Entry { key: key.clone(), value: value.clone(), revision: Revision(0) })
        .collect();
    let changes = !differences(&wanted, &present).is_empty();
    let locked = changes && lock_if_there_is_a_cluster(ctx, &present).await?;
    write(kv, &wanted).await.map_err(|failure| {
        let unlock = if locked { ", or unlock the cluster as it is: calicoctl datastore migrate unlock" } else { "" };
        failure.context(format!("{file} was imported in part.")).hint(format!("run the same command again{unlock}"))
    })?;
    let words = format!("{} keys imported from {file}, and compared.\n", pairs.len());
    Ok(Output::of(words, json!({ "file": file, "keys": pairs.len() })))
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LARGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(std::io::Error::other("it is larger than 2 GiB"));
    }
    Ok(text)
}

/// How many keys of the datastore this import would not have written.
fn strangers(present: &[Entry], pairs: &[Pair]) -> usize {
    let ours = |entry: &Entry| {
        let found = pairs.binary_search_by(|(key, _)| key.as_str().cmp(&entry.key));
        found.is_ok_and(|at| pairs[at].1 == entry.value)
    };
    present.iter().filter(|entry| !is_about_migration(&entry.key) && !ours(entry)).count()
}

fn cluster_key() -> String {
    ResourceKey::new(KindName::ClusterInformation, None, "default").to_string()
}

async fn lock_if_there_is_a_cluster(ctx: &Context, present: &[Entry]) -> Result<bool, Failure> {
    if !present.iter().any(|entry| entry.key == cluster_key()) {
        return Ok(false);
    }
    let key = ResourceKey::new(KindName::ClusterInformation, None, "default");
    let hold = ctx.store.modify::<ClusterInformationSpec, Error>(&key, |cluster| {
        cluster.spec.datastore_ready = Some(false);
        Ok(())
    });
    hold.await?;
    Ok(true)
}

/// Makes the datastore hold exactly these keys below [`ROOT`], and looks whether it does.
async fn write(kv: &dyn Kv, wanted: &[Entry]) -> Result<(), Failure> {
    let cluster = cluster_key();
    let present = kv.list(ROOT).await?.entries;
    let all = differences(wanted, &present);
    let (last, first): (Vec<_>, Vec<_>) = all.into_iter().partition(|difference| difference.key() == cluster);
    stream::iter(&first).map(Ok).try_for_each_concurrent(AT_ONCE, |difference| apply(kv, difference)).await?;
    let present = kv.list(ROOT).await?.entries;
    if let Some(difference) = differences(wanted, &present).iter().find(|difference| difference.key() != cluster) {
        return Err(Failure::new(format!("{} was changed by somebody else meanwhile.", difference.key())));
    }
    for difference in &last {
        apply(kv, difference).await?;
    }
    Ok(())
}

async fn apply(kv: &dyn Kv, difference: &Difference<'_>) -> Result<(), Error> {
    match difference {
        Difference::Missing(entry) => kv.create(&entry.key, entry.value.clone()).await.map(drop),
        Difference::Other(entry, revision) => kv.update(&entry.key, entry.value.clone(), *revision).await.map(drop),
        Difference::TooMuch(entry) => kv.delete(&entry.key, entry.revision).await,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use calico_model::ClusterInformation;
    use calico_store::Injected;

    use super::{super::lock, *};
    use crate::testing::{Bench, refusal, text};

    /// A file with a cluster and four more keys, and its datastore.
    async fn exported(dir: &Path) -> (Import, Vec<Pair>) {
        let bench = Bench::new();
        bench.put(ClusterInformation::new("default", ClusterInformationSpec::default())).await;
        for key in ["/calico/a", "/calico/b", "/calico/c", "/calico/z"] {
            bench.kv.put(key, format!("value of {key}"));
        }
        let (text, _) = dump::render(&bench.kv.list(ROOT).await.unwrap(), "memory");
        let file = dir.join("file");
        fs::write(&file, &text).unwrap();
        let import = Import { file: file.to_string_lossy().into_owned(), ..Import::default() };
        (import, dump::parse(&text).unwrap())
    }

    async fn contents(bench: &Bench) -> Vec<Pair> {
        let entries = bench.kv.list(ROOT).await.unwrap().entries;
        entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
    }

    #[tokio::test]
    async fn an_empty_datastore_becomes_what_the_file_says() {
        let dir = tempfile::tempdir().unwrap();
        let (import, pairs) = exported(dir.path()).await;
        let bench = Bench::new();
        bench.kv.put("/else", "not ours");
        assert!(text(run(&bench.ctx, &import).await).contains("5 keys imported"));
        assert_eq!(contents(&bench).await, pairs);
        assert!(text(run(&bench.ctx, &import).await).contains("5 keys imported"), "again, it changes nothing");
    }

    #[tokio::test]
    async fn a_datastore_in_use_is_refused_and_replaced_only_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let (import, pairs) = exported(dir.path()).await;
        let bench = Bench::new();
        bench.put(ClusterInformation::new("default", ClusterInformationSpec::default())).await;
        bench.kv.put("/calico/b", "another");
        bench.kv.put("/calico/mine", "1");
        let before = contents(&bench).await;
        let words = refusal(run(&bench.ctx, &import).await);
        assert!(words.contains("holds 3 keys of its own") && words.contains("--replace"), "{words}");
        assert_eq!(contents(&bench).await, before);
        text(run(&bench.ctx, &Import { replace: true, ..import }).await);
        assert_eq!(contents(&bench).await, pairs);
    }

    #[tokio::test]
    async fn bad_input_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (import, _) = exported(dir.path()).await;
        let whole = fs::read_to_string(&import.file).unwrap();
        fs::write(&import.file, &whole[..whole.len() - 10]).unwrap();
        let bench = Bench::new();
        for replace in [false, true] {
            let words = refusal(run(&bench.ctx, &Import { replace, ..import.clone() }).await);
            assert!(words.contains("nothing was changed") && words.contains("cut off"), "{words}");
        }
        let missing = Import { file: dir.path().join("none").to_string_lossy().into_owned(), ..Import::default() };
        assert!(refusal(run(&bench.ctx, &missing).await).contains("nothing was changed"));
        assert!(contents(&bench).await.is_empty());
    }

    #[tokio::test]
    async fn a_failure_at_any_write_is_continued_and_the_cluster_stays_locked_until_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let (import, pairs) = exported(dir.path()).await;
        let mut failures = 0;
        for n in 0.. {
            let bench = Bench::new();
            bench.put(ClusterInformation::new("default", ClusterInformationSpec::default())).await;
            bench.kv.put("/calico/mine", "1");
            let mut writes = 0;
            bench.kv.inject(move |_, _| {
                writes += 1;
                if writes == n + 1 { Injected::FailAfter } else { Injected::Proceed }
            });
            let replace = Import { replace: true, ..import.clone() };
            let first = run(&bench.ctx, &replace).await;
            bench.kv.stop_injecting();
            if first.is_ok() {
                break;
            }
            failures += 1;
            let done = contents(&bench).await == pairs;
            assert!(done || n == 0 || lock::is_locked(&bench.ctx).await.unwrap(), "after write {n}");
            text(run(&bench.ctx, &replace).await);
            assert_eq!(contents(&bench).await, pairs);
        }
        assert!(failures > 5, "{failures}");
    }
}
