//! `calicoctl bgp …`, and the words that `calicoctl node bgp …` shares with it.

use clap::{Args, Subcommand};

use super::{Connection, OutputArgs};
use crate::output::Format;

pub(super) const USAGE: &str = "\
calicoctl bgp peer add <PEER_IP> as <AS_NUM> [--port=<PORT>] [--keep-next-hop]
                      [--filter=<NAME>]...
                      [--password-file=<FILE> | --password-secret=<NAME/KEY>]
       calicoctl bgp peer remove <PEER_IP> [--port=<PORT>]
       calicoctl bgp peer show [--ipv4 | --ipv6] [-o <FORMAT>]
       calicoctl bgp node-mesh [on|off]
       calicoctl bgp default-node-as [AS_NUM]";

pub(super) const EXAMPLES: &str = "\
Every host talks BGP with every other (the mesh) and with the global peers. To change a cluster
from the one to the other add the peers first, see in `calicoctl status` that their sessions
are up, then switch the mesh off.

Examples:
  calicoctl bgp peer add 192.0.2.10 as 64555
  calicoctl bgp peer show
  calicoctl bgp node-mesh off
  calicoctl bgp default-node-as 64512";

const PEER_USAGE: &str = "\
calicoctl bgp peer add <PEER_IP> as <AS_NUM> [OPTIONS]
       calicoctl bgp peer remove <PEER_IP> [--port=<PORT>]
       calicoctl bgp peer show [--ipv4 | --ipv6] [-o <FORMAT>]";
const PEER_EXAMPLES: &str = "\
Examples:
  calicoctl bgp peer add 192.0.2.10 as 64555
  calicoctl bgp peer show --ipv4
  calicoctl bgp peer remove 192.0.2.10";
const PEER_ADD_USAGE: &str = "calicoctl bgp peer add <PEER_IP> as <AS_NUM> [OPTIONS]";
const PEER_ADD_EXAMPLES: &str = "\
A peer that is there already gets the AS number and the options given; what is not given stays
as it is. A password is kept in a file that only root can read, on each host that peers:
/etc/calico/bgp-secrets/NAME/KEY. It is shown nowhere; a host without that file has no session
with the peer.

Examples:
  calicoctl bgp peer add 192.0.2.10 as 64555
  calicoctl bgp peer add 2001:db8::a as 4294.566 --port=1790
  calicoctl bgp peer add 192.0.2.10 as 64555 --password-file=/root/tor.password
  calicoctl bgp peer add 192.0.2.10 as 64555 --password-secret=tor/rack1
  calicoctl bgp peer add 192.0.2.10 as 64555 --keep-next-hop --filter=only-pools";
const PEER_REMOVE_USAGE: &str = "calicoctl bgp peer remove <PEER_IP> [--port=<PORT>]";
const PEER_REMOVE_EXAMPLES: &str = "\
Examples:
  calicoctl bgp peer remove 192.0.2.10";
const PEER_SHOW_USAGE: &str = "calicoctl bgp peer show [--ipv4 | --ipv6] [-o <FORMAT>]";
const PEER_SHOW_EXAMPLES: &str = "\
Peers that were made by `calicoctl apply` are shown too, also those that choose their hosts or
neighbours by selector.

Examples:
  calicoctl bgp peer show
  calicoctl bgp peer show --ipv6 -o yaml";
const MESH_EXAMPLES: &str = "\
Without a word it is shown. With the mesh off, hosts talk BGP with their configured peers only.

Examples:
  calicoctl bgp node-mesh
  calicoctl bgp node-mesh off";
const DEFAULT_AS_EXAMPLES: &str = "\
Without a number it is shown. Hosts that were started with a number of their own keep that.

Examples:
  calicoctl bgp default-node-as
  calicoctl bgp default-node-as 64555
  calicoctl bgp default-node-as 4294.566";

/// The words after `bgp`.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum BgpCommand {
    /// Add, remove and show the BGP peers of all hosts
    #[command(subcommand_required = true, arg_required_else_help = true)]
    #[command(override_usage = PEER_USAGE, after_help = PEER_EXAMPLES)]
    Peer {
        /// What to do.
        #[command(subcommand)]
        command: PeerCommand,
    },
    /// Show or set whether every host talks BGP with every other
    #[command(after_help = MESH_EXAMPLES)]
    NodeMesh {
        /// on or off
        #[arg(value_name = "on|off", value_parser = ["on", "off"], hide_possible_values = true)]
        state: Option<String>,
        /// How to print it.
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show or set the AS number of hosts that have none of their own
    #[command(after_help = DEFAULT_AS_EXAMPLES)]
    DefaultNodeAs {
        /// The number, 1 to 4294967295, or dotted as 4294.566
        #[arg(value_name = "AS_NUM")]
        as_number: Option<String>,
        /// How to print it.
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// `bgp peer …`
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum PeerCommand {
    /// Let all hosts talk BGP with a neighbour
    #[command(override_usage = PEER_ADD_USAGE, after_help = PEER_ADD_EXAMPLES)]
    Add(PeerAdd),
    /// End that
    #[command(override_usage = PEER_REMOVE_USAGE, after_help = PEER_REMOVE_EXAMPLES)]
    Remove(PeerRemove),
    /// List the peers of all hosts
    #[command(override_usage = PEER_SHOW_USAGE, after_help = PEER_SHOW_EXAMPLES)]
    Show(PeerShow),
}

/// A neighbour and how to talk with it.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct PeerAdd {
    /// The neighbour's address
    #[arg(value_name = "PEER_IP")]
    pub(crate) address: String,
    /// The word `as`
    #[arg(value_name = "as", value_parser = ["as"], hide_possible_values = true)]
    pub(crate) word: String,
    /// The neighbour's AS number, 1 to 4294967295, or dotted as 4294.566
    #[arg(value_name = "AS_NUM")]
    pub(crate) as_number: String,
    /// The neighbour's TCP port; 179 if left out
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<String>,
    /// Take the password (TCP MD5) from this file and keep it on this host; `-` for standard input
    #[arg(long, value_name = "FILE", conflicts_with = "password_secret")]
    pub(crate) password_file: Option<String>,
    /// The password is in /etc/calico/bgp-secrets/NAME/KEY on each host that peers
    #[arg(long, value_name = "NAME/KEY")]
    pub(crate) password_secret: Option<String>,
    /// Announce routes to the neighbour with the next hop that they were learned with
    #[arg(long)]
    pub(crate) keep_next_hop: bool,
    /// A BGPFilter for what is exchanged; may be given several times, the order counts
    #[arg(long = "filter", value_name = "NAME")]
    pub(crate) filters: Vec<String>,
}

/// A neighbour.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct PeerRemove {
    /// The neighbour's address
    #[arg(value_name = "PEER_IP")]
    pub(crate) address: String,
    /// The neighbour's TCP port, if there are several neighbours at the address
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<String>,
}

