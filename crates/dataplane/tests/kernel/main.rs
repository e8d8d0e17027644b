//! The dataplane in real kernels' namespaces, with real packets; checked with `nft`, `ip`, `iptables`, `conntrack`.
#![allow(clippy::unwrap_used, reason = "a test fails by panic")]

#[path = "../support/mod.rs"]
mod support;

mod absence;
mod foreign;
mod hosts;
mod iptables;
mod large;
mod lifecycle;
mod looking;
mod packets;
mod purge;
mod routes;
mod vxlan;
