//! `calicoctl diags`

use clap::Args;

use crate::output::Format;

pub(super) const EXAMPLES: &str = "\
Writes one archive (tar.gz, for root alone) with what a colleague needs to find a fault: versions, interfaces,
routes, rules with counters, sets, sysctls, BIRD's configuration and sessions, logs, containers, and what the
datastore holds. What cannot be had is noted in the archive and stops nothing.

Passwords, keys, tokens, environments and labels of containers, and unknown annotations are left out; a value that
is known to be a secret of this host is struck wherever it occurs. Look through the archive all the same before you
give it to a stranger: it names addresses, hosts and workloads.

Examples:
  calicoctl diags
  calicoctl diags --log-dir=/var/log/calico --output=/root/host-1.tar.gz
  calicoctl node diags                           the same";

/// `diags`
#[derive(Clone, Debug, PartialEq, Args)]
pub(crate) struct Diags {
    /// Where the service writes its logs on this host
    #[arg(long, value_name = "DIR", default_value = "/var/log/calico")]
    pub(crate) log_dir: String,
    /// The archive's file, or a folder to put it into; a folder of its own in the temporary one if left out
    #[arg(long, value_name = "PATH")]
    pub(crate) output: Option<String>,
}

impl Diags {
    /// The form in which the result was asked for.
    #[allow(clippy::unused_self, reason = "every family answers this")]
    pub(crate) fn format(&self) -> Format {
        Format::Table
    }
}
