//! `calicoctl create|apply|replace|patch|delete|get|label|validate`: the v3 resources as they are.

use clap::Args;

use super::Probation;

pub(super) const CREATE_EXAMPLES: &str = "\
Examples:
  calicoctl create -f policy.yaml
  calicoctl create -f policies/ -R --skip-exists
  calicoctl create -n production -f -            YAML or JSON from standard input";

pub(super) const APPLY_EXAMPLES: &str = "\
What is not there is created; what is there is replaced as a whole, labels and annotations too.

Examples:
  calicoctl apply -f policy.yaml
  calicoctl apply -f policies/ -R
  calicoctl apply -f policies/ --confirm 60s     taken back unless confirmed in time
  calicoctl apply -f -                           YAML or JSON from standard input";

pub(super) const REPLACE_EXAMPLES: &str = "\
Examples:
  calicoctl replace -f pool.yaml
  calicoctl replace -f policies/ -R";

pub(super) const PATCH_EXAMPLES: &str = "\
The patch is a part of the resource, in JSON or YAML: its members replace those of the resource, null takes a member
away, lists are replaced as a whole.

Examples:
  calicoctl patch ippool default-ipv4-ippool -p '{\"spec\":{\"disabled\":true}}'
  calicoctl patch node host-1 -p '{\"spec\":{\"bgp\":{\"asNumber\":65001}}}'
  calicoctl patch networkpolicy web -n production -p '{\"spec\":{\"order\":null}}'";

pub(super) const DELETE_EXAMPLES: &str = "\
A node takes with it all that belongs to it: its endpoints and their addresses, its own settings and BGP peers.

Examples:
  calicoctl delete globalnetworkpolicy deny-all
  calicoctl delete ippool pool-1 pool-2 --skip-not-exists
  calicoctl delete networkpolicy web -n production
  calicoctl delete -f policies/";

pub(super) const GET_EXAMPLES: &str = "\
Forms (-o):
  ps                    a table (the default)
  wide                  a table with more columns
  custom-columns=A,B    a table with these columns of the wide one
  name                  kind/name, one a line
  json, yaml            the resources themselves; what is printed can be applied again
  go-template=T, go-template-file=FILE
                        a template over the list of what was found. Understood are fields,
                        variables, range, if, with, comments, trimming, comparisons, and or not,
                        index, len, print, printf, println, join, joinAndTruncate and config.
                        Fields are named as in JSON or as in Go.

Kinds are given in singular, plural or short, in any case: policy (np), globalnetworkpolicy (gnp), tier,
networkset, globalnetworkset, hostendpoint (hep), workloadendpoint (wep), profile (pro), ippool (pool),
ipreservation, node (no), bgppeer (bgpp), bgpfilter (bgpf), bgpconfiguration (bgpconfig), felixconfiguration
(felixconfig), ipamconfiguration (ipamconfig), clusterinformation (clusterinfo), caliconodestatus (nodestatus),
kubecontrollersconfiguration, stagednetworkpolicy (snp), stagedglobalnetworkpolicy (sgnp),
stagedkubernetesnetworkpolicy (sknp).

Examples:
  calicoctl get nodes -o wide
  calicoctl get networkpolicy -A
  calicoctl get ippool default-ipv4-ippool -o yaml --export
  calicoctl get workloadendpoints -A --watch
  calicoctl get nodes -o custom-columns=NAME,IPV4
  calicoctl get -f policies/ -o json";

pub(super) const LABEL_EXAMPLES: &str = "\
Examples:
  calicoctl label nodes host-1 rack=1
  calicoctl label nodes host-1 rack=2 --overwrite
  calicoctl label nodes host-1 rack --remove
  calicoctl label hostendpoint host-1-eth0 role=edge";

pub(super) const VALIDATE_EXAMPLES: &str = "\
Needs no datastore, so what depends on it (whether a tier exists, whether pools overlap) is not looked at.

Examples:
  calicoctl validate -f policy.yaml
  calicoctl validate -f policies/ -R";

/// Which datastore, and how strictly.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct Connection {
    /// File with the datastore's settings, instead of the environment
    #[arg(short = 'c', long, value_name = "FILE", help_heading = "Datastore")]
    pub(crate) config: Option<String>,
    /// Go on although the cluster is of another version than calicoctl
    #[arg(long, help_heading = "Datastore")]
    pub(crate) allow_version_mismatch: bool,
    /// A Kubernetes context; of no use with etcd, so it is refused
    #[arg(long, value_name = "CONTEXT", hide = true)]
    pub(crate) context: Option<String>,
    /// What is told on standard error: panic, fatal, error, warn, info or debug
    #[arg(short = 'l', long, value_name = "LEVEL", help_heading = "Datastore")]
    pub(crate) log_level: Option<String>,
}

