//! `calicoctl node`: starts the service on this host.
//!
//! Everything that can be checked is checked before anything changes: the arguments, root, Docker, the datastore,
//! the image, and that no service runs on this host already in another way. A running container is replaced: it is
//! stopped and kept aside until the new one has started, and comes back if the new one does not. Two never run.

mod launch;
mod settings;
mod systemd;
mod words;

use std::path::Path;

use calico_startup::{KEEPS_DATASTORE, Progress, Request, StartupError};
use calico_store::{ConnectOptions, Source};

pub(crate) use settings::{Runtime, Settings};

use crate::{
    args::{NodeRun, NodeStart},
    context::Context,
    failure::{Failure, sentence},
    output::Output,
};

/// The container of the service.
pub(crate) const CONTAINER: &str = "calico-node";
/// The container that is being replaced, while it is.
pub(crate) const PREVIOUS: &str = "calico-node-previous";

/// What the environment of calicoctl says about starting.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The datastore, to hand on.
    pub(crate) etcd: ConnectOptions,
    /// `NO_DEFAULT_POOLS`
    pub(crate) no_default_pools: String,
    /// `CALICO_CTL_CONTAINER`: calicoctl itself runs in a container and leaves the host's kernel alone.
    pub(crate) in_container: bool,
}

impl Caller {
    /// The service is to keep the datastore itself; it need not be there yet.
    fn keeps_datastore(&self) -> bool {
        *self.etcd.source() == Source::Embedded
    }

    /// Whether the default pools are not wanted, read as the service reads it.
    fn no_default_pools(&self) -> Result<bool, Failure> {
        let variable = |name: &str| (name == "NO_DEFAULT_POOLS").then(|| self.no_default_pools.clone());
        let request = Request::from_environment(variable)
            .map_err(|error| Failure::new(sentence(&error)).hint("say true or false, or unset it"))?;
        Ok(request.no_default_pools)
    }
}

/// `node run`
pub(crate) async fn run(ctx: &Context, args: &NodeRun, caller: &Caller) -> Result<Output, Failure> {
    let mut caller = caller.clone();
    if args.no_default_ippools {
        "true".clone_into(&mut caller.no_default_pools);
    }
    start(ctx, &args.start, &caller).await
}

/// `node`
pub(crate) async fn start(ctx: &Context, args: &NodeStart, caller: &Caller) -> Result<Output, Failure> {
    let mut settings = Settings::parse(args)?;
    let no_default_pools = caller.no_default_pools()?;
    ctx.require_root()?;
    // Two at once would each take the other's container for the one to replace, and both fail.
    let alone = ctx.host.lock(CONTAINER).await?;
    settings.runtime = systemd::choose(ctx, &settings).await?;
    match settings.runtime {
        Runtime::Docker => check_container(ctx).await?,
        Runtime::Systemd => systemd::check_unit(ctx).await?,
        Runtime::Auto | Runtime::None => {}
    }
    if !caller.in_container {
        // The service in its container would find the port taken too, but not see by whom.
        ctx.runtime.check_bgp_port().map_err(|error| unprepared(Failure::new(sentence(&error)), &error))?;
    }
    if caller.keeps_datastore() {
        ctx.console.say(KEEPS_DATASTORE);
    } else {
        check_datastore(ctx).await?;
    }
    if !caller.in_container {
        for warning in ctx.runtime.prepare_kernel().await? {
            ctx.console.note(&format!("warning: {warning}"));
        }
    }
    if settings.runtime == Runtime::None {
        return prepare_only(ctx, &settings, caller, no_default_pools).await;
    }
    let stopped_bird = !caller.in_container && systemd::stop_stock_bird(ctx).await?;
    let outcome = match settings.runtime {
        Runtime::Systemd => systemd::launch(ctx, &settings, caller, alone).await,
        _ => launch::launch(ctx, &settings, caller, alone).await,
    };
    match outcome {
        Err(failure) if stopped_bird => Err(systemd::start_stock_bird(ctx, failure).await),
        outcome => outcome,
    }
}

/// Refuses if Docker cannot be used, or if a service runs on this host that is not our container.
async fn check_container(ctx: &Context) -> Result<(), Failure> {
    let container = ctx.runtime.container(CONTAINER).await.map_err(super::docker_failure)?;
    let previous = ctx.runtime.container(PREVIOUS).await.map_err(super::docker_failure)?;
    let runs_in_ours = [&container, &previous].into_iter().flatten().any(|container| container.running);
    if !runs_in_ours && let Some(health) = ctx.runtime.health().await? {
        return Err(Failure::new(format!(
            "calico-node already runs on this host, outside Docker, as node {}.",
            health.node
        ))
        .hint("one is enough; to use the container instead, stop it first: systemctl disable --now calico-node"));
    }
    Ok(())
}

