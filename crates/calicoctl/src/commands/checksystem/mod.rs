//! `calicoctl checksystem`

use crate::{args::Checksystem, failure::Failure, output::Output};

/// Does what was typed.
pub(crate) async fn run(_args: &Checksystem) -> Result<Output, Failure> {
    Err(Failure::new("This build cannot do that."))
}
