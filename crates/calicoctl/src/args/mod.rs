//! What was typed. Nothing here says what it means: values stay the words that they were, so that every check of
//! their meaning happens in one place (the command) and all faults of one call can be told at once.
//!
//! The classic grammar puts some names before the verbs (`container C profile set P`); [`order`] turns such words
//! into the order of the parser's tree, in which the name comes last.

mod bgp;
mod checksystem;
mod completion;
mod config;
mod container;
mod datastore;
mod diags;
mod endpoint;
mod ipam;
mod manual;
mod node;
pub(crate) mod order;
mod policy;
mod pool;
mod profile;
pub(crate) mod prose;
mod resource;
mod status;
mod version;

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub(crate) use bgp::{BgpCommand, NodeBgpCommand, NodePeerCommand, PeerAdd, PeerCommand, PeerRemove, PeerShow};
pub(crate) use checksystem::Checksystem;
pub(crate) use completion::{Complete, CompletionShell};
pub(crate) use config::{ConfigCommand, NodeConfigCommand, Setting};
pub(crate) use container::{
    ContainerAdd, ContainerCommand, ContainerEndpointCommand, ContainerIp, ContainerIpCommand, ContainerLabelCommand,
};
pub(crate) use datastore::{
    DatastoreBackup, DatastoreCheck, DatastoreCommand, DatastoreCompact, Export, Import, Lock, Migrate, MigrateCommand,
};
pub(crate) use diags::Diags;
pub(crate) use endpoint::{
    EndpointCommand, EndpointFilter, EndpointLabelCommand, EndpointProfileCommand, EndpointShow, ProfileChange,
};
#[cfg(test)]
pub(crate) use ipam::IpamInfo;
pub(crate) use ipam::{IpamCheck, IpamCommand, IpamConfigure, IpamRelease, IpamRepair, IpamShow, IpamSplit};
pub(crate) use manual::Manual;
pub(crate) use node::{
    NODE_IMAGE, NodeArgs, NodeCommand, NodeInvite, NodeJoin, NodeRemove, NodeRevoke, NodeRun, NodeStart,
};
pub(crate) use policy::{Confirm, Plan, Probation, Rules, Way, Why};
pub(crate) use pool::{PoolCommand, PoolFormat, PoolOptions, PoolRangeCommand, TunnelMode};
pub(crate) use profile::{ProfileCommand, ProfileRuleCommand, ProfileTag, ProfileTagCommand, RuleDirection};
#[cfg(test)]
pub(crate) use resource::Named;
pub(crate) use resource::{Connection, Create, Delete, Files, Get, Label, Namespace, Patch, Validate, Write};
pub(crate) use status::Status;
pub(crate) use version::Version;

use crate::output::Format;

const ABOUT: &str = "Routed networking and label policy for containers";

const MAIN_EXAMPLES: &str = "\
Examples:
  calicoctl node                                        start the service on this host
  docker run --net=none --name=workload_A -tid ubuntu   a container without a network …
  calicoctl container add workload_A                    … gets an address and a route
  calicoctl profile add PROF_A_B                        a group whose members may talk
  calicoctl container workload_A profile set PROF_A_B   … with this one in it
  calicoctl apply -f policies/                          policies by label, for all hosts
  calicoctl why workload_A workload_B tcp 80            is it allowed, by which rule?
  calicoctl get nodes -o wide                           which hosts are there?
  calicoctl status                                      is all well on this host?

Environment:
  ETCD_ENDPOINTS   the datastore, http[s]://HOST:PORT[,…]; this host's own if unset
  ETCD_CA_CERT_FILE, ETCD_CERT_FILE, ETCD_KEY_FILE   files for https
  ETCD_USERNAME, ETCD_PASSWORD   for an etcd that asks for them
  /etc/calico/calicoctl.cfg      if it is there, the datastore's settings are read from it instead
  HOSTNAME         this host's name in the datastore   (default: the service's, else the host's)
  DOCKER_HOST      Docker's socket   (default unix:///var/run/docker.sock)

Exit codes: 0 done, 1 failed or interrupted, 2 not understood or not root; why: 3 denied; plan: 2 verdicts change.";

