//! systemd on this machine, as far as the service calico-node is one of its units.
//!
//! A part of the seam [`crate::runtime::Runtime`]: tests put units made of maps here.

use std::{
    io::ErrorKind,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    process::Stdio,
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use crate::{failure::Failure, host::Machine};

/// The service's unit.
pub(crate) const UNIT: &str = "calico-node.service";
/// The settings that the unit reads.
pub(crate) const SETTINGS: &str = "/etc/calico/calico.env";

/// There while systemd runs the machine (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";
/// What Debian's BIRD runs with, and what it came with.
const BIRD_CONFIG: (&str, &str) = ("/etc/bird/bird.conf", "/usr/share/bird2/bird.conf");

/// How a unit is, in systemd's own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnitStatus {
    /// `active`, `activating`, `failed`, …
    pub(crate) active: String,
    /// `running`, `auto-restart`, …
    pub(crate) sub: String,
    /// True if it starts with the machine.
    pub(crate) enabled: bool,
    /// Another one for each time that it was started.
    pub(crate) invocation: String,
    /// How often systemd has started it again by itself.
    pub(crate) restarts: u32,
    /// The code that its process ended with last.
    pub(crate) exit_code: i32,
}

impl UnitStatus {
    /// True if it runs, or is about to.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.active.as_str(), "active" | "activating" | "reloading")
    }

    /// Reads what `systemctl show` prints; `None` if systemd does not know the unit.
    fn parse(shown: &str) -> Option<Self> {
        let mut status = Self::default();
        for (name, value) in shown.lines().filter_map(|line| line.split_once('=')) {
            match name {
                "LoadState" if value != "loaded" => return None,
                "ActiveState" => value.clone_into(&mut status.active),
                "SubState" => value.clone_into(&mut status.sub),
                "UnitFileState" => status.enabled = value.starts_with("enabled"),
                "InvocationID" => value.clone_into(&mut status.invocation),
                "NRestarts" => status.restarts = value.parse().unwrap_or(0),
                "ExecMainStatus" => status.exit_code = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        (!status.active.is_empty()).then_some(status)
    }
}

/// systemd, and the files by which our unit is set up.
#[async_trait]
pub(crate) trait Systemd {
    /// How a unit is; `None` where systemd does not run the machine or does not know the unit.
    async fn unit(&self, name: &str) -> Result<Option<UnitStatus>, Failure>;

    /// `systemctl WORDS`, to its end.
    async fn systemctl(&self, words: &[&str]) -> Result<(), Failure>;

    /// What a unit prints from a moment on, line by line. Ends early where there is no journal.
    fn journal<'a>(&'a self, unit: &'a str, since: SystemTime) -> BoxStream<'a, String>;

    /// The text of [`SETTINGS`]; `None` if it is not there.
    fn read_settings(&self) -> std::io::Result<Option<String>>;

    /// Replaces [`SETTINGS`] at once, readable by root alone; `None` removes it.
    fn write_settings(&self, text: Option<&str>) -> std::io::Result<()>;

    /// True if Debian's BIRD has the configuration that it came with, which does nothing of use.
    fn has_stock_bird(&self) -> bool;
}

#[async_trait]
impl Systemd for Machine {
    async fn unit(&self, name: &str) -> Result<Option<UnitStatus>, Failure> {
        if !Path::new(BOOTED).is_dir() {
            return Ok(None);
        }
        const SHOWN: &str =
            "--property=LoadState,ActiveState,SubState,UnitFileState,InvocationID,NRestarts,ExecMainStatus";
        let shown = output(&["show", SHOWN, name]).await?;
        Ok(UnitStatus::parse(&shown))
    }

    async fn systemctl(&self, words: &[&str]) -> Result<(), Failure> {
        output(words).await.map(|_| ())
    }

    fn journal<'a>(&'a self, unit: &'a str, since: SystemTime) -> BoxStream<'a, String> {
        let since = since.duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = format!("--since=@{}.{:06}", since.as_secs(), since.subsec_micros());
        // Matched by the unit that printed it, so that systemd's own lines about the unit are left out.
        let child = Command::new("journalctl")
            .args(["--follow", "--quiet", "--lines=all", "--output=cat", &since])
            .arg(format!("_SYSTEMD_UNIT={unit}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let Ok(mut child) = child else { return stream::empty().boxed() };
        let Some(stdout) = child.stdout.take() else { return stream::empty().boxed() };
        let lines = BufReader::new(stdout).lines();
        // The process ends with the stream.
        stream::unfold((lines, child), |(mut lines, child)| async move {
            let line = lines.next_line().await.ok().flatten()?;
            Some((line, (lines, child)))
        })
        .boxed()
    }

    fn read_settings(&self) -> std::io::Result<Option<String>> {
        match std::fs::read_to_string(SETTINGS) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write_settings(&self, text: Option<&str>) -> std::io::Result<()> {
        match text {
            Some(text) => write_private(Path::new(SETTINGS), text),
            None => std::fs::remove_file(SETTINGS),
        }
    }

    fn has_stock_bird(&self) -> bool {
        let (present, stock) = BIRD_CONFIG;
        matches!((std::fs::read(present), std::fs::read(stock)), (Ok(present), Ok(stock)) if present == stock)
    }
}

/// Runs systemctl to its end; its standard output.
async fn output(words: &[&str]) -> Result<String, Failure> {
    let failed = |cause: String| Failure::new(format!("systemctl {} failed.", words.join(" "))).because(cause);
    let answer = Command::new("systemctl").args(words).stdin(Stdio::null()).output().await;
    let answer = answer.map_err(|error| failed(error.to_string()))?;
    if answer.status.success() {
        return Ok(String::from_utf8_lossy(&answer.stdout).into_owned());
    }
    Err(failed(String::from_utf8_lossy(&answer.stderr).trim().to_owned()))
}

/// Replaces a file: readers see the old text or the new one, and nobody but root sees it at all.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder)?;
    let new = path.with_extension("new");
    let written = (|| {
        let mut file = std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
        // One that was left there may have another mode.
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        std::fs::File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    written
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_unit_is_read_from_what_systemctl_shows() {
        let shown = "LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nUnitFileState=enabled\n\
                     InvocationID=ab12\nNRestarts=3\nExecMainStatus=1\n";
        let status = UnitStatus::parse(shown).unwrap();
        assert_eq!((status.active.as_str(), status.sub.as_str()), ("activating", "auto-restart"));
        assert_eq!((status.enabled, status.restarts, status.exit_code), (true, 3, 1));
        assert_eq!(status.invocation, "ab12");
        assert_eq!(UnitStatus::parse("LoadState=not-found\nActiveState=inactive\n"), None);
        assert_eq!(UnitStatus::parse("LoadState=masked\nActiveState=inactive\n"), None);
    }

    #[test]
    fn settings_are_replaced_at_once_and_for_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("below/calico.env");
        write_private(&path, "IP=10.0.0.1\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::write(path.with_extension("new"), "left by a crash").unwrap();
        write_private(&path, "IP=10.0.0.2\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "IP=10.0.0.2\n");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!path.with_extension("new").exists());
    }
}
