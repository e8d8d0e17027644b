//! Processes that are ended by their recorded id, and never by mistake.
//!
//! A process id alone is not a name: the kernel gives it to the next process when the first one is gone. A
//! [`ProcessId`] carries the start time too, and every signal goes through a pidfd that was opened *before* the start
//! time was compared, so that no other process can be hit, whatever happens in between.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

/// A process of this boot of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Id as the machine sees it, not as the host's own process namespace does.
    pub pid: u32,
    /// Start time in clock ticks since boot, field 22 of `/proc/PID/stat`.
    pub start: u64,
}

impl ProcessId {
    /// Names the running process `pid`.
    ///
    /// # Errors
    /// There is no such process.
    pub fn of(pid: u32) -> io::Result<Self> {
        Ok(Self { pid, start: start_time(pid)? })
    }

    /// The calling process.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn current() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    /// Whether the process still runs. One that ended and was not yet waited for by its parent does not.
    pub fn is_alive(&self) -> bool {
        self.open().is_some_and(|fd| !is_over(&fd, Duration::ZERO))
    }

    /// A handle on exactly this process, or nothing when it is gone.
    pub(crate) fn open(&self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        (start_time(self.pid).ok()? == self.start).then_some(fd)
    }

    /// Sends SIGKILL and waits until the process is over. True when it is, also when it was gone before.
    pub fn kill_and_wait(&self, limit: Duration) -> bool {
        let Some(fd) = self.open() else { return true };
        // The only failure is that the process ended in between, which is what we want.
        let _ = pidfd_send_signal(&fd, Signal::KILL);
        is_over(&fd, limit)
    }
}

/// Waits at most `limit` for the process behind `fd` to end.
pub(crate) fn is_over(fd: &OwnedFd, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => return ready > 0,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Field 22 of `/proc/PID/stat`. The second field is the program's name in parentheses and may itself hold blanks and
/// parentheses, so counting starts after the last one.
fn start_time(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    stat.rsplit_once(") ")
        .and_then(|(_, rest)| rest.split(' ').nth(19))
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat has no start time")))
}

/// Identifies this boot of the machine: a process recorded before a reboot is none of ours, whatever its numbers say.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::Command;

    #[test]
    fn a_recycled_id_is_not_the_same_process() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        let other = ProcessId { start: id.start + 1, ..id };
        assert!(id.is_alive());
        assert!(!other.is_alive());
        assert!(other.kill_and_wait(Duration::ZERO), "a process that is gone counts as ended");
        assert!(id.is_alive(), "and the one that has its number now is left alone");
        assert!(id.kill_and_wait(Duration::from_secs(5)));
        assert!(!id.is_alive(), "ended, though nobody waited for it yet");
        child.wait().unwrap();
        assert!(!id.is_alive());
    }

    #[test]
    fn the_name_of_a_program_may_hold_anything() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("a) R 1 (b");
        fs::copy("/bin/sleep", &odd).unwrap();
        let mut child = Command::new(&odd).arg("60").spawn().unwrap();
        let here = ProcessId::current().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        assert!(id.start >= here.start, "{id:?} started after {here:?}");
        assert!(id.kill_and_wait(Duration::from_secs(5)));
        child.wait().unwrap();
    }
}