/// The whole command line.
#[derive(Debug, PartialEq, Parser)]
#[command(name = "calicoctl", about = ABOUT, after_help = MAIN_EXAMPLES, disable_version_flag = true)]
#[command(infer_long_args = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// The command; none asks for help.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// The commands, in help order.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum Command {
    /// Say whether the service on this host is up and whom it talks BGP with
    #[command(after_help = status::EXAMPLES)]
    Status(Status),
    /// Start, stop, remove or list hosts
    Node(Box<NodeArgs>),
    /// Give containers of this host addresses and profiles
    #[command(subcommand_required = true, arg_required_else_help = true)]
    #[command(override_usage = container::USAGE, after_help = container::EXAMPLES)]
    Container {
        /// What to do.
        #[command(subcommand)]
        command: ContainerCommand,
    },
    /// Show the endpoints of all hosts and set their profiles
    #[command(subcommand_required = true, arg_required_else_help = true)]
    #[command(override_usage = endpoint::USAGE, after_help = endpoint::EXAMPLES)]
    Endpoint {
        /// What to do.
        #[command(subcommand)]
        command: EndpointCommand,
    },
    /// Add, remove and show profiles
    #[command(subcommand_required = true, arg_required_else_help = true)]
    #[command(override_usage = profile::USAGE, after_help = profile::EXAMPLES)]
    Profile {
        /// What to do.
        #[command(subcommand)]
        command: ProfileCommand,
    },
    /// Add, remove and show address pools
    #[command(subcommand_required = true, arg_required_else_help = true)]
    #[command(override_usage = pool::USAGE, after_help = pool::EXAMPLES)]
    Pool {
        /// What to do.
        #[command(subcommand)]
        command: PoolCommand,
    },
    /// Set whom all hosts talk BGP with, and how
    #[command(subcommand_required = true, arg_required_else_help = true)]
    #[command(override_usage = bgp::USAGE, after_help = bgp::EXAMPLES)]
    Bgp {
        /// What to do.
        #[command(subcommand)]
        command: BgpCommand,
    },
    /// Show, check and release addresses
    #[command(subcommand_required = true, arg_required_else_help = true)]
    #[command(after_help = ipam::EXAMPLES)]
    Ipam {
        /// What to do.
        #[command(subcommand)]
        command: IpamCommand,
    },
    /// Print resources: policies, pools, nodes, endpoints …
    #[command(after_help = resource::GET_EXAMPLES)]
    Get(Get),
    /// Create resources from files
    #[command(after_help = resource::CREATE_EXAMPLES, mut_arg("files", |files| files.required(true)))]
    Create(Create),
    /// Create or replace resources from files
    #[command(after_help = resource::APPLY_EXAMPLES, mut_arg("files", |files| files.required(true)))]
    Apply(Write),
    /// Replace resources by those in files
    #[command(after_help = resource::REPLACE_EXAMPLES, mut_arg("files", |files| files.required(true)))]
    Replace(Write),
    /// Change members of a resource
    #[command(after_help = resource::PATCH_EXAMPLES)]
    Patch(Patch),
    /// Delete resources, by name or as in files
    #[command(after_help = resource::DELETE_EXAMPLES)]
    Delete(Delete),
    /// Set or remove a label of a resource
    #[command(after_help = resource::LABEL_EXAMPLES)]
    Label(Label),
    /// Check files with resources, and change nothing
    #[command(after_help = resource::VALIDATE_EXAMPLES, mut_arg("files", |files| files.required(true)))]
    Validate(Validate),
    /// Say why traffic is allowed or denied, and what would change that
    #[command(after_help = policy::WHY_EXAMPLES)]
    Why(Why),
    /// Show what applying files would change: rules by host, and verdicts
    #[command(after_help = policy::PLAN_EXAMPLES, mut_arg("files", |files| files.required(true)))]
    Plan(Plan),
    /// Print the rules of an endpoint of this host as the kernel holds them, with counters
    #[command(after_help = policy::RULES_EXAMPLES)]
    Rules(Rules),
    /// Keep a change that was made with --confirm
    #[command(after_help = policy::CONFIRM_EXAMPLES)]
    Confirm(Confirm),
    /// Show and set configuration values
    #[command(subcommand_required = true, arg_required_else_help = true)]
    #[command(override_usage = config::USAGE, after_help = config::EXAMPLES)]
    Config {
        /// What to do.
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Look after the datastore: status, backup, export, move to etcd
    #[command(subcommand_required = true, arg_required_else_help = true)]
    #[command(after_help = datastore::EXAMPLES)]
    Datastore {
        /// What to do.
        #[command(subcommand)]
        command: DatastoreCommand,
    },
    /// Collect what is needed to find a fault into one archive
    #[command(after_help = diags::EXAMPLES)]
    Diags(Diags),
    /// Say what this host lacks, for which feature, and the way out
    #[command(after_help = checksystem::EXAMPLES)]
    Checksystem(Checksystem),
    /// Print the versions of calicoctl and of the cluster
    #[command(after_help = version::EXAMPLES)]
    Version(Version),
    /// Write the manual pages into a folder
    #[command(name = "man", after_help = manual::EXAMPLES)]
    Manual(Manual),
    /// Print a completion script for a shell
    #[command(after_help = completion::EXAMPLES)]
    Completion {
        /// The shell: bash, zsh or fish
        #[arg(value_name = "SHELL", hide_possible_values = true)]
        shell: CompletionShell,
    },
    /// Say which words may follow, for the scripts that `completion` prints
    #[command(name = "__complete", hide = true, after_help = completion::COMPLETE_EXAMPLES)]
    Complete(Complete),
}

/// The option of everything that prints a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct OutputArgs {
    /// Form of the result: table, json or yaml
    #[arg(
        short = 'o',
        long = "output",
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        hide_possible_values = true
    )]
    pub(crate) format: Format,
}

/// The grammar, as it is parsed and explained.
pub(crate) fn tree() -> clap::Command {
    prose::flowing(Cli::command())
}

/// Reads a command line, the program's name included.
///
/// # Errors
/// The parser's error, which is also how it asks for a help page to be printed.
pub(crate) fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let command = tree();
    let argv = order::reorder(&command, argv.into_iter().collect());
    Cli::from_arg_matches(&command.try_get_matches_from(argv)?)
}

#[cfg(test)]
mod tests;
