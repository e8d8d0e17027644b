//! Networks in the datastore: what makes a network of one host's Docker one of all hosts.
//!
//! One key for each name ([`NetworkRecord`]). The host on which `docker network create` ran is the record's origin: when the network is
//! removed there, the record goes, and with it the networks that other hosts made after it. Every write is by
//! compare-and-swap.
//!
//! Beside it each node notes under its own prefix what a driver is told of a network when it is created and never again
//! ([`LocalNetwork`]); requests about endpoints carry the network's id only.

use std::collections::BTreeMap;

use calico_model::Revision;
use calico_store::{Error, Kv};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The prefix of all records.
pub const NETWORK_ROOT: &str = "/calico/libnetwork/v1/networks/";

/// A network that exists on every host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkRecord {
    /// Its name in Docker.
    pub name: String,
    /// The node on which it was created.
    pub origin: String,
    /// Its id in that node's Docker.
    pub id: String,
    /// Ranges that were asked for, each a pool.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<IpNet>,
    /// Parts of these to take addresses from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_ranges: Vec<IpNet>,
    /// Without a way out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub internal: bool,
    /// With IPv6 addresses.
    #[serde(default, skip_serializing_if = "std::ops::Not::not", rename = "ipv6")]
    pub ipv6: bool,
    /// The IPAM driver's name: `calico-ipam` or `calico`.
    #[serde(default)]
    pub ipam_driver: String,
    /// Options of the driver.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
    /// Labels that people gave it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Members not known here.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl NetworkRecord {
    /// Where the record is stored.
    pub fn key(&self) -> String {
        format!("{NETWORK_ROOT}{}", self.name)
    }

    /// Whether a network made after this record would be another one than `other` says.
    pub(crate) fn differs_from(&self, other: &Self) -> Option<String> {
        let list = |nets: &[IpNet]| match nets {
            [] => "none".to_owned(),
            nets => nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        let word = |internal| if internal { "internal" } else { "not internal" };
        if self.subnets != other.subnets {
            Some(format!("subnet {} on {}, {} here", list(&self.subnets), self.origin, list(&other.subnets)))
        } else if self.ip_ranges != other.ip_ranges {
            Some(format!("range {} on {}, {} here", list(&self.ip_ranges), self.origin, list(&other.ip_ranges)))
        } else if self.internal != other.internal {
            Some(format!("{} on {}, {} here", word(self.internal), self.origin, word(other.internal)))
        } else {
            None
        }
    }
}

/// A record and the revision it was read at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub record: NetworkRecord,
    pub revision: Revision,
}

/// All records by name, and what cannot be read.
pub(crate) async fn list(kv: &dyn Kv) -> Result<(BTreeMap<String, Stored>, Vec<String>), Error> {
    let (mut good, mut bad) = (BTreeMap::new(), Vec::new());
    for entry in kv.list(NETWORK_ROOT).await?.entries {
        let name = entry.key.strip_prefix(NETWORK_ROOT).unwrap_or_default().to_owned();
        match serde_json::from_slice::<NetworkRecord>(&entry.value) {
            Ok(record) if record.name == name => {
                good.insert(name, Stored { record, revision: entry.revision });
            }
            Ok(record) => bad.push(format!("{} holds the record of network {:?}", entry.key, record.name)),
            Err(error) => bad.push(format!("{} cannot be read: {error}", entry.key)),
        }
    }
    Ok((good, bad))
}

/// Stores a new record; `false` if the name has one already.
pub(crate) async fn create(kv: &dyn Kv, record: &NetworkRecord) -> Result<bool, Error> {
    let value = serde_json::to_vec(record).expect("a record has string keys only");
    match kv.create(&record.key(), value).await {
        Ok(_) => Ok(true),
        Err(Error::AlreadyExists { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes a record as it was read; `false` if it has changed or is gone.
pub(crate) async fn delete(kv: &dyn Kv, stored: &Stored) -> Result<bool, Error> {
    match kv.delete(&stored.record.key(), stored.revision).await {
        Ok(()) => Ok(true),
        Err(Error::NotFound { .. } | Error::Conflict { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The prefix of what nodes note of the networks in their Docker.
const LOCAL_ROOT: &str = "/calico/libnetwork/v1/hosts/";

/// A network in one node's Docker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LocalNetwork {
    /// Its id.
    pub id: String,
    /// Ranges that were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<IpNet>,
    /// Without a way out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub internal: bool,
    /// When it was noted, RFC 3339: before Docker shows the network.
    #[serde(default)]
    pub noted_at: String,
}

fn local_key(node: &str, id: &str) -> String {
    format!("{LOCAL_ROOT}{node}/{id}")
}

/// Notes a network; one that is noted already stays.
pub(crate) async fn note(kv: &dyn Kv, node: &str, network: &LocalNetwork) -> Result<(), Error> {
    let value = serde_json::to_vec(network).expect("a note has string keys only");
    match kv.create(&local_key(node, &network.id), value).await {
        Ok(_) | Err(Error::AlreadyExists { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What is noted of a network. Nothing, or what cannot be read, is a network without anything special: its profile
/// decides what passes, not its routes.
pub(crate) async fn noted(kv: &dyn Kv, node: &str, id: &str) -> Result<LocalNetwork, Error> {
    let entry = kv.get(&local_key(node, id)).await?;
    Ok(entry.and_then(|entry| serde_json::from_slice(&entry.value).ok()).unwrap_or_default())
}

/// All networks that a node has noted. What cannot be read is there with its id only.
pub(crate) async fn all_noted(kv: &dyn Kv, node: &str) -> Result<Vec<LocalNetwork>, Error> {
    let prefix = local_key(node, "");
    let listing = kv.list(&prefix).await?;
    let noted = listing.entries.iter().filter_map(|entry| {
        let id = entry.key.strip_prefix(&prefix)?.to_owned();
        let noted: LocalNetwork = serde_json::from_slice(&entry.value).unwrap_or_default();
        Some(LocalNetwork { id, ..noted })
    });
    Ok(noted.collect())
}

/// Forgets a network; one that is not noted is no error.
pub(crate) async fn forget(kv: &dyn Kv, node: &str, id: &str) -> Result<(), Error> {
    let Some(entry) = kv.get(&local_key(node, id)).await? else { return Ok(()) };
    match kv.delete(&entry.key, entry.revision).await {
        Ok(()) | Err(Error::NotFound { .. } | Error::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
