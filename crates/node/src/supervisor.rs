//! Keeps the processes of the service running: start, restart with back-off, logs, ordered stop.
//!
//! Each process is watched by a task of its own:
//!
//! ```text
//!            gate open            exit: note why, wait (back-off)
//!  waiting ────────────► running ────────────────────────────────► waiting
//!     │      restart asked: │ end it, no wait ────────────────────────┘
//!     └──── stop asked ─────┴──► stopped
//! ```
//!
//! Agents (felix, confd) report their health as JSON lines on standard output; what they write to standard error is
//! their log. BIRD is asked over its control socket. A supervised process asks the kernel to be killed when the
//! supervisor dies (`calico-node child` does it before it becomes the process), so that a `kill -9` of the
//! supervisor never leaves a second set behind.

use std::{
    ffi::OsString,
    io::Write,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use calico_confd::bird::Client;
use calico_model::AgentHealth;
use futures::future::BoxFuture;
use miette::{IntoDiagnostic, Result, miette};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::AsyncRead,
    process::{Child, Command},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};
use tracing::{info, warn};

use crate::{
    backoff::Backoff,
    board::{Board, End},
    lines::Lines,
    logs::LogFile,
};

/// How long a process may take to end after it was asked to.
const STOP_PATIENCE: Duration = Duration::from_secs(3);
/// How long a stop waits for BIRD to be done with the restart before; Docker gives us ten seconds for all.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(4);
const RECOVERY_POLL: Duration = Duration::from_millis(50);
/// How often it is asked after its recovery until its announcements are surely out.
const ANNOUNCING: u32 = 4;
/// A BIRD that is younger may have recovered just now.
const YOUNG: Duration = Duration::from_secs(2);
/// How long the output of a process that has ended may still arrive; what it started may hold the pipe open for ever.
const LAST_WORDS_PATIENCE: Duration = Duration::from_secs(1);
/// Longer lines of a log are cut, in bytes.
const LONGEST_LINE: usize = 64 << 10;
/// Longer reports are not understood, in bytes.
const LONGEST_REPORT: usize = 4 << 20;
/// For how long a gate is expected to open soon.
const STARTING: Duration = Duration::from_secs(60);
/// How often a gate is looked at, first and at most: most open within a second, and some never.
const GATE_POLL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How a process is asked to end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopWith {
    /// SIGTERM.
    Terminate,
    /// BIRD's `graceful restart` command: SIGTERM would tell the peers to drop our routes.
    GracefulRestart,
}

/// Builds the command line of a start; asked anew each time, as BIRD's arguments depend on the kernel's state.
pub(crate) type CommandLine = Box<dyn Fn() -> BoxFuture<'static, Vec<OsString>> + Send + Sync>;

/// A process to keep running.
pub(crate) struct Service {
    pub(crate) name: &'static str,
    pub(crate) command: CommandLine,
    /// A file that must exist before the process is started.
    pub(crate) gate: Option<PathBuf>,
    /// Standard output carries reports, not log lines.
    pub(crate) reports: bool,
    pub(crate) stop_with: StopWith,
}

/// What all services share.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) board: Arc<Board>,
    pub(crate) log_dir: Option<PathBuf>,
    pub(crate) bird_socket: PathBuf,
}

/// What is wanted of a service.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// That it runs, started after this many wishes for a restart.
    Run(u64),
    Stop,
}

/// A supervised service; [`stop`](Self::stop) it, or it is stopped when the supervisor ends.
pub(crate) struct Supervised {
    name: &'static str,
    wish: watch::Sender<Wish>,
    task: JoinHandle<()>,
}

impl Supervised {
    pub(crate) fn start(service: Service, surroundings: Surroundings) -> Self {
        let (wish, wished) = watch::channel(Wish::Run(0));
        Self { name: service.name, wish, task: tokio::spawn(keep_running(service, surroundings, wished)) }
    }

    /// The service's name.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Has the process ended in order and started anew; returns at once.
    pub(crate) fn restart(&self) {
        self.wish.send_modify(|wish| {
            if let Wish::Run(times) = wish {
                *times += 1;
            }
        });
    }

    /// Asks the process to end and waits for it, at most twice [`STOP_PATIENCE`].
    pub(crate) async fn stop(self) {
        self.wish.send_replace(Wish::Stop);
        if let Err(error) = self.task.await {
            warn!(process = self.name, %error, "its watcher ended abnormally");
        }
    }
}

/// The present wish; a handle that is gone asks to stop as well.
fn present(wished: &mut watch::Receiver<Wish>) -> Wish {
    let is_orphan = wished.has_changed().is_err();
    let wish = *wished.borrow_and_update();
    if is_orphan { Wish::Stop } else { wish }
}

