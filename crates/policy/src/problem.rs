//! What is governed closed, and why.

use std::fmt;

use calico_model::ResourceKey;

/// An object that cannot be followed as it stands, so that what it governs is closed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Problem {
    /// The object at fault; it need not exist (a profile that endpoints name).
    pub object: ResourceKey,
    /// What is wrong with it, all of it.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.object.kind)?;
        if let Some(namespace) = &self.object.namespace {
            write!(f, "{namespace}/")?;
        }
        write!(f, "{}: {}", self.object.name, self.reason)
    }
}
