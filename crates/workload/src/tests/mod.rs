//! Against the real kernel: each test makes its own host and workloads as network namespaces.
#![allow(clippy::unwrap_used)]

mod addresses;
mod attaching;
mod refusals;
pub(crate) mod support;
mod undoing;
