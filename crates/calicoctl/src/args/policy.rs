//! `calicoctl why|plan|rules|confirm`: what policies do, and keeping a change on probation.

use clap::Args;

use super::{Connection, Files, Namespace, OutputArgs};

pub(super) const WHY_EXAMPLES: &str = "\
FROM and TO are names of containers, endpoints (namespace/name, id or interface) or hosts,
`host` for this host, or addresses. Without a port all ports are asked for. The answer is
calculated from the datastore, so it can be asked on any host; --live compares it with what the
kernel of this host holds.

Ends with code 0 if the traffic is allowed, 3 if it is not, 1 if there is no answer.

Examples:
  calicoctl why workload_A workload_B
  calicoctl why workload_A workload_B tcp 5432
  calicoctl why 192.0.2.7 workload_B udp 53 -o json
  calicoctl why workload_A host icmp
  calicoctl why workload_A workload_B tcp 5432 --live";

pub(super) const PLAN_EXAMPLES: &str = "\
Nothing is written. Shown is what `calicoctl apply` of the same files would change: the rules of
each host, and the traffic between existing endpoints whose verdict changes.

Ends with code 0 if no verdict changes, 2 if some do, 1 if there is no answer.

Examples:
  calicoctl plan -f policy.yaml
  calicoctl plan -f policies/ -R
  calicoctl plan -f policies/ -o json";

pub(super) const RULES_EXAMPLES: &str = "\
Read from the kernel of this host, in the order in which packets meet the rules. TARGET is a
container, an endpoint of this host, or an interface. The words of the rules are the
datastore's, if it answers.

Examples:
  calicoctl rules workload_A
  calicoctl rules workload_A --direction in
  calicoctl rules eth0 -o json";

pub(super) const CONFIRM_EXAMPLES: &str = "\
For changes made with --confirm, from any terminal and host. Without an ID the only one that
waits is meant.

Examples:
  calicoctl confirm
  calicoctl confirm 7f3a
  calicoctl confirm --roll-back";

/// `why`
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct Why {
    /// Who sends: a container, endpoint, host or address
    #[arg(value_name = "FROM")]
    pub(crate) from: String,
    /// Who is to receive
    #[arg(value_name = "TO")]
    pub(crate) to: String,
    /// tcp, udp, sctp, icmp, or the number of a protocol; tcp if it is left out
    #[arg(value_name = "PROTOCOL")]
    pub(crate) protocol: Option<String>,
    /// The destination port
    #[arg(value_name = "PORT")]
    pub(crate) port: Option<String>,
    /// Compare with the kernel of this host, and show the counters of the rule that decides
    #[arg(long)]
    pub(crate) live: bool,
    /// How to print it.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `plan`
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct Plan {
    /// What.
    #[command(flatten)]
    pub(crate) files: Files,
    /// How to print it.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// Whose.
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// Where.
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// `rules`
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct Rules {
    /// A container, an endpoint of this host, or an interface
    #[arg(value_name = "TARGET")]
    pub(crate) target: String,
    /// Only packets to the endpoint (in), or from it (out)
    #[arg(long, value_enum, value_name = "in|out", hide_possible_values = true)]
    pub(crate) direction: Option<Way>,
    /// How to print it.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Which way packets go, seen from the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Way {
    /// To it.
    In,
    /// From it.
    Out,
}

/// `confirm`
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct Confirm {
    /// Which change, or the beginning of its id
    #[arg(value_name = "ID")]
    pub(crate) id: Option<String>,
    /// Take the change back now instead
    #[arg(long)]
    pub(crate) roll_back: bool,
    /// Where.
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// Whether what is written stays by itself.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct Probation {
    /// Take everything back unless it is confirmed within this time, such as 60s or 5m
    #[arg(long = "confirm", value_name = "TIME")]
    pub(crate) within: Option<String>,
}
