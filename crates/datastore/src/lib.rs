//! The datastore that one host keeps for itself and others: etcd's v3 API on an embedded database.

pub mod admin;
pub mod enrol;
pub mod pki;
pub mod tls;

mod api;
mod datastore;
mod disk;
mod serve;

pub use datastore::{
    Datastore, HISTORY_LIMIT, KEPT_REVISIONS, KEPT_TIME, KEPT_UNDER_PRESSURE, MOST_HISTORY, Shrunk, Status,
    Subscription, Watch, WriteError,
};
pub use disk::{
    backup::{Backup, Restored, restore},
    check::{Report, check},
    error::{BackupError, OpenError, RestoreError},
};
pub use serve::{ServeError, ServeOptions, SocketError, serve};
