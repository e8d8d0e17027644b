//! `calicoctl pool …`

use clap::{Args, Subcommand, ValueEnum};

use super::{Connection, OutputArgs};
use crate::output::Format;

pub(super) const USAGE: &str = "\
calicoctl pool add <CIDR>... [OPTIONS]
       calicoctl pool range add <START_IP> <END_IP> [OPTIONS]
       calicoctl pool remove <CIDR>... [-o <FORMAT>]
       calicoctl pool show [--ipv4 | --ipv6] [-o <FORMAT>]

Options: [--nat-outgoing] [--ipip[=<MODE>] | --vxlan[=<MODE>]] [--disabled]
         [--block-size=<LENGTH>]";

pub(super) const EXAMPLES: &str = "\
Examples:
  calicoctl pool add 192.168.0.0/16 --nat-outgoing
  calicoctl pool add 10.10.0.0/16 --vxlan=CrossSubnet --block-size=28
  calicoctl pool range add 172.24.0.0 172.24.25.255
  calicoctl pool show
  calicoctl pool remove 192.168.0.0/16";

const ADD_EXAMPLES: &str = "\
A pool is the range that containers get their addresses from. Adding one that is there sets its
options anew: those that are not given are switched off.

Examples:
  calicoctl pool add 192.168.0.0/16 fd80:24e2:f998:72d6::/64
  calicoctl pool add 192.168.0.0/16 --nat-outgoing        out with the host's address
  calicoctl pool add 10.10.0.0/16 --vxlan                 over networks that do not know it
  calicoctl pool add 10.10.0.0/16 --vxlan=CrossSubnet     … only between subnets
  calicoctl pool add 10.20.0.0/28 --block-size=29         smaller than a block of /26
  calicoctl pool add 10.30.0.0/16 --disabled              nobody gets an address of it";

const RANGE_EXAMPLES: &str = "\
The range, both ends included, becomes as few pools as possible.

Examples:
  calicoctl pool range add 172.24.0.0 172.24.25.255
  calicoctl pool range add fd00::1:0 fd00::2:ffff --nat-outgoing";

const REMOVE_EXAMPLES: &str = "\
A pool may be given by name too. Addresses that are in use stay with their containers and are
listed; they are neither announced to other hosts nor masqueraded any more.

Examples:
  calicoctl pool remove 192.168.0.0/16
  calicoctl pool remove 10.10.0.0/16 fd80:24e2:f998:72d6::/64 -o json";

const SHOW_EXAMPLES: &str = "\
Examples:
  calicoctl pool show
  calicoctl pool show --ipv4 -o wide                        with names, blocks and use
  calicoctl pool show -o json";

/// The words after `pool`.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum PoolCommand {
    /// Add pools, or set the options of those that are there
    #[command(after_help = ADD_EXAMPLES)]
    Add {
        /// The pools' ranges, as 192.168.0.0/16
        #[arg(value_name = "CIDR", required = true)]
        cidrs: Vec<String>,
        /// What they are like.
        #[command(flatten)]
        options: PoolOptions,
    },
    /// Add pools that together are a range of addresses
    #[command(subcommand_required = true, arg_required_else_help = true, after_help = RANGE_EXAMPLES)]
    Range {
        /// What to do.
        #[command(subcommand)]
        command: PoolRangeCommand,
    },
    /// Remove pools
    #[command(after_help = REMOVE_EXAMPLES)]
    Remove {
        /// The pools' ranges, or their names
        #[arg(value_name = "CIDR", required = true)]
        cidrs: Vec<String>,
        /// How to print what still uses them.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// List the pools
    #[command(after_help = SHOW_EXAMPLES)]
    Show {
        /// Only IPv4 pools
        #[arg(long, conflicts_with = "ipv6")]
        ipv4: bool,
        /// Only IPv6 pools
        #[arg(long)]
        ipv6: bool,
        /// Form of the result: table, wide, json or yaml
        #[arg(short = 'o', long = "output", value_enum, default_value_t, value_name = "FORMAT")]
        #[arg(hide_possible_values = true)]
        output: PoolFormat,
    },
}

/// `pool range …`
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum PoolRangeCommand {
    /// Add pools that together are a range of addresses
    #[command(after_help = RANGE_EXAMPLES)]
    Add {
        /// The first address
        #[arg(value_name = "START_IP")]
        start: String,
        /// The last address
        #[arg(value_name = "END_IP")]
        end: String,
        /// What the pools are like.
        #[command(flatten)]
        options: PoolOptions,
    },
}

/// What a pool is like.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct PoolOptions {
    /// Give traffic that leaves all pools the host's address
    #[arg(long)]
    pub(crate) nat_outgoing: bool,
    /// Carry traffic between hosts in IP-in-IP: Always, CrossSubnet
    #[arg(long, value_name = "MODE", value_enum, ignore_case = true, hide_possible_values = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "Always", conflicts_with = "vxlan")]
    pub(crate) ipip: Option<TunnelMode>,
    /// Carry traffic between hosts in VXLAN: Always, CrossSubnet
    #[arg(long, value_name = "MODE", value_enum, ignore_case = true, hide_possible_values = true)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "Always")]
    pub(crate) vxlan: Option<TunnelMode>,
    /// Give out no addresses of it
    #[arg(long)]
    pub(crate) disabled: bool,
    /// Prefix length of the blocks that hosts claim: 20 to 32, IPv6 116 to 128
    #[arg(long, value_name = "LENGTH")]
    pub(crate) block_size: Option<String>,
}

/// When traffic between hosts is encapsulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TunnelMode {
    /// Between all hosts.
    #[value(name = "Always")]
    Always,
    /// Between hosts of different subnets.
    #[value(name = "CrossSubnet", alias = "cross-subnet")]
    CrossSubnet,
}

/// The form of the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PoolFormat {
    /// The classic tables.
    #[default]
    Table,
    /// One table with all there is to say.
    Wide,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

impl PoolCommand {
    /// The form in which the result was asked for.
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Show { output: PoolFormat::Json, .. } => Format::Json,
            Self::Show { output: PoolFormat::Yaml, .. } => Format::Yaml,
            Self::Remove { output, .. } => output.format,
            _ => Format::Table,
        }
    }

    /// What was said of the datastore.
    pub(crate) fn connection(&self) -> Option<&Connection> {
        None
    }
}
