//! `calicoctl diags`

use clap::Args;

use super::OutputArgs;
use crate::output::Format;

pub(super) const EXAMPLES: &str = "\
Examples:
  calicoctl diags";

/// `diags`
#[derive(Debug, PartialEq, Args)]
pub(crate) struct Diags {
    /// How to print it.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl Diags {
    /// The form in which the result was asked for.
    pub(crate) fn format(&self) -> Format {
        self.output.format
    }
}
