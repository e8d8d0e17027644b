//! `calicoctl endpoint …`

use clap::{Args, Subcommand};

use super::OutputArgs;

pub(super) const USAGE: &str = "\
calicoctl endpoint show [FILTERS] [--detailed] [-o <FORMAT>]
       calicoctl endpoint <ENDPOINT_ID> profile (append|remove|set) [FILTERS] [PROFILE]...
       calicoctl endpoint <ENDPOINT_ID> profile show [FILTERS] [-o <FORMAT>]
       calicoctl endpoint <ENDPOINT_ID> label (set|remove) [FILTERS] <LABEL>...
       calicoctl endpoint <ENDPOINT_ID> label show [FILTERS] [-o <FORMAT>]

Filters: [--host=<HOST>] [--orchestrator=<ORCHESTRATOR>] [--workload=<WORKLOAD>]; show also [--endpoint=<ENDPOINT>]";

pub(super) const EXAMPLES: &str = "\
Examples:
  calicoctl endpoint show                                        how many on which host
  calicoctl endpoint show --detailed --host=host-1               each with addresses and profiles
  calicoctl endpoint 3f0c…(32 digits) profile append PROF_A_B
  calicoctl endpoint 3f0c…(32 digits) profile show
  calicoctl endpoint 3f0c…(32 digits) label set role=web";

const SHOW_EXAMPLES: &str = "\
State is `active` for a stored endpoint, and `inactive` for one of this host whose interface is gone.

Examples:
  calicoctl endpoint show
  calicoctl endpoint show --detailed
  calicoctl endpoint show --detailed --host=host-1 -o json";

const PROFILE_USAGE: &str = "calicoctl endpoint <ENDPOINT_ID> profile (append|remove|set|show) [FILTERS] [PROFILE]...";
const PROFILE_EXAMPLES: &str = "\
Examples:
  calicoctl endpoint 5a9d2c1e6b7f4e0d8c3b2a1f0e9d8c7b profile set PROF_A_B
  calicoctl endpoint 5a9d2c1e6b7f4e0d8c3b2a1f0e9d8c7b profile append PROF_C --host=host-1
  calicoctl endpoint 5a9d2c1e6b7f4e0d8c3b2a1f0e9d8c7b profile show -o json";
const APPEND_USAGE: &str = "calicoctl endpoint <ENDPOINT_ID> profile append [FILTERS] [PROFILE]...";
const REMOVE_USAGE: &str = "calicoctl endpoint <ENDPOINT_ID> profile remove [FILTERS] [PROFILE]...";
const SET_USAGE: &str = "calicoctl endpoint <ENDPOINT_ID> profile set [FILTERS] [PROFILE]...";
const SHOW_USAGE: &str = "calicoctl endpoint <ENDPOINT_ID> profile show [FILTERS] [-o <FORMAT>]";

const LABEL_USAGE: &str = "calicoctl endpoint <ENDPOINT_ID> label [set|remove|show] [FILTERS] [LABEL]...";
const LABEL_EXAMPLES: &str = "\
Labels are what the selectors of policies match. Without a verb they are shown, or set if there are any.

Examples:
  calicoctl endpoint 5a9d2c1e6b7f4e0d8c3b2a1f0e9d8c7b label set role=web zone=a
  calicoctl endpoint 5a9d2c1e6b7f4e0d8c3b2a1f0e9d8c7b label remove zone --host=host-1
  calicoctl endpoint 5a9d2c1e6b7f4e0d8c3b2a1f0e9d8c7b label show -o json";
const LABEL_SET_USAGE: &str = "calicoctl endpoint <ENDPOINT_ID> label set [FILTERS] <KEY=VALUE>...";
const LABEL_REMOVE_USAGE: &str = "calicoctl endpoint <ENDPOINT_ID> label remove [FILTERS] <KEY>...";
const LABEL_SHOW_USAGE: &str = "calicoctl endpoint <ENDPOINT_ID> label show [FILTERS] [-o <FORMAT>]";

/// What to do with endpoints.
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum EndpointCommand {
    /// Count endpoints by host, or list them
    #[command(after_help = SHOW_EXAMPLES)]
    Show(EndpointShow),
    /// Show or change the profiles of an endpoint
    #[command(override_usage = PROFILE_USAGE, after_help = PROFILE_EXAMPLES)]
    Profile {
        /// What to do.
        #[command(subcommand)]
        command: EndpointProfileCommand,
    },
    /// Show or change the labels of an endpoint
    #[command(override_usage = LABEL_USAGE, after_help = LABEL_EXAMPLES)]
    Label {
        /// What to do.
        #[command(subcommand)]
        command: EndpointLabelCommand,
    },
}

