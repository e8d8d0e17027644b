//! List and watch turned into events: one complete snapshot, `InSync`, then changes.

use calico_model::{Change, DecodeError};

use crate::KvEvent;

/// What a [`Syncer`](crate::Syncer) delivers.
#[derive(Debug)]
pub enum Event {
    /// A v3 resource changed.
    Change(Change),
    /// A key that is not a v3 resource changed (IPAM keys).
    Raw(KvEvent),
    /// A value cannot be read. A [`Change::Remove`] for its key precedes it if the key held a good value before.
    /// Delivered once per revision of the value.
    Unreadable(DecodeError),
    /// The first snapshot is complete. Exactly once in a syncer's life.
    InSync,
    /// The datastore was lost; what was delivered stays in force. Delivered once per outage.
    Lost {
        /// The transport's words.
        cause: String,
    },
    /// The datastore is back and all differences have been delivered.
    Back,
}
