//! The service as a Docker container: image, replacement, start, and waiting until it has started.

use std::{path::Path, time::Duration};

use calico_workload::docker::{
    DockerError, LogLine, Mount, PullProgress, RestartPolicy, ServiceContainer, equivalent_command_line,
};
use futures::{StreamExt, stream::BoxStream};
use tokio::time::{Instant, interval_at, timeout};

use super::{CONTAINER, Caller, PREVIOUS, SECRET, Settings, exists, public_pairs, remember_name, words::Words};
use crate::{
    commands::docker_failure,
    context::Context,
    failure::Failure,
    host::{RUN_DIR, WorkloadLock},
    output::Output,
    undo::Undo,
};

/// What the service says when it has started.
pub(super) const STARTED: &str = "Calico node started successfully";
/// How long that may take. The service itself gives its processes a minute.
const START_PATIENCE: Duration = Duration::from_secs(180);
/// From when on the user sees what the service's processes log.
const SLOW_START: Duration = Duration::from_secs(5);
/// How often Docker is asked whether the container still runs.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// How long the output of a container that has ended may still arrive.
const LAST_WORDS_PATIENCE: Duration = Duration::from_millis(300);

/// Where the files of the datastore's settings are inside the container, by the variable that names them.
const ETCD_FILES: [(&str, &str); 4] = [
    ("ETCD_CA_CERT_FILE", "/etc/calico/certs/ca_cert.crt"),
    ("ETCD_CERT_FILE", "/etc/calico/certs/cert.crt"),
    ("ETCD_KEY_FILE", "/etc/calico/certs/key.pem"),
    ("ETCD_PASSWORD_FILE", "/etc/calico/certs/etcd-password"),
];

/// Where Docker looks for its plugins.
const PLUGINS: &str = "/run/docker/plugins";
/// Where the service sees the host's `/run`. Not Docker's socket alone: a Docker that starts again makes a new one.
const HOST_RUN: &str = "/host/run";

/// The lock of iptables' older kind.
const XTABLES_LOCK: &str = "/run/xtables.lock";

/// Folders that an operator may have filled; the service only reads them.
const OPERATORS_FOLDERS: [&str; 2] = ["/etc/calico/confd/templates", calico_confd::SECRETS_DIR];

/// Starts the container, in place of one that is there. Others may start one when this one has started, also if it is
/// attended.
pub(super) async fn launch(
    ctx: &Context,
    settings: &Settings,
    caller: &Caller,
    alone: WorkloadLock,
) -> Result<Output, Failure> {
    let name = settings.name.clone().unwrap_or_else(|| ctx.node.clone());
    for folder in [settings.log_dir.as_path(), Path::new(RUN_DIR), Path::new("/var/lib/calico")] {
        let made = ctx.runtime.make_folder(folder);
        made.map_err(|error| Failure::new(format!("{} cannot be made.", folder.display())).cause(&error))?;
    }
    if settings.libnetwork != Some(false)
        && let Err(error) = ctx.runtime.make_folder(Path::new(PLUGINS))
    {
        return Err(Failure::new(format!("{PLUGINS} cannot be made.")).cause(&error));
    }
    // So that the service sees a password that is put there while it runs.
    if let Err(error) = ctx.runtime.make_folder(Path::new(calico_confd::SECRETS_DIR)) {
        ctx.console
            .note(&format!("warning: no BGP session can have a password: {}: {error}", calico_confd::SECRETS_DIR));
    }
    make_sure_of_image(ctx, settings).await?;
    let service = service(ctx, settings, caller, &name);
    if has_open_secret(caller) {
        ctx.console.note(
            "warning: whoever may use Docker can read ETCD_PASSWORD in the container's environment; better name a file \
             of mode 0600 that holds it by ETCD_PASSWORD_FILE",
        );
    }

    let _acting = ctx.interrupt.acting();
    let mut undo = Undo::new();
    let mut relay = match replace(ctx, &service, settings, caller, &mut undo).await {
        Ok(relay) => relay,
        Err(failure) => {
            let hint = format!("correct the cause and run calicoctl node again; logs: {}", settings.log_dir.display());
            return Err(undo.roll_back(failure).await.hint(hint));
        }
    };
    if let Err(error) = ctx.runtime.remove(PREVIOUS).await {
        ctx.console.note(&format!("warning: the replaced container {PREVIOUS} could not be removed: {error}"));
    }
    remember_name(ctx, &name);
    drop(alone);
    if !settings.detach {
        return attend(ctx, &mut relay).await;
    }
    Ok(Output::of(String::new(), serde_json::json!({ "node": name })))
}

