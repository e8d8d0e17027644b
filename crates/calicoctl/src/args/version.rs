//! `calicoctl version`

use clap::Args;

use super::{Connection, OutputArgs};

pub(super) const EXAMPLES: &str = "\
Without a datastore the cluster's version is not known; calicoctl's own is printed all the same, and the code is 0.

Examples:
  calicoctl version
  calicoctl version --client
  calicoctl version -o json";

/// `version`
#[derive(Debug, PartialEq, Args)]
pub(crate) struct Version {
    /// Print only calicoctl's own version, and ask no datastore
    #[arg(long)]
    pub(crate) client: bool,
    /// Where the datastore is.
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// How to print it.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}
