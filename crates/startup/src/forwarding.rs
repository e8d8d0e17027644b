//! The kernel settings without which no workload reaches another.
//!
//! Switching IPv6 forwarding on makes the kernel forget default routes that it learnt from router advertisements,
//! and not listen to further ones, except on interfaces with `accept_ra` 2 (Linux, ip-sysctl). A host whose own
//! IPv6 depends on them would lose it, so such interfaces are set to 2 first.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use nlink::{
    Connection, Route,
    netlink::types::route::{RouteProtocol, RouteType},
};

use crate::{StartupError, Warning};

/// How many connections the kernel should be able to follow; upstream's number since 2015.
const CONNTRACK_MAX: u64 = 1_000_000;

/// Lets this host forward packets of both families, and lets the kernel follow many connections. Returns what did
/// not work or was changed beside it, for people.
///
/// # Errors
/// [`StartupError::Forwarding`].
pub async fn enable_forwarding() -> Result<Vec<Warning>, StartupError> {
    let mut warnings = Vec::new();
    switch_on("IPv4", Path::new("/proc/sys/net/ipv4/ip_forward"))?;
    let ipv6 = Path::new("/proc/sys/net/ipv6/conf/all/forwarding");
    // Without the file the kernel has no IPv6, and there is nothing to forward.
    if ipv6.exists() {
        warnings.extend(keep_listening(ipv6).await);
        switch_on("IPv6", ipv6)?;
    }
    warnings.extend(raise_conntrack(Path::new("/proc/sys/net/netfilter/nf_conntrack_max")));
    Ok(warnings)
}

/// Writes 1 unless it is there already: inside a container the file may be read-only and right.
fn switch_on(family: &'static str, path: &Path) -> Result<(), StartupError> {
    let failed = |error: io::Error| StartupError::Forwarding {
        family,
        path: path.display().to_string(),
        cause: error.to_string(),
    };
    if fs::read_to_string(path).map_err(failed)?.trim() == "1" {
        return Ok(());
    }
    fs::write(path, "1").map_err(failed)
}

/// Sets `accept_ra` to 2 where a default route came from a router advertisement, unless forwarding is on already.
async fn keep_listening(forwarding: &Path) -> Vec<Warning> {
    if fs::read_to_string(forwarding).is_ok_and(|value| value.trim() == "1") {
        return Vec::new();
    }
    let interfaces = match advertised().await {
        Ok(interfaces) => interfaces,
        Err(error) => {
            let message = format!("the IPv6 routes could not be read: {error}");
            return vec![Warning::new(message, "if this host loses its IPv6 default route, set accept_ra to 2")];
        }
    };
    interfaces.into_iter().filter_map(|interface| keep_listening_on(&interface)).collect()
}

fn keep_listening_on(interface: &str) -> Option<Warning> {
    let path = PathBuf::from(format!("/proc/sys/net/ipv6/conf/{interface}/accept_ra"));
    if fs::read_to_string(&path).ok()?.trim() != "1" {
        return None;
    }
    let why = "a host that forwards would otherwise lose the IPv6 default route that its router advertises";
    Some(match fs::write(&path, "2") {
        Ok(()) => Warning { message: format!("{} is set to 2: {why}", path.display()), way_out: None },
        Err(error) => {
            let message = format!("{} could not be set to 2: {error}; {why}", path.display());
            Warning::new(message, "set it by hand")
        }
    })
}

/// The interfaces with an IPv6 default route from a router advertisement.
async fn advertised() -> nlink::Result<BTreeSet<String>> {
    let kernel = Connection::<Route>::new()?;
    let names = kernel.get_interface_names().await?;
    let routes = kernel.get_routes().await?;
    Ok(routes
        .iter()
        .filter(|route| route.is_ipv6() && route.is_default() && route.route_type() == RouteType::Unicast)
        .filter(|route| route.protocol() == RouteProtocol::Ra)
        .filter_map(|route| names.get(&route.oif()?).cloned())
        .collect())
}

/// Raises the limit of followed connections, where the kernel has one and lets us.
fn raise_conntrack(path: &Path) -> Option<Warning> {
    let limit: u64 = fs::read_to_string(path).ok()?.trim().parse().ok()?;
    if limit >= CONNTRACK_MAX {
        return None;
    }
    let error = fs::write(path, CONNTRACK_MAX.to_string()).err()?;
    let message = format!("{} stays at {limit}: {error}; that may matter with many connections", path.display());
    Some(Warning::new(
        message,
        format!("on the machine itself: sysctl -w net.netfilter.nf_conntrack_max={CONNTRACK_MAX}"),
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_on_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ip_forward");
        fs::write(&file, "1\n").unwrap();
        switch_on("IPv4", &file).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "1\n");
        fs::write(&file, "0\n").unwrap();
        switch_on("IPv4", &file).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "1");
    }

    #[test]
    fn a_failure_names_the_file_and_the_way_out() {
        let error = switch_on("IPv4", Path::new("/proc/sys/net/ipv4/none")).expect_err("there is no such file");
        assert!(error.to_string().contains("/proc/sys/net/ipv4/none"), "{error}");
        assert!(error.way_out().is_some());
    }

    #[test]
    fn the_connection_limit_is_only_ever_raised() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("max");
        for (before, after) in [("262144", "1000000"), ("2000000", "2000000"), ("1000000", "1000000")] {
            fs::write(&file, before).unwrap();
            assert_eq!(raise_conntrack(&file), None);
            assert_eq!(fs::read_to_string(&file).unwrap(), after);
        }
        assert_eq!(raise_conntrack(&folder.path().join("none")), None);
    }
}
