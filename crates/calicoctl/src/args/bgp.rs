//! `calicoctl bgp …`

use clap::Subcommand;

use super::{Connection, OutputArgs};
use crate::output::Format;

pub(super) const EXAMPLES: &str = "\
Examples:
  calicoctl bgp show";

/// The words after `bgp`.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum BgpCommand {
    /// Show what there is
    #[command(after_help = EXAMPLES)]
    Show(OutputArgs),
}

impl BgpCommand {
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
