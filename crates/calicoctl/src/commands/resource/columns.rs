//! The tables of `get`: which columns each kind has, and what stands in them.

use calico_model::KindName;
use serde_json::Value;

use crate::failure::Failure;

/// The cluster's AS number where nobody set one.
pub(super) const DEFAULT_AS: &str = "64512";

/// Where a cell comes from.
#[derive(Clone, Copy)]
enum Source {
    /// A member as it is; nothing where it is absent.
    Member(&'static str),
    /// A member, or these words where it is absent.
    MemberOr(&'static str, &'static str),
    /// A list, joined by commas.
    Commas(&'static str),
    /// A list joined by commas, cut to 80 characters.
    Cut(&'static str),
    /// How many there are.
    Count(&'static str),
    /// `key=value` pairs.
    Pairs(&'static str),
    /// Whom a peer is for.
    PeerNode,
    /// A node's AS number; that of the cluster in parentheses.
    NodeAs,
    /// Addresses and what stands for them outside.
    Nats,
    /// A Kubernetes selector.
    PodSelector,
}

use Source::{Commas, Count, Cut, Member, MemberOr, Nats, NodeAs, Pairs, PeerNode, PodSelector};

/// A heading and what stands below.
#[derive(Clone, Copy)]
struct Column(&'static str, Source);

/// The columns of the simple table, of the wide one, and those for `custom-columns` alone.
struct Columns {
    simple: &'static [Column],
    wide: &'static [Column],
    more: &'static [Column],
}

const NAME: Column = Column("NAME", Member("/metadata/name"));
const NAMESPACE: Column = Column("NAMESPACE", Member("/metadata/namespace"));
const JUST_NAME: &[Column] = &[NAME];
const TIER: Column = Column("TIER", MemberOr("/spec/tier", "default"));
const POLICY: &[Column] = &[NAME, TIER];
const POLICY_WIDE: &[Column] =
    &[NAME, TIER, Column("ORDER", MemberOr("/spec/order", "-")), Column("SELECTOR", Member("/spec/selector"))];
const NETS_WIDE: &[Column] = &[NAME, Column("NETS", Cut("/spec/nets"))];

/// The same columns in both tables.
const fn both(columns: &'static [Column]) -> Columns {
    Columns { simple: columns, wide: columns, more: &[] }
}

const fn two(simple: &'static [Column], wide: &'static [Column]) -> Columns {
    Columns { simple, wide, more: &[] }
}

fn columns(kind: KindName) -> Columns {
    match kind {
        KindName::BGPConfiguration => both(&[
            NAME,
            Column("LOGSEVERITY", Member("/spec/logSeverityScreen")),
            Column("MESHENABLED", MemberOr("/spec/nodeToNodeMeshEnabled", "-")),
            Column("ASNUMBER", MemberOr("/spec/asNumber", "-")),
        ]),
        KindName::BGPFilter => both(&[
            NAME,
            Column("NUMEXPORTV4", Count("/spec/exportV4")),
            Column("NUMIMPORTV4", Count("/spec/importV4")),
            Column("NUMEXPORTV6", Count("/spec/exportV6")),
            Column("NUMIMPORTV6", Count("/spec/importV6")),
        ]),
        KindName::BGPPeer => both(&[
            NAME,
            Column("PEERIP", Member("/spec/peerIP")),
            Column("NODE", PeerNode),
            Column("ASN", MemberOr("/spec/asNumber", "0")),
        ]),
        KindName::ClusterInformation => both(&[
            NAME,
            Column("CLUSTERGUID", Member("/spec/clusterGUID")),
            Column("CLUSTERTYPE", Member("/spec/clusterType")),
            Column("CALICOVERSION", Member("/spec/calicoVersion")),
            Column("DATASTOREREADY", MemberOr("/spec/datastoreReady", "false")),
        ]),
        KindName::GlobalNetworkPolicy
        | KindName::NetworkPolicy
        | KindName::StagedGlobalNetworkPolicy
        | KindName::StagedNetworkPolicy => two(POLICY, POLICY_WIDE),
        KindName::GlobalNetworkSet | KindName::NetworkSet => two(JUST_NAME, NETS_WIDE),
        KindName::HostEndpoint => two(
            &[NAME, Column("NODE", Member("/spec/node"))],
            &[
                NAME,
                Column("NODE", Member("/spec/node")),
                Column("INTERFACE", Member("/spec/interfaceName")),
                Column("IPS", Commas("/spec/expectedIPs")),
                Column("PROFILES", Commas("/spec/profiles")),
            ],
        ),
        KindName::IPAMConfiguration => two(
            &[
                NAME,
                Column("STRICTAFFINITY", MemberOr("/spec/strictAffinity", "false")),
                Column("AUTOALLOCATEBLOCKS", MemberOr("/spec/autoAllocateBlocks", "false")),
            ],
            &[
                NAME,
                Column("STRICTAFFINITY", MemberOr("/spec/strictAffinity", "false")),
                Column("AUTOALLOCATEBLOCKS", MemberOr("/spec/autoAllocateBlocks", "false")),
                Column("MAXBLOCKSPERHOST", MemberOr("/spec/maxBlocksPerHost", "0")),
            ],
        ),
        KindName::IPPool => pool_columns(),
        KindName::IPReservation => two(JUST_NAME, &[NAME, Column("CIDRS", Commas("/spec/reservedCIDRs"))]),
        KindName::CalicoNodeStatus => two(
            &[NAME, Column("NODE", Member("/spec/node"))],
            &[NAME, Column("NODE", Member("/spec/node")), Column("CLASSES", Commas("/spec/classes"))],
        ),
        KindName::Node => two(
            JUST_NAME,
            &[
                NAME,
                Column("ASN", NodeAs),
                Column("IPV4", Member("/spec/bgp/ipv4Address")),
                Column("IPV6", Member("/spec/bgp/ipv6Address")),
            ],
        ),
        KindName::Profile => two(JUST_NAME, &[NAME, Column("LABELS", Pairs("/spec/labelsToApply"))]),
        KindName::StagedKubernetesNetworkPolicy => two(JUST_NAME, &[NAME, Column("PODSELECTOR", PodSelector)]),
        KindName::Tier => both(&[NAME, Column("ORDER", MemberOr("/spec/order", "1000000"))]),
        KindName::WorkloadEndpoint => endpoint_columns(),
        KindName::BlockAffinity | KindName::FelixConfiguration | KindName::KubeControllersConfiguration => {
            both(JUST_NAME)
        }
    }
}

fn pool_columns() -> Columns {
    two(
        &[NAME, Column("CIDR", Member("/spec/cidr")), Column("SELECTOR", Member("/spec/nodeSelector"))],
        &[
            NAME,
            Column("CIDR", Member("/spec/cidr")),
            Column("NAT", MemberOr("/spec/natOutgoing", "false")),
            Column("IPIPMODE", Member("/spec/ipipMode")),
            Column("VXLANMODE", Member("/spec/vxlanMode")),
            Column("DISABLED", MemberOr("/spec/disabled", "false")),
            Column("DISABLEBGPEXPORT", MemberOr("/spec/disableBGPExport", "false")),
            Column("SELECTOR", Member("/spec/nodeSelector")),
            Column("ASSIGNMENTMODE", Member("/spec/assignmentMode")),
        ],
    )
}

fn endpoint_columns() -> Columns {
    const SIMPLE: [Column; 4] = [
        Column("WORKLOAD", Member("/spec/workload")),
        Column("NODE", Member("/spec/node")),
        Column("NETWORKS", Commas("/spec/ipNetworks")),
        Column("INTERFACE", Member("/spec/interfaceName")),
    ];
    const WIDE: [Column; 7] = [
        NAME,
        SIMPLE[0],
        SIMPLE[1],
        SIMPLE[2],
        SIMPLE[3],
        Column("PROFILES", Commas("/spec/profiles")),
        Column("NATS", Nats),
    ];
    Columns { simple: &SIMPLE, wide: &WIDE, more: &[Column("ORCHESTRATOR", Member("/spec/orchestrator"))] }
}

/// Which columns were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Simple,
    Wide,
    Custom(Vec<String>),
}

/// What a table is made of.
pub(super) struct Layout {
    columns: Vec<Column>,
}

impl Layout {
    /// The columns for a kind.
    ///
    /// # Errors
    /// A heading that the kind has not.
    pub(super) fn new(kind: KindName, wanted: &Wanted, with_namespace: bool) -> Result<Self, Failure> {
        let known = columns(kind);
        let with_namespace = with_namespace && kind.is_namespaced();
        let mut columns: Vec<Column> = Vec::new();
        columns.extend(with_namespace.then_some(NAMESPACE));
        match wanted {
            Wanted::Simple => columns.extend(known.simple),
            Wanted::Wide => columns.extend(known.wide),
            Wanted::Custom(headings) => {
                let namespace: &[Column] = if kind.is_namespaced() { &[NAMESPACE] } else { &[] };
                let all: Vec<Column> = [&[NAME], known.wide, known.more, namespace].concat();
                for heading in headings {
                    let found = all.iter().find(|column| column.0 == heading).copied();
                    columns.push(found.ok_or_else(|| unknown(kind, heading, &all))?);
                }
            }
        }
        Ok(Self { columns })
    }

    /// The first row.
    pub(super) fn headings(&self) -> Vec<String> {
        self.columns.iter().map(|column| column.0.to_owned()).collect()
    }

    /// The row of a resource. `as_number` is the cluster's.
    pub(super) fn row(&self, resource: &Value, as_number: &str) -> Vec<String> {
        self.columns.iter().map(|column| cell(column.1, resource, as_number)).collect()
    }
}

fn unknown(kind: KindName, heading: &str, all: &[Column]) -> Failure {
    let mut names: Vec<&str> = all.iter().map(|column| column.0).collect();
    names.sort_unstable();
    names.dedup();
    Failure::new(format!("Unknown heading {heading:?}."))
        .hint(format!("the columns of a {kind} are {}", names.join(", ")))
}

fn cell(source: Source, resource: &Value, as_number: &str) -> String {
    let member = |path: &str| resource.pointer(path).filter(|value| !value.is_null());
    let text = |path: &str| member(path).map(plain).unwrap_or_default();
    let list = |path: &str| member(path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let commas = |path: &str| list(path).iter().map(plain).collect::<Vec<_>>().join(",");
    match source {
        Member(path) => text(path),
        MemberOr(path, absent) => member(path).map_or_else(|| absent.to_owned(), plain),
        Commas(path) => commas(path),
        Cut(path) => cut(&commas(path)),
        Count(path) => list(path).len().to_string(),
        Pairs(path) => pairs(member(path)),
        PeerNode => match (text("/spec/node"), text("/spec/nodeSelector")) {
            (node, selector) if node.is_empty() && selector.is_empty() => "(global)".to_owned(),
            (node, selector) if node.is_empty() => selector,
            (node, _) => node,
        },
        NodeAs => match (member("/spec/bgp"), member("/spec/bgp/asNumber")) {
            (_, Some(own)) => plain(own),
            (Some(_), None) => format!("({as_number})"),
            (None, None) => String::new(),
        },
        Nats => {
            let part = |nat: &Value, name: &str| nat.get(name).map(plain).unwrap_or_default();
            let nats = list("/spec/ipNATs").iter();
            nats.map(|nat| format!("{}->{}", part(nat, "externalIP"), part(nat, "internalIP")))
                .collect::<Vec<_>>()
                .join(",")
        }
        PodSelector => pod_selector(member("/spec/podSelector")),
    }
}

/// A value as a person writes it.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn cut(text: &str) -> String {
    const MOST: usize = 80;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    text.chars().take(MOST).chain("...".chars()).collect()
}

fn pairs(map: Option<&Value>) -> String {
    let map = map.and_then(Value::as_object);
    let pairs = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", plain(value)));
    pairs.collect::<Vec<_>>().join(",")
}

/// As `kubectl` writes label selectors.
fn pod_selector(selector: Option<&Value>) -> String {
    let Some(selector) = selector else { return String::new() };
    let mut terms = vec![pairs(selector.get("matchLabels"))];
    for term in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
        let part = |name: &str| term.get(name).map(plain).unwrap_or_default();
        let values = term.get("values").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let values = values.iter().map(plain).collect::<Vec<_>>().join(",");
        terms.push(match part("operator").as_str() {
            "In" => format!("{} in ({values})", part("key")),
            "NotIn" => format!("{} notin ({values})", part("key")),
            "DoesNotExist" => format!("!{}", part("key")),
            _ => part("key"),
        });
    }
    terms.retain(|term| !term.is_empty());
    terms.join(",")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn row(kind: KindName, wanted: &Wanted, resource: &Value) -> Vec<String> {
        Layout::new(kind, wanted, false).unwrap().row(resource, "64512")
    }

    #[test]
    fn what_upstream_crashes_on_is_shown() {
        let filter = json!({"metadata": {"name": "f"}, "spec": {"exportV4": [{"action": "Accept"}], "importV6": []}});
        assert_eq!(row(KindName::BGPFilter, &Wanted::Simple, &filter), ["f", "1", "0", "0", "0"]);
        let nats = json!([{"internalIP": "10.0.0.1", "externalIP": "192.0.2.1"}]);
        let endpoint = json!({"metadata": {"name": "e"}, "spec": {"workload": "w", "ipNATs": nats}});
        assert_eq!(row(KindName::WorkloadEndpoint, &Wanted::Wide, &endpoint)[6], "192.0.2.1->10.0.0.1");
        let expressions =
            json!([{"key": "b", "operator": "In", "values": ["x", "y"]}, {"key": "c", "operator": "Exists"}]);
        let selector = json!({"matchLabels": {"a": "1"}, "matchExpressions": expressions});
        let policy = json!({"metadata": {"name": "k"}, "spec": {"podSelector": selector}});
        let cells = row(KindName::StagedKubernetesNetworkPolicy, &Wanted::Wide, &policy);
        assert_eq!(cells, ["k", "a=1,b in (x,y),c"]);
    }

    #[test]
    fn long_lists_of_networks_are_cut() {
        let nets: Vec<String> = (0..20).map(|n| format!("10.0.{n}.0/24")).collect();
        let cells =
            row(KindName::NetworkSet, &Wanted::Wide, &json!({"metadata": {"name": "s"}, "spec": {"nets": nets}}));
        assert_eq!(cells[1].len(), 83);
        assert!(cells[1].ends_with("..."));
    }

    #[test]
    fn headings_that_a_kind_has_not_are_named_with_those_it_has() {
        let wanted = Wanted::Custom(vec!["NAME".into(), "COLOUR".into()]);
        let refused = Layout::new(KindName::Tier, &wanted, false).map(|_| ()).unwrap_err().to_string();
        assert!(refused.contains("COLOUR") && refused.contains("NAME, ORDER"), "{refused}");
        let wanted = Wanted::Custom(vec!["ORCHESTRATOR".into(), "NAMESPACE".into()]);
        assert!(Layout::new(KindName::WorkloadEndpoint, &wanted, false).is_ok());
    }
}
