//! `calicoctl container …`

use clap::{Args, Subcommand};

use super::{OutputArgs, ProfileChange};

pub(super) const USAGE: &str = "\
calicoctl container add <CONTAINER> [IP]... [--interface=<INTERFACE>] [--label=<KEY=VALUE>]...
       calicoctl container remove <CONTAINER>
       calicoctl container <CONTAINER> ip (add|remove) <IP> [--interface=<INTERFACE>]
       calicoctl container <CONTAINER> endpoint show [-o <FORMAT>]
       calicoctl container <CONTAINER> profile (append|remove|set) [PROFILE]...
       calicoctl container <CONTAINER> label (set|remove) <LABEL>...
       calicoctl container <CONTAINER> label show [-o <FORMAT>]";

pub(super) const EXAMPLES: &str = "\
A container is given by name, by id, by the beginning of its id, or by the path of a network
namespace. It must run on this host, with --net=none or on a bridge, but not with --net=host.

Examples:
  calicoctl container add workload_A                          a free IPv4 address
  calicoctl container add workload_A 192.168.0.1              this address
  calicoctl container add workload_A ipv4 ipv6                one of each family
  calicoctl container workload_A profile set PROF_A_B
  calicoctl container workload_A ip add fd80:24e2:f998:72d6::1
  calicoctl container workload_A endpoint show
  calicoctl container remove workload_A";

const ADD_EXAMPLES: &str = "\
The endpoint gets the labels given here, and those of the container whose names begin with org.projectcalico.label.:
docker run --label org.projectcalico.label.role=web gives role=web.

Examples:
  calicoctl container add workload_A                     a free IPv4 address
  calicoctl container add workload_A ipv6                a free IPv6 address
  calicoctl container add workload_A 192.168.0.1         this address
  calicoctl container add workload_A 192.168.0.0/16      a free address of this pool
  calicoctl container add workload_A ipv4 ipv6           one of each family
  calicoctl container add workload_A --label role=web    with a label for policies
  calicoctl container add /var/run/netns/blue            a network namespace";

const REMOVE_EXAMPLES: &str = "\
Works for stopped and deleted containers too.

Examples:
  calicoctl container remove workload_A
  calicoctl container remove 4f2a91c07f1e                the id, if the container is gone";

const IP_USAGE: &str = "calicoctl container <CONTAINER> ip (add|remove) <IP> [--interface=<INTERFACE>]";
const IP_EXAMPLES: &str = "\
Examples:
  calicoctl container workload_A ip add fd80:24e2:f998:72d6::1
  calicoctl container workload_A ip remove 192.168.0.1";
const IP_ADD_USAGE: &str = "calicoctl container <CONTAINER> ip add <IP> [--interface=<INTERFACE>]";
const IP_ADD_EXAMPLES: &str = "\
Examples:
  calicoctl container workload_A ip add 192.168.0.7
  calicoctl container workload_A ip add ipv6             a free IPv6 address";
const IP_REMOVE_USAGE: &str = "calicoctl container <CONTAINER> ip remove <IP> [--interface=<INTERFACE>]";
const IP_REMOVE_EXAMPLES: &str = "\
Examples:
  calicoctl container workload_A ip remove 192.168.0.7";

const ENDPOINT_USAGE: &str = "calicoctl container <CONTAINER> endpoint show [-o <FORMAT>]";
const ENDPOINT_EXAMPLES: &str = "\
Examples:
  calicoctl container workload_A endpoint show
  calicoctl container workload_A endpoint show -o yaml";

const PROFILE_USAGE: &str = "calicoctl container <CONTAINER> profile (append|remove|set) [PROFILE]...";
const PROFILE_EXAMPLES: &str = "\
Examples:
  calicoctl container workload_A profile set PROF_A_B
  calicoctl container workload_A profile append PROF_C PROF_D
  calicoctl container workload_A profile remove PROF_C
  calicoctl container workload_A profile set             no profile at all: nothing passes";
const PROFILE_APPEND_USAGE: &str = "calicoctl container <CONTAINER> profile append [PROFILE]...";
const PROFILE_REMOVE_USAGE: &str = "calicoctl container <CONTAINER> profile remove [PROFILE]...";
const PROFILE_SET_USAGE: &str = "calicoctl container <CONTAINER> profile set [PROFILE]...";

const LABEL_USAGE: &str = "calicoctl container <CONTAINER> label [set|remove|show] [LABEL]...";
const LABEL_EXAMPLES: &str = "\
Labels are what the selectors of policies match. Without a verb they are shown, or set if there are any.

Examples:
  calicoctl container workload_A label set role=web zone=a
  calicoctl container workload_A label remove zone
  calicoctl container workload_A label show";
const LABEL_SET_USAGE: &str = "calicoctl container <CONTAINER> label set <KEY=VALUE>...";
const LABEL_REMOVE_USAGE: &str = "calicoctl container <CONTAINER> label remove <KEY>...";
const LABEL_SHOW_USAGE: &str = "calicoctl container <CONTAINER> label show [-o <FORMAT>]";

