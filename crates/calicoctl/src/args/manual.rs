//! `calicoctl man`

use clap::Args;

use super::OutputArgs;
use crate::output::Format;

pub(super) const EXAMPLES: &str = "\
Examples:
  calicoctl man";

/// `man`
#[derive(Debug, PartialEq, Args)]
pub(crate) struct Manual {
    /// How to print it.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl Manual {
    /// The form in which the result was asked for.
    pub(crate) fn format(&self) -> Format {
        self.output.format
    }
}
