//! Moving a running cluster to another datastore, with traffic and policy untouched.
//!
//! Two sides. The *command* ([`migrate()`], [`abort()`]) copies, and says when to switch; *each host*
//! ([`follow`], a task of calico-node) answers and switches itself. They meet in the datastores, in two places:
//!
//! - [`RECORD`]: the [`Record`] of the migration. In the old datastore it has the phases
//!
//!   ```text
//!     (none) ──migrate──► prepare ──all hosts ready, copied, verified──► switch   (stays: the tombstone)
//!                           │                                              │
//!                           └──────────────abort──────► back ◄──abort──────┘   only if no host has begun to switch
//!   ```
//!
//!   and in the new one `copying` (what lies there is not a cluster yet) and `arriving` (it is). It is deleted from the
//!   new one when all hosts are there.
//! - [`HOSTS`]: one [`Answer`] per host. In the old datastore `ready` or `unable` (the new one cannot be reached, why),
//!   then `switching`; in the new one `switched`.
//!
//! Why it is safe:
//!
//! - **Nothing is written but by compare-and-swap**, and every step finds out what is done already. Interrupted
//!   anywhere, the same command run again goes on; a second run has a new attempt number, so that answers of an earlier
//!   one count no more.
//! - **The cluster is locked while it is copied last** (`datastoreReady` is false, as `migrate lock` does it): no address
//!   is given out. What is written all the same, by a status or by hand, is copied until a whole comparison finds no
//!   difference; and what was written between that comparison and the switch is brought after it, unless the new
//!   datastore has moved on there. No host works in the new one before that: if the command has died, the first host
//!   that goes does it.
//! - **Taking back excludes switching.** A host says `switching` in the old datastore *before* it looks at the phase for
//!   the last time; abort says `back` *before* it looks at the answers. Whichever came first, at least one of the two
//!   sees the other: either no host goes, or abort sees one that may have gone, and the migration only goes forward. An
//!   abort that dies between its look and its word leaves `back`, and who takes that up, be it abort or migrate, looks
//!   at the answers first. Only where the new datastore says `copying`, or holds nothing, an answer counts no more: an
//!   abort had looked before it began to delete, and the host ended before it could unsay what it said after that.
//! - **The tombstone goes only when the copy is gone.** While there is a cluster in the new datastore, nothing deletes the
//!   record in the old one.
//! - **A host that was away** finds the tombstone in the old datastore when it comes back, and the way to the new one.
//!   A host whose environment still names the old place is kept away from it by its own record of the move.
//! - **The kernel is not touched.** Felix, confd and the plugin start anew on the new datastore and apply only
//!   differences, of which there are none; BIRD stays. Revisions differ there, which nobody remembers across a start.
//!
//! What is not moved: users, roles and settings of an etcd, and keys that are not below `/calico/`.

mod abort;
mod copy;
mod error;
mod host;
mod migrate;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Component, Path},
    sync::Arc,
};

use calico_model::ClusterInformationSpec;
use calico_store::{ConnectOptions, DATASTORE_DIR, Entry, Error, EtcdKv, Kv, Store};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use abort::{TakenBack, abort};
pub use copy::{Difference, differences};
pub use error::RelocationError;
pub use host::{Place, ThisPlace, follow};
pub use migrate::{HostState, Migration, Moved, Progress, finish, migrate};

/// Everything of ours in a datastore.
pub const ROOT: &str = "/calico/";
/// The key of the migration's [`Record`]; also the common beginning of all keys that are about the migration itself and
/// are not copied.
pub const RECORD: &str = "/calico/datastore/v1/relocation";
/// The answers of hosts stand below.
pub const HOSTS: &str = "/calico/datastore/v1/relocation-hosts/";

/// How far a migration is, in the datastore that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// In the old one: hosts try whether they reach the new one; data is being copied.
    Prepare,
    /// In the old one: hosts switch. It stays so for ever.
    Switch,
    /// In the old one: it is being taken back.
    Back,
    /// In the new one: the copy is not complete.
    Copying,
    /// In the new one: it is the cluster's datastore; not all hosts have arrived.
    Arriving,
}

