//! From the datastore to a running BIRD.

mod affinity;
pub mod bird;
mod config;
mod decide;
mod duration;
mod options;
mod peers;
mod secrets;
mod state;

pub use config::{AddPaths, BirdConfig, FamilyConfig, NextHop, Password, Peer, PeerKind, Verbosity};
pub use decide::{Decision, Waiting};
pub use secrets::{FileSecrets, SECRETS_DIR, SecretError, SecretKeyRef, Secrets};
pub use state::{Problem, State};
