//! `patch`: a part of a resource, merged into what is stored (RFC 7386).
//!
//! Upstream calls it a strategic merge and ignores `--type`. Its types mark no list as one to merge by key, so a list
//! replaces the list here as there.

use calico_model::{
    AnyResource, ResourceKey, Revision,
    input::{self, InputError},
};
use serde_json::Value;

use super::{
    delete::stored_name,
    gate, kinds, namespace,
    rules::may_write,
    stored::{self, Stored},
    view, words,
    write::{Gone, modify},
};
use crate::{args::Patch, context::Context, failure::Failure, output::Output};

/// `patch`
pub(crate) async fn patch(ctx: &Context, args: &Patch) -> Result<Output, Failure> {
    let kind = kinds::parse(&args.kind)?;
    let namespace = namespace::of_kind(kind, &args.namespace)?;
    let key = ResourceKey::new(kind, namespace.as_deref(), &stored_name(kind, &args.name));
    let subject = words::named(kind, namespace.as_deref(), &key.name);
    may_write(kind, &key.name).map_err(|failure| failure.about(&subject))?;
    let patch = parse(&args.patch)?;
    let expected = expected(&patch)?;
    gate::check(ctx, args.connection.allow_version_mismatch).await?;
    let _acting = ctx.interrupt.acting();
    let patched = modify(ctx, &key, expected, |stored| apply(stored, &patch)).await;
    match patched {
        Ok(()) => Ok(Output::line(format!("Successfully patched 1 '{kind}' resource"))),
        Err(Gone::Gone) => Err(Failure::new("It does not exist.").about(&subject)),
        Err(Gone::Failed(failure)) => Err(failure.about(&subject)),
    }
}

fn parse(text: &str) -> Result<Value, Failure> {
    let refuse = |cause: &str| {
        Failure::new("The patch is not an object in JSON or YAML.")
            .because(cause)
            .hint("it looks like: -p '{\"spec\":{\"order\":100}}'")
    };
    let mut documents = input::documents(text).map_err(|error| refuse(&error.to_string()))?;
    match (documents.pop(), documents.is_empty()) {
        (Some(patch @ Value::Object(_)), true) => Ok(patch),
        (Some(other), true) => Err(refuse(&format!("it is {other}"))),
        _ => Err(refuse("it is empty, or more than one")),
    }
}

/// The version that the patch is for.
fn expected(patch: &Value) -> Result<Option<Revision>, Failure> {
    let Some(given) = patch.pointer("/metadata/resourceVersion").filter(|given| !given.is_null()) else {
        return Ok(None);
    };
    let text = given.as_str().map_or_else(|| given.to_string(), str::to_owned);
    let parsed = text.parse().map(|number| Some(Revision(number)));
    parsed.map_err(|_| Failure::new(format!("metadata.resourceVersion = {text:?}: it must be a number.")))
}

fn apply(stored: &Stored, patch: &Value) -> Result<AnyResource, Failure> {
    let mut value = view::stored(&stored.resource);
    let identity = |value: &Value| {
        let metadata = &value["metadata"];
        [value["kind"].clone(), value["apiVersion"].clone(), metadata["name"].clone(), metadata["namespace"].clone()]
    };
    let before = identity(&value);
    merge(&mut value, patch);
    if identity(&value) != before {
        return Err(Failure::new("A patch cannot change what a resource is called or what kind it is."));
    }
    let patched = input::parse(value).map_err(|error| match error {
        InputError::Invalid(invalid) => Failure::all(words::reasons(&invalid)),
        other => Failure::new(other.to_string()),
    })?;
    keep_unknown(stored, patched)
}

/// Puts back what the stored resource has and its kind has not: it is a newer program's, and not for us to drop.
fn keep_unknown(stored: &Stored, patched: AnyResource) -> Result<AnyResource, Failure> {
    let (full, known) = (view::in_full(&stored.resource), view::stored(&stored.resource));
    if full == known {
        return Ok(patched);
    }
    // As stored, with the annotation that says a policy's name.
    let mut value = serde_json::from_slice(&patched.to_json()).expect("what was written as JSON is JSON");
    restore(&full, &known, &mut value);
    Ok(stored::from_value(patched.key().kind, &value, stored.revision)?)
}

/// Adds to `target` what is in `full` but not in `known`, wherever `target` still has the place for it.
fn restore(full: &Value, known: &Value, target: &mut Value) {
    match (full, known, target) {
        (Value::Object(full), Value::Object(known), Value::Object(target)) => {
            for (name, value) in full {
                match (known.get(name), target.get_mut(name)) {
                    (Some(known), Some(target)) => restore(value, known, target),
                    (None, None) => drop(target.insert(name.clone(), value.clone())),
                    _ => {}
                }
            }
        }
        // Only a list that the patch has left as it was: of another nobody knows which item is which.
        (Value::Array(full), Value::Array(known), Value::Array(target)) if known == target => {
            for ((full, known), target) in full.iter().zip(known).zip(target) {
                restore(full, known, target);
            }
        }
        _ => {}
    }
}

/// RFC 7386, section 2.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Some(members) = target.as_object_mut() else { return };
    for (name, change) in changes {
        if change.is_null() {
            members.remove(name);
        } else {
            merge(members.entry(name.clone()).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_known_is_put_back_where_it_was() {
        let full =
            json!({"a": 1, "new": 2, "list": [{"b": 1, "new": 3}], "other": [{"b": 1, "new": 4}], "c": {"new": 5}});
        let known = json!({"a": 1, "list": [{"b": 1}], "other": [{"b": 1}], "c": {}});
        let mut target = json!({"a": 7, "list": [{"b": 1}], "other": [{"b": 2}]});
        restore(&full, &known, &mut target);
        assert_eq!(target, json!({"a": 7, "new": 2, "list": [{"b": 1, "new": 3}], "other": [{"b": 2}]}));
    }

    #[test]
    fn merged_as_the_rfc_says() {
        // RFC 7386, appendix A.
        for (target, patch, merged) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a"]), json!({"a": "b"}), json!({"a": "b"})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            let mut value = target.clone();
            merge(&mut value, &patch);
            assert_eq!(value, merged, "{target} with {patch}");
        }
    }
}
