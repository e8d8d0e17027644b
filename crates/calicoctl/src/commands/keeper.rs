//! Words about the datastore that a host keeps itself, for the commands that ask it.

use calico_datastore::admin::AdminError;
use calico_store::Source;

use crate::failure::{Failure, sentence};

/// Refuses if the datastore of this host is not its own; `what` is what was wanted of it.
pub(super) fn must_be_here(source: &Source, what: &str) -> Result<(), Failure> {
    match source {
        Source::Embedded => Ok(()),
        Source::File { keeper: Some(keeper), .. } => {
            Err(Failure::new(format!("The datastore of this host is kept by host {keeper}; {what} there."))
                .hint(format!("run the same command on {keeper}")))
        }
        Source::File { keeper: None, path } => Err(Failure::new("The datastore of this host is an etcd.")
            .because(format!("{} says where it is", path.display()))
            .hint(ETCD)),
        Source::Environment => Err(Failure::new("The datastore of this host is an etcd.")
            .because("ETCD_ENDPOINTS or a settings file says where it is")
            .hint(ETCD)),
    }
}

/// A call that failed, for what a host may keep though its datastore is elsewhere: one that the cluster has left goes on
/// serving hosts that were away. Only if it does not answer it matters where the datastore is.
pub(super) fn failure_at(source: &Source, what: &str, error: AdminError) -> Failure {
    match must_be_here(source, what) {
        Err(elsewhere) if error.is_not_running() => elsewhere,
        _ => failure(error),
    }
}

const ETCD: &str = "look after it with etcdctl; other hosts use it by the same ETCD_ENDPOINTS";

/// A call to the datastore of this host that failed.
pub(super) fn failure(error: AdminError) -> Failure {
    match error {
        AdminError::NotRunning { .. } => {
            Failure::new("calico-node, which keeps the datastore of this host, does not run.")
                .cause(&error)
                .hint("start it: calicoctl node")
        }
        AdminError::Denied { .. } => Failure::not_root(),
        AdminError::Refused { message, causes, hint } => {
            let failure = Failure::new(sentence(&Words(message)));
            let failure = causes.into_iter().fold(failure, Failure::because);
            hint.into_iter().fold(failure, Failure::hint)
        }
        other => Failure::new(sentence(&other)).sources(&other),
    }
}

impl Failure {
    /// Adds what is below `error` as causes.
    fn sources(self, error: &dyn std::error::Error) -> Self {
        match error.source() {
            Some(source) => self.cause(source),
            None => self,
        }
    }
}

/// Words of another process, as an error.
#[derive(Debug)]
struct Words(String);

impl std::fmt::Display for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Words {}
