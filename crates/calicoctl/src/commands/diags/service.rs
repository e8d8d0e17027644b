//! What Docker, the service and BIRD say when they are asked, and what calicoctl itself makes of it.

use calico_workload::docker::Listed;
use serde_json::{Value, json};

use super::Item;
use crate::{
    args::EndpointShow,
    commands::{endpoint, node_show, status},
    context::Context,
    failure::Failure,
    output::Output,
};

/// More containers than this are only listed.
const MOST_INSPECTED: usize = 200;

/// Questions to BIRD that change nothing, and the files of the answers.
const QUESTIONS: &[(&str, &str)] = &[
    ("show status", "bird/status"),
    ("show protocols all", "bird/protocols"),
    ("show route count", "bird/route_count"),
    ("show route", "bird/routes"),
    ("show route filtered", "bird/routes_filtered"),
];

/// Docker's containers by an allow-list: neither environment nor labels nor command lines.
pub(super) async fn containers(ctx: &Context) -> Vec<Item> {
    const NAME: &str = "containers.json";
    let listed = match ctx.host.containers().await {
        Ok(listed) => listed,
        Err(error) => return vec![Item::missing(NAME, error.to_string())],
    };
    let mut all = Vec::new();
    for (index, container) in listed.iter().enumerate() {
        let mut shown = of_list(container);
        if index < MOST_INSPECTED
            && let Ok(found) = ctx.host.inspect(&container.id).await
        {
            shown["pid"] = found.pid.into();
            shown["running"] = found.running.into();
            shown["startedAt"] = found.started_at.into();
        }
        all.push(shown);
    }
    vec![Item::data(NAME, Value::from(all))]
}

fn of_list(container: &Listed) -> Value {
    json!({
        "id": container.id,
        "name": container.name,
        "image": container.image,
        "state": container.state,
        "status": container.status,
        "networkMode": container.network_mode,
        "created": container.created,
    })
}

/// BIRD's answers.
pub(super) async fn bird(ctx: &Context) -> Vec<Item> {
    let mut items = Vec::new();
    for (question, name) in QUESTIONS {
        match ctx.runtime.ask_bird(question).await {
            Ok(answer) => items.push(Item::text(*name, answer)),
            Err(error) => {
                items.push(Item::missing(*name, error.to_string()));
                // Who is not there does not answer the next question either.
                if error.is_absent() {
                    break;
                }
            }
        }
    }
    items
}

/// What `status`, `node show` and `endpoint show` say, and the service's own health.
pub(super) async fn status(ctx: &Context) -> Vec<Item> {
    let health = match ctx.runtime.health().await {
        Ok(Some(health)) => Item::data("health.json", serde_json::to_value(health).unwrap_or_default()),
        Ok(None) => Item::missing("health.json", "calico-node does not run here"),
        Err(failure) => Item::missing("health.json", failure.one_line()),
    };
    let endpoints = EndpointShow { detailed: true, ..EndpointShow::default() };
    vec![
        health,
        said("status", status::status(ctx).await),
        said("node_show", node_show::show(ctx).await),
        said("endpoint_show", endpoint::show(ctx, &endpoints).await),
    ]
}

fn said(name: &str, outcome: Result<Output, Failure>) -> Item {
    match outcome {
        Ok(output) => Item::text(name, output.text).but(output.failure.map(|failure| failure.one_line())),
        Err(failure) => Item::missing(name, failure.one_line()),
    }
}
