//! `profile <PROFILE> rule add|remove|show`
//!
//! The words are the classic ones, and what is stored are v3 rules. A profile may hold rules that the words cannot say;
//! they are shown with a mark, count as rules when positions are counted, and are never touched by an edit of others.

use std::fmt::Write;

use calico_classic::{BadRule, parse, same, say};
use calico_model::{Profile, Rule};
use serde_json::{Value, json};

use super::{Edited, change, existing, silence};
use crate::{args::RuleDirection, context::Context, failure::Failure, names::Wanted, output::Output};

impl RuleDirection {
    /// As it is typed.
    fn word(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }

    fn rules(self, profile: &mut Profile) -> &mut Vec<Rule> {
        match self {
            Self::Inbound => &mut profile.spec.ingress,
            Self::Outbound => &mut profile.spec.egress,
        }
    }
}

/// `rule add`: behind the others, or so that it has the position. A rule that is there already is not added again.
pub(super) async fn add(
    ctx: &Context,
    profile: &str,
    direction: RuleDirection,
    at: Option<&str>,
    words: &[String],
) -> Result<Output, Failure> {
    let (wanted, at, rule) = checked(Wanted::parse(profile), at.map(position).transpose(), sentence(words))?;
    change(ctx, &wanted, |profile| {
        let rules = direction.rules(profile);
        let place = match at {
            None => rules.len(),
            Some(at) => index(at, rules.len() + 1).ok_or_else(|| {
                Failure::new(format!("Position {at} is out-of-range.")).because(count(direction, rules.len())).hint(
                    format!("a new rule can have the positions 1 to {}; without --at it comes last", rules.len() + 1),
                )
            })?,
        };
        if rules.iter().any(|present| same(present, &rule)) {
            return Ok((Edited::No, Output::line("Rule already present, skipping.")));
        }
        rules.insert(place, rule.clone());
        Ok((Edited::Yes, silence()))
    })
    .await
}

/// `rule remove`: that at the position, or the first that means what the words say.
pub(super) async fn remove(
    ctx: &Context,
    profile: &str,
    direction: RuleDirection,
    at: Option<&str>,
    words: &[String],
) -> Result<Output, Failure> {
    let rule = if at.is_some() { Ok(None) } else { sentence(words).map(Some) };
    let (wanted, at, rule) = checked(Wanted::parse(profile), at.map(position).transpose(), rule)?;
    change(ctx, &wanted, |profile| {
        let name = profile.profile_name();
        let rules = direction.rules(profile);
        let place = match (at, &rule) {
            (Some(at), _) => index(at, rules.len())
                .ok_or_else(|| Failure::new("Rule position out-of-range.").because(count(direction, rules.len()))),
            (None, Some(rule)) => rules.iter().position(|present| same(present, rule)).ok_or_else(|| {
                let words = say(rule).text;
                Failure::new("Rule not found.").because(format!("there is no {} rule {words:?}", direction.word()))
            }),
            (None, None) => Err(Failure::new("Neither a position nor a rule is given.")),
        };
        let hint = || format!("the rules are: calicoctl profile {name} rule show");
        rules.remove(place.map_err(|failure| failure.hint(hint()))?);
        Ok((Edited::Yes, silence()))
    })
    .await
}

/// Everything that was typed, or everything that is wrong with it.
fn checked<R>(
    wanted: Result<Wanted, Failure>,
    at: Result<Option<i64>, Failure>,
    rule: Result<R, Failure>,
) -> Result<(Wanted, Option<i64>, R), Failure> {
    match (wanted, at, rule) {
        (Ok(wanted), Ok(at), Ok(rule)) => Ok((wanted, at, rule)),
        (wanted, at, rule) => {
            let faults: Vec<Failure> = wanted.err().into_iter().chain(at.err()).chain(rule.err()).collect();
            let exit = faults.iter().map(Failure::exit).find(|exit| *exit == crate::failure::Exit::Usage);
            let failure = Failure::together(faults).expect("one of the three is a failure");
            Err(if exit.is_some() { failure.not_understood() } else { failure })
        }
    }
}

/// Reads a rule, and shows what is wrong below its words.
fn sentence(words: &[String]) -> Result<Rule, Failure> {
    parse(words).map_err(|bad: BadRule| {
        let failure = Failure::all(bad.faults().iter().map(ToString::to_string).collect());
        let failure = bad.faults().iter().filter_map(|fault| fault.hint()).fold(failure, Failure::hint);
        if bad.is_grammar() { failure.not_understood() } else { failure }
    })
}

fn position(word: &str) -> Result<i64, Failure> {
    word.parse().map_err(|_| {
        Failure::new(format!("Position {word:?} is not a number.")).hint("positions are those of `rule show`, from 1")
    })
}

/// The index of a position from 1 to `most`.
fn index(position: i64, most: usize) -> Option<usize> {
    let index = usize::try_from(position).ok()?.checked_sub(1)?;
    (index < most).then_some(index)
}

fn count(direction: RuleDirection, count: usize) -> String {
    let word = direction.word();
    match count {
        0 => format!("there are no {word} rules"),
        1 => format!("there is one {word} rule"),
        _ => format!("there are {count} {word} rules"),
    }
}

/// `rule show`: both lists, numbered.
pub(super) async fn show(ctx: &Context, word: &str) -> Result<Output, Failure> {
    let profile = existing(ctx, &Wanted::parse(word)?).await?;
    let name = profile.profile_name();
    let (mut text, mut all_classic) = (String::new(), true);
    let mut data = json!({ "profile": name.as_typed(), "storedName": name.as_stored() });
    for (heading, member, rules) in
        [("Inbound", "inbound", &profile.spec.ingress), ("Outbound", "outbound", &profile.spec.egress)]
    {
        let _ = writeln!(text, "{heading} rules:");
        let mut shown = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            let (position, said) = (index + 1, say(rule));
            let mark = if said.is_classic { "" } else { " (v3)" };
            all_classic &= said.is_classic;
            let _ = writeln!(text, " {position:>3} {}{mark}", said.text);
            shown.push(json!({
                "position": position, "words": said.text, "classic": said.is_classic, "rule": rule,
            }));
        }
        data[member] = Value::Array(shown);
    }
    if !all_classic {
        ctx.console.note(&format!(
            "note: rules marked with (v3) have what the classic words cannot say; change them with: \
             calicoctl get profile {} -o yaml, and apply",
            name.as_stored()
        ));
    }
    Ok(Output::of(text, data))
}
