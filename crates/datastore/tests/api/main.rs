//! The datastore's API, beside a real etcd wherever both can be asked.

#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "../../../store/tests/conformance/cases.rs"]
#[macro_use]
mod cases;
mod client;
mod conformance;
mod differential;
#[path = "../../../store/tests/support/etcd.rs"]
mod etcd;
mod etcdctl;
mod ours;
mod server;
