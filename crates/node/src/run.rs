//! `calico-node run`: start-up step by step, then supervision until a signal.
//!
//! Two kinds of start. A *first* start prepares the datastore before anything runs; a failed step ends the service
//! with a message and a non-zero code. A *restart* finds BIRD's configuration of an earlier run (the run directory
//! lives until the next boot): then the processes are started at once, so that peers keep our routes, and a datastore
//! that is away is waited for; only a refusal (an address that another host uses) ends the service.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use calico_confd::bird;
use calico_model::AgentHealth;
use calico_startup::{Prepared, Progress, Request, StartupError};
use calico_store::Store;
use futures::FutureExt;
use miette::{IntoDiagnostic, Result, WrapErr, miette};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::{
    RUN_DIR, RunArgs,
    board::Board,
    health,
    lock::HostLock,
    process::{stop_signal, store},
    supervisor::{Service, StopWith, Supervised, Surroundings, felix_program, own_program},
};

/// How long the processes may take to be ready before a first start counts as failed, and a restart is told of.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// How much longer systemd is asked to wait at each step of the start; more than any step takes.
const START_EXTENSION: Duration = Duration::from_secs(120);
/// How often BIRD is asked whether it is well.
const BIRD_POLL: Duration = Duration::from_secs(2);
/// First and longest wait between two tries to reach the datastore on a restart.
const DATASTORE_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

pub(crate) async fn run(args: RunArgs) -> Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        return Err(miette!(
            help = "run it as root",
            "calico-node changes routes, rules and interfaces: it needs root"
        ));
    }
    let node = calico_startup::node_name(args.name.as_deref()).into_diagnostic()?;
    let run_dir = PathBuf::from(RUN_DIR);
    std::fs::create_dir_all(&run_dir)
        .into_diagnostic()
        .wrap_err_with(|| format!("the run directory {RUN_DIR} cannot be made"))?;
    let _lock = HostLock::take(&run_dir.join("calico-node.lock"))?;
    let listener = health::listen(args.health_port).await?;
    let bird = calico_startup::find_bird().map_err(explain)?;
    calico_startup::check_bgp_port().map_err(explain)?;
    let store = store().into_diagnostic()?;
    let request = request(&args, &node)?;

    let board = Arc::new(Board::new(&node, &["bird", "confd", "felix"]));
    let server = tokio::spawn(health::serve(listener, board.clone()));
    let surroundings = Surroundings {
        board: board.clone(),
        log_dir: (args.log_dir != "none").then(|| PathBuf::from(&args.log_dir)),
        bird_socket: run_dir.join("bird.ctl"),
    };
    let outcome = serve(&store, &request, &node, &args, &bird, &surroundings).await;
    server.abort();
    outcome
}

fn request(args: &RunArgs, node: &str) -> Result<Request> {
    let given = |variable: &str| match variable {
        "HOSTNAME" => Some(node.to_owned()),
        "IP" => args.ip.clone(),
        "IP6" => args.ip6.clone(),
        "AS" => args.as_number.clone(),
        "NO_DEFAULT_POOLS" => args.no_default_pools.clone(),
        _ => None,
    };
    Request::from_environment(given).map_err(explain)
}

/// A start-up error with what helps as the hint.
fn explain(error: StartupError) -> miette::Report {
    match error.way_out() {
        Some(way_out) => miette!(help = way_out, "{error}"),
        None => miette!("{error}"),
    }
}

/// Starts, waits for the signal, stops in order.
async fn serve(
    store: &Store,
    request: &Request,
    node: &str,
    args: &RunArgs,
    bird: &Path,
    surroundings: &Surroundings,
) -> Result<ExitCode> {
    let restart = Path::new(RUN_DIR).join("bird.cfg").exists();
    still_starting();
    if !restart {
        // As the first process of a container we would not be ended by a signal that nobody waits for.
        tokio::select! {
            prepared = prepare(store, request) => prepared.map_err(|failure| failure.report)?,
            () = stop_signal() => return Ok(ExitCode::SUCCESS),
        };
    }
    let services = start_services(args, node, bird, surroundings);
    let poller = tokio::spawn(poll_bird(surroundings.clone()));
    let tunnels = tokio::spawn({
        let (store, node) = (store.clone(), node.to_owned());
        async move { calico_startup::keep_tunnel_addresses(&store, &node).await }
    });
    let work = async {
        if restart {
            prepare_patiently(store, request).await?;
        }
        wait_until_ready(&surroundings.board, restart).await?;
        // calicoctl waits for exactly this line.
        println!("Calico node started successfully");
        sd_notify::notify(&[sd_notify::NotifyState::Ready]).into_diagnostic()?;
        std::future::pending::<Result<()>>().await
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        () = stop_signal() => Ok(()),
    };
    info!("stopping; rules and routes stay in force");
    poller.abort();
    tunnels.abort();
    for service in services {
        service.stop().await;
    }
    outcome.map(|()| ExitCode::SUCCESS)
}

/// In the order of stopping: confd first, so that nobody reconfigures a BIRD that ends; felix last.
fn start_services(args: &RunArgs, node: &str, bird: &Path, surroundings: &Surroundings) -> Vec<Supervised> {
    let template = vec!["--bird-template".into(), args.bird_template.clone().into_os_string()];
    let services = [
        agent("confd", own_program, &["confd"], node, template),
        bird_service(bird.to_owned(), surroundings.bird_socket.clone()),
        agent("felix", felix_program, &[], node, Vec::new()),
    ];
    services.into_iter().map(|service| Supervised::start(service, surroundings.clone())).collect()
}

