//! `calicoctl checksystem`: what this kernel and host lack, for which feature, and the way out.
//!
//! [`facts`] looks and tries, [`judge`] says what it means; the second is pure. Only what no node can run without
//! makes the command fail. What somebody has asked for in particular (`--runtime=docker`, a datastore that is named in
//! the environment) counts as such; what is merely usual does not, as there is another way.

mod facts;
mod judge;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde_json::json;

use crate::{
    args::Checksystem,
    context::Context,
    failure::{Exit, Failure},
    health,
    host::{Host, Machine},
    output::{Cell, Column, Output, Table},
    runtime::Runtime,
};
use judge::{Check, State};

const COLUMNS: &[Column] = &[
    Column::new("Item", "item"),
    Column::new("State", "state"),
    Column::new("Needed for", "neededFor"),
    Column::new("Way out", "wayOut"),
    Column::hidden("detail"),
    Column::hidden("required"),
];

/// `checksystem`
pub(crate) async fn checksystem(connected: Result<&Context, &Failure>, args: &Checksystem) -> Result<Output, Failure> {
    let wanted = match args.runtime.as_deref() {
        None => judge::Wanted { docker: false, bird: false },
        Some("docker") => judge::Wanted { docker: true, bird: false },
        Some("none") => judge::Wanted { docker: false, bird: true },
        Some(other) => {
            return Err(Failure::new(format!("Invalid runtime specified: '{other}'")).hint("it is docker, or none"));
        }
    };
    let machine = Arc::new(Machine::new(health::DEFAULT_PORT));
    let (host, runtime): (Arc<dyn Host>, Arc<dyn Runtime>) = match connected {
        Ok(ctx) => (ctx.host.clone(), ctx.runtime.clone()),
        Err(_) => (machine.clone(), machine),
    };
    if !host.is_root() {
        return Err(Failure::not_root());
    }
    let mut notes = Vec::new();
    if args.fix {
        match runtime.prepare_kernel().await {
            Ok(warnings) => notes.extend(warnings),
            Err(failure) => notes.push(failure.one_line()),
        }
    }
    let facts = facts::gather(connected, &*host, &*runtime).await;
    let wanted = judge::Wanted { docker: wanted.docker || args.libnetwork, ..wanted };
    let output = shown(&judge::judge(&facts, wanted));
    Ok(match notes.is_empty() {
        true => output,
        false => {
            let text = notes.iter().map(|note| format!("could not be mended: {note}\n")).collect::<String>();
            Output { text: output.text + &text, ..output }
        }
    })
}

/// The table, what is wrong in words below it, and how the process ends.
fn shown(checks: &[Check]) -> Output {
    let mut table = Table::new(COLUMNS);
    let mut words = String::new();
    for check in checks {
        let is_well = check.state == State::Ok;
        table.push(vec![
            check.item.into(),
            check.state.word().into(),
            check.needed_for.into(),
            Cell::or_absent(Some(check.way_out.clone()).filter(|way_out| !is_well && !way_out.is_empty())),
            Cell::Both(String::new(), json!(check.detail)),
            Cell::Both(String::new(), json!(check.required)),
        ]);
        if !is_well && !check.detail.is_empty() {
            words.push_str(&format!("{}: {}\n", check.item, check.detail));
        }
    }
    let lacking: Vec<&str> =
        checks.iter().filter(|check| check.required && check.state == State::Missing).map(|check| check.item).collect();
    let output = Output::from(table);
    let output = Output { text: output.text + &words, ..output };
    if lacking.is_empty() {
        return output;
    }
    let failure = Failure::new(format!("This host lacks what a node needs: {}.", lacking.join(", ")))
        .hint("the table names the way out; what merely some feature needs does not count here");
    output.but(failure).exit(Exit::Failed)
}
