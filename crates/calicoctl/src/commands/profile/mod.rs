//! `calicoctl profile …`
//!
//! Two refusals end with code 0, because scripts of the classic tool run `profile add` and `profile remove` again
//! and again: adding what is there, removing what is not there or is in use.
//!
//! Every change of a profile reads it, changes what was asked for and nothing else, and writes it by compare-and-swap,
//! again if somebody else was faster: two edits at the same moment both hold.

mod document;
mod rules;
mod show;
mod tags;
#[cfg(test)]
mod tests;

use calico_model::{HostEndpointSpec, Profile, ProfileName, WorkloadEndpointSpec};
use calico_store::Error;

use super::race::Races;
use crate::{
    args::{ProfileCommand, ProfileRuleCommand, ProfileTagCommand},
    context::Context,
    failure::Failure,
    names::{Wanted, bad_name},
    output::Output,
};
#[cfg(test)]
pub(crate) use show::show;

/// Does what was typed after `profile`.
pub(crate) async fn run(ctx: &Context, command: &ProfileCommand) -> Result<Output, Failure> {
    match command {
        ProfileCommand::Show { detailed, .. } => show::show(ctx, *detailed).await,
        ProfileCommand::Add { profile } => add(ctx, profile).await,
        ProfileCommand::Remove { profile, no_check } => remove(ctx, profile, *no_check).await,
        ProfileCommand::Tag { command } => match command {
            ProfileTagCommand::Show { profile, .. } => tags::show(ctx, profile).await,
            ProfileTagCommand::Add(words) => tags::add(ctx, words).await,
            ProfileTagCommand::Remove(words) => tags::remove(ctx, words).await,
        },
        ProfileCommand::Rule { command } => match command {
            ProfileRuleCommand::Add { profile, direction, at, rule } => {
                rules::add(ctx, profile, *direction, at.as_deref(), rule).await
            }
            ProfileRuleCommand::Remove { profile, direction, at, rule } => {
                rules::remove(ctx, profile, *direction, at.as_deref(), rule).await
            }
            ProfileRuleCommand::Show { profile, .. } => rules::show(ctx, profile).await,
            ProfileRuleCommand::Json { profile } => document::print(ctx, profile).await,
            ProfileRuleCommand::Update { profile } => document::update(ctx, profile).await,
        },
    }
}

/// `profile add`: members may talk to each other and to everything outside.
pub(crate) async fn add(ctx: &Context, word: &str) -> Result<Output, Failure> {
    let name = ProfileName::typed(word).map_err(|error| bad_name(&error))?;
    match ctx.store.create(Profile::classic_default(&name)).await {
        Ok(_) => Ok(Output::line(format!("Created profile {name}"))),
        Err(Error::AlreadyExists { .. }) => {
            // The other form of an existing name, or the very same: shown as the existing one is called.
            let existing = Wanted::parse(word)?.look_up(&ctx.store).await;
            let shown =
                existing.ok().flatten().map_or_else(|| word.to_owned(), |profile| profile.profile_name().to_string());
            Ok(Output::line(format!("Profile {shown} already exists.")))
        }
        Err(error) => Err(error.into()),
    }
}

/// `profile remove`: deletes a profile; without `no_check` only one that no endpoint has.
pub(crate) async fn remove(ctx: &Context, word: &str, no_check: bool) -> Result<Output, Failure> {
    let wanted = Wanted::parse(word)?;
    let mut races = Races::new(format!("Profile {word}"));
    loop {
        let Some(profile) = wanted.look_up(&ctx.store).await? else {
            return Ok(Output::line(format!("Profile {} not found.", wanted.word)));
        };
        let name = profile.profile_name();
        if !no_check && is_in_use(ctx, name.as_stored()).await? {
            return Ok(Output::lines([
                "Cannot remove profile - profile in use by endpoint(s).".to_owned(),
                "Use the '--no-check' flag to remove the profile anyway.".to_owned(),
            ]));
        }
        match ctx.store.delete(&profile).await {
            Ok(()) => return Ok(Output::line(format!("Deleted profile {name}"))),
            Err(Error::Conflict { .. } | Error::NotFound { .. }) => races.lost().await?,
            Err(error) => return Err(error.into()),
        }
    }
}

async fn is_in_use(ctx: &Context, stored: &str) -> Result<bool, Failure> {
    let has = |profiles: &[String]| profiles.iter().any(|profile| profile == stored);
    let (workloads, unreadable) = ctx.store.list::<WorkloadEndpointSpec>().await?;
    ctx.note_unreadable(&unreadable);
    if workloads.iter().any(|endpoint| has(&endpoint.spec.profiles)) {
        return Ok(true);
    }
    let (hosts, unreadable) = ctx.store.list::<HostEndpointSpec>().await?;
    ctx.note_unreadable(&unreadable);
    Ok(hosts.iter().any(|endpoint| has(&endpoint.spec.profiles)))
}

/// The profile of a name.
///
/// # Errors
/// There is none; the datastore's.
async fn existing(ctx: &Context, wanted: &Wanted) -> Result<Profile, Failure> {
    let found = wanted.look_up(&ctx.store).await?;
    found.ok_or_else(|| {
        Failure::new(format!("Profile {} not found.", wanted.word)).hint("the profiles are: calicoctl profile show")
    })
}

/// Whether an edit has changed the profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edited {
    /// It must be written.
    Yes,
    /// It is as it was.
    No,
}

/// Changes a profile; `edit` says what to answer, and is called again after a lost race.
///
/// # Errors
/// There is no such profile; what `edit` returns; the result is not valid; the datastore's.
async fn change(
    ctx: &Context,
    wanted: &Wanted,
    edit: impl Fn(&mut Profile) -> Result<(Edited, Output), Failure>,
) -> Result<Output, Failure> {
    let mut races = Races::new(format!("Profile {}", wanted.word));
    loop {
        let mut profile = existing(ctx, wanted).await?;
        let (edited, output) = edit(&mut profile)?;
        if edited == Edited::No {
            return Ok(output);
        }
        match ctx.store.update(profile).await {
            Ok(_) => return Ok(output),
            Err(Error::Conflict { .. } | Error::NotFound { .. }) => races.lost().await?,
            Err(error @ Error::Invalid(_)) => {
                let way_out = format!("look at it with: calicoctl get profile {} -o yaml", wanted.stored);
                return Err(Failure::from(error).hint(way_out));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The answer of a change that says nothing.
fn silence() -> Output {
    Output::of(String::new(), serde_json::Value::Null)
}
