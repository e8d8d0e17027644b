//! The datastore: typed create, update, delete, list and watch with compare-and-swap, and the syncer on top.
//!
//! Two layers. Below, [`Kv`]: keys, bytes and revisions, implemented by etcd ([`EtcdKv`]) and in memory
//! ([`MemoryKv`], for tests; its core is pure). Above, [`Store`]: resources of [`calico_model`] by kind and name.
//! No write is unconditional: a create needs the key to be absent, an update and a delete the revision that was
//! read; who loses a race gets [`Error::Conflict`] with the winner's value and decides again.
//!
//! [`Syncer`] turns list and watch into [`Event`]s: a first complete snapshot ended by one
//! [`Event::InSync`], then changes; it lists again after a compaction or a lost connection and then delivers
//! only differences.
//!
//! Names to know: [`Entry`] is a key with value and revision; [`Revision`](calico_model::Revision) orders all
//! writes; [`ConnectOptions`] says where the datastore is, and [`Source`] who said so.

mod error;
mod etcd;
mod kv;
mod memory;
pub mod mvcc;
mod settings;
mod store;
mod syncer;

pub use error::Error;
pub use etcd::{EtcdKv, MemberStatus};
pub use kv::{Entry, Kv, KvEvent, KvWatch, Listing};
pub use memory::{Injected, MemoryKv, Write, WriteKind};
pub use settings::{ConnectOptions, DATASTORE_DIR, DATASTORE_SOCKET, LOCATION_FILE, Source};
pub use store::Store;
pub use syncer::{Event, Syncer, SyncerHandle};
