//! `get --watch`: what there is, and then every change until the user has seen enough.
//!
//! The syncer does the watching: after an outage only what has changed meanwhile is told.

use std::collections::{BTreeMap, BTreeSet};

use calico_model::{AnyResource, Change, KindName, ResourceKey};
use calico_store::{Event, Syncer};
use serde_json::{Value, json};

use super::{
    columns::Layout,
    form::{self, Form, Found, Setting},
    stored, view,
};
use crate::{context::Context, failure::Failure, output::Output, output::plain};

/// What happened to a resource, in the words of Kubernetes' watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Added,
    Modified,
    Deleted,
}

impl What {
    fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// Prints resources of a kind and their changes, until interrupted or until nobody reads any more.
///
/// # Errors
/// A template that cannot be filled in.
pub(super) async fn watch(
    ctx: &Context,
    kind: KindName,
    namespace: Option<&str>,
    names: BTreeSet<String>,
    form: &Form,
    setting: &Setting,
) -> Result<Output, Failure> {
    let _endless = ctx.interrupt.endless();
    let mut watching = Watching {
        known: BTreeMap::new(),
        in_sync: false,
        printer: Printer { kind, form, setting, widths: Vec::new() },
        names,
        ctx,
    };
    let mut syncer = Syncer::spawn(ctx.store.kv().clone(), vec![stored::prefix(kind, namespace)]);
    while let Some(events) = syncer.next().await {
        let mut text = String::new();
        for event in events {
            text.push_str(&watching.event(event)?);
        }
        if !text.is_empty() && ctx.console.print(&text).is_err() {
            // Nobody reads any more.
            break;
        }
    }
    Ok(Output::of(String::new(), Value::Null))
}

struct Watching<'a> {
    ctx: &'a Context,
    /// The resources as they were printed last.
    known: BTreeMap<ResourceKey, Value>,
    in_sync: bool,
    /// Only these; empty for all.
    names: BTreeSet<String>,
    printer: Printer<'a>,
}

impl Watching<'_> {
    fn event(&mut self, event: Event) -> Result<String, Failure> {
        match event {
            Event::Change(Change::Set { key, resource }) => self.set(key, &resource),
            Event::Change(Change::Unusable { key, reason, resource }) => {
                if self.is_wanted(&key) {
                    self.ctx.console.note(&format!("warning: {key} cannot be used: {reason}"));
                }
                resource.map_or(Ok(String::new()), |resource| self.set(key, &resource))
            }
            Event::Change(Change::Remove { key }) => match self.known.remove(&key) {
                Some(value) if self.in_sync => self.printer.change(What::Deleted, value),
                _ => Ok(String::new()),
            },
            Event::InSync => {
                self.in_sync = true;
                self.printer.begin(self.known.values())
            }
            Event::Lost { cause } => {
                self.ctx.console.note(&format!("warning: the datastore is lost, waiting for it: {cause}"));
                Ok(String::new())
            }
            Event::Back => {
                self.ctx.console.note("the datastore is back");
                Ok(String::new())
            }
            Event::Unreadable(error) => {
                self.ctx.console.note(&format!("warning: skipped: {error}"));
                Ok(String::new())
            }
            Event::Raw(_) => Ok(String::new()),
        }
    }

    fn is_wanted(&self, key: &ResourceKey) -> bool {
        self.names.is_empty() || self.names.contains(&key.name)
    }

    fn set(&mut self, key: ResourceKey, resource: &AnyResource) -> Result<String, Failure> {
        if !self.is_wanted(&key) {
            return Ok(String::new());
        }
        let value = view::shown(resource);
        let before = self.known.insert(key, value.clone());
        match before {
            _ if !self.in_sync => Ok(String::new()),
            Some(before) if before == value => Ok(String::new()),
            Some(_) => self.printer.change(What::Modified, value),
            None => self.printer.change(What::Added, value),
        }
    }
}

struct Printer<'a> {
    kind: KindName,
    form: &'a Form,
    setting: &'a Setting,
    /// The room of each column, from what there was at first.
    widths: Vec<usize>,
}

impl Printer<'_> {
    /// The headings and what there is at first.
    fn begin<'v>(&mut self, values: impl Iterator<Item = &'v Value>) -> Result<String, Failure> {
        let Form::Table(wanted) = self.form else {
            return values.map(|value| self.change(What::Added, value.clone())).collect();
        };
        let layout = Layout::new(self.kind, wanted, self.setting.with_namespace)?;
        let mut rows = vec![with_event("EVENT", layout.headings())];
        rows.extend(values.map(|value| self.row(&layout, What::Added, value)));
        self.widths = plain::widths(&rows);
        // Of all events this is the longest word.
        self.widths[0] = self.widths[0].max(What::Modified.as_str().len());
        Ok(rows.iter().map(|row| plain::line(row, &self.widths)).collect())
    }

    fn change(&mut self, what: What, value: Value) -> Result<String, Failure> {
        let event = |value: &Value| json!({ "type": what.as_str(), "object": value });
        match self.form {
            Form::Table(wanted) => {
                let layout = Layout::new(self.kind, wanted, self.setting.with_namespace)?;
                Ok(plain::line(&self.row(&layout, what, &value), &self.widths))
            }
            Form::Name => {
                let names = form::names(&Found { kind: self.kind, value });
                Ok(names.iter().map(|name| format!("{:<10}{name}", what.as_str())).collect())
            }
            Form::Json => Ok(format!("{}\n", event(&value))),
            Form::Yaml => Ok(format!("---\n{}", view::yaml(&event(&value)))),
            Form::Template(_) => self.form.render(&[Found { kind: self.kind, value }], self.setting),
        }
    }

    fn row(&self, layout: &Layout, what: What, value: &Value) -> Vec<String> {
        with_event(what.as_str(), layout.row(value, &self.setting.as_number))
    }
}

fn with_event(event: &str, mut row: Vec<String>) -> Vec<String> {
    row.insert(0, event.to_owned());
    row
}
