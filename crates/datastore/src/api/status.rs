//! Errors as etcd's server gives them: clients match on code and text.

use calico_store::mvcc::Refusal;
use tonic::{Code, Status};

use super::{MAX_MESSAGE, MAX_REQUEST};
use crate::WriteError;

/// The answer to what the core refuses.
pub(super) fn refused(refusal: Refusal) -> Status {
    let code = match refusal {
        Refusal::Compacted(_) | Refusal::Future(_) | Refusal::LeaseTtlTooLarge => Code::OutOfRange,
        Refusal::LeaseNotFound => Code::NotFound,
        Refusal::LeaseExists => Code::FailedPrecondition,
        // Wrong in itself: duplicate, missing and superfluous keys, values and leases.
        _ => Code::InvalidArgument,
    };
    Status::new(code, refusal.to_string())
}

/// The answer to a write that did not happen.
pub(super) fn write_failed(error: WriteError) -> Status {
    match error {
        WriteError::Refused(refusal) => refused(refusal),
        WriteError::NoSpace(cause) => {
            tracing::debug!(cause, "a write was refused: no space");
            Status::resource_exhausted("etcdserver: mvcc: database space exceeded")
        }
        // A client may well try again: nothing was written, and disks come back.
        WriteError::Failed(cause) => Status::unavailable(format!("etcdserver: the write failed: {cause}")),
    }
}

/// A transaction with more operations than etcd takes.
pub(super) fn too_many_ops() -> Status {
    Status::invalid_argument("etcdserver: too many operations in txn request")
}

/// An enumeration has a value that the protocol does not know.
pub(super) fn invalid_sort() -> Status {
    Status::invalid_argument("etcdserver: invalid sort option")
}

/// A comparison by something that the protocol does not know.
pub(super) fn invalid_compare() -> Status {
    Status::invalid_argument("etcdserver: invalid comparison")
}

/// Checks the size of a message, in bytes; `writes` if it would have to be written down.
pub(super) fn check_size(size: usize, writes: bool) -> Result<(), Status> {
    if size > MAX_MESSAGE {
        let text = format!("grpc: received message larger than max ({size} vs. {MAX_MESSAGE})");
        return Err(Status::resource_exhausted(text));
    }
    if writes && size > MAX_REQUEST {
        return Err(Status::invalid_argument("etcdserver: request is too large"));
    }
    Ok(())
}

/// The server stops.
pub(super) fn stopped() -> Status {
    Status::unavailable("etcdserver: server stopped")
}

/// Something of etcd's that has no meaning here, and what there is instead.
pub(super) fn not_offered(what: &str, instead: &str) -> Status {
    Status::unimplemented(format!("calico-node's embedded datastore offers no {what}: {instead}"))
}

/// The answer to a call of a service that is not served.
pub(super) fn not_served(path: &str) -> Status {
    if path == "/etcdserverpb.Auth/Authenticate" {
        // What etcd says without users; clients that were given a name and a password go on then.
        return Status::failed_precondition("etcdserver: authentication is not enabled");
    }
    not_offered(path, "of etcd's API it serves KV, Watch, Lease, MemberList and Status; a real etcd has all of it")
}
