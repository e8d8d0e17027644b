//! `… profile append|remove|set|show` for an endpoint, however it was named.
//!
//! The list is changed by compare-and-swap, so two people who append at the same time both succeed. As in the
//! classic tool, appending what is there and removing what is not there change nothing and end with code 0.

use std::fmt;

use calico_model::{WorkloadEndpoint, WorkloadEndpointSpec};

use crate::{
    args::{EndpointFilter, ProfileChange},
    context::Context,
    failure::Failure,
    names::{TypedNames, Wanted},
    output::{Column, Output, Table},
};

/// Whose profiles.
#[derive(Debug)]
pub(crate) enum Target {
    /// An endpoint by its id.
    Endpoint {
        /// The id.
        id: String,
        /// Which of several.
        filter: EndpointFilter,
    },
    /// The one endpoint of a container of this host.
    Container {
        /// As it was named.
        name: String,
        /// Its endpoints.
        endpoints: Vec<WorkloadEndpoint>,
    },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint { id, .. } => write!(f, "Endpoint {id}"),
            Self::Container { name, .. } => write!(f, "Container {name}"),
        }
    }
}

impl Target {
    /// The one endpoint that is meant.
    pub(super) async fn find(&self, ctx: &Context) -> Result<WorkloadEndpoint, Failure> {
        let mut found = match self {
            Self::Endpoint { id, filter } => super::endpoint::find(ctx, filter, Some(id)).await?,
            Self::Container { endpoints, .. } => endpoints.clone(),
        };
        match found.len() {
            0 => {
                let hint = match self {
                    Self::Endpoint { .. } => "see: calicoctl endpoint show --detailed",
                    Self::Container { .. } => "add it first: calicoctl container add",
                };
                Err(Failure::new(format!("{self} is unknown to Calico.")).hint(hint))
            }
            1 => Ok(found.remove(0)),
            _ => Err(Failure::new(
                "More than 1 endpoint matches the provided criteria. Please provide additional parameters to refine \
                 the search.",
            )
            .hint("see: calicoctl endpoint show --detailed; then give --host, --orchestrator or --workload")),
        }
    }
}

/// Changes the profile list of an endpoint.
pub(crate) async fn change(
    ctx: &Context,
    target: &Target,
    change: ProfileChange,
    words: &[String],
) -> Result<Output, Failure> {
    let wanted = Wanted::parse_all(words)?;
    if wanted.is_empty() && change != ProfileChange::Set {
        return Ok(Output::line("No profile specified."));
    }
    let (named, missing) = look_up_all(ctx, wanted).await?;
    // A name without a profile may still stand in an endpoint's list, and must be removable from it.
    if let (Some(missing), true) = (missing.first(), change != ProfileChange::Remove) {
        return Err(not_found(missing));
    }
    let failed = match change {
        ProfileChange::Append => "Failed to append profiles to endpoint.",
        ProfileChange::Remove => "Failed to remove profiles from endpoint.",
        ProfileChange::Set => "Failed to set profiles for endpoint.",
    };
    let endpoint = match target.find(ctx).await {
        Ok(endpoint) => endpoint,
        Err(_) if !missing.is_empty() => return Err(not_found(&missing[0])),
        Err(failure) => return Err(failure.context(failed)),
    };
    apply(ctx, &endpoint, change, &named, &missing).await
}

/// Each profile by the name that is shown and the stored one, and the words that are no profile's.
async fn look_up_all(ctx: &Context, wanted: Vec<Wanted>) -> Result<(Vec<Wanted>, Vec<String>), Failure> {
    let (mut named, mut missing) = (Vec::new(), Vec::new());
    for mut profile in wanted {
        match profile.look_up(&ctx.store).await? {
            Some(found) => profile.word = found.profile_name().to_string(),
            None => missing.push(profile.word.clone()),
        }
        named.push(profile);
    }
    Ok((named, missing))
}

fn not_found(word: &str) -> Failure {
    Failure::new(format!("Profile with name {word} was not found."))
        .hint(format!("see: calicoctl profile show; or create it: calicoctl profile add {word}"))
}

/// Why a change was not made.
enum NotChanged {
    /// The answer, with code 0.
    Soft(String),
    Hard(Failure),
}

impl From<calico_store::Error> for NotChanged {
    fn from(error: calico_store::Error) -> Self {
        Self::Hard(error.into())
    }
}

async fn apply(
    ctx: &Context,
    endpoint: &WorkloadEndpoint,
    change: ProfileChange,
    named: &[Wanted],
    missing: &[String],
) -> Result<Output, Failure> {
    let key = endpoint.key();
    let changed = ctx.store.modify::<WorkloadEndpointSpec, NotChanged>(&key, |endpoint| {
        let profiles = &mut endpoint.spec.profiles;
        let has = |profiles: &[String], profile: &Wanted| profiles.contains(&profile.stored);
        match change {
            ProfileChange::Append => {
                if let Some(profile) = named.iter().find(|profile| has(profiles, profile)) {
                    let word = &profile.word;
                    return Err(NotChanged::Soft(format!("Profile {word} is already in endpoint profile list")));
                }
                profiles.extend(named.iter().map(|profile| profile.stored.clone()));
            }
            ProfileChange::Remove => {
                if let Some(profile) = named.iter().find(|profile| !has(profiles, profile)) {
                    let word = &profile.word;
                    return Err(if missing.contains(word) {
                        NotChanged::Hard(not_found(word))
                    } else {
                        NotChanged::Soft(format!("Profile {word} is not in endpoint profile list."))
                    });
                }
                profiles.retain(|stored| !named.iter().any(|profile| profile.stored == *stored));
            }
            ProfileChange::Set => *profiles = named.iter().map(|profile| profile.stored.clone()).collect(),
        }
        Ok(())
    });
    let words = |separator| named.iter().map(|profile| profile.word.as_str()).collect::<Vec<_>>().join(separator);
    match changed.await {
        Ok(_) => Ok(Output::line(match change {
            ProfileChange::Append => format!("Profile(s) {} appended.", words(", ")),
            ProfileChange::Remove => format!("Profile(s) {} removed.", words(",")),
            ProfileChange::Set if named.is_empty() => "Removed all profiles from endpoint.".to_owned(),
            ProfileChange::Set => format!("Profile(s) set to {}.", words(", ")),
        })),
        Err(NotChanged::Soft(answer)) => Ok(Output::line(answer)),
        Err(NotChanged::Hard(failure)) => Err(failure),
    }
}

/// Lists the profiles of an endpoint, by name.
pub(crate) async fn show(ctx: &Context, target: &Target) -> Result<Output, Failure> {
    let endpoint = target.find(ctx).await.map_err(|failure| failure.context("Failed to list profiles in endpoint."))?;
    let names = TypedNames::read(ctx).await?;
    let mut shown: Vec<(&str, &str)> =
        endpoint.spec.profiles.iter().map(|stored| (names.shown(stored), stored.as_str())).collect();
    shown.sort_unstable();
    let mut table = Table::new(&[Column::new("Name", "name"), Column::hidden("storedName")]);
    for (typed, stored) in &shown {
        table.push(vec![(*typed).into(), (*stored).into()]);
    }
    let mut output = Output::from(table);
    if shown.is_empty() {
        output.text = "Endpoint has no profiles associated with it.\n".to_owned();
    }
    Ok(output)
}
