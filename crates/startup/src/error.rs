//! Why a host did not become a node.

use std::net::IpAddr;

/// A failed step of starting. [`way_out`](Self::way_out) says what helps.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartupError {
    /// A setting that makes no sense.
    #[error("{setting}={value:?} is not usable: {cause}")]
    Setting {
        /// The variable.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What is wrong, and what would be right.
        cause: String,
    },
    /// The host's name cannot be a node's.
    #[error("the host name {name:?} cannot be a node's name: {cause}")]
    Name {
        /// The name.
        name: String,
        /// Which rule it breaks.
        cause: String,
    },
    /// No address was given and none was found.
    #[error("this host has no usable IPv4 address: {cause}")]
    NoAddress {
        /// What was looked at, and why it was left out.
        cause: String,
    },
    /// Another node has the address.
    #[error("the address {address} is already in use by node {holder}; every node needs its own")]
    AddressInUse {
        /// The address.
        address: IpAddr,
        /// Who has it.
        holder: String,
    },
    /// The host's own network could not be read.
    #[error("the host's {what} could not be read: {cause}")]
    Host {
        /// What was read.
        what: &'static str,
        /// The system's words.
        cause: String,
    },
    /// Forwarding could not be switched on.
    #[error("{family} forwarding could not be switched on by writing 1 to {path}: {cause}")]
    Forwarding {
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// The sysctl file.
        path: String,
        /// The system's words.
        cause: String,
    },
    /// BIRD is not there.
    #[error("BIRD was not found: {cause}")]
    NoBird {
        /// Where it was looked for.
        cause: String,
    },
    /// BGP's port is taken.
    #[error("TCP port {port} on {address} is taken by {holder}")]
    PortTaken {
        /// The port.
        port: u16,
        /// The address it is listened on.
        address: IpAddr,
        /// Which program.
        holder: String,
    },
    /// The datastore failed.
    #[error(transparent)]
    Store(#[from] calico_store::Error),
}

impl StartupError {
    /// What helps, if one thing usually does.
    pub fn way_out(&self) -> Option<String> {
        let text = match self {
            Self::Setting { .. } | Self::Host { .. } => return None,
            Self::Name { .. } => "give the node another name with --name".to_owned(),
            Self::NoAddress { .. } => "give the address by which other hosts reach this one with --ip".to_owned(),
            Self::AddressInUse { holder, .. } => format!(
                "give this host's own address with --ip; if {holder} is this same host under an older name, remove \
                 that first: calicoctl node remove --hostname={holder}"
            ),
            Self::Forwarding { path, .. } => format!("run this as root, or once by hand: echo 1 > {path}"),
            Self::NoBird { .. } => "install BIRD 2: apt install bird2".to_owned(),
            Self::PortTaken { .. } => {
                "stop that program; if it is a BIRD of the system: systemctl disable --now bird".to_owned()
            }
            Self::Store(calico_store::Error::Unreachable { endpoints, .. }) if endpoints.starts_with("unix:") => {
                "look at its log: /var/log/calico/datastore".to_owned()
            }
            Self::Store(error) if error.is_unreachable() => {
                "check that etcd runs and that ETCD_ENDPOINTS and the certificates are right".to_owned()
            }
            Self::Store(calico_store::Error::Corrupt { key, .. }) => {
                format!("repair that record, or delete it to have it made anew: etcdctl del {key}")
            }
            Self::Store(_) => return None,
        };
        Some(text)
    }

    /// The datastore did not answer; the same call may succeed later.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_unreachable())
    }
}
