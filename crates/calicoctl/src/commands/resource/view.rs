//! Resources as people and programs get to see them: with their version, without what no kind has, and with the
//! members that upstream fills in when it reads. What is shown can be applied again.

use calico_model::{ANNOTATION_METADATA, AnyResource, Kind, KindName, Resource, ResourceVisitor, Revision, input};
use serde_json::{Value, json};

use super::rules::DEFAULT_ALLOW;

/// The members of the metadata that belong to one cluster.
const OF_THE_CLUSTER: [&str; 6] =
    ["uid", "resourceVersion", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "namespace"];

/// A stored resource in full.
pub(super) fn shown(resource: &AnyResource) -> Value {
    let mut resource = resource.clone();
    // Pools of older releases lack what came later.
    if let AnyResource::IPPool(pool) = &mut resource {
        calico_model::IPPoolSpec::set_defaults(pool);
    }
    let revision = resource.revision();
    let mut value = stored(&resource);
    if let (Some(revision), Some(metadata)) = (revision, value["metadata"].as_object_mut()) {
        metadata.insert("resourceVersion".to_owned(), revision.to_string().into());
    }
    value
}

/// A resource as it is stored, without what its kind has not.
pub(super) fn stored(resource: &AnyResource) -> Value {
    let mut value = in_full(resource);
    input::only_known(resource.key().kind, &mut value);
    value
}

/// A resource as it is stored, but for the annotation that nobody sees.
pub(super) fn in_full(resource: &AnyResource) -> Value {
    struct Write;

    impl ResourceVisitor for Write {
        type Out = Vec<u8>;

        fn visit<S: Kind>(self, mut resource: Resource<S>) -> Vec<u8> {
            if S::STATUS_ALWAYS {
                resource.status.get_or_insert_with(|| json!({}));
            }
            resource.to_json()
        }
    }

    let bytes = resource.clone().visit(Write);
    let mut value: Value = serde_json::from_slice(&bytes).expect("what was written as JSON is JSON");
    if let Some(metadata) = value["metadata"].as_object_mut()
        && let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut)
    {
        annotations.remove(ANNOTATION_METADATA);
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
    value
}

/// Takes away what belongs to one cluster, so that the resource can be brought to another.
pub(super) fn export(value: &mut Value) {
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.retain(|name, _| !OF_THE_CLUSTER.contains(&name.as_str()));
    }
}

/// A list of resources, as upstream's programs write it.
pub(super) fn list(kind: KindName, revision: Revision, items: Vec<Value>) -> Value {
    json!({
        "kind": format!("{kind}List"),
        "apiVersion": "projectcalico.org/v3",
        "metadata": { "resourceVersion": revision.to_string() },
        "items": items,
    })
}

/// The profile that upstream's programs make up; see [`DEFAULT_ALLOW`].
pub(super) fn default_allow() -> Value {
    json!({
        "kind": "Profile",
        "apiVersion": "projectcalico.org/v3",
        "metadata": { "name": DEFAULT_ALLOW, "resourceVersion": "1" },
        "spec": { "ingress": [{ "action": "Allow" }], "egress": [{ "action": "Allow" }] },
    })
}

/// The name of a shown resource.
pub(super) fn name(value: &Value) -> &str {
    value["metadata"]["name"].as_str().unwrap_or_default()
}

/// The resources of what was found: those of a list, or the one.
pub(super) fn resources(value: &Value) -> Vec<&Value> {
    match value.get("items").and_then(Value::as_array) {
        Some(items) => items.iter().collect(),
        None => vec![value],
    }
}

/// What was found as templates see it: with the members that JSON leaves out when they are false or zero, but that a
/// template may print.
pub(super) fn for_template(kind: KindName, found: &Value) -> Value {
    let (switches, numbers): (&[&str], &[&str]) = match kind {
        KindName::IPPool => (&["natOutgoing", "disabled", "disableBGPExport"], &[]),
        KindName::GlobalNetworkPolicy | KindName::StagedGlobalNetworkPolicy => {
            (&["doNotTrack", "preDNAT", "applyOnForward"], &[])
        }
        KindName::BGPPeer => (&["keepOriginalNextHop"], &["asNumber"]),
        _ => (&[], &[]),
    };
    let complete = |value: &mut Value| {
        if let Some(spec) = value.get_mut("spec").and_then(Value::as_object_mut) {
            for name in switches {
                spec.entry(*name).or_insert(Value::Bool(false));
            }
            for name in numbers {
                spec.entry(*name).or_insert(json!(0));
            }
        }
    };
    let mut found = found.clone();
    match found.get_mut("items").and_then(Value::as_array_mut) {
        Some(items) => items.iter_mut().for_each(complete),
        None => complete(&mut found),
    }
    found
}

/// A YAML document.
pub(super) fn yaml(value: &Value) -> String {
    let mut text = serde_saphyr::to_string(value).expect("a JSON value can be written as YAML");
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// A JSON document.
pub(super) fn json(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("a JSON value can be written");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Texts that YAML reads as something else if they stand there without quotes.
    const ODD: &[&str] = &[
        "yes",
        "No",
        "on",
        "off",
        "y",
        "N",
        "true",
        "null",
        "~",
        "",
        " ",
        "1",
        "-1",
        "1.5",
        "1e3",
        ".5",
        "0x1f",
        "0o7",
        "010",
        "1_000",
        "1:30",
        "190:20:30",
        ".inf",
        ".nan",
        "2001-12-14",
        "2001-12-14t21:59:43.10-05:00",
        "-",
        "- a",
        "a: b",
        "a:",
        ":a",
        "#",
        "a #b",
        "a#b",
        "[",
        "{a}",
        "!a",
        "&a",
        "*a",
        "|",
        ">",
        "%a",
        "@a",
        "`a",
        "'",
        "\"",
        "a'b",
        "a\"b",
        "\\n",
        "a\nb",
        "\n",
        "a\n",
        " a",
        "a ",
        "\t",
        "a\tb",
        "\u{85}",
        "\u{2028}",
        "\u{feff}",
        "ü",
        "=",
        "<<",
        "?",
        "? a",
        "---",
        "...",
        "--- a",
        "a\r\nb",
        "\u{7f}",
        "\u{0}",
    ];

    #[test]
    fn yaml_is_read_as_what_was_written() {
        let mut state: u64 = 20_261_124;
        let mut random = |below: usize| {
            // Knuth's linear congruential generator; good enough to mix.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap() % below
        };
        let mut texts: Vec<String> = ODD.iter().map(|text| (*text).to_owned()).collect();
        for _ in 0..3000 {
            let parts = 1 + random(3);
            texts.push((0..parts).map(|_| ODD[random(ODD.len())]).collect());
        }
        for text in texts {
            let value = json!({ "a": text, "list": [text, { "b": text }], "c": { "d": text } });
            let printed = yaml(&value);
            let read = input::documents(&printed).map(|mut documents| documents.pop());
            assert_eq!(read.unwrap_or_default(), Some(value), "{text:?} was printed as\n{printed}");
        }
    }
}
