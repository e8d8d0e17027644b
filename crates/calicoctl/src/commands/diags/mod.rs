//! `calicoctl diags`: one archive with everything that a colleague needs to find a fault, and no secret.
//!
//! Diagnostics are wanted when something is broken, so nothing here relies on anything: every item has a limit to its
//! time and size, an item that cannot be had is noted in the archive and stops nothing, and neither settings that
//! make no sense nor a dead datastore, Docker or service keep the rest from being collected.
//!
//! Everything passes through the [`scrub::Scrubber`], which first learns what this host keeps as secrets
//! ([`secrets`]); see there for what is left out and how.

mod archive;
mod datastore;
mod files;
mod keeper;
mod programs;
mod scrub;
mod secrets;
mod service;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use futures::{StreamExt, future::BoxFuture, stream};
use serde_json::Value;
use time::OffsetDateTime;

use crate::{args::Diags, context::Context, failure::Failure, host::RUN_DIR, output::Output};
use archive::Archive;
use programs::{Installed, Programs};
use scrub::Scrubber;

/// How many items are collected at the same time.
const AT_ONCE: usize = 3;
/// How long one item may take; programs have less.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where things are on this host.
#[derive(Clone, Debug)]
struct Places {
    /// Settings, passwords, certificates.
    etc: PathBuf,
    /// Sockets, BIRD's configuration.
    run: PathBuf,
    /// The service's logs.
    log: PathBuf,
    /// The kernel's settings.
    sys: PathBuf,
}

impl Places {
    /// The files with BIRD's configuration: in force, and beside it what was refused or is half written.
    fn bird_configurations(&self) -> Vec<PathBuf> {
        let is_one = |path: &PathBuf| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("bird.cfg"))
        };
        let folders = [(&self.run, 1), (&self.etc, 4)];
        folders.into_iter().flat_map(|(folder, depth)| secrets::files_below(folder, depth)).filter(is_one).collect()
    }
}

/// Where the items come from.
struct Sources<'a> {
    places: Places,
    programs: &'a dyn Programs,
    datastore: keeper::Datastore,
    connected: Result<&'a Context, &'a Failure>,
}

/// One file of the archive.
#[derive(Clone, Debug, PartialEq)]
struct Item {
    /// Its path below the archive's folder.
    name: String,
    content: Content,
    /// Why it is not all there.
    fault: Option<String>,
}

/// What is in it, before it is scrubbed.
#[derive(Clone, Debug, PartialEq)]
enum Content {
    /// Text of no known form.
    Text(String),
    /// Paths of files with their sizes and modes, whose names may well say `secret`.
    Paths(String),
    /// Lines `NAME=VALUE`.
    Settings(String),
    /// Members of an object of settings.
    SettingsOf(serde_json::Map<String, Value>),
    /// Data.
    Data(Value),
}

impl Item {
    fn text(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), content: Content::Text(text.into()), fault: None }
    }

    fn data(name: impl Into<String>, data: Value) -> Self {
        Self { name: name.into(), content: Content::Data(data), fault: None }
    }

    fn missing(name: impl Into<String>, fault: impl Into<String>) -> Self {
        Self { fault: Some(fault.into()), ..Self::text(name, "") }
    }

    fn but(self, fault: Option<String>) -> Self {
        Self { fault, ..self }
    }

    /// The content without secrets.
    fn scrubbed(&self, scrubber: &Scrubber) -> String {
        let pretty = |data: &Value| {
            let text = serde_json::to_string_pretty(data).expect("a JSON value can be written");
            scrubber.strike(&format!("{text}\n"))
        };
        match &self.content {
            Content::Text(text) => scrubber.text(text),
            Content::Paths(text) => scrubber.strike(text),
            Content::Settings(lines) => scrubber.settings(lines),
            Content::SettingsOf(members) => pretty(&scrubber.settings_of(members)),
            Content::Data(data) => pretty(&scrubber.data(data)),
        }
    }
}

