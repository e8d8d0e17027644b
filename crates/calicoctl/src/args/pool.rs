//! `calicoctl pool …`

use clap::Subcommand;

use super::{Connection, OutputArgs};
use crate::output::Format;

pub(super) const EXAMPLES: &str = "\
Examples:
  calicoctl pool show";

/// The words after `pool`.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum PoolCommand {
    /// Show what there is
    #[command(after_help = EXAMPLES)]
    Show(OutputArgs),
}

impl PoolCommand {
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
