//! `calicoctl checksystem`

use clap::Args;

use super::OutputArgs;
use crate::output::Format;

pub(super) const EXAMPLES: &str = "\
Examples:
  calicoctl checksystem";

/// `checksystem`
#[derive(Debug, PartialEq, Args)]
pub(crate) struct Checksystem {
    /// How to print it.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl Checksystem {
    /// The form in which the result was asked for.
    pub(crate) fn format(&self) -> Format {
        self.output.format
    }
}
