//! Network namespaces that live as long as a value does.
//!
//! A namespace is held by an open file and by nothing else: no process waits in it and no name is left behind, so
//! there is nothing to clean up, also after a panic. Sockets and processes stay where they were made, so the only
//! thing that ever enters a namespace is a thread.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, AsRawFd},
    panic::resume_unwind,
    process::{Command, Stdio},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace of our own.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// Makes one, with a loopback interface that is up.
    ///
    /// # Errors
    /// Without root, or without the program `unshare`.
    pub fn new() -> io::Result<Self> {
        // The shell tells that it is in the namespace, and waits until we have opened it.
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo && read -r line"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut ready = [0];
        let told = child.stdout.take().expect("it is piped").read_exact(&mut ready);
        let file = File::open(format!("/proc/{}/ns/net", child.id()));
        drop(child.stdin.take());
        child.wait()?;
        told.map_err(|_| io::Error::other("no network namespace could be made; that needs root"))?;
        let namespace = Self(file?);
        namespace.sh(SYSCTLS)?;
        Ok(namespace)
    }

    /// A path by which `ip link … netns` finds it, while this value lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Another hold on the same namespace.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Moves the calling thread into it.
    ///
    /// # Errors
    /// Those of setns(2).
    pub fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?)
    }

    /// Runs a shell script in it; its standard output.
    ///
    /// # Errors
    /// The script failed; the message has what it said.
    pub fn sh(&self, script: &str) -> io::Result<String> {
        let output = self.run(|| Command::new("sh").args(["-ec", script]).output())??;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("{}: {}", script.lines().next().unwrap_or_default(), said.trim())))
    }

    /// Runs `work` on a thread in it.
    ///
    /// # Errors
    /// Those of setns(2).
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let on_a_thread = || {
            self.enter()?;
            Ok(work())
        };
        thread::scope(|scope| scope.spawn(on_a_thread).join()).unwrap_or_else(|panic| resume_unwind(panic))
    }
}

/// No waiting for duplicate addresses or routers, and no limit on ICMP errors: each of them is an answer that counts.
const SYSCTLS: &str = "
    for scope in all default; do
        cd /proc/sys/net/ipv6/conf/$scope
        for name in accept_dad dad_transmits router_solicitations accept_ra; do echo 0 > $name; done
        cd /proc/sys/net/ipv4/conf/$scope
        for name in rp_filter send_redirects accept_redirects; do echo 0 > $name; done
    done
    echo 0 > /proc/sys/net/ipv4/icmp_ratemask
    echo 0 > /proc/sys/net/ipv6/icmp/ratelimit
    echo 4096 > /proc/sys/net/core/somaxconn
";
