//! Commands inside a host: word for word what a person would type there, with a bound on their time.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::error::{Context, LabError, Result};
use crate::host::Host;
use crate::process::is_over;

/// How long a command may take unless it is told otherwise.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// A command that is about to run inside a host.
#[must_use = "nothing runs until `output` or `spawn` is called"]
pub struct HostCommand<'a> {
    host: &'a Host,
    text: String,
    command: Command,
    limit: Duration,
}

impl<'a> HostCommand<'a> {
    pub(crate) fn new(host: &'a Host, text: &str) -> Self {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(text).env_clear().envs(host.environment()).stdin(Stdio::null());
        Self { host, text: text.to_owned(), command, limit: COMMAND_LIMIT }
    }

    /// Sets an environment variable for this command.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Takes a variable of the host's environment away from this command.
    pub fn env_remove(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Gives the command this file of the machine as its standard input, instead of nothing.
    pub fn stdin(mut self, file: File) -> Self {
        self.command.stdin(file);
        self
    }

    /// Bounds the time of the command; past it, it is killed with all that it started in its process group.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs the command to its end.
    ///
    /// A daemon that it leaves behind may keep its standard output open; that is not waited for.
    ///
    /// # Errors
    /// The command could not be started. That it fails is not an error here: see [`Output::ok`].
    pub fn output(self) -> Result<Output> {
        let limit = self.limit;
        self.spawn()?.wait(limit)
    }

    /// Starts the command and returns at once.
    ///
    /// # Errors
    /// The command could not be started.
    pub fn spawn(mut self) -> Result<Running> {
        let what = || format!("run `{}` on {}", self.text, self.host.name());
        // Files in memory instead of pipes: nothing has to be read while the command runs, and a daemon that inherits
        // them cannot keep us waiting for an end of file.
        let open = |name| memfd_create(name, MemfdFlags::CLOEXEC).map(File::from);
        let stdout = open("stdout").context(what)?;
        let stderr = open("stderr").context(what)?;
        self.command.stdout(stdout.try_clone().context(what)?).stderr(stderr.try_clone().context(what)?);
        self.command.process_group(0);
        let child = Arc::new(Mutex::new(self.host.start_inside(&mut self.command, what)?));
        self.host.remember(&child);
        Ok(Running { host: self.host.name().to_owned(), text: self.text, child, stdout, stderr, since: Instant::now() })
    }
}

/// A command that runs inside a host. Dropping it kills it with its process group.
#[derive(Debug)]
pub struct Running {
    host: String,
    text: String,
    child: Arc<Mutex<Child>>,
    stdout: File,
    stderr: File,
    since: Instant,
}

impl Running {
    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Process id as the machine sees it.
    pub fn id(&self) -> u32 {
        self.child().id()
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        matches!(self.child().try_wait(), Ok(None))
    }

    /// What it printed so far on standard output.
    pub fn stdout(&self) -> String {
        text_of(&self.stdout)
    }

    /// What it printed so far on standard error.
    pub fn stderr(&self) -> String {
        text_of(&self.stderr)
    }

    /// Sends a signal to it and its process group.
    pub fn signal(&self, signal: Signal) {
        let child = &mut *self.child();
        // Not waited for yet, so the number still belongs to it.
        if matches!(child.try_wait(), Ok(None))
            && let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process_group(group, signal);
        }
    }

    /// Waits for its end, at most `limit`; then it is killed and the output says so.
    ///
    /// # Errors
    /// The kernel does not let us wait.
    pub fn wait(self, limit: Duration) -> Result<Output> {
        let what = || format!("wait for `{}` on {}", self.text, self.host);
        let in_time = {
            let id = self.child().id();
            match i32::try_from(id).ok().and_then(Pid::from_raw).map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
                Some(Ok(fd)) => is_over(&fd, limit),
                // Waited for already by `is_running`.
                _ => true,
            }
        };
        if !in_time {
            self.signal(Signal::KILL);
        }
        let status = self.child().wait().context(what)?;
        Ok(Output {
            host: self.host.clone(),
            command: self.text.clone(),
            status: in_time.then_some(status),
            stdout: self.stdout(),
            stderr: self.stderr(),
            elapsed: self.since.elapsed(),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child().wait();
    }
}

/// All that a file in memory holds, whatever its write position.
fn text_of(file: &File) -> String {
    let mut bytes = Vec::new();
    // The position belongs to the open file, which the writing process shares: reading must go through a second one.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
    if let Ok(mut own) = File::open(path) {
        let _ = own.seek(SeekFrom::Start(0)).and_then(|_| own.read_to_end(&mut bytes));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a command inside a host did.
#[derive(Clone, Debug)]
pub struct Output {
    /// The host.
    pub host: String,
    /// The command as given.
    pub command: String,
    /// How it ended; nothing when it was killed for taking too long.
    pub status: Option<ExitStatus>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// How long it took.
    pub elapsed: Duration,
}

impl Output {
    /// Whether it ended with exit code 0.
    pub fn success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// Its exit code, unless a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status?.code()
    }

    /// Both streams, standard output first.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Its standard output, if it succeeded.
    ///
    /// # Errors
    /// It did not end with exit code 0.
    pub fn ok(self) -> Result<String> {
        if self.success() { Ok(self.stdout) } else { Err(self.into_error()) }
    }

    /// The error that says how it failed and what it printed.
    pub fn into_error(self) -> LabError {
        let outcome = match self.status {
            None => format!("was killed after {:.1?}", self.elapsed),
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("ended with exit code {code}"),
                (None, Some(signal)) => format!("was ended by signal {signal}"),
                (None, None) => "ended in an unknown way".to_owned(),
            },
        };
        let output = self.text();
        LabError::Command { host: self.host, command: self.command, outcome, output }
    }
}
