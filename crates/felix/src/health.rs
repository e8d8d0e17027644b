//! What felix says of itself.

use serde::Serialize;

/// State of the agent at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Health {
    /// The kernel holds what the datastore wants.
    pub ready: bool,
    /// One line: why not ready, or what is in force.
    pub reason: String,
    /// Objects that are left out or governed closed, each with the reason.
    pub problems: Vec<String>,
}
