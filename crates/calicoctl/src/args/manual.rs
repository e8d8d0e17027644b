//! `calicoctl man`

use clap::Args;

use crate::output::Format;

pub(super) const EXAMPLES: &str = "\
One page for each command: calicoctl.1, calicoctl-container.1, calicoctl-container-add.1 …

Examples:
  calicoctl man /usr/local/share/man/man1
  calicoctl man /tmp/pages";

/// `man`
#[derive(Debug, PartialEq, Args)]
pub(crate) struct Manual {
    /// The folder; it is made if it is not there
    #[arg(value_name = "DIR")]
    pub(crate) dir: std::path::PathBuf,
}

impl Manual {
    /// The form in which the result was asked for.
    #[allow(clippy::unused_self, reason = "every family answers this")]
    pub(crate) fn format(&self) -> Format {
        Format::Table
    }
}
