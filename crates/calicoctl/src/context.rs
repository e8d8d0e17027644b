//! What a command may use: the datastore, this machine, the user's terminal.
//!
//! Everything that leaves the process goes through one of these, so that every command runs in a test against an
//! in-memory datastore and a recording machine.

use std::sync::Arc;

use calico_store::{Error, Store};

use crate::{failure::Failure, host::Host, interrupt::Interrupt, runtime::Runtime};

/// Where the name that the service gave this host is kept.
pub(crate) const NAME_FILE: &str = "/var/lib/calico/nodename";

/// Bytes. More than this is no input for a command, but a mistake.
const LARGEST_INPUT: u64 = 64 << 20;

/// What a command may use.
pub(crate) struct Context {
    /// The datastore.
    pub(crate) store: Store,
    /// This host's name in the datastore.
    pub(crate) node: String,
    /// This machine's workloads.
    pub(crate) host: Arc<dyn Host>,
    /// This machine's service.
    pub(crate) runtime: Arc<dyn Runtime>,
    /// The user.
    pub(crate) console: Arc<dyn Console>,
    /// The user's wish to stop.
    pub(crate) interrupt: Interrupt,
}

/// Words while a command works. The result itself is returned, not said here.
pub(crate) trait Console: Send + Sync {
    /// A line of the result that cannot wait for the end: stdout.
    fn say(&self, line: &str);
    /// Progress and warnings: stderr.
    fn note(&self, line: &str);
    /// A part of a result without end: stdout.
    ///
    /// # Errors
    /// Nobody reads any more.
    fn print(&self, text: &str) -> std::io::Result<()>;
    /// All that is typed, or comes through a pipe: standard input.
    ///
    /// # Errors
    /// It cannot be read, is no text, or has no end.
    fn input(&self) -> std::io::Result<String>;
    /// The next line that is typed, `None` if nobody types any more. Waits for it.
    ///
    /// # Errors
    /// It cannot be read.
    fn line(&self) -> std::io::Result<Option<String>>;
}

impl Context {
    /// The same user on the same machine, with another datastore, in which this host has another name.
    pub(crate) fn on(&self, store: Store, node: String) -> Self {
        let Self { store: _, node: _, host, runtime, console, interrupt } = self;
        let (host, runtime, console, interrupt) = (host.clone(), runtime.clone(), console.clone(), interrupt.clone());
        Self { store, node, host, runtime, console, interrupt }
    }

    /// Tells of records that were skipped because they cannot be read.
    pub(crate) fn note_unreadable(&self, unreadable: &[Error]) {
        for error in unreadable {
            self.console.note(&format!("warning: skipped: {error}"));
        }
    }

    /// Refuses anybody but root.
    pub(crate) fn require_root(&self) -> Result<(), Failure> {
        if self.host.is_root() { Ok(()) } else { Err(Failure::not_root()) }
    }
}

/// A terminal.
#[derive(Debug)]
pub(crate) struct Terminal;

impl Console for Terminal {
    fn say(&self, line: &str) {
        use std::io::Write;
        // A closed pipe is the reader's choice, not a failure of the command.
        let _ = writeln!(std::io::stdout(), "{line}");
    }

    fn note(&self, line: &str) {
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "{line}");
    }

    fn print(&self, text: &str) -> std::io::Result<()> {
        use std::io::Write;
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    }

    fn input(&self) -> std::io::Result<String> {
        use std::io::Read;
        let mut text = String::new();
        std::io::stdin().lock().take(LARGEST_INPUT + 1).read_to_string(&mut text)?;
        if text.len() as u64 > LARGEST_INPUT {
            return Err(std::io::Error::other("it is larger than 64 MiB"));
        }
        Ok(text)
    }
    fn line(&self) -> std::io::Result<Option<String>> {
        let mut line = String::new();
        Ok((std::io::stdin().read_line(&mut line)? > 0).then_some(line))
    }
}
