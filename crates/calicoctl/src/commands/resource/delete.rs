//! `delete`: many resources, one after the other; one that fails does not keep the others from going.

use calico_model::{AnyResource, KindName, ResourceKey, Revision, normalise};
use calico_store::Error;

use super::{
    gate, kinds, namespace,
    rules::{self, may_write},
    source, stored,
    words::{self, Verb},
    write::{Gone, nothing_to_do},
};
use crate::{
    args::{Delete, EndpointFilter},
    commands::{endpoint, node_remove, pool, race::Races},
    context::Context,
    failure::Failure,
    output::Output,
};

/// What is to be deleted.
struct Target {
    key: ResourceKey,
    /// The version that it must have.
    expected: Option<Revision>,
    /// For messages.
    subject: String,
}

/// `delete`
pub(crate) async fn delete(ctx: &Context, args: &Delete) -> Result<Output, Failure> {
    let targets = targets(ctx, args)?;
    if targets.is_empty() {
        return Ok(nothing_to_do());
    }
    gate::check(ctx, args.connection.allow_version_mismatch).await?;
    let _acting = ctx.interrupt.acting();
    let kinds: Vec<KindName> = targets.iter().map(|target| target.key.kind).collect();
    let (mut done, mut failures) = (0, Vec::new());
    for target in &targets {
        if words::is_vain(ctx, &mut failures) {
            break;
        }
        match delete_one(ctx, target).await {
            Ok(()) => done += 1,
            Err(Gone::Gone) if args.skip_not_exists => done += 1,
            Err(Gone::Gone) => failures.push(Failure::new("It does not exist.").about(&target.subject)),
            Err(Gone::Failed(failure)) => failures.push(failure.about(&target.subject)),
        }
    }
    words::summary(Verb { past: "deleted" }, &kinds, done, failures)
}

fn targets(ctx: &Context, args: &Delete) -> Result<Vec<Target>, Failure> {
    let Some(word) = &args.named.kind else {
        let mut targets = Vec::new();
        for identity in source::identities(&*ctx.console, &args.files)? {
            let source::Identity { kind, mut metadata, revision, place } = identity;
            let subject = words::at(&place, &words::name(kind, &metadata));
            namespace::assign(kind, &mut metadata, &args.namespace).map_err(|failure| failure.about(&subject))?;
            let key = ResourceKey::new(kind, metadata.namespace.as_deref(), &metadata.name);
            targets.push(Target { key, expected: revision, subject: words::at(&place, &words::name(kind, &metadata)) });
        }
        return Ok(targets);
    };
    let kind = kinds::parse(word)?;
    let namespace = namespace::of_kind(kind, &args.namespace)?;
    if args.named.names.is_empty() {
        return Err(Failure::new("The resource name may not be empty.")
            .because(format!("no name of a {kind} was given"))
            .hint(format!("see: calicoctl get {word}")));
    }
    let target = |name: &String| {
        let name = stored_name(kind, name);
        let subject = words::named(kind, namespace.as_deref(), &name);
        Target { key: ResourceKey::new(kind, namespace.as_deref(), &name), expected: None, subject }
    };
    Ok(args.named.names.iter().map(target).collect())
}

/// The name that a word stands for: profiles may be called as they were typed in the classic commands.
pub(super) fn stored_name(kind: KindName, word: &str) -> String {
    if kind == KindName::Profile && !word.contains('/') { normalise(word) } else { word.to_owned() }
}

async fn delete_one(ctx: &Context, target: &Target) -> Result<(), Gone> {
    let Target { key, expected, .. } = target;
    may_write(key.kind, &key.name)?;
    let entry = ctx.store.kv().get(&key.to_string()).await?.ok_or(Gone::Gone)?;
    if let Some(expected) = expected.filter(|expected| *expected != entry.revision) {
        let words = format!("metadata.resourceVersion = \"{expected}\": it is not the present one, {}", entry.revision);
        return Err(Failure::new(words).hint("somebody else changed it: look at it again").into());
    }
    rules::before_delete(ctx, key).await?;
    match key.kind {
        KindName::Node => take_node_apart(ctx, &key.name).await?,
        KindName::IPPool => retire_pool(ctx, key).await?,
        _ => return delete_key(ctx, key, Some(entry.revision), *expected).await,
    }
    delete_key(ctx, key, None, None).await
}

/// Deletes a key as it stands; with `expected` only that version.
async fn delete_key(
    ctx: &Context,
    key: &ResourceKey,
    mut seen: Option<Revision>,
    expected: Option<Revision>,
) -> Result<(), Gone> {
    let mut races = Races::new(key.to_string());
    let path = key.to_string();
    loop {
        let revision = match seen.take() {
            Some(revision) => revision,
            None => ctx.store.kv().get(&path).await?.ok_or(Gone::Gone)?.revision,
        };
        match ctx.store.kv().delete(&path, revision).await {
            Ok(()) => return Ok(()),
            Err(Error::Conflict { .. }) if expected.is_none() => races.lost().await?,
            Err(error) => return Err(error.into()),
        }
    }
}

/// All that belongs to a node, before the node itself.
async fn take_node_apart(ctx: &Context, node: &str) -> Result<(), Failure> {
    let filter = EndpointFilter { host: Some(node.to_owned()), ..EndpointFilter::default() };
    let endpoints = endpoint::find(ctx, &filter, None).await?;
    let faults = node_remove::remove_belongings(ctx, node, &endpoints, false).await?;
    if faults.is_empty() {
        return Ok(());
    }
    let failure = Failure::new("What belongs to it could not be removed completely.");
    Err(faults.into_iter().fold(failure, Failure::because).hint("when the cause is gone, run the command again"))
}

/// Ends the allocation from a pool: nobody takes addresses from it, and no host claims a block of it any more.
/// Addresses in use stay in use.
async fn retire_pool(ctx: &Context, key: &ResourceKey) -> Result<(), Failure> {
    let stored = match stored::get(&ctx.store, key).await {
        Ok(stored) => stored,
        // Nobody allocates from what cannot be read.
        Err(Error::Corrupt { .. } | Error::NotFound { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let AnyResource::IPPool(pool) = stored.resource else { return Ok(()) };
    pool::end_allocation(ctx, &pool).await
}