/// Pulls the image if this host does not have it.
async fn make_sure_of_image(ctx: &Context, settings: &Settings) -> Result<(), Failure> {
    const HINT: &str = "load it from a file: docker load -i calico-node.tar; or name another with --node-image";
    let image = &settings.image;
    if ctx.runtime.has_image(image).await.map_err(docker_failure)? {
        return Ok(());
    }
    if settings.no_pull {
        return Err(Failure::new(format!("Docker has no image {image}, and --no-pull forbids to pull it.")).hint(HINT));
    }
    ctx.console.say(&format!("Pulling Docker image {image}"));
    let console = &ctx.console;
    let mut last = String::new();
    let mut report = |progress: PullProgress| {
        // One line for each change of a layer's state; the bytes in between are for terminals that redraw.
        let line = match &progress.layer {
            Some(layer) => format!("  {layer}: {}", progress.status),
            None => format!("  {}", progress.status),
        };
        if line != last {
            console.note(&line);
            last = line;
        }
    };
    tokio::select! {
        pulled = ctx.runtime.pull(image, &mut report) => pulled.map_err(|error| {
            Failure::new("Unable to download Docker image.").cause(&error).hint(HINT)
        }),
        aborted = ctx.interrupt.wait() => Err(aborted),
    }
}

/// What is created.
fn service(ctx: &Context, settings: &Settings, caller: &Caller, name: &str) -> ServiceContainer {
    let text = |value: Option<String>| value.unwrap_or_default();
    let mut env: Vec<(String, String)> = [
        ("HOSTNAME", name.to_owned()),
        ("IP", text(settings.ip.map(|ip| ip.to_string()))),
        ("IP6", text(settings.ip6.map(|ip| ip.to_string()))),
        ("AS", text(settings.as_number.map(|number| number.to_string()))),
        ("NO_DEFAULT_POOLS", caller.no_default_pools.clone()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let read_write = |path: &str| Mount { source: path.into(), target: path.into(), read_only: false };
    let mut mounts = vec![
        Mount { target: "/var/log/calico".into(), ..read_write(&settings.log_dir.to_string_lossy()) },
        read_write(RUN_DIR),
        read_write("/var/lib/calico"),
    ];
    if exists(ctx, "/lib/modules") {
        mounts.push(Mount { read_only: true, ..read_write("/lib/modules") });
    }
    // Two programs that change iptables' older kind take turns by this file; it is there where one of them ran.
    if exists(ctx, XTABLES_LOCK) {
        mounts.push(read_write(XTABLES_LOCK));
    }
    for folder in OPERATORS_FOLDERS.into_iter().filter(|folder| exists(ctx, folder)) {
        mounts.push(Mount { read_only: true, ..read_write(folder) });
    }
    let libnetwork = settings.libnetwork.map_or("auto", |wanted| if wanted { "true" } else { "false" });
    env.push(("CALICO_LIBNETWORK".into(), libnetwork.into()));
    let mut bare_mounts = Vec::new();
    if settings.libnetwork != Some(false) {
        mounts.push(read_write(PLUGINS));
        bare_mounts.push(Mount { source: "/run".into(), target: HOST_RUN.into(), read_only: true });
        env.push(("CALICO_DOCKER".into(), format!("unix://{HOST_RUN}/docker.sock")));
    }
    for (variable, value) in caller.etcd.env_pairs() {
        match ETCD_FILES.iter().find(|(file, _)| *file == variable) {
            Some((_, target)) => {
                // Docker takes a relative source for the name of a volume.
                let source = std::path::absolute(&value).map_or(value, |path| path.to_string_lossy().into_owned());
                mounts.push(Mount { source, target: (*target).into(), read_only: true });
                env.push((variable.to_owned(), (*target).to_owned()));
            }
            None => env.push((variable.to_owned(), value)),
        }
    }
    ServiceContainer {
        name: CONTAINER.into(),
        image: settings.image.clone(),
        env,
        mounts,
        bare_mounts,
        privileged: true,
        host_network: true,
        restart: RestartPolicy::Always,
        ..ServiceContainer::default()
    }
}

/// True if a password is handed on in the environment.
fn has_open_secret(caller: &Caller) -> bool {
    caller.etcd.env_pairs().len() > public_pairs(&caller.etcd).count()
}

/// The command line that a person would type. A password is taken from that person's environment and not shown.
fn command_line(service: &ServiceContainer, caller: &Caller) -> String {
    if !has_open_secret(caller) {
        return equivalent_command_line(service);
    }
    let mut shown = service.clone();
    for (name, value) in &mut shown.env {
        if name == SECRET {
            value.clear();
        }
    }
    equivalent_command_line(&shown).replace(&format!("{SECRET}="), SECRET)
}

/// Puts the new container in the place of the old one, if there is one, and waits until it has started.
async fn replace<'a>(
    ctx: &'a Context,
    service: &ServiceContainer,
    settings: &Settings,
    caller: &Caller,
    undo: &mut Undo<'a>,
) -> Result<Relay<'a>, Failure> {
    put_aside(ctx, undo).await?;
    ctx.interrupt.check()?;
    ctx.console.say("Running Docker container with the following command:");
    ctx.console.say(&format!("\n{}\n", command_line(service, caller)));
    undo.push(format!("container {CONTAINER}"), async move {
        ctx.runtime.remove(CONTAINER).await.map(|_| ()).map_err(docker_failure)
    });
    let id = ctx.runtime.run(service).await.map_err(docker_failure)?;
    ctx.console.say(&format!("Calico node is running with id: {id}"));
    ctx.console.say("Waiting for successful startup");
    let logs = ctx.runtime.logs(CONTAINER);
    let mut words = Words::new(&*ctx.console);
    if !settings.detach {
        words.show_held();
    }
    let mut relay = Relay { ctx, logs, words };
    relay.until_started().await?;
    Ok(relay)
}

