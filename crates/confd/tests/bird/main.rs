//! Configurations, and real BIRDs that run with them. One program for all files, so that what waits in one test is used
//! by the next, and the linker works once.

mod agent;
mod common;
mod decide;
mod filters;
mod golden;
mod reflectors;
mod reload;
mod routers;
mod sessions;
