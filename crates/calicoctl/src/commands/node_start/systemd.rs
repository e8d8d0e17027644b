//! The service as a unit of systemd: settings, start, and waiting until it has started.
//!
//! What was given is written into the unit's settings file, where the operator's own settings stand too; what was left
//! out stays as the file says. A start that fails puts back the settings, whether the unit is enabled, and what ran
//! before: the unit with its old settings, the container, Debian's BIRD.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use calico_store::Source;
use futures::StreamExt;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::{
    Caller, PREVIOUS, Settings,
    launch::{STARTED, put_aside},
    remember_name,
    settings::Runtime,
    words::Words,
};
use crate::{
    commands::docker_failure,
    context::Context,
    environment::edit,
    failure::Failure,
    host::WorkloadLock,
    output::Output,
    systemd::{SETTINGS, UNIT, UnitStatus},
    undo::Undo,
};

/// Debian's own BIRD.
const BIRD_UNIT: &str = "bird.service";
/// How long a start may take. The service gives its processes a minute, and its datastore as long as it asks for.
const PATIENCE: Duration = Duration::from_secs(180);
/// From when on the user sees what the service's processes log.
const SLOW_START: Duration = Duration::from_secs(5);
/// How often systemd is asked how the unit is.
const WATCH_EVERY: Duration = Duration::from_millis(200);
/// How long what the service said last may be on its way through the journal.
const LAST_WORDS_PATIENCE: Duration = Duration::from_millis(500);
/// Folders that the unit hides from the service.
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

/// What runs the service: as asked for; with `auto` the unit where it is installed, unless an option says that a
/// container is meant.
pub(super) async fn choose(ctx: &Context, settings: &Settings) -> Result<Runtime, Failure> {
    match settings.runtime {
        Runtime::Auto if settings.means_container() => Ok(Runtime::Docker),
        Runtime::Auto => Ok(ctx.runtime.unit(UNIT).await?.map_or(Runtime::Docker, |_| Runtime::Systemd)),
        Runtime::Systemd if ctx.runtime.unit(UNIT).await?.is_none() => {
            Err(Failure::new(format!("There is no unit {UNIT} on this host."))
                .because("systemd does not run here, or the package is not installed, or the unit is masked")
                .hint("install the package: apt install ./calico_*.deb; or use --runtime=docker"))
        }
        chosen => Ok(chosen),
    }
}

/// Refuses if a service runs on this host that is neither our unit nor our container.
pub(super) async fn check_unit(ctx: &Context) -> Result<(), Failure> {
    let is_up = ctx.runtime.unit(UNIT).await?.is_some_and(|unit| unit.is_up());
    let in_container = match ctx.runtime.container(super::CONTAINER).await {
        Ok(container) => container.is_some_and(|container| container.running),
        Err(error) if error.is_not_running() => false,
        Err(error) => return Err(docker_failure(error)),
    };
    match ctx.runtime.health().await? {
        Some(health) if !is_up && !in_container => Err(Failure::new(format!(
            "calico-node already runs on this host, neither as a unit nor as a container, as node {}.",
            health.node
        ))
        .hint("end it where it was started; /var/run/calico/calico-node.lock names its process")),
        _ => Ok(()),
    }
}

/// Stops Debian's own BIRD, which would remove the routes of ours. True if it ran.
///
/// # Errors
/// It is at work for somebody: its configuration is not the one it came with.
pub(super) async fn stop_stock_bird(ctx: &Context) -> Result<bool, Failure> {
    if !ctx.runtime.unit(BIRD_UNIT).await?.is_some_and(|unit| unit.is_up()) {
        return Ok(false);
    }
    if !ctx.runtime.has_stock_bird() {
        return Err(Failure::new(format!("{BIRD_UNIT} runs with a configuration of this host's own."))
            .because("calico-node runs a BIRD too, and two in one kernel remove each other's routes")
            .hint(format!(
                "stop it: systemctl disable --now {BIRD_UNIT}; what it did can become a template of calico-node's, \
                 /etc/calico/confd/templates/bird.cfg.j2"
            )));
    }
    ctx.console.note(&format!("Stopping {BIRD_UNIT}, which has no work here: calico-node runs a BIRD of its own."));
    ctx.runtime.systemctl(&["stop", BIRD_UNIT]).await?;
    Ok(true)
}

/// Starts Debian's BIRD again, after a start of ours that failed.
pub(super) async fn start_stock_bird(ctx: &Context, failure: Failure) -> Failure {
    match ctx.runtime.systemctl(&["start", BIRD_UNIT]).await {
        Ok(()) => failure,
        Err(error) => failure.because(format!("{BIRD_UNIT}, which ran before, stays down: {}", error.one_line())),
    }
}

