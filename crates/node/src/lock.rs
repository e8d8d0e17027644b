//! One calico-node per host: an advisory lock on a file in the run directory, which the container shares with the
//! host. The kernel drops it when the process ends, however it ends.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, Write},
    path::Path,
};

use miette::{IntoDiagnostic, Result, WrapErr, miette};
use rustix::fs::{FlockOperation, flock};

/// Held for the process's life.
pub(crate) struct HostLock {
    _file: File,
}

impl HostLock {
    pub(crate) fn take(path: &Path) -> Result<Self> {
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .write(true)
            .truncate(false)
            .open(path)
            .into_diagnostic()
            .wrap_err_with(|| format!("the lock file {} cannot be opened", path.display()))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut process = String::new();
            let _ = file.read_to_string(&mut process);
            return Err(miette!(
                help = "stop it first: `calicoctl node stop`, or `systemctl stop calico-node`",
                "another calico-node already serves this host ({})",
                holder(&process)
            ));
        }
        let write =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        write.into_diagnostic().wrap_err_with(|| format!("the lock file {} cannot be written", path.display()))?;
        Ok(Self { _file: file })
    }
}

/// Who holds the lock, as far as it can be seen: the number in the file is one of the holder's own process namespace.
fn holder(process: &str) -> String {
    let process = process.trim();
    let program = std::fs::read_link(format!("/proc/{process}/exe"));
    let ours = std::env::current_exe();
    match (program, ours) {
        (Ok(program), Ok(ours)) if program.file_name() == ours.file_name() => format!("process {process}"),
        _ => "in a container, or outside of this one".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_second_is_refused_and_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = HostLock::take(&path).unwrap();
        let refusal = HostLock::take(&path).err().unwrap().to_string();
        assert!(refusal.contains(&std::process::id().to_string()), "{refusal}");
        // A number that means another program here was written in another process namespace.
        assert!(holder("1").contains("container"), "{}", holder("1"));
        drop(first);
        HostLock::take(&path).unwrap();
    }
}
