//! The report that `ipam check -o` writes and `ipam release --from-report` reads: upstream's, member by member, so
//! that either program reads what the other wrote. `findings` is ours; upstream's skips it.

use std::collections::BTreeMap;

use calico_ipam::{Allocation, Audit, Finding, Snapshot};
use serde::{Deserialize, Serialize, Serializer};

/// The version in reports of ours. Upstream's refuses reports of another version than its own unless forced.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the report says of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cluster {
    pub(super) guid: String,
    pub(super) locked: bool,
    /// The revision of the ClusterInformation: it changes with the lock.
    pub(super) revision: String,
    pub(super) kind: String,
}

/// A report.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    #[serde(default)]
    pub(super) version: String,
    #[serde(default, rename = "clusterGUID")]
    pub(super) cluster_guid: String,
    #[serde(default)]
    pub(super) datastore_locked: bool,
    #[serde(default)]
    pub(super) cluster_information_revision: String,
    #[serde(default)]
    pub(super) cluster_type: String,
    /// By address; several where blocks overlap.
    #[serde(default)]
    pub(super) allocations: BTreeMap<String, Vec<Entry>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) leaked_handles: Vec<LeakedHandle>,
    /// Written only if it was asked for, and never read.
    #[serde(default, skip_serializing_if = "Option::is_none", skip_deserializing)]
    pub(super) findings: Option<Vec<Finding>>,
}

/// One allocated address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    pub(super) ip: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) handle: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sequence_number: Option<u64>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pod: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    namespace: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    node: String,
    #[serde(default, rename = "type", skip_serializing_if = "String::is_empty")]
    kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    creation_timestamp: String,
    #[serde(default)]
    pub(super) in_use: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    borrowed: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    cooling_down: bool,
    /// `null` for nobody.
    #[serde(default, serialize_with = "null_if_empty")]
    owners: Option<Vec<String>>,
}

/// A handle without addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeakedHandle {
    #[serde(rename = "ID")]
    pub(super) id: String,
    /// Kubernetes' identifier of the object; none here.
    #[serde(default, rename = "UID")]
    pub(super) uid: Option<String>,
    /// The revision of the handle's last write.
    #[serde(default, rename = "Revision")]
    pub(super) revision: String,
}

fn null_if_empty<S: Serializer>(owners: &Option<Vec<String>>, serializer: S) -> Result<S::Ok, S::Error> {
    owners.as_ref().filter(|owners| !owners.is_empty()).serialize(serializer)
}

impl Report {
    /// The report of an audit.
    pub(super) fn of(cluster: &Cluster, snapshot: &Snapshot, audit: &Audit, with_findings: bool) -> Self {
        let mut allocations: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
        for allocation in &audit.allocations {
            allocations.entry(allocation.address.to_string()).or_default().push(entry(allocation));
        }
        let leaked = |id: &calico_ipam::HandleId| {
            let revision = snapshot.handles.get(id).map(|(_, revision)| revision.to_string()).unwrap_or_default();
            LeakedHandle { id: id.to_string(), uid: None, revision }
        };
        Self {
            version: VERSION.to_owned(),
            cluster_guid: cluster.guid.clone(),
            datastore_locked: cluster.locked,
            cluster_information_revision: cluster.revision.clone(),
            cluster_type: cluster.kind.clone(),
            allocations,
            leaked_handles: audit.idle_handles.iter().map(leaked).collect(),
            findings: with_findings.then(|| audit.findings.clone()),
        }
    }
}

fn entry(allocation: &Allocation) -> Entry {
    let note = |name: &str| allocation.note(name).unwrap_or_default().to_owned();
    Entry {
        ip: allocation.address.to_string(),
        handle: allocation.handle().map(|handle| handle.to_string()).unwrap_or_default(),
        sequence_number: Some(allocation.sequence),
        pod: note("pod"),
        namespace: note("namespace"),
        node: allocation.node().to_owned(),
        kind: note("type"),
        creation_timestamp: note("timestamp"),
        in_use: !allocation.users.is_empty(),
        borrowed: allocation.is_borrowed(),
        cooling_down: allocation.is_cooling(),
        owners: Some(allocation.users.iter().map(ToString::to_string).collect()),
    }
}
