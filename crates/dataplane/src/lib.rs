//! The kernel side: rules, routes, interfaces.
//!
//! The policy engine says what this host must hold, in [`calico_policy::instruction::Instruction`]s; this crate makes
//! the kernel hold exactly that, by netlink, and keeps it so when somebody else interferes. Only where rules have to be
//! in iptables it runs that program's own tools (`iptables`).
//!
//! It decides how instructions become nftables rules (`render`), in which transactions they are written (`table`),
//! which routes lead to workloads (`routing`), also of other hosts (`vxlan`), and what is ours: the nftables tables `ip
//! calico` and `ip6 calico`, routes with our protocol number, VXLAN devices with our two names, settings of interfaces with our prefix, and single rules with our comment in
//! other programs' chains. It never touches anything else, never removes what it cannot recognise as its own, and
//! never asks the datastore.
//!
//! ```no_run
//! # async fn example(instructions: Vec<calico_policy::instruction::Instruction>) -> Result<(), calico_dataplane::Error> {
//! use calico_dataplane::{Dataplane, Options};
//!
//! let mut dataplane = Dataplane::new(Options::default())?;
//! dataplane.install_base().await?;            // unknown workload interfaces are closed from here on
//! for instruction in instructions {
//!     dataplane.absorb(instruction);          // wanted, not yet done
//! }
//! for problem in dataplane.apply().await?.problems {
//!     tracing::warn!("{problem}");
//! }
//! loop {
//!     dataplane.next_event().await;           // somebody else changed something
//!     dataplane.apply().await?;               // mended
//! }
//! # }
//! ```
//!
//! Names to know: [`Dataplane`] is the driver; [`Report`] what an apply did and could not do; [`Event`] a foreign
//! change that the next apply mends.

#[cfg(test)]
mod arbitrary;
mod compare;
mod dataplane;
#[cfg(test)]
mod differential_tests;
mod error;
#[cfg(test)]
mod fake_kernel;
mod family;
mod foreign;
#[cfg(test)]
mod golden_policies;
#[cfg(test)]
mod golden_tests;
mod ifname;
mod iptables;
pub mod listing;
mod members;
mod name;
#[cfg(test)]
#[path = "../tests/support/namespace.rs"]
mod namespace;
mod netlink;
mod op;
mod options;
mod passing;
#[cfg(test)]
mod plan_tests;
pub mod probe;
mod program;
mod purge;
mod render;
mod report;
mod routing;
mod ruleset;
mod state;
mod sysctl;
mod table;
mod tracker;
#[cfg(test)]
mod vocabulary_tests;
mod vxlan;
mod writer;

pub use compare::{Comparison, compare};
pub use dataplane::Dataplane;
pub use error::{Error, KernelError};
pub use options::Options;
pub use purge::{purge, remove_interfaces};
pub use report::{EndpointState, Event, Problem, Report};
