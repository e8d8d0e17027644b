//! Entering and making namespaces, on a thread of its own each time.
//!
//! Namespaces belong to threads, so the calling thread never changes its own: work that must happen elsewhere runs on
//! a short-lived thread. A process that it starts stays where the thread was, and so does a socket that it opens; both
//! can be used from anywhere afterwards.

use std::os::fd::{AsFd, BorrowedFd};
use std::panic::resume_unwind;

use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags, move_into_link_name_space, move_into_thread_name_spaces,
    unshare_unsafe,
};

use crate::error::{Context, Result};

/// Runs `work` in fresh network, mount, host-name and process namespaces and returns what it returns.
///
/// The mounts are a copy of the machine's. The process namespace takes effect for processes that `work` starts: the
/// first one is its process 1, and with it ends everything in the namespace.
pub(crate) fn in_new_namespaces<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_own_thread(|| {
        unshare_thread(UnshareFlags::NEWNET | UnshareFlags::NEWNS | UnshareFlags::NEWUTS | UnshareFlags::NEWPID)?;
        work()
    })
}

/// Runs `work` in the network, mount, host-name and process namespaces of the process behind `pidfd`. Processes that
/// `work` starts are in them too.
pub(crate) fn in_namespaces_of<T: Send>(pidfd: BorrowedFd<'_>, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_own_thread(|| {
        // The kernel lets a thread change its mounts only when no other shares its root and working directory.
        unshare_thread(UnshareFlags::FS)?;
        move_into_thread_name_spaces(
            pidfd,
            ThreadNameSpaceType::NETWORK
                | ThreadNameSpaceType::MOUNT
                | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
                | ThreadNameSpaceType::PROCESS_ID,
        )
        .context(|| "enter the host's namespaces".into())?;
        work()
    })
}

/// Runs `work` in the network namespace of the process behind `pidfd`, with the machine's own files.
pub(crate) fn in_network_of<T: Send>(pidfd: BorrowedFd<'_>, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_own_thread(|| {
        move_into_thread_name_spaces(pidfd, ThreadNameSpaceType::NETWORK)
            .context(|| "enter the host's network namespace".into())?;
        work()
    })
}

/// Runs `work` in the network namespace that the open namespace file `netns` stands for.
pub(crate) fn in_network<T: Send>(netns: impl AsFd, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let netns = netns.as_fd();
    on_own_thread(|| {
        move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
            .context(|| "enter the container's network namespace".into())?;
        work()
    })
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| resume_unwind(panic)))
}

fn unshare_thread(what: UnshareFlags) -> Result<()> {
    debug_assert!(!what.contains(UnshareFlags::FILES));
    // SAFETY: the call is unsafe only because of `FILES`, which would give this thread its own table of file
    // descriptors; no caller in this module passes it.
    #[allow(unsafe_code)]
    unsafe { unshare_unsafe(what) }.context(|| "make namespaces".into())
}
