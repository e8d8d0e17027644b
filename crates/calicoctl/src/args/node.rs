//! `calicoctl node …`

use clap::{Args, Subcommand};

use super::{Checksystem, Diags, OutputArgs, bgp, checksystem, diags};

const EXAMPLES: &str = "\
Without a word after it, `calicoctl node` starts the service: it checks this host, starts the
unit calico-node.service where the package is installed, or else the container calico-node, and
waits until it has started. A second call replaces what runs; endpoints keep working.

What is left out is, for the container, detected (--ip) or cleared (--ip6, --as). For the unit,
what is given is written into /etc/calico/calico.env, and what is left out stays as that file says.

Examples:
  calicoctl node
  calicoctl node --ip=10.0.0.5 --ip6=fd00::5
  calicoctl node --runtime=docker              the container, although the package is installed
  calicoctl node --as=64555 --no-pull --node-image=calico/node:v0.1.0
  calicoctl node --runtime=none                prepare the datastore, print what to run
  calicoctl node invite                        on the first host: a line to paste on the next one
  calicoctl node --join=10.0.0.1:2379 --token=- --ca-fingerprint=sha256:…     the token is typed
  calicoctl node show
  calicoctl node stop
  calicoctl node remove";

/// The image of the service, if no other is named.
pub(crate) const NODE_IMAGE: &str = "calico/node";

/// `node`, alone or with a word behind.
#[derive(Debug, PartialEq, Args)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub(crate) struct NodeArgs {
    /// What to do; nothing starts the service.
    #[command(subcommand)]
    pub(crate) command: Option<NodeCommand>,
    /// How to start.
    #[command(flatten)]
    pub(crate) start: NodeStart,
    /// Whose datastore to use from now on.
    #[command(flatten)]
    pub(crate) join: NodeJoin,
}

/// The options of joining the datastore of another host: the line that `node invite` prints there.
#[derive(Clone, Debug, Default, PartialEq, Args)]
#[command(next_help_heading = "Joining another host")]
pub(crate) struct NodeJoin {
    /// Use the datastore that the host at this address keeps
    #[arg(long, value_name = "ADDRESS:PORT", requires = "ca_fingerprint")]
    pub(crate) join: Option<String>,
    /// The invitation's token, or `-` to read it from standard input; asked for if left out
    #[arg(long, value_name = "TOKEN", requires = "join")]
    pub(crate) token: Option<String>,
    /// The fingerprint of the authority to believe
    #[arg(long, value_name = "sha256:HEX", requires = "join")]
    pub(crate) ca_fingerprint: Option<String>,
    /// Join although this host has a datastore, or belongs to another one: its files are kept aside
    #[arg(long, requires = "join")]
    pub(crate) leave_own_datastore: bool,
}

/// The options of starting.
#[derive(Clone, Debug, PartialEq, Args)]
pub(crate) struct NodeStart {
    /// This host's IPv4 address for BGP; detected if left out
    #[arg(long, value_name = "IP", default_value = "", hide_default_value = true)]
    pub(crate) ip: String,
    /// This host's IPv6 address for BGP; none if left out
    #[arg(long, value_name = "IP6", default_value = "", hide_default_value = true)]
    pub(crate) ip6: String,
    /// This host's AS number; the cluster's if left out
    #[arg(long = "as", value_name = "AS_NUM", default_value = "", hide_default_value = true)]
    pub(crate) as_number: String,
    /// This host's name in the datastore; HOSTNAME or the host's own if left out
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub(crate) name: String,
    /// The image of the service
    #[arg(long, value_name = "IMAGE", default_value = NODE_IMAGE)]
    pub(crate) node_image: String,
    /// What runs the service: `systemd` (the package's unit), `docker`, `auto` for the first of them that is there, or
    /// `none` to prepare the datastore and be told what to run
    #[arg(long, value_name = "RUNTIME", default_value = "auto")]
    pub(crate) runtime: String,
    /// Where the service writes its logs on this host
    #[arg(long, value_name = "DIR", default_value = "/var/log/calico")]
    pub(crate) log_dir: String,
    /// `false`: stay, print the service's log, and stop the service at the end
    #[arg(long, value_name = "true|false", default_value = "true")]
    pub(crate) detach: String,
    /// Use the image as it is on this host
    #[arg(long)]
    pub(crate) no_pull: bool,
    /// Serve Docker's own networks (`docker network create -d calico`); done where Docker is, if left out
    #[arg(long, conflicts_with = "no_libnetwork")]
    pub(crate) libnetwork: bool,
    /// Leave Docker's own networks alone
    #[arg(long)]
    pub(crate) no_libnetwork: bool,
}