/// Refuses if the datastore does not answer. What it holds is the service's business.
async fn check_datastore(ctx: &Context) -> Result<(), Failure> {
    ctx.store.kv().get("/calico/resources/v3/projectcalico.org/clusterinformations/default").await?;
    Ok(())
}

/// `--runtime=none`: does what the service does first, and says how to run the rest.
async fn prepare_only(
    ctx: &Context,
    settings: &Settings,
    caller: &Caller,
    no_default_pools: bool,
) -> Result<Output, Failure> {
    let name = settings.name.clone().unwrap_or_else(|| ctx.node.clone());
    let request = Request {
        name: Some(name),
        ip: settings.ip,
        ip6: settings.ip6,
        as_number: settings.as_number,
        no_default_pools,
    };
    if caller.keeps_datastore() {
        return Ok(say_only(&request, caller));
    }
    let _acting = ctx.interrupt.acting();
    let console = &ctx.console;
    let mut report = |progress: Progress| match progress {
        // Told with its cause at the end.
        Progress::Failed { .. } | Progress::Started { .. } => {}
        progress => console.note(&progress.to_string()),
    };
    let prepared = match ctx.runtime.prepare(&ctx.store, &request, &mut report).await {
        Ok(prepared) => prepared,
        Err(error) => return Err(unprepared(Failure::new("Calico node could not be prepared.").cause(&error), &error)),
    };
    remember_name(ctx, &prepared.node);
    let addresses = match prepared.ipv6 {
        Some(ipv6) => format!("{} and {ipv6}", prepared.ipv4),
        None => prepared.ipv4.to_string(),
    };
    let mut words = vec![format!("HOSTNAME={}", prepared.node), format!("IP={}", prepared.ipv4.addr())];
    words.extend(prepared.ipv6.map(|ipv6| format!("IP6={}", ipv6.addr())));
    words.extend(prepared.as_number.map(|number| format!("AS={number}")));
    words.extend(no_default_pools.then(|| "NO_DEFAULT_POOLS=true".to_owned()));
    words.extend(public_pairs(&caller.etcd).map(|(name, value)| format!("{name}={}", quoted(&value))));
    let command = format!("env {} calico-node run", words.join(" "));
    let text = format!(
        "The datastore is prepared for node {} ({addresses}). Nothing runs yet; run, as root:\n\n    {command}\n\n",
        prepared.node
    );
    let data = serde_json::json!({
        "node": prepared.node,
        "ipv4": prepared.ipv4,
        "ipv6": prepared.ipv6,
        "command": command,
    });
    Ok(Output::of(text, data))
}

/// What to run where the service keeps the datastore, which it prepares when it has started it.
fn say_only(request: &Request, caller: &Caller) -> Output {
    let node = request.name.clone().unwrap_or_default();
    let mut words = vec![format!("HOSTNAME={node}")];
    words.extend(request.ip.map(|ip| format!("IP={ip}")));
    words.extend(request.ip6.map(|ip| format!("IP6={ip}")));
    words.extend(request.as_number.map(|number| format!("AS={number}")));
    words.extend(request.no_default_pools.then(|| "NO_DEFAULT_POOLS=true".to_owned()));
    words.extend(public_pairs(&caller.etcd).map(|(name, value)| format!("{name}={}", quoted(&value))));
    let command = format!("env {} calico-node run", words.join(" "));
    let text = format!("Nothing runs yet; run, as root:\n\n    {command}\n\n");
    Output::of(text, serde_json::json!({ "node": node, "command": command }))
}

/// A failure with what helps against its cause.
fn unprepared(failure: Failure, error: &StartupError) -> Failure {
    match error.way_out() {
        Some(way_out) => failure.hint(way_out),
        None => failure,
    }
}

/// The datastore's settings that may be shown.
fn public_pairs(etcd: &ConnectOptions) -> impl Iterator<Item = (&'static str, String)> {
    etcd.env_pairs().into_iter().filter(|(name, _)| *name != SECRET)
}

/// The one variable that is never shown.
const SECRET: &str = "ETCD_PASSWORD";

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-./:,=@%+".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// Keeps the name for later commands. Without the file they ask the service itself, so a failure is only told.
fn remember_name(ctx: &Context, name: &str) {
    if let Err(error) = ctx.runtime.remember_name(name) {
        ctx.console.note(&format!("warning: {} cannot be written: {error}", crate::context::NAME_FILE));
    }
}

/// True if the folder or file exists on this machine.
fn exists(ctx: &Context, path: &str) -> bool {
    ctx.runtime.exists(Path::new(path))
}

#[cfg(test)]
mod tests;