/// Which peers to show, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Args)]
pub(crate) struct PeerShow {
    /// IPv4 peers only
    #[arg(long, conflicts_with = "ipv6")]
    pub(crate) ipv4: bool,
    /// IPv6 peers only
    #[arg(long)]
    pub(crate) ipv6: bool,
    /// How to print it.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl BgpCommand {
    /// The form in which the result was asked for.
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Peer { command: PeerCommand::Show(show) } => show.output.format,
            Self::Peer { .. } => Format::Table,
            Self::NodeMesh { output, .. } | Self::DefaultNodeAs { output, .. } => output.format,
        }
    }

    /// What was said of the datastore.
    pub(crate) fn connection(&self) -> Option<&Connection> {
        None
    }
}

const NODE_USAGE: &str = "\
calicoctl node bgp peer add <PEER_IP> as <AS_NUM> [OPTIONS]
       calicoctl node bgp peer remove <PEER_IP> [--port=<PORT>]
       calicoctl node bgp peer show [--ipv4 | --ipv6] [-o <FORMAT>]";
pub(super) const NODE_EXAMPLES: &str = "\
These are the peers of this host alone; those of all hosts: calicoctl bgp peer.

Examples:
  calicoctl node bgp peer add 192.0.2.10 as 64555
  calicoctl node bgp peer show
  calicoctl node bgp peer remove 192.0.2.10";
const NODE_ADD_USAGE: &str = "calicoctl node bgp peer add <PEER_IP> as <AS_NUM> [OPTIONS]";
const NODE_ADD_EXAMPLES: &str = "\
A peer that is there already gets the AS number and the options given; what is not given stays
as it is. A password is kept in a file that only root can read, and shown nowhere:
/etc/calico/bgp-secrets/NAME/KEY.

Examples:
  calicoctl node bgp peer add 192.0.2.10 as 64555
  calicoctl node bgp peer add 192.0.2.10 as 64555 --password-file=/root/tor.password
  calicoctl node bgp peer add 2001:db8::a as 4294.566 --port=1790 --filter=only-pools";
const NODE_REMOVE_USAGE: &str = "calicoctl node bgp peer remove <PEER_IP> [--port=<PORT>]";
const NODE_REMOVE_EXAMPLES: &str = "\
Examples:
  calicoctl node bgp peer remove 192.0.2.10";
const NODE_SHOW_USAGE: &str = "calicoctl node bgp peer show [--ipv4 | --ipv6] [-o <FORMAT>]";
const NODE_SHOW_EXAMPLES: &str = "\
Peers that choose this host by selector are shown too; those of all hosts are not.

Examples:
  calicoctl node bgp peer show
  calicoctl node bgp peer show --ipv4 -o json";

/// The words after `node bgp`.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum NodeBgpCommand {
    /// Add, remove and show the BGP peers of this host alone
    #[command(subcommand_required = true, arg_required_else_help = true)]
    #[command(override_usage = NODE_USAGE, after_help = NODE_EXAMPLES)]
    Peer {
        /// What to do.
        #[command(subcommand)]
        command: NodePeerCommand,
    },
}

/// `node bgp peer …`
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum NodePeerCommand {
    /// Let this host talk BGP with a neighbour
    #[command(override_usage = NODE_ADD_USAGE, after_help = NODE_ADD_EXAMPLES)]
    Add(PeerAdd),
    /// End that
    #[command(override_usage = NODE_REMOVE_USAGE, after_help = NODE_REMOVE_EXAMPLES)]
    Remove(PeerRemove),
    /// List the peers of this host
    #[command(override_usage = NODE_SHOW_USAGE, after_help = NODE_SHOW_EXAMPLES)]
    Show(PeerShow),
}

impl NodeBgpCommand {
    /// The form in which the result was asked for.
    pub(crate) fn format(&self) -> Format {
        match self {
            Self::Peer { command: NodePeerCommand::Show(show) } => show.output.format,
            Self::Peer { .. } => Format::Table,
        }
    }
}
