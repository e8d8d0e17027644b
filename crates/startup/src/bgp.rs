//! What BIRD needs before it can be started: its program, and BGP's port.

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::StartupError;

/// BGP's TCP port (RFC 4271).
const BGP_PORT: u16 = 179;

/// Folders that hold system programs but are often missing from `PATH`.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Finds the program `bird` and makes sure that it is BIRD 2 or newer.
///
/// # Errors
/// [`StartupError::NoBird`].
pub fn find_bird() -> Result<PathBuf, StartupError> {
    let path = env::var_os("PATH").unwrap_or_default();
    find_in(env::split_paths(&path).chain(SYSTEM_FOLDERS.map(PathBuf::from)))
}

fn find_in(folders: impl Iterator<Item = PathBuf>) -> Result<PathBuf, StartupError> {
    let mut looked = Vec::new();
    for folder in folders.filter(|folder| folder.is_absolute()) {
        let program = folder.join("bird");
        if fs::metadata(&program).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0) {
            return check_version(&program).map(|()| program);
        }
        if !looked.contains(&folder) {
            looked.push(folder);
        }
    }
    let folders: Vec<String> = looked.iter().map(|folder| folder.display().to_string()).collect();
    Err(StartupError::NoBird { cause: format!("there is no program bird in {}", folders.join(", ")) })
}

fn check_version(program: &Path) -> Result<(), StartupError> {
    let refuse = |cause: String| StartupError::NoBird { cause: format!("{} {cause}", program.display()) };
    let output = Command::new(program).arg("--version").output();
    let output = output.map_err(|error| refuse(format!("cannot be run: {error}")))?;
    // BIRD tells its version on standard error.
    let said = [output.stderr, output.stdout].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    let version = said.lines().find_map(|line| line.trim().strip_prefix("BIRD version "));
    let version = version.ok_or_else(|| refuse("does not say its version, so it is not BIRD".into()))?;
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_some_and(|major| major >= 2) {
        return Ok(());
    }
    Err(refuse(format!("is version {version}, and version 2 is needed")))
}

/// Refuses if another program than our BIRD listens on BGP's port in this network namespace.
///
/// # Errors
/// [`StartupError::PortTaken`] names the program; [`StartupError::Host`] if the kernel's table cannot be read.
pub fn check_bgp_port() -> Result<(), StartupError> {
    for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        let text = match fs::read_to_string(table) {
            Ok(text) => text,
            // A kernel without IPv6 has no second table.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(StartupError::Host { what: "TCP sockets", cause: error.to_string() }),
        };
        for listener in text.lines().skip(1).filter_map(Listener::parse).filter(|found| found.port == BGP_PORT) {
            let holder = holder(listener.inode);
            if holder.as_ref().is_some_and(|(name, pid)| name == "bird" && is_ours(*pid)) {
                continue;
            }
            let holder = match holder {
                Some((name, pid)) => format!("{name} (process {pid})"),
                None => "a program that cannot be seen from here".to_owned(),
            };
            return Err(StartupError::PortTaken { port: BGP_PORT, address: listener.address, holder });
        }
    }
    Ok(())
}

/// A listening socket in the kernel's table, proc_net(5).
#[derive(Debug, PartialEq, Eq)]
struct Listener {
    address: IpAddr,
    port: u16,
    inode: u64,
}

impl Listener {
    fn parse(line: &str) -> Option<Self> {
        const LISTEN: &str = "0A";
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (&local, &state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?.parse().ok()?);
        if state != LISTEN {
            return None;
        }
        let (address, port) = local.split_once(':')?;
        Some(Self { address: parse_address(address)?, port: u16::from_str_radix(port, 16).ok()?, inode })
    }
}

/// An address as the kernel prints it: words of 32 bits in the machine's byte order.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[at * 4..at * 4 + 4].copy_from_slice(&word(at * 8)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// The name and id of a process that has the socket open.
fn holder(inode: u64) -> Option<(String, u32)> {
    let socket = PathBuf::from(format!("socket:[{inode}]"));
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(open) = fs::read_dir(process.path().join("fd")) else { continue };
        if open.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|target| target == socket)) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some((name.trim().to_owned(), pid));
        }
    }
    None
}

/// True if a BIRD was started by us: its configuration and control socket are in folders called so.
fn is_ours(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains("/calico"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn listeners_are_read_from_the_kernels_table() {
        let line =
            "   0: 0100007F:00B3 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0";
        let found = Listener { address: [127, 0, 0, 1].into(), port: 179, inode: 4711 };
        assert_eq!(Listener::parse(line), Some(found));
        assert_eq!(Listener::parse(&line.replace(" 0A ", " 01 ")), None, "a connection is no listener");
        assert_eq!(parse_address("B80D0120000000000000000001000000"), "2001:db8::1".parse().ok());
        assert_eq!(Listener::parse("  sl  local_address rem_address   st"), None);
    }

    /// A program `bird` that says what it is told to.
    fn fake(says: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("bird");
        fs::write(&program, format!("#!/bin/sh\necho '{says}' >&2\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        folder
    }

    #[test]
    fn only_bird_2_and_newer_will_do() {
        for (says, good) in [
            ("BIRD version 2.0.12", true),
            ("BIRD version 3.1.0", true),
            ("BIRD version 1.6.8", false),
            ("chirp", false),
        ] {
            let folder = fake(says);
            let found = find_in([folder.path().to_owned()].into_iter());
            assert_eq!(found.is_ok(), good, "{says}: {found:?}");
        }
    }

    #[test]
    fn the_first_that_can_be_run_counts_and_a_missing_one_is_named() {
        let (empty, full) = (tempfile::tempdir().unwrap(), fake("BIRD version 2.14"));
        fs::write(empty.path().join("bird"), "not executable").unwrap();
        let folders = [PathBuf::from("relative"), empty.path().to_owned(), full.path().to_owned()];
        assert_eq!(find_in(folders.into_iter()).unwrap(), full.path().join("bird"));
        let error = find_in([empty.path().to_owned()].into_iter()).expect_err("there is none");
        assert!(error.to_string().contains(&empty.path().display().to_string()), "{error}");
        assert!(error.way_out().is_some_and(|way_out| way_out.contains("bird2")));
    }
}
