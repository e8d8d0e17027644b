//! From the datastore to a running BIRD: confd's part of a node.
//!
//! This crate decides which BGP sessions the node has, what they may exchange and what BIRD writes into the kernel;
//! it keeps BIRD's configuration file and the running daemon to that. It never touches the kernel's routes itself
//! (it reads them once, to tell how BIRD must be started), never starts or stops BIRD, and writes nothing to the
//! datastore.
//!
//! ```
//! use calico_confd::{FileSecrets, State, Template, Waiting};
//!
//! let mut state = State::new("host1");
//! let secrets = FileSecrets { dir: calico_confd::SECRETS_DIR.into() };
//! assert_eq!(state.decide(&secrets), Err(Waiting::Snapshot));
//! state.absorb(calico_store::Event::InSync);
//! assert_eq!(state.decide(&secrets), Err(Waiting::Node("host1".into())));
//! ```
//!
//! Names to know: [`State`] takes the syncer's events and [decides](State::decide) a [`BirdConfig`]; a [`Template`]
//! renders it; [`run`] is the agent's loop over both; [`bird`] is the control socket and how BIRD is started.

mod affinity;
pub mod bird;
mod community;
mod config;
mod decide;
mod duration;
mod file;
mod filters;
mod link;
mod overrides;
mod peer_options;
mod peers;
mod render;
mod run;
mod secrets;
mod state;

pub use config::{
    AddPaths, BirdConfig, FamilyConfig, FilterFunction, Gateway, NextHop, Password, Peer, PeerKind, Screen, Tag,
    Verbosity,
};
pub use decide::{Decision, Waiting};
pub use render::{KERNEL_METRIC, Template, TemplateError};
pub use run::{Options, Report, RunError, run};
pub use secrets::{FileSecrets, SECRETS_DIR, SecretError, SecretKeyRef, Secrets};
pub use state::{Problem, State};