/// `endpoint <ENDPOINT_ID> label …`
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum EndpointLabelCommand {
    /// Give labels, in place of those with the same keys
    #[command(override_usage = LABEL_SET_USAGE, after_help = LABEL_EXAMPLES)]
    Set(EndpointLabels),
    /// Take labels away
    #[command(override_usage = LABEL_REMOVE_USAGE, after_help = LABEL_EXAMPLES)]
    Remove(EndpointLabels),
    /// List the labels
    #[command(override_usage = LABEL_SHOW_USAGE, after_help = LABEL_EXAMPLES)]
    Show {
        /// The endpoint's full id
        #[arg(value_name = "ENDPOINT_ID")]
        endpoint: String,
        /// Which of several.
        #[command(flatten)]
        filter: EndpointFilter,
        /// How to print it.
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// One endpoint and labels.
#[derive(Debug, PartialEq, Args)]
pub(crate) struct EndpointLabels {
    /// The endpoint's full id
    #[arg(value_name = "ENDPOINT_ID")]
    pub(crate) endpoint: String,
    /// Labels: KEY=VALUE to set them, KEY to remove them
    #[arg(value_name = "LABEL", required = true)]
    pub(crate) labels: Vec<String>,
    /// Which of several.
    #[command(flatten)]
    pub(crate) filter: EndpointFilter,
}

/// `endpoint show`
#[derive(Debug, Default, PartialEq, Args)]
pub(crate) struct EndpointShow {
    /// Which endpoints.
    #[command(flatten)]
    pub(crate) filter: EndpointFilter,
    /// Only the endpoint with this id
    #[arg(long, value_name = "ENDPOINT")]
    pub(crate) endpoint: Option<String>,
    /// One row for each endpoint
    #[arg(long)]
    pub(crate) detailed: bool,
    /// How to print it.
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Options that narrow down which endpoints are meant.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct EndpointFilter {
    /// Only endpoints of this host
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<String>,
    /// Only endpoints of this orchestrator, as `docker`
    #[arg(long, value_name = "ORCHESTRATOR")]
    pub(crate) orchestrator: Option<String>,
    /// Only endpoints of this workload; for Docker the full id of the container
    #[arg(long, value_name = "WORKLOAD")]
    pub(crate) workload: Option<String>,
}

/// `endpoint <ENDPOINT_ID> profile …`
#[derive(Debug, PartialEq, Subcommand)]
pub(crate) enum EndpointProfileCommand {
    /// Add profiles behind those that the endpoint has
    #[command(override_usage = APPEND_USAGE, after_help = PROFILE_EXAMPLES)]
    Append(EndpointProfiles),
    /// Take profiles away
    #[command(override_usage = REMOVE_USAGE, after_help = PROFILE_EXAMPLES)]
    Remove(EndpointProfiles),
    /// Replace all profiles; with none given the endpoint has none
    #[command(override_usage = SET_USAGE, after_help = PROFILE_EXAMPLES)]
    Set(EndpointProfiles),
    /// List the profiles
    #[command(override_usage = SHOW_USAGE, after_help = PROFILE_EXAMPLES)]
    Show {
        /// The endpoint's full id
        #[arg(value_name = "ENDPOINT_ID")]
        endpoint: String,
        /// Which of several.
        #[command(flatten)]
        filter: EndpointFilter,
        /// How to print it.
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// One endpoint and profiles.
#[derive(Debug, PartialEq, Args)]
pub(crate) struct EndpointProfiles {
    /// The endpoint's full id
    #[arg(value_name = "ENDPOINT_ID")]
    pub(crate) endpoint: String,
    /// Profiles, in order of evaluation
    #[arg(value_name = "PROFILE")]
    pub(crate) profiles: Vec<String>,
    /// Which of several.
    #[command(flatten)]
    pub(crate) filter: EndpointFilter,
}

/// What happens to an endpoint's profile list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProfileChange {
    /// Add at the end.
    Append,
    /// Take away.
    Remove,
    /// Replace.
    Set,
}