/// Starts the unit, in place of what serves this host now.
pub(super) async fn launch(
    ctx: &Context,
    settings: &Settings,
    caller: &Caller,
    alone: WorkloadLock,
) -> Result<Output, Failure> {
    let name = settings.name.clone().unwrap_or_else(|| ctx.node.clone());
    let before = ctx.runtime.read_settings().map_err(|error| {
        Failure::new(format!("{SETTINGS} cannot be read.")).cause(&error).hint("correct it, or remove it to start anew")
    })?;
    let given = given(settings, caller, &name)?;
    let text = edit(before.as_deref().unwrap_or_default(), &given.set, |variable| {
        given.replaces_datastore && variable.starts_with("ETCD_")
    });
    let _acting = ctx.interrupt.acting();
    let mut undo = Undo::new();
    if let Err(failure) = replace(ctx, before, &text, &given, &mut undo).await {
        return Err(undo.roll_back(failure).await.hint(format!("the whole story: journalctl --unit={UNIT}")));
    }
    match ctx.runtime.remove(PREVIOUS).await {
        Err(error) if !error.is_not_running() => {
            ctx.console.note(&format!("warning: the replaced container {PREVIOUS} could not be removed: {error}"));
        }
        _ => {}
    }
    remember_name(ctx, &name);
    drop(alone);
    Ok(Output::of(String::new(), serde_json::json!({ "node": name, "unit": UNIT })))
}

/// What goes into the settings file.
struct Given {
    set: Vec<(&'static str, String)>,
    /// What the file says of a datastore does not hold any more.
    replaces_datastore: bool,
}

/// What was given on the command line and in the environment.
fn given(settings: &Settings, caller: &Caller, name: &str) -> Result<Given, Failure> {
    let mut set: Vec<(&'static str, String)> = Vec::new();
    // A name that is the host's own needs no line.
    if settings.name.is_some() || calico_startup::node_name(None).ok().as_deref() != Some(name) {
        set.push(("HOSTNAME", name.to_owned()));
    }
    set.extend(settings.ip.map(|ip| ("IP", ip.to_string())));
    set.extend(settings.ip6.map(|ip| ("IP6", ip.to_string())));
    set.extend(settings.as_number.map(|number| ("AS", number.to_string())));
    if !caller.no_default_pools.is_empty() {
        set.push(("NO_DEFAULT_POOLS", caller.no_default_pools.clone()));
    }
    if settings.log_dir != Path::new("/var/log/calico") {
        set.push(("CALICO_LOG_DIR", settings.log_dir.to_string_lossy().into_owned()));
    }
    set.extend(settings.libnetwork.map(|wanted| ("CALICO_LIBNETWORK", wanted.to_string())));
    let replaces_datastore = matches!(caller.etcd.source(), Source::Environment);
    if replaces_datastore {
        for (variable, value) in caller.etcd.env_pairs() {
            let value = if variable.ends_with("_FILE") { visible_file(variable, &value)? } else { value };
            set.push((variable, value));
        }
    }
    match set.iter().find(|(_, value)| value.contains(char::is_control)) {
        Some((variable, _)) => {
            Err(Failure::new(format!("{variable} holds a line break, or another control character."))
                .hint(format!("{SETTINGS} has one line for each setting; give it without")))
        }
        None => Ok(Given { set, replaces_datastore }),
    }
}

/// The path from the root. Refuses files that the unit hides from the service.
fn visible_file(variable: &str, value: &str) -> Result<String, Failure> {
    let path = std::path::absolute(value).unwrap_or_else(|_| value.into());
    if HIDDEN.iter().any(|folder| path.starts_with(folder)) {
        return Err(Failure::new(format!("The service cannot read {variable}={}.", path.display()))
            .because(format!("its unit hides {} from it", HIDDEN.join(", ")))
            .hint("put the file into /etc/calico/certs, mode 0600, and name it there"));
    }
    Ok(path.to_string_lossy().into_owned())
}

/// Writes the settings, enables the unit and puts it in the place of what serves this host.
async fn replace<'a>(
    ctx: &'a Context,
    before: Option<String>,
    text: &str,
    given: &Given,
    undo: &mut Undo<'a>,
) -> Result<(), Failure> {
    let old = unit(ctx).await?;
    let was_up = old.is_up();
    put_aside_container(ctx, undo).await?;
    undo.push(format!("the unit {UNIT}"), async move {
        if !was_up {
            return ctx.runtime.systemctl(&["stop", UNIT]).await;
        }
        ctx.runtime.systemctl(&["restart", UNIT]).await?;
        ctx.console.note("The service runs again as it did before.");
        Ok(())
    });
    if before.as_deref() != Some(text) && !given.set.is_empty() {
        let written = ctx.runtime.write_settings(Some(text));
        written.map_err(|error| Failure::new(format!("{SETTINGS} cannot be written.")).cause(&error))?;
        undo.push(format!("the changed {SETTINGS}"), async move {
            let written = ctx.runtime.write_settings(before.as_deref());
            written.map_err(|error| Failure::new(error.to_string()))
        });
        let names: Vec<&str> = given.set.iter().map(|(name, _)| *name).collect();
        ctx.console.say(&format!("Wrote {} to {SETTINGS}", names.join(", ")));
    }
    if !old.enabled {
        ctx.runtime.systemctl(&["--quiet", "enable", UNIT]).await?;
        undo.push(format!("the enabled unit {UNIT}"), async move {
            ctx.runtime.systemctl(&["--quiet", "disable", UNIT]).await
        });
    }
    ctx.interrupt.check()?;
    ctx.console.say(&format!("{} the unit {UNIT}", if was_up { "Restarting" } else { "Starting" }));
    let since = SystemTime::now();
    ctx.runtime.systemctl(&["--no-block", "restart", UNIT]).await?;
    ctx.console.say("Waiting for successful startup");
    Watch { ctx, words: Words::new(&*ctx.console), told: false }.until_started(since, &old.invocation).await
}

async fn unit(ctx: &Context) -> Result<UnitStatus, Failure> {
    let unit = ctx.runtime.unit(UNIT).await?;
    unit.ok_or_else(|| Failure::new(format!("The unit {UNIT} is gone.")).hint("was the package removed meanwhile?"))
}

/// A container that serves this host gives way, and comes back if the unit does not start.
async fn put_aside_container<'a>(ctx: &'a Context, undo: &mut Undo<'a>) -> Result<(), Failure> {
    match ctx.runtime.container(super::CONTAINER).await {
        Ok(_) => put_aside(ctx, undo).await,
        // Without Docker there is none.
        Err(error) if error.is_not_running() => Ok(()),
        Err(error) => Err(docker_failure(error)),
    }
}

