//! `calicoctl ipam …`

use clap::{Args, Subcommand};

use super::{Connection, OutputArgs};
use crate::output::Format;

pub(super) const EXAMPLES: &str = "\
Examples:
  calicoctl ipam show                                  how full the pools are
  calicoctl ipam show --show-blocks                    … and which blocks they are cut into
  calicoctl ipam show --ip=192.168.0.7                 who has this address?
  calicoctl ipam info 192.168.0.7                      the same, in the classic words
  calicoctl ipam check --show-problem-ips              leaks, doubles and what contradicts itself
  calicoctl ipam release 192.168.0.7                   make the address free
  calicoctl ipam configure --strictaffinity=true       hosts use their own blocks only
  calicoctl ipam split 2 --name=default-ipv4-ippool    two pools out of one";

const SHOW_EXAMPLES: &str = "\
Examples:
  calicoctl ipam show
  calicoctl ipam show --show-blocks -o json
  calicoctl ipam show --show-borrowed        addresses on other hosts than their block's
  calicoctl ipam show --show-configuration
  calicoctl ipam show --ip=192.168.0.7";

const CHECK_EXAMPLES: &str = "\
Compares what is allocated with what endpoints and hosts use. It changes nothing. An address that a
container is given at this moment looks like a leak: lock the datastore before you act on a report.
Ends with code 1 if it finds a problem.

Examples:
  calicoctl ipam check --show-problem-ips
  calicoctl ipam check --deep                                for a job that watches the cluster
  calicoctl datastore migrate lock
  calicoctl ipam check -o report.json
  calicoctl ipam release --from-report=report.json
  calicoctl datastore migrate unlock";

const RELEASE_EXAMPLES: &str = "\
An address is made free whether or not an endpoint still uses it: use it for addresses of workloads
that are gone. Several reports release what is leaked in all of them.

Examples:
  calicoctl ipam release 192.168.0.7
  calicoctl ipam release --ip=192.168.0.7
  calicoctl ipam release --handle=docker.4f2a70c1d39e
  calicoctl ipam release --from-report=yesterday.json --from-report=today.json";

const CONFIGURE_EXAMPLES: &str = "\
Examples:
  calicoctl ipam configure --strictaffinity=true --max-blocks-per-host=4
  calicoctl ipam configure --ip-cooldown-seconds=60      released addresses rest for a minute
  calicoctl ipam show --show-configuration";

const SPLIT_EXAMPLES: &str = "\
The datastore must be locked. Addresses in use stay in use, and stay in their blocks.

Examples:
  calicoctl datastore migrate lock
  calicoctl ipam split 2 --name=default-ipv4-ippool
  calicoctl ipam split 4 --cidr=192.168.0.0/16
  calicoctl datastore migrate unlock";

const REPAIR_EXAMPLES: &str = "\
Mends what `ipam check --deep` finds beside leaks: claims and releases that stopped half way, blocks
that contradict themselves, wrong counts of handles. No address is released and none changes its
holder. The datastore must be locked, since an assignment under way looks like a claim that stopped.

Examples:
  calicoctl datastore migrate lock
  calicoctl ipam repair
  calicoctl datastore migrate unlock";

/// The words after `ipam`.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum IpamCommand {
    /// Show how full pools are, who has an address, or the settings
    #[command(after_help = SHOW_EXAMPLES)]
    Show(IpamShow),
    /// Say who has an address, in the classic words
    #[command(after_help = "Examples:\n  calicoctl ipam info 192.168.0.7")]
    Info(IpamInfo),
    /// Find leaked addresses and what contradicts itself
    #[command(after_help = CHECK_EXAMPLES)]
    Check(IpamCheck),
    /// Make addresses free
    #[command(after_help = RELEASE_EXAMPLES)]
    Release(IpamRelease),
    /// Change how addresses are given out
    #[command(after_help = CONFIGURE_EXAMPLES)]
    Configure(IpamConfigure),
    /// Cut a pool into smaller ones
    #[command(after_help = SPLIT_EXAMPLES)]
    Split(IpamSplit),
    /// Mend what contradicts itself
    #[command(after_help = REPAIR_EXAMPLES)]
    Repair(IpamRepair),
}

