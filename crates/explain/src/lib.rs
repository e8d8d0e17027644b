//! Answers about policy, from the resources of a cluster: what decides, and what a change would do.
//!
//! Pure calculation on what the datastore holds: no I/O, no clock. The verdicts are those of the policy engine's
//! instructions, judged by [`calico_policy::interpret`], so that what is explained is what felix programs.
//!
//! ```
//! use calico_explain::{Cluster, plan};
//!
//! let now = Cluster::default();
//! let plan = plan::plan(&now, &[]);
//! assert!(plan.hosts.is_empty() && plan.verdicts.is_empty());
//! ```
//!
//! Names to know: [`Cluster`] is everything that is stored; [`plan`] compares two of them, host by host and pair of
//! endpoints by pair; [`why`] says what decides on a packet, and what would change that; [`words`] says rules in one
//! line.

mod cluster;
pub mod plan;
pub mod why;
pub mod words;

pub use cluster::Cluster;
