//! Felix: datastore → policy engine → kernel, for the workloads of one host.
//!
//! One loop over three sources of events: syncers (what is wanted changed), the dataplane (somebody else
//! changed the kernel) and timers (retry, slow resync). Beside the resources a second syncer follows the blocks of
//! addresses, but only while a pool uses VXLAN and routes to other hosts are felix' to make. Invariants, each with a test beside the loop:
//!
//! - Base rules are in place before the datastore is asked for anything: an unknown workload interface passes
//!   nothing.
//! - Nothing else is written before the first snapshot is complete and the cluster says that it is ready, so a
//!   restart deletes nothing that is still wanted.
//! - A datastore that is lost, or marked as not ready, changes nothing on the host; what is in force is still mended.
//! - A failed write is tried again with back-off, and the kernel is read back first.
//! - Mending what somebody disturbs without end takes half of the time at most.
//!
//! The crate does no kernel access of its own: [`Driver`] is the seam, [`calico_dataplane::Dataplane`] the real one.
//! Names to know: [`run`] is the agent, [`AgentHealth`](calico_model::AgentHealth) what it says of itself.

mod blocks;
mod driver;
mod effort;
mod run;

pub use driver::{Applied, Driver};
pub use run::{Options, run};
