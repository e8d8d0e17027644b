//! Why a migration stops.

use std::collections::BTreeMap;

use calico_store::Error;

/// Why a migration stops. Nothing is lost by it: the same command goes on, `--abort` takes it back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelocationError {
    /// There is nothing to move.
    #[error("the datastore holds no cluster yet")]
    NoCluster,
    /// The old and the new one are the same.
    #[error("the cluster's datastore is at {0} already")]
    SamePlace(String),
    /// Another migration is under way.
    #[error("a migration to {0} is under way")]
    Another(String),
    /// What is taken for the old datastore is the half-made copy of a migration.
    #[error("the datastore holds the unfinished copy of a migration from {0}, no cluster")]
    UnfinishedCopy(String),
    /// The new datastore holds something else.
    #[error("the new datastore holds {keys} keys below /calico/ already, the first is {first}")]
    NotEmpty {
        /// How many.
        keys: usize,
        /// The first.
        first: String,
    },
    /// Hosts have not answered, or cannot go.
    #[error("not every host can go to the new datastore")]
    HostsNotReady {
        /// Those that have not answered.
        silent: Vec<String>,
        /// Those that cannot, and why.
        unable: BTreeMap<String, String>,
    },
    /// A host that is to be left behind is none of the cluster's.
    #[error("{0} is no host of this cluster")]
    NoSuchHost(String),
    /// Both never were equal, however often they were compared.
    #[error("the datastore changes faster than it can be copied, last at {keys} keys in one round")]
    NeverQuiet {
        /// How many differed in the last round.
        keys: usize,
    },
    /// Somebody took it back, or another run of the command went on with it.
    #[error("the migration was taken back or continued by somebody else meanwhile")]
    Overtaken,
    /// It is too late to take it back.
    #[error("hosts have switched already or are about to: {}", .0.join(", "))]
    TooLate(Vec<String>),
    /// There is nothing to take back.
    #[error("no migration is under way")]
    NothingToAbort,
    /// The datastore that the cluster is in.
    #[error("the present datastore: {0}")]
    Old(#[source] Error),
    /// The datastore that the cluster is to go to.
    #[error("the new datastore: {0}")]
    New(#[source] Error),
}
