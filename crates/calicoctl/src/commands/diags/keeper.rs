//! How the datastore itself is: each endpoint of an etcd, or the datastore that this host keeps.
//!
//! Nothing here holds a secret: invitations are only counted, certificates are told by name and end, and of files only
//! name, size and mode are shown.

use std::path::{Path, PathBuf};

use calico_datastore::admin::Client;
use calico_store::{DATASTORE_DIR, EtcdKv};
use serde_json::{Value, json};

use super::{Item, files};
use crate::{args::Connection, failure::sentence, settings};

/// Where to ask.
pub(super) struct Datastore {
    /// The datastore of this host's settings, if they make sense.
    pub(super) members: Option<EtcdKv>,
    /// The one that this host keeps.
    pub(super) client: Client,
    /// Its folder.
    pub(super) folder: PathBuf,
}

impl Datastore {
    /// This host's.
    pub(super) fn of_this_host() -> Self {
        let none: Option<&Connection> = None;
        // What is wrong with the settings is told by whoever needs the datastore itself.
        let members = settings::etcd(none).ok().and_then(|options| EtcdKv::new(options).ok());
        Self { members, client: Client::default(), folder: DATASTORE_DIR.into() }
    }
}

/// Version, size and state of each endpoint that the settings name.
pub(super) async fn members(datastore: &Datastore) -> Vec<Item> {
    let Some(kv) = &datastore.members else { return Vec::new() };
    let said = kv.member_status().await;
    let deaf: Vec<&str> = said.iter().filter(|(_, status)| status.is_err()).map(|(at, _)| at.as_str()).collect();
    let fault = (!deaf.is_empty()).then(|| format!("no answer from {}", deaf.join(", ")));
    let shown = said.iter().map(|(endpoint, status)| match status {
        Ok(status) => json!({
            "endpoint": endpoint,
            "version": status.version,
            "bytes": status.bytes,
            "leads": status.leads,
            "hasLeader": status.has_leader,
            "faults": status.faults,
        }),
        Err(error) => json!({ "endpoint": endpoint, "error": error.to_string() }),
    });
    vec![Item::data("datastore_members.json", shown.collect()).but(fault)]
}

/// The datastore that this host keeps, or kept before the cluster moved: how it is, what a check finds, who joined and
/// until when their certificates hold, and its files. Nothing on a host that never had one.
pub(super) async fn kept(datastore: &Datastore) -> Vec<Item> {
    let Datastore { client, folder, .. } = datastore;
    if !folder.join("data.redb").exists() && client.status().await.is_err_and(|error| error.is_not_running()) {
        return Vec::new();
    }
    let said = |name: &str, answer: Result<Value, String>| match answer {
        Ok(data) => Item::data(name, data),
        Err(fault) => Item::missing(name, fault),
    };
    let status = client.status().await.map(|status| json!(status)).map_err(|error| sentence(&error));
    let hosts = client.hosts().await.map(|hosts| json!(hosts)).map_err(|error| sentence(&error));
    let check = client.check().await.map(|check| json!(check)).map_err(|error| sentence(&error));
    vec![
        said("datastore_kept/status.json", status),
        said("datastore_kept/hosts.json", hosts),
        said("datastore_kept/check.json", check),
        files_of(folder),
    ]
}

fn files_of(folder: &Path) -> Item {
    Item { name: "datastore_kept/files".to_owned(), ..files::listing(folder) }
}
