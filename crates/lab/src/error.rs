//! What can go wrong in a lab, always with the thing that failed and the way out.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Result of every fallible operation of this crate.
pub type Result<T, E = LabError> = std::result::Result<T, E>;

/// Why a lab could not be raised, used or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// Namespaces, mounts and links need root.
    #[error("a lab needs root: it makes namespaces, mounts and links\n  hint: run the command with sudo")]
    NotRoot,
    /// A program that the lab runs is not on this machine.
    #[error("`{program}` is not installed\n  hint: apt-get install {package}, or run scripts/setup")]
    MissingProgram {
        /// Name of the program as it is typed.
        program: &'static str,
        /// Debian package that holds it.
        package: &'static str,
    },
    /// A file that has to be built first is not there.
    #[error("{} does not exist\n  hint: {hint}", path.display())]
    MissingFile {
        /// Where it was looked for.
        path: PathBuf,
        /// How it is made.
        hint: &'static str,
    },
    /// A name that cannot be a lab's or a host's name.
    #[error("`{name}` cannot be the name of a {kind}: use 1 to 12 of a-z, 0-9 and -, starting with a letter")]
    BadName {
        /// What was to be named.
        kind: &'static str,
        /// The name as given.
        name: String,
    },
    /// A lab of that name is up already.
    #[error("the lab `{0}` is up already\n  hint: `calico-lab down {0}` removes it, or choose another --name")]
    NameTaken(String),
    /// No lab of that name is recorded.
    #[error("there is no lab `{0}`\n  hint: `calico-lab status` lists the labs, `calico-lab up` makes one")]
    NoSuchLab(String),
    /// None was named, and there are several.
    #[error("several labs are up\n  hint: say which with --lab: {0}")]
    WhichLab(String),
    /// The lab has no host of that name.
    #[error("the lab `{lab}` has no host `{host}`\n  hint: it has {known}")]
    NoSuchHost {
        /// Name of the lab.
        lab: String,
        /// The host that was asked for.
        host: String,
        /// The hosts it has.
        known: String,
    },
    /// The lab was raised without this part.
    #[error("the lab `{lab}` has no {part}")]
    NotPartOfLab {
        /// Name of the lab.
        lab: String,
        /// The part asked for.
        part: &'static str,
    },
    /// The record of a lab cannot be read; the lab is older or newer than this program, or the file was damaged.
    #[error("the record {} cannot be read\n  hint: end the hosts of that lab by hand, then delete the folder", path.display())]
    BadRecord {
        /// The record.
        path: PathBuf,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// The host's first process ended before the host was ready.
    #[error("the host `{host}` did not come up: {detail}")]
    HolderDied {
        /// The host.
        host: String,
        /// What its first process said.
        detail: String,
    },
    /// A command inside a host failed.
    #[error("on {host}, `{command}` {outcome}\n{output}")]
    Command {
        /// The host.
        host: String,
        /// The command as given.
        command: String,
        /// Exit code or reason, in words.
        outcome: String,
        /// What it printed.
        output: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {after:?}{detail}")]
    TimedOut {
        /// What was awaited.
        what: String,
        /// How long.
        after: Duration,
        /// What was seen instead; empty, or starts with a line break.
        detail: String,
    },
    /// What was shown to be so is not so.
    #[error("{0}")]
    Broken(String),
    /// A step of the walk-through failed.
    #[error("step {number}, `{title}`, failed: {error}\n{dump}")]
    StepFailed {
        /// Number of the step, from 1.
        number: usize,
        /// Its title.
        title: &'static str,
        /// Why.
        #[source]
        error: Box<LabError>,
        /// Where the state of the hosts was written down.
        dump: String,
    },
    /// A system call or a file operation failed.
    #[error("{what}: {source}")]
    Io {
        /// Operation and object.
        what: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Some parts of a lab could not be removed; the others were.
    #[error("the lab `{lab}` could not be removed completely:\n{problems}\n  hint: run `calico-lab down {lab}` again")]
    NotRemoved {
        /// Name of the lab.
        lab: String,
        /// One problem a line.
        problems: String,
    },
}

/// Adds operation and object to an input/output error.
pub(crate) trait Context<T> {
    /// Turns the error into [`LabError::Io`]; `what` names operation and object.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| LabError::Io { what: what(), source: source.into() })
    }
}
