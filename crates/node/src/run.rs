//! `calico-node run`: start-up step by step, then supervision until a signal.
//!
//! Two kinds of start. A *first* start prepares the datastore before anything runs; a failed step ends the service
//! with a message and a non-zero code. A *restart* finds BIRD's configuration of an earlier run (the run directory
//! lives until the next boot): then the processes are started at once, so that peers keep our routes, and a datastore
//! that is away is waited for; only a refusal (an address that another host uses) ends the service.
//!
//! A datastore that this host keeps itself comes before all that and goes after it. When the datastore moves, the agents
//! are started anew and everything else stays.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use calico_confd::bird;
use calico_model::AgentHealth;
use calico_startup::{Prepared, Progress, Request, StartupError};
use calico_store::Store;
use miette::{IntoDiagnostic, Result, WrapErr, miette};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::{
    RUN_DIR, RunArgs,
    board::{Board, Component},
    crew::Crew,
    health, libnetwork,
    lock::HostLock,
    place::Place,
    process::stop_signal,
    supervisor::Surroundings,
};

/// How long the processes may take to be ready before a first start counts as failed, and a restart is told of.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// How much longer systemd is asked to wait at each step of the start; more than any step takes.
const START_EXTENSION: Duration = Duration::from_secs(120);
/// How often BIRD is asked whether it is well.
const BIRD_POLL: Duration = Duration::from_secs(2);
/// First and longest wait between two tries to reach the datastore on a restart.
const DATASTORE_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How long the agents of a restart wait for the datastore of this host: they run without one, but sooner with it.
const DATASTORE_HEAD_START: Duration = Duration::from_secs(2);

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
    let place = Place::find()?;
    let request = request(&args, &node)?;
    let plugin = libnetwork::Wanted::parse(&args.libnetwork)?;

    let board = Arc::new(Board::new(&node, &["bird", "confd", "felix"], plugin.optional()));
    let server = tokio::spawn(health::serve(listener, board.clone()));
    let surroundings = Surroundings {
        board: board.clone(),
        log_dir: (args.log_dir != "none").then(|| PathBuf::from(&args.log_dir)),
        bird_socket: run_dir.join("bird.ctl"),
    };
    let mut crew = Crew::new(&args, &node, &bird, plugin, surroundings.clone());
    let poller = tokio::spawn(poll_bird(surroundings));
    // As the first process of a container we would not be ended by a signal that nobody waits for.
    let outcome = tokio::select! {
        outcome = live(&mut crew, place, &request, &board) => outcome,
        () = stop_signal() => Ok(()),
    };
    info!("stopping; rules and routes stay in force");
    poller.abort();
    crew.stop().await;
    server.abort();
    outcome.map(|()| ExitCode::SUCCESS)
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

/// The service's life, which only a failure ends.
async fn live(crew: &mut Crew, mut place: Place, request: &Request, board: &Board) -> Result<()> {
    let is_restart = Path::new(RUN_DIR).join("bird.cfg").exists();
    still_starting();
    if crew.keep_datastore(&place)? {
        let patience = if is_restart { DATASTORE_HEAD_START } else { READY_PATIENCE };
        match datastore_ready(board, patience).await {
            // Its state is on the board, and is told below as any other's.
            Err(_) if is_restart => {}
            outcome => outcome?,
        }
    }
    let mut is_prepared = false;
    if !is_restart {
        prepare(place.store(), request).await.map_err(|failure| failure.report)?;
        is_prepared = true;
    }
    crew.start();
    let mut told = false;
    loop {
        let node = crew.node().to_owned();
        let moved = tokio::select! {
            outcome = settle(&place, request, board, is_restart, (&mut is_prepared, &mut told)) => return outcome,
            () = calico_startup::keep_tunnel_addresses(place.store(), &node) => continue,
            () = place.renew_certificate() => continue,
            moved = place.moved(&node) => moved,
        };
        info!(from = %place.location(), to = %moved.location(), "the datastore is somewhere else now");
        place = moved;
        is_prepared = false;
        crew.keep_datastore(&place)?;
        crew.restart_agents().await;
    }
}

/// Makes this host a node of the datastore unless it is, waits until all processes are ready, says so once, and then
/// stays.
async fn settle(
    place: &Place,
    request: &Request,
    board: &Board,
    is_restart: bool,
    (is_prepared, told): (&mut bool, &mut bool),
) -> Result<()> {
    if !*is_prepared {
        prepare_patiently(place.store(), request).await?;
        *is_prepared = true;
    }
    if !*told {
        wait_until_ready(board, is_restart).await?;
        // calicoctl waits for exactly this line.
        println!("Calico node started successfully");
        sd_notify::notify(&[sd_notify::NotifyState::Ready]).into_diagnostic()?;
        *told = true;
    }
    std::future::pending().await
}

/// Waits until the datastore that this host keeps is served. One that refuses to start does so again and again; then
/// this says why.
async fn datastore_ready(board: &Board, patience: Duration) -> Result<()> {
    /// So often it may have died; somebody may have killed it.
    const DEATHS: u32 = 3;
    let name = crate::crew::DATASTORE;
    let until = tokio::time::Instant::now() + patience;
    let failed = |component: Option<Component>| {
        let reason = component.map(|component| component.reason).unwrap_or_default();
        miette!("the datastore of this host does not start: {reason}")
    };
    loop {
        let changed = board.changed();
        let now = board.component(name, Instant::now());
        match &now {
            Some(component) if component.ready => return Ok(()),
            Some(component) if component.pid.is_none() && component.restarts + 1 >= DEATHS => return Err(failed(now)),
            _ => {}
        }
        if tokio::time::timeout_at(until, changed).await.is_err() {
            return Err(failed(board.component(name, Instant::now())));
        }
    }
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

/// Waits until all processes are ready that ought to be. A first start that is not in time has failed; a restart leaves
/// the processes at work, since the host may have been in service for long and what they wait for may come.
async fn wait_until_ready(board: &Board, is_restart: bool) -> Result<()> {
    loop {
        still_starting();
        if timeout(READY_PATIENCE, ready(board)).await.is_ok() {
            return Ok(());
        }
        let lacking = in_words(&board.lacking(Instant::now()));
        let reason = format!("not ready after {} s: {lacking}", READY_PATIENCE.as_secs());
        if !is_restart {
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

fn in_words(lacking: &[Component]) -> String {
    let words = lacking.iter().map(|component| format!("{}: {}", component.name, component.reason));
    words.collect::<Vec<_>>().join("; ")
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