/// `diags`
pub(crate) async fn diags(connected: Result<&Context, &Failure>, args: &Diags) -> Result<Output, Failure> {
    let is_root = match connected {
        Ok(ctx) => ctx.host.is_root(),
        Err(_) => rustix::process::geteuid().is_root(),
    };
    if !is_root {
        return Err(Failure::not_root());
    }
    let places = Places {
        etc: "/etc/calico".into(),
        run: RUN_DIR.into(),
        log: PathBuf::from(&args.log_dir),
        sys: "/proc/sys/net".into(),
    };
    let sources = Sources { places, programs: &Installed, datastore: keeper::Datastore::of_this_host(), connected };
    let note = |line: &str| match connected {
        Ok(ctx) => ctx.console.note(line),
        Err(_) => crate::context::Console::note(&crate::context::Terminal, line),
    };
    let (path, faults) = collect(&sources, args.output.as_deref(), OffsetDateTime::now_utc(), &note).await?;
    let mut text = format!("Diags saved to {}\n", path.display());
    if faults > 0 {
        text.push_str(&format!("{faults} items are not complete, see diagnostics/faults in it\n"));
    }
    Ok(Output::of(text, serde_json::json!({ "path": path, "faults": faults })))
}

/// Writes the archive; returns its path, and how many items are not complete.
async fn collect(
    sources: &Sources<'_>,
    wanted: Option<&str>,
    now: OffsetDateTime,
    note: &dyn Fn(&str),
) -> Result<(PathBuf, usize), Failure> {
    let stamp = time::macros::format_description!("[year][month][day]_[hour][minute][second]");
    let stamp = now.format(&stamp).expect("a time has all that the format asks for");
    let time = u64::try_from(now.unix_timestamp()).unwrap_or_default();
    let mut archive = Archive::create(wanted, &format!("diags-{stamp}.tar.gz"), time)?;
    note("Collecting diagnostics");
    let scrubber = secrets::of(sources);
    let mut faults = Vec::new();
    let mut names = BTreeSet::new();
    let mut pieces = stream::iter(all(sources)).buffered(AT_ONCE);
    while let Some((title, items)) = pieces.next().await {
        note(&format!("Dumping {title}"));
        for item in items {
            if let Some(fault) = &item.fault {
                faults.push(format!("{}: {}", item.name, scrubber.text(fault)));
            }
            let content = item.scrubbed(&scrubber);
            let is_empty = content.is_empty() && item.fault.is_some();
            if !is_empty && names.insert(item.name.clone()) {
                archive.add(&item.name, &content)?;
            }
        }
    }
    if !faults.is_empty() {
        archive.add("faults", &format!("{}\n", faults.join("\n")))?;
    }
    Ok((archive.finish()?, faults.len()))
}

/// Everything that is collected: for each group what it is called, and its items.
fn all<'a>(sources: &'a Sources<'a>) -> Vec<BoxFuture<'a, (&'static str, Vec<Item>)>> {
    let mut all: Vec<BoxFuture<'a, (&'static str, Vec<Item>)>> = Vec::new();
    for (title, lines) in PROGRAMS {
        all.push(Box::pin(async move { (*title, said(sources.programs, lines).await) }));
    }
    let places = &sources.places;
    all.push(Box::pin(async move { ("sysctls", files::sysctls(&places.sys)) }));
    all.push(Box::pin(async move { ("settings", files::settings(&places.etc)) }));
    all.push(Box::pin(async move { ("BIRD's configuration", files::bird(places)) }));
    all.push(Box::pin(async move { ("logs", files::logs(&places.log)) }));
    let datastore = &sources.datastore;
    all.push(bounded("endpoints of the datastore", "datastore_members.json", keeper::members(datastore)));
    all.push(bounded("datastore of this host", "datastore_kept", keeper::kept(datastore)));
    match sources.connected {
        Err(failure) => all.push(Box::pin(async move {
            let fault = failure.one_line();
            ("datastore", vec![Item::missing("datastore.json", fault)])
        })),
        Ok(ctx) => {
            all.push(bounded("datastore", "datastore.json", async move { datastore::dump(ctx).await }));
            all.push(bounded("containers", "containers.json", async move { service::containers(ctx).await }));
            all.push(bounded("BIRD's sessions", "bird", async move { service::bird(ctx).await }));
            all.push(bounded("status", "status", async move { service::status(ctx).await }));
        }
    }
    all
}

