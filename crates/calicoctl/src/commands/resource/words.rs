//! How resources, their faults and the outcome for many of them are put into words.

use calico_model::{AnyResource, Fault, Invalid, KindName, Metadata};

use crate::{
    failure::{Exit, Failure},
    output::Output,
};

/// A resource in a message: `IPPool pool-1`, `NetworkPolicy production/web`.
pub(super) fn name(kind: KindName, metadata: &Metadata) -> String {
    named(kind, metadata.namespace.as_deref(), &metadata.name)
}

/// As [`name`], from the parts.
pub(super) fn named(kind: KindName, namespace: Option<&str>, name: &str) -> String {
    let name = if name.is_empty() { "without a name" } else { name };
    match namespace {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

/// `place` before `what`, if there is one.
pub(super) fn at(place: &str, what: &str) -> String {
    if place.is_empty() { what.to_owned() } else { format!("{place}: {what}") }
}

/// Each fault of a resource as a message, with the place of the resource.
pub(super) fn faults(place: &str, invalid: &Invalid) -> Vec<String> {
    let subject = at(place, &named(invalid.kind, None, &invalid.name));
    reasons(invalid).iter().map(|reason| at(&subject, reason)).collect()
}

/// Each fault of a resource as a message, without saying of which.
pub(super) fn reasons(invalid: &Invalid) -> Vec<String> {
    invalid.faults.iter().map(fault).collect()
}

/// A fault; of a selector with its place underlined.
fn fault(fault: &Fault) -> String {
    let words = fault.to_string();
    let is_selector = fault.path.to_ascii_lowercase().contains("selector");
    match calico_selector::parse(&fault.value) {
        Err(error) if is_selector && !fault.value.is_empty() => {
            let span = error.span();
            // One line, so that the marks stand below what they mark.
            let line: String =
                fault.value.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
            let width = |bytes: &str| bytes.chars().count();
            let before = width(&fault.value[..span.start]);
            let marked = width(&fault.value[span]).max(1);
            format!("{words}\n    {line}\n    {}{}", " ".repeat(before), "^".repeat(marked))
        }
        _ => words,
    }
}

/// What a command has done to resources.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verb {
    /// `created`
    pub(super) past: &'static str,
}

/// The outcome of a command for resources of the kinds, of which so many are done.
///
/// # Errors
/// Nothing is done.
pub(super) fn summary(verb: Verb, kinds: &[KindName], done: usize, failures: Vec<Failure>) -> Result<Output, Failure> {
    let total = kinds.len();
    let kind = match kinds.split_first() {
        Some((first, rest)) if rest.iter().all(|kind| kind == first) => format!("'{first}' "),
        _ => String::new(),
    };
    let Some(failure) = Failure::together(failures) else {
        return Ok(Output::line(format!("Successfully {} {total} {kind}resource(s)", verb.past)));
    };
    if done == 0 {
        return Err(failure);
    }
    let line = format!("Partial success: {} {done} out of {total} {kind}resources", verb.past);
    Ok(Output::line(line).but(failure).exit(Exit::Failed))
}

/// The subject of a resource.
pub(super) fn subject(place: &str, resource: &AnyResource) -> String {
    at(place, &name(resource.key().kind, resource.metadata()))
}
