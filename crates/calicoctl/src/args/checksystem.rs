//! `calicoctl checksystem`

use clap::Args;

use super::OutputArgs;
use crate::output::Format;

pub(super) const EXAMPLES: &str = "\
Each feature is tried, in a network namespace of its own that is gone afterwards, instead of being looked up: what is
said to work has worked on this kernel just now. Ends with code 1 only if something is missing without which no node
can run here; what merely some feature needs is listed with that feature.

Examples:
  calicoctl checksystem
  calicoctl checksystem --fix                    load modules, switch forwarding on, then look
  calicoctl checksystem --runtime=none           a host without Docker
  calicoctl checksystem -o json
  calicoctl node checksystem                     the same";

/// `checksystem`
#[derive(Clone, Debug, PartialEq, Args)]
pub(crate) struct Checksystem {
    /// Load kernel modules and set sysctls where they are missing
    #[arg(long)]
    pub(crate) fix: bool,
    /// Ask also for what Docker networks need
    #[arg(long)]
    pub(crate) libnetwork: bool,
    /// What is to run the service: `docker`, or `none`; what that needs is then required
    #[arg(long, value_name = "RUNTIME")]
    pub(crate) runtime: Option<String>,
    /// Understood for scripts of upstream: features are tried, so the file is not read
    #[arg(short = 'f', long, value_name = "FILE", hide = true)]
    pub(crate) kernel_config: Option<String>,
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
