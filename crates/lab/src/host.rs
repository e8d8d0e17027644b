//! One host of a lab: its namespaces, its files, its commands.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};
use tokio::signal::unix::{SignalKind, signal};

use crate::address::Place;
use crate::command::{HostCommand, Output, Running};
use crate::error::{Context, LabError, Result};
use crate::namespace::{in_namespaces_of, in_network_of, in_new_namespaces};
use crate::process::{ProcessId, is_over};
use crate::root::HostRoot;
use crate::state::{MachineRecord, thaw_containers};
use crate::wait::wait_until;

/// What the host's first process does before it becomes a mere reaper of orphans. It waits for the word that it is on
/// record; when the lab's process ends first, `read` fails and so the host is gone too.
const FIRST: &str = "IFS= read -r word || exit 1
mount -t proc -o nosuid,nodev,noexec proc /proc || exit 1
echo ready
";

/// With the end of the owner, and so of the pipe's other end, `cat` ends, and with process 1 the whole host.
const UNTIL_OWNER_ENDS: &str = "exec tini-static -- cat >/dev/null";

/// Until somebody removes the lab.
const UNTIL_REMOVED: &str = "exec tini-static -- sleep infinity </dev/null >/dev/null";

/// A host of a lab, or the lab's switch.
#[derive(Debug)]
pub struct Host {
    record: MachineRecord,
    init: OwnedFd,
    dir: PathBuf,
    environment: Vec<(String, String)>,
    children: Mutex<Vec<Weak<Mutex<Child>>>>,
    holder: Mutex<Option<Holder>>,
}

/// The host's first process, when this process started it. The pipe must stay open as long as the host shall live.
#[derive(Debug)]
struct Holder {
    child: Child,
    word: ChildStdin,
}

impl Host {
    /// Makes the namespaces and the files of a host and starts its first process. `on_record` must write down the
    /// process before it returns.
    pub(crate) fn start(
        root: &HostRoot<'_>,
        place: Place,
        dir: PathBuf,
        keep: bool,
        on_record: impl FnOnce(&MachineRecord) -> Result<()>,
    ) -> Result<Self> {
        let what = || format!("start the first process of {}", root.name);
        let script = format!("{FIRST}{}", if keep { UNTIL_REMOVED } else { UNTIL_OWNER_ENDS });
        let log = dir.join("holder.log");
        let stderr = File::create(&log).context(|| format!("make {}", log.display()))?;
        let mut command = Command::new("setsid");
        command.arg("sh").arg("-c").arg(script).env_clear().env("PATH", PATH);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = in_new_namespaces(|| {
            close_network()?;
            root.enter()?;
            command.spawn().context(what)
        })?;
        let word = child.stdin.take().expect("standard input was asked to be a pipe");
        let stdout = child.stdout.take().expect("standard output was asked to be a pipe");
        let mut holder = Holder { child, word };
        let outcome = ProcessId::of(holder.child.id()).context(what).and_then(|init| {
            let record = MachineRecord { name: root.name.to_owned(), init, place };
            on_record(&record)?;
            holder.word.write_all(b"go\n").context(what)?;
            let mut line = String::new();
            BufReader::new(stdout).read_line(&mut line).context(what)?;
            let fd = init.open().filter(|_| line == "ready\n").ok_or_else(|| LabError::HolderDied {
                host: root.name.to_owned(),
                detail: fs::read_to_string(&log).unwrap_or_default().trim().to_owned(),
            })?;
            Ok((record, fd))
        });
        match outcome {
            Ok((record, init)) => Ok(Self {
                record,
                init,
                dir,
                environment: Vec::new(),
                children: Mutex::default(),
                holder: Some(holder).into(),
            }),
            Err(error) => {
                let _ = holder.child.kill();
                let _ = holder.child.wait();
                Err(error)
            }
        }
    }

    /// Takes a host up again that another process started.
    pub(crate) fn attach(record: MachineRecord, dir: PathBuf) -> Result<Self> {
        let init = record.init.open().ok_or_else(|| LabError::HolderDied {
            host: record.name.clone(),
            detail: "its first process has ended".to_owned(),
        })?;
        Ok(Self { record, init, dir, environment: Vec::new(), children: Mutex::default(), holder: None.into() })
    }

    pub(crate) fn set_environment(&mut self, extra: Vec<(String, String)>) {
        self.environment = [("PATH", PATH), ("HOME", "/root"), ("LANG", "C.UTF-8"), ("HOSTNAME", self.name())]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into_iter()
            .chain(extra)
            .collect();
    }

    /// Its host name.
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// Its place in the network, which gives its addresses.
    pub fn place(&self) -> Place {
        self.record.place
    }

    /// Its address on `eth0`.
    pub fn ipv4(&self) -> std::net::Ipv4Addr {
        self.record.place.ipv4()
    }

    /// Its IPv6 address on `eth0`.
    pub fn ipv6(&self) -> std::net::Ipv6Addr {
        self.record.place.ipv6()
    }

    /// Process 1 of the host.
    pub fn init(&self) -> ProcessId {
        self.record.init
    }

