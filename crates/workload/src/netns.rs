//! Which namespace, and how it is entered.

use std::{fmt, path::PathBuf};

/// Where a workload's network namespace is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetnsRef {
    /// The namespace of a process.
    Pid(i32),
    /// A namespace file, such as `/run/netns/<name>` or `/proc/<pid>/ns/net`.
    Path(PathBuf),
}

impl fmt::Display for NetnsRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "the namespace of process {pid}"),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}