/// A migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Tells this migration from every other.
    pub id: String,
    /// Counts the runs of the command; answers of an earlier run are out of date.
    pub attempt: u32,
    /// How far it is.
    pub phase: Phase,
    /// Where to.
    pub to: Destination,
    /// Where from, in words.
    pub from: String,
    /// The hosts that must switch.
    pub hosts: Vec<String>,
    /// The hosts that are not waited for.
    pub left_behind: Vec<String>,
    /// Whether the cluster was unlocked before, and is to be unlocked afterwards.
    pub unlock: bool,
    /// In the new one: the number of keys that were copied.
    #[serde(default)]
    pub keys: usize,
    /// In the new one: where both stood when they were found equal, until what was written later has been brought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied: Option<Copied>,
}

/// The moment at which both datastores were found equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Copied {
    /// The old one's revision.
    pub old: i64,
    /// The new one's revision.
    pub new: i64,
    /// The number of keys.
    pub keys: usize,
}

/// Where a datastore is and how to speak to it: `ETCD_…` variables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Destination(BTreeMap<String, String>);

impl Destination {
    /// What `options` say. A password must be in a file: this is written into the datastore.
    ///
    /// # Errors
    /// [`Error::Settings`] if they hold a password itself.
    pub fn new(options: &ConnectOptions) -> Result<Self, Error> {
        let variables = options.variables();
        if variables.iter().any(|(name, _)| *name == "ETCD_PASSWORD") {
            return Err(Error::Settings {
                setting: "ETCD_PASSWORD".into(),
                cause: "a password given itself would be copied to every host by the datastore; put it into a file of \
                        the same name on each host, and name that"
                    .into(),
            });
        }
        Ok(Self(variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()))
    }

    /// The settings, with all files that they name read and checked on this host.
    ///
    /// The record stands where every host can write, so it may name only what is meant for this: a password is sent to
    /// the place that the same record names.
    ///
    /// # Errors
    /// [`Error::Settings`] names the variable or file.
    pub fn options(&self) -> Result<ConnectOptions, Error> {
        for (name, value) in &self.0 {
            check_variable(name, value)?;
        }
        let given = ConnectOptions::given(|name| self.0.get(name).cloned())?;
        given.ok_or_else(|| Error::Settings {
            setting: RECORD.to_owned(),
            cause: "it does not say where the new datastore is".to_owned(),
        })
    }

    /// A connection that was tried.
    ///
    /// # Errors
    /// As [`options`](Self::options), and those of [`EtcdKv::connect`].
    pub async fn connect(&self) -> Result<EtcdKv, Error> {
        EtcdKv::connect(self.options()?).await
    }

    /// The same place, spelt the same way.
    pub fn is_at(&self, location: &str) -> bool {
        self.to_string() == location
    }
}

/// The variables of a record.
const VARIABLES: [&str; 6] =
    ["ETCD_ENDPOINTS", "ETCD_CA_CERT_FILE", "ETCD_CERT_FILE", "ETCD_KEY_FILE", "ETCD_USERNAME", "ETCD_PASSWORD_FILE"];

/// What the folder of the datastore holds that is no password for anybody.
const OURS: [&str; 6] = ["pki", "data.redb", "location.env", "acknowledged", "reserve", "lock"];

fn check_variable(name: &str, value: &str) -> Result<(), Error> {
    let refuse = |cause: String| Err(Error::Settings { setting: format!("{RECORD}: {name}"), cause });
    if !VARIABLES.contains(&name) {
        return refuse("a migration has no such setting".to_owned());
    }
    if !name.ends_with("_FILE") {
        return Ok(());
    }
    let inside = Path::new(value).strip_prefix(DATASTORE_DIR).ok();
    let plain = |path: &&Path| path.components().all(|part| matches!(part, Component::Normal(_)));
    let Some(inside) = inside.filter(|path| !path.as_os_str().is_empty()).filter(plain) else {
        return refuse(format!("{value} does not lie below {DATASTORE_DIR}"));
    };
    if name == "ETCD_PASSWORD_FILE" && OURS.iter().any(|ours| inside.starts_with(ours)) {
        return refuse(format!("{value} is the datastore's own, and no password"));
    }
    Ok(())
}