/// An agent: a program, asked for anew at each start, with the words that make it this one.
fn agent(name: &'static str, program: fn() -> PathBuf, words: &[&str], node: &str, extra: Vec<OsString>) -> Service {
    let mut arguments: Vec<OsString> = words.iter().map(Into::into).collect();
    arguments.extend(["--name".into(), node.into()]);
    arguments.extend(extra);
    let command = move || {
        let command = std::iter::once(program().into_os_string()).chain(arguments.iter().cloned()).collect();
        std::future::ready(command).boxed()
    };
    Service { name, command: Box::new(command), gate: None, reports: true, stop_with: StopWith::Terminate }
}

fn bird_service(binary: PathBuf, socket: PathBuf) -> Service {
    let config = Path::new(RUN_DIR).join("bird.cfg");
    let gate = Some(config.clone());
    let command = move || {
        let start =
            bird::Start { binary: binary.clone(), config: config.clone(), socket: socket.clone(), recover: true };
        async move {
            let recover = bird::needs_recovery().await.unwrap_or_else(|error| {
                // Recovering without need costs seconds; not recovering with need costs packets.
                warn!(%error, "bird starts in recovery");
                true
            });
            let (program, arguments) = bird::command_line(&bird::Start { recover, ..start });
            std::iter::once(program.into_os_string()).chain(arguments).collect()
        }
        .boxed()
    };
    Service { name: "bird", command: Box::new(command), gate, reports: false, stop_with: StopWith::GracefulRestart }
}

/// A start-up step that failed.
struct StepFailure {
    report: miette::Report,
    /// The datastore did not answer; later it may.
    unreachable: bool,
}

async fn prepare(store: &Store, request: &Request) -> Result<Prepared, StepFailure> {
    let mut say = |progress: Progress| match progress {
        // In a log a step is one line: what came of it.
        Progress::Started { .. } => {}
        told => println!("{told}"),
    };
    calico_startup::prepare(store, request, &mut say)
        .await
        .map_err(|error| StepFailure { unreachable: error.is_unreachable(), report: explain(error) })
}

/// As [`prepare`], but a datastore that is away is waited for.
async fn prepare_patiently(store: &Store, request: &Request) -> Result<()> {
    let (mut wait, longest) = DATASTORE_RETRY;
    loop {
        still_starting();
        match prepare(store, request).await {
            Ok(_) => return Ok(()),
            Err(failure) if failure.unreachable => {
                warn!(error = %failure.report, ?wait, "the node's record is not refreshed; trying again");
                sleep(wait).await;
                wait = (wait * 2).min(longest);
            }
            Err(failure) => return Err(failure.report),
        }
    }
}

/// Tells systemd, if it started us, that a start which takes long goes on: it would end a service that waits for its
/// datastore, and with it a BIRD that keeps the host's routes announced.
fn still_starting() {
    let microseconds = u32::try_from(START_EXTENSION.as_micros()).expect("two minutes fit");
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::ExtendTimeoutUsec(microseconds)]) {
        warn!(%error, "systemd could not be told that the start goes on");
    }
}

/// Waits until all processes are ready. A first start that is not in time has failed; a restart leaves the processes
/// at work, since the host may have been in service for long and what they wait for may come.
async fn wait_until_ready(board: &Board, restart: bool) -> Result<()> {
    loop {
        still_starting();
        if timeout(READY_PATIENCE, ready(board)).await.is_ok() {
            return Ok(());
        }
        let reason = not_ready(board);
        if !restart {
            return Err(miette!(help = "their logs are above and in the log folder", "{reason}"));
        }
        warn!("{reason}; waiting");
    }
}

async fn ready(board: &Board) {
    loop {
        let changed = board.changed();
        if board.health(Instant::now()).ready {
            return;
        }
        changed.await;
    }
}

fn not_ready(board: &Board) -> String {
    let components = board.health(Instant::now()).components;
    let waiting: Vec<String> = components
        .iter()
        .filter(|component| !component.ready)
        .map(|component| format!("{}: {}", component.name, component.reason))
        .collect();
    format!("not ready after {} s: {}", READY_PATIENCE.as_secs(), waiting.join("; "))
}

/// Asks BIRD how it is for as long as the service runs. Each question has a bound, so a hung BIRD shows as silent.
async fn poll_bird(surroundings: Surroundings) {
    loop {
        if surroundings.board.pid("bird").is_some() {
            let ask = async {
                let mut client = bird::Client::connect(&surroundings.bird_socket).await?;
                client.status().await
            };
            match timeout(BIRD_POLL, ask).await {
                Ok(Ok(status)) => surroundings
                    .board
                    .reported("bird", AgentHealth { ready: true, reason: status.text, ..AgentHealth::default() }),
                Ok(Err(error)) => surroundings.board.unheard("bird", &format!("its control socket: {error}")),
                Err(_) => {
                    let seconds = BIRD_POLL.as_secs();
                    surroundings
                        .board
                        .unheard("bird", &format!("its control socket gives no answer within {seconds} s"));
                }
            }
        }
        let well = surroundings.board.is_ready("bird", Instant::now());
        sleep(if !well { BIRD_POLL / 20 } else { BIRD_POLL }).await;
    }
}
