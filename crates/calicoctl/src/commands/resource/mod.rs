//! `create`, `apply`, `replace`, `patch`, `delete`, `get`, `label`, `validate`: the v3 resources as they are.
//!
//! What stands where:
//!
//! - [`source`] reads files, [`namespace`] and [`rules`] say what may be written, [`write`] and [`delete`] write;
//! - [`stored`] reads the datastore, [`view`] says how a resource is shown, [`form`] and [`columns`] print it;
//! - [`plan`](mod@plan) says what a write would do;
//! - [`gate`] refuses clusters of another version.
//!
//! Nothing here knows the members of a kind beyond what rules and columns name: kinds are told apart by
//! [`calico_model`].

mod columns;
mod delete;
mod form;
mod gate;
mod get;
mod kinds;
mod label;
mod namespace;
mod patch;
mod plan;
mod rules;
mod source;
mod stored;
mod validate;
mod view;
mod watch;
mod words;
mod write;

pub(crate) use delete::delete;
pub(crate) use gate::check as check_version;
pub(crate) use get::get;
pub(crate) use kinds::{parse as kind_of, plurals};
pub(crate) use label::label;
pub(crate) use patch::patch;
pub(crate) use plan::plan;
pub(crate) use validate::validate;
pub(crate) use write::{apply, create, replace};