    /// Its folder on the machine.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The environment of every command: what a person has after logging in, and how to reach the datastore.
    pub fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A command as a person would type it; see [`HostCommand`] for what can be set before it runs.
    pub fn command(&self, text: &str) -> HostCommand<'_> {
        HostCommand::new(self, text)
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// It cannot be started, because the host is gone. For tests; elsewhere use [`Host::command`].
    #[track_caller]
    pub fn run(&self, text: &str) -> Output {
        self.command(text).output().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs a command that must succeed and returns its standard output.
    ///
    /// # Panics
    /// It fails; the message has all that it printed. For tests.
    #[track_caller]
    pub fn ok(&self, text: &str) -> String {
        self.run(text).ok().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs a command that must fail and returns what it did.
    ///
    /// # Panics
    /// It succeeds, or had to be killed. For tests.
    #[track_caller]
    pub fn fails(&self, text: &str) -> Output {
        let output = self.run(text);
        assert!(output.status.is_some(), "on {}, `{text}` took too long:\n{}", self.name(), output.text());
        assert!(!output.success(), "on {}, `{text}` succeeded:\n{}", self.name(), output.text());
        output
    }

    /// Starts a command that runs on.
    ///
    /// # Panics
    /// It cannot be started. For tests.
    #[track_caller]
    pub fn spawn(&self, text: &str) -> Running {
        self.command(text).spawn().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Starts a program as a daemon: a child of the host's process 1, its output in `/var/log/NAME.log`, its process id
    /// in `/run/NAME.pid`.
    pub(crate) fn start_daemon(&self, name: &str, arguments: &str) -> Result<()> {
        let script = format!("echo $$ >/run/{name}.pid; exec {arguments} >>/var/log/{name}.log 2>&1 </dev/null");
        self.command(&format!("setsid -f sh -c '{script}'")).output()?.ok()?;
        Ok(())
    }

    /// Sends a signal to a daemon; with `end`, waits until it is gone.
    pub(crate) fn signal_daemon(&self, name: &str, signal: &str, end: bool) -> Result<()> {
        self.command(&format!("kill -{signal} $(cat /run/{name}.pid)")).output()?.ok()?;
        if end {
            let gone = format!("! kill -0 $(cat /run/{name}.pid)");
            wait_until(Duration::from_secs(30), &format!("the end of {name} on {}", self.name()), || {
                self.command(&gone).output().is_ok_and(|output| output.success())
            })?;
        }
        Ok(())
    }

    /// The path on the machine of a file that the host has at `path`, usable by this process as it is.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        Path::new(&format!("/proc/{}/root", self.record.init.pid)).join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Reads a file of the host.
    ///
    /// # Errors
    /// As [`fs::read_to_string`]. An absolute symbolic link on the way would lead into the machine's files.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<String> {
        let path = path.as_ref();
        fs::read_to_string(self.path(path)).context(|| format!("read {} of {}", path.display(), self.name()))
    }

    /// Writes a file of the host and makes the folders that lead to it.
    ///
    /// # Errors
    /// As [`fs::write`].
    pub fn write(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Result<()> {
        let path = path.as_ref();
        let outside = self.path(path);
        outside
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&outside, content))
            .context(|| format!("write {} of {}", path.display(), self.name()))
    }

    /// Runs `work` on a thread in the host's network namespace; sockets that it opens stay there.
    ///
    /// # Errors
    /// The host is gone, or `work` fails.
    pub fn in_network<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        in_network_of(self.init.as_fd(), work)
    }

    /// Starts a prepared command in all of the host's namespaces.
    pub(crate) fn start_inside(&self, command: &mut Command, what: impl FnOnce() -> String + Send) -> Result<Child> {
        in_namespaces_of(self.init.as_fd(), || command.spawn().context(what))
    }

    /// Runs a program on this process's own terminal and waits for its end. Keys like Ctrl-C are for the program: this
    /// process does not end by them meanwhile.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn interactive(&self, program: &str, arguments: &[String]) -> Result<ExitStatus> {
        let what = || format!("run {program} on {}", self.name());
        let mut command = Command::new(program);
        command.args(arguments).env_clear().envs(self.environment());
        for name in ["TERM", "COLORTERM", "NO_COLOR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if program.ends_with("bash") {
            command.env("PS1", format!("root@{}:\\w# ", self.name()));
        }
        let mut child = self.start_inside(&mut command, what)?;
        // A handler, unlike ignoring the signal, would not be inherited by the program even if it were set earlier.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().context(what)?;
        let _in_runtime = runtime.enter();
        let _keys = [SignalKind::interrupt(), SignalKind::quit()].map(signal);
        child.wait().context(what)
    }

    pub(crate) fn remember(&self, child: &Arc<Mutex<Child>>) {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.retain(|child| child.strong_count() > 0);
        children.push(Arc::downgrade(child));
    }

    /// Ends everything in the host and waits for it, at most ten seconds.
    ///
    /// The kernel keeps process 1 from ending before all others of its namespace have been waited for, and those that
    /// this process started are ours to wait for: hence the children first.
    pub(crate) fn end(&self) {
        thaw_containers(&self.dir);
        let _ = pidfd_send_signal(&self.init, Signal::KILL);
        for child in self.children.lock().unwrap_or_else(PoisonError::into_inner).drain(..).filter_map(|c| c.upgrade())
        {
            let _ = child.lock().unwrap_or_else(PoisonError::into_inner).wait();
        }
        if is_over(&self.init, Duration::from_secs(10))
            && let Some(mut holder) = self.holder.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            let _ = holder.child.wait();
        }
    }
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Brings a new network namespace to the state of a freshly started host, whatever the machine's own settings are: the
/// kernel lets new namespaces inherit some of them.
fn close_network() -> Result<()> {
    for (name, value) in [
        ("ipv4/ip_forward", "0"),
        ("ipv6/conf/all/forwarding", "0"),
        ("ipv6/conf/default/forwarding", "0"),
        // The lab gives out unique addresses; waiting a second for the proof would only cost time.
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
    ] {
        let path = format!("/proc/sys/net/{name}");
        fs::write(&path, value).context(|| format!("write {path}"))?;
    }
    Ok(())
}
