//! The policy engine: changes of resources in, instructions for the dataplane out.

pub mod instruction;
