//! Why an attachment could not be made, changed or removed.

use std::net::IpAddr;

/// A refused or failed change of a workload's network. Nothing is changed when one is returned, except where the
/// variant says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// A name that the kernel does not take, or that would mean something else to it.
    #[error("{name:?} cannot be the name of an interface: {reason}")]
    InterfaceName {
        /// The name.
        name: String,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// The workload has an interface of the name already.
    #[error("the workload already has an interface {name}; choose another name with --interface")]
    InterfaceTaken {
        /// The name.
        name: String,
    },
    /// The host has an interface of the name already.
    #[error("the host already has an interface {name}")]
    HostInterfaceTaken {
        /// The name.
        name: String,
    },
    /// The workload has no interface of the name.
    #[error("the workload has no interface {name}")]
    NoInterface {
        /// The name.
        name: String,
    },
    /// The interface is not one end of a pair whose other end is in the host.
    #[error("{name} is not connected to this host by a veth pair, so the host cannot be its gateway")]
    NotAttached {
        /// The name.
        name: String,
    },
    /// There is no such namespace, or it is none.
    #[error("{netns} is not a network namespace: {cause}; is the workload still running?")]
    Namespace {
        /// Which.
        netns: String,
        /// The system's words.
        cause: String,
    },
    /// The namespace is the host's.
    #[error("{netns} is the host's own network namespace; a workload with host networking cannot be attached")]
    HostNamespace {
        /// Which.
        netns: String,
    },
    /// An address that the workload has already, or that cannot be a workload's.
    #[error("{address} cannot be given to the workload: {reason}")]
    Address {
        /// The address.
        address: IpAddr,
        /// Why not.
        reason: String,
    },
    /// The interface does not have the address.
    #[error("{interface} does not have the address {address}")]
    NoAddress {
        /// The interface.
        interface: String,
        /// The address.
        address: IpAddr,
    },
    /// A gateway that cannot work.
    #[error("{gateway} cannot be the gateway: {reason}")]
    Gateway {
        /// The gateway.
        gateway: IpAddr,
        /// Why not.
        reason: &'static str,
    },
    /// An MTU out of range.
    #[error("an MTU of {mtu} is not possible: {reason}")]
    Mtu {
        /// Bytes.
        mtu: u32,
        /// Which limit.
        reason: &'static str,
    },
    /// This process may not do it.
    #[error("{operation}: permission denied; run this as root")]
    Permission {
        /// What was tried.
        operation: String,
    },
    /// The kernel refused.
    #[error("{operation}: {cause}")]
    Kernel {
        /// What was tried, on which object.
        operation: String,
        /// The kernel's words.
        cause: String,
    },
    /// The operation failed, and so did undoing it: what is left must be removed by hand.
    #[error("{cause}; undoing it failed as well: {}", left.join("; "))]
    Undo {
        /// Why it was undone.
        cause: Box<AttachError>,
        /// What could not be undone, and why.
        left: Vec<String>,
    },
}

/// Turns the netlink wrapper's error into ours, saying what was tried. For `map_err`.
pub(crate) fn kernel(operation: impl FnOnce() -> String) -> impl FnOnce(nlink::Error) -> AttachError {
    move |error| {
        let operation = operation();
        if error.is_permission_denied() {
            return AttachError::Permission { operation };
        }
        AttachError::Kernel { operation, cause: words(&error) }
    }
}

/// The kernel's words: the meaning of the error number, and its explanation where it gives one.
pub(crate) fn words(error: &nlink::Error) -> String {
    let Some(number) = error.errno() else { return error.to_string() };
    let meaning = std::io::Error::from_raw_os_error(number);
    match error.ext_ack() {
        Some(explanation) => format!("{meaning}: {explanation}"),
        None => meaning.to_string(),
    }
}
