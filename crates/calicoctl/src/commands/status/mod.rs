//! `calicoctl status`: does the service run on this host, is each part of it well, and whom does it talk BGP with.
//!
//! Ends with code 1 exactly when nothing runs. A part that cannot be asked (a dead datastore, a BIRD that does not
//! answer) is said in its place, and the rest is shown all the same. The BGP part is [`sessions`]; [`words`] says of a
//! session that is not up why, and what to look at.

mod sessions;
#[cfg(test)]
mod tests;
mod words;

use std::fmt::Write as _;

use calico_workload::docker::DockerError;
use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{docker_failure, node_start::CONTAINER};
use crate::{
    args::Status,
    context::Context,
    failure::{Exit, Failure},
    health::Health,
    output::{Cell, Column, Output, Table},
};

/// Where the service runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Place {
    Container,
    Host,
}

/// `status`, with the classic option: whatever runs the service, it is found, so the option only has to make sense.
pub(crate) async fn run(ctx: &Context, args: &Status) -> Result<Output, Failure> {
    match args.runtime.as_str() {
        "docker" | "none" => status(ctx).await,
        "rkt" => Err(Failure::new("Invalid runtime specified: 'rkt'")
            .because("rkt is no longer developed, and no service can be started in it")
            .hint("leave the option out")),
        other => Err(Failure::new(format!("Invalid runtime specified: '{other}'")).hint("it is docker or none")),
    }
}

/// `node status`
pub(crate) async fn status(ctx: &Context) -> Result<Output, Failure> {
    let (mut text, mut data) = (String::new(), json!({ "node": ctx.node }));
    let (health, health_error) = match ctx.runtime.health().await {
        Ok(health) => (health, None),
        Err(failure) => (None, Some(failure.one_line())),
    };
    let (container, docker_error) = match ctx.runtime.container(CONTAINER).await {
        Ok(container) => (container.filter(|container| container.running), None),
        // Nobody can say then whether it runs.
        Err(error @ DockerError::Permission { .. }) if health.is_none() => return Err(docker_failure(error)),
        Err(error) => (None, Some(error.to_string())),
    };
    let place = match (&container, &health) {
        (Some(_), _) => Place::Container,
        (None, Some(_)) => Place::Host,
        (None, None) => return Ok(not_running(docker_error, health_error)),
    };
    data["runs"] = json!(place);
    match &container {
        Some(container) => {
            let up = up_since(container.started_at.as_deref(), OffsetDateTime::now_utc());
            data["startedAt"] = json!(container.started_at);
            data["image"] = json!(container.image);
            let _ = writeln!(text, "calico-node container is running. Status: {up}");
        }
        None => text.push_str("calico-node service is running, outside Docker.\n"),
    }
    let datastore = ctx.store.kv().location();
    let keeps = if datastore.starts_with("unix:") { ", kept by this host in /var/lib/calico/datastore" } else { "" };
    let _ = writeln!(text, "Datastore: {datastore}{keeps}");
    data["datastore"] = json!(datastore);
    components(&mut text, &mut data, health.as_ref(), health_error);
    let exit = sessions::bgp(ctx, &mut text, &mut data).await;
    Ok(Output::of(text, data).exit(exit))
}

fn not_running(docker_error: Option<String>, health_error: Option<String>) -> Output {
    let mut text = "calico-node container not running\n".to_owned();
    for cause in [&docker_error, &health_error].into_iter().flatten() {
        let _ = writeln!(text, "  {cause}");
    }
    let data = json!({ "runs": Value::Null, "dockerError": docker_error, "healthError": health_error });
    Output::of(text, data).exit(Exit::Failed)
}

const COMPONENTS: &[Column] = &[
    Column::new("Component", "name"),
    Column::new("Live", "live"),
    Column::new("Ready", "ready"),
    Column::new("Up", "since"),
    Column::new("Restarts", "restarts"),
    Column::new("Info", "reason"),
    Column::hidden("problems"),
];

fn components(text: &mut String, data: &mut Value, health: Option<&Health>, error: Option<String>) {
    let Some(health) = health else {
        let error = error.unwrap_or_else(|| "it does not answer on its health port; it may be starting".to_owned());
        let _ = writeln!(text, "Health unknown: {error}");
        data["healthError"] = json!(error);
        return;
    };
    let mut table = Table::new(COMPONENTS);
    let yes = |yes: bool| Cell::Both(if yes { "yes" } else { "no" }.to_owned(), yes.into());
    for component in &health.components {
        let up = component.since.map_or_else(String::new, |since| {
            let since = i64::try_from(since).ok().and_then(|since| OffsetDateTime::from_unix_timestamp(since).ok());
            since.map_or_else(String::new, |since| duration(OffsetDateTime::now_utc() - since))
        });
        table.push(vec![
            component.name.as_str().into(),
            yes(component.live),
            yes(component.ready),
            Cell::Both(up, json!(component.since)),
            Cell::Both(component.restarts.to_string(), component.restarts.into()),
            component.reason.as_str().into(),
            Cell::Lines(component.problems.clone()),
        ]);
    }
    data["live"] = json!(health.live);
    data["ready"] = json!(health.ready);
    data["components"] = table.data();
    let _ = write!(text, "{table}");
    for component in &health.components {
        for problem in &component.problems {
            let _ = writeln!(text, "Problem ({}): {problem}", component.name);
        }
    }
}

/// Docker's `Up 3 hours`, from the time at which the container was started.
fn up_since(started_at: Option<&str>, now: OffsetDateTime) -> String {
    let format = &time::format_description::well_known::Rfc3339;
    match started_at.and_then(|text| OffsetDateTime::parse(text, format).ok()) {
        Some(started_at) => format!("Up {}", duration(now - started_at)),
        None => "Up".to_owned(),
    }
}

/// A duration in its largest unit.
fn duration(duration: time::Duration) -> String {
    let seconds = duration.whole_seconds().max(0);
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86_400 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}
