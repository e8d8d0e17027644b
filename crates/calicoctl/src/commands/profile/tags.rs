//! `profile <PROFILE> tag show|add|remove`
//!
//! A tag is a label with an empty value among those that the profile lends its endpoints. Labels with a value are no
//! tags: they are left alone, and `tag show` names them on the side.

use std::collections::BTreeMap;

use calico_classic::Tag;
use serde_json::json;

use super::{Edited, change, existing};
use crate::{args::ProfileTag, context::Context, failure::Failure, names::Wanted, output::Output};

/// `tag show`: one a line.
pub(super) async fn show(ctx: &Context, word: &str) -> Result<Output, Failure> {
    let profile = existing(ctx, &Wanted::parse(word)?).await?;
    let (tags, labels): (BTreeMap<_, _>, BTreeMap<_, _>) =
        profile.spec.labels_to_apply.iter().partition(|(_, value)| value.is_empty());
    if !labels.is_empty() {
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        ctx.console.note(&format!("note: the profile also lends labels with values: {}", labels.join(", ")));
    }
    let text: String = tags.keys().map(|tag| format!("{tag}\n")).collect();
    let tags: Vec<_> = tags.into_keys().collect();
    Ok(Output::of(text, json!({ "profile": profile.profile_name().as_typed(), "tags": tags, "labels": labels })))
}

/// `tag add`: nothing is wrong with one that is there.
pub(super) async fn add(ctx: &Context, words: &ProfileTag) -> Result<Output, Failure> {
    let (wanted, tag) = read(words)?;
    change(ctx, &wanted, |profile| {
        let name = profile.profile_name();
        let done = Output::line(format!("Tag {tag} added to profile {name}"));
        match profile.spec.labels_to_apply.get(tag.as_str()) {
            Some(value) if value.is_empty() => Ok((Edited::No, done)),
            Some(value) => Err(Failure::new(format!("Tag {tag} cannot be added to profile {name}."))
                .because(format!("the profile lends its endpoints the label {tag}={value} already"))
                .hint(format!("change the label with: calicoctl get profile {} -o yaml, and apply", name.as_stored()))),
            None => {
                profile.spec.labels_to_apply.insert(tag.to_string(), String::new());
                Ok((Edited::Yes, done))
            }
        }
    })
    .await
}

/// `tag remove`
pub(super) async fn remove(ctx: &Context, words: &ProfileTag) -> Result<Output, Failure> {
    let (wanted, tag) = read(words)?;
    change(ctx, &wanted, |profile| {
        let name = profile.profile_name();
        match profile.spec.labels_to_apply.get(tag.as_str()) {
            Some(value) if value.is_empty() => {
                profile.spec.labels_to_apply.remove(tag.as_str());
                Ok((Edited::Yes, Output::line(format!("Tag {tag} removed from profile {name}"))))
            }
            other => {
                let failure = Failure::new(format!("Tag {tag} is not on profile {name}"));
                Err(match other {
                    Some(value) => failure.because(format!("{tag}={value} is a label with a value, and no tag")),
                    None => failure.hint(format!("its tags are: calicoctl profile {name} tag show")),
                })
            }
        }
    })
    .await
}

fn read(words: &ProfileTag) -> Result<(Wanted, Tag), Failure> {
    let tag = Tag::parse(&words.tag).map_err(|error| {
        Failure::new(format!("Tag {:?} is not valid: {}.", error.tag, error.reason)).hint(
            "tags are letters, digits, dots, dashes and underscores, at most 63, with a letter or digit at both ends",
        )
    });
    match (Wanted::parse(&words.profile), tag) {
        (Ok(wanted), Ok(tag)) => Ok((wanted, tag)),
        (wanted, tag) => Err(Failure::together(wanted.err().into_iter().chain(tag.err()).collect())
            .expect("one of the two is a failure")),
    }
}