/// Until something else is wished than at the last look.
async fn wished_otherwise(wished: &mut watch::Receiver<Wish>) {
    // An error means that the handle is gone.
    let _ = wished.changed().await;
}

async fn keep_running(service: Service, surroundings: Surroundings, mut wished: watch::Receiver<Wish>) {
    let mut backoff = Backoff::new();
    let log = Arc::new(tokio::sync::Mutex::new(
        surroundings.log_dir.as_ref().map(|dir| LogFile::new(dir.join(service.name))),
    ));
    while present(&mut wished) != Wish::Stop {
        tokio::select! {
            () = gate_open(service.gate.as_ref()) => {}
            () = wished_otherwise(&mut wished) => continue,
        }
        let started = Instant::now();
        let Some(end) = run_once(&service, &surroundings, &log, &mut wished).await else { continue };
        surroundings.board.ended(service.name, &end);
        let wait = backoff.after_exit(started, Instant::now());
        warn!(process = service.name, why = %end.why, ?wait, "ended; starting it again");
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = wished_otherwise(&mut wished) => {}
        }
    }
}

/// Runs the process until it ends by itself; `None` if it was ended because something else is wished.
async fn run_once(
    service: &Service,
    surroundings: &Surroundings,
    log: &SharedLog,
    wished: &mut watch::Receiver<Wish>,
) -> Option<End> {
    let mut child = match spawn(&(service.command)().await, service.reports) {
        Ok(child) => child,
        Err(error) => return Some(End::of(format!("cannot be started: {error}"))),
    };
    surroundings.board.started(service.name, child.id());
    info!(process = service.name, pid = child.id(), "started");
    let readers = read_output(service, &mut child, &surroundings.board, log);
    let ended = tokio::select! {
        status = child.wait() => Some(status),
        () = wished_otherwise(wished) => None,
    };
    if ended.is_none() {
        end(service, &mut child, surroundings).await;
    }
    readers.join().await;
    ended.map(|status| status.map_or_else(|error| End::of(format!("cannot be waited for: {error}")), describe))
}

/// Has the C library give large blocks back to the kernel as soon as they are free: an agent reads a whole datastore when
/// it starts, and would keep the memory for that for as long as it lives. Measured with 1,000 endpoints: 1 MB less.
const MEMORY: [(&str, &str); 3] =
    [("MALLOC_MMAP_THRESHOLD_", "65536"), ("MALLOC_TRIM_THRESHOLD_", "65536"), ("MALLOC_TOP_PAD_", "16384")];

async fn gate_open(gate: Option<&PathBuf>) {
    let (mut wait, longest) = GATE_POLL;
    let since = Instant::now();
    while gate.is_some_and(|gate| !gate.exists()) {
        tokio::time::sleep(wait).await;
        if since.elapsed() >= STARTING {
            wait = longest;
        }
    }
}

/// This program, to start it again. An upgrade may have put another file in the place of ours while we run; then the
/// kernel still has what we are.
pub(crate) fn own_program() -> PathBuf {
    program_at(std::env::current_exe().ok())
}

/// The program of felix: in the folder of ours.
pub(crate) fn felix_program() -> PathBuf {
    // Read anew: an upgrade moves both, and "(deleted)" stands at the end of the file's name, not of the folder's.
    let folder = std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned));
    folder.unwrap_or_default().join("calico-felix")
}

fn program_at(path: Option<PathBuf>) -> PathBuf {
    // Of a file that was replaced or removed the kernel says "<path> (deleted)".
    path.filter(|path| path.exists()).unwrap_or_else(|| Path::new("/proc/self/exe").to_owned())
}

/// Runs `command` through `calico-node child`, which ties its life to ours. In a process group of its own, because
/// Ctrl-C in a terminal goes to the whole group of the service, and BIRD must not be ended by a signal.
fn spawn(command: &[OsString], is_agent: bool) -> std::io::Result<Child> {
    let ours = MEMORY.iter().filter(|(name, _)| is_agent && std::env::var_os(name).is_none());
    Command::new(own_program())
        .envs(ours.copied())
        .arg0("calico-node")
        .arg("child")
        .arg("--parent")
        .arg(std::process::id().to_string())
        .arg("--")
        .args(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
}

fn describe(status: ExitStatus) -> End {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        // Whoever ends by itself with a failure has said why.
        (Some(code), _) => End { why: format!("ended with code {code}"), has_said_why: code != 0 },
        (None, Some(signal)) => End::of(format!("killed by signal {signal}")),
        (None, None) => End::of("ended".to_owned()),
    }
}

struct Readers(Vec<JoinHandle<()>>);

impl Readers {
    async fn join(self) {
        let until = tokio::time::Instant::now() + LAST_WORDS_PATIENCE;
        for mut reader in self.0 {
            if tokio::time::timeout_at(until, &mut reader).await.is_err() {
                reader.abort();
            }
        }
    }
}