/// The endpoints, as [`Kv::location`] writes them.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints = self.0.get("ETCD_ENDPOINTS").map_or("", String::as_str);
        f.write_str(&endpoints.split(',').map(str::trim).collect::<Vec<_>>().join(", "))
    }
}

/// What a host says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// To which migration.
    pub id: String,
    /// To which run of the command.
    pub attempt: u32,
    /// What.
    pub state: AnswerState,
}

/// How far a host is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum AnswerState {
    /// It reaches the new datastore.
    Ready,
    /// It cannot go there: why.
    Unable(String),
    /// It is about to go; from here on nothing is taken back.
    Switching,
    /// It is there. Said in the new datastore.
    Switched,
}

/// The key of a host's answer.
pub fn answer_key(node: &str) -> String {
    format!("{HOSTS}{node}")
}

/// True for keys that are about the migration itself: they are never copied, exported or imported.
pub fn is_about_migration(key: &str) -> bool {
    key.starts_with(RECORD)
}

/// The record of a migration, if there is one, with its key's entry.
///
/// # Errors
/// The datastore's, and [`Error::Corrupt`].
pub async fn read_record(kv: &dyn Kv) -> Result<Option<(Record, Entry)>, Error> {
    match kv.get(RECORD).await? {
        Some(entry) => Ok(Some((decode(&entry)?, entry))),
        None => Ok(None),
    }
}

/// All answers by host. What cannot be read is no answer.
async fn read_answers(kv: &dyn Kv) -> Result<BTreeMap<String, Answer>, Error> {
    let listing = kv.list(HOSTS).await?;
    let answer = |entry: &Entry| Some((entry.key.strip_prefix(HOSTS)?.to_owned(), decode(entry).ok()?));
    Ok(listing.entries.iter().filter_map(answer).collect())
}

/// The cluster's identity, which no other cluster has.
async fn identity(kv: &Arc<dyn Kv>) -> Result<Option<String>, Error> {
    match Store::new(kv.clone()).get::<ClusterInformationSpec>("default").await {
        Ok(cluster) => Ok(Some(cluster.spec.cluster_guid)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn decode<T: DeserializeOwned>(entry: &Entry) -> Result<T, Error> {
    serde_json::from_slice(&entry.value)
        .map_err(|error| Error::Corrupt { key: entry.key.clone(), cause: error.to_string() })
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("records are plain structures with string keys")
}

/// How often a race for a key that one host alone writes is taken up again.
const MOST_RACES: u32 = 5;

/// Writes a key that has one writer, whatever stands there.
async fn put(kv: &dyn Kv, key: &str, value: &impl Serialize) -> Result<(), Error> {
    let value = encode(value);
    let mut races = 0;
    loop {
        let written = match kv.get(key).await? {
            Some(entry) if entry.value == value => return Ok(()),
            Some(entry) => kv.update(key, value.clone(), entry.revision).await,
            None => kv.create(key, value.clone()).await,
        };
        match written {
            Ok(_) => return Ok(()),
            Err(error) if (error.is_conflict() || error.is_not_found()) && races < MOST_RACES => races += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Deletes a key, whatever stands there.
async fn remove(kv: &dyn Kv, key: &str) -> Result<(), Error> {
    let mut races = 0;
    while let Some(entry) = kv.get(key).await? {
        match kv.delete(key, entry.revision).await {
            Err(error) if error.is_conflict() && races < MOST_RACES => races += 1,
            Err(error) if !error.is_not_found() => return Err(error),
            _ => break,
        }
    }
    Ok(())
}
