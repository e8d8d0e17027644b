//! `calicoctl diags`

use crate::{args::Diags, context::Context, failure::Failure, output::Output};

/// Does what was typed.
pub(crate) async fn run(_ctx: &Context, _args: &Diags) -> Result<Output, Failure> {
    Err(Failure::new("This build cannot do that."))
}