type SharedLog = Arc<tokio::sync::Mutex<Option<LogFile>>>;

fn read_output(service: &Service, child: &mut Child, board: &Arc<Board>, log: &SharedLog) -> Readers {
    let mut readers = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        readers.push(tokio::spawn(copy_lines(service.name, stderr, log.clone())));
    }
    if let Some(stdout) = child.stdout.take() {
        let reader = if service.reports {
            tokio::spawn(take_reports(service.name, stdout, board.clone()))
        } else {
            tokio::spawn(copy_lines(service.name, stdout, log.clone()))
        };
        readers.push(reader);
    }
    Readers(readers)
}

async fn copy_lines(name: &'static str, stream: impl AsyncRead + Unpin, log: SharedLog) {
    let mut lines = Lines::new(stream, LONGEST_LINE);
    while let Some(line) = lines.next().await {
        // A closed standard error is no reason to stop reading.
        let _ = writeln!(std::io::stderr(), "{name}: {line}");
        if let Some(log) = &mut *log.lock().await {
            log.write_line(&line);
        }
    }
}

async fn take_reports(name: &'static str, stream: impl AsyncRead + Unpin, board: Arc<Board>) {
    let mut lines = Lines::new(stream, LONGEST_REPORT);
    while let Some(line) = lines.next().await {
        match serde_json::from_str::<AgentHealth>(&line) {
            Ok(report) => board.reported(name, report),
            Err(error) => warn!(process = name, %error, "wrote something else than a report to its standard output"),
        }
    }
}

/// Ends a running process: asks, waits, kills.
async fn end(service: &Service, child: &mut Child, surroundings: &Surroundings) {
    let asked = match service.stop_with {
        StopWith::Terminate => signal(child, Signal::TERM),
        StopWith::GracefulRestart => graceful_restart(surroundings).await,
    };
    let patience = if asked { STOP_PATIENCE } else { Duration::ZERO };
    if timeout(patience, child.wait()).await.is_err() {
        warn!(process = service.name, "did not end when asked; killing it");
        signal(child, Signal::KILL);
        let _ = child.wait().await;
    }
    surroundings.board.ended(service.name, &End::of("stopped".to_owned()));
    info!(process = service.name, "stopped");
}

fn signal(child: &Child, signal: Signal) -> bool {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
}

/// Asks BIRD to end so that its peers keep our routes until it is back.
async fn graceful_restart(surroundings: &Surroundings) -> bool {
    match ask_to_restart(surroundings).await {
        Ok(()) => true,
        Err(error) => {
            warn!(%error, "bird does not take the graceful restart command");
            false
        }
    }
}

async fn ask_to_restart(surroundings: &Surroundings) -> Result<()> {
    let silent = |_| miette!("no answer on its control socket within {} s", STOP_PATIENCE.as_secs());
    let connected = timeout(STOP_PATIENCE, Client::connect(&surroundings.bird_socket)).await;
    let mut client = connected.map_err(silent)?.into_diagnostic()?;
    if timeout(RECOVERY_PATIENCE, recovered(&mut client)).await.is_err() {
        warn!("bird ends before its restart is over; peers may drop this host's routes until it is back");
    }
    timeout(STOP_PATIENCE, client.graceful_restart()).await.map_err(silent)?.into_diagnostic()
}

/// Until a BIRD that was started a moment ago has announced its routes again. A peer that sees two restarts in a row
/// without that drops what it kept through the first (RFC 4724, section 4.2).
async fn recovered(client: &mut Client) {
    let mut seen_well = 0;
    // A question that fails shows again in the command that follows.
    while let Ok(status) = client.status().await {
        let age = status.last_reboot.zip(status.server_time).and_then(|(from, to)| to.duration_since(from).ok());
        if status.recovery.is_some() {
            seen_well = 0;
        } else if seen_well >= ANNOUNCING || (seen_well == 0 && age.is_none_or(|age| age >= YOUNG)) {
            return;
        } else {
            seen_well += 1;
        }
        // Each question also wakes BIRD's event loop, which would send announcements late otherwise.
        tokio::time::sleep(RECOVERY_POLL).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_program_that_was_replaced_is_still_found() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("calico-node");
        std::fs::write(&there, "").unwrap();
        assert_eq!(program_at(Some(there.clone())), there);
        for gone in [Some(dir.path().join("calico-node (deleted)")), None] {
            let program = program_at(gone);
            assert!(program.exists(), "{}", program.display());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn output_that_is_held_open_holds_up_nothing() {
        let held = tokio::spawn(std::future::pending::<()>());
        let handle = held.abort_handle();
        Readers(vec![tokio::spawn(async {}), held]).join().await;
        tokio::task::yield_now().await;
        assert!(handle.is_finished(), "and the reader is gone");
    }
}
