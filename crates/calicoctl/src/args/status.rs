//! `calicoctl status`

use clap::Args;

use super::OutputArgs;

pub(super) const EXAMPLES: &str = "\
Ends with code 1 if neither the container calico-node nor the service runs on this host.

Examples:
  calicoctl status
  calicoctl status -o json";

/// `status`
#[derive(Clone, Debug, PartialEq, Args)]
pub(crate) struct Status {
    /// What runs the service: `docker` or `none`; whichever it is, it is found
    #[arg(long, value_name = "RUNTIME", default_value = "docker")]
    pub(crate) runtime: String,
    /// How to print it.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}
