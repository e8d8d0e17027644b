//! `create`, `apply`, `replace`: many resources, one after the other.
//!
//! Order: everything is read and brought into form, the datastore is made ready, everything is validated; all this
//! refuses the whole. Then each resource is written by compare-and-swap, and one that fails does not keep the others
//! from being tried: what depends on the datastore (whether a resource or a tier is there) is known only then.

use calico_model::{AnyResource, KindName, Metadata, ResourceKey, Revision};
use calico_store::Error;

use super::{
    gate, namespace,
    rules::{self, may_write},
    source::{self, Item},
    stored::{self, Stored},
    words::{self, Verb},
};
use crate::{
    args::{Create, Files, Namespace, Write},
    commands::race::Races,
    context::Context,
    failure::Failure,
    output::Output,
};

/// What to do with what is there already, and with what is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Create { skip_exists: bool },
    Apply,
    Replace,
}

impl Mode {
    fn verb(self) -> Verb {
        match self {
            Self::Create { .. } => Verb { past: "created" },
            Self::Apply => Verb { past: "applied" },
            Self::Replace => Verb { past: "replaced" },
        }
    }
}

/// `create`
pub(crate) async fn create(ctx: &Context, args: &Create) -> Result<Output, Failure> {
    let mode = Mode::Create { skip_exists: args.skip_exists };
    write(ctx, mode, &args.files, &args.namespace, args.connection.allow_version_mismatch).await
}

/// `apply`
pub(crate) async fn apply(ctx: &Context, args: &Write) -> Result<Output, Failure> {
    write(ctx, Mode::Apply, &args.files, &args.namespace, args.connection.allow_version_mismatch).await
}

/// `replace`
pub(crate) async fn replace(ctx: &Context, args: &Write) -> Result<Output, Failure> {
    write(ctx, Mode::Replace, &args.files, &args.namespace, args.connection.allow_version_mismatch).await
}

async fn write(
    ctx: &Context,
    mode: Mode,
    files: &Files,
    flag: &Namespace,
    allow_version_mismatch: bool,
) -> Result<Output, Failure> {
    let mut items = source::read(&*ctx.console, files)?;
    if items.is_empty() {
        return Ok(nothing_to_do());
    }
    gate::check(ctx, allow_version_mismatch).await?;
    let _acting = ctx.interrupt.acting();
    // As upstream: what keeps the datastore from being made ready is told by the writes themselves.
    if let Err(error) = calico_startup::initialise(&ctx.store).await {
        tracing::debug!(%error, "the datastore could not be made ready");
    }
    prepare(&mut items, flag, matches!(mode, Mode::Create { .. }))?;
    let kinds: Vec<KindName> = items.iter().map(|item| item.resource.key().kind).collect();
    let (mut done, mut failures) = (0, Vec::new());
    for item in items {
        if words::is_vain(ctx, &mut failures) {
            break;
        }
        let subject = words::subject(&item.place, &item.resource);
        match write_one(ctx, mode, item.resource).await {
            Ok(()) => done += 1,
            Err(failure) => failures.push(failure.about(&subject)),
        }
    }
    words::summary(mode.verb(), &kinds, done, failures)
}

/// The answer for files without a resource, where that is allowed.
pub(super) fn nothing_to_do() -> Output {
    Output::line("No resources specified")
}

/// Validates all resources and gives those that need one a namespace.
///
/// # Errors
/// Every fault of every resource.
pub(super) fn prepare(items: &mut [Item], flag: &Namespace, creates: bool) -> Result<(), Failure> {
    let mut faults = Vec::new();
    for item in items.iter_mut() {
        let key = item.resource.key();
        let refused = namespace::assign(key.kind, item.resource.metadata_mut(), flag);
        let subject = words::subject(&item.place, &item.resource);
        if let Err(failure) = refused.and_then(|()| may_write(key.kind, &key.name)) {
            faults.push(failure.about(&subject));
            continue;
        }
        if creates && let Some(revision) = item.resource.revision() {
            faults.push(Failure::new(format!(
                "{subject}: metadata.resourceVersion = \"{revision}\": it must not be set on what is to be created"
            )));
        }
        // Validated as it will be stored; the defaults of the copy do not matter.
        if let Err(invalid) = item.resource.clone().prepare() {
            faults.push(Failure::all(words::faults(&item.place, &invalid)));
        }
    }
    match Failure::together(faults) {
        Some(failure) => Err(failure.hint("nothing has been changed")),
        None => Ok(()),
    }
}

