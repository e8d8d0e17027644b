//! This machine, as far as commands on containers look at it or change it.
//!
//! The trait is the seam: tests put a recording machine here and let any step fail.

use std::{
    fs::{File, OpenOptions},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use calico_dataplane::{Comparison, listing::Listing};
use calico_policy::instruction::Instruction;
use calico_workload::{
    AttachError, Attached, Attachment, NetnsRef,
    docker::{Container, Docker, DockerError, Listed},
};
use rustix::fs::{FlockOperation, flock};
use tokio::sync::OnceCell;

use crate::failure::Failure;

/// Where the service and calicoctl meet on a host; gone after a boot.
pub(crate) const RUN_DIR: &str = "/var/run/calico";

/// How long a command waits for another one that works on the same container.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
/// When a waiting command says so.
const LOCK_NOTICE: Duration = Duration::from_secs(2);
const LOCK_POLL: Duration = Duration::from_millis(20);

/// This machine.
#[async_trait]
pub(crate) trait Host: Send + Sync {
    /// True if this process may change the host's network.
    fn is_root(&self) -> bool;

    /// True if the host has a network interface of the name.
    fn interface_exists(&self, name: &str) -> bool;

    /// Keeps other commands away from a workload until dropped.
    async fn lock(&self, workload: &str) -> Result<WorkloadLock, Failure>;

    /// What Docker knows of a container.
    async fn inspect(&self, name: &str) -> Result<Container, DockerError>;

    /// All containers of Docker.
    async fn containers(&self) -> Result<Vec<Listed>, DockerError>;

    /// As [`calico_workload::check`].
    async fn check(&self, netns: &NetnsRef, attachment: &Attachment) -> Result<(), AttachError>;

    /// As [`calico_workload::attach`].
    async fn attach(&self, netns: &NetnsRef, attachment: &Attachment) -> Result<Attached, AttachError>;

    /// As [`calico_workload::detach`].
    async fn detach(&self, host_interface: &str) -> Result<bool, AttachError>;

    /// As [`calico_workload::interface_exists`].
    async fn has_interface(&self, netns: &NetnsRef, interface: &str) -> Result<bool, AttachError>;

    /// As [`calico_workload::add_address`].
    async fn add_address(
        &self,
        netns: &NetnsRef,
        interface: &str,
        address: IpAddr,
        gateway: Option<IpAddr>,
    ) -> Result<(), AttachError>;

    /// As [`calico_workload::remove_address`].
    async fn remove_address(&self, netns: &NetnsRef, interface: &str, address: IpAddr) -> Result<(), AttachError>;

    /// As [`calico_dataplane::compare`].
    async fn compare(&self, instructions: Vec<Instruction>) -> Result<Comparison, calico_dataplane::Error>;

    /// As [`calico_dataplane::listing::of_interface`].
    async fn rules(&self, interface: &str) -> Result<Listing, calico_dataplane::Error>;
}

/// The machine that calicoctl runs on. Docker is connected to when first needed.
#[derive(Debug)]
pub(crate) struct Machine {
    docker: OnceCell<Docker>,
    /// Where the service answers on localhost.
    pub(crate) health_port: u16,
}

impl Machine {
    /// The machine, with the service's port.
    pub(crate) fn new(health_port: u16) -> Self {
        Self { docker: OnceCell::new(), health_port }
    }

    /// Docker, connected to once.
    pub(crate) async fn docker(&self) -> Result<&Docker, DockerError> {
        self.docker.get_or_try_init(Docker::connect).await
    }
}

#[async_trait]
impl Host for Machine {
    fn is_root(&self) -> bool {
        rustix::process::geteuid().is_root()
    }

    fn interface_exists(&self, name: &str) -> bool {
        // Asked of the kernel through a socket of this network namespace: /sys may show another one's.
        use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};
        socket(AddressFamily::INET, SocketType::DGRAM, None).is_ok_and(|socket| name_to_index(socket, name).is_ok())
    }

    async fn lock(&self, workload: &str) -> Result<WorkloadLock, Failure> {
        WorkloadLock::take(&Path::new(RUN_DIR).join("lock"), workload).await
    }

    async fn inspect(&self, name: &str) -> Result<Container, DockerError> {
        self.docker().await?.inspect(name).await
    }

    async fn containers(&self) -> Result<Vec<Listed>, DockerError> {
        self.docker().await?.list().await
    }

    async fn check(&self, netns: &NetnsRef, attachment: &Attachment) -> Result<(), AttachError> {
        calico_workload::check(netns, attachment).await
    }

    async fn attach(&self, netns: &NetnsRef, attachment: &Attachment) -> Result<Attached, AttachError> {
        calico_workload::attach(netns, attachment).await
    }

    async fn detach(&self, host_interface: &str) -> Result<bool, AttachError> {
        calico_workload::detach(host_interface).await
    }

    async fn has_interface(&self, netns: &NetnsRef, interface: &str) -> Result<bool, AttachError> {
        calico_workload::interface_exists(netns, interface).await
    }

    async fn add_address(
        &self,
        netns: &NetnsRef,
        interface: &str,
        address: IpAddr,
        gateway: Option<IpAddr>,
    ) -> Result<(), AttachError> {
        calico_workload::add_address(netns, interface, address, gateway).await
    }

    async fn remove_address(&self, netns: &NetnsRef, interface: &str, address: IpAddr) -> Result<(), AttachError> {
        calico_workload::remove_address(netns, interface, address).await
    }

    async fn compare(&self, instructions: Vec<Instruction>) -> Result<Comparison, calico_dataplane::Error> {
        calico_dataplane::compare(instructions).await
    }

    async fn rules(&self, interface: &str) -> Result<Listing, calico_dataplane::Error> {
        calico_dataplane::listing::of_interface(interface).await
    }
}