/// Stops a container of the name and keeps it under another, from which a failure brings it back.
pub(super) async fn put_aside<'a>(ctx: &'a Context, undo: &mut Undo<'a>) -> Result<(), Failure> {
    let mut current = ctx.runtime.container(CONTAINER).await.map_err(docker_failure)?;
    if let Some(previous) = ctx.runtime.container(PREVIOUS).await.map_err(docker_failure)? {
        // An earlier replacement was cut short: after it had started the new one, or before.
        if current.is_some() {
            ctx.runtime.remove(PREVIOUS).await.map_err(docker_failure)?;
        } else {
            ctx.runtime.rename(PREVIOUS, CONTAINER).await.map_err(docker_failure)?;
            current = Some(previous);
        }
    }
    let Some(current) = current else { return Ok(()) };
    let was_running = current.running || current.state == "restarting";
    ctx.console.note(&format!("Replacing container {CONTAINER}; endpoints keep working meanwhile."));
    undo.push(format!("the container that was there before, now {PREVIOUS}"), async move {
        if ctx.runtime.container(PREVIOUS).await.map_err(docker_failure)?.is_some() {
            ctx.runtime.rename(PREVIOUS, CONTAINER).await.map_err(docker_failure)?;
        }
        if was_running {
            ctx.runtime.start(CONTAINER).await.map_err(docker_failure)?;
            ctx.console.note("The container that was there before runs again.");
        }
        Ok(())
    });
    ctx.runtime.stop(CONTAINER).await.map_err(docker_failure)?;
    ctx.runtime.rename(CONTAINER, PREVIOUS).await.map_err(docker_failure)
}

/// The output of the service's container on its way to the user: standard output are the steps of starting, the rest is
/// log.
struct Relay<'a> {
    ctx: &'a Context,
    logs: BoxStream<'a, Result<LogLine, DockerError>>,
    words: Words<'a>,
}

impl Relay<'_> {
    /// The next line; `None` when the output has ended. The user has seen it.
    async fn next(&mut self) -> Option<String> {
        match self.logs.next().await? {
            Ok(line) => {
                self.words.hear(&line.text, line.stderr);
                Some(line.text)
            }
            Err(error) => {
                self.words.add_last(format!("its output cannot be followed any more: {error}"));
                None
            }
        }
    }

    /// Until the service says that it has started. Docker's restart policy would start a service that fails again
    /// and again, so the first end counts.
    async fn until_started(&mut self) -> Result<(), Failure> {
        let begin = Instant::now();
        let mut watch = interval_at(begin + WATCH_EVERY, WATCH_EVERY);
        let interrupt = self.ctx.interrupt.clone();
        loop {
            tokio::select! {
                line = self.next() => match line {
                    Some(line) if line.contains(STARTED) => return Ok(()),
                    Some(_) => {}
                    None => return Err(self.ended().await),
                },
                _ = watch.tick() => {
                    let status = self.ctx.runtime.container(CONTAINER).await.map_err(docker_failure)?;
                    if status.is_none_or(|status| !status.running || status.restart_count > 0) {
                        // What it said last may still be on its way.
                        while let Ok(Some(_)) = timeout(LAST_WORDS_PATIENCE, self.next()).await {}
                        return Err(self.ended().await);
                    }
                    if begin.elapsed() >= SLOW_START {
                        self.words.show_held();
                    }
                    if begin.elapsed() >= START_PATIENCE {
                        let seconds = START_PATIENCE.as_secs();
                        return Err(self.words.failure(format!("it has not said {STARTED:?} within {seconds} s")));
                    }
                },
                aborted = interrupt.wait() => return Err(aborted),
            }
        }
    }

    /// The service has ended. Its logs are shown unless it has said itself what is wrong.
    async fn ended(&mut self) -> Failure {
        self.words.show_unless_explained();
        let status = self.ctx.runtime.container(CONTAINER).await.ok().flatten();
        self.words.failure(match status {
            Some(status) if status.exit_code != 0 => {
                format!("it ended with code {}", status.exit_code)
            }
            _ => "it ended".to_owned(),
        })
    }
}

/// `--detach=false`: relays the output until it ends or the user wants to stop; then the service is stopped.
async fn attend(ctx: &Context, relay: &mut Relay<'_>) -> Result<Output, Failure> {
    let ended = loop {
        tokio::select! {
            line = relay.next() => if line.is_none() { break true },
            _ = ctx.interrupt.wait() => break false,
        }
    };
    ctx.console.say("Stopping Calico node...");
    ctx.runtime.stop(CONTAINER).await.map_err(docker_failure)?;
    if ended {
        return Err(relay.words.failure("it ended".to_owned()).context("Calico node has ended."));
    }
    Ok(Output::line("Node stopped"))
}