async fn write_one(ctx: &Context, mode: Mode, mut resource: AnyResource) -> Result<(), Failure> {
    match mode {
        Mode::Create { skip_exists } => match create_one(ctx, &resource).await? {
            false if !skip_exists => Err(Failure::new("It exists already.").hint("to change it, use: calicoctl apply")),
            _ => Ok(()),
        },
        Mode::Apply => {
            let metadata = std::mem::take(resource.metadata_mut());
            *resource.metadata_mut() = kept_by_apply(metadata);
            let mut races = Races::new(resource.key().to_string());
            while !create_one(ctx, &resource).await? {
                match update_one(ctx, &resource).await {
                    Ok(()) => break,
                    // Deleted between the two: it is created after all.
                    Err(Gone::Gone) => races.lost().await?,
                    Err(Gone::Failed(failure)) => return Err(failure),
                }
            }
            Ok(())
        }
        Mode::Replace => update_one(ctx, &resource).await.map_err(|gone| match gone {
            Gone::Gone => Failure::new("It does not exist.").hint("to create it, use: calicoctl apply"),
            Gone::Failed(failure) => failure,
        }),
    }
}

/// What a file says of the metadata; the rest belongs to the datastore.
fn kept_by_apply(metadata: Metadata) -> Metadata {
    let Metadata { name, namespace, labels, annotations, .. } = metadata;
    Metadata { name, namespace, labels, annotations, ..Metadata::default() }
}

/// Stores a new resource; false if there is one of its name.
async fn create_one(ctx: &Context, resource: &AnyResource) -> Result<bool, Failure> {
    let mut complete = resource.clone();
    prepared(&mut complete)?;
    rules::before_create(ctx, &complete).await?;
    complete.metadata_mut().stamp(time::OffsetDateTime::now_utc());
    match ctx.store.kv().create(&complete.key().to_string(), complete.to_json()).await {
        Ok(_) => Ok(true),
        Err(Error::AlreadyExists { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Why an update was not made.
pub(super) enum Gone {
    /// There is nothing to update.
    Gone,
    Failed(Failure),
}

impl From<Failure> for Gone {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Error> for Gone {
    fn from(error: Error) -> Self {
        if error.is_not_found() { Self::Gone } else { Self::Failed(error.into()) }
    }
}

/// Puts a resource in the place of the stored one. Labels and annotations are the new ones, the rest of the metadata
/// stays. With a revision it must be the present one.
pub(super) async fn update_one(ctx: &Context, resource: &AnyResource) -> Result<(), Gone> {
    let change = |stored: &Stored| {
        let mut new = resource.clone();
        let given = std::mem::take(new.metadata_mut());
        *new.metadata_mut() =
            Metadata { labels: given.labels, annotations: given.annotations, ..stored.resource.metadata().clone() };
        Ok(new)
    };
    // The key is computed from the complete resource: an endpoint's name may be left out.
    let mut complete = resource.clone();
    prepared(&mut complete)?;
    modify(ctx, &complete.key(), resource.revision(), change).await
}

/// Reads, changes and writes what stands under a key until no race is lost. With `expected` no race may be lost at
/// all.
pub(super) async fn modify(
    ctx: &Context,
    key: &ResourceKey,
    expected: Option<Revision>,
    change: impl Fn(&Stored) -> Result<AnyResource, Failure>,
) -> Result<(), Gone> {
    let mut races = Races::new(key.to_string());
    loop {
        let stored = match stored::get(&ctx.store, key).await {
            Err(error @ Error::Corrupt { .. }) => {
                let command = format!("calicoctl delete {} {}", key.kind.as_str().to_lowercase(), key.name);
                return Err(Failure::from(error).hint(format!("or delete it and write it anew: {command}")).into());
            }
            other => other?,
        };
        if let Some(expected) = expected.filter(|expected| *expected != stored.revision) {
            return Err(Failure::new(format!(
                "metadata.resourceVersion = \"{expected}\": it is not the present one, {}",
                stored.revision
            ))
            .hint("somebody else changed it: look at it again, or leave the resourceVersion out")
            .into());
        }
        if stored.resource.metadata().name != key.name {
            return Err(renamed(key, &stored).into());
        }
        let mut new = change(&stored)?;
        prepared(&mut new)?;
        rules::before_update(ctx, &new, &stored).await?;
        // Objects of other tools may lack them; upstream wants both in what it updates.
        new.metadata_mut().stamp(time::OffsetDateTime::now_utc());
        match ctx.store.kv().update(&key.to_string(), new.to_json(), stored.revision).await {
            Ok(_) => return Ok(()),
            Err(Error::Conflict { .. }) if expected.is_none() => races.lost().await?,
            Err(error) => return Err(error.into()),
        }
    }
}

fn renamed(key: &ResourceKey, stored: &Stored) -> Failure {
    let (kind, name) = (key.kind, &stored.resource.metadata().name);
    Failure::new(format!("It was stored by an older release and is called {name} now, so it cannot be changed here."))
        .hint(format!(
            "write it anew as {name}, then delete the old one: calicoctl delete {} {}",
            kind.as_str().to_lowercase(),
            key.name
        ))
}

/// Fills in defaults and validates.
fn prepared(resource: &mut AnyResource) -> Result<(), Failure> {
    resource.prepare().map_err(|invalid| Failure::all(words::reasons(&invalid)))
}