/// What to do with containers.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum ContainerCommand {
    /// Give a running container an interface and an address
    #[command(after_help = ADD_EXAMPLES)]
    Add(ContainerAdd),
    /// Take a container's interfaces and addresses away
    #[command(after_help = REMOVE_EXAMPLES)]
    Remove {
        /// Name, id, beginning of an id, or path of a network namespace
        container: String,
    },
    /// Add or remove an address of a container
    #[command(override_usage = IP_USAGE, after_help = IP_EXAMPLES)]
    Ip {
        /// What to do.
        #[command(subcommand)]
        command: ContainerIpCommand,
    },
    /// Show a container's endpoints
    #[command(override_usage = ENDPOINT_USAGE, after_help = ENDPOINT_EXAMPLES)]
    Endpoint {
        /// What to do.
        #[command(subcommand)]
        command: ContainerEndpointCommand,
    },
    /// Say which profiles a container has
    #[command(override_usage = PROFILE_USAGE, after_help = PROFILE_EXAMPLES)]
    Profile {
        /// What to do.
        #[command(subcommand)]
        command: ContainerProfileCommand,
    },
    /// Show or change a container's labels
    #[command(override_usage = LABEL_USAGE, after_help = LABEL_EXAMPLES)]
    Label {
        /// What to do.
        #[command(subcommand)]
        command: ContainerLabelCommand,
    },
}

/// `container <CONTAINER> label …`
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum ContainerLabelCommand {
    /// Give labels, in place of those with the same keys
    #[command(override_usage = LABEL_SET_USAGE, after_help = LABEL_EXAMPLES)]
    Set(ContainerLabels),
    /// Take labels away
    #[command(override_usage = LABEL_REMOVE_USAGE, after_help = LABEL_EXAMPLES)]
    Remove(ContainerLabels),
    /// List the labels
    #[command(override_usage = LABEL_SHOW_USAGE, after_help = LABEL_EXAMPLES)]
    Show {
        /// Name, id, beginning of an id, or path of a network namespace
        container: String,
        /// How to print it.
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// One container and labels.
#[derive(Debug, PartialEq, Args)]
pub(crate) struct ContainerLabels {
    /// Name, id, beginning of an id, or path of a network namespace
    pub(crate) container: String,
    /// Labels: KEY=VALUE to set them, KEY to remove them
    #[arg(value_name = "LABEL", required = true)]
    pub(crate) labels: Vec<String>,
}

/// `container add`
#[derive(Debug, PartialEq, Args)]
pub(crate) struct ContainerAdd {
    /// Name, id, beginning of an id, or path of a network namespace
    pub(crate) container: String,
    /// An address, `ipv4`, `ipv6`, or the CIDR of a pool to pick from
    #[arg(value_name = "IP", default_value = "ipv4")]
    pub(crate) addresses: Vec<String>,
    /// Name of the interface in the container
    #[arg(long, default_value = "eth1", value_name = "INTERFACE")]
    pub(crate) interface: String,
    /// A label of the endpoint, for the selectors of policies; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<String>,
}

/// `container <CONTAINER> ip …`
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum ContainerIpCommand {
    /// Add an address
    #[command(override_usage = IP_ADD_USAGE, after_help = IP_ADD_EXAMPLES)]
    Add(ContainerIp),
    /// Remove an address
    #[command(override_usage = IP_REMOVE_USAGE, after_help = IP_REMOVE_EXAMPLES)]
    Remove(ContainerIp),
}

/// One container and one address.
#[derive(Debug, PartialEq, Args)]
pub(crate) struct ContainerIp {
    /// Name, id, beginning of an id, or path of a network namespace
    pub(crate) container: String,
    /// The address; to add, also `ipv4`, `ipv6`, or the CIDR of a pool to pick from
    #[arg(value_name = "IP")]
    pub(crate) address: String,
    /// Name of the interface in the container
    #[arg(long, default_value = "eth1", value_name = "INTERFACE")]
    pub(crate) interface: String,
}

/// `container <CONTAINER> endpoint …`
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum ContainerEndpointCommand {
    /// Show the container's endpoints
    #[command(override_usage = ENDPOINT_USAGE, after_help = ENDPOINT_EXAMPLES)]
    Show {
        /// Name, id, beginning of an id, or path of a network namespace
        container: String,
        /// How to print it.
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// `container <CONTAINER> profile …`
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum ContainerProfileCommand {
    /// Add profiles behind those that the container has
    #[command(override_usage = PROFILE_APPEND_USAGE, after_help = PROFILE_EXAMPLES)]
    Append(ContainerProfiles),
    /// Take profiles away
    #[command(override_usage = PROFILE_REMOVE_USAGE, after_help = PROFILE_EXAMPLES)]
    Remove(ContainerProfiles),
    /// Replace all profiles; with none given the container has none
    #[command(override_usage = PROFILE_SET_USAGE, after_help = PROFILE_EXAMPLES)]
    Set(ContainerProfiles),
}

/// One container and profiles.
#[derive(Debug, PartialEq, Args)]
pub(crate) struct ContainerProfiles {
    /// Name, id, beginning of an id, or path of a network namespace
    pub(crate) container: String,
    /// Profiles, in order of evaluation
    #[arg(value_name = "PROFILE")]
    pub(crate) profiles: Vec<String>,
}

impl ContainerProfileCommand {
    /// The container, what to do, and the profiles.
    pub(crate) fn parts(&self) -> (&str, ProfileChange, &[String]) {
        let (change, words) = match self {
            Self::Append(words) => (ProfileChange::Append, words),
            Self::Remove(words) => (ProfileChange::Remove, words),
            Self::Set(words) => (ProfileChange::Set, words),
        };
        (&words.container, change, &words.profiles)
    }
}
