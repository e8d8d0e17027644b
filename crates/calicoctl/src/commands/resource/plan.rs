//! `plan`: what `apply` of the same files would do, without doing it.
//!
//! The resources are read and validated as by `apply`; what would follow is [`calico_explain::plan`]'s to say.

use std::fmt::Write;

use calico_explain::{
    Cluster,
    plan::{self, HostPlan, VerdictChange, What, verdict_word},
    why::End,
};
use calico_model::{AnyResource, Change, Metadata, ResourceKey};
use calico_policy::instruction::EndpointId;
use serde_json::json;

use super::{
    gate,
    source::{self, Item},
    words,
    write::{nothing_to_do, prepare},
};
use crate::{
    args::Plan,
    commands::why::load,
    context::Context,
    failure::{Exit, Failure},
    output::Output,
};

/// Names of endpoints beyond this many are counted.
const NAMED: usize = 4;

/// `plan`
pub(crate) async fn plan(ctx: &Context, args: &Plan) -> Result<Output, Failure> {
    let mut items = source::read(&*ctx.console, &args.files)?;
    if items.is_empty() {
        return Ok(nothing_to_do());
    }
    prepare(&mut items, &args.namespace, false)?;
    gate::check(ctx, args.connection.allow_version_mismatch).await?;
    let cluster = load(ctx).await?;
    let changes = changes(&cluster, items)?;
    let resources: Vec<_> =
        changes.iter().map(|(change, what)| json!({ "resource": name_of(change), "change": what })).collect();
    let only: Vec<Change> = changes.iter().map(|(change, _)| change.clone()).collect();
    let plan = plan::plan(&cluster, &only);
    let mut text = String::new();
    for (change, what) in &changes {
        let _ = writeln!(text, "{what}: {}", name_of(change));
    }
    plan.hosts.iter().for_each(|host| host_text(&mut text, host));
    verdicts_text(&mut text, &cluster, &plan.verdicts);
    let exit = if plan.verdicts.is_empty() { Exit::Done } else { Exit::Changes };
    let data = json!({ "resources": resources, "hosts": plan.hosts, "verdicts": plan.verdicts });
    Ok(Output::of(text, data).exit(exit))
}

/// Each resource as it would be stored, and what that is to the datastore.
fn changes(cluster: &Cluster, items: Vec<Item>) -> Result<Vec<(Change, &'static str)>, Failure> {
    let mut changes = Vec::new();
    for Item { mut resource, place } in items {
        resource.prepare().map_err(|invalid| Failure::all(words::faults(&place, &invalid)))?;
        let key = resource.key();
        let before = cluster.get(&key);
        let what = match before {
            None => "would be created",
            Some(before) if same(before, &resource) => "would stay as it is",
            Some(_) => "would be changed",
        };
        changes.push((Change::Set { key, resource: Box::new(resource) }, what));
    }
    Ok(changes)
}

/// True if a write would change nothing but what the datastore fills in.
fn same(before: &AnyResource, after: &AnyResource) -> bool {
    let own = |resource: &AnyResource| {
        let mut resource = resource.clone();
        let Metadata { name, namespace, labels, annotations, .. } = std::mem::take(resource.metadata_mut());
        *resource.metadata_mut() = Metadata { name, namespace, labels, annotations, ..Metadata::default() };
        resource.to_json()
    };
    own(before) == own(after)
}

fn name_of(change: &Change) -> String {
    let ResourceKey { kind, namespace, name } = change.key();
    words::named(*kind, namespace.as_deref(), name)
}

fn host_text(text: &mut String, host: &HostPlan) {
    let _ = writeln!(text, "\nrules on {}:", host.node);
    for object in &host.changes {
        let sign = match object.change {
            What::Added => '+',
            What::Removed => '-',
            What::Changed => '~',
        };
        let _ = writeln!(text, "  {sign} {}", object.object);
        for line in &object.lines {
            let _ = writeln!(text, "      {} {}", if line.added { '+' } else { '-' }, line.text);
        }
    }
    for problem in &host.problems {
        let _ = writeln!(text, "  ! closed: {problem}");
    }
}

fn verdicts_text(text: &mut String, cluster: &Cluster, verdicts: &[VerdictChange]) {
    if verdicts.is_empty() {
        text.push_str("\nNo traffic between existing endpoints changes its verdict.\n");
        return;
    }
    text.push_str("\ntraffic that changes its verdict:\n");
    let mut last = None;
    for change in verdicts {
        let ends = (&change.from, &change.to);
        if last != Some(ends) {
            let _ = writeln!(text, "  {} -> {}", endpoints(cluster, &change.from), endpoints(cluster, &change.to));
            last = Some(ends);
        }
        let families = match change.families.as_slice() {
            [one] if families(cluster, change) > 1 => format!(", IPv{one} only"),
            _ => String::new(),
        };
        let (before, after) = (verdict_word(change.before), verdict_word(change.after));
        let _ = writeln!(text, "      {}: {before} -> {after}{families}", change.traffic);
    }
}

/// In how many families such endpoints can talk at all.
fn families(cluster: &Cluster, change: &VerdictChange) -> usize {
    let can = |names: &[String], is_four: bool| {
        let id = names.first().and_then(|name| endpoint_id(name));
        let addresses = id.map(|id| cluster.addresses(&End::Endpoint(id))).unwrap_or_default();
        addresses.iter().any(|address| address.is_ipv4() == is_four)
    };
    [true, false].into_iter().filter(|is_four| can(&change.from, *is_four) && can(&change.to, *is_four)).count()
}

fn endpoint_id(name: &str) -> Option<EndpointId> {
    let (namespace, name) = name.split_once('/')?;
    Some(EndpointId { namespace: namespace.to_owned(), name: name.to_owned() })
}

fn endpoints(cluster: &Cluster, names: &[String]) -> String {
    let known = |name: &String| endpoint_id(name).map_or_else(|| name.clone(), |id| cluster.workload_name(&id));
    let mut said = names.iter().take(NAMED).map(known).collect::<Vec<_>>().join(", ");
    match names.len() {
        1 => return said,
        many if many > NAMED => {
            let _ = write!(said, " and {} more", many - NAMED);
        }
        _ => {}
    }
    format!("{} endpoints ({said})", names.len())
}
