//! `calicoctl config`: single fields of FelixConfiguration and BGPConfiguration, by name.
//!
//! The names, the forms of values and the checks are those of the whole resources ([`calico_model::field`],
//! [`calico_model::input`]); here are the words that people know from the classic command: `loglevel` and its levels,
//! felix' own parameter names, and the paragraphs that refuse a name or a value. A value is checked before anything is
//! read, and written by compare-and-swap.

mod names;
mod store;
#[cfg(test)]
mod tests;

use calico_model::{
    BGPConfigurationSpec, Fault, FelixConfigurationSpec, Kind, Resource,
    field::{self, Field},
    input::{self, InputError},
};
use serde_json::{Map, Value, json};

use self::names::{Name, Naming};
use crate::{
    args::{ConfigCommand, NodeConfigCommand, Setting},
    context::Context,
    failure::Failure,
    output::{Cell, Column, Output, Table},
};
pub(crate) use store::{change, read};

/// The name of the resource for all hosts.
pub(crate) const CLUSTER: &str = "default";

/// The annotation of a parameter of felix that has no field, before the parameter's name.
const PARAMETER: &str = "config.projectcalico.org/";

/// Does what was typed after `config`.
pub(crate) async fn run(ctx: &Context, command: &ConfigCommand) -> Result<Output, Failure> {
    let own = || format!("node.{}", ctx.node);
    match command {
        ConfigCommand::Felix(setting) => one::<FelixConfigurationSpec>(ctx, CLUSTER, setting).await,
        ConfigCommand::Bgp(setting) => one::<BGPConfigurationSpec>(ctx, CLUSTER, setting).await,
        ConfigCommand::Node { command: NodeConfigCommand::Felix(setting) } => {
            one::<FelixConfigurationSpec>(ctx, &own(), setting).await
        }
        ConfigCommand::Node { command: NodeConfigCommand::Bgp(setting) } => {
            one::<BGPConfigurationSpec>(ctx, &own(), setting).await
        }
    }
}

async fn one<S: Kind + Default>(ctx: &Context, resource: &str, setting: &Setting) -> Result<Output, Failure> {
    let Some(typed) = &setting.name else { return list::<S>(ctx, resource, setting.all).await };
    let Some(name) = Name::parse(S::NAME, typed) else {
        if setting.force && S::NAME == FelixConfigurationSpec::NAME {
            return parameter(ctx, resource, typed, setting).await;
        }
        return Err(unknown_name::<S>(typed));
    };
    match (&setting.value, setting.remove) {
        (Some(value), _) => set::<S>(ctx, resource, &name, value).await,
        (None, true) => remove::<S>(ctx, resource, &name).await,
        (None, false) => show::<S>(ctx, resource, &name).await,
    }
}

fn unknown_name<S: Kind>(typed: &str) -> Failure {
    let failure = Failure::new(format!("The configuration '{typed}' is not recognized as a valid option."));
    let like = names::similar(S::NAME, typed);
    let failure = match like.is_empty() {
        true => failure,
        false => failure.hint(format!("did you mean {}?", like.join(" or "))),
    };
    if S::NAME == FelixConfigurationSpec::NAME {
        return failure
            .hint("all that there are: calicoctl config felix --all")
            .hint("Use the --force option to override.");
    }
    failure.hint("all that there are: calicoctl config bgp --all")
}

/// The value of a field, as people see it.
fn shown(name: &Name, value: &Value) -> String {
    let text = name.field.show(value);
    match name.naming {
        Naming::Level => names::level_shown(&text).to_owned(),
        Naming::Field | Naming::Seconds | Naming::Milliseconds => text,
    }
}

async fn show<S: Kind>(ctx: &Context, resource: &str, name: &Name) -> Result<Output, Failure> {
    let stored = store::read::<S>(ctx, resource).await?;
    let value = stored.as_ref().and_then(|stored| spec(stored).remove(name.field.name()));
    let data = json!({ "name": name.field.name(), "value": value, "resource": resource });
    let text = value.map_or_else(|| "No value configured".to_owned(), |value| shown(name, &value));
    Ok(Output::of(format!("{text}\n"), data))
}

async fn set<S: Kind + Default>(ctx: &Context, resource: &str, name: &Name, text: &str) -> Result<Output, Failure> {
    let value = formed::<S>(resource, name, text)?;
    let field = name.field.name();
    change::<S>(ctx, resource, |stored| {
        let mut spec = spec(stored);
        spec.insert(field.to_owned(), value.clone());
        let mut changed = with_spec(stored, spec)?;
        changed.prepare().map_err(|invalid| refused(name, text, &reasons(name, &invalid.faults)))?;
        *stored = changed;
        Ok(())
    })
    .await?;
    Ok(Output::of(String::new(), json!({ "name": field, "value": value, "resource": resource })))
}

/// The JSON of a typed value, in the form that is stored. Whether it is good together with the other fields is known
/// only when it is written.
fn formed<S: Kind>(resource: &str, name: &Name, text: &str) -> Result<Value, Failure> {
    let value = name.read(text).map_err(|reason| refused(name, text, &reason))?;
    let alone = json!({
        "kind": S::NAME.as_str(),
        "apiVersion": "projectcalico.org/v3",
        "metadata": { "name": resource },
        "spec": { name.field.name(): value },
    });
    match input::parse_as::<S>(alone) {
        Ok(resource) => Ok(spec(&resource).remove(name.field.name()).unwrap_or(value)),
        Err(InputError::Invalid(invalid)) => Err(refused(name, text, &reasons(name, &invalid.faults))),
        Err(other) => Err(refused(name, text, &other.to_string())),
    }
}

