//! `label`: one label of one resource.

use calico_model::ResourceKey;

use super::{
    delete::stored_name,
    gate, kinds, namespace,
    rules::may_write,
    words,
    write::{Gone, modify},
};
use crate::{args::Label, context::Context, failure::Failure, output::Output};

/// What is to become of the label.
enum Change<'a> {
    Set { key: &'a str, value: &'a str, overwrite: bool },
    Remove { key: &'a str },
}

/// `label`
pub(crate) async fn label(ctx: &Context, args: &Label) -> Result<Output, Failure> {
    let kind = kinds::parse(&args.kind)?;
    let namespace = namespace::of_kind(kind, &args.namespace)?;
    let name = stored_name(kind, &args.name);
    let subject = words::named(kind, namespace.as_deref(), &name);
    may_write(kind, &name).map_err(|failure| failure.about(&subject))?;
    let change = Change::parse(args)?;
    gate::check(ctx, args.connection.allow_version_mismatch).await?;
    let _acting = ctx.interrupt.acting();
    let key = ResourceKey::new(kind, namespace.as_deref(), &name);
    let answer = std::cell::Cell::new("");
    let (word, shown) = (&args.kind, &args.name);
    let changed = modify(ctx, &key, None, |stored| {
        let mut resource = stored.resource.clone();
        let labels = &mut resource.metadata_mut().labels;
        match &change {
            Change::Set { key, value, overwrite } => {
                let present = labels.insert((*key).to_owned(), (*value).to_owned());
                if present.as_ref().is_some_and(|present| present != value) && !overwrite {
                    return Err(Failure::new(format!("The label {key} is present already."))
                        .because(format!("its value is {:?}", present.unwrap_or_default()))
                        .hint("to change it, use --overwrite"));
                }
                answer.set(if present.is_some() { "updated" } else { "set" });
            }
            Change::Remove { key } => {
                if labels.remove(*key).is_none() {
                    return Err(Failure::new(format!("It has no label {key}.")));
                }
            }
        }
        Ok(resource)
    });
    match changed.await {
        Ok(()) => Ok(Output::line(match change {
            Change::Set { key, .. } => format!("Successfully {} label {key} on {word} {shown}", answer.get()),
            Change::Remove { key } => format!("Successfully removed label {key} from {word} {shown}"),
        })),
        Err(Gone::Gone) => Err(Failure::new("It does not exist.").about(&subject)),
        Err(Gone::Failed(failure)) => Err(failure.about(&subject)),
    }
}

impl<'a> Change<'a> {
    fn parse(args: &'a Label) -> Result<Self, Failure> {
        let refuse = |hint: &str| Err(Failure::new(format!("Invalid label {:?}.", args.label)).hint(hint));
        let parts: Vec<&str> = args.label.split('=').collect();
        match (parts.as_slice(), args.remove) {
            ([""] | ["", _], _) => refuse("a label has a key: KEY=VALUE"),
            ([key], true) => Ok(Self::Remove { key }),
            ([key, value], false) => Ok(Self::Set { key, value, overwrite: args.overwrite }),
            (_, true) => refuse("to remove a label, give its key alone: KEY --remove"),
            ([_], false) => refuse("to set a label, give KEY=VALUE; to remove it, KEY --remove"),
            (_, false) => refuse("a value has no equals sign"),
        }
    }
}
