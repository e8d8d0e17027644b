//! `profile show`

use calico_model::{Profile, ProfileName, WorkloadEndpoint, WorkloadEndpointSpec, WorkloadName};

use crate::{
    commands::endpoint,
    context::Context,
    failure::Failure,
    output::{Cell, Column, Output, Table},
};

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
    endpoints.sort_by(|a, b| endpoint::order(a).cmp(&endpoint::order(b)));
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
                endpoint::state(ctx, endpoint).into(),
            ]);
        }
    }
    Ok(table.into())
}
