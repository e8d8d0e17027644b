//! `validate`: what can be said of resources without a datastore.

use super::{
    source,
    words::{self, Verb},
    write::{nothing_to_do, prepare},
};
use crate::{
    args::{Namespace, Validate},
    context::Console,
    failure::Failure,
    output::Output,
};

/// `validate`
pub(crate) fn validate(console: &dyn Console, args: &Validate) -> Result<Output, Failure> {
    let mut items = source::read(console, &args.files)?;
    if items.is_empty() {
        return Ok(nothing_to_do());
    }
    prepare(&mut items, &Namespace::default(), false)?;
    let kinds: Vec<_> = items.iter().map(|item| item.resource.key().kind).collect();
    words::summary(Verb { past: "validated" }, &kinds, kinds.len(), Vec::new())
}
