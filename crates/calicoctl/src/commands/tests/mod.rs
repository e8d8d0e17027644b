//! Commands against an in-memory datastore and a recording machine.

mod container;
mod endpoint;
mod node_remove;
mod node_show;
mod profile;
mod resources;
mod why;
