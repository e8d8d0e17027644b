//! How resources, their faults and the outcome for many of them are put into words.

use calico_model::{AnyResource, Fault, Invalid, KindName, Metadata};

use crate::{
    context::Context,
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

/// More characters of a value are not shown.
const SHOWN: usize = 160;

/// A fault; of a selector with its place underlined.
fn fault(fault: &Fault) -> String {
    let words = format!("{} = {:?}: {}", fault.path, shortened(&fault.value), fault.reason);
    match calico_selector::parse(&fault.value) {
        // Other faults of a selector (its length, where it stands) have no place in it.
        Err(error) if fault.reason.contains(error.message()) && !fault.value.is_empty() => {
            format!("{words}{}", calico_classic::underlined(&fault.value, error.span()))
        }
        _ => words,
    }
}

fn shortened(value: &str) -> String {
    if value.chars().count() <= SHOWN {
        return value.to_owned();
    }
    value.chars().take(SHOWN).chain("…".chars()).collect()
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

/// True if the rest need not be tried: the datastore is away, or the user wants to stop, which is added to the
/// failures.
pub(super) fn is_vain(ctx: &Context, failures: &mut Vec<Failure>) -> bool {
    if let Err(aborted) = ctx.interrupt.check() {
        failures.push(aborted);
        return true;
    }
    failures.last().is_some_and(Failure::is_outage)
}

/// The subject of a resource.
pub(super) fn subject(place: &str, resource: &AnyResource) -> String {
    at(place, &name(resource.key().kind, resource.metadata()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_selector(text: &str) -> String {
        let error = calico_selector::parse(text).expect_err("a bad one");
        fault(&Fault::new("spec.selector", text, error.to_string()))
    }

    #[test]
    fn the_place_in_a_selector_is_underlined() {
        let words = of_selector("a == 'b' && c = 'd'");
        assert!(words.ends_with("\n    a == 'b' && c = 'd'\n                  ^"), "{words}");
        let words = of_selector("a == 'ö' &\n x");
        assert!(words.contains("\n    a == 'ö' &  x\n             ^"), "{words}");
    }

    #[test]
    fn long_texts_are_cut_to_what_is_around_the_place() {
        let long = format!("{} && c = 'd' && {}", vec!["has(a)"; 100].join(" && "), vec!["has(b)"; 100].join(" && "));
        let words = of_selector(&long);
        let lines: Vec<&str> = words.lines().collect();
        assert!(lines.iter().all(|line| line.chars().count() < 400), "{words}");
        let place = lines[2].find('^').expect("a mark");
        let marked: String = lines[1].chars().skip(place).take(5).collect();
        assert_eq!(marked, "= 'd'", "{words}");
        assert!(fault(&Fault::new("spec.selector", 50_000, "it is too long")).ends_with("it is too long"));
    }
}
