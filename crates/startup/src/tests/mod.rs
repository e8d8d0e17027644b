//! Start-up as a whole: over the in-memory datastore with a host that is told what to be, and parts against the real
//! kernel in namespaces of the test's own.
#![allow(clippy::unwrap_used)]

mod datastore;
mod kernel;
mod tunnel;