/// `ipam show`
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct IpamShow {
    /// Who has this address
    #[arg(long, value_name = "IP")]
    pub(crate) ip: Option<String>,
    /// The pools with their blocks
    #[arg(long)]
    pub(crate) show_blocks: bool,
    /// Addresses that are on another host than their block
    #[arg(long)]
    pub(crate) show_borrowed: bool,
    /// The settings
    #[arg(long)]
    pub(crate) show_configuration: bool,
    /// How it is printed.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// The datastore.
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// `ipam info`
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct IpamInfo {
    /// The address
    #[arg(value_name = "IP")]
    pub(crate) address: String,
    /// How it is printed.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// The datastore.
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// `ipam check`
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct IpamCheck {
    /// Print all addresses that are looked at
    #[arg(long)]
    pub(crate) show_all_ips: bool,
    /// Print the addresses with a problem
    #[arg(long)]
    pub(crate) show_problem_ips: bool,
    /// Also look at affinities, counts of handles, and addresses with two users
    #[arg(long)]
    pub(crate) deep: bool,
    /// Write a report for programs; `-` writes it, and nothing else, to standard output
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    pub(crate) report: Option<String>,
    /// Accepted for scripts of Kubernetes clusters; nothing is read from it
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<String>,
    /// The datastore.
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// `ipam release`
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct IpamRelease {
    /// An address, answered in the classic words
    #[arg(value_name = "IP", conflicts_with_all = ["ip", "reports", "handle"])]
    pub(crate) address: Option<String>,
    /// An address
    #[arg(long, value_name = "IP")]
    pub(crate) ip: Option<String>,
    /// All addresses of a handle
    #[arg(long, value_name = "HANDLE", conflicts_with_all = ["ip", "reports"])]
    pub(crate) handle: Option<String>,
    /// The leaked addresses and handles of a report of `ipam check -o`
    #[arg(long = "from-report", value_name = "REPORT")]
    pub(crate) reports: Vec<String>,
    /// With --from-report: although the datastore is not locked, or the report is another version's
    #[arg(long)]
    pub(crate) force: bool,
    /// The datastore.
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// `ipam configure`
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct IpamConfigure {
    /// true: hosts use their own blocks only and borrow no addresses
    #[arg(long = "strictaffinity", value_name = "true|false")]
    pub(crate) strict_affinity: Option<String>,
    /// false: hosts claim no blocks by themselves (with strict affinity only)
    #[arg(long, value_name = "true|false")]
    pub(crate) auto_allocate_blocks: Option<String>,
    /// How many blocks a host may own; 0 for the default of 20 (with strict affinity only)
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub(crate) max_blocks_per_host: Option<String>,
    /// How long a released address rests before it is used again
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    pub(crate) ip_cooldown_seconds: Option<String>,
    /// Whether virtual machines of KubeVirt keep their addresses
    #[arg(long, value_name = "Enabled|Disabled")]
    pub(crate) kubevirt_ip_persistence: Option<String>,
    /// The datastore.
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// `ipam split`
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct IpamSplit {
    /// Into how many: a power of two
    #[arg(value_name = "NUMBER", allow_negative_numbers = true)]
    pub(crate) number: String,
    /// The pool with this range
    #[arg(long, value_name = "CIDR")]
    pub(crate) cidr: Option<String>,
    /// The pool with this name
    #[arg(long, value_name = "POOL")]
    pub(crate) name: Option<String>,
    /// The datastore.
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// `ipam repair`
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct IpamRepair {
    /// Although the datastore is not locked: nobody assigns addresses at this moment
    #[arg(long)]
    pub(crate) force: bool,
    /// How it is printed.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
    /// The datastore.
    #[command(flatten)]
    pub(crate) connection: Connection,
}

impl IpamCommand {
    /// The form in which the result was asked for.
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Show(show) => show.output.format,
            Self::Info(info) => info.output.format,
            Self::Repair(repair) => repair.output.format,
            Self::Check(_) | Self::Release(_) | Self::Configure(_) | Self::Split(_) => Format::Table,
        }
    }

    /// What was said of the datastore.
    pub(crate) fn connection(&self) -> Option<&Connection> {
        Some(match self {
            Self::Show(show) => &show.connection,
            Self::Info(info) => &info.connection,
            Self::Check(check) => &check.connection,
            Self::Release(release) => &release.connection,
            Self::Configure(configure) => &configure.connection,
            Self::Split(split) => &split.connection,
            Self::Repair(repair) => &repair.connection,
        })
    }
}
