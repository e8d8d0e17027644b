//! The commands on v3 resources.

#[path = "../../../../tests/support/cases.rs"]
mod cases;
mod more;
mod vectors;