/// Where resources are read from.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct Files {
    /// File or directory with resources in YAML or JSON; `-` for standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub(crate) files: Vec<String>,
    /// Also the directories in a directory
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// Do nothing, successfully, if there are no resources in the files
    #[arg(long)]
    pub(crate) skip_empty: bool,
}

/// The namespace of resources that do not say theirs.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct Namespace {
    /// The namespace; `default` if it is given nowhere
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
}

/// `create`
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct Create {
    /// What.
    #[command(flatten)]
    pub(crate) files: Files,
    /// Leave alone, successfully, what is there already
    #[arg(long)]
    pub(crate) skip_exists: bool,
    /// For how long.
    #[command(flatten)]
    pub(crate) probation: Probation,
    /// Whose.
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// Where.
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// `apply` and `replace`
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct Write {
    /// What.
    #[command(flatten)]
    pub(crate) files: Files,
    /// For how long.
    #[command(flatten)]
    pub(crate) probation: Probation,
    /// Whose.
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// Where.
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// Resources by kind and name.
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct Named {
    /// The kind, in singular, plural or short
    #[arg(value_name = "KIND", conflicts_with = "files", required_unless_present = "files")]
    pub(crate) kind: Option<String>,
    /// The names
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
}

/// `delete`
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct Delete {
    /// What, by name.
    #[command(flatten)]
    pub(crate) named: Named,
    /// What, by files.
    #[command(flatten)]
    pub(crate) files: Files,
    /// Pass over, successfully, what is not there
    #[arg(short = 's', long)]
    pub(crate) skip_not_exists: bool,
    /// For how long.
    #[command(flatten)]
    pub(crate) probation: Probation,
    /// Whose.
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// Where.
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// `get`
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct Get {
    /// What, by name; without names all of a kind.
    #[command(flatten)]
    pub(crate) named: Named,
    /// What, by files.
    #[command(flatten)]
    pub(crate) files: Files,
    /// Form of the result, see below
    #[arg(short = 'o', long = "output", value_name = "FORM", default_value = "ps")]
    pub(crate) output: String,
    /// Those of all namespaces
    #[arg(short = 'A', long, visible_short_alias = 'a')]
    pub(crate) all_namespaces: bool,
    /// Without what belongs to this cluster only: uid, resourceVersion, time, namespace (with names)
    #[arg(long)]
    pub(crate) export: bool,
    /// Go on, and print every change until interrupted
    #[arg(short = 'w', long, conflicts_with = "files")]
    pub(crate) watch: bool,
    /// Whose.
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// Where.
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// `patch`
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct Patch {
    /// The kind, in singular, plural or short
    #[arg(value_name = "KIND")]
    pub(crate) kind: String,
    /// The name
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// The patch
    #[arg(short = 'p', long, value_name = "PATCH")]
    pub(crate) patch: String,
    /// Accepted and ignored, as upstream does: a patch is always merged
    #[arg(short = 't', long = "type", value_name = "TYPE", hide_possible_values = true)]
    #[arg(value_parser = ["strategic", "json", "merge"])]
    pub(crate) kind_of_patch: Option<String>,
    /// For how long.
    #[command(flatten)]
    pub(crate) probation: Probation,
    /// Whose.
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// Where.
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// `label`
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct Label {
    /// The kind, in singular, plural or short
    #[arg(value_name = "KIND")]
    pub(crate) kind: String,
    /// The name
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// The label, KEY=VALUE; to take it away, KEY
    #[arg(value_name = "LABEL")]
    pub(crate) label: String,
    /// Change the value if the label is there
    #[arg(long, conflicts_with = "remove")]
    pub(crate) overwrite: bool,
    /// Take the label away
    #[arg(long)]
    pub(crate) remove: bool,
    /// Whose.
    #[command(flatten)]
    pub(crate) namespace: Namespace,
    /// Where.
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// `validate`
#[derive(Clone, Debug, Default, PartialEq, Args)]
pub(crate) struct Validate {
    /// What.
    #[command(flatten)]
    pub(crate) files: Files,
}
