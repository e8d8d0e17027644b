//! Hosts without virtual machines, for tests and for trying things out.
//!
//! A lab is a handful of hosts on one machine. Each host has network, mount, host-name and process namespaces of its
//! own: its own interfaces and rules, its own `/run`, `/var/lib/docker`, `/var/log`, `/etc` and `/tmp` for writing, its
//! own Docker daemon in stock configuration. The hosts are joined by a switch, which is a host too, carries the lab's
//! etcd, and has no way to the machine's real network. Commands inside are word for word what a person would type on a
//! real host, and `pkill bird` hits that host's bird only.
//!
//! ```no_run
//! use calico_lab::{Lab, LabOptions};
//!
//! # fn main() -> calico_lab::Result<()> {
//! let lab = Lab::up(&LabOptions::hosts(2))?;
//! lab.host(1).ok("docker run --net=none --name=workload_A -tid ubuntu");
//! lab.host(1).ok("ping -c 1 host2");
//! # Ok(())
//! # } // dropping the lab removes it
//! ```
//!
//! Invariants:
//!
//! - What a host writes never reaches the machine or another host ([`HostCommand`] runs inside, on an overlay).
//! - Everything that outlives a function call is on record before it exists, so `calico-lab down --all` finds it.
//! - A process is ended by its id together with its start time, never by its name.
//! - A lab of a test ends with the test's process, however that ends.
//!
//! It never touches the machine's own network, mounts or services, and needs none of them but the kernel.

mod address;
mod capability;
mod command;
mod docker;
mod dump;
mod error;
mod etcd;
mod host;
pub mod image;
mod kept;
mod lab;
mod matrix;
mod namespace;
mod network;
mod ping;
pub mod play;
mod process;
mod root;
pub mod state;
mod wait;

pub use address::Place;
pub use command::{COMMAND_LIMIT, HostCommand, Output, Running};
pub use error::{LabError, Result};
pub use etcd::Etcd;
pub use host::Host;
pub use lab::{Lab, LabOptions, SWITCH, binaries_dir};
pub use matrix::{Answer, Matrix};
pub use ping::{Loss, PingReport, Pinger, reaches};
pub use process::ProcessId;
pub use state::EtcdMode;
pub use wait::{wait_for, wait_until};