/// One command at a time for one workload: an advisory lock on a file, which the kernel drops with the process.
///
/// Two `container add` of one container would otherwise both pass the check that it is not added yet. (Where the
/// lock cannot reach, such as between mount namespaces, the endpoint's key and its interface's name still can: they
/// follow from the workload's id, so the second create fails.)
#[derive(Debug)]
pub(crate) struct WorkloadLock {
    held: Option<(File, PathBuf)>,
}

impl WorkloadLock {
    /// Takes the lock of `workload` in `dir`, waiting a while for another command to end.
    pub(crate) async fn take(dir: &Path, workload: &str) -> Result<Self, Failure> {
        let failed = |error: &std::io::Error| {
            Failure::new(format!("The lock directory {} cannot be used.", dir.display())).cause(error)
        };
        // For root only: who can hold the lock can keep everybody from working on the container.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| failed(&error))?;
        let path = dir.join(workload);
        let begin = tokio::time::Instant::now();
        let mut told = false;
        loop {
            let file = OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(|error| failed(&error))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // The holder removes the file before it lets go, so a lock on a file without a name is worth nothing.
                Ok(()) if is_at(&file, &path) => return Ok(Self { held: Some((file, path)) }),
                Ok(()) => {}
                Err(error) if error == rustix::io::Errno::WOULDBLOCK => {
                    if begin.elapsed() >= LOCK_NOTICE && !told {
                        told = true;
                        tracing::warn!("another calicoctl is working on this container, waiting for it");
                    }
                    if begin.elapsed() >= LOCK_PATIENCE {
                        return Err(Failure::new("Another calicoctl is working on this container.")
                            .hint("wait until it has ended, or end it, and try again"));
                    }
                    tokio::time::sleep(LOCK_POLL).await;
                }
                Err(error) => return Err(failed(&error.into())),
            }
        }
    }

    /// A lock that keeps nobody away.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self { held: None }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

impl Drop for WorkloadLock {
    fn drop(&mut self) {
        if let Some((_file, path)) = self.held.take() {
            // Removed while still locked: whoever locks it now sees that it has no name any more.
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn the_lock_keeps_others_out_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("lock");
        let first = WorkloadLock::take(&dir, "a").await.unwrap();
        let _other = WorkloadLock::take(&dir, "b").await.unwrap();
        let waiting = tokio::spawn({
            let dir = dir.clone();
            async move { WorkloadLock::take(&dir, "a").await.map(|_| ()) }
        });
        tokio::time::sleep(LOCK_POLL * 3).await;
        assert!(!waiting.is_finished(), "the second got in beside the first");
        drop(first);
        waiting.await.unwrap().unwrap();
        assert!(!dir.join("a").exists());
    }

    #[tokio::test]
    async fn many_at_once_take_turns() {
        let dir = tempfile::tempdir().unwrap();
        let inside = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let (dir, inside) = (dir.path().to_owned(), inside.clone());
                tokio::spawn(async move {
                    let _lock = WorkloadLock::take(&dir, "a").await.unwrap();
                    assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    }

    #[test]
    fn the_loopback_interface_exists() {
        let machine = Machine::new(0);
        assert!(machine.interface_exists("lo"));
        assert!(!machine.interface_exists("cali-is-not-here"));
    }
}
