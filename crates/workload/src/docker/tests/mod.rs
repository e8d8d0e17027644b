//! Against daemons that misbehave, and against the real one.
#![allow(clippy::unwrap_used)]

mod daemon;
mod misbehaving;
mod real;