/// The service's words on their way through the journal to the user.
struct Watch<'a> {
    ctx: &'a Context,
    words: Words<'a>,
    /// The service has said that it started.
    told: bool,
}

impl Watch<'_> {
    /// Until systemd says that the start which followed `before` is done. It would start a service that fails again and
    /// again, so the first end counts.
    async fn until_started(mut self, since: SystemTime, before: &str) -> Result<(), Failure> {
        let begin = Instant::now();
        let mut lines = self.ctx.runtime.journal(UNIT, since);
        let mut journal_goes_on = true;
        let mut watch = interval(WATCH_EVERY);
        watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                line = lines.next(), if journal_goes_on => match line {
                    Some(line) => self.hear(&line),
                    None => journal_goes_on = false,
                },
                _ = watch.tick() => {
                    let status = unit(self.ctx).await?;
                    let outcome = outcome(&status, before);
                    if outcome.is_some() {
                        // What it said last may still be on its way.
                        let rest = async {
                            while !self.told && let Some(line) = lines.next().await {
                                self.hear(&line);
                            }
                        };
                        let _ = timeout(LAST_WORDS_PATIENCE, rest).await;
                    }
                    match outcome {
                        Some(true) => {
                            if !self.told {
                                self.ctx.console.say(STARTED);
                            }
                            return Ok(());
                        }
                        Some(false) => return Err(self.ended(&status)),
                        None => {}
                    }
                    if begin.elapsed() >= SLOW_START {
                        self.words.show_held();
                    }
                    if begin.elapsed() >= PATIENCE {
                        let seconds = PATIENCE.as_secs();
                        return Err(self.words.failure(format!("it has not started within {seconds} s")));
                    }
                },
                aborted = self.ctx.interrupt.wait() => return Err(aborted),
            }
        }
    }

    fn hear(&mut self, line: &str) {
        self.words.hear(line, is_log(line));
        self.told |= line.contains(STARTED);
    }

    /// The service has ended. Its logs are shown unless it has said itself what is wrong.
    fn ended(&mut self, status: &UnitStatus) -> Failure {
        self.words.show_unless_explained();
        self.words.failure(match status.exit_code {
            0 => "it ended".to_owned(),
            code => format!("it ended with code {code}"),
        })
    }
}

/// Whether the start that followed the invocation `before` has succeeded; `None` while it is under way.
fn outcome(status: &UnitStatus, before: &str) -> Option<bool> {
    if status.invocation == before {
        return None;
    }
    match status.active.as_str() {
        _ if status.restarts > 0 || status.sub == "auto-restart" => Some(false),
        "active" => Some(true),
        "failed" | "inactive" => Some(false),
        _ => None,
    }
}

/// True for a line of a log, which begins with a time, or with the name of a process and a time.
fn is_log(line: &str) -> bool {
    let rest = line.split_once(": ").map_or(line, |(name, rest)| if name.contains(' ') { line } else { rest });
    let digits = |range: std::ops::Range<usize>| rest.get(range).is_some_and(|d| d.bytes().all(|b| b.is_ascii_digit()));
    digits(0..4) && rest.get(4..5) == Some("-") && digits(5..7) && rest.get(7..8) == Some("-") && digits(8..10)
}

#[cfg(test)]
mod tests;
