//! The kernel's counters of packets whose TCP MD5 signature was wrong.
//!
//! A password that differs between two neighbours shows nothing in BIRD: the kernel drops the packets before the
//! daemon hears of them, and the session stays `Connect` or `Passive` without an error. The counters are the only
//! trace. They count since the network namespace was made and do not name the neighbour, so they are a hint for a
//! session that does not come up, never a proof.

use std::{fs, io};

/// Packets dropped because of their TCP MD5 signature, since the start of the machine or network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Md5Failures {
    /// A signature was required and there was none: only this side has a password.
    pub missing: u64,
    /// There was a signature and no password here: only the other side has one.
    pub unexpected: u64,
    /// Both sides have a password, and not the same one.
    pub wrong: u64,
}

impl Md5Failures {
    /// All of them.
    pub fn total(self) -> u64 {
        self.missing.saturating_add(self.unexpected).saturating_add(self.wrong)
    }

    /// From the text of `/proc/net/netstat`: pairs of lines, names above numbers.
    fn parse(text: &str) -> Self {
        let mut found = Self::default();
        let mut lines = text.lines();
        while let (Some(names), Some(numbers)) = (lines.next(), lines.next()) {
            for (name, number) in names.split_whitespace().zip(numbers.split_whitespace()) {
                let counter = match name {
                    "TCPMD5NotFound" => &mut found.missing,
                    "TCPMD5Unexpected" => &mut found.unexpected,
                    "TCPMD5Failure" => &mut found.wrong,
                    _ => continue,
                };
                *counter = number.parse().unwrap_or_default();
            }
        }
        found
    }
}

/// Reads the counters of the network namespace of the calling thread.
///
/// # Errors
/// The kernel's, when `/proc` is not mounted.
pub fn md5_failures() -> io::Result<Md5Failures> {
    fs::read_to_string("/proc/thread-self/net/netstat").map(|text| Md5Failures::parse(&text))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn counters_among_others() {
        let text = "TcpExt: SyncookiesSent TCPMD5NotFound TCPMD5Unexpected TCPMD5Failure X\n\
            TcpExt: 7 1 2 3 9\nIpExt: InNoRoutes TCPMD5NotFound\n";
        assert_eq!(Md5Failures::parse(text), Md5Failures { missing: 1, unexpected: 2, wrong: 3 });
        assert_eq!(Md5Failures::parse(text).total(), 6);
        assert_eq!(Md5Failures::parse(""), Md5Failures::default());
    }

    #[test]
    fn the_kernel_has_them() {
        let text = fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
        assert!(["TCPMD5NotFound", "TCPMD5Unexpected", "TCPMD5Failure"].iter().all(|name| text.contains(name)));
        md5_failures().unwrap();
    }
}