/// A group that may not take for ever.
fn bounded<'a>(
    title: &'static str,
    name: &'static str,
    group: impl Future<Output = Vec<Item>> + Send + 'a,
) -> BoxFuture<'a, (&'static str, Vec<Item>)> {
    Box::pin(async move {
        let items = tokio::time::timeout(PATIENCE, group).await;
        let late = |_| vec![Item::missing(name, format!("no answer within {} s", PATIENCE.as_secs()))];
        (title, items.unwrap_or_else(late))
    })
}

/// What programs are asked, by group. None prints what may be a secret by its purpose: no environments, no command
/// lines, no table of all sysctls (which holds keys).
const PROGRAMS: &[(&str, &[&[&str]])] = &[
    (
        "system",
        &[
            &["date", "-u"],
            &["uname", "-a"],
            &["cat", "/etc/os-release"],
            &["uptime"],
            &["cat", "/proc/meminfo"],
            &["cat", "/proc/modules"],
            &["df", "-h"],
            &["ps", "-eo", "pid,ppid,stat,etime,time,rss,comm"],
        ],
    ),
    (
        "routes",
        &[
            &["ip", "-4", "route", "show", "table", "all"],
            &["ip", "-6", "route", "show", "table", "all"],
            &["ip", "-4", "rule"],
            &["ip", "-6", "rule"],
        ],
    ),
    (
        "interfaces",
        &[
            &["ip", "-d", "-s", "link"],
            &["ip", "-4", "addr"],
            &["ip", "-6", "addr"],
            &["ip", "neigh"],
            &["bridge", "fdb", "show"],
        ],
    ),
    ("sockets", &[&["ss", "--all", "--numeric", "--tcp", "--udp"], &["ss", "--summary"]]),
    ("nftables", &[&["nft", "list", "ruleset"]]),
    (
        "iptables",
        &[
            &["iptables-save", "-c"],
            &["ip6tables-save", "-c"],
            &["iptables-legacy-save", "-c"],
            &["ip6tables-legacy-save", "-c"],
        ],
    ),
    ("ipsets", &[&["ipset", "list"]]),
    (
        "Docker's plugins and networks",
        &[
            &["docker", "network", "ls", "--no-trunc"],
            &["ls", "-l", "/run/docker/plugins"],
            &["ss", "--unix", "--listening", "--processes"],
        ],
    ),
    ("connection tracking", &[&["conntrack", "-S"], &["conntrack", "-C"], &["cat", "/proc/net/stat/nf_conntrack"]]),
    (
        "versions",
        &[&["docker", "version"], &["calico-node", "--version"], &["bird", "--version"], &["nft", "--version"]],
    ),
    (
        "journal",
        &[
            &["journalctl", "-u", "calico-node.service", "--no-pager", "-n", "5000"],
            &["systemctl", "show", "calico-node.service", "-p", "ActiveState,SubState,NRestarts,ExecMainStatus"],
            &["docker", "logs", "--tail", "5000", "calico-node"],
            &["dmesg", "--level=emerg,alert,crit,err,warn"],
        ],
    ),
];

async fn said(programs: &dyn Programs, lines: &[&[&str]]) -> Vec<Item> {
    let mut items = Vec::new();
    for line in lines {
        let said = programs.run(line).await;
        items.push(Item::text(named_after(line), said.text).but(said.fault));
    }
    items
}

/// The file of a program's output: its line with all but letters, digits and dashes left out, as the classic tool
/// names it.
fn named_after(line: &[&str]) -> String {
    let plain = |word: &&str| word.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect::<String>();
    line.iter().map(plain).collect::<Vec<_>>().join("_")
}
