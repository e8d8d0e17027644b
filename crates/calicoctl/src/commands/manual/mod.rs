//! `calicoctl man`

use crate::{args::Manual, failure::Failure, output::Output};

/// Does what was typed.
pub(crate) fn run(_args: &Manual) -> Result<Output, Failure> {
    Err(Failure::new("This build cannot do that."))
}
