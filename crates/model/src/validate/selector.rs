//! Selectors of policies and rules, which are joined with others before they are evaluated.

use calico_selector::parse;

use super::Faults;

pub(super) const JOIN_RULE: &str = "a selector of blanks only cannot be joined with another one; leave it out to \
                                    select everything";

/// Not empty, yet with nothing in it. It selects everything where it stands alone.
pub(super) fn is_blank(selector: &str) -> bool {
    !selector.is_empty() && selector.bytes().all(|b| matches!(b, b' ' | b'\t'))
}

/// One selector, whose keys get this prefix later on.
pub(super) fn check(faults: &mut Faults, path: &str, selector: &str, prefix: &str) {
    let parsed = match parse(selector) {
        Ok(parsed) => parsed,
        Err(error) => return faults.add(path, selector, error.to_string()),
    };
    if parsed.mentions_global() && parsed.to_string() != "global()" {
        let rule = "global() stands alone: it means what is in no namespace";
        faults.add(path, selector, rule);
    }
    if !prefix.is_empty()
        && let Err(error) = parse(&parsed.with_key_prefix(prefix))
    {
        faults.add(path, selector, format!("with {prefix} before its keys: {error}"));
    }
}
