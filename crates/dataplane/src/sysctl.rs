//! Settings of interfaces and of the host, below `/proc/sys/net`.
//!
//! The kernel shows there what belongs to the network namespace of the thread that opens the file, so these functions
//! work on the namespace of their caller. A value that is right already is not written.

use std::{fs, io, path::Path};

use crate::{Error, ifname::IfName};

const NET: &str = "/proc/sys/net";

/// Where the kernel reads the mode for new interfaces; read once, at the start.
const DEFAULT_RP_FILTER: &str = "ipv4/conf/default/rp_filter";

/// The reverse path filter that workload interfaces get: the host's default, or strict if that cannot be read.
pub(crate) fn default_rp_filter() -> String {
    fs::read_to_string(Path::new(NET).join(DEFAULT_RP_FILTER)).map_or_else(|_| "1".to_owned(), |v| v.trim().to_owned())
}

/// Makes the host a router, both families.
pub(crate) fn enable_forwarding() -> Result<usize, Error> {
    let mut written = usize::from(ensure("ipv4/ip_forward", "1")?);
    if has_ipv6() {
        written += usize::from(ensure("ipv6/conf/all/forwarding", "1")?);
    }
    Ok(written)
}

/// Settings of a workload interface that an endpoint has. Returns how many were written.
///
/// The order matters for IPv6: `accept_ra` goes off before forwarding goes on. Without IPv6 its part is left out.
pub(crate) fn configure_endpoint(interface: &IfName, rp_filter: &str) -> Result<usize, Error> {
    let ipv4 = [
        // DNAT to 127.0.0.1 by rules of the host's owner.
        (format!("ipv4/conf/{interface}/route_localnet"), "1"),
        // Answer ARP for the gateway at once, not after up to 0.8 s.
        (format!("ipv4/neigh/{interface}/proxy_delay"), "0"),
        (format!("ipv4/conf/{interface}/proxy_arp"), "1"),
        (format!("ipv4/conf/{interface}/forwarding"), "1"),
        (format!("ipv4/conf/{interface}/rp_filter"), rp_filter),
    ];
    let mut written = 0;
    for (path, value) in &ipv4 {
        written += usize::from(ensure(path, value)?);
    }
    written += configure_unknown(interface)?;
    if has_ipv6() {
        for setting in ["proxy_ndp", "forwarding"] {
            written += usize::from(ensure(&format!("ipv6/conf/{interface}/{setting}"), "1")?);
        }
    }
    Ok(written)
}

/// Settings of a workload interface without endpoint: a workload must never tell us where to send packets.
pub(crate) fn configure_unknown(interface: &IfName) -> Result<usize, Error> {
    if has_ipv6() { ensure(&format!("ipv6/conf/{interface}/accept_ra"), "0").map(usize::from) } else { Ok(0) }
}

fn has_ipv6() -> bool {
    Path::new(NET).join("ipv6/conf").is_dir()
}

/// Writes a value if it is another one now. Returns whether it was.
fn ensure(path: &str, value: &str) -> Result<bool, Error> {
    let file = Path::new(NET).join(path);
    let fails = |source: io::Error| Error::Sysctl { path: format!("net/{path}"), value: value.to_owned(), source };
    if fs::read_to_string(&file).map_err(fails)?.trim() == value {
        return Ok(false);
    }
    fs::write(&file, value).map_err(fails)?;
    Ok(true)
}

/// Whether the interface is still there.
pub(crate) fn exists(interface: &IfName) -> bool {
    Path::new(NET).join(format!("ipv4/conf/{interface}")).is_dir()
}
