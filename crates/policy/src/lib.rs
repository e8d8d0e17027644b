//! The policy engine: changes of resources in, instructions for the dataplane out.
//!
//! This crate decides what the kernel of one host must hold: which sets of addresses, which rules, which endpoints.
//! It does no I/O and has no clock, and it never looks at the kernel: [`Instruction`](instruction::Instruction)s are
//! words that fit any dataplane.
//!
//! ```
//! use calico_model::{AnyResource, Change, Kind, Profile, ProfileName};
//! use calico_policy::Engine;
//!
//! let mut engine = Engine::new("host1");
//! let profile = Profile::classic_default(&ProfileName::typed("web")?);
//! engine.absorb(Change::Set { key: profile.key(), resource: Box::new(Kind::into_any(profile)) });
//! // Nothing of it is needed here until an endpoint of this host names the profile.
//! assert_eq!(engine.flush().len(), 2); // settings and pools, once
//! assert!(engine.problems().is_empty());
//! # Ok::<(), calico_model::NameError>(())
//! ```
//!
//! Closed until allowed: an object that cannot be followed to the letter is closed for all that it governs, and
//! [`Engine::problems`] says so.
//!
//! Names to know: [`Engine`] is the incremental calculation; [`oracle`] is the same question answered slowly from
//! the resources themselves, for explanations and as the measure of everything else; [`interpret`] answers it from
//! instructions, and checks that they keep their promises.

mod compile;
mod endpoint;
mod engine;
mod index;
pub mod instruction;
pub mod interpret;
pub mod oracle;
pub mod packet;
mod problem;
mod scope;

pub use endpoint::INTERFACE_PREFIX;
pub use engine::{BlockHolders, Engine, Tally};
pub use problem::Problem;
pub use scope::entity_selectors;

/// The profile that every cluster has without storing it: it allows everything, both ways.
pub const BUILT_IN_PROFILE: &str = "projectcalico-default-allow";