/// What is wrong, in one line; of other fields with their names.
fn reasons(name: &Name, faults: &[Fault]) -> String {
    let here = format!("spec.{}", name.field.name());
    let reason = |fault: &Fault| match fault.path.strip_prefix(&here) {
        Some("") => fault.reason.clone(),
        Some(place) if place.starts_with(['[', '.']) => format!("{}: {}", place.trim_start_matches('.'), fault.reason),
        _ => format!("{}: {}", fault.path, fault.reason),
    };
    faults.iter().map(reason).collect::<Vec<_>>().join("; ")
}

fn refused(name: &Name, text: &str, reason: &str) -> Failure {
    // Nobody should see a password that was typed in the wrong place.
    let shown = if name.field.name() == "nodeMeshPassword" { "…" } else { text };
    Failure::new(format!("The configuration value '{shown}' is not recognized as a valid value."))
        .because(format!("{}: {reason}", name.field.name()))
        .hint(format!("{} is: {}", name.field.name(), name.form()))
}

async fn remove<S: Kind + Default>(ctx: &Context, resource: &str, name: &Name) -> Result<Output, Failure> {
    let field = name.field.name();
    let there = |stored: &Resource<S>| spec(stored).contains_key(field);
    let removed = store::change_existing::<S>(ctx, resource, |stored| {
        if !there(stored) {
            return Ok(false);
        }
        let mut spec = spec(stored);
        spec.remove(field);
        *stored = with_spec(stored, spec)?;
        Ok(true)
    })
    .await?;
    let words = if removed { "Value removed" } else { "No value configured" };
    Ok(Output::of(format!("{words}\n"), json!({ "name": field, "removed": removed, "resource": resource })))
}

const FIELDS: &[Column] = &[Column::new("Name", "name"), Column::new("Value", "value")];
const ALL_FIELDS: &[Column] =
    &[Column::new("Name", "name"), Column::new("Value", "value"), Column::new("Values", "values")];

/// What is set; with `all` also what is not.
async fn list<S: Kind>(ctx: &Context, resource: &str, all: bool) -> Result<Output, Failure> {
    let stored = store::read::<S>(ctx, resource).await?;
    let mut values = stored.as_ref().map(spec).unwrap_or_default();
    let mut table = Table::new(if all { ALL_FIELDS } else { FIELDS }).left();
    let mut push = |name: &str, value: Option<(String, Value)>, form: String| {
        let value = value.map_or(Cell::Absent(""), |(text, value)| Cell::Both(text, value));
        let mut row = vec![name.into(), value];
        row.extend(all.then(|| form.into()));
        table.push(row);
    };
    for field in field::all(S::NAME) {
        match values.remove(field.name()) {
            Some(value) => push(field.name(), Some((field.show(&value), value)), field.form()),
            None if all => push(field.name(), None, field.form()),
            None => {}
        }
    }
    // Those known by the beginnings of their names, and those of newer programs.
    for (name, value) in values {
        let text = field::find(S::NAME, &name).map_or_else(|| value.to_string(), |field: Field| field.show(&value));
        push(&name, Some((text, value)), String::new());
    }
    for (name, value) in stored.iter().flat_map(|stored| &stored.metadata.annotations) {
        if let Some(parameter) = name.strip_prefix(PARAMETER) {
            push(parameter, Some((value.clone(), value.as_str().into())), "a parameter, set with --force".to_owned());
        }
    }
    Ok(table.into())
}

/// A parameter of felix that has no field: upstream's felix reads it from an annotation, ours does not, and nobody
/// checks it.
async fn parameter(ctx: &Context, resource: &str, name: &str, setting: &Setting) -> Result<Output, Failure> {
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(Failure::new(format!("The configuration '{name}' is not recognized as a valid option."))
            .because("a parameter's name is letters and digits"));
    }
    let annotation = format!("{PARAMETER}{name}");
    if let Some(value) = &setting.value {
        ctx.console.note("The --force option is set. It is for upstream's felix: this one has no such parameter.");
        change::<FelixConfigurationSpec>(ctx, resource, |stored| {
            stored.metadata.annotations.insert(annotation.clone(), value.clone());
            Ok(())
        })
        .await?;
        return Ok(Output::of(String::new(), json!({ "name": name, "value": value, "resource": resource })));
    }
    if setting.remove {
        let removed = store::change_existing::<FelixConfigurationSpec>(ctx, resource, |stored| {
            Ok(stored.metadata.annotations.remove(&annotation).is_some())
        })
        .await?;
        let words = if removed { "Value removed" } else { "No value configured" };
        return Ok(Output::of(format!("{words}\n"), json!({ "name": name, "removed": removed, "resource": resource })));
    }
    let stored = store::read::<FelixConfigurationSpec>(ctx, resource).await?;
    let value = stored.and_then(|stored| stored.metadata.annotations.get(&annotation).cloned());
    let text = value.as_deref().unwrap_or("No value configured");
    Ok(Output::of(format!("{text}\n"), json!({ "name": name, "value": value, "resource": resource })))
}

/// The members of a resource's spec.
fn spec<S: Kind>(resource: &Resource<S>) -> Map<String, Value> {
    let value = serde_json::to_value(&resource.spec).expect("a spec is a plain map with string keys");
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// The resource with other members in its spec.
fn with_spec<S: Kind>(resource: &Resource<S>, spec: Map<String, Value>) -> Result<Resource<S>, Failure> {
    let spec = serde_json::from_value(Value::Object(spec))
        .map_err(|error| Failure::new("The value does not fit into the resource.").cause(&error))?;
    Ok(Resource { spec, ..resource.clone() })
}
