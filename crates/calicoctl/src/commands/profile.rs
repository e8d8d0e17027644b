//! `calicoctl profile add|remove|show`
//!
//! Two refusals end with code 0, because scripts of the classic tool run `profile add` and `profile remove` again
//! and again: adding what is there, removing what is not there or is in use.

use calico_model::{HostEndpointSpec, Profile, ProfileName, WorkloadEndpoint, WorkloadEndpointSpec, WorkloadName};
use calico_store::Error;

use super::race::Races;
use crate::{
    context::Context,
    failure::Failure,
    names::{Wanted, bad_name},
    output::{Cell, Column, Output, Table},
};

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

const NAMES: &[Column] = &[Column::new("Name", "name"), Column::hidden("storedName")];

const MEMBERS: &[Column] = &[
    Column::new("Name", "name"),
    Column::new("Host", "host"),
    Column::new("Orchestrator ID", "orchestrator"),
    Column::new("Workload ID", "workload"),
    Column::new("Endpoint ID", "endpoint"),
    Column::new("State", "state"),
];

/// `profile show`: all profiles by name; with `detailed` a row for each member.
pub(crate) async fn show(ctx: &Context, detailed: bool) -> Result<Output, Failure> {
    let (profiles, unreadable) = ctx.store.list::<calico_model::ProfileSpec>().await?;
    ctx.note_unreadable(&unreadable);
    let mut names: Vec<ProfileName> = profiles.iter().map(Profile::profile_name).collect();
    names.sort();
    if !detailed {
        let mut table = Table::new(NAMES);
        for name in &names {
            table.push(vec![name.as_typed().into(), name.as_stored().into()]);
        }
        return Ok(table.into());
    }
    let (mut endpoints, unreadable) = ctx.store.list::<WorkloadEndpointSpec>().await?;
    ctx.note_unreadable(&unreadable);
    endpoints.sort_by(|a, b| super::endpoint::order(a).cmp(&super::endpoint::order(b)));
    let mut table = Table::new(MEMBERS);
    for name in &names {
        let is_member = |endpoint: &&WorkloadEndpoint| endpoint.spec.profiles.iter().any(|p| p == name.as_stored());
        let mut members = endpoints.iter().filter(is_member).peekable();
        if members.peek().is_none() {
            let mut row = vec![Cell::from(name.as_typed())];
            row.resize(MEMBERS.len(), Cell::Absent("None"));
            table.push(row);
        }
        for endpoint in members {
            let parts = WorkloadName::of(&endpoint.spec);
            table.push(vec![
                name.as_typed().into(),
                parts.node.into(),
                parts.orchestrator.into(),
                parts.workload.into(),
                parts.endpoint.into(),
                super::endpoint::state(ctx, endpoint).into(),
            ]);
        }
    }
    Ok(table.into())
}
