//! Real packets against our own rules.
//!
//! A [`Rig`] is a host with workloads and neighbours, made of network namespaces of its own; resources go through the
//! engine and the dataplane into its kernel as felix would bring them there, and a [`Prober`] sends packets from
//! anywhere to anywhere and says what became of each. On it stand the recorded verdicts (`tests/verdicts.rs`), the
//! cases of the reference (`tests/cases.rs`) and the differential fuzzer (`tests/fuzz.rs`).
//!
//! This crate decides nothing: it is not installed, and nothing that is depends on it. It needs root and never touches
//! the machine's own network.
//!
//! ```no_run
//! # fn example() -> std::io::Result<()> {
//! use calico_packets::{Backend, Rig, Scenarios, rig::SILENCE};
//!
//! let scenarios = Scenarios::read()?;
//! let mut rig = Rig::new(&scenarios.topology)?;
//! for scenario in &scenarios.all {
//!     let cluster = scenarios.cluster(scenario, Backend::Nftables)?;
//!     rig.set(&cluster.state()?)?;
//!     let probes = scenario.parts()[0].probes.iter().map(|probe| probe.probe.clone()).collect::<Vec<_>>();
//!     println!("{}: {:?}", scenario.id, rig.probe(&probes, SILENCE)?);
//! }
//! # Ok(())
//! # }
//! ```

mod agent;
pub mod differences;
mod namespace;
pub mod pair;
pub mod prober;
pub mod rig;
pub mod scenario;
pub mod topology;
pub mod wire;

pub use agent::{Agent, Applied};
pub use namespace::Namespace;
pub use prober::{Answer, Manner, Outcome, Place, Probe, Prober, Seen};
pub use rig::{Backend, Host, Rig, State};
pub use scenario::Scenarios;
pub use topology::Topology;
pub use wire::Content;
