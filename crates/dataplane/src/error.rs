//! What can go wrong, with the object, the cause and the way out.

use std::fmt;

/// A request that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelError {
    /// What was asked.
    pub operation: String,
    /// The error number, positive.
    pub errno: i32,
    /// What the kernel said beyond the number.
    pub detail: Option<String>,
}

impl KernelError {
    pub(crate) fn new(operation: impl Into<String>, errno: i32) -> Self {
        Self { operation: operation.into(), errno: errno.abs(), detail: None }
    }

    pub(crate) fn is(&self, errno: rustix::io::Errno) -> bool {
        self.errno == errno.raw_os_error()
    }
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = std::io::Error::from_raw_os_error(self.errno);
        write!(f, "{}: {text}", self.operation)?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        match rustix::io::Errno::from_raw_os_error(self.errno) {
            rustix::io::Errno::PERM | rustix::io::Errno::ACCESS => f.write_str("; this needs root (CAP_NET_ADMIN)"),
            rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS => {
                f.write_str("; this kernel cannot do that, `calicoctl checksystem` lists what it can")
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for KernelError {}

/// Why the dataplane could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A choice that does not make sense.
    #[error("dataplane options: {reason}")]
    Options {
        /// Which and why.
        reason: String,
    },
    /// No netlink socket.
    #[error("cannot open a netlink socket for {protocol}: {source}; this needs root and a tokio runtime")]
    Socket {
        /// Which protocol.
        protocol: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The conversation with the kernel broke down.
    #[error("netlink, {operation}: {reason}")]
    Netlink {
        /// What was going on.
        operation: String,
        /// What went wrong.
        reason: String,
    },
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Somebody changes the rules faster than they can be read.
    #[error("{what} changed during each of {attempts} readings; will be tried again")]
    Unsettled {
        /// What was read.
        what: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// A program of iptables or ipset failed.
    #[error("{program}: {reason}")]
    Program {
        /// Which.
        program: String,
        /// What it said.
        reason: String,
    },
    /// The iptables renderer needs a program that is not installed.
    #[error(
        "{program} is not installed, and the iptables renderer needs it; run `apt-get install iptables ipset`, or use nftables (FelixConfiguration nftablesMode: Enabled)"
    )]
    ProgramMissing {
        /// Which.
        program: String,
    },
    /// A setting of the kernel could not be written.
    #[error("cannot set {path} to {value}: {source}")]
    Sysctl {
        /// The file below `/proc/sys`.
        path: String,
        /// The value.
        value: String,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    /// Whether reading the kernel's state again and trying once more may help.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        use rustix::io::Errno;
        const STALE: [Errno; 7] =
            [Errno::NOENT, Errno::EXIST, Errno::BUSY, Errno::AGAIN, Errno::INTR, Errno::MLINK, Errno::INVAL];
        // ERESTART is not in the C library's list: it is the kernel's own "the rule set changed meanwhile".
        const ERESTART: i32 = 85;
        match self {
            Self::Kernel(error) => error.errno == ERESTART || STALE.iter().any(|errno| error.is(*errno)),
            Self::Unsettled { .. } | Self::Program { .. } => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kernel_cannot_do_is_not_laid_on_nftables() {
        let error = KernelError::new("make VXLAN device vxlan.calico", rustix::io::Errno::OPNOTSUPP.raw_os_error());
        let text = error.to_string();
        assert!(text.contains("checksystem") && !text.contains("nf_tables"), "{text}");
    }
}
