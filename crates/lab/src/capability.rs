//! Machines that keep a capability from root, and what a host does about it.
//!
//! `docker run --privileged` asks for every capability that the kernel knows. Inside some virtual machines and
//! containers root itself lacks one, and the container runtime refuses what it cannot give. There a host gets a small
//! script in front of `runc` that strikes the missing ones from what Docker asks for; on a machine that has them all,
//! nothing is changed.

use std::fs;
use std::path::PathBuf;

use crate::error::{Context, LabError, Result};
use crate::root::HostFile;

/// Names by number, from `linux/capability.h`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The script in front of `runc`, if this machine needs one.
pub(crate) fn runc_filter() -> Result<Option<HostFile>> {
    let missing = missing_capabilities()?;
    if missing.is_empty() {
        return Ok(None);
    }
    let runc = ["/usr/sbin/runc", "/usr/bin/runc"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.exists())
        .ok_or(LabError::MissingProgram { program: "runc", package: "runc" })?;
    Ok(Some(HostFile::new("/usr/local/sbin/runc", 0o755, script(&missing, &runc.display().to_string()))))
}

/// Docker hands `runc` what it asks for as `config.json` in the bundle, and for `docker exec` as a file of its own.
fn script(missing: &[&str], runc: &str) -> String {
    let names = missing.join("|");
    format!(
        r#"#!/bin/sh
# This machine keeps capabilities from root: {names}. Strike them from what Docker asks for.
previous=
for argument; do
    case $previous in
    --bundle | -b) file=$argument/config.json ;;
    --process | -p) file=$argument ;;
    *) file= ;;
    esac
    [ -f "$file" ] && sed -E -i 's/"CAP_({names})",//g; s/,?"CAP_({names})"//g' "$file"
    previous=$argument
done
exec {runc} "$@"
"#
    )
}

fn missing_capabilities() -> Result<Vec<&'static str>> {
    let status =
        fs::read_to_string("/proc/thread-self/status").context(|| "read this process's capabilities".into())?;
    let bounding = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(u64::MAX);
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").context(|| "read the last capability".into())?;
    Ok(missing(bounding, last.trim().parse().unwrap_or(NAMES.len() - 1)))
}

fn missing(bounding: u64, last: usize) -> Vec<&'static str> {
    NAMES.iter().enumerate().take(last + 1).filter(|(bit, _)| bounding >> bit & 1 == 0).map(|(_, name)| *name).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::Command;

    #[test]
    fn names_what_is_missing() {
        assert_eq!(missing(0x1ff_feff_ffff, 40), ["SYS_RESOURCE"]);
        assert_eq!(missing(0xff_ffff_ffff & !1, 40), ["CHOWN", "CHECKPOINT_RESTORE"]);
        assert!(missing(0xff_ffff_ffff, 39).is_empty(), "an older kernel knows fewer");
    }

    #[test]
    fn strikes_them_wherever_they_stand_and_passes_all_on() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path();
        fs::write(
            bundle.join("config.json"),
            r#"{"bounding":["CAP_BPF","CAP_KILL"],"effective":["CAP_KILL","CAP_BPF"],"permitted":["CAP_BPF"],"x":["CAP_BPF","CAP_LEASE"]}"#,
        )
        .unwrap();
        let run = Command::new("sh")
            .args(["-c", &script(&["BPF", "LEASE"], "echo"), "runc", "--log", "a b", "create", "--bundle"])
            .arg(bundle)
            .arg("id")
            .output()
            .unwrap();
        assert_eq!(
            fs::read_to_string(bundle.join("config.json")).unwrap(),
            r#"{"bounding":["CAP_KILL"],"effective":["CAP_KILL"],"permitted":[],"x":[]}"#
        );
        assert_eq!(
            String::from_utf8(run.stdout).unwrap(),
            format!("--log a b create --bundle {} id\n", bundle.display())
        );
    }
}
