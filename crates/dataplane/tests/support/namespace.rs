//! Network namespaces for kernel tests.
//!
//! Each test has a thread of its own, in a network namespace of its own, which ends with the thread: nothing is left
//! behind, also after a panic. Commands that are started from such a thread run in its namespace.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

use std::{
    future::Future,
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// How long something that must happen may take.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long a condition is left alone between two looks at it.
pub const GLANCE: Duration = Duration::from_millis(1);

/// Moves the calling thread into a new network namespace with a loopback interface that is up.
#[allow(unsafe_code, reason = "unshare has no safe wrapper; CLONE_NEWNET does not touch file descriptors")]
fn enter_new_namespace() {
    // SAFETY: only `UnshareFlags::FILES` is dangerous, see rustix; it is not used.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
        .expect("a network namespace needs root");
    run("ip link set lo up");
    for setting in ["accept_dad", "dad_transmits", "router_solicitations"] {
        for scope in ["all", "default"] {
            let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/{setting}"), "0");
        }
    }
}

/// Runs an asynchronous test in a namespace of its own.
pub fn in_a_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = thread::spawn(move || {
        enter_new_namespace();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Gives the calling thread mounts of its own, which end with it.
#[allow(unsafe_code, reason = "unshare has no safe wrapper; CLONE_NEWNS does not touch file descriptors")]
pub fn unshare_mounts() {
    use rustix::thread::UnshareFlags;
    // SAFETY: only `UnshareFlags::FILES` is dangerous, see rustix; it is not used.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }.unwrap();
    run("mount --make-rprivate /");
}

/// Runs a command in the calling thread's namespace; its standard output.
#[track_caller]
pub fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until a condition holds.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "did not happen: {what}");
        thread::sleep(GLANCE);
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// Another namespace, with a thread in it.
pub struct Namespace {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<thread::JoinHandle<()>>,
    pub id: i32,
}

impl Namespace {
    pub fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, started) = mpsc::channel();
        let thread = thread::spawn(move || {
            enter_new_namespace();
            ready.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            for job in queue {
                job();
            }
        });
        let id = started.recv().unwrap();
        Self { jobs: Some(jobs), thread: Some(thread), id }
    }

    /// Runs a closure in the namespace.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job = Box::new(move || done.send(job()).unwrap());
        self.jobs.as_ref().unwrap().send(job).unwrap();
        result.recv().unwrap()
    }

    /// Runs a command in the namespace.
    #[track_caller]
    pub fn sh(&self, command: &str) -> String {
        let owned = command.to_owned();
        self.run(move || run(&owned))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.jobs.take());
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}
