//! `calicoctl config …`

use clap::Subcommand;

use super::{Connection, OutputArgs};
use crate::output::Format;

pub(super) const EXAMPLES: &str = "\
Examples:
  calicoctl config show";

/// The words after `config`.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show what there is
    #[command(after_help = EXAMPLES)]
    Show(OutputArgs),
}

impl ConfigCommand {
    /// The form in which the result was asked for.
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Show(output) => output.format,
        }
    }

    /// What was said of the datastore.
    pub(crate) fn connection(&self) -> Option<&Connection> {
        None
    }
}