/// The options of `node run`, as upstream spells the start.
#[derive(Clone, Debug, PartialEq, Args)]
pub(crate) struct NodeRun {
    /// How to start.
    #[command(flatten)]
    pub(crate) start: NodeStart,
    /// Create no address pools where there are none
    #[arg(long)]
    pub(crate) no_default_ippools: bool,
    /// What speaks BGP: `bird`
    #[arg(long, value_name = "BACKEND", default_value = "bird", hide_default_value = true, value_parser = ["bird"])]
    pub(crate) backend: String,
}

const RUN_EXAMPLES: &str = "\
The same as `calicoctl node`.

Examples:
  calicoctl node run
  calicoctl node run --ip=10.0.0.5 --name=host-1 --no-default-ippools";

/// What to do with nodes.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum NodeCommand {
    /// Start the service on this host, as `calicoctl node` does
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<NodeRun>),
    /// Stop the service on this host; the datastore keeps everything
    #[command(
        after_help = "Examples:\n  calicoctl node stop\n  calicoctl node stop --force      although containers have endpoints here"
    )]
    Stop {
        /// Stop although this host has endpoints
        #[arg(long)]
        force: bool,
    },
    /// Invite another host to the datastore that this one keeps: prints one line to paste there
    #[command(after_help = INVITE_EXAMPLES)]
    Invite(NodeInvite),
    /// Shut a host that joined out of the datastore, at once
    #[command(after_help = REVOKE_EXAMPLES)]
    Revoke(NodeRevoke),
    /// Take a host out of the datastore, with everything that belongs to it
    #[command(after_help = REMOVE_EXAMPLES)]
    Remove(NodeRemove),
    /// List the hosts and their BGP settings
    #[command(after_help = "Examples:\n  calicoctl node show\n  calicoctl node show -o yaml")]
    Show(OutputArgs),
    /// Say whether the service on this host is up and whom it talks BGP with: `calicoctl status`
    #[command(after_help = "Examples:\n  calicoctl node status\n  calicoctl node status -o json")]
    Status(OutputArgs),
    /// Set whom this host alone talks BGP with
    #[command(subcommand_required = true, arg_required_else_help = true, after_help = bgp::NODE_EXAMPLES)]
    Bgp {
        /// What to do.
        #[command(subcommand)]
        command: bgp::NodeBgpCommand,
    },
    /// Collect what is needed to find a fault into one archive, as `calicoctl diags` does
    #[command(after_help = diags::EXAMPLES)]
    Diags(Diags),
    /// Say what this host lacks, for which feature, as `calicoctl checksystem` does
    #[command(after_help = checksystem::EXAMPLES)]
    Checksystem(Checksystem),
}

const REMOVE_EXAMPLES: &str = "\
Examples:
  calicoctl node remove                                    this host
  calicoctl node remove --hostname=host-2                  another, which is gone for good
  calicoctl node remove --hostname=host-2 --remove-endpoints";

/// `node remove`
#[derive(Debug, Default, PartialEq, Args)]
pub(crate) struct NodeRemove {
    /// The host; this one if left out
    #[arg(long, value_name = "HOSTNAME")]
    pub(crate) hostname: Option<String>,
    /// Remove its endpoints and free their addresses too
    #[arg(long)]
    pub(crate) remove_endpoints: bool,
}

const INVITE_EXAMPLES: &str = "\
The first invitation opens TCP port 2379 of this host. Only hosts with a certificate reach the
datastore there; a token gets one host one certificate, once, and until it expires.

Examples:
  calicoctl node invite
  calicoctl node invite --ttl=15m --address=10.0.0.1
  calicoctl node invite --address=fd00::1 -o json";

/// `node invite`
#[derive(Debug, Default, PartialEq, Args)]
pub(crate) struct NodeInvite {
    /// How long the invitation is valid: 90s, 15m, 1h
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    pub(crate) ttl: String,
    /// The address or name of this host that the other one will use; the node's if left out
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) address: Option<String>,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

const REVOKE_EXAMPLES: &str = "\
The host is cut off and its certificate is worthless. What it keeps in the datastore stays until
`calicoctl node remove`. It can be invited again.

Examples:
  calicoctl node revoke host-2";

/// `node revoke`
#[derive(Debug, Default, PartialEq, Args)]
pub(crate) struct NodeRevoke {
    /// The host's name
    #[arg(value_name = "HOSTNAME")]
    pub(crate) host: String,
    /// How to print.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}
