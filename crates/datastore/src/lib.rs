//! The datastore that one host keeps for itself and others: etcd's v3 API on an embedded database.

pub mod enrol;
pub mod pki;
pub mod tls;

mod datastore;
mod disk;

pub use datastore::{Datastore, KEPT_REVISIONS, KEPT_TIME, Shrunk, Status, Subscription, Watch, WriteError};
pub use disk::{
    backup::{Backup, Restored, restore},
    check::{Report, check},
    error::{BackupError, OpenError, RestoreError},
};
