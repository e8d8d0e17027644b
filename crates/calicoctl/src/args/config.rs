//! `calicoctl config …`

use clap::{Args, Subcommand};

use super::{Connection, OutputArgs};
use crate::output::Format;

pub(super) const USAGE: &str = "\
calicoctl config (felix | bgp | node felix | node bgp) [--all] [-o <FORMAT>]
       calicoctl config (felix | bgp | node felix | node bgp) <NAME>
                        [<VALUE> | --remove] [--force]";

pub(super) const EXAMPLES: &str = "\
Names are those of the fields of FelixConfiguration and BGPConfiguration, in any case;
`loglevel` is how much is logged: debug, info, warning, error, critical, none. A setting of
this host (node …) wins over that of the cluster.

Examples:
  calicoctl config felix                                  what is set
  calicoctl config felix --all                            everything that can be set
  calicoctl config felix loglevel debug
  calicoctl config felix defaultEndpointToHostAction Accept
  calicoctl config felix failsafeInboundHostPorts tcp:22,udp:68
  calicoctl config bgp listenPort 1790
  calicoctl config node bgp loglevel --remove";

const FELIX_EXAMPLES: &str = "\
Lists have commas between their items, durations are such as 90s (a number alone is seconds),
`none` is the empty list.

Examples:
  calicoctl config felix
  calicoctl config felix loglevel
  calicoctl config felix loglevel debug
  calicoctl config felix reportingInterval 60s
  calicoctl config felix failsafeInboundHostPorts none
  calicoctl config felix vxlanMTU --remove";
const BGP_EXAMPLES: &str = "\
Examples:
  calicoctl config bgp
  calicoctl config bgp loglevel info
  calicoctl config bgp serviceClusterIPs 10.96.0.0/12,fd00:96::/112
  calicoctl config bgp nodeMeshPassword mesh/password
  calicoctl config bgp listenPort --remove";
const NODE_EXAMPLES: &str = "\
Examples:
  calicoctl config node bgp loglevel debug
  calicoctl config node felix loglevel --remove";
const NODE_FELIX_EXAMPLES: &str = "\
Examples:
  calicoctl config node felix
  calicoctl config node felix loglevel debug";
const NODE_BGP_EXAMPLES: &str = "\
Examples:
  calicoctl config node bgp
  calicoctl config node bgp loglevel debug";

/// The words after `config`.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Settings of felix, the policy agent, on all hosts
    #[command(after_help = FELIX_EXAMPLES)]
    Felix(Setting),
    /// Settings of BGP on all hosts
    #[command(after_help = BGP_EXAMPLES)]
    Bgp(Setting),
    /// Settings of this host alone
    #[command(subcommand_required = true, arg_required_else_help = true, after_help = NODE_EXAMPLES)]
    Node {
        /// Of what.
        #[command(subcommand)]
        command: NodeConfigCommand,
    },
}

/// The words after `config node`.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum NodeConfigCommand {
    /// Settings of felix on this host
    #[command(after_help = NODE_FELIX_EXAMPLES)]
    Felix(Setting),
    /// Settings of BGP on this host
    #[command(after_help = NODE_BGP_EXAMPLES)]
    Bgp(Setting),
}

/// One setting, or all.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct Setting {
    /// The setting; without one all that are set are listed
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Its new value; without one it is shown
    #[arg(value_name = "VALUE")]
    pub(crate) value: Option<String>,
    /// Take the value away, so that the default holds again
    #[arg(long, conflicts_with = "value", requires = "name")]
    pub(crate) remove: bool,
    /// Also a parameter of felix that has no field: stored unchecked, as an annotation, for upstream's felix alone
    #[arg(long, requires = "name")]
    pub(crate) force: bool,
    /// List also what can be set and is not
    #[arg(long, conflicts_with = "name")]
    pub(crate) all: bool,
    /// How to print it.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl ConfigCommand {
    /// What is to be done with which setting.
    pub(crate) fn setting(&self) -> &Setting {
        match self {
            Self::Felix(setting) | Self::Bgp(setting) => setting,
            Self::Node { command: NodeConfigCommand::Felix(setting) | NodeConfigCommand::Bgp(setting) } => setting,
        }
    }

    /// The form in which the result was asked for.
    pub(crate) fn format(&self) -> Format {
        self.setting().output.format
    }

    /// What was said of the datastore.
    pub(crate) fn connection(&self) -> Option<&Connection> {
        None
    }
}
